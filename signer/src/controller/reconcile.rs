//! One request, brought as far as it goes.

use super::{
    Context, ControllerError, OpenIntent, chain, code,
    conditions::{self, Kind, State},
    events::Level,
    grants::{self, Claim},
    queue::Input,
};
use crate::{
    audit::{Event, Intent as IntentRecord, RequestRef},
    ca::{bootstrap, recognise},
    grant::{Grant, GrantIntent, Phase},
    issue,
    review::{self, Denial, Intent, Review, Snapshot, Submission, Waiting},
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestStatus,
};
use kube::{ResourceExt, api::PostParams};
use std::sync::Arc;
use touchstone_common::certificate::SerialNumber;

/// How often a write is tried against others who write at the same time.
const WRITES: usize = 16;

/// What is to happen with a request next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing, until something is heard of it.
    Done,
    /// Someone else wrote meanwhile: read it and judge it anew.
    Reread,
    /// It did not work: try again after a pause.
    Retry,
    /// It waits for others.
    Wait,
}

/// A request of our signer name, with what every object has.
struct Subject {
    name: String,
    uid: String,
    request: CertificateSigningRequest,
    /// The status as it was read, before anything was added to it.
    status_read: Option<CertificateSigningRequestStatus>,
}

impl Subject {
    fn new(uid: String, request: CertificateSigningRequest) -> Self {
        Self {
            name: request.name_any(),
            uid,
            status_read: request.status.clone(),
            request,
        }
    }

    fn reference(&self) -> RequestRef {
        RequestRef {
            csr: self.name.clone(),
            csr_uid: self.uid.clone(),
        }
    }

