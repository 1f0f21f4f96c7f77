//! What a slot's attestation certificate says, in its subject and in Yubico's extensions
//! (<https://developers.yubico.com/PIV/Introduction/PIV_attestation.html>).

use super::{AttestationError, Firmware, FormFactor, PinPolicy, Slot, TouchPolicy};
use crate::{
    oid,
    x509::{self, Certificate},
};
use const_oid::ObjectIdentifier;
use der::Decode as _;

/// The facts of one attestation.
pub(super) struct Facts {
    pub(super) serial: u32,
    pub(super) firmware: Firmware,
    pub(super) slot: Slot,
    pub(super) pin_policy: PinPolicy,
    pub(super) touch_policy: TouchPolicy,
    pub(super) form_factor: Option<FormFactor>,
}

impl Facts {
    /// Reads them strictly: what is absent is a refusal, never a zero. That no extension stands there twice was checked
    /// when the certificate was read.
    pub(super) fn read(slot: &Certificate<'_>) -> Result<Self, AttestationError> {
        let firmware = match required(slot, oid::YUBICO_FIRMWARE, "firmware version")? {
            &[major, minor, patch] => Firmware {
                major,
                minor,
                patch,
            },
            _ => return Err(AttestationError::Extension("firmware version")),
        };
        let serial = required(slot, oid::YUBICO_SERIAL, "serial number")?;
        let serial =
            u32::from_der(serial).map_err(|_| AttestationError::Extension("serial number"))?;
        let &[pin, touch] = required(slot, oid::YUBICO_POLICIES, "PIN and touch policy")? else {
            return Err(AttestationError::Extension("PIN and touch policy"));
        };
        let form_factor = match slot.extension(oid::YUBICO_FORM_FACTOR) {
            None => None,
            Some(extension) => match extension.value {
                &[form_factor] => Some(FormFactor(form_factor)),
                _ => return Err(AttestationError::Extension("form factor")),
            },
        };
        Ok(Self {
            serial,
            firmware,
            slot: slot_of(slot).ok_or(AttestationError::Slot)?,
            pin_policy: pin_policy(pin).ok_or(AttestationError::Extension("PIN policy"))?,
            touch_policy: touch_policy(touch).ok_or(AttestationError::Extension("touch policy"))?,
            form_factor,
        })
    }
}

/// Whether a certificate says of itself that it attests a slot's key.
pub(super) fn attests_a_slot(certificate: &Certificate<'_>) -> bool {
    certificate.extension(oid::YUBICO_POLICIES).is_some()
        || certificate.extension(oid::YUBICO_SERIAL).is_some()
}

fn required<'a>(
    slot: &Certificate<'a>,
    oid: ObjectIdentifier,
    name: &'static str,
) -> Result<&'a [u8], AttestationError> {
    slot.extension(oid)
        .map(|extension| extension.value)
        .ok_or(AttestationError::Missing(name))
}

const fn pin_policy(number: u8) -> Option<PinPolicy> {
    match number {
        1 => Some(PinPolicy::Never),
        2 => Some(PinPolicy::Once),
        3 => Some(PinPolicy::Always),
        4 => Some(PinPolicy::MatchOnce),
        5 => Some(PinPolicy::MatchAlways),
        _ => None,
    }
}

const fn touch_policy(number: u8) -> Option<TouchPolicy> {
    match number {
        1 => Some(TouchPolicy::Never),
        2 => Some(TouchPolicy::Always),
        3 => Some(TouchPolicy::Cached),
        _ => None,
    }
}

/// The slot, from a subject that is exactly `CN=YubiKey PIV Attestation 9a`.
fn slot_of(certificate: &Certificate<'_>) -> Option<Slot> {
    let attributes = x509::attributes(certificate.subject).ok()?;
    let [name] = attributes.as_slice() else {
        return None;
    };
    if name.oid != x509::COMMON_NAME {
        return None;
    }
    name.text()?
        .strip_prefix("YubiKey PIV Attestation ")?
        .parse()
        .ok()
}
