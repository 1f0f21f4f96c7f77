//! Who may create a request on the embedded API without a credential: whoever holds an enrolled key in a YubiKey.

use crate::{
    clock::Clock,
    review::{self, EvidenceCache, Snapshot},
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;
use touchstone_apiserver::{AnonymousCreate, AttestedCreator, Refusal};

/// The key under `spec.extra` that says which YubiKey spoke for the creator.
pub const KEY_SERIAL: &str = "touchstone.dev/key-serial";

/// Takes requests whose evidence verifies and whose key is enrolled.
#[derive(Debug)]
pub struct ByKey {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// The signer name that requests must be for.
    pub signer_name: String,
    /// The policy in force.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl AnonymousCreate for ByKey {
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal> {
        if spec.signer_name != self.signer_name {
            return Err(Refusal {
                message: format!(
                    "only requests for the signer {} are taken without a credential, not for {}",
                    self.signer_name, spec.signer_name
                ),
            });
        }
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let now = self.clock.now();
        match review::admit_anonymous(&spec.request.0, &snapshot, &self.evidence, now) {
            Ok(Ok(admission)) => Ok(AttestedCreator {
                username: admission.user.to_string(),
                groups: Vec::new(),
                extra: BTreeMap::from([(
                    KEY_SERIAL.to_owned(),
                    vec![admission.key_serial.to_string()],
                )]),
                read_token_sha256: admission.read_token_sha256,
            }),
            Ok(Err(denial)) => Err(Refusal {
                message: denial.message,
            }),
            Err(error) => Err(Refusal {
                message: format!("the signer failed to {error}"),
            }),
        }
    }
}
