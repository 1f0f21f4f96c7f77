//! Making a certificate: prepared once from checked values, its digest known before the key signs it.

use super::{CaCertificate, CertificateError, Profile, Validity};
use crate::{
    asn1,
    key::{self, PublicKey, SigningKey},
    x509,
};

/// A certificate's serial number: 16 random bytes, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// From 16 random bytes; the top bit is cleared and the next one set.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let [first, rest @ ..] = bytes;
        let mut serial = [first & 0x7f | 0x40; 16];
        for (to, from) in serial.iter_mut().skip(1).zip(rest) {
            *to = from;
        }
        Self(serial)
    }

    /// Lower-case hex.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// A certificate ready to be signed, once.
#[derive(Debug)]
pub struct Prepared {
    tbs_der: Vec<u8>,
    signer: PublicKey,
    validity: Validity,
    serial: SerialNumber,
}

/// Why a prepared certificate was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError<E> {
    /// The key failed.
    #[error("the CA key cannot sign")]
    Key(#[source] E),
    /// The key is another's.
    #[error("the key is not the issuer's")]
    WrongKey,
}

impl Prepared {
    /// A certificate of `profile` for `public_key` under `issuer` (`None`: self-signed).
    ///
    /// The dates lose their fractions of a second.
    ///
    /// # Errors
    /// When it would outlive its issuer, the validity is empty, the issuer may not issue it, or a name is not allowed.
    pub fn new(
        profile: &Profile<'_>,
        public_key: &PublicKey,
        validity: Validity,
        serial: SerialNumber,
        issuer: Option<&CaCertificate>,
    ) -> Result<Self, CertificateError> {
        profile.check_issuer(issuer)?;
        let validity = validity.whole_seconds();
        if validity.not_after < validity.not_before {
            return Err(CertificateError::EmptyValidity);
        }
        if issuer.is_some_and(|issuer| validity.not_after > issuer.validity().not_after) {
            return Err(CertificateError::OutlivesIssuer);
        }
        let subject = profile.subject()?;
        let signer = issuer.map_or(public_key, CaCertificate::public_key);
        let tbs_der = asn1::sequence(&[
            // Version 3.
            &asn1::tlv(asn1::context(0, true), &[&asn1::unsigned(&[2])]),
            &asn1::unsigned(&serial.0),
            &signer.signature_algorithm().to_der(),
            issuer.map_or(subject.as_slice(), CaCertificate::subject),
            &asn1::sequence(&[
                &x509::certificate_time(validity.not_before),
                &x509::certificate_time(validity.not_after),
            ]),
            &subject,
            public_key.spki_der(),
            &profile.extensions(public_key, issuer)?,
        ]);
        Ok(Self {
            tbs_der,
            signer: signer.clone(),
            validity,
            serial,
        })
    }

    /// SHA-256 of the to-be-signed bytes.
    #[must_use]
    pub fn tbs_sha256(&self) -> [u8; 32] {
        key::sha256(&self.tbs_der)
    }

    /// Its dates.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> SerialNumber {
        self.serial
    }

    /// Signs it; the certificate, DER. Refuses a key that is not the issuer's.
    ///
    /// # Errors
    /// When the key cannot sign or is not the issuer's.
    pub fn sign<K: SigningKey + ?Sized>(self, key: &K) -> Result<Vec<u8>, SignError<K::Error>> {
        if key.public_key() != &self.signer {
            return Err(SignError::WrongKey);
        }
        let signature = key.sign(&self.tbs_der).map_err(SignError::Key)?;
        Ok(asn1::sequence(&[
            &self.tbs_der,
            &self.signer.signature_algorithm().to_der(),
            &asn1::bit_string(&signature),
        ]))
    }
}
