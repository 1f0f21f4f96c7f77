//! PIN and PUK: VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER, SET PIN RETRIES, RESET.

use super::apdu::{Answer, Command, Status};
use super::session::Session;
use super::state::{Reference, State};

const PIN: u8 = 0x80;
const PUK: u8 = 0x81;

/// VERIFY. Without data it asks for the tries that are left; P1 of FF takes the verification back.
pub(super) fn verify(state: &mut State, session: &mut Session, command: &Command) -> Answer {
    if command.p2 != PIN {
        return Err(Status::REFERENCE_NOT_FOUND);
    }
    match (command.p1, command.data.as_slice()) {
        (0xff, []) => {
            session.forget_pin();
            Ok(Vec::new())
        }
        (0x00, []) if session.pin => Ok(Vec::new()),
        (0x00, []) => Err(wrong(&state.pin)),
        (0x00, data) => {
            let value = data.try_into().map_err(|_| Status::WRONG_DATA)?;
            check(&mut state.pin, &value).inspect_err(|_| session.forget_pin())?;
            session.pin_verified();
            Ok(Vec::new())
        }
        _ => Err(Status::WRONG_PARAMETERS),
    }
}

/// CHANGE REFERENCE DATA: old and new, eight bytes each.
pub(super) fn change_reference(
    state: &mut State,
    session: &mut Session,
    command: &Command,
) -> Answer {
    let (old, new) = two(command)?;
    match command.p2 {
        PIN => {
            check(&mut state.pin, &old).inspect_err(|_| session.forget_pin())?;
            state.pin = Reference::new(acceptable(new)?, state.pin.tries);
        }
        PUK => {
            check(&mut state.puk, &old)?;
            state.puk = Reference::new(acceptable(new)?, state.puk.tries);
        }
        _ => return Err(Status::REFERENCE_NOT_FOUND),
    }
    Ok(Vec::new())
}

/// RESET RETRY COUNTER: the PUK gives the PIN a new value and all its tries.
pub(super) fn reset_retry(state: &mut State, session: &mut Session, command: &Command) -> Answer {
    if command.p2 != PIN {
        return Err(Status::REFERENCE_NOT_FOUND);
    }
    let (puk, pin) = two(command)?;
    check(&mut state.puk, &puk)?;
    state.pin = Reference::new(acceptable(pin)?, state.pin.tries);
    session.forget_pin();
    Ok(Vec::new())
}

/// SET PIN RETRIES: with management key and PIN; both references go back to their defaults.
pub(super) fn set_retries(state: &mut State, session: &mut Session, command: &Command) -> Answer {
    if !session.management || !session.pin {
        return Err(Status::SECURITY_STATUS);
    }
    if command.p1 == 0 || command.p2 == 0 {
        return Err(Status::WRONG_PARAMETERS);
    }
    state.pin = Reference::new(Reference::DEFAULT_PIN, command.p1);
    state.puk = Reference::new(Reference::DEFAULT_PUK, command.p2);
    session.forget_pin();
    Ok(Vec::new())
}

/// RESET: only when no tries of PIN and PUK are left.
pub(super) fn reset(state: &mut State, session: &mut Session) -> Answer {
    if state.pin.left > 0 || state.puk.left > 0 {
        return Err(Status::CONDITIONS_NOT_SATISFIED);
    }
    state.reset();
    *session = Session::default();
    Ok(Vec::new())
}

fn check(reference: &mut Reference, value: &[u8; 8]) -> Result<(), Status> {
    if reference.left == 0 {
        return Err(Status::BLOCKED);
    }
    if reference.matches(value) {
        Ok(())
    } else {
        Err(wrong(reference))
    }
}

fn wrong(reference: &Reference) -> Status {
    if reference.left == 0 {
        Status::BLOCKED
    } else {
        Status::tries_left(reference.left)
    }
}

fn two(command: &Command) -> Result<([u8; 8], [u8; 8]), Status> {
    if command.p1 != 0 {
        return Err(Status::WRONG_PARAMETERS);
    }
    let (first, second) = command
        .data
        .split_first_chunk::<8>()
        .ok_or(Status::WRONG_DATA)?;
    Ok((*first, second.try_into().map_err(|_| Status::WRONG_DATA)?))
}

/// Six to eight bytes, then FF to the end.
fn acceptable(value: [u8; 8]) -> Result<[u8; 8], Status> {
    let length = value
        .iter()
        .position(|&byte| byte == 0xff)
        .unwrap_or(value.len());
    let padded = value.iter().skip(length).all(|&byte| byte == 0xff);
    if length >= 6 && padded {
        Ok(value)
    } else {
        Err(Status::WRONG_DATA)
    }
}
