//! Public keys and signatures: what is accepted, and how it is verified.

use std::fmt;

/// The kinds of key that Touchstone accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// RSA with e = 65537 and at least 2048 bits.
    Rsa {
        /// Length of the modulus in bits.
        bits: u32,
    },
}

/// A checked public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki_der: Vec<u8>,
    algorithm: KeyAlgorithm,
}

/// Why a key or a signature was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
}

/// A signature algorithm, as an X.509 AlgorithmIdentifier names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256.
    EcdsaSha256,
    /// ecdsa-with-SHA384.
    EcdsaSha384,
    /// Ed25519.
    Ed25519,
    /// sha256WithRSAEncryption.
    RsaSha256,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo strictly.
    ///
    /// # Errors
    /// When it is not DER, not of an accepted kind, or (RSA) too small or of another exponent.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        todo!("{spki:?}")
    }

    /// The kind of key.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        todo!()
    }

    /// The signature algorithm that this key is used with in requests and certificates.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        todo!()
    }

    /// Verifies an X.509-encoded signature (ECDSA: DER SEQUENCE of r and s) over `message`.
    ///
    /// # Errors
    /// When the algorithm does not fit the key or the signature does not verify.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        todo!("{algorithm:?} {message:?} {signature:?}")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.algorithm)
    }
}

/// A private key that signs and that nothing can be exported from: a PIV slot, a CA key in a file, a token.
pub trait SigningKey {
    /// What goes wrong when it signs.
    type Error;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (not a digest of it) with [`PublicKey::signature_algorithm`]; the signature as X.509 encodes it.
    ///
    /// # Errors
    /// When the card, token or key cannot sign.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Self::Error>;
}
