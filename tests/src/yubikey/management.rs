//! The management and OTP applications, as far as clients ask them who the card is.

use super::apdu::{Answer, Command, Status};
use super::attestation::FORM_FACTOR;
use super::state::State;
use super::tlv;

/// PIV, and no other application.
const CAPABILITIES: [u8; 2] = [0x00, 0x10];

/// READ CONFIG, the one command of the management application that is answered: P1 is the page.
pub(super) fn management(state: &State, command: &Command) -> Answer {
    match (command.instruction, command.p1) {
        (0x1d, 0) => {
            let info = [
                tlv::write(0x01, &CAPABILITIES),
                tlv::write(0x02, &state.serial.to_be_bytes()),
                tlv::write(0x03, &CAPABILITIES),
                tlv::write(0x04, &[FORM_FACTOR]),
                tlv::write(0x05, &state.firmware.0),
                tlv::write(0x06, &[0, 0]),
                tlv::write(0x07, &[15]),
                tlv::write(0x08, &[0]),
                tlv::write(0x0a, &[0]),
            ]
            .concat();
            let mut answer = vec![u8::try_from(info.len()).map_err(|_| Status::INTERNAL)?];
            answer.extend(info);
            Ok(answer)
        }
        (0x1d, _) => Err(Status::WRONG_PARAMETERS),
        _ => Err(Status::UNKNOWN_INSTRUCTION),
    }
}

/// The OTP application tells the serial number: the way of firmware 4.
pub(super) fn otp(state: &State, command: &Command) -> Answer {
    match (command.instruction, command.p1) {
        (0x01, 0x10) => Ok(state.serial.to_be_bytes().to_vec()),
        (0x03, _) => Ok(otp_status(state)),
        _ => Err(Status::UNKNOWN_INSTRUCTION),
    }
}

/// Version, programming sequence of zero, no slot configured.
pub(super) fn otp_status(state: &State) -> Vec<u8> {
    let mut status = state.firmware.0.to_vec();
    status.extend([0, 0, 0]);
    status
}
