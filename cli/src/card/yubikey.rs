//! A real YubiKey through pcscd. Here and in the two files below, and nowhere else, `yubikey::` and `pcsc::` are named.

mod apdu;
mod fault;

use super::{
    Algorithm, Card, CardError, KeySlot, ManagementAccess, Origin, SecretState, Secrets, SlotKey,
    ToSign,
};
use crate::pin::{Pin, Puk};
use ::yubikey::{
    Error as YkError, MgmAlgorithmId, MgmKey, PinPolicy as YkPin, TouchPolicy as YkTouch, YubiKey,
    certificate::Certificate,
    piv::{self, AlgorithmId, ManagementSlotId, SlotAlgorithmId, SlotId},
    reader::Context,
};
use apdu::general_authenticate;
use fault::{holder, nothing_found, other, pcsc_error, puk_error, translate};
use std::ffi::CString;
use touchstone_common::attestation::{Firmware, PinPolicy, TouchPolicy};
use x509_cert::der::Encode as _;
use zeroize::Zeroizing;

/// The log targets that print what goes to the card, PINs among it.
pub const SECRET_LOG_TARGETS: [&str; 2] = ["yubikey", "pcsc"];

/// The factory's management key (https://docs.yubico.com/yesdk/users-manual/application-piv/pin-puk-mgmt-key.html).
const FACTORY_MANAGEMENT_KEY: [u8; 24] = [
    1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8,
];
const FACTORY_PIN: &[u8] = b"123456";
const FACTORY_PUK: &[u8] = b"12345678";
/// The "printed information" object, which the card gives only after the PIN: where a protected management key is kept.
const PRINTED_OBJECT: u32 = 0x005f_c109;
/// GET METADATA came with this firmware.
const METADATA_SINCE: Firmware = Firmware {
    major: 5,
    minor: 3,
    patch: 0,
};
/// Ed25519 and X25519 came with this firmware.
const CURVE25519_SINCE: Firmware = Firmware {
    major: 5,
    minor: 7,
    patch: 0,
};

/// A connection to one YubiKey, shared with other programs between two commands.
#[derive(Debug)]
pub struct YubiKeyCard {
    device: Option<YubiKey>,
}

/// Opens the YubiKey with this serial number, or the only one there is.
///
/// # Errors
/// When there is none, more than one, or another program holds it.
pub fn open(serial: Option<u32>) -> Result<YubiKeyCard, CardError> {
    let mut context = Context::open().map_err(|error| translate(error, None))?;
    let mut found = Vec::new();
    let mut held_by_other = false;
    for reader in context.iter().map_err(|error| translate(error, None))? {
        match reader.open() {
            Ok(device) => found.push(YubiKeyCard {
                device: Some(device),
            }),
            Err(YkError::PcscError {
                inner: Some(pcsc::Error::SharingViolation),
            }) => held_by_other = true,
            // An empty reader, or a card that is no YubiKey.
            Err(error) => tracing::debug!(reader = %reader.name(), %error, "not usable"),
        }
    }
    let serials: Vec<u32> = found.iter().map(Card::serial).collect();
    if let Some(wanted) = serial {
        return match found.into_iter().find(|card| card.serial() == wanted) {
            Some(card) => Ok(card),
            None if held_by_other => Err(CardError::Busy { holder: holder() }),
            None if serials.is_empty() => Err(nothing_found()),
            None => Err(CardError::OtherSerial {
                wanted,
                found: serials,
            }),
        };
    }
    match (found.pop(), found.is_empty()) {
        (Some(card), true) => Ok(card),
        (Some(_), false) => Err(CardError::Several(serials)),
        (None, _) if held_by_other => Err(CardError::Busy { holder: holder() }),
        (None, _) => Err(nothing_found()),
    }
}

/// Opens every YubiKey that can be opened.
///
/// # Errors
/// When there is none.
pub fn open_all() -> Result<Vec<YubiKeyCard>, CardError> {
    match open(None) {
        Ok(card) => Ok(vec![card]),
        Err(CardError::Several(serials)) => serials.into_iter().map(|s| open(Some(s))).collect(),
        Err(error) => Err(error),
    }
}

