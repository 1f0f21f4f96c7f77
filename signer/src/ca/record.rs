//! The record of all issuing CAs of a cluster: their life cycle, certificates and keys, as one Secret holds them.
//!
//! It is bound to its cluster, and nothing in it is believed: each read checks that it is this cluster's, that moves lead
//! to it, that keys, certificates and dates belong together, and that every certificate is signed by a root of the
//! record or by itself. What fails a check is refused and stays as it is; nothing is ever made anew in its place.

use super::{
    key::{self, CaKey, CaKeyError, KeySource, Tokens},
    lifecycle::{CaId, Inconsistent, Lifecycle, State},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use touchstone_common::certificate::{CaCertificate, CertificateError};
use zeroize::Zeroizing;

/// Which cluster a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// Its name, as the policy has it.
    pub cluster: String,
    /// The UID of its `kube-system` namespace.
    pub uid: String,
}

/// A checked record.
#[derive(Clone, Debug)]
pub struct Record {
    binding: Binding,
    lifecycle: Lifecycle,
    roots: Vec<CaCertificate>,
    material: BTreeMap<CaId, Material>,
    planned: Option<Planned>,
    /// Keys that are of no use any more and not destroyed yet.
    doomed: Vec<KeySource>,
    blocked: Option<Blocked>,
}

/// A key outside of the record that somebody is making for the next CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Planned {
    /// Where it will be, or is.
    pub key: KeySource,
    /// Since when.
    pub since: Timestamp,
}

/// A step that is due and could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blocked {
    /// What was tried, in words.
    pub step: String,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why it did not work.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// What belongs to one CA beside its life cycle.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Its certificate, once it has one.
    pub certificate: Option<CaCertificate>,
    /// Where its key is; nothing once that is destroyed.
    pub key: Option<KeySource>,
    /// The request that the security team signs, PEM.
    pub request: Option<String>,
}

