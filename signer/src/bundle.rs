//! The trust bundle: what API servers take as `--client-ca-file`, so that they believe the certificates of the CAs of a
//! record.
//!
//! [`Bundle`] is the checked value. [`publish`] puts it into the cluster; [`published`] is how it stands there, [`source`]
//! reads it. [`sync`] keeps the [`file`](mod@file) on a control-plane node: what is published and what an operator
//! [`mod@include`]s, by the rules of [`merge`].

pub mod file;
pub mod include;
pub mod merge;
pub mod publish;
pub mod published;
pub mod source;
pub mod sync;
mod voice;

use crate::ca::record::{Binding, Record};
use aws_lc_rs::digest::{self, SHA256};
use std::collections::BTreeSet;
use touchstone_common::certificate::{self, CaCertificate, CertificateError};

/// The namespace that it is in where nobody says otherwise; `deploy/components/own-ca/bundle.yaml` makes it.
pub const NAMESPACE: &str = "touchstone";
/// The most certificates of one bundle: every handshake of an API server looks through them.
pub const MAX_CERTIFICATES: usize = 64;

/// CA certificates that belong to one cluster, never none, each once, each signed by itself.
#[derive(Clone, Debug)]
pub struct Bundle {
    binding: Binding,
    revision: u64,
    certificates: Vec<CaCertificate>,
}

/// Why certificates are no trust bundle. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// One cannot be read, or is not a CA's.
    #[error("use the trust bundle")]
    Certificate(#[from] CertificateError),
    /// There is none.
    #[error("use the trust bundle: there is no certificate in it")]
    Empty,
    /// Another CA signed one: trusting it would outlast the trust in that CA.
    #[error("use the trust bundle: the CA {name:?} in it is not a root, another CA signed it")]
    NotRoot {
        /// The certificate's common name.
        name: String,
    },
    /// There are too many.
    #[error("use the trust bundle: there are {0} certificates in it, more than {MAX_CERTIFICATES}")]
    TooMany(usize),
}

impl Bundle {
    /// The certificates that are trusted since the change number `revision`, in the order given.
    ///
    /// # Errors
    /// When there is none, are too many, or one is signed by another CA.
    pub fn new(
        binding: Binding,
        revision: u64,
        certificates: Vec<CaCertificate>,
    ) -> Result<Self, BundleError> {
        let certificates = each_once(certificates);
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        if certificates.len() > MAX_CERTIFICATES {
            return Err(BundleError::TooMany(certificates.len()));
        }
        if let Some(other) = certificates.iter().find(|one| !one.is_self_signed()) {
            return Err(BundleError::NotRoot {
                name: other.common_name().to_owned(),
            });
        }
        Ok(Self {
            binding,
            revision,
            certificates,
        })
    }

    /// Reads the certificates from PEM.
    ///
    /// # Errors
    /// As [`Bundle::new`], and when a block is not the certificate of a CA.
    pub fn from_pem(binding: Binding, revision: u64, pem: &[u8]) -> Result<Self, BundleError> {
        let certificates = certificate::from_pem_bundle(pem)?
            .iter()
            .map(|der| CaCertificate::from_der(der))
            .collect::<Result<_, _>>()?;
        Self::new(binding, revision, certificates)
    }

    /// What a record trusts.
    ///
    /// # Errors
    /// When it trusts nothing.
    pub fn of(record: &Record) -> Result<Self, BundleError> {
        Self::from_pem(
            record.binding().clone(),
            record.lifecycle().trust_changes(),
            record.trust_bundle().as_bytes(),
        )
    }

    /// Which cluster it belongs to.
    #[must_use]
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// How many changes of trust led to it: of two bundles of a cluster, the one with the higher number is the newer.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &[CaCertificate] {
        &self.certificates
    }

    /// PEM blocks and nothing else: a ClusterTrustBundle takes no text between them.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificates
            .iter()
            .map(CaCertificate::to_pem)
            .collect()
    }

    /// SHA-256 of its PEM, lower-case hex: what `sha256sum` prints.
    #[must_use]
    pub fn sha256(&self) -> String {
        sha256(self.to_pem().as_bytes())
    }
}

impl BundleError {
    /// What to do about it, for who makes one.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Certificate(_) | Self::Empty => {
                "look at the CAs with `touchstone-signer ca status`: one must be trusted before there is a bundle".into()
            }
            Self::NotRoot { .. } => {
                "put the root of that CA there instead: it is the root that API servers trust".into()
            }
            Self::TooMany(_) => {
                "take out CAs whose certificates have all ended: `touchstone-signer ca status` lists them".into()
            }
        }
    }
}

/// Lower-case hex.
pub(crate) fn sha256(text: &[u8]) -> String {
    hex::encode(digest::digest(&SHA256, text))
}

/// The certificates without those that came before already.
fn each_once(certificates: Vec<CaCertificate>) -> Vec<CaCertificate> {
    let mut seen = BTreeSet::new();
    certificates
        .into_iter()
        .filter(|one| seen.insert(one.fingerprint()))
        .collect()
}

#[cfg(test)]
mod tests;