impl Drop for YubiKeyCard {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            // The package's own drop would reset the card, and with it forget PIN and touch.
            if device.disconnect(pcsc::Disposition::LeaveCard).is_err() {
                tracing::debug!("the card was gone before it was let go");
            }
        }
    }
}

impl YubiKeyCard {
    fn device(&mut self) -> Result<&mut YubiKey, CardError> {
        self.device.as_mut().ok_or(CardError::Removed)
    }

    fn tells_metadata(&self) -> bool {
        self.firmware() >= METADATA_SINCE
    }

    fn secret_state(&mut self, slot: ManagementSlotId) -> Result<SecretState, CardError> {
        let data = piv::metadata(self.device()?, SlotId::Management(slot)).map_err(other)?;
        Ok(SecretState {
            factory: data.default,
            tries_left: data.retries.map(|retries| retries.remaining_count),
        })
    }

    fn management_algorithm(&mut self) -> Result<MgmAlgorithmId, CardError> {
        if !self.tells_metadata() {
            return Ok(MgmAlgorithmId::ThreeDes);
        }
        let slot = SlotId::Management(ManagementSlotId::Management);
        match piv::metadata(self.device()?, slot)
            .map_err(other)?
            .algorithm
        {
            SlotAlgorithmId::Management(algorithm) => Ok(algorithm),
            SlotAlgorithmId::Asymmetric(_) | SlotAlgorithmId::PinPuk => {
                Err(CardError::Malformed("the management key's algorithm"))
            }
        }
    }

    fn unsupported(&self, what: impl Into<String>) -> CardError {
        CardError::Unsupported {
            what: what.into(),
            firmware: self.firmware(),
        }
    }

    /// Whether the card is still there, by a command that changes nothing.
    fn answers(&mut self) -> bool {
        let pin = SlotId::Management(ManagementSlotId::Pin);
        self.device().is_ok_and(|device| {
            matches!(
                piv::metadata(device, pin),
                Ok(_) | Err(YkError::NotSupported | YkError::NotFound)
            )
        })
    }

    fn sign_once(&mut self, slot: KeySlot, what: &ToSign) -> Result<Vec<u8>, CardError> {
        let (bytes, algorithm): (&[u8], AlgorithmId) = match what {
            ToSign::Ed25519(message) => return self.sign_ed25519(slot, message),
            ToSign::P256(digest) => (digest, AlgorithmId::EccP256),
            ToSign::P384(digest) => (digest, AlgorithmId::EccP384),
            ToSign::Rsa(block) => {
                let algorithm = match block.len() {
                    256 => AlgorithmId::Rsa2048,
                    384 => AlgorithmId::Rsa3072,
                    512 => AlgorithmId::Rsa4096,
                    _ => return Err(self.unsupported("RSA keys of this size")),
                };
                (block, algorithm)
            }
        };
        piv::sign_data(self.device()?, bytes, algorithm, slot_id(slot)?)
            .map(|signature| signature.to_vec())
            .map_err(|error| match error {
                YkError::AuthenticationError => CardError::NotAllowed,
                error => other(error),
            })
    }

    /// Signs a message of any length with Ed25519. The yubikey package builds this command in a buffer that a request
    /// with its evidence does not fit into, so it is built here, over a second shared connection: what the PIN and
    /// the touch unlocked is the card's state, not the connection's.
    fn sign_ed25519(&mut self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, CardError> {
        let name = CString::new(self.device()?.name())
            .map_err(|_| CardError::Malformed("the reader's name"))?;
        let context = pcsc::Context::establish(pcsc::Scope::System).map_err(pcsc_error)?;
        let mut connection = context
            .connect(&name, pcsc::ShareMode::Shared, pcsc::Protocols::T1)
            .map_err(pcsc_error)?;
        let answer = connection
            .transaction()
            .map_err(pcsc_error)
            .and_then(|transaction| {
                general_authenticate(&transaction, 0xe0, slot.number(), message)
            });
        if connection.disconnect(pcsc::Disposition::LeaveCard).is_err() {
            tracing::debug!("the second connection was gone before it was let go");
        }
        answer
    }
}

impl Card for YubiKeyCard {
    fn serial(&self) -> u32 {
        self.device.as_ref().map_or(0, |device| device.serial().0)
    }

