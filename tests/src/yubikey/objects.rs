//! GET DATA and PUT DATA: the card's files.

use super::apdu::{Answer, Command, Status};
use super::session::Session;
use super::state::State;
use super::tlv::{self, Tlv};

const NAME: u16 = 0x5c;
const CONTENT: u16 = 0x53;
const DISCOVERY: u32 = 0x7e;
/// What all hold together (a YubiKey 5 has about 51 KB).
const ALL: usize = 51_200;
/// Printed information, fingerprints, face and iris are read with the PIN only (SP 800-73-4 part 1, table 2).
const WITH_PIN: [u32; 4] = [0x5f_c103, 0x5f_c108, 0x5f_c109, 0x5f_c121];

/// GET DATA: 5C names the object; the answer is 53 and its content.
pub(super) fn get(state: &State, session: &Session, command: &Command) -> Answer {
    let (name, rest) = named(command)?;
    if !rest.is_empty() {
        return Err(Status::WRONG_DATA);
    }
    if name == DISCOVERY {
        // The application's identifier, and the policy that the PIV PIN alone is used.
        let mut discovery = tlv::write(
            0x4f,
            &[
                0xa0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00,
            ],
        );
        discovery.extend(tlv::write(0x5f2f, &[0x40, 0x00]));
        return Ok(tlv::write(0x7e, &discovery));
    }
    if WITH_PIN.contains(&name) && !session.pin {
        return Err(Status::SECURITY_STATUS);
    }
    state
        .objects
        .get(&name)
        .map(|content| tlv::write(CONTENT, content))
        .ok_or(Status::NOT_FOUND)
}

/// PUT DATA: 5C names the object, 53 is its content; an empty one removes it.
pub(super) fn put(state: &mut State, session: &Session, command: &Command) -> Answer {
    if !session.management {
        return Err(Status::SECURITY_STATUS);
    }
    let (name, rest) = named(command)?;
    let Some((
        Tlv {
            tag: CONTENT,
            value,
        },
        [],
    )) = tlv::read(rest)
    else {
        return Err(Status::WRONG_DATA);
    };
    if !matches!(name, 0x5f_c100..=0x5f_c1ff | 0x5f_ff00..=0x5f_ffff) {
        return Err(Status::NOT_FOUND);
    }
    let others: usize = state
        .objects
        .iter()
        .filter(|(id, _)| **id != name)
        .map(|(_, content)| content.len())
        .sum();
    if others + value.len() > ALL {
        return Err(Status::NO_SPACE);
    }
    if value.is_empty() {
        state.objects.remove(&name);
    } else {
        state.objects.insert(name, value.to_vec());
    }
    Ok(Vec::new())
}

fn named(command: &Command) -> Result<(u32, &[u8]), Status> {
    if (command.p1, command.p2) != (0x3f, 0xff) {
        return Err(Status::WRONG_PARAMETERS);
    }
    let Some((Tlv { tag: NAME, value }, rest)) = tlv::read(&command.data) else {
        return Err(Status::WRONG_DATA);
    };
    if value.is_empty() || value.len() > 3 {
        return Err(Status::WRONG_DATA);
    }
    Ok((
        value
            .iter()
            .fold(0, |name, &byte| name << 8 | u32::from(byte)),
        rest,
    ))
}