/// Why a record is refused. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A certificate in it.
    #[error("use the CA's record: the certificate of {0}")]
    Certificate(String, #[source] CertificateError),
    /// There is nothing in it.
    #[error("use the CA's record: it is empty")]
    Empty,
    /// It is another cluster's.
    #[error(
        "use the CA's record: it is the one of cluster {} ({}), and this is {} ({})",
        found.cluster, found.uid, expected.cluster, expected.uid
    )]
    Foreign {
        /// Whose it is.
        found: Binding,
        /// Whose it should be.
        expected: Binding,
    },
    /// No moves lead to it.
    #[error("use the CA's record")]
    Inconsistent(#[from] Inconsistent),
    /// A key of it cannot be opened.
    #[error("open the key of {0}")]
    Key(CaId, #[source] CaKeyError),
    /// It cannot be read.
    #[error("read the CA's record: it was cut off or changed")]
    Malformed(#[source] serde_json::Error),
    /// A CA has not what its state asks for.
    #[error("use the CA's record: {0} has no {1}")]
    Missing(CaId, &'static str),
    /// Parts of two CAs.
    #[error("use the CA's record: the {1} of {0} is not its own")]
    Mixed(CaId, &'static str),
    /// A certificate that no root of the record signed.
    #[error("use the CA's record: no root in it signed the certificate of {0}")]
    Unchained(CaId),
}

impl RecordError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Foreign { .. } => {
                "restore this cluster's own Secret from a backup; another cluster's CA must not sign here".into()
            }
            Self::Key(_, error) => error.remedy(),
            Self::Certificate(..)
            | Self::Empty
            | Self::Inconsistent(_)
            | Self::Malformed(_)
            | Self::Missing(..)
            | Self::Mixed(..)
            | Self::Unchained(_) => {
                "restore the Secret from a backup: Touchstone never makes a part of it anew, since clients trust the \
                 CAs that it lost"
                    .into()
            }
        }
    }
}

/// As the Secret has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireRecord {
    binding: Binding,
    lifecycle: Lifecycle,
    roots: Vec<String>,
    cas: BTreeMap<CaId, WireMaterial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    planned: Option<Planned>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    doomed: Vec<KeySource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Blocked>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<KeySource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl Record {
    /// A record of a life cycle and what belongs to it.
    ///
    /// # Errors
    /// When they do not belong together.
    pub fn new(
        binding: Binding,
        lifecycle: Lifecycle,
        roots: Vec<CaCertificate>,
        material: BTreeMap<CaId, Material>,
    ) -> Result<Self, RecordError> {
        Self {
            binding,
            lifecycle,
            roots,
            material,
            planned: None,
            doomed: Vec::new(),
            blocked: None,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, RecordError> {
        self.check()?;
        Ok(self)
    }

    /// The same record after moves that need nothing new. What removed CAs had goes: a key in the record with it, one
    /// elsewhere is [doomed](Record::doomed).
    ///
    /// # Errors
    /// When they do: a CA's key or certificate is missing.
    pub fn with_lifecycle(mut self, lifecycle: Lifecycle) -> Result<Self, RecordError> {
        let is_gone = |id: CaId| {
            lifecycle
                .ca(id)
                .is_none_or(|ca| ca.state() == State::Removed)
        };
        for (id, material) in &mut self.material {
            if is_gone(*id) {
                material.request = None;
                let key = material.key.take();
                self.doomed
                    .extend(key.filter(|key| !matches!(key, KeySource::Inline { .. })));
            }
        }
        self.material.retain(|id, _| lifecycle.ca(*id).is_some());
        self.lifecycle = lifecycle;
        self.drop_roots();
        self.checked()
    }

    /// The same record with the key that is about to be made.
    #[must_use]
    pub fn with_planned(mut self, planned: Planned) -> Self {
        self.planned = Some(planned);
        self
    }

    /// The same record, the plan given up: whatever was made by it is to be destroyed.
    #[must_use]
    pub fn without_plan(mut self) -> Self {
        let planned = self.planned.take();
        self.doomed.extend(planned.map(|planned| planned.key));
        self
    }

    /// The same record with what belongs to a CA that just came.
    ///
    /// # Errors
    /// When it does not belong to it.
    pub fn with_material(
        mut self,
        lifecycle: Lifecycle,
        id: CaId,
        material: Material,
    ) -> Result<Self, RecordError> {
        let fulfilled = |planned: &mut Planned| material.key.as_ref() == Some(&planned.key);
        let _ = self.planned.take_if(fulfilled);
        self.material.insert(id, material);
        self.with_lifecycle(lifecycle)
    }

    /// The same record with a further root.
    #[must_use]
    pub fn with_root(mut self, root: CaCertificate) -> Self {
        if self.roots.iter().all(|known| known.der() != root.der()) {
            self.roots.push(root);
        }
        self
    }

    /// The same record, with another word on what could not be done.
    #[must_use]
    pub fn with_blocked(mut self, blocked: Option<Blocked>) -> Self {
        self.blocked = blocked;
        self
    }

    /// The same record after the keys of removed CAs were destroyed.
    #[must_use]
    pub fn with_nothing_doomed(mut self) -> Self {
        self.doomed.clear();
        self
    }

    /// A root whose last CA is removed is trusted no more, once another root's CA signs.
    fn drop_roots(&mut self) {
        let living = |root: &CaCertificate, is: fn(State) -> bool| {
            let cas = self.lifecycle.cas().iter().filter(|ca| is(ca.state()));
            let mut certificates =
                cas.filter_map(|ca| self.material.get(&ca.id())?.certificate.as_ref());
            certificates.any(|certificate| is_issued_by(certificate, root))
        };
        let signs = |root: &CaCertificate| living(root, |state| state == State::Active);
        if !self.roots.iter().any(signs) {
            return;
        }
        let kept = self
            .roots
            .iter()
            .filter(|root| living(root, |state| state != State::Removed))
            .cloned()
            .collect::<Vec<_>>();
        if kept.len() < self.roots.len() {
            self.lifecycle.count_change_of_trust();
        }
        self.roots = kept;
    }

    /// Reads a record; whose it must be, where that is known.
    ///
    /// # Errors
    /// When it is not whole, not consistent, or another cluster's.
    pub fn from_json(json: &[u8], expected: Option<&Binding>) -> Result<Self, RecordError> {
        if json.iter().all(u8::is_ascii_whitespace) {
            return Err(RecordError::Empty);
        }
        let wire: WireRecord = serde_json::from_slice(json).map_err(RecordError::Malformed)?;
        if let Some(expected) = expected
            && &wire.binding != expected
        {
            return Err(RecordError::Foreign {
                found: wire.binding,
                expected: expected.clone(),
            });
        }
        let certificate = |of: String, pem: &str| {
            CaCertificate::from_pem(pem.as_bytes())
                .map_err(|error| RecordError::Certificate(of, error))
        };
        let roots = wire
            .roots
            .iter()
            .map(|pem| certificate("a root".into(), pem))
            .collect::<Result<_, _>>()?;
        let mut material = BTreeMap::new();
        for (id, one) in wire.cas {
            let certificate = one
                .certificate
                .map(|pem| certificate(id.to_string(), &pem))
                .transpose()?;
            let one = Material {
                certificate,
                key: one.key,
                request: one.request,
            };
            material.insert(id, one);
        }
        Self {
            binding: wire.binding,
            lifecycle: wire.lifecycle,
            roots,
            material,
            planned: wire.planned,
            doomed: wire.doomed,
            blocked: wire.blocked,
        }
        .checked()
    }

    /// As the Secret keeps it. It holds private keys.
    ///
    /// # Errors
    /// Never in practice: everything in it can be written.
    pub fn to_json(&self) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let cas = self.material.iter().map(|(id, one)| {
            let wire = WireMaterial {
                certificate: one.certificate.as_ref().map(CaCertificate::to_pem),
                key: one.key.clone(),
                request: one.request.clone(),
            };
            (*id, wire)
        });
        let wire = WireRecord {
            binding: self.binding.clone(),
            lifecycle: self.lifecycle.clone(),
            roots: self.roots.iter().map(CaCertificate::to_pem).collect(),
            cas: cas.collect(),
            planned: self.planned.clone(),
            doomed: self.doomed.clone(),
            blocked: self.blocked.clone(),
        };
        serde_json::to_vec(&wire)
            .map(Zeroizing::new)
            .map_err(RecordError::Malformed)
    }

    /// Which cluster's it is.
    #[must_use]
    pub fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The key that somebody is making.
    #[must_use]
    pub fn planned(&self) -> Option<&Planned> {
        self.planned.as_ref()
    }

    /// Keys outside of the record that are of no use any more and not destroyed yet.
    #[must_use]
    pub fn doomed(&self) -> &[KeySource] {
        &self.doomed
    }

    /// What is due and could not be done.
    #[must_use]
    pub fn blocked(&self) -> Option<&Blocked> {
        self.blocked.as_ref()
    }

    /// The life cycle.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// The roots that issuing certificates chain to; none where issuing CAs sign themselves.
    #[must_use]
    pub fn roots(&self) -> &[CaCertificate] {
        &self.roots
    }

    /// What belongs to a CA.
    #[must_use]
    pub fn material(&self, id: CaId) -> Option<&Material> {
        self.material.get(&id)
    }

    /// Opens the key of a CA.
    ///
    /// # Errors
    /// When it has none any more, cannot be opened, or is not the one of its certificate.
    pub async fn open_key(&self, id: CaId, tokens: &Tokens) -> Result<Box<dyn CaKey>, RecordError> {
        let material = self
            .material
            .get(&id)
            .ok_or(RecordError::Missing(id, "key"))?;
        let source = material
            .key
            .as_ref()
            .ok_or(RecordError::Missing(id, "key"))?;
        let (source, tokens) = (source.clone(), tokens.clone());
        let key = key::apart(move || source.open(&tokens))
            .await
            .map_err(|error| RecordError::Key(id, error))?;
        let is_other = |certificate: &CaCertificate| certificate.public_key() != key.public_key();
        if material.certificate.as_ref().is_some_and(is_other) {
            return Err(RecordError::Mixed(id, "key"));
        }
        Ok(key)
    }

    /// What `--client-ca-file` takes: every root, and every issuing CA that signed itself and is trusted.
    #[must_use]
    pub fn trust_bundle(&self) -> String {
        let mut bundle: String = self.roots.iter().map(CaCertificate::to_pem).collect();
        let trusted = self.lifecycle.cas().iter().filter(|ca| ca.is_trusted());
        let certificates = trusted
            .filter_map(|ca| self.material.get(&ca.id()))
            .filter_map(|material| material.certificate.as_ref());
        for certificate in certificates.filter(|certificate| certificate.is_self_signed()) {
            bundle.push_str(&certificate.to_pem());
        }
        bundle
    }

    fn check(&self) -> Result<(), RecordError> {
        self.lifecycle.check()?;
        for ca in self.lifecycle.cas() {
            let id = ca.id();
            let material = self.material.get(&id);
            let needs_key = ca.state() != State::Removed;
            if needs_key && material.is_none_or(|material| material.key.is_none()) {
                return Err(RecordError::Missing(id, "key"));
            }
            let certificate = material.and_then(|material| material.certificate.as_ref());
            match (ca.lifetime(), certificate) {
                (Some(lifetime), Some(certificate)) => {
                    let validity = certificate.validity();
                    if (lifetime.not_before, lifetime.not_after)
                        != (validity.not_before, validity.not_after)
                    {
                        return Err(RecordError::Mixed(id, "certificate"));
                    }
                    if needs_key {
                        self.check_chain(id, certificate)?;
                    }
                }
                (Some(_), None) if needs_key => {
                    return Err(RecordError::Missing(id, "certificate"));
                }
                (None, Some(_)) => return Err(RecordError::Mixed(id, "certificate")),
                (Some(_) | None, None) => {}
            }
        }
        let foreign = self
            .material
            .keys()
            .find(|id| self.lifecycle.ca(**id).is_none());
        foreign.map_or(Ok(()), |id| Err(RecordError::Mixed(*id, "place")))
    }

    fn check_chain(&self, id: CaId, certificate: &CaCertificate) -> Result<(), RecordError> {
        // One that names itself as its issuer was verified when it was read.
        if certificate.is_self_signed()
            || self
                .roots
                .iter()
                .any(|root| is_issued_by(certificate, root))
        {
            Ok(())
        } else {
            Err(RecordError::Unchained(id))
        }
    }
}

fn is_issued_by(certificate: &CaCertificate, root: &CaCertificate) -> bool {
    root.verify_signature_of(certificate.der()).is_ok()
}

#[cfg(test)]
mod tests;
