//! Keys into slots: GENERATE, IMPORT, MOVE and DELETE.

use super::apdu::{Answer, Command, Status};
use super::keys::{Algorithm, PrivateKey};
use super::session::Session;
use super::slot::Slot;
use super::state::{Origin, PinPolicy, SlotKey, State, TouchPolicy};
use super::tlv::{self, Tlv};

const ALGORITHM: u16 = 0x80;
const PIN_POLICY: u16 = 0xaa;
const TOUCH_POLICY: u16 = 0xab;

/// GENERATE ASYMMETRIC KEY PAIR: P2 is the slot; data: AC { 80 algorithm, AA PIN policy, AB touch policy }.
pub(super) fn generate(state: &mut State, session: &Session, command: &Command) -> Answer {
    let slot = slot(command.p2)?;
    if command.p1 != 0 {
        return Err(Status::WRONG_PARAMETERS);
    }
    authenticated(session)?;
    let fields = match tlv::read(&command.data) {
        Some((Tlv { tag: 0xac, value }, [])) => tlv::read_all(value).ok_or(Status::WRONG_DATA)?,
        _ => return Err(Status::WRONG_DATA),
    };
    let [identifier] = tlv::find(&fields, ALGORITHM).ok_or(Status::WRONG_DATA)? else {
        return Err(Status::WRONG_DATA);
    };
    let algorithm = Algorithm::new(*identifier, state.firmware).ok_or(Status::WRONG_DATA)?;
    let (pin, touch) = policies(&fields, slot)?;
    let private = PrivateKey::generate(algorithm);
    let public = tlv::write(0x7f49, &private.public_template());
    state.keys.insert(
        slot,
        SlotKey {
            private,
            origin: Origin::Generated,
            pin,
            touch,
        },
    );
    Ok(public)
}

/// IMPORT ASYMMETRIC KEY: P1 is the algorithm, P2 the slot; data: the numbers of the key, then policies.
pub(super) fn import(state: &mut State, session: &Session, command: &Command) -> Answer {
    let slot = slot(command.p2)?;
    authenticated(session)?;
    let algorithm = Algorithm::new(command.p1, state.firmware).ok_or(Status::WRONG_DATA)?;
    let fields = tlv::read_all(&command.data).ok_or(Status::WRONG_DATA)?;
    let number = |tag| tlv::find(&fields, tag).ok_or(Status::WRONG_DATA);
    let private = match algorithm {
        Algorithm::Rsa1024 | Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
            PrivateKey::from_primes(algorithm, number(0x01)?, number(0x02)?)
        }
        Algorithm::P256 | Algorithm::P384 => PrivateKey::from_scalar(algorithm, number(0x06)?),
        Algorithm::Ed25519 => PrivateKey::from_scalar(algorithm, number(0x07)?),
        Algorithm::X25519 => PrivateKey::from_scalar(algorithm, number(0x08)?),
    };
    let private = private.map_err(|_| Status::WRONG_DATA)?;
    let (pin, touch) = policies(&fields, slot)?;
    state.keys.insert(
        slot,
        SlotKey {
            private,
            origin: Origin::Imported,
            pin,
            touch,
        },
    );
    Ok(Vec::new())
}

/// MOVE KEY: from the slot in P2 to that in P1, which is empty; or away, where P1 is FF.
pub(super) fn move_key(state: &mut State, session: &Session, command: &Command) -> Answer {
    let from = slot(command.p2)?;
    let to = if command.p1 == 0xff {
        None
    } else {
        Some(slot(command.p1)?)
    };
    authenticated(session)?;
    if to.is_some_and(|to| {
        to == Slot::ATTESTATION || from == Slot::ATTESTATION || state.keys.contains_key(&to)
    }) {
        return Err(Status::WRONG_DATA);
    }
    let key = state
        .keys
        .remove(&from)
        .ok_or(Status::REFERENCE_NOT_FOUND)?;
    if let Some(to) = to {
        state.keys.insert(to, key);
    }
    Ok(Vec::new())
}

fn slot(reference: u8) -> Result<Slot, Status> {
    Slot::new(reference).ok_or(Status::WRONG_SLOT)
}

fn authenticated(session: &Session) -> Result<(), Status> {
    if session.management {
        Ok(())
    } else {
        Err(Status::SECURITY_STATUS)
    }
}

/// The policies given, or those of the slot: 9c asks the PIN always, 9e never, others once; no touch.
fn policies(fields: &[Tlv<'_>], slot: Slot) -> Result<(PinPolicy, TouchPolicy), Status> {
    let byte = |tag| match tlv::find(fields, tag) {
        None => Ok(0),
        Some([policy]) => Ok(*policy),
        Some(_) => Err(Status::WRONG_DATA),
    };
    let pin = match byte(PIN_POLICY)? {
        0 if slot == Slot::SIGNATURE => PinPolicy::Always,
        0 if slot == Slot::CARD_AUTHENTICATION || slot == Slot::ATTESTATION => PinPolicy::Never,
        0 | 2 => PinPolicy::Once,
        1 => PinPolicy::Never,
        3 => PinPolicy::Always,
        _ => return Err(Status::WRONG_DATA),
    };
    let touch = match byte(TOUCH_POLICY)? {
        0 | 1 => TouchPolicy::Never,
        2 => TouchPolicy::Always,
        3 => TouchPolicy::Cached,
        _ => return Err(Status::WRONG_DATA),
    };
    Ok((pin, touch))
}
