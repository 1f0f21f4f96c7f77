//! A private key in memory: a CA key kept in a file or Secret, a user's key where policy allows one outside a card.

mod encrypted;

use super::{KeyAlgorithm, KeyError, PublicKey, SigningKey};
use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    error::Unspecified,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    },
};
use std::fmt;
use zeroize::Zeroizing;

/// P-256, P-384 or Ed25519, held by the crypto library, which wipes it when it is dropped.
///
/// It is the one thing in this crate that draws randomness, from the library's own generator: to make a key, to put it
/// under a passphrase, and for each ECDSA signature.
pub struct SoftwareKey {
    public: PublicKey,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why a software key could not be made, read or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SoftwareKeyError {
    /// Trying a passphrase would cost more than any key should.
    #[error("asks for more work or memory to try its passphrase than is spent on one")]
    Cost,
    /// It is under a passphrase, and there is none.
    #[error("is under a passphrase")]
    Encrypted,
    /// Encrypted otherwise.
    #[error(
        "is encrypted by something else than PBES2 with scrypt or PBKDF2-HMAC-SHA-256 and AES-CBC"
    )]
    Encryption,
    /// The library refused to make or encode a key.
    #[error("the crypto library could not make the key")]
    Generate,
    /// Another passphrase.
    #[error("is not opened by the passphrase, or is damaged")]
    Passphrase,
    /// Not PKCS#8 of an accepted kind, or the halves do not belong together.
    #[error("is not an unencrypted PKCS#8 private key of P-256, P-384 or Ed25519")]
    Pkcs8,
    /// The public half was refused.
    #[error("the public half {0}")]
    Public(#[from] KeyError),
    /// Too short a passphrase.
    #[error("would be under a passphrase of fewer than eight characters")]
    ShortPassphrase,
    /// The library refused to sign.
    #[error("the crypto library could not sign")]
    Sign,
    /// A kind of key that is only verified here.
    #[error("{0} private keys are not made in software")]
    Unsupported(KeyAlgorithm),
}

impl SoftwareKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// For RSA, and when the library has no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, SoftwareKeyError> {
        let failed = |Unspecified| SoftwareKeyError::Generate;
        let pair = match algorithm {
            KeyAlgorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            KeyAlgorithm::P256 => Pair::Ecdsa(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyAlgorithm::P384 => Pair::Ecdsa(
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyAlgorithm::Rsa { .. } => return Err(SoftwareKeyError::Unsupported(algorithm)),
        };
        Self::new(pair)
    }

    /// Reads an unencrypted PKCS#8 private key, DER.
    ///
    /// # Errors
    /// When it is not one, or not of an accepted kind.
    pub fn from_pkcs8_der(pkcs8: &[u8]) -> Result<Self, SoftwareKeyError> {
        let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map(Pair::Ecdsa)
        };
        let pair = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .or_else(|_| ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING))
            .or_else(|_| Ed25519KeyPair::from_pkcs8(pkcs8).map(Pair::Ed25519))
            .map_err(|_| SoftwareKeyError::Pkcs8)?;
        Self::new(pair)
    }

    /// Reads exactly one PEM block `PRIVATE KEY`.
    ///
    /// # Errors
    /// As [`SoftwareKey::from_pkcs8_der`].
    pub fn from_pkcs8_pem(pem: &[u8]) -> Result<Self, SoftwareKeyError> {
        let der =
            crate::pem::one_block(pem, "PRIVATE KEY").map_err(
                |_| match encrypted::is_encrypted(pem) {
                    true => SoftwareKeyError::Encrypted,
                    false => SoftwareKeyError::Pkcs8,
                },
            )?;
        Self::from_pkcs8_der(&Zeroizing::new(der))
    }

    /// The private key as PKCS#8, DER, for the one place that keeps it.
    ///
    /// # Errors
    /// When the library cannot encode it.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, SoftwareKeyError> {
        let document = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
        }
        .map_err(|Unspecified| SoftwareKeyError::Generate)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The private key as one PEM block `PRIVATE KEY`.
    ///
    /// # Errors
    /// When the library cannot encode it.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, SoftwareKeyError> {
        Ok(Zeroizing::new(crate::pem::encode(
            "PRIVATE KEY",
            &self.to_pkcs8_der()?,
        )))
    }

    fn new(pair: Pair) -> Result<Self, SoftwareKeyError> {
        let spki: PublicKeyX509Der<'_> = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
        }
        .map_err(|Unspecified| SoftwareKeyError::Generate)?;
        Ok(Self {
            public: PublicKey::from_spki_der(spki.as_ref())?,
            pair,
        })
    }
}

impl SigningKey for SoftwareKey {
    type Error = SoftwareKeyError;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Self::Error> {
        match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|Unspecified| SoftwareKeyError::Sign),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareKey({}, [redacted])", self.public.algorithm())
    }
}