    fn submission(&self) -> Submission<'_> {
        let spec = &self.request.spec;
        Submission {
            uid: &self.uid,
            signer_name: &spec.signer_name,
            username: spec.username.as_deref().unwrap_or_default(),
            groups: spec.groups.as_deref().unwrap_or_default(),
            request: &spec.request.0,
            expiration_seconds: spec.expiration_seconds,
            usages: spec.usages.as_deref().unwrap_or_default(),
            created_at: self.request.creation_timestamp().map(|time| time.0),
        }
    }
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

    /// Intents whose request is gone, or was made anew under the same name, come to nothing.
    async fn fail_intents_of_the_gone(
        &self,
        name: &str,
        living: Option<&str>,
    ) -> Result<(), ControllerError> {
        let gone: Vec<String> = self
            .memory()
            .open
            .iter()
            .filter(|(uid, open)| open.request == name && Some(uid.as_str()) != living)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.end_open_intent(
                &uid,
                "the request was deleted before its certificate was delivered",
            )
            .await?;
            self.settle(&uid);
        }
        Ok(())
    }

    async fn end_open_intent(&self, uid: &str, message: &str) -> Result<(), ControllerError> {
        let Some(open) = self.memory().open.get(uid).cloned() else {
            return Ok(());
        };
        let event = Event::Failed {
            request: RequestRef {
                csr: open.request,
                csr_uid: uid.to_owned(),
            },
            grant: Some(open.grant.clone()),
            message: message.to_owned(),
        };
        self.audit.append(self.clock.now(), event).await?;
        self.end_grant(&open.grant, None, &grants::failed(message))
            .await?;
        self.memory().open.remove(uid);
        Ok(())
    }

    /// A request that carries a certificate: ours, delivered before a crash could record it, or one that it should not
    /// carry. It is never overwritten.
    async fn settle_certified(
        &self,
        subject: &Subject,
        certificate: &[u8],
    ) -> Result<Outcome, ControllerError> {
        let issuing = self.authority.issuing();
        let open = self.memory().open.get(&subject.uid).cloned();
        match (recognise::leaf_of(certificate, issuing.certificate()), open) {
            (Some(_), None) => {}
            (Some(leaf), Some(open)) => {
                let grant = self
                    .grants
                    .get_opt(&open.grant)
                    .await
                    .map_err(ControllerError::api("read the grant"))?;
                let intended = grant
                    .iter()
                    .flat_map(|grant| &grant.spec.intents)
                    .any(|intent| intent.tbs_sha256 == leaf.tbs_sha256);
                if intended {
                    let now = self.clock.now();
                    let event = Event::Issued {
                        request: subject.reference(),
                        grant: open.grant.clone(),
                        fingerprint: leaf.fingerprint.clone(),
                        serial_number: leaf.serial_number.clone(),
                        not_after: leaf.not_after,
                    };
                    self.audit.append(now, event).await?;
                    let status = grants::issued(
                        issuing.fingerprint(),
                        &leaf.fingerprint,
                        &leaf.serial_number,
                        now,
                        leaf.not_after,
                    );
                    self.end_grant(&open.grant, grant, &status).await?;
                } else {
                    self.report_foreign(subject, certificate).await?;
                    self.end_open_intent(&subject.uid, "the request carries another certificate")
                        .await?;
                }
            }
            (None, _) => {
                self.report_foreign(subject, certificate).await?;
                self.end_open_intent(
                    &subject.uid,
                    "the request carries a certificate that this CA did not make",
                )
                .await?;
            }
        }
        self.settle(&subject.uid);
        Ok(Outcome::Done)
    }

    async fn report_foreign(
        &self,
        subject: &Subject,
        certificate: &[u8],
    ) -> Result<(), ControllerError> {
        let sha256 = crate::ca::fingerprint(certificate);
        tracing::error!(
            request = subject.name,
            sha256,
            "a request carries a certificate that this signer did not put there; find out who may sign"
        );
        let now = self.clock.now();
        let event = Event::ForeignCertificate {
            request: subject.reference(),
            sha256,
        };
        self.audit.append(now, event).await?;
        let note = "the certificate in this request's status was not put there by this signer";
        self.events
            .publish(
                &subject.request,
                now,
                Level::Warning,
                "ForeignCertificate",
                note,
            )
            .await;
        Ok(())
    }

    async fn judge(&self, subject: Subject) -> Result<Outcome, ControllerError> {
        // One snapshot from here to the signature.
        let snapshot = Arc::clone(&self.snapshot.borrow());
        // Well under a millisecond: two or three signatures to verify, and the evidence is remembered.
        match review::review(
            &subject.submission(),
            &snapshot,
            &self.evidence,
            self.clock.now(),
        )? {
            Review::Approve(intent) => self.grant(subject, &intent, &snapshot).await,
            Review::Deny(denial) => self.deny(subject, &denial).await,
            Review::Wait(waiting) => self.wait(&subject, &waiting).await,
        }
    }

    /// Denies a request. One that someone approved already cannot be denied any more, and fails instead.
    async fn deny(&self, subject: Subject, denial: &Denial) -> Result<Outcome, ControllerError> {
        tracing::info!(
            request = subject.name,
            reason = denial.reason,
            message = denial.message,
            "denied"
        );
        let approved = conditions::state(&subject.request) == State::Approved;
        let event = Event::Denied {
            request: subject.reference(),
            verdict: denial.reason.to_owned(),
            message: denial.message.clone(),
        };
        self.audit.append(self.clock.now(), event).await?;
        let kind = if approved { Kind::Failed } else { Kind::Denied };
        self.close(subject, kind, denial.reason, &denial.message)
            .await
    }

    /// Ends a request that nothing can come of.
    async fn fail(
        &self,
        subject: Subject,
        reason: &str,
        message: &str,
    ) -> Result<Outcome, ControllerError> {
        tracing::error!(request = subject.name, reason, message, "failed");
        let event = Event::Failed {
            request: subject.reference(),
            grant: None,
            message: message.to_owned(),
        };
        self.audit.append(self.clock.now(), event).await?;
        self.close(subject, Kind::Failed, reason, message).await
    }

    /// Adds a condition that ends the request, and an event.
    async fn close(
        &self,
        mut subject: Subject,
        kind: Kind,
        reason: &str,
        message: &str,
    ) -> Result<Outcome, ControllerError> {
        let now = self.clock.now();
        conditions::add(&mut subject.request, kind, reason, message, now);
        let subresource = match kind {
            Kind::Approved | Kind::Denied => "approval",
            Kind::Failed => "status",
        };
        if !self.write(subresource, &mut subject).await? {
            return Ok(Outcome::Reread);
        }
        // Not before: until the request is closed, a certificate of an earlier try can still arrive.
        self.end_open_intent(&subject.uid, message).await?;
        self.settle(&subject.uid);
        self.events
            .publish(&subject.request, now, Level::Warning, reason, message)
            .await;
        Ok(Outcome::Done)
    }

    /// Writes the status by a subresource. `false`: someone else changed what was judged, or the object is gone.
    async fn write(
        &self,
        subresource: &'static str,
        subject: &mut Subject,
    ) -> Result<bool, ControllerError> {
        let read = |request: &CertificateSigningRequest| (request.uid(), request.spec.clone());
        let judged = (read(&subject.request), subject.status_read.clone());
        for _ in 0..WRITES {
            // The object's resourceVersion and UID go with it: the API refuses when either is another's.
            match self
                .requests
                .replace_subresource(
                    subresource,
                    &subject.name,
                    &PostParams::default(),
                    &subject.request,
                )
                .await
            {
                Ok(request) => {
                    subject.status_read = request.status.clone();
                    subject.request = request;
                    return Ok(true);
                }
                Err(error) if code(&error) == Some(404) => return Ok(false),
                Err(error) if code(&error) == Some(409) => {}
                Err(error) => return Err(ControllerError::api("write to the request")(error)),
            }
            let Some(latest) = self
                .requests
                .get_opt(&subject.name)
                .await
                .map_err(ControllerError::api("read the request"))?
            else {
                return Ok(false);
            };
            // Whoever only writes labels or annotations, and be it all the time, does not keep us from going on.
            if (read(&latest), latest.status.clone()) != judged {
                return Ok(false);
            }
            subject.request.metadata = latest.metadata;
        }
        Ok(false)
    }

    /// Leaves a request pending; once, says what it waits for.
    async fn wait(&self, subject: &Subject, waiting: &Waiting) -> Result<Outcome, ControllerError> {
        let told = subject
            .request
            .annotations()
            .get(WAITING_ANNOTATION)
            .is_some_and(|told| told == waiting.message());
        if !told {
            let now = self.clock.now();
            let event = Event::Waiting {
                request: subject.reference(),
                message: waiting.message().to_owned(),
            };
            self.audit.append(now, event).await?;
            let patch = serde_json::json!({
                "metadata": {
                    // With the UID, a request made anew under this name is not written to.
                    "uid": subject.uid,
                    "annotations": { WAITING_ANNOTATION: waiting.message() },
                },
            });
            let written = self
                .requests
                .patch(
                    &subject.name,
                    &kube::api::PatchParams::default(),
                    &kube::api::Patch::Merge(patch),
                )
                .await;
            match written {
                Ok(_) => {}
                Err(error) if matches!(code(&error), Some(404 | 409)) => {
                    return Ok(Outcome::Reread);
                }
                Err(error) => {
                    return Err(ControllerError::api("say what the request waits for")(
                        error,
                    ));
                }
            }
            self.events
                .publish(
                    &subject.request,
                    now,
                    Level::Normal,
                    "Waiting",
                    waiting.message(),
                )
                .await;
        }
        Ok(Outcome::Wait)
    }

    /// Records, approves, signs, delivers.
    async fn grant(
        &self,
        mut subject: Subject,
        intent: &Intent,
        snapshot: &Snapshot,
    ) -> Result<Outcome, ControllerError> {
        let issuing = self.authority.issuing();
        let now = self.clock.now();
        let serial = SerialNumber::from_random(bootstrap::random()?);
        let prepared = match issue::prepare(intent, issuing, now, serial) {
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
        self.audit
            .append(now, Event::Intent(Box::new(record)))
            .await?;
        if conditions::state(&subject.request) == State::Pending {
            let rules = intent.rules().join(", ");
            let message = format!("granted by rule {rules} for {}", intent.ttl());
            conditions::add(
                &mut subject.request,
                Kind::Approved,
                "PolicyApproved",
                &message,
                now,
            );
            if !self.write("approval", &mut subject).await? {
                return Ok(Outcome::Reread);
            }
        }
        let issued = match prepared.sign(issuing) {
            Ok(issued) => issued,
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
        let event = Event::Issued {
            request: subject.reference(),
            grant: grant_name.clone(),
            fingerprint: issued.fingerprint.clone(),
            serial_number: issued.serial_number.clone(),
            not_after: issued.validity.not_after,
        };
        self.audit.append(now, event).await?;
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
            "certificate issued: grant {grant_name}, until {}",
            issued.validity.not_after
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

/// Says, on a request, what it waits for.
const WAITING_ANNOTATION: &str = "touchstone.dev/waiting-for";

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
        reason: spec.reason.clone(),
        rules: spec.rules.clone(),
        approvers: spec.approvers.clone(),
        key_serial: intent.key_serial(),
        key_sha256: spec.key_sha256.clone(),
        ttl_seconds: intent.ttl().as_secs(),
        policy_sha256: spec.policy_sha256.clone(),
        ca: to_sign.ca.clone(),
        tbs_sha256: to_sign.tbs_sha256.clone(),
    }
}
