//! JSON Web Signatures in the compact form (RFC 7515), as far as a YubiKey's slot makes them, and in one spelling only.
//!
//! ```text
//! BASE64URL(header) "." BASE64URL(payload) "." BASE64URL(signature)
//! header := {"alg":ALG,"typ":TYP,"x5c":[slot's attestation certificate, f9, …]}      a key that a YubiKey vouches for
//!         | {"alg":ALG,"typ":TYP,"spki":BASE64URL(SubjectPublicKeyInfo)}             any other
//! ```
//!
//! `x5c` is RFC 7515's own (section 4.1.6): its first certificate holds the key that signed. Nothing in the header chooses
//! how it is verified: the algorithm has to be the one that fits the key. A header and a payload are compared with what
//! would be written of them, byte for byte, so that no two readers can see two things in them.

use crate::{
    asn1,
    evidence::{Evidence, MAX_INTERMEDIATES},
    key::{KeyAlgorithm, KeyError, PublicKey, SigningKey, sha256},
    x509,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use der::{Tag, asn1::UintRef};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most bytes one may have. A slot's attestation with four further certificates takes about half.
pub const MAX_JWS_BYTES: usize = 16 * 1024;

/// Why text is not such a signature, or not one that verifies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// An algorithm that does not fit the key.
    #[error("is signed with {algorithm}, which does not fit a {key} key")]
    Algorithm {
        /// As its header says.
        algorithm: &'static str,
        /// The key's kind.
        key: KeyAlgorithm,
    },
    /// Not exactly three parts in base64url without padding.
    #[error("is not three parts in base64url without padding")]
    Form,
    /// The header.
    #[error("has a header that is not read: {0}")]
    Header(String),
    /// The key.
    #[error("was signed by a key that {0}")]
    Key(KeyError),
    /// The slot's certificate cannot be read.
    #[error("has an attestation certificate that cannot be read")]
    Certificate,
    /// The payload.
    #[error("has a payload that is not read: {0}")]
    Payload(String),
    /// JSON of the same meaning in another spelling.
    #[error("is not in the one spelling that is read: no spaces, and each field in its place")]
    Spelling,
    /// The signature.
    #[error("has a signature that does not verify")]
    Signature,
    /// Too long.
    #[error("has {0} bytes; at most 16384 are read")]
    TooLong(usize),
    /// It is for something else.
    #[error("is not of type {0}")]
    Type(&'static str),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError<E> {
    /// The key failed.
    #[error(transparent)]
    Key(E),
    /// What the key made is not a signature of its kind.
    #[error("the key made something that is no signature")]
    Signature,
}

/// What was read, with its signature verified under the key that came with it. Whose key that is is another question.
#[derive(Clone, Debug)]
pub(super) struct Verified<P> {
    pub(super) payload: P,
    pub(super) public_key: PublicKey,
    pub(super) evidence: Option<Evidence>,
    pub(super) sha256: [u8; 32],
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: Algorithm,
    typ: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spki: Option<String>,
}

/// RFC 7518 section 3.1, RFC 8037 section 3.1: one for each kind of key that a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    fn of(key: KeyAlgorithm) -> Self {
        match key {
            KeyAlgorithm::Ed25519 => Self::EdDsa,
            KeyAlgorithm::P256 => Self::Es256,
            KeyAlgorithm::P384 => Self::Es384,
            // PKCS#1 v1.5, as the slot signs requests: firmware makes no other choice, and nothing here decrypts.
            KeyAlgorithm::Rsa { .. } => Self::Rs256,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
        }
    }

    /// The bytes of each of the two numbers of an ECDSA signature.
    const fn ecdsa_bytes(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::EdDsa | Self::Rs256 => None,
        }
    }

    /// From the form that X.509 has to RFC 7518's: r and s, each of fixed length (section 3.4).
    fn to_jws(self, signature: &[u8]) -> Option<Vec<u8>> {
        let Some(length) = self.ecdsa_bytes() else {
            return Some(signature.to_vec());
        };
        let mut fields = asn1::only(signature, Tag::Sequence).ok()?;
        let mut raw = Vec::with_capacity(2 * length);
        for _ in 0..2 {
            let number: UintRef<'_> = fields.read().ok()?;
            let padding = length.checked_sub(number.as_bytes().len())?;
            raw.resize(raw.len() + padding, 0);
            raw.extend_from_slice(number.as_bytes());
        }
        fields.finish().ok()?;
        Some(raw)
    }

    /// And back.
    fn to_x509(self, signature: &[u8]) -> Option<Vec<u8>> {
        let Some(length) = self.ecdsa_bytes() else {
            return Some(signature.to_vec());
        };
        if signature.len() != 2 * length {
            return None;
        }
        let (r, s) = signature.split_at(length);
        Some(asn1::sequence(&[&asn1::unsigned(r), &asn1::unsigned(s)]))
    }
}