    fn firmware(&self) -> Firmware {
        let version = self.device.as_ref().map(YubiKey::version);
        version.map_or(
            Firmware {
                major: 0,
                minor: 0,
                patch: 0,
            },
            |v| Firmware {
                major: v.major,
                minor: v.minor,
                patch: v.patch,
            },
        )
    }

    fn key(&mut self, slot: KeySlot) -> Result<Option<SlotKey>, CardError> {
        if !self.tells_metadata() {
            // Older firmware tells of a key by attesting it; imported keys stay unseen but for their certificate.
            return match self.attest(slot) {
                Ok(certificate) => super::signer::key_of_attestation(&certificate).map(Some),
                Err(CardError::NoKey(_) | CardError::NotAttestable(_)) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let data = match piv::metadata(self.device()?, slot_id(slot)?) {
            Ok(data) => data,
            Err(YkError::NotFound) => return Ok(None),
            Err(error) => return Err(other(error)),
        };
        let SlotAlgorithmId::Asymmetric(algorithm) = data.algorithm else {
            return Err(CardError::Malformed("the slot's algorithm"));
        };
        let spki = data
            .public
            .map(|key| key.to_der())
            .transpose()
            .map_err(|_| CardError::Malformed("the slot's public key"))?;
        let (pin_policy, touch_policy) = data.policy.unzip();
        Ok(Some(SlotKey {
            algorithm: from_algorithm_id(algorithm),
            spki,
            pin_policy: pin_policy.and_then(from_pin_policy),
            touch_policy: touch_policy.and_then(from_touch_policy),
            origin: data.origin.map(|origin| match origin {
                piv::Origin::Generated => Origin::Generated,
                piv::Origin::Imported => Origin::Imported,
            }),
        }))
    }

    fn certificate(&mut self, slot: KeySlot) -> Result<Option<Vec<u8>>, CardError> {
        read_certificate(self.device()?, slot_id(slot)?)
    }

    fn attest(&mut self, slot: KeySlot) -> Result<Vec<u8>, CardError> {
        let id = slot_id(slot)?;
        match piv::attest(self.device()?, id) {
            Ok(certificate) => Ok(certificate.to_vec()),
            Err(YkError::NotSupported) => Err(self.unsupported("attestation")),
            // The card does not say why; whether there is a key tells.
            Err(YkError::GenericError) if self.tells_metadata() => {
                match piv::metadata(self.device()?, id) {
                    Err(YkError::NotFound) => Err(CardError::NoKey(slot)),
                    Ok(_) | Err(_) => Err(CardError::NotAttestable(slot)),
                }
            }
            Err(YkError::GenericError) => Err(CardError::NoKey(slot)),
            Err(error) => Err(other(error)),
        }
    }

    fn attestation_certificate(&mut self) -> Result<Vec<u8>, CardError> {
        read_certificate(self.device()?, SlotId::Attestation)?.ok_or(CardError::Malformed(
            "it has no certificate for its attestation key (slot f9)",
        ))
    }

    fn pin_state(&mut self) -> Result<SecretState, CardError> {
        if self.tells_metadata() {
            self.secret_state(ManagementSlotId::Pin)
        } else {
            Ok(SecretState::default())
        }
    }

    fn secrets(&mut self) -> Result<Secrets, CardError> {
        if !self.tells_metadata() {
            return Ok(Secrets::default());
        }
        let management = SlotId::Management(ManagementSlotId::Management);
        Ok(Secrets {
            pin: self.secret_state(ManagementSlotId::Pin)?,
            puk: self.secret_state(ManagementSlotId::Puk)?,
            management_key: SecretState {
                factory: piv::metadata(self.device()?, management)
                    .map_err(other)?
                    .default,
                tries_left: None,
            },
        })
    }

    fn verify_pin(&mut self, pin: &Pin) -> Result<(), CardError> {
        self.device()?
            .verify_pin(pin.expose())
            .map_err(|error| match error {
                YkError::PinLocked | YkError::WrongPin { tries: 0 } => CardError::PinLocked,
                YkError::WrongPin { tries } => CardError::WrongPin { tries_left: tries },
                error => other(error),
            })
    }

    fn change_pin(&mut self, current: Option<&Pin>, new: &Pin) -> Result<(), CardError> {
        let current = current.map_or(FACTORY_PIN, Pin::expose);
        self.device()?
            .change_pin(current, new.expose())
            .map_err(|error| match error {
                YkError::PinLocked | YkError::WrongPin { tries: 0 } => CardError::PinLocked,
                YkError::WrongPin { tries } => CardError::WrongPin { tries_left: tries },
                YkError::GenericError => CardError::NewSecretRefused("PIN"),
                error => other(error),
            })
    }

    fn change_puk(&mut self, current: Option<&Puk>, new: &Puk) -> Result<(), CardError> {
        let current = current.map_or(FACTORY_PUK, Puk::expose);
        self.device()?
            .change_puk(current, new.expose())
            .map_err(|error| puk_error(error, "PUK"))
    }

    fn unblock_pin(&mut self, puk: &Puk, new: &Pin) -> Result<(), CardError> {
        self.device()?
            .unblock_pin(puk.expose(), new.expose())
            .map_err(|error| puk_error(error, "PIN"))
    }

    fn authenticate(&mut self, access: &ManagementAccess) -> Result<(), CardError> {
        let key = match access {
            ManagementAccess::Factory => {
                let algorithm = self.management_algorithm()?;
                MgmKey::from_bytes(FACTORY_MANAGEMENT_KEY, Some(algorithm))
                    .map_err(|_| CardError::ManagementKeyRefused)?
            }
            ManagementAccess::Given(key) => {
                let algorithm = self.management_algorithm()?;
                MgmKey::from_bytes(key.expose(), Some(algorithm))
                    .map_err(|_| CardError::ManagementKeyRefused)?
            }
            ManagementAccess::PinProtected => {
                MgmKey::get_protected(self.device()?).map_err(|error| match error {
                    YkError::PcscError { .. } => other(error),
                    _ => CardError::NoProtectedManagementKey,
                })?
            }
        };
        self.device()?
            .authenticate(&key)
            .map_err(|error| match error {
                YkError::AuthenticationError | YkError::SizeError => {
                    CardError::ManagementKeyRefused
                }
                error => other(error),
            })
    }

    fn protect_management_key(&mut self) -> Result<(), CardError> {
        // As ykman does: the algorithm the card has, 24 bytes for 3DES and AES-192.
        let algorithm = self.management_algorithm()?;
        let length = match algorithm {
            MgmAlgorithmId::Aes128 => 16,
            MgmAlgorithmId::ThreeDes | MgmAlgorithmId::Aes192 => 24,
            MgmAlgorithmId::Aes256 => 32,
        };
        let mut bytes = Zeroizing::new(vec![0u8; length]);
        getrandom::fill(&mut bytes)
            .map_err(|_| CardError::Pcsc("the system has no random numbers".to_owned()))?;
        let key = MgmKey::from_bytes(&*bytes, Some(algorithm))
            .map_err(|_| CardError::Malformed("the management key's algorithm"))?;
        let device = self.device()?;
        if matches!(device.fetch_object(PRINTED_OBJECT), Err(YkError::NotFound)) {
            // Kept before it is in force: cut off in between, the old key still works and none is lost.
            let mut object = Zeroizing::new(vec![0x88, 0, 0x89, 0]);
            object.extend_from_slice(&bytes);
            // At most 32 bytes, so both lengths fit one byte.
            for (at, length) in [(1, length + 2), (3, length)] {
                if let (Some(byte), Ok(length)) = (object.get_mut(at), u8::try_from(length)) {
                    *byte = length;
                }
            }
            device
                .save_object(PRINTED_OBJECT, &mut object)
                .map_err(other)?;
        }
        key.set_protected(device).map_err(other)?;
        // The package only logs when it could not write one of the objects.
        self.authenticate(&ManagementAccess::PinProtected)
    }

    fn generate(
        &mut self,
        slot: KeySlot,
        algorithm: Algorithm,
        pin_policy: PinPolicy,
        touch_policy: TouchPolicy,
    ) -> Result<Vec<u8>, CardError> {
        let id = match algorithm {
            Algorithm::Ed25519 if self.firmware() < CURVE25519_SINCE => {
                return Err(self.unsupported("Ed25519 (5.7 and later do)"));
            }
            Algorithm::Ed25519 => AlgorithmId::Ed25519,
            Algorithm::P256 => AlgorithmId::EccP256,
            Algorithm::P384 => AlgorithmId::EccP384,
            Algorithm::Rsa(2048) => AlgorithmId::Rsa2048,
            Algorithm::Rsa(_) | Algorithm::X25519 => {
                return Err(self.unsupported(format!("{algorithm} for signing")));
            }
        };
        let pin = match pin_policy {
            PinPolicy::Always => YkPin::Always,
            PinPolicy::Never => YkPin::Never,
            PinPolicy::Once => YkPin::Once,
            PinPolicy::MatchAlways | PinPolicy::MatchOnce => {
                return Err(self.unsupported("a fingerprint policy"));
            }
        };
        let touch = match touch_policy {
            TouchPolicy::Always => YkTouch::Always,
            TouchPolicy::Cached => YkTouch::Cached,
            TouchPolicy::Never => YkTouch::Never,
        };
        let key =
            piv::generate(self.device()?, slot_id(slot)?, id, pin, touch).map_err(|error| {
                match error {
                    YkError::AuthenticationError => CardError::ManagementKeyRefused,
                    YkError::AlgorithmError | YkError::NotSupported => {
                        self.unsupported(format!("{algorithm} with these policies"))
                    }
                    error => other(error),
                }
            })?;
        key.to_der()
            .map_err(|_| CardError::Malformed("the new public key"))
    }

    fn write_certificate(
        &mut self,
        slot: KeySlot,
        certificate: Option<&[u8]>,
    ) -> Result<(), CardError> {
        let id = slot_id(slot)?;
        let device = self.device()?;
        match certificate {
            Some(der) => Certificate::from_bytes(der.to_vec()).and_then(|certificate| {
                certificate.write(device, id, ::yubikey::certificate::CertInfo::Uncompressed)
            }),
            None => Certificate::delete(device, id),
        }
        .map_err(|error| match error {
            YkError::AuthenticationError => CardError::ManagementKeyRefused,
            error => other(error),
        })
    }

    fn sign(&mut self, slot: KeySlot, what: &ToSign) -> Result<Vec<u8>, CardError> {
        self.sign_once(slot, what).map_err(|error| {
            // Pulled out in the middle of a command, its last word, cut off, can look like any refusal.
            if self.answers() {
                error
            } else {
                CardError::Removed
            }
        })
    }
}

fn read_certificate(device: &mut YubiKey, slot: SlotId) -> Result<Option<Vec<u8>>, CardError> {
    match Certificate::read(device, slot) {
        Ok(certificate) => certificate
            .cert
            .to_der()
            .map(Some)
            .map_err(|_| CardError::Malformed("a certificate")),
        Err(error @ YkError::PcscError { .. }) => Err(other(error)),
        // The package answers an empty and an unreadable object alike.
        Err(_) => Ok(None),
    }
}

fn slot_id(slot: KeySlot) -> Result<SlotId, CardError> {
    SlotId::try_from(slot.number()).map_err(|_| CardError::Malformed("the slot's number"))
}

fn from_algorithm_id(id: AlgorithmId) -> Algorithm {
    match id {
        AlgorithmId::Rsa1024 => Algorithm::Rsa(1024),
        AlgorithmId::Rsa2048 => Algorithm::Rsa(2048),
        AlgorithmId::Rsa3072 => Algorithm::Rsa(3072),
        AlgorithmId::Rsa4096 => Algorithm::Rsa(4096),
        AlgorithmId::EccP256 => Algorithm::P256,
        AlgorithmId::EccP384 => Algorithm::P384,
        AlgorithmId::Ed25519 => Algorithm::Ed25519,
        AlgorithmId::X25519 => Algorithm::X25519,
    }
}

fn from_pin_policy(policy: YkPin) -> Option<PinPolicy> {
    match policy {
        YkPin::Always => Some(PinPolicy::Always),
        YkPin::Default => None,
        YkPin::Never => Some(PinPolicy::Never),
        YkPin::Once => Some(PinPolicy::Once),
    }
}

fn from_touch_policy(policy: YkTouch) -> Option<TouchPolicy> {
    match policy {
        YkTouch::Always => Some(TouchPolicy::Always),
        YkTouch::Cached => Some(TouchPolicy::Cached),
        YkTouch::Default => None,
        YkTouch::Never => Some(TouchPolicy::Never),
    }
}
