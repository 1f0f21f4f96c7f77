//! GENERAL AUTHENTICATE: proving the management key, and using a private key. SET MANAGEMENT KEY.

use super::apdu::{Answer, Command, Status};
use super::keys::{Algorithm, random};
use super::management_key::{ManagementAlgorithm, ManagementKey};
use super::sensor::Sensor;
use super::session::{Challenge, Session};
use super::slot::Slot;
use super::state::{PinPolicy, State, TouchPolicy};
use super::tlv::{self, Tlv};

const MANAGEMENT: u8 = 0x9b;
const TEMPLATE: u16 = 0x7c;
const WITNESS: u16 = 0x80;
const CHALLENGE: u16 = 0x81;
const RESPONSE: u16 = 0x82;
const EXPONENTIATION: u16 = 0x85;

/// GENERAL AUTHENTICATE (SP 800-73-4 part 2, 3.2.4): P1 is the algorithm, P2 the key.
pub(super) fn general_authenticate<S: Sensor>(
    state: &State,
    session: &mut Session,
    sensor: &mut S,
    command: &Command,
) -> Answer {
    let fields = match tlv::read(&command.data) {
        Some((
            Tlv {
                tag: TEMPLATE,
                value,
            },
            [],
        )) => tlv::read_all(value).ok_or(Status::WRONG_DATA)?,
        _ => return Err(Status::WRONG_DATA),
    };
    if command.p2 == MANAGEMENT {
        // P1 of zero stands for triple DES (SP 800-78-4, table 6-2).
        let algorithm = ManagementAlgorithm::new(if command.p1 == 0 { 0x03 } else { command.p1 });
        if algorithm != Some(state.management.algorithm) {
            return Err(Status::WRONG_DATA);
        }
        return prove_management_key(&state.management, session, sensor, &fields);
    }
    use_private_key(state, session, sensor, command, &fields)
}

/// Mutual: empty witness, then witness and challenge. Single: empty challenge, then response.
fn prove_management_key<S: Sensor>(
    key: &ManagementKey,
    session: &mut Session,
    sensor: &mut S,
    fields: &[Tlv<'_>],
) -> Answer {
    let [witness, challenge, response] =
        [WITNESS, CHALLENGE, RESPONSE].map(|tag| tlv::find(fields, tag));
    let nonce: [u8; 16] = random();
    let nonce = nonce
        .get(..key.algorithm.block_length())
        .unwrap_or_default()
        .to_vec();
    let begun = session.challenge.take();
    match (witness, challenge, response) {
        (Some([]), None, None) => {
            let sealed = key.encrypt(&nonce).ok_or(Status::INTERNAL)?;
            session.challenge = Some(Challenge::Witness(nonce));
            Ok(tlv::write(TEMPLATE, &tlv::write(WITNESS, &sealed)))
        }
        (None, Some([]), None) => {
            let answer = tlv::write(TEMPLATE, &tlv::write(CHALLENGE, &nonce));
            session.challenge = Some(Challenge::Encrypt(nonce));
            Ok(answer)
        }
        (Some(witness), Some(challenge), _) => {
            let Some(Challenge::Witness(expected)) = begun else {
                return Err(Status::CONDITIONS_NOT_SATISFIED);
            };
            let sealed = key.encrypt(challenge).ok_or(Status::WRONG_DATA)?;
            if witness != expected {
                session.management = false;
                return Err(Status::SECURITY_STATUS);
            }
            touch(key.touch, session, sensor)?;
            session.management = true;
            Ok(tlv::write(TEMPLATE, &tlv::write(RESPONSE, &sealed)))
        }
        (None, None, Some(response)) => {
            let Some(Challenge::Encrypt(expected)) = begun else {
                return Err(Status::CONDITIONS_NOT_SATISFIED);
            };
            if key.encrypt(&expected).as_deref() != Some(response) {
                session.management = false;
                return Err(Status::SECURITY_STATUS);
            }
            touch(key.touch, session, sensor)?;
            session.management = true;
            Ok(Vec::new())
        }
        _ => Err(Status::WRONG_DATA),
    }
}

fn use_private_key<S: Sensor>(
    state: &State,
    session: &mut Session,
    sensor: &mut S,
    command: &Command,
    fields: &[Tlv<'_>],
) -> Answer {
    let slot = Slot::new(command.p2).ok_or(Status::WRONG_PARAMETERS)?;
    let key = state.keys.get(&slot).ok_or(Status::WRONG_DATA)?;
    if Algorithm::new(command.p1, state.firmware) != Some(key.private.algorithm()) {
        return Err(Status::WRONG_DATA);
    }
    let fresh = std::mem::take(&mut session.pin_fresh);
    let verified = match key.pin {
        PinPolicy::Never => true,
        PinPolicy::Once => session.pin,
        PinPolicy::Always => fresh,
    };
    if !verified {
        return Err(Status::SECURITY_STATUS);
    }
    touch(key.touch, session, sensor)?;
    let result = match (
        tlv::find(fields, CHALLENGE),
        tlv::find(fields, EXPONENTIATION),
    ) {
        (Some(input), None) => key.private.sign(input),
        (None, Some(peer)) => key.private.agree(peer),
        _ => return Err(Status::WRONG_DATA),
    };
    let result = result.map_err(|_| Status::WRONG_DATA)?;
    sensor.signed();
    Ok(tlv::write(TEMPLATE, &tlv::write(RESPONSE, &result)))
}

fn touch<S: Sensor>(
    policy: TouchPolicy,
    session: &mut Session,
    sensor: &mut S,
) -> Result<(), Status> {
    let needed = match policy {
        TouchPolicy::Never => false,
        TouchPolicy::Always => true,
        TouchPolicy::Cached => !session.touch_is_cached(sensor.now()),
    };
    if needed {
        if !sensor.wait_for_touch() {
            return Err(Status::SECURITY_STATUS);
        }
        session.touched(sensor.now());
    }
    Ok(())
}

/// SET MANAGEMENT KEY: P1 is FF, P2 the touch policy; data: algorithm, 9b, length, key.
pub(super) fn set_management_key(
    state: &mut State,
    session: &Session,
    command: &Command,
) -> Answer {
    let touch = match (command.p1, command.p2) {
        (0xff, 0xff) => TouchPolicy::Never,
        (0xff, 0xfe) => TouchPolicy::Always,
        (0xff, 0xfd) => TouchPolicy::Cached,
        _ => return Err(Status::WRONG_PARAMETERS),
    };
    if !session.management {
        return Err(Status::SECURITY_STATUS);
    }
    let [algorithm, MANAGEMENT, length, key @ ..] = command.data.as_slice() else {
        return Err(Status::WRONG_DATA);
    };
    if usize::from(*length) != key.len() {
        return Err(Status::WRONG_DATA);
    }
    state.management = ManagementAlgorithm::new(*algorithm)
        .filter(|algorithm| algorithm.known_to(state.firmware))
        .and_then(|algorithm| ManagementKey::new(algorithm, key, touch))
        .ok_or(Status::WRONG_DATA)?;
    Ok(Vec::new())
}
