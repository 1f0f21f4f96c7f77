//! The request of an issuing CA: one name, one key, and the key's own signature. Whatever else a certificate has, the
//! root's side decides.

use crate::{
    asn1::Fields,
    csr::{self, CsrError, EXTENSION_REQUESTS, Parts},
    key::{self, PublicKey, SigningKey},
    name::{AuthorityName, NameError, quoted},
    x509::{self, ReadError},
};
use der::Tag;

/// A request that was read strictly and whose signature verified.
#[derive(Clone, Debug)]
pub struct IssuingRequest {
    name: AuthorityName,
    public_key: PublicKey,
    der: Vec<u8>,
}

/// Why a request was refused. Foreign text in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuingRequestError {
    /// It is no request, asks for extensions, or its signature does not verify.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The common name.
    #[error("the CA's name {name} {error}")]
    Name {
        /// The name, quoted and escaped.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// Something other than exactly one common name.
    #[error("the subject is not one common name (CN) and nothing else")]
    Subject,
}

impl IssuingRequest {
    /// Makes the request of the issuing CA `name`, signed by its key; DER.
    ///
    /// # Errors
    /// The key's own error when it cannot sign.
    pub fn sign<K: SigningKey + ?Sized>(
        name: &AuthorityName,
        key: &K,
    ) -> Result<Vec<u8>, K::Error> {
        csr::signed(&csr::subject(name.as_str(), &[]), &[], key)
    }

    /// Reads exactly one PEM block and nothing else.
    ///
    /// # Errors
    /// When it is not strict DER, its signature does not verify, or it asks for anything but a name and a key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IssuingRequestError> {
        Self::from_der(&csr::der_of(pem)?)
    }

    /// Reads DER without trailing bytes.
    ///
    /// # Errors
    /// As [`IssuingRequest::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, IssuingRequestError> {
        let (parts, public_key) = Parts::verified(der)?;
        let name = read_name(parts.subject)?;
        refuse_attributes(parts.attributes)?;
        Ok(Self {
            name,
            public_key,
            der: der.to_vec(),
        })
    }

    /// The name that the CA asks for.
    #[must_use]
    pub fn name(&self) -> &AuthorityName {
        &self.name
    }

    /// The CA's key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// SHA-256 of the DER.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        key::sha256(&self.der)
    }

    /// PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        csr::to_pem(&self.der)
    }
}

fn read_name(subject: &[u8]) -> Result<AuthorityName, IssuingRequestError> {
    let attributes = x509::attributes(subject).map_err(|error| match error {
        ReadError::Der(error) => CsrError::Der {
            part: "the subject",
            error,
        },
        _ => CsrError::MultiValuedRdn,
    })?;
    let [only] = attributes.as_slice() else {
        return Err(IssuingRequestError::Subject);
    };
    if only.oid != x509::COMMON_NAME {
        return Err(IssuingRequestError::Subject);
    }
    let text = only.text().ok_or(CsrError::StringType("CN"))?;
    AuthorityName::parse(text).map_err(|error| IssuingRequestError::Name {
        name: quoted(text),
        error,
    })
}

fn refuse_attributes(attributes: &[u8]) -> Result<(), CsrError> {
    let wrong = |error| CsrError::Der {
        part: "the attributes",
        error,
    };
    let mut fields = Fields::new(attributes).map_err(wrong)?;
    if fields.is_empty() {
        return Ok(());
    }
    let oid = fields
        .inner(Tag::Sequence)
        .and_then(|mut attribute| attribute.read())
        .map_err(wrong)?;
    Err(if EXTENSION_REQUESTS.contains(&oid) {
        CsrError::ExtensionRequest
    } else {
        CsrError::UnknownAttribute(oid)
    })
}
