//! One request, brought as far as it goes.

use super::{
    Context, ControllerError, OpenIntent,
    bindings::Bound,
    chain,
    conditions::{self, Kind, State},
    events::Level,
    grants::{self, Claim},
    queue::Input,
    subject::Subject,
};
use crate::{
    audit::{Approval as ApprovalRecord, Event, Intent as IntentRecord},
    ca::{bootstrap, lifecycle::CannotSign},
    grant::{Grant, GrantIntent, Phase},
    issue,
    metrics::Ending,
    review::{self, Denial, Intent, Review, Snapshot},
};
use kube::ResourceExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use touchstone_common::{certificate::SerialNumber, csr::POLICY_APPROVED};

/// What is to happen with a request next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing, until something is heard of it.
    Done,
    /// Someone else wrote meanwhile: read it and judge it anew.
    Reread,
    /// It did not work: try again after a pause.
    Retry,
    /// It waits for others, so long at most.
    Wait(Duration),
}

impl Context {
    pub(super) async fn reconcile(
        &self,
        name: &str,
        input: Input,
    ) -> Result<Outcome, ControllerError> {
        let request = match input {
            Input::Object(request) => Some(*request),
            Input::Reread => self
                .requests
                .get_opt(name)
                .await
                .map_err(ControllerError::api("read the request"))?,
        };
        let uid = request.as_ref().and_then(ResourceExt::uid);
        self.fail_intents_of_the_gone(name, uid.as_deref()).await?;
        let (Some(request), Some(uid)) = (request, uid) else {
            return Ok(Outcome::Done);
        };
        // The watch asks for nothing else; a server that ignores the selector must not make us touch others' requests.
        if request.spec.signer_name != self.signer_name || self.is_settled(&uid) {
            return Ok(Outcome::Done);
        }
        let subject = Subject::new(uid, request);
        match conditions::state(&subject.request) {
            State::Certified(certificate) => self.settle_certified(&subject, certificate).await,
            State::Closed => {
                self.end_open_intent(&subject.uid, "the request was denied or failed")
                    .await?;
                self.settle(&subject.uid);
                Ok(Outcome::Done)
            }
            State::Approved | State::Pending => self.judge(subject).await,
        }
    }

    async fn judge(&self, subject: Subject) -> Result<Outcome, ControllerError> {
        // One snapshot from here to the signature.
        let snapshot = Arc::clone(&self.snapshot.borrow());
        // Well under a millisecond: two or three signatures to verify, and the evidence is remembered.
        let submission = subject.submission();
        let review = if self.front_account.as_deref() == Some(submission.username) {
            review::review_of_front_door
        } else {
            review::review
        };
        match review(&submission, &snapshot, &self.evidence, self.clock.now())? {
            Review::Approve(intent) => self.grant(subject, &intent, &snapshot).await,
            Review::Deny(denial) => self.deny(subject, &denial).await,
            Review::Wait(waiting) => self.wait(&subject, &waiting).await,
        }
    }

