//! One request, brought as far as it goes.

use super::{
    Context, ControllerError, chain,
    conditions::{self, State},
    events::Level,
    grants::Delivered,
    queue::Input,
    spans,
    subject::Subject,
};
use crate::{
    ca::{bootstrap, lifecycle::CannotSign},
    grant::GrantIntent,
    issue,
    metrics::Ending,
    review::{self, Intent, Review, Snapshot},
    signers::{OwnCa, Signer},
};
use kube::ResourceExt;
use std::{
    ops::ControlFlow,
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
        spans::request(&uid);
        // The watch asks for nothing else; a server that ignores the selector must not make us touch others' requests.
        let signer = match self.signers.named(&request.spec.signer_name) {
            Some(signer) if !self.is_settled(&uid) => signer,
            Some(_) | None => return Ok(Outcome::Done),
        };
        let subject = Subject::new(uid, request);
        match (conditions::state(&subject.request), signer) {
            (State::Certified(certificate), Signer::Own(own)) => {
                self.settle_certified(&subject, certificate, own).await
            }
            (State::Certified(certificate), Signer::Cluster(ca)) => {
                self.settle_certified_by_cluster(&subject, certificate, ca)
                    .await
            }
            (State::Closed, _) => {
                self.end_open_intent(&subject.uid, "the request was denied or failed")
                    .await?;
                self.settle(&subject.uid);
                Ok(Outcome::Done)
            }
            // Recorded and approved: it is heard of again with its certificate, or when it is deleted.
            (State::Approved, Signer::Cluster(_)) if self.is_open(&subject.uid) => {
                Ok(Outcome::Done)
            }
            (State::Approved | State::Pending, signer) => self.judge(subject, signer).await,
        }
    }

    async fn judge(
        &self,
        subject: Subject,
        signer: Signer<'_>,
    ) -> Result<Outcome, ControllerError> {
        // One snapshot from here to the signature.
        let snapshot = Arc::clone(&self.snapshot.borrow());
        // Well under a millisecond: two or three signatures to verify, and the evidence is remembered.
        let submission = subject.submission();
        let review = if self.front_account.as_deref() == Some(submission.username) {
            review::review_of_front_door
        } else {
            review::review
        };
        let now = self.clock.now();
        match spans::review(|| review(&submission, &snapshot, &self.evidence, now))? {
            Review::Approve(intent) => match signer {
                Signer::Own(own) => self.grant(subject, &intent, &snapshot, own).await,
                Signer::Cluster(_) => self.grant_by_cluster(subject, &intent, &snapshot).await,
            },
            Review::Deny(denial) => self.deny(subject, &denial).await,
            Review::Wait(waiting) => self.wait(&subject, &waiting).await,
        }
    }

    /// Records, approves, signs, delivers.
    async fn grant(
        &self,
        subject: Subject,
        intent: &Intent,
        snapshot: &Snapshot,
        own: &OwnCa,
    ) -> Result<Outcome, ControllerError> {
        let started = Instant::now();
        // One state of the CA from here to the signature.
        let authority = Arc::clone(&own.authority.borrow());
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
                spans::failed("CA");
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
        let (mut subject, grant) = match self
            .intend(subject, intent, snapshot, Some(to_sign), now)
            .await?
        {
            ControlFlow::Continue(opened) => opened,
            ControlFlow::Break(outcome) => return Ok(outcome),
        };
        let grant_name = grant.name_any();
        if !self.approve(&mut subject, intent, now).await? {
            return Ok(Outcome::Reread);
        }
        // Approving took its time.
        self.leadership.check()?;
        let issued = match issuing.signing(move |ca| prepared.sign(ca)).await {
            Ok(issued) => issued,
            Err(error) if error.is_retriable() => {
                tracing::warn!(request = subject.name, error = %chain(&error), "the CA's key does not sign now; trying again");
                spans::failed("CA's key");
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
        let delivered = Delivered {
            ca: issuing.fingerprint().to_owned(),
            fingerprint: issued.fingerprint.clone(),
            serial_number: issued.serial_number,
            not_after: issued.validity.not_after,
        };
        self.record_issued(&subject, &grant_name, Some(grant), delivered, now)
            .await?;
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

    /// The grant says issued, and this state of the request has no certificate: the state is old, or someone restored
    /// the request from a backup. Nothing is signed twice.
    pub(super) async fn after_issued(&self, subject: Subject) -> Result<Outcome, ControllerError> {
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
            && self.signers.named(&request.spec.signer_name).is_some()
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
