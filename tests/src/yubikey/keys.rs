//! Private keys: making, importing and using them.

use super::state::Firmware;
use super::tlv;
use aws_lc_rs::{agreement, encoding::AsDer};
use ed25519_dalek::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, RsaPrivateKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Key algorithms, with Yubico's identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// RSA, 1024 bits.
    Rsa1024 = 0x06,
    /// RSA, 2048 bits.
    Rsa2048 = 0x07,
    /// RSA, 3072 bits, from 5.7.
    Rsa3072 = 0x05,
    /// RSA, 4096 bits, from 5.7.
    Rsa4096 = 0x16,
    /// NIST P-256.
    P256 = 0x11,
    /// NIST P-384.
    P384 = 0x14,
    /// Ed25519, from 5.7.
    Ed25519 = 0xe0,
    /// X25519, from 5.7.
    X25519 = 0xe1,
}

impl Algorithm {
    /// The algorithm with this identifier, where the firmware knows it.
    #[must_use]
    pub fn new(identifier: u8, firmware: Firmware) -> Option<Self> {
        let recent = firmware >= Firmware([5, 7, 0]);
        match identifier {
            0x06 => Some(Self::Rsa1024),
            0x07 => Some(Self::Rsa2048),
            0x11 => Some(Self::P256),
            0x14 => Some(Self::P384),
            0x05 if recent => Some(Self::Rsa3072),
            0x16 if recent => Some(Self::Rsa4096),
            0xe0 if recent => Some(Self::Ed25519),
            0xe1 if recent => Some(Self::X25519),
            _ => None,
        }
    }
}

/// Bytes that are no key of the kind they should be, or no input that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use bytes of the wrong length or value")]
pub struct Unusable;

/// A private key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub enum PrivateKey {
    /// Ed25519.
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// NIST P-256.
    P256(p256::SecretKey),
    /// NIST P-384.
    P384(p384::SecretKey),
    /// RSA of any size.
    Rsa(Box<RsaPrivateKey>),
    /// X25519.
    X25519([u8; 32]),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, [redacted])", self.algorithm())
    }
}

impl PrivateKey {
    /// Makes a key.
    #[must_use]
    pub fn generate(algorithm: Algorithm) -> Self {
        use aws_lc_rs::rsa::KeySize;
        match algorithm {
            Algorithm::P256 => until_valid(Algorithm::P256, 32),
            Algorithm::P384 => until_valid(Algorithm::P384, 48),
            Algorithm::Ed25519 => until_valid(Algorithm::Ed25519, 32),
            Algorithm::X25519 => until_valid(Algorithm::X25519, 32),
            Algorithm::Rsa1024 => {
                let mut random = getrandom::rand_core::UnwrapErr(getrandom::SysRng);
                Self::Rsa(Box::new(
                    RsaPrivateKey::new(&mut random, 1024)
                        .expect("1024 bits are enough for the library"),
                ))
            }
            Algorithm::Rsa2048 => generate_rsa(KeySize::Rsa2048),
            Algorithm::Rsa3072 => generate_rsa(KeySize::Rsa3072),
            Algorithm::Rsa4096 => generate_rsa(KeySize::Rsa4096),
        }
    }

    /// A key of a curve from its raw bytes.
    ///
    /// # Errors
    /// Another length, or no scalar of the curve.
    pub fn from_scalar(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, Unusable> {
        match algorithm {
            Algorithm::Ed25519 => ed25519_dalek::SigningKey::try_from(bytes)
                .map(|key| Self::Ed25519(Box::new(key)))
                .map_err(|_| Unusable),
            Algorithm::P256 if bytes.len() == 32 => p256::SecretKey::from_slice(bytes)
                .map(Self::P256)
                .map_err(|_| Unusable),
            Algorithm::P384 if bytes.len() == 48 => p384::SecretKey::from_slice(bytes)
                .map(Self::P384)
                .map_err(|_| Unusable),
            Algorithm::X25519 => bytes.try_into().map(Self::X25519).map_err(|_| Unusable),
            Algorithm::P256
            | Algorithm::P384
            | Algorithm::Rsa1024
            | Algorithm::Rsa2048
            | Algorithm::Rsa3072
            | Algorithm::Rsa4096 => Err(Unusable),
        }
    }

    /// An RSA key from its primes; the exponent is 65537.
    ///
    /// # Errors
    /// They don't make a key of the algorithm's size.
    pub fn from_primes(algorithm: Algorithm, p: &[u8], q: &[u8]) -> Result<Self, Unusable> {
        let [p, q] = [p, q].map(BoxedUint::from_be_slice_vartime);
        let key =
            RsaPrivateKey::from_p_q(p, q, BoxedUint::from(65537_u64)).map_err(|_| Unusable)?;
        let key = Self::Rsa(Box::new(key));
        if key.algorithm() == algorithm {
            Ok(key)
        } else {
            Err(Unusable)
        }
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::P256(_) => Algorithm::P256,
            Self::P384(_) => Algorithm::P384,
            Self::X25519(_) => Algorithm::X25519,
            Self::Rsa(key) => match key.size() {
                0..=128 => Algorithm::Rsa1024,
                129..=256 => Algorithm::Rsa2048,
                257..=384 => Algorithm::Rsa3072,
                _ => Algorithm::Rsa4096,
            },
        }
    }

