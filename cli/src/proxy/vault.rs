//! The key and certificate of a login with a software key, while the certificate lives.

use super::{locked::Locked, trouble::Trouble};
use crate::{
    error::{Error, Exit},
    software::{SoftwareCertificate, SoftwareCredential, SoftwareError},
};
use jiff::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use touchstone_common::key::{SigningKey as _, SoftwareKey};

/// One login's, or nothing.
#[derive(Debug, Default)]
pub(super) struct Vault(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    certificate: SoftwareCertificate,
    chain: String,
    key: Locked,
}

impl Vault {
    /// What is kept and has not ended. What has is wiped.
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .as_ref()
            .is_some_and(|kept| kept.certificate.not_after < Timestamp::now())
        {
            *kept = None;
        }
        kept
    }

    /// Keeps it in the place of what was kept before.
    ///
    /// # Errors
    /// When key and certificate are no pair, or memory cannot be locked: then nothing of it is kept.
    pub(super) fn keep(&self, credential: &SoftwareCredential) -> Result<(), Trouble> {
        let key = SoftwareKey::from_pkcs8_pem(credential.key.as_bytes()).ok();
        let of_certificate = super::epoch::public_key(&credential.chain);
        if key.is_none() || key.as_ref().map(SoftwareKey::public_key) != of_certificate.as_ref() {
            return Err(Trouble::new(
                Exit::Other,
                "the key and the certificate do not belong together",
                None,
            ));
        }
        let Some(key) = Locked::new(credential.key.as_bytes()) else {
            return Err(Error::from(SoftwareError::NotLocked).into());
        };
        *self.kept() = Some(Kept {
            certificate: credential.certificate.clone(),
            chain: credential.chain.clone(),
            key,
        });
        Ok(())
    }

    /// A copy, to be handed out.
    pub(super) fn copy(&self) -> Option<SoftwareCredential> {
        let kept = self.kept();
        let kept = kept.as_ref()?;
        Some(SoftwareCredential {
            certificate: kept.certificate.clone(),
            chain: kept.chain.clone(),
            key: std::str::from_utf8(kept.key.expose()).ok()?.to_owned(),
        })
    }

    /// What is public of it.
    pub(super) fn certificate(&self) -> Option<SoftwareCertificate> {
        self.kept().as_ref().map(|kept| kept.certificate.clone())
    }

    /// Forgets it.
    pub(super) fn wipe(&self) {
        *self.kept() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    fn credential(life: SignedDuration) -> SoftwareCredential {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let chain = CertificateParams::default().self_signed(&key).unwrap();
        SoftwareCredential {
            certificate: SoftwareCertificate {
                user: "alice".to_owned(),
                groups: vec!["oncall".to_owned()],
                not_before: Timestamp::now(),
                not_after: Timestamp::now() + life,
                serial_number: "ab".to_owned(),
                fingerprint: "cd".to_owned(),
                algorithm: "P-256".to_owned(),
                request: "touchstone-alice-x".to_owned(),
            },
            chain: chain.pem(),
            key: key.serialize_pem(),
        }
    }

    #[test]
    fn a_key_is_kept_until_its_certificate_ends_or_it_is_wiped() {
        let vault = Vault::default();
        assert!(vault.copy().is_none());
        let given = credential(SignedDuration::from_mins(30));
        vault.keep(&given).unwrap();
        assert_eq!(vault.copy().unwrap().key, given.key);
        assert!(!format!("{vault:?} {given:?}").contains("PRIVATE KEY"));
        vault.wipe();
        assert!(vault.copy().is_none());
        vault
            .keep(&credential(-SignedDuration::from_secs(1)))
            .unwrap();
        assert!(vault.certificate().is_none());
        assert!(vault.0.lock().unwrap().is_none());
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused_and_replaces_nothing() {
        let vault = Vault::default();
        let good = credential(SignedDuration::from_mins(30));
        vault.keep(&good).unwrap();
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        for key in [other.serialize_pem(), "nonsense".to_owned(), String::new()] {
            let mut wrong = credential(SignedDuration::from_mins(30));
            wrong.key = key;
            assert!(vault.keep(&wrong).is_err());
        }
        assert_eq!(vault.copy().unwrap().key, good.key);
    }
}
