//! A slot as a signing key: the PIN when it is due, the touch notice when the card waits, the padding that RSA wants.

use super::{Algorithm, Card, CardError, KeySlot, Origin, SlotKey, ToSign};
use crate::{
    pin::Pin,
    touch::{self, Notice},
};
use sha2::{Digest as _, Sha256, Sha384};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use touchstone_common::{
    attestation::{PinPolicy, Slot, TouchPolicy},
    key::{KeyAlgorithm, PublicKey, SigningKey},
};
use x509_cert::der::{Decode as _, Encode as _};

/// A card that several parts of one command use in turn.
pub type SharedCard = Arc<Mutex<dyn Card>>;

/// Takes the card; a panic elsewhere does not make it unusable.
pub fn lock<'a>(card: &'a Mutex<dyn Card + 'static>) -> MutexGuard<'a, dyn Card + 'static> {
    card.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a message is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// As in certificates: ECDSA with the curve's hash, Ed25519, RSA PKCS#1 v1.5 with SHA-256.
    Certificate,
    /// RSA-PSS with SHA-256 and a salt of 32 bytes, as TLS 1.3 asks of RSA keys.
    RsaPss,
}

/// A key in a slot, with what it takes to sign.
#[derive(Clone)]
pub struct CardKey {
    card: SharedCard,
    slot: Slot,
    public_key: PublicKey,
    pin: Option<Pin>,
    pin_policy: Option<PinPolicy>,
    touch_policy: Option<TouchPolicy>,
    notice: Arc<dyn Notice>,
}

impl fmt::Debug for CardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardKey")
            .field("slot", &self.slot)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