    /// Its public key as GENERATE and GET METADATA give it, without the 7F49 around it.
    #[must_use]
    pub fn public_template(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut template = tlv::write(0x81, &key.n_bytes());
                template.extend(tlv::write(0x82, &key.e_bytes()));
                template
            }
            Self::Ed25519(_) | Self::P256(_) | Self::P384(_) | Self::X25519(_) => {
                tlv::write(0x86, &self.public_point())
            }
        }
    }

    /// The public point of a curve, raw or uncompressed; for RSA the modulus.
    #[must_use]
    pub fn public_point(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Self::P256(key) => key.public_key().to_sec1_bytes().to_vec(),
            Self::P384(key) => key.public_key().to_sec1_bytes().to_vec(),
            Self::Rsa(key) => key.n_bytes().to_vec(),
            Self::X25519(bytes) => {
                agreement::PrivateKey::from_private_key(&agreement::X25519, bytes)
                    .ok()
                    .and_then(|key| key.compute_public_key().ok())
                    .map(|public| public.as_ref().to_vec())
                    .expect("any 32 bytes are an X25519 private key")
            }
        }
    }

    /// What GENERAL AUTHENTICATE does with a challenge: an ECDSA signature (DER) of a digest, an Ed25519 signature of a
    /// message, the bare RSA operation on a padded block.
    ///
    /// # Errors
    /// A digest longer than the curve, a block not as long as the modulus or above it, or a key that can't sign.
    pub fn sign(&self, input: &[u8]) -> Result<Vec<u8>, Unusable> {
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from(key)
                    .sign_prehash(&widen(input, 32)?)
                    .map_err(|_| Unusable)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = p384::ecdsa::SigningKey::from(key)
                    .sign_prehash(&widen(input, 48)?)
                    .map_err(|_| Unusable)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(input).to_bytes().to_vec()),
            Self::Rsa(key) => raw_rsa(key, input),
            Self::X25519(_) => Err(Unusable),
        }
    }

    /// The secret shared with a peer's public key.
    ///
    /// # Errors
    /// The peer's key is not on the curve, or this key can't agree.
    pub fn agree(&self, peer: &[u8]) -> Result<Vec<u8>, Unusable> {
        let algorithm = match self {
            Self::P256(_) => &agreement::ECDH_P256,
            Self::P384(_) => &agreement::ECDH_P384,
            Self::X25519(_) => &agreement::X25519,
            Self::Ed25519(_) | Self::Rsa(_) => return Err(Unusable),
        };
        let scalar = match self {
            Self::P256(key) => key.to_bytes().to_vec(),
            Self::P384(key) => key.to_bytes().to_vec(),
            Self::X25519(bytes) => bytes.to_vec(),
            Self::Ed25519(_) | Self::Rsa(_) => return Err(Unusable),
        };
        let private =
            agreement::PrivateKey::from_private_key(algorithm, &scalar).map_err(|_| Unusable)?;
        let peer = agreement::UnparsedPublicKey::new(algorithm, peer);
        agreement::agree(&private, peer, Unusable, |secret| Ok(secret.to_vec()))
    }
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives randomness");
    bytes
}

fn until_valid(algorithm: Algorithm, length: usize) -> PrivateKey {
    loop {
        let bytes: [u8; 48] = random();
        if let Some(Ok(key)) = bytes
            .get(..length)
            .map(|bytes| PrivateKey::from_scalar(algorithm, bytes))
        {
            return key;
        }
    }
}

