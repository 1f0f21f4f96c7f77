//! Who approves on the embedded API: whoever the policy names, by a pass that their YubiKey signed.

use crate::{
    clock::Clock,
    review::{self, EvidenceCache, Snapshot},
};
use std::sync::Arc;
use tokio::sync::watch;
use touchstone_apiserver::{Approvers, PassHolder, Refusal};
use touchstone_common::{approval, name::UserName};

/// Takes passes and statements of those whom the policy in force lets approve something.
#[derive(Debug)]
pub struct ByPolicy {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// The signer name of the requests.
    pub signer_name: String,
    /// The policy in force.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl ByPolicy {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}

impl Approvers for ByPolicy {
    fn admit(&self, approver: &str, uid: &str, statement: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let snapshot = self.snapshot();
        review::admit_statement(approver, uid, statement, &snapshot, &self.evidence, now)
            .map_err(|message| Refusal { message })
    }

    fn annotation(&self, approver: &str) -> String {
        // A name that no policy can have approves nothing.
        UserName::parse(approver)
            .map(|name| approval::annotation_key(&name))
            .unwrap_or_default()
    }

    fn authenticate(&self, pass: &str) -> Result<PassHolder, Refusal> {
        let now = self.clock.now();
        let (approver, ends) = review::pass_holder(pass, &self.snapshot(), &self.evidence, now)
            .map_err(|message| Refusal { message })?;
        Ok(PassHolder {
            username: approver.to_string(),
            ends,
        })
    }

    fn is_approver(&self, user: &str) -> bool {
        UserName::parse(user).is_ok_and(|name| self.snapshot.borrow().policy.is_approver(&name))
    }

    fn signer_name(&self) -> &str {
        &self.signer_name
    }
}
