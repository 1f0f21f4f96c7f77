//! The certificate that comes back from a ceremony: exactly what an issuing CA may have, whoever made it.

use super::plan::LONGEST_ISSUING;
use crate::{
    certificate::{CLIENT_AUTH, CaCertificate, CertificateError, Validity},
    key::PublicKey,
    name::{AuthorityName, quoted},
    pem,
    x509::{self, Certificate, ReadError},
};
use const_oid::ObjectIdentifier;

/// What is expected of an issuing certificate.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedIssuing<'a> {
    /// The name that was asked for.
    pub name: &'a AuthorityName,
    /// The key that asked.
    pub public_key: &'a PublicKey,
    /// The root that it must be signed by.
    pub root: &'a CaCertificate,
}

/// Why an issuing certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuingError {
    /// It cannot be read, or is not a CA's.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An extension that is not in the profile.
    #[error("the certificate has the extension {0}, which an issuing CA must not have")]
    Extension(ObjectIdentifier),
    /// Identifiers of keys.
    #[error("the certificate's {0} is missing or not the one of its key")]
    KeyIdentifier(&'static str),
    /// Key usages.
    #[error("the certificate's key usage is not keyCertSign and cRLSign, critical")]
    KeyUsage,
    /// Its first second lies before the root's or its last one after it.
    #[error(
        "the certificate is valid from {} to {}, which is not within its root's {} to {}",
        certificate.not_before, certificate.not_after, root.not_before, root.not_after
    )]
    OutsideRoot {
        /// Its own dates.
        certificate: Validity,
        /// The root's.
        root: Validity,
    },
    /// It may sign further CAs, or is not marked as a CA's as it must be.
    #[error("the certificate's basic constraints are not CA with path length 0, critical")]
    PathLength,
    /// Purposes.
    #[error("the certificate is not for client authentication alone")]
    Purpose,
    /// The root is none that issuing CAs can stand under.
    #[error("the root {0}")]
    Root(&'static str),
    /// It lives longer than any ceremony allows.
    #[error("the certificate is valid from {} to {}, longer than any ceremony allows", .0.not_before, .0.not_after)]
    TooLong(Validity),
    /// Another root signed it, or no one.
    #[error("the certificate was not signed by the root {0}")]
    Signature(String),
    /// Another key.
    #[error("the certificate is for another key than the request")]
    WrongKey,
    /// Another name.
    #[error("the certificate is for {found}, not {expected}")]
    WrongName {
        /// Whose it is, quoted and escaped.
        found: String,
        /// Whose it should be, quoted.
        expected: String,
    },
}

/// Checks an issuing certificate (one PEM block) against what was asked for and the root: subject, key, CA with path
/// length 0, keyCertSign and cRLSign, clientAuth alone, key identifiers, no other extension, dates within the root's and no
/// longer than a ceremony's, the root's signature.
///
/// # Errors
/// What is not as it must be.
pub fn verify_issuing(
    pem: &[u8],
    expected: &ExpectedIssuing<'_>,
) -> Result<CaCertificate, IssuingError> {
    let root = expected.root;
    check_root(root)?;
    let der = pem::one_block(pem, "CERTIFICATE").map_err(CertificateError::Pem)?;
    let certificate = Certificate::from_der(&der).map_err(CertificateError::Read)?;
    if !root.is_issuer_of(&certificate) {
        return Err(IssuingError::Signature(quoted(root.common_name())));
    }
    let ca = CaCertificate::from_der(&der)?;
    if ca.public_key() != expected.public_key {
        return Err(IssuingError::WrongKey);
    }
    check_name(&certificate, expected.name)?;
    check_extensions(&certificate, root)?;
    let (own, its) = (ca.validity(), root.validity());
    if own.not_before < its.not_before
        || own.not_after > its.not_after
        || own.not_after < own.not_before
    {
        return Err(IssuingError::OutsideRoot {
            certificate: own,
            root: its,
        });
    }
    if own.not_after.duration_since(own.not_before) > LONGEST_ISSUING {
        return Err(IssuingError::TooLong(own));
    }
    Ok(ca)
}

/// Checks that issuing CAs can stand under a root.
///
/// # Errors
/// [`IssuingError::Root`] says what keeps them from it.
pub fn check_root(root: &CaCertificate) -> Result<(), IssuingError> {
    if !root.is_self_signed() {
        return Err(IssuingError::Root("is not self-signed"));
    }
    if root.path_length() == Some(0) {
        return Err(IssuingError::Root("allows no CA below it (path length 0)"));
    }
    if !root.allows(CLIENT_AUTH) {
        return Err(IssuingError::Root(
            "is for other purposes than client authentication",
        ));
    }
    Ok(())
}

/// Exactly one CN, this one.
fn check_name(certificate: &Certificate<'_>, name: &AuthorityName) -> Result<(), IssuingError> {
    let attributes = x509::attributes(certificate.subject).map_err(CertificateError::Read)?;
    if let [only] = attributes.as_slice()
        && only.oid == x509::COMMON_NAME
        && only.text() == Some(name.as_str())
    {
        return Ok(());
    }
    let found: Vec<&str> = attributes
        .iter()
        .filter_map(x509::Attribute::text)
        .collect();
    Err(IssuingError::WrongName {
        found: quoted(&found.join(", ")),
        expected: quoted(name.as_str()),
    })
}

fn check_extensions(
    certificate: &Certificate<'_>,
    root: &CaCertificate,
) -> Result<(), IssuingError> {
    let read = |error: der::Error| CertificateError::Read(ReadError::Der(error));
    if let Some(other) = certificate.extensions.iter().find(|extension| {
        !matches!(
            extension.oid,
            x509::BASIC_CONSTRAINTS
                | x509::KEY_USAGE
                | x509::EXTENDED_KEY_USAGE
                | x509::SUBJECT_KEY_ID
                | x509::AUTHORITY_KEY_ID
        )
    }) {
        return Err(IssuingError::Extension(other.oid));
    }
    let critical = |oid| {
        certificate
            .extension(oid)
            .is_some_and(|extension| extension.critical)
    };
    if certificate.basic_constraints().map_err(read)? != Some((true, Some(0)))
        || !critical(x509::BASIC_CONSTRAINTS)
    {
        return Err(IssuingError::PathLength);
    }
    let usage = certificate.key_usage().map_err(read)?;
    if usage != Some(x509::KEY_CERT_SIGN | x509::CRL_SIGN) || !critical(x509::KEY_USAGE) {
        return Err(IssuingError::KeyUsage);
    }
    let purposes = certificate.extended_key_usage().map_err(read)?;
    if purposes.as_deref() != Some(&[CLIENT_AUTH]) {
        return Err(IssuingError::Purpose);
    }
    // The subject's is any identifier that its own certificates will carry; the issuer's must lead to the root.
    if certificate
        .subject_key_id()
        .map_err(read)?
        .is_none_or(<[u8]>::is_empty)
    {
        return Err(IssuingError::KeyIdentifier("subject key identifier"));
    }
    if certificate.authority_key_id().map_err(read)? != Some(root.key_identifier()) {
        return Err(IssuingError::KeyIdentifier("authority key identifier"));
    }
    Ok(())
}