fn generate_rsa(size: aws_lc_rs::rsa::KeySize) -> PrivateKey {
    let pair = aws_lc_rs::rsa::KeyPair::generate(size).expect("the system gives randomness");
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
        pair.as_der().expect("a key just made can be written");
    PrivateKey::Rsa(Box::new(
        RsaPrivateKey::from_pkcs8_der(der.as_ref()).expect("a key just written can be read"),
    ))
}

/// A short digest counts as a number: zeroes go before it.
fn widen(digest: &[u8], length: usize) -> Result<Vec<u8>, Unusable> {
    let zeroes = length.checked_sub(digest.len()).ok_or(Unusable)?;
    let mut wide = vec![0; zeroes];
    wide.extend(digest);
    Ok(wide)
}

fn raw_rsa(key: &RsaPrivateKey, block: &[u8]) -> Result<Vec<u8>, Unusable> {
    if block.len() != key.size() {
        return Err(Unusable);
    }
    let bits = u32::try_from(key.size() * 8).map_err(|_| Unusable)?;
    let number = BoxedUint::from_be_slice(block, bits).map_err(|_| Unusable)?;
    if number >= *key.n().as_ref() {
        return Err(Unusable);
    }
    let result = rsa::hazmat::rsa_decrypt_and_check(key, None::<&mut getrandom::SysRng>, &number)
        .map_err(|_| Unusable)?;
    Ok(result.to_be_bytes().to_vec())
}

/// A private key as the state file has it: PKCS#8 for RSA, the bare scalar for curves; both in hex.
#[derive(Serialize, Deserialize)]
struct Stored {
    algorithm: u8,
    #[serde(with = "hex::serde")]
    secret: Vec<u8>,
}

impl From<PrivateKey> for Stored {
    fn from(key: PrivateKey) -> Self {
        let secret = match &key {
            PrivateKey::Ed25519(key) => key.to_bytes().to_vec(),
            PrivateKey::P256(key) => key.to_bytes().to_vec(),
            PrivateKey::P384(key) => key.to_bytes().to_vec(),
            PrivateKey::Rsa(key) => key
                .to_pkcs8_der()
                .expect("an RSA key in memory can be written")
                .as_bytes()
                .to_vec(),
            PrivateKey::X25519(bytes) => bytes.to_vec(),
        };
        Self {
            algorithm: key.algorithm() as u8,
            secret,
        }
    }
}

impl TryFrom<Stored> for PrivateKey {
    type Error = Unusable;

    fn try_from(stored: Stored) -> Result<Self, Unusable> {
        let algorithm = Algorithm::new(stored.algorithm, Firmware([255; 3])).ok_or(Unusable)?;
        Self::from_scalar(algorithm, &stored.secret).or_else(|_| {
            let key = RsaPrivateKey::from_pkcs8_der(&stored.secret).map_err(|_| Unusable)?;
            Ok(Self::Rsa(Box::new(key)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_survives_the_state_file() {
        use Algorithm::*;
        for algorithm in [P256, P384, Ed25519, X25519, Rsa1024, Rsa2048] {
            let key = PrivateKey::generate(algorithm);
            assert_eq!(key.algorithm(), algorithm);
            let stored = serde_json::to_string(&key).expect("a key can be written");
            let back: PrivateKey = serde_json::from_str(&stored).expect("and read");
            assert_eq!(back.public_template(), key.public_template());
        }
    }

    #[test]
    fn two_sides_agree_on_one_secret() {
        for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::X25519] {
            let [one, other] = [(); 2].map(|()| PrivateKey::generate(algorithm));
            assert_eq!(
                one.agree(&other.public_point()),
                other.agree(&one.public_point())
            );
            assert_eq!(one.agree(&[4; 12]), Err(Unusable));
        }
    }

    #[test]
    fn a_digest_longer_than_the_curve_is_refused() {
        assert_eq!(
            PrivateKey::generate(Algorithm::P256).sign(&[1; 33]),
            Err(Unusable)
        );
    }

    #[test]
    fn an_rsa_block_above_the_modulus_is_refused() {
        assert_eq!(
            PrivateKey::generate(Algorithm::Rsa2048).sign(&[0xff; 256]),
            Err(Unusable)
        );
    }
}
