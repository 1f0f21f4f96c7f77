//! What is left of a ceremony: every document of it, and a statement that the root's one signature covers.
//!
//! The certificate's serial number is a hash of the statement and a random nonce. So who was there, when, and which files
//! were used cannot be changed afterwards without a certificate that the root never signed, and no second touch is needed.

use super::{
    ExpectedIssuing, IssuingError, IssuingRequest, IssuingRequestError, Makes, Person, Plan,
    verify_issuing,
};
use crate::{
    attestation::{self, AttestationError, Attested, Roots, Slot, TouchPolicy},
    certificate::{self, CaCertificate, CertificateError, SerialNumber},
    evidence::Evidence,
    key,
    policy::LoadError,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Kept apart from every other use of SHA-256.
const DOMAIN: &[u8] = b"touchstone.dev/v1 ceremony\0";

/// What is stated of a ceremony before it signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    /// When.
    pub at: Timestamp,
    /// With which program.
    pub tool: String,
    /// Who was there.
    pub present: Vec<Person>,
    /// Where the root's key is.
    pub signed_with: SignedWith,
    /// SHA-256 of the ceremony file.
    pub ceremony_sha256: String,
    /// SHA-256 of the request; none for a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_sha256: Option<String>,
    /// SHA-256 of the root's certificate; none for a root, which is made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_sha256: Option<String>,
    /// SHA-256 of the key's attestation, when the key is in a YubiKey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_sha256: Option<String>,
}

/// Where a root's key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SignedWith {
    /// In a file, for a trial.
    InsecureSoftwareKey,
    /// In a YubiKey.
    YubiKey {
        /// Its serial number.
        serial: u32,
        /// The slot.
        slot: Slot,
    },
}

/// A ceremony's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// What was stated.
    pub statement: Statement,
    /// 32 random bytes, lower-case hex.
    pub nonce: String,
    /// The ceremony file.
    pub ceremony: String,
    /// The request, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The root's certificate, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The attestation of the root's key, PEM, the slot's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<String>,
    /// What was made, PEM.
    pub certificate: String,
}

