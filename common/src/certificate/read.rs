//! Reading certificates that Touchstone made, or that a cluster's own CA made for it.

use super::{CertificateError, LABEL, Validity, profile::CLIENT_AUTH};
use crate::{
    csr,
    key::{Accept, PublicKey},
    name::{GroupName, MAX_CERTIFICATE_GROUPS, UserName},
    pem,
    x509::{self, Certificate, ReadError},
};
use const_oid::ObjectIdentifier;

/// A parsed CA certificate that certificates are issued under.
#[derive(Clone, Debug)]
pub struct CaCertificate {
    der: Vec<u8>,
    public_key: PublicKey,
    validity: Validity,
    subject: Vec<u8>,
    self_issued: bool,
    common_name: String,
    key_identifier: Vec<u8>,
    serial: String,
    path_length: Option<u8>,
    purposes: Option<Vec<ObjectIdentifier>>,
}

impl CaCertificate {
    /// Reads a CA certificate from one PEM block.
    ///
    /// # Errors
    /// When it is not a CA certificate of ours.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        Self::from_der(&pem::one_block(pem, LABEL)?)
    }

    /// Reads a CA certificate. One that names itself as its issuer must have signed itself.
    ///
    /// # Errors
    /// As [`CaCertificate::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = Certificate::from_der(der)?;
        let public_key = certificate.public_key().map_err(ReadError::Key)?;
        let path_length = check_ca(&certificate)?;
        let self_issued = certificate.issuer == certificate.subject;
        if self_issued {
            certificate
                .verify(&public_key, Accept::Fitting)
                .map_err(CertificateError::Signature)?;
        }
        let key_identifier = certificate
            .subject_key_id()
            .map_err(ReadError::Der)?
            .map_or_else(|| public_key.key_identifier().to_vec(), <[u8]>::to_vec);
        let common_name = x509::attributes(certificate.subject)?
            .iter()
            .filter(|attribute| attribute.oid == x509::COMMON_NAME)
            .find_map(x509::Attribute::text)
            .unwrap_or_default()
            .to_owned();
        Ok(Self {
            validity: certificate.validity,
            subject: certificate.subject.to_vec(),
            purposes: certificate.extended_key_usage().map_err(ReadError::Der)?,
            der: der.to_vec(),
            public_key,
            self_issued,
            common_name,
            key_identifier,
            serial: serial_hex(&certificate),
            path_length,
        })
    }

    /// DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode(LABEL, &self.der)
    }

    /// Its serial number, lower-case hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Its dates.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its common name; empty when it has none.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// SHA-256 of it.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        super::fingerprint(&self.der)
    }

    /// Whether it signed itself.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.self_issued
    }

    /// Whether this CA signed that certificate (DER).
    ///
    /// # Errors
    /// When it did not, or the certificate cannot be read.
    pub fn verify_signature_of(&self, certificate: &[u8]) -> Result<(), CertificateError> {
        let certificate = Certificate::from_der(certificate)?;
        if !self.is_issuer_of(&certificate) {
            return Err(CertificateError::UnknownIssuer);
        }
        Ok(())
    }

    pub(crate) fn is_issuer_of(&self, certificate: &Certificate<'_>) -> bool {
        certificate.issuer == self.subject
            && certificate
                .verify(&self.public_key, Accept::Fitting)
                .is_ok()
    }

    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }

    pub(crate) fn path_length(&self) -> Option<u8> {
        self.path_length
    }

    /// Whether certificates under it may have this purpose.
    pub(crate) fn allows(&self, purpose: ObjectIdentifier) -> bool {
        self.purposes
            .as_ref()
            .is_none_or(|purposes| purposes.contains(&purpose))
    }
}

/// The serial number without the zero that keeps it positive.
fn serial_hex(certificate: &Certificate<'_>) -> String {
    hex::encode(match certificate.serial {
        [0, rest @ ..] => rest,
        whole => whole,
    })
}

