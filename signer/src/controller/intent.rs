//! What comes before any signature, whoever signs: the record of what is intended, and the approval.

use super::{
    Context, ControllerError, OpenIntent,
    bindings::Bound,
    conditions::{self, Kind, State},
    grants::{self, Claim},
    reconcile::Outcome,
    spans,
    subject::Subject,
};
use crate::{
    audit::{Approval as ApprovalRecord, Event, Intent as IntentRecord},
    grant::{Grant, GrantIntent, Phase},
    review::{Denial, Intent, Snapshot},
};
use jiff::Timestamp;
use kube::ResourceExt;
use std::ops::ControlFlow;
use touchstone_common::csr::POLICY_APPROVED;

impl Context {
    /// Claims the grant of a request and records the intent: the request, to go on with, and its grant.
    pub(super) async fn intend(
        &self,
        subject: Subject,
        intent: &Intent,
        snapshot: &Snapshot,
        to_sign: Option<GrantIntent>,
        now: Timestamp,
    ) -> Result<ControlFlow<Outcome, (Subject, Grant)>, ControllerError> {
        let cluster = snapshot.policy.cluster().as_str();
        let grant = grants::of(intent, &subject.request, cluster, to_sign);
        let name = grant.name_any();
        spans::grant(&name);
        let grant = match self.claim(&grant).await? {
            Claim::Open(grant) => *grant,
            Claim::Taken { by } => {
                let denial = Denial {
                    reason: "Replayed",
                    message: format!(
                        "this request was used before, as {by}: each is used once. Run `touchstone login` again"
                    ),
                };
                return Ok(ControlFlow::Break(self.deny(subject, &denial).await?));
            }
            Claim::Ended(Phase::Issued) => {
                return Ok(ControlFlow::Break(self.after_issued(subject).await?));
            }
            Claim::Ended(Phase::Failed | Phase::Intent) => {
                let message = format!(
                    "an earlier try failed: see grant {name}. Run `touchstone login` again"
                );
                let outcome = self.fail(subject, "EarlierTryFailed", &message).await?;
                return Ok(ControlFlow::Break(outcome));
            }
        };
        self.memory().open.insert(
            subject.uid.clone(),
            OpenIntent {
                grant: name,
                request: subject.name.clone(),
            },
        );
        let record = record_of(intent, &subject, &grant);
        self.record(now, Event::Intent(Box::new(record))).await?;
        Ok(match self.bound(grant).await? {
            Ok(grant) => ControlFlow::Continue((subject, grant)),
            Err(Hindrance { reason, message }) => {
                ControlFlow::Break(self.fail(subject, reason, &message).await?)
            }
        })
    }

    /// Approves a request, unless it is approved already. `false`: someone else changed what was judged.
    pub(super) async fn approve(
        &self,
        subject: &mut Subject,
        intent: &Intent,
        now: Timestamp,
    ) -> Result<bool, ControllerError> {
        if conditions::state(&subject.request) != State::Pending {
            return Ok(true);
        }
        let rules = intent.rules().join(", ");
        let mut message = format!("granted by rule {rules} for {}", intent.ttl());
        let approvers: Vec<_> = intent
            .approvals()
            .iter()
            .map(|a| a.approver().as_str())
            .collect();
        if !approvers.is_empty() {
            message = format!("{message}, approved by {}", approvers.join(", "));
        }
        if !intent.bindings().is_empty() {
            let group = intent.grant_id().group_name();
            message = format!("{message}, with the group {group} of its own");
        }
        conditions::add(
            &mut subject.request,
            Kind::Approved,
            POLICY_APPROVED,
            &message,
            now,
        );
        self.write("approval", subject).await
    }

    /// Makes the RoleBindings of a grant, if it has any, and sees to it that it is not revoked: as it is then, or what hinders.
    async fn bound(&self, grant: Grant) -> Result<Result<Grant, Hindrance>, ControllerError> {
        let mut grant = grant;
        if !grant.spec.bindings.is_empty() {
            if let Bound::Refused(why) = self.bind(&grant).await? {
                return Ok(Err(Hindrance {
                    reason: "CannotBind",
                    message: format!(
                        "{why}. Tell whoever runs the signer: docs/grants.md says what it needs to make RoleBindings"
                    ),
                }));
            }
            // Read after they were made: who revokes it from here on finds them, and who did before is seen now.
            grant = self
                .grants
                .get(&grant.name_any())
                .await
                .map_err(ControllerError::api("read the grant"))?;
        }
        Ok(match grant.revocation() {
            None => Ok(grant),
            Some(revocation) => Err(Hindrance {
                reason: "Revoked",
                message: format!("its grant was revoked by {}", revocation.by),
            }),
        })
    }
}

/// What keeps a request from being granted for good, as a condition says it.
struct Hindrance {
    reason: &'static str,
    message: String,
}

fn record_of(intent: &Intent, subject: &Subject, grant: &Grant) -> IntentRecord {
    let spec = &grant.spec;
    let to_sign = spec.intents.last().cloned();
    let (ca, tbs_sha256) = to_sign
        .map(|to_sign| (to_sign.ca, to_sign.tbs_sha256))
        .unwrap_or_default();
    IntentRecord {
        request: subject.reference(),
        csr_sha256: spec.request.sha256.clone(),
        grant: grant.name_any(),
        user: spec.user.clone(),
        groups: spec.groups.clone(),
        bindings: spec.bindings.clone(),
        reason: spec.reason.clone(),
        rules: spec.rules.clone(),
        approvers: spec.approvers.clone(),
        approvals: intent
            .approvals()
            .iter()
            .map(|approval| ApprovalRecord {
                approver: approval.approver().to_string(),
                key_serial: approval.key_serial(),
                sha256: hex::encode(approval.sha256()),
                statement: approval.statement().to_owned(),
            })
            .collect(),
        unsigned_approval: intent.has_unsigned_approval(),
        key_serial: intent.key_serial(),
        key_sha256: spec.key_sha256.clone(),
        ttl_seconds: intent.ttl().as_secs(),
        policy_sha256: spec.policy_sha256.clone(),
        policy_generation: intent.policy_generation(),
        signer_name: spec.signer_name.clone(),
        ca,
        tbs_sha256,
    }
}