impl CardKey {
    /// The key of `slot`. When the key's policy asks for a PIN, `pin` is needed and must have been verified once.
    #[must_use]
    pub fn new(
        card: SharedCard,
        slot: Slot,
        public_key: PublicKey,
        key: &SlotKey,
        pin: Option<Pin>,
        notice: Arc<dyn Notice>,
    ) -> Self {
        Self {
            card,
            slot,
            public_key,
            pin,
            pin_policy: key.pin_policy,
            touch_policy: key.touch_policy,
            notice,
        }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Signs a message with a scheme of its algorithm.
    ///
    /// # Errors
    /// When the card is gone, not touched in time, or refuses.
    pub fn sign_with(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, CardError> {
        let what = self.prepare(scheme, message)?;
        let mut card = lock(&self.card);
        // The card asks for the PIN right before each signature: once verified is not enough.
        if let (Some(PinPolicy::Always | PinPolicy::MatchAlways), Some(pin)) =
            (self.pin_policy, &self.pin)
        {
            card.verify_pin(pin)?;
        }
        let started = Instant::now();
        touch::watch(&*self.notice, self.touch_policy, self.patience(), || {
            card.sign(self.slot.into(), &what)
        })
        .map_err(|error| self.untouched(error, started.elapsed()))
    }

    fn prepare(&self, scheme: Scheme, message: &[u8]) -> Result<ToSign, CardError> {
        Ok(match self.public_key.algorithm() {
            KeyAlgorithm::Ed25519 => ToSign::Ed25519(message.to_vec()),
            KeyAlgorithm::P256 => ToSign::P256(Sha256::digest(message).into()),
            KeyAlgorithm::P384 => ToSign::P384(Sha384::digest(message).into()),
            KeyAlgorithm::Rsa { bits } => {
                let length = usize::try_from(bits.div_ceil(8))
                    .map_err(|_| CardError::Malformed("the RSA modulus"))?;
                let block = match scheme {
                    Scheme::Certificate => pkcs1_block(message, length),
                    Scheme::RsaPss => {
                        let mut salt = [0u8; 32];
                        getrandom::fill(&mut salt).map_err(|_| {
                            CardError::Pcsc("the system has no random numbers".to_owned())
                        })?;
                        pss_block(message, &salt, length)
                    }
                };
                ToSign::Rsa(block.ok_or(CardError::Malformed("the RSA modulus"))?)
            }
        })
    }

    /// How long the card may compute before silence means that it waits for a touch. Measured on 5.x keys: P-256 takes
    /// less than 100 ms, RSA-2048 less than 300 ms.
    fn patience(&self) -> Duration {
        Duration::from_millis(match self.public_key.algorithm() {
            KeyAlgorithm::Ed25519 | KeyAlgorithm::P256 | KeyAlgorithm::P384 => 350,
            KeyAlgorithm::Rsa { bits: ..=2048 } => 500,
            KeyAlgorithm::Rsa { .. } => 2000,
        })
    }

    /// The card answers a missing PIN and a missing touch alike, but the second only after seconds of waiting.
    fn untouched(&self, error: CardError, waited: Duration) -> CardError {
        match (error, self.touch_policy) {
            (CardError::NotAllowed, Some(TouchPolicy::Always | TouchPolicy::Cached))
                if waited > self.patience() =>
            {
                CardError::TouchTimeout
            }
            (error, _) => error,
        }
    }
}

impl SigningKey for CardKey {
    type Error = CardError;

    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CardError> {
        self.sign_with(Scheme::Certificate, message)
    }
}

/// EMSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 9.2).
fn pkcs1_block(message: &[u8], length: usize) -> Option<Vec<u8>> {
    const SHA256_DIGEST_INFO: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let padding = length
        .checked_sub(SHA256_DIGEST_INFO.len() + 32 + 3)
        .filter(|padding| *padding >= 8)?;
    let mut block = vec![0x00, 0x01];
    block.resize(2 + padding, 0xff);
    block.push(0x00);
    block.extend_from_slice(&SHA256_DIGEST_INFO);
    block.extend_from_slice(&Sha256::digest(message));
    Some(block)
}

/// EMSA-PSS with SHA-256, MGF1 with SHA-256 (RFC 8017, 9.1.1), for a modulus of `length` whole bytes.
fn pss_block(message: &[u8], salt: &[u8; 32], length: usize) -> Option<Vec<u8>> {
    let hash = Sha256::new()
        .chain_update([0u8; 8])
        .chain_update(Sha256::digest(message))
        .chain_update(salt)
        .finalize();
    let padding = length.checked_sub(32 + 1 + 32 + 1)?;
    let mut block = vec![0u8; padding];
    block.push(0x01);
    block.extend_from_slice(salt);
    let mask = (0u32..).flat_map(|counter| {
        Sha256::new()
            .chain_update(hash)
            .chain_update(counter.to_be_bytes())
            .finalize()
    });
    for (byte, mask) in block.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    // The block has one bit less than the modulus.
    *block.first_mut()? &= 0x7f;
    block.extend_from_slice(&hash);
    block.push(0xbc);
    Some(block)
}

/// What an attestation certificate says of a key, unverified: for firmware that cannot describe its keys otherwise.
///
/// # Errors
/// When it is not a certificate.
pub fn key_of_attestation(certificate: &[u8]) -> Result<SlotKey, CardError> {
    const MALFORMED: CardError = CardError::Malformed("the attestation certificate");
    let certificate = x509_cert::Certificate::from_der(certificate).map_err(|_| MALFORMED)?;
    let tbs = certificate.tbs_certificate();
    let spki = tbs
        .subject_public_key_info()
        .to_der()
        .map_err(|_| MALFORMED)?;
    let algorithm = match PublicKey::from_spki_der(&spki).map(|key| key.algorithm()) {
        Ok(KeyAlgorithm::Ed25519) => Algorithm::Ed25519,
        Ok(KeyAlgorithm::P256) => Algorithm::P256,
        Ok(KeyAlgorithm::P384) => Algorithm::P384,
        Ok(KeyAlgorithm::Rsa { bits }) => Algorithm::Rsa(u16::try_from(bits).unwrap_or(u16::MAX)),
        // The only other kind such old firmware makes.
        Err(_) => Algorithm::Rsa(1024),
    };
    let policies = tbs
        .extensions()
        .into_iter()
        .flatten()
        .find(|extension| extension.extn_id == touchstone_common::oid::YUBICO_POLICIES)
        .map(|extension| extension.extn_value.as_bytes().to_vec());
    let (pin, touch) = match policies.as_deref() {
        Some([pin, touch]) => (*pin, *touch),
        _ => (0, 0),
    };
    Ok(SlotKey {
        algorithm,
        spki: Some(spki),
        pin_policy: match pin {
            1 => Some(PinPolicy::Never),
            2 => Some(PinPolicy::Once),
            3 => Some(PinPolicy::Always),
            4 => Some(PinPolicy::MatchOnce),
            5 => Some(PinPolicy::MatchAlways),
            _ => None,
        },
        touch_policy: match touch {
            1 => Some(TouchPolicy::Never),
            2 => Some(TouchPolicy::Always),
            3 => Some(TouchPolicy::Cached),
            _ => None,
        },
        origin: Some(Origin::Generated),
    })
}

/// A slot of the kind that engineers' keys live in, with the key found there.
///
/// # Errors
/// [`CardError::NoKey`]; [`CardError::Unsupported`] for keys that cannot sign requests.
pub fn usable_key(card: &mut dyn Card, slot: Slot) -> Result<(SlotKey, PublicKey), CardError> {
    let key_slot = KeySlot::from(slot);
    let key = card.key(key_slot)?.ok_or(CardError::NoKey(key_slot))?;
    let public_key = key
        .spki
        .as_deref()
        .and_then(|spki| PublicKey::from_spki_der(spki).ok())
        .ok_or_else(|| CardError::Unsupported {
            what: format!("signing in with the {} key in slot {slot}", key.algorithm),
            firmware: card.firmware(),
        })?;
    Ok((key, public_key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::fake::FakeCard;

    struct Silent;

    impl Notice for Silent {
        fn waiting(&self) {}
        fn over(&self) {}
    }

    /// The base point of P-256 (SEC 2, 2.4.2) as a public key.
    fn public_key() -> PublicKey {
        let spki = hex::decode(
            "3059301306072a8648ce3d020106082a8648ce3d030107034200\
             046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
             4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        )
        .unwrap();
        PublicKey::from_spki_der(&spki).unwrap()
    }

    fn key(card: FakeCard, pin: PinPolicy) -> (Arc<Mutex<FakeCard>>, CardKey) {
        let card = Arc::new(Mutex::new(card));
        let slot_key = SlotKey {
            algorithm: Algorithm::P256,
            spki: None,
            pin_policy: Some(pin),
            touch_policy: Some(TouchPolicy::Always),
            origin: None,
        };
        let pin = Some(Pin::parse(b"739154").unwrap());
        let slot = "9a".parse().unwrap();
        let shared: SharedCard = card.clone();
        let key = CardKey::new(shared, slot, public_key(), &slot_key, pin, Arc::new(Silent));
        (card, key)
    }

    #[test]
    fn a_key_that_always_wants_the_pin_gets_it_before_each_signature() {
        let (card, key) = key(FakeCard::default(), PinPolicy::Always);
        key.sign(b"one").unwrap();
        key.sign(b"two").unwrap();
        let asked = card.lock().unwrap().asked.clone();
        assert_eq!(asked, ["PIN", "signature", "PIN", "signature"]);
    }

    #[test]
    fn a_key_that_wants_the_pin_once_is_not_given_it_again() {
        let (card, key) = key(FakeCard::default(), PinPolicy::Once);
        key.sign(b"one").unwrap();
        assert_eq!(card.lock().unwrap().asked, ["signature"]);
    }

    #[test]
    fn a_refusal_after_a_wait_is_a_missing_touch_and_at_once_a_missing_pin() {
        let refused = |waits| {
            let card = FakeCard {
                refuses: Some(CardError::NotAllowed),
                waits,
                ..FakeCard::default()
            };
            key(card, PinPolicy::Once).1.sign(b"one").unwrap_err()
        };
        assert_eq!(refused(Duration::from_secs(1)), CardError::TouchTimeout);
        assert_eq!(refused(Duration::ZERO), CardError::NotAllowed);
    }

    #[test]
    fn an_rsa_block_is_padded_to_the_modulus() {
        let block = pkcs1_block(b"message", 256).unwrap();
        assert_eq!(block.len(), 256);
        assert_eq!(&block[..3], [0x00, 0x01, 0xff]);
        assert_eq!(block[256 - 32 - 19 - 1], 0x00);
        assert_eq!(&block[224..], &Sha256::digest(b"message")[..]);
        assert_eq!(pkcs1_block(b"message", 60), None);
    }

    /// RFC 8017, 9.1.2, step by step.
    #[test]
    fn a_pss_block_passes_the_verification_of_rfc_8017() {
        let block = pss_block(b"message", &[7; 32], 256).unwrap();
        assert_eq!(block.len(), 256);
        let (masked, rest) = block.split_at(256 - 33);
        let (hash, trailer) = rest.split_at(32);
        assert_eq!(trailer, [0xbc]);
        assert_eq!(masked[0] & 0x80, 0);
        let mut data = masked.to_vec();
        for (counter, chunk) in (0u32..).zip(data.chunks_mut(32)) {
            let mask = Sha256::digest([hash, &counter.to_be_bytes()].concat());
            chunk
                .iter_mut()
                .zip(mask)
                .for_each(|(byte, mask)| *byte ^= mask);
        }
        data[0] &= 0x7f;
        let (padding, salt) = data.split_at(256 - 33 - 32);
        assert_eq!(padding.last(), Some(&0x01));
        assert!(padding[..padding.len() - 1].iter().all(|byte| *byte == 0));
        let digest = Sha256::digest(b"message");
        let again = Sha256::digest([&[0; 8][..], &digest, salt].concat());
        assert_eq!(hash, &again[..]);
    }
}