/// Whether a certificate is a CA's that may sign certificates; its path length.
fn check_ca(certificate: &Certificate<'_>) -> Result<Option<u8>, CertificateError> {
    check_critical(certificate)?;
    let Some((true, path_length)) = certificate.basic_constraints().map_err(ReadError::Der)? else {
        return Err(CertificateError::NotCa);
    };
    match certificate.key_usage().map_err(ReadError::Der)? {
        Some(usage) if usage & x509::KEY_CERT_SIGN == 0 => Err(CertificateError::NotCa),
        // RFC 5280 section 4.2.1.3 restricts a key only where the extension is there; many cluster CAs have none.
        Some(_) | None => Ok(path_length),
    }
}

/// RFC 5280 section 4.2: a critical extension that is not understood refuses the certificate.
fn check_critical(certificate: &Certificate<'_>) -> Result<(), CertificateError> {
    match certificate.extensions.iter().find(|extension| {
        extension.critical
            && !matches!(
                extension.oid,
                x509::BASIC_CONSTRAINTS
                    | x509::KEY_USAGE
                    | x509::EXTENDED_KEY_USAGE
                    | x509::SUBJECT_KEY_ID
                    | x509::AUTHORITY_KEY_ID
                    | x509::SUBJECT_ALT_NAME
            )
    }) {
        Some(extension) => Err(CertificateError::CriticalExtension(extension.oid)),
        None => Ok(()),
    }
}

/// Whom a client certificate names. Its signature and its dates have been, or will be, checked elsewhere: by the TLS
/// library, or by [`super::verify_issued`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// CN.
    pub user: UserName,
    /// O, sorted, none twice.
    pub groups: Vec<GroupName>,
    /// Its key.
    pub public_key: PublicKey,
    /// Its dates.
    pub validity: Validity,
    /// SHA-256 of the certificate, the audit log's credential id.
    pub fingerprint: [u8; 32],
    /// Serial number, lower-case hex.
    pub serial: String,
}

impl ClientIdentity {
    /// Reads a client certificate strictly: exactly one CN, at least one O, for client authentication alone, no CA, no
    /// subject alternative names.
    ///
    /// # Errors
    /// When any of that does not hold.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::from_certificate(der, &Certificate::from_der(der)?)
    }

    pub(super) fn from_certificate(
        der: &[u8],
        certificate: &Certificate<'_>,
    ) -> Result<Self, CertificateError> {
        check_critical(certificate)?;
        if certificate.extension(x509::SUBJECT_ALT_NAME).is_some() {
            return Err(CertificateError::SubjectAltName);
        }
        if let Some((true, _)) = certificate.basic_constraints().map_err(ReadError::Der)? {
            return Err(CertificateError::IsCa);
        }
        // kube-controller-manager writes no key usage when a request asks for `client auth` alone.
        let fits = certificate
            .key_usage()
            .map_err(ReadError::Der)?
            .is_none_or(|usage| {
                usage & x509::DIGITAL_SIGNATURE != 0 && usage & x509::KEY_CERT_SIGN == 0
            });
        if !fits {
            return Err(CertificateError::KeyUsage);
        }
        let purposes = certificate.extended_key_usage().map_err(ReadError::Der)?;
        if purposes.as_deref() != Some(&[CLIENT_AUTH]) {
            return Err(CertificateError::ExtendedKeyUsage);
        }
        // kube-controller-manager writes all O into one place; so strict as a request is no certificate of Go's.
        let names = x509::attributes_by_type(certificate.subject)?;
        let (user, groups) = csr::read_names(&names, MAX_CERTIFICATE_GROUPS)?;
        Ok(Self {
            user,
            groups,
            public_key: certificate.public_key().map_err(ReadError::Key)?,
            validity: certificate.validity,
            fingerprint: super::fingerprint(der),
            serial: serial_hex(certificate),
        })
    }
}