    /// Records, approves, signs, delivers.
    async fn grant(
        &self,
        mut subject: Subject,
        intent: &Intent,
        snapshot: &Snapshot,
    ) -> Result<Outcome, ControllerError> {
        let started = Instant::now();
        // One state of the CA from here to the signature.
        let authority = Arc::clone(&self.authority.borrow());
        let now = self.clock.now();
        let signing = match authority.may_sign(now) {
            Ok(signing) => signing,
            Err(why @ CannotSign::NotValid(_)) => {
                let message = format!(
                    "failed to issue: {why}. Tell whoever runs the signer: `touchstone-signer ca status` says what is due"
                );
                return self.fail(subject, "CannotIssue", &message).await;
            }
            // Another CA is on its way, or the record is about to be read.
            Err(why @ (CannotSign::NoActive | CannotSign::Stale(_))) => {
                tracing::warn!(request = subject.name, %why, "nothing can be signed now; trying again");
                return Ok(Outcome::Retry);
            }
        };
        let issuing = signing.ca;
        let serial = SerialNumber::from_random(bootstrap::random()?);
        let prepared = match issue::prepare(intent, &signing, now, serial) {
            Ok(prepared) => prepared,
            Err(error) => {
                let message = format!("failed to {}", chain(&error));
                return self.fail(subject, "CannotIssue", &message).await;
            }
        };
        let to_sign = GrantIntent {
            ca: issuing.fingerprint().to_owned(),
            tbs_sha256: hex::encode(prepared.tbs_sha256()),
        };
        let grant = grants::of(
            intent,
            &subject.request,
            snapshot.policy.cluster().as_str(),
            to_sign.clone(),
        );
        let grant_name = grant.name_any();
        let grant = match self.claim(&grant).await? {
            Claim::Open(grant) => *grant,
            Claim::Taken { by } => {
                let denial = Denial {
                    reason: "Replayed",
                    message: format!(
                        "this request was used before, as {by}: each is used once. Run `touchstone login` again"
                    ),
                };
                return self.deny(subject, &denial).await;
            }
            Claim::Ended(Phase::Issued) => return self.after_issued(subject).await,
            Claim::Ended(Phase::Failed | Phase::Intent) => {
                let message = format!(
                    "an earlier try failed: see grant {grant_name}. Run `touchstone login` again"
                );
                return self.fail(subject, "EarlierTryFailed", &message).await;
            }
        };
        self.memory().open.insert(
            subject.uid.clone(),
            OpenIntent {
                grant: grant_name.clone(),
                request: subject.name.clone(),
            },
        );
        let record = record_of(intent, &subject, &grant, &to_sign);
        self.record(now, Event::Intent(Box::new(record))).await?;
        let grant = match self.bound(grant).await? {
            Ok(grant) => grant,
            Err(Hindrance { reason, message }) => {
                return self.fail(subject, reason, &message).await;
            }
        };
        if conditions::state(&subject.request) == State::Pending {
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
            if !self.write("approval", &mut subject).await? {
                return Ok(Outcome::Reread);
            }
        }
        // Approving took its time.
        self.leadership.check()?;
        let issued = match issuing.signing(move |ca| prepared.sign(ca)).await {
            Ok(issued) => issued,
            Err(error) if error.is_retriable() => {
                tracing::warn!(request = subject.name, error = %chain(&error), "the CA's key does not sign now; trying again");
                return Ok(Outcome::Retry);
            }
            Err(error) => {
                let message = format!("failed to {}", chain(&error));
                return self.fail(subject, "CannotSign", &message).await;
            }
        };
        subject.request.status.get_or_insert_default().certificate =
            Some(k8s_openapi::ByteString(issued.chain_pem.into_bytes()));
        if !self.write("status", &mut subject).await? {
            return Ok(Outcome::Reread);
        }
        // Delivered. What follows is the record; a crash here is made good by `settle_certified`.
        self.metrics.issued_in(started.elapsed());
        self.metrics
            .leaf(issuing.fingerprint(), issued.validity.not_after);
        self.metrics.ended(Ending::Issued, POLICY_APPROVED);
        let event = Event::Issued {
            request: subject.reference(),
            grant: grant_name.clone(),
            fingerprint: issued.fingerprint.clone(),
            serial_number: issued.serial_number.clone(),
            not_after: issued.validity.not_after,
        };
        self.record(now, event).await?;
        let status = grants::issued(
            issuing.fingerprint(),
            &issued.fingerprint,
            &issued.serial_number,
            now,
            issued.validity.not_after,
        );
        self.end_grant(&grant_name, Some(grant), &status).await?;
        self.settle(&subject.uid);
        tracing::info!(
            request = subject.name,
            grant = grant_name,
            user = %intent.user(),
            fingerprint = issued.fingerprint,
            "issued"
        );
        let note = format!(
            "certificate issued: grant {grant_name}, until {}, by policy generation {}",
            issued.validity.not_after,
            intent.policy_generation()
        );
        self.events
            .publish(
                &subject.request,
                self.clock.now(),
                Level::Normal,
                "Issued",
                &note,
            )
            .await;
        Ok(Outcome::Done)
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

    /// The grant says issued, and this state of the request has no certificate: the state is old, or someone restored
    /// the request from a backup. Nothing is signed twice.
    async fn after_issued(&self, subject: Subject) -> Result<Outcome, ControllerError> {
        let latest = self
            .requests
            .get_opt(&subject.name)
            .await
            .map_err(ControllerError::api("read the request"))?;
        match latest {
            Some(request) if request.uid().as_ref() == Some(&subject.uid) => {
                if matches!(conditions::state(&request), State::Certified(_)) {
                    self.settle(&subject.uid);
                    return Ok(Outcome::Done);
                }
                let message = "its certificate was issued before and is not here any more. Run `touchstone login` again";
                self.fail(Subject::new(subject.uid, request), "AlreadyIssued", message)
                    .await
            }
            Some(_) | None => Ok(Outcome::Done),
        }
    }

    /// A request made Touchstone panic: it is ended, so that it does not do so for ever.
    pub(super) async fn fail_after_panic(&self, name: &str) -> Result<(), ControllerError> {
        let request = self
            .requests
            .get_opt(name)
            .await
            .map_err(ControllerError::api("read the request"))?;
        if let Some(request) = request
            && let Some(uid) = request.uid()
            && request.spec.signer_name == self.signer_name
            && matches!(
                conditions::state(&request),
                State::Approved | State::Pending
            )
        {
            let subject = Subject::new(uid, request);
            let message = "a defect in Touchstone kept it from judging this request: please report it with the signer's log";
            self.fail(subject, "InternalError", message).await?;
        }
        Ok(())
    }
}

/// What keeps a request from being granted for good, as a condition says it.
struct Hindrance {
    reason: &'static str,
    message: String,
}

fn record_of(
    intent: &Intent,
    subject: &Subject,
    grant: &Grant,
    to_sign: &GrantIntent,
) -> IntentRecord {
    let spec = &grant.spec;
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
        ca: to_sign.ca.clone(),
        tbs_sha256: to_sign.tbs_sha256.clone(),
    }
}
