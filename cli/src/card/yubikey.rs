//! A real YubiKey through pcscd. The only file that names `yubikey::` and `pcsc::`.

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
use std::{ffi::CString, fs, path::Path};
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
        let tells = self.tells_metadata();
        if tells {
            match piv::metadata(self.device()?, id) {
                Ok(data) if data.origin == Some(piv::Origin::Imported) => {
                    return Err(CardError::NotAttestable(slot));
                }
                Err(YkError::NotFound) => return Err(CardError::NoKey(slot)),
                // What it cannot say of the key, it may still attest.
                Ok(_) | Err(_) => {}
            }
        }
        match piv::attest(self.device()?, id) {
            Ok(certificate) => Ok(certificate.to_vec()),
            Err(YkError::NotSupported) => Err(self.unsupported("attestation")),
            Err(YkError::GenericError) if tells => Err(CardError::NotAttestable(slot)),
            Err(YkError::GenericError) => Err(CardError::NoKey(slot)),
            Err(error) => Err(other(error)),
        }
    }

    fn attestation_certificate(&mut self) -> Result<Vec<u8>, CardError> {
        read_certificate(self.device()?, SlotId::Attestation)?.ok_or(CardError::Malformed(
            "it has no certificate for its attestation key (slot f9)",
        ))
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
}

/// GENERAL AUTHENTICATE with command chaining (NIST SP 800-73-4 part 2, 3.2.4): what a slot signs of `input`.
fn general_authenticate(
    transaction: &pcsc::Transaction<'_>,
    algorithm: u8,
    slot: u8,
    input: &[u8],
) -> Result<Vec<u8>, CardError> {
    const TOO_LONG: CardError = CardError::Malformed("the message is too long for it");
    let mut template = vec![0x82, 0x00];
    push_tlv(&mut template, 0x81, input).ok_or(TOO_LONG)?;
    let mut data = Vec::with_capacity(template.len() + 4);
    push_tlv(&mut data, 0x7c, &template).ok_or(TOO_LONG)?;

    let mut answer = Vec::new();
    let mut chunks = data.chunks(255).peekable();
    let mut command = Vec::with_capacity(261);
    let mut status = [0u8; 2];
    while let Some(chunk) = chunks.next() {
        let class = if chunks.peek().is_some() { 0x10 } else { 0x00 };
        let length = u8::try_from(chunk.len()).map_err(|_| TOO_LONG)?;
        command.clear();
        command.extend_from_slice(&[class, 0x87, algorithm, slot, length]);
        command.extend_from_slice(chunk);
        status = transmit(transaction, &command, &mut answer)?;
        if !matches!(status, [0x90 | 0x61, _]) {
            break;
        }
    }
    while let [0x61, more] = status {
        status = transmit(transaction, &[0x00, 0xc0, 0x00, 0x00, more], &mut answer)?;
    }
    match status {
        [0x90, 0x00] => {}
        [0x69, 0x82] => return Err(CardError::NotAllowed),
        [high, low] => {
            return Err(CardError::Pcsc(format!(
                "signing failed with status {high:02x}{low:02x}"
            )));
        }
    }
    tlv(&answer, 0x7c)
        .and_then(|inner| tlv(inner, 0x82))
        .map(<[u8]>::to_vec)
        .ok_or(CardError::Malformed("the signature"))
}

fn transmit(
    transaction: &pcsc::Transaction<'_>,
    command: &[u8],
    answer: &mut Vec<u8>,
) -> Result<[u8; 2], CardError> {
    let mut buffer = [0u8; pcsc::MAX_BUFFER_SIZE];
    let received = transaction
        .transmit(command, &mut buffer)
        .map_err(pcsc_error)?;
    let (data, status) = received
        .split_last_chunk::<2>()
        .ok_or(CardError::Malformed("an answer without a status"))?;
    answer.extend_from_slice(data);
    Ok(*status)
}

