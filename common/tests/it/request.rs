//! Requests by hand, right or wrong, each signed correctly.

use crate::{
    der::{bits, cn, o, oid, sequence, set, tlv},
    support::claims,
};
use touchstone_common::{
    csr::{CsrError, Request},
    evidence::Evidence,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    name::NameError,
};

pub(crate) const CLAIMS: &str = "1.3.6.1.4.1.32473.77.1";
pub(crate) const EVIDENCE: &str = "1.2.840.113549.1.9.16.2.59";
pub(crate) const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// A request in parts, each of which can be replaced.
pub(crate) struct Parts {
    pub(crate) key: SoftwareKey,
    pub(crate) version: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) attributes: Vec<Vec<u8>>,
    pub(crate) after_attributes: Vec<u8>,
    pub(crate) algorithm: Vec<u8>,
}

impl Parts {
    pub(crate) fn new() -> Self {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        Self {
            version: vec![2, 1, 0],
            subject: sequence(&[&cn("alice"), &o("dev")]),
            spki: key.public_key().spki_der().to_vec(),
            attributes: vec![attribute(CLAIMS, &[&claims().to_der()])],
            after_attributes: Vec::new(),
            algorithm: sequence(&[&oid(ECDSA_SHA256)]),
            key,
        }
    }

    pub(crate) fn subject(parts: &[&[u8]]) -> Self {
        Self {
            subject: sequence(parts),
            ..Self::new()
        }
    }

    pub(crate) fn attributes(attributes: Vec<Vec<u8>>) -> Self {
        Self {
            attributes,
            ..Self::new()
        }
    }

    pub(crate) fn info(&self) -> Vec<u8> {
        sequence(&[
            &self.version,
            &self.subject,
            &self.spki,
            &tlv(0xa0, &self.attributes.concat()),
            &self.after_attributes,
        ])
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        let info = self.info();
        let signature = self.key.sign(&info).unwrap();
        sequence(&[&info, &self.algorithm, &bits(&signature)])
    }

    pub(crate) fn read(&self) -> Result<Request, CsrError> {
        Request::from_der(&self.der())
    }

    pub(crate) fn refusal(&self) -> CsrError {
        self.read().unwrap_err()
    }
}

pub(crate) fn attribute(dotted: &str, values: &[&[u8]]) -> Vec<u8> {
    sequence(&[&oid(dotted), &set(values)])
}

pub(crate) fn claims_attribute() -> Vec<u8> {
    attribute(CLAIMS, &[&claims().to_der()])
}

pub(crate) fn evidence_attribute() -> Vec<u8> {
    let evidence = Evidence {
        slot_certificate: sequence(&[]),
        intermediates: vec![sequence(&[])],
    };
    attribute(EVIDENCE, &[&evidence.to_der()])
}

pub(crate) fn groups(names: &[&str]) -> Parts {
    let names: Vec<Vec<u8>> = names.iter().map(|name| o(name)).collect();
    Parts::subject(&[&cn("alice"), &names.concat()])
}

pub(crate) fn name_error(parts: &Parts) -> NameError {
    match parts.refusal() {
        CsrError::Group { error, .. } | CsrError::User { error, .. } => error,
        other => panic!("refused for another reason: {other}"),
    }
}

pub(crate) fn is_der_error(parts: &Parts) -> bool {
    matches!(parts.refusal(), CsrError::Der { .. })
}