/// Reads one strictly and verifies it under the key that it carries.
pub(super) fn read<P: DeserializeOwned + Serialize>(
    text: &str,
    typ: &'static str,
) -> Result<Verified<P>, JwsError> {
    if text.len() > MAX_JWS_BYTES {
        return Err(JwsError::TooLong(text.len()));
    }
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwsError::Form);
    };
    let signed = text
        .get(..header.len() + 1 + payload.len())
        .ok_or(JwsError::Form)?;
    let [header, payload, signature] = [header, payload, signature].map(from_base64url);
    let (header, payload, signature) = (header?, payload?, signature?);

    let header: Header = in_one_spelling(&header, JwsError::Header)?;
    if header.typ != typ {
        return Err(JwsError::Type(typ));
    }
    let (public_key, evidence) = match (header.x5c, header.spki) {
        (Some(chain), None) => {
            let evidence = from_chain(&chain)?;
            let certificate = x509::Certificate::from_der(&evidence.slot_certificate)
                .map_err(|_| JwsError::Certificate)?;
            (certificate.spki.to_vec(), Some(evidence))
        }
        (None, Some(spki)) => (from_base64url(&spki)?, None),
        (Some(_), Some(_)) | (None, None) => {
            let what = "it needs exactly one of x5c and spki";
            return Err(JwsError::Header(what.to_owned()));
        }
    };
    let public_key = PublicKey::from_spki_der(&public_key).map_err(JwsError::Key)?;
    let key = public_key.algorithm();
    if header.alg != Algorithm::of(key) {
        return Err(JwsError::Algorithm {
            algorithm: header.alg.name(),
            key,
        });
    }
    let signature = header.alg.to_x509(&signature).ok_or(JwsError::Signature)?;
    public_key
        .verify(
            public_key.signature_algorithm(),
            signed.as_bytes(),
            &signature,
        )
        .map_err(|_| JwsError::Signature)?;
    Ok(Verified {
        payload: in_one_spelling(&payload, JwsError::Payload)?,
        public_key,
        evidence,
        sha256: sha256(text.as_bytes()),
    })
}

/// Signs a payload. With evidence, that is what carries the key.
pub(super) fn sign<P: Serialize, K: SigningKey>(
    payload: &P,
    typ: &str,
    key: &K,
    evidence: Option<&Evidence>,
) -> Result<String, SignError<K::Error>> {
    let public_key = key.public_key();
    let alg = Algorithm::of(public_key.algorithm());
    let header = Header {
        alg,
        typ: typ.to_owned(),
        x5c: evidence.map(|evidence| {
            std::iter::once(&evidence.slot_certificate)
                .chain(&evidence.intermediates)
                .map(|der| STANDARD.encode(der))
                .collect()
        }),
        spki: evidence
            .is_none()
            .then(|| URL_SAFE_NO_PAD.encode(public_key.spki_der())),
    };
    let mut text = URL_SAFE_NO_PAD.encode(written(&header));
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(written(payload)));
    let signature = key.sign(text.as_bytes()).map_err(SignError::Key)?;
    let signature = alg.to_jws(&signature).ok_or(SignError::Signature)?;
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(text)
}

fn from_base64url(text: &str) -> Result<Vec<u8>, JwsError> {
    // Refuses padding, and bits that are left over and not zero: one text for each value.
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::Form)
}

fn from_chain(chain: &[String]) -> Result<Evidence, JwsError> {
    let of = |text: &String| STANDARD.decode(text).map_err(|_| JwsError::Certificate);
    let Some((slot, intermediates)) = chain.split_first() else {
        return Err(JwsError::Certificate);
    };
    if !(1..=MAX_INTERMEDIATES).contains(&intermediates.len()) {
        let what = format!("x5c has {} certificates; 2 to 5 are read", chain.len());
        return Err(JwsError::Header(what));
    }
    Ok(Evidence {
        slot_certificate: of(slot)?,
        intermediates: intermediates.iter().map(of).collect::<Result<_, _>>()?,
    })
}

/// A value whose JSON is exactly what would be written of it.
fn in_one_spelling<T: DeserializeOwned + Serialize>(
    json: &[u8],
    refused: impl FnOnce(String) -> JwsError,
) -> Result<T, JwsError> {
    let value: T =
        serde_json::from_slice(json).map_err(|error| refused(without_foreign_text(&error)))?;
    if written(&value) == json {
        Ok(value)
    } else {
        Err(JwsError::Spelling)
    }
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of text and numbers with fixed names always have a JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

/// What kind of error it is and where: the whole would quote what others wrote.
fn without_foreign_text(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "unknown, repeated, missing or wrong fields",
        serde_json::error::Category::Eof
        | serde_json::error::Category::Io
        | serde_json::error::Category::Syntax => "it is not JSON",
    };
    format!("{kind}, at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecdsa_numbers_have_a_fixed_length_and_come_back() {
        let short = asn1::sequence(&[&asn1::unsigned(&[7]), &asn1::unsigned(&[0x80, 1])]);
        for (algorithm, length) in [(Algorithm::Es256, 64), (Algorithm::Es384, 96)] {
            let raw = algorithm.to_jws(&short).unwrap();
            assert_eq!(raw.len(), length);
            assert_eq!(algorithm.to_x509(&raw).unwrap(), short);
            assert_eq!(algorithm.to_x509(&raw[1..]), None);
        }
        let long = asn1::sequence(&[&asn1::unsigned(&[1; 33]), &asn1::unsigned(&[1])]);
        assert_eq!(Algorithm::Es256.to_jws(&long), None);
    }
}
