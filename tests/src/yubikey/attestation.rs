//! ATTEST: certificates by which the card says what it knows of a key.
//!
//! The shape is Yubico's (developers.yubico.com/PIV/Introduction/PIV_attestation.html); the root is made with the card.

use super::apdu::{Answer, Status};
use super::keys::{Algorithm, PrivateKey, random};
use super::slot::Slot;
use super::state::{Origin, PinPolicy, SlotKey, State, TouchPolicy};
use super::tlv;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The key and certificate above a card's attestation key. A YubiKey does not carry these; here they are made with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttestationRoot {
    key: PrivateKey,
    #[serde(with = "hex::serde")]
    certificate: Vec<u8>,
    validity: Validity,
}

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Validity {
    from: u64,
    until: u64,
}

const DAY: u64 = 24 * 60 * 60;
const SERIES: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0xc4, 0x0a, 0x03];
const ATTESTATION_NAME: &str = "Yubico PIV Attestation";
/// USB-A, keychain.
pub(super) const FORM_FACTOR: u8 = 0x01;

impl AttestationRoot {
    /// A new root: valid from yesterday, for ten years.
    #[must_use]
    pub fn generate(serial: u32) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let validity = Validity {
            from: now.saturating_sub(DAY),
            until: now + 3650 * DAY,
        };
        let key = PrivateKey::generate(Algorithm::P256);
        let name = Self::name(serial);
        let certificate = Certificate {
            issuer: &name,
            subject: &name,
            subject_key: &key,
            validity,
            extensions: &[authority(1)],
        }
        .sign(&key);
        Self {
            key,
            certificate,
            validity,
        }
    }

    fn name(serial: u32) -> String {
        format!("Virtual YubiKey Test Root {serial}")
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.certificate.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }
}

/// Puts the attestation key into f9 and its certificate into its object.
pub(super) fn provision(state: &mut State) {
    let private = PrivateKey::generate(Algorithm::P256);
    let issuer = AttestationRoot::name(state.serial);
    let certificate = Certificate {
        issuer: &issuer,
        subject: ATTESTATION_NAME,
        subject_key: &private,
        validity: state.root.validity,
        extensions: &[authority(0), extension(3, &state.firmware.0)],
    }
    .sign(&state.root.key);
    let mut object = tlv::write(0x70, &certificate);
    object.extend([0x71, 0x01, 0x00, 0xfe, 0x00]);
    state.objects.insert(Slot::ATTESTATION.object(), object);
    let key = SlotKey {
        private,
        origin: Origin::Imported,
        pin: PinPolicy::Never,
        touch: TouchPolicy::Never,
    };
    state.keys.insert(Slot::ATTESTATION, key);
}

/// ATTEST: P1 is the slot, P2 zero. Only keys made on the card are attested.
pub(super) fn attest(state: &State, slot: u8, p2: u8) -> Answer {
    if p2 != 0 {
        return Err(Status::WRONG_PARAMETERS);
    }
    let slot = Slot::new(slot)
        .filter(|slot| *slot != Slot::ATTESTATION)
        .ok_or(Status::WRONG_SLOT)?;
    let key = state.keys.get(&slot).ok_or(Status::REFERENCE_NOT_FOUND)?;
    if key.origin != Origin::Generated {
        return Err(Status::WRONG_DATA);
    }
    let attestation = state
        .keys
        .get(&Slot::ATTESTATION)
        .ok_or(Status::REFERENCE_NOT_FOUND)?;
    let object = state
        .objects
        .get(&Slot::ATTESTATION.object())
        .ok_or(Status::REFERENCE_NOT_FOUND)?;
    let issuer = subject_of(object).ok_or(Status::WRONG_DATA)?;
    let serial = state.serial.to_be_bytes();
    let extensions = [
        extension(3, &state.firmware.0),
        extension(7, &integer(&serial)),
        extension(8, &[key.pin as u8, key.touch as u8]),
        extension(9, &[FORM_FACTOR]),
    ];
    let subject = format!("YubiKey PIV Attestation {slot}");
    let tbs = to_be_signed(
        &issuer,
        &name(&subject),
        &key.private,
        state.root.validity,
        &attestation.private,
        &extensions,
    );
    certificate(&tbs, &attestation.private).map_err(|_| Status::WRONG_DATA)
}

/// The subject's DER out of a certificate object: whatever stands in f9 names the issuer.
fn subject_of(object: &[u8]) -> Option<Vec<u8>> {
    let der = tlv::find(&tlv::read_all(object)?, 0x70)?;
    let (certificate, _) = tlv::read(der)?;
    let (tbs, _) = tlv::read(certificate.value)?;
    let fields = tlv::read_all(tbs.value)?;
    let subject = fields.iter().filter(|field| field.tag == 0x30).nth(3)?;
    Some(tlv::write(0x30, subject.value))
}

struct Certificate<'a> {
    issuer: &'a str,
    subject: &'a str,
    subject_key: &'a PrivateKey,
    validity: Validity,
    extensions: &'a [Vec<u8>],
}

impl Certificate<'_> {
    fn sign(&self, key: &PrivateKey) -> Vec<u8> {
        let tbs = to_be_signed(
            &name(self.issuer),
            &name(self.subject),
            self.subject_key,
            self.validity,
            key,
            self.extensions,
        );
        certificate(&tbs, key).expect("P-256 signs any digest of 32 bytes")
    }
}

