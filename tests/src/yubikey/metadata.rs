//! GET METADATA: what the card says of its PIN, its PUK, its management key and its slots.

use super::apdu::{Answer, Command, Status};
use super::slot::Slot;
use super::state::{Reference, State};
use super::tlv;

const ALGORITHM: u16 = 0x01;
const POLICY: u16 = 0x02;
const ORIGIN: u16 = 0x03;
const PUBLIC_KEY: u16 = 0x04;
const IS_DEFAULT: u16 = 0x05;
const RETRIES: u16 = 0x06;

/// GET METADATA (developers.yubico.com/PIV/Introduction/Yubico_extensions.html): P2 is the reference.
pub(super) fn get(state: &State, command: &Command) -> Answer {
    if command.p1 != 0 {
        return Err(Status::WRONG_PARAMETERS);
    }
    match command.p2 {
        0x80 => Ok(of_reference(&state.pin, Reference::DEFAULT_PIN)),
        0x81 => Ok(of_reference(&state.puk, Reference::DEFAULT_PUK)),
        0x9b => {
            let key = &state.management;
            Ok([
                tlv::write(ALGORITHM, &[key.algorithm as u8]),
                tlv::write(POLICY, &[0, key.touch as u8]),
                tlv::write(IS_DEFAULT, &[u8::from(key.is_default())]),
            ]
            .concat())
        }
        slot => {
            let slot = Slot::new(slot).ok_or(Status::REFERENCE_NOT_FOUND)?;
            let key = state.keys.get(&slot).ok_or(Status::REFERENCE_NOT_FOUND)?;
            Ok([
                tlv::write(ALGORITHM, &[key.private.algorithm() as u8]),
                tlv::write(POLICY, &[key.pin as u8, key.touch as u8]),
                tlv::write(ORIGIN, &[key.origin as u8]),
                tlv::write(PUBLIC_KEY, &key.private.public_template()),
            ]
            .concat())
        }
    }
}

fn of_reference(reference: &Reference, default: [u8; 8]) -> Vec<u8> {
    [
        tlv::write(ALGORITHM, &[0xff]),
        tlv::write(IS_DEFAULT, &[u8::from(reference.value == default)]),
        tlv::write(RETRIES, &[reference.tries, reference.left]),
    ]
    .concat()
}