/// Why a record proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The attestation of the root's key.
    #[error("the attestation of the root's key: {0}")]
    Attestation(#[from] AttestationError),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A document is not the one that the statement names, or is missing.
    #[error("the {0} is not the one of the statement")]
    Document(&'static str),
    /// The issuing certificate.
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    /// The ceremony file.
    #[error("the ceremony file is refused: {0}")]
    Plan(#[from] LoadError),
    /// What was made differs from the plan.
    #[error("the {0} is not as the ceremony file says")]
    Planned(&'static str),
    /// The request.
    #[error(transparent)]
    Request(#[from] IssuingRequestError),
    /// The statement is not the one that was signed.
    #[error("the statement is not the one that the root signed: it was changed afterwards")]
    Statement,
    /// The key signs without a touch.
    #[error("the root's key signs without a touch")]
    Touch,
}

impl Statement {
    /// The serial number that binds a certificate to this.
    #[must_use]
    pub fn serial(&self, nonce: &[u8; 32]) -> SerialNumber {
        // A struct of strings and numbers always serializes, its fields in their order.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let hash = key::sha256(&[DOMAIN, nonce, &key::sha256(&json)].concat());
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(hash) {
            *to = from;
        }
        SerialNumber::from_random(bytes)
    }
}

impl Record {
    /// Verifies the whole: each document against the statement, the plan and the others, and the statement against the
    /// root's signature. What was made, and what is attested of the root's key.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, roots: &Roots) -> Result<(CaCertificate, Option<Attested>), RecordError> {
        let said = &self.statement;
        let plan = Plan::parse("the ceremony file", self.ceremony.as_bytes())?;
        check(&said.ceremony_sha256, &plan.sha256(), "ceremony file")?;
        if said.present != plan.present() {
            return Err(RecordError::Document("list of who was present"));
        }
        let (made, root) = match plan.makes() {
            Makes::Root { algorithm } => {
                if self.request.is_some() || self.root.is_some() || said.root_sha256.is_some() {
                    return Err(RecordError::Document("request"));
                }
                let made = CaCertificate::from_pem(self.certificate.as_bytes())?;
                if !made.is_self_signed() || made.path_length() != Some(1) {
                    return Err(RecordError::Planned("path length"));
                }
                if made.public_key().algorithm() != algorithm {
                    return Err(RecordError::Planned("kind of key"));
                }
                if made.common_name() != plan.name().as_str() {
                    return Err(RecordError::Planned("subject"));
                }
                (made.clone(), made)
            }
            Makes::IssuingCa { root, key } => self.verify_issuing(&plan, root, key)?,
        };
        let planned = plan.validity(said.at, Some(root.validity().not_before));
        let expected = match plan.makes() {
            Makes::Root { .. } => plan.validity(said.at, None),
            Makes::IssuingCa { .. } => planned,
        };
        if expected != Some(made.validity()) {
            return Err(RecordError::Planned("validity"));
        }
        let mut nonce = [0; 32];
        if hex::decode_to_slice(&self.nonce, &mut nonce).is_err()
            || said.serial(&nonce).to_hex() != made.serial()
        {
            return Err(RecordError::Statement);
        }
        let attested = self.attested(&root, roots)?;
        Ok((made, attested))
    }

    fn verify_issuing(
        &self,
        plan: &Plan,
        root_sha256: [u8; 32],
        key_sha256: Option<[u8; 32]>,
    ) -> Result<(CaCertificate, CaCertificate), RecordError> {
        let said = &self.statement;
        let pem = self.root.as_deref().ok_or(RecordError::Document("root"))?;
        let root = CaCertificate::from_pem(pem.as_bytes())?;
        check_some(&said.root_sha256, &root.fingerprint(), "root")?;
        if root.fingerprint() != root_sha256 {
            return Err(RecordError::Planned("root"));
        }
        let pem = self
            .request
            .as_deref()
            .ok_or(RecordError::Document("request"))?;
        let request = IssuingRequest::from_pem(pem.as_bytes())?;
        check_some(&said.request_sha256, &request.sha256(), "request")?;
        if request.name() != plan.name() {
            return Err(RecordError::Planned("subject of the request"));
        }
        if key_sha256.is_some_and(|planned| planned != request.public_key().spki_sha256()) {
            return Err(RecordError::Planned("key of the request"));
        }
        let expected = ExpectedIssuing {
            name: plan.name(),
            public_key: request.public_key(),
            root: &root,
        };
        let made = verify_issuing(self.certificate.as_bytes(), &expected)?;
        Ok((made, root))
    }

    fn attested(
        &self,
        root: &CaCertificate,
        roots: &Roots,
    ) -> Result<Option<Attested>, RecordError> {
        let said = &self.statement;
        let SignedWith::YubiKey { serial, slot } = said.signed_with else {
            return match (&self.attestation, &said.attestation_sha256) {
                (None, None) => Ok(None),
                _ => Err(RecordError::Document("attestation")),
            };
        };
        let pem = self
            .attestation
            .as_deref()
            .ok_or(RecordError::Document("attestation"))?;
        check_some(
            &said.attestation_sha256,
            &key::sha256(pem.as_bytes()),
            "attestation",
        )?;
        let mut chain = certificate::from_pem_bundle(pem.as_bytes())?.into_iter();
        let evidence = Evidence {
            slot_certificate: chain.next().ok_or(RecordError::Document("attestation"))?,
            intermediates: chain.collect(),
        };
        let attested = attestation::verify(&evidence, root.public_key(), roots, said.at)?;
        if attested.serial != serial || attested.slot != slot {
            return Err(RecordError::Document("YubiKey"));
        }
        if attested.touch_policy != TouchPolicy::Always {
            return Err(RecordError::Touch);
        }
        Ok(Some(attested))
    }
}

fn check(said: &str, found: &[u8; 32], what: &'static str) -> Result<(), RecordError> {
    if said == hex::encode(found) {
        Ok(())
    } else {
        Err(RecordError::Document(what))
    }
}

fn check_some(
    said: &Option<String>,
    found: &[u8; 32],
    what: &'static str,
) -> Result<(), RecordError> {
    check(said.as_deref().unwrap_or_default(), found, what)
}