fn to_be_signed(
    issuer: &[u8],
    subject: &[u8],
    subject_key: &PrivateKey,
    validity: Validity,
    issuer_key: &PrivateKey,
    extensions: &[Vec<u8>],
) -> Vec<u8> {
    // The first bit off: a serial number is positive, and without it sixteen bytes stay sixteen.
    let mut serial: [u8; 16] = random();
    serial[0] = serial[0] & 0x7f | 0x40;
    sequence(&[
        tlv::write(0xa0, &[0x02, 0x01, 0x02]),
        integer(&serial),
        signature_algorithm(issuer_key),
        issuer.to_vec(),
        sequence(&[time(validity.from), time(validity.until)]),
        subject.to_vec(),
        subject_public_key(subject_key),
        tlv::write(0xa3, &sequence(extensions)),
    ])
}

fn certificate(tbs: &[u8], key: &PrivateKey) -> Result<Vec<u8>, super::keys::Unusable> {
    let digest = Sha256::digest(tbs);
    let signature = match key {
        PrivateKey::Rsa(rsa) => key.sign(&pkcs1_padded(
            &digest,
            rsa::traits::PublicKeyParts::size(rsa.as_ref()),
        ))?,
        PrivateKey::P256(_) | PrivateKey::P384(_) => key.sign(&digest)?,
        PrivateKey::Ed25519(_) => key.sign(tbs)?,
        PrivateKey::X25519(_) => return Err(super::keys::Unusable),
    };
    Ok(sequence(&[
        tbs.to_vec(),
        signature_algorithm(key),
        bit_string(&signature),
    ]))
}

/// EMSA-PKCS1-v1_5 of a SHA-256 digest (RFC 8017, section 9.2).
fn pkcs1_padded(digest: &[u8], length: usize) -> Vec<u8> {
    let info = sequence(&[
        sequence(&[
            oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01]),
            vec![0x05, 0x00],
        ]),
        tlv::write(0x04, digest),
    ]);
    let mut block = vec![0x00, 0x01];
    block.resize(length.saturating_sub(info.len() + 1), 0xff);
    block.push(0x00);
    block.extend(info);
    block
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv::write(0x30, &parts.concat())
}

fn oid(bytes: &[u8]) -> Vec<u8> {
    tlv::write(0x06, bytes)
}

/// An unsigned number, as DER has it: no leading zeroes but one where the first bit is set.
fn integer(big_endian: &[u8]) -> Vec<u8> {
    let start = big_endian
        .iter()
        .position(|&byte| byte != 0)
        .unwrap_or(big_endian.len().saturating_sub(1));
    let mut bytes = big_endian.get(start..).unwrap_or_default().to_vec();
    if bytes.first().is_none_or(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    tlv::write(0x02, &bytes)
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    let mut content = vec![0];
    content.extend(bytes);
    tlv::write(0x03, &content)
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = sequence(&[
        oid(&[0x55, 0x04, 0x03]),
        tlv::write(0x0c, common_name.as_bytes()),
    ]);
    sequence(&[tlv::write(0x31, &attribute)])
}

/// One of Yubico's extensions: its content is raw unless it is itself DER.
fn extension(number: u8, content: &[u8]) -> Vec<u8> {
    let mut id = SERIES.to_vec();
    id.push(number);
    sequence(&[oid(&id), tlv::write(0x04, content)])
}

/// BasicConstraints of an authority, critical.
fn authority(path_length: u8) -> Vec<u8> {
    let constraints = sequence(&[vec![0x01, 0x01, 0xff], vec![0x02, 0x01, path_length]]);
    sequence(&[
        oid(&[0x55, 0x1d, 0x13]),
        vec![0x01, 0x01, 0xff],
        tlv::write(0x04, &constraints),
    ])
}

fn signature_algorithm(key: &PrivateKey) -> Vec<u8> {
    match key {
        PrivateKey::P256(_) | PrivateKey::P384(_) => {
            sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])])
        }
        PrivateKey::Rsa(_) => sequence(&[
            oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]),
            vec![0x05, 0x00],
        ]),
        PrivateKey::Ed25519(_) | PrivateKey::X25519(_) => sequence(&[oid(&[0x2b, 0x65, 0x70])]),
    }
}

fn subject_public_key(key: &PrivateKey) -> Vec<u8> {
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let (algorithm, bits) = match key {
        PrivateKey::P256(_) => (
            vec![
                oid(EC),
                oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
            ],
            key.public_point(),
        ),
        PrivateKey::P384(_) => (
            vec![oid(EC), oid(&[0x2b, 0x81, 0x04, 0x00, 0x22])],
            key.public_point(),
        ),
        PrivateKey::Ed25519(_) => (vec![oid(&[0x2b, 0x65, 0x70])], key.public_point()),
        PrivateKey::X25519(_) => (vec![oid(&[0x2b, 0x65, 0x6e])], key.public_point()),
        PrivateKey::Rsa(rsa) => {
            use rsa::traits::PublicKeyParts;
            let numbers = sequence(&[integer(&rsa.n_bytes()), integer(&rsa.e_bytes())]);
            (
                vec![
                    oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]),
                    vec![0x05, 0x00],
                ],
                numbers,
            )
        }
    };
    sequence(&[sequence(&algorithm), bit_string(&bits)])
}

/// UTCTime through 2049, GeneralizedTime after (RFC 5280, section 4.1.2.5).
fn time(seconds: u64) -> Vec<u8> {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    if seconds < 2_524_608_000 {
        tlv::write(0x17, time.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        tlv::write(0x18, time.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_four_digits_of_the_year_from_2050() {
        assert_eq!(time(2_524_607_999), tlv::write(0x17, b"491231235959Z"));
        assert_eq!(time(2_524_608_000), tlv::write(0x18, b"20500101000000Z"));
    }

    #[test]
    fn a_serial_with_its_first_bit_set_stays_positive() {
        assert_eq!(integer(&[0, 0, 0x80, 1]), [2, 3, 0, 0x80, 1]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
    }
}