/// Appends a BER-TLV of one tag byte and at most 65535 bytes of value.
fn push_tlv(out: &mut Vec<u8>, tag: u8, value: &[u8]) -> Option<()> {
    let length = u16::try_from(value.len()).ok()?;
    let [high, low] = length.to_be_bytes();
    out.push(tag);
    match length {
        0..0x80 => out.push(low),
        0x80..0x100 => out.extend_from_slice(&[0x81, low]),
        0x100.. => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(value);
    Some(())
}

/// The value of the BER-TLV that `bytes` are, if its tag is `tag` and nothing follows.
fn tlv(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (length, value) = match rest {
        [length @ 0..=0x7f, value @ ..] => (usize::from(*length), value),
        [0x81, length, value @ ..] => (usize::from(*length), value),
        [0x82, high, low, value @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), value),
        _ => return None,
    };
    (value.len() == length).then_some(value)
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

fn puk_error(error: YkError, new: &'static str) -> CardError {
    match error {
        YkError::PinLocked | YkError::WrongPin { tries: 0 } => CardError::PukLocked,
        YkError::WrongPin { tries } => CardError::WrongPuk { tries_left: tries },
        YkError::GenericError => CardError::NewSecretRefused(new),
        error => other(error),
    }
}

fn other(error: YkError) -> CardError {
    translate(error, Some(CardError::Removed))
}

/// `gone` is what a missing card means: nothing is there yet, or it was there and is no more.
fn translate(error: YkError, gone: Option<CardError>) -> CardError {
    use pcsc::Error as P;
    match error {
        YkError::PcscError { inner: Some(inner) } => match inner {
            P::NoReadersAvailable => gone.unwrap_or_else(nothing_found),
            P::NoService | P::ServiceStopped => CardError::NoService {
                installed: ["/usr/sbin/pcscd", "/usr/bin/pcscd", "/sbin/pcscd"]
                    .iter()
                    .any(|path| Path::new(path).exists()),
            },
            P::RemovedCard
            | P::ResetCard
            | P::NoSmartcard
            | P::UnpoweredCard
            | P::UnknownReader
            | P::ReaderUnavailable
            | P::UnresponsiveCard
            | P::CommError
            | P::CommDataLost
            | P::NotTransacted
            | P::InvalidHandle => gone.unwrap_or(CardError::NoCard),
            P::SharingViolation => CardError::Busy { holder: holder() },
            inner => CardError::Pcsc(inner.to_string()),
        },
        YkError::PinLocked => CardError::PinLocked,
        YkError::AuthenticationError => CardError::NotAllowed,
        error => CardError::Pcsc(error.to_string()),
    }
}

fn pcsc_error(error: pcsc::Error) -> CardError {
    other(YkError::PcscError { inner: Some(error) })
}

/// No reader shows a YubiKey. When one is on the USB bus all the same, another program took it from pcscd.
fn nothing_found() -> CardError {
    let on_the_bus = fs::read_dir("/sys/bus/usb/devices")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|device| fs::read_to_string(device.path().join("idVendor")).ok())
        .any(|vendor| vendor.trim() == "1050");
    match holder() {
        Some(name) if on_the_bus => CardError::Busy { holder: Some(name) },
        Some(_) | None => CardError::NoCard,
    }
}

/// The first running program that is known to take YubiKeys for itself.
fn holder() -> Option<String> {
    const KNOWN: [&str; 5] = [
        "scdaemon",
        "ykman",
        "ykman-gui",
        "yubikey-agent",
        "pkcs11-tool",
    ];
    let running: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| fs::read_to_string(process.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    KNOWN
        .iter()
        .find(|known| running.iter().any(|name| name == *known))
        .map(|known| (*known).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_encoded_as_the_card_reads_them() {
        for length in [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x100, 0x101, 3000] {
            let mut out = Vec::new();
            push_tlv(&mut out, 0x81, &vec![7; length]).unwrap();
            assert_eq!(tlv(&out, 0x81).map(<[u8]>::len), Some(length), "{length}");
        }
    }

    #[test]
    fn a_cut_or_padded_answer_is_not_a_signature() {
        let mut out = Vec::new();
        push_tlv(&mut out, 0x82, &[1, 2, 3]).unwrap();
        assert_eq!(tlv(&out, 0x7c), None);
        out.push(0);
        assert_eq!(tlv(&out, 0x82), None);
        assert_eq!(tlv(&[0x82], 0x82), None);
        assert_eq!(tlv(&[0x82, 0x82, 0x01], 0x82), None);
    }

    #[test]
    fn a_missing_service_is_told_from_a_missing_card() {
        let service = YkError::PcscError {
            inner: Some(pcsc::Error::NoService),
        };
        assert!(matches!(other(service), CardError::NoService { .. }));
        let removed = YkError::PcscError {
            inner: Some(pcsc::Error::RemovedCard),
        };
        assert_eq!(other(removed), CardError::Removed);
    }
}
