//! Writing to a request what was decided about it.

use super::{
    Context, ControllerError, code,
    conditions::{self, Kind, State},
    events::Level,
    reconcile::Outcome,
    spans,
    subject::Subject,
};
use crate::{
    audit::Event,
    metrics::Ending,
    review::{Denial, Waiting},
    traces::TRACES,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{ResourceExt, api::PostParams};
use std::{collections::BTreeMap, time::Duration};
use touchstone_common::csr::{WAITING_FOR_ANNOTATION, WAITS_UNTIL_ANNOTATION};

/// How often a write is tried against others who write at the same time.
const WRITES: usize = 16;

impl Context {
    /// Records what was decided, unless it was the last thing recorded of this request: whoever keeps it from being
    /// written on the request, or takes it off again, must not make the log grow with each try. Whether it is news.
    pub(super) async fn record_once(
        &self,
        uid: &str,
        event: Event,
    ) -> Result<bool, ControllerError> {
        if self.memory().recorded.get(uid) == Some(&event) {
            return Ok(false);
        }
        self.record(self.clock.now(), event.clone()).await?;
        self.memory().recorded.put(uid.to_owned(), event);
        Ok(true)
    }

    /// Denies a request. One that someone approved already cannot be denied any more, and fails instead.
    pub(super) async fn deny(
        &self,
        subject: Subject,
        denial: &Denial,
    ) -> Result<Outcome, ControllerError> {
        tracing::info!(
            request = subject.name,
            reason = denial.reason,
            why = denial.message,
            "denied"
        );
        spans::reason(denial.reason);
        let approved = conditions::state(&subject.request) == State::Approved;
        if approved && subject.is_signed_by_cluster() {
            return self
                .alarm_of_another_approval(&subject, &denial.message)
                .await;
        }
        let event = Event::Denied {
            request: subject.reference(),
            verdict: denial.reason.to_owned(),
            message: denial.message.clone(),
        };
        self.record_once(&subject.uid, event).await?;
        let kind = if approved { Kind::Failed } else { Kind::Denied };
        self.close(subject, kind, denial.reason, &denial.message)
            .await
    }

    /// Ends a request that nothing can come of.
    pub(super) async fn fail(
        &self,
        subject: Subject,
        reason: &str,
        message: &str,
    ) -> Result<Outcome, ControllerError> {
        tracing::error!(request = subject.name, reason, why = message, "failed");
        spans::reason(reason);
        spans::failed(reason);
        let kind = match (
            subject.is_signed_by_cluster(),
            conditions::state(&subject.request),
        ) {
            (true, State::Approved) => {
                return self.alarm_of_another_approval(&subject, message).await;
            }
            // Who does not sign may not write that it failed.
            (true, _) => Kind::Denied,
            (false, _) => Kind::Failed,
        };
        let event = Event::Failed {
            request: subject.reference(),
            grant: None,
            message: message.to_owned(),
        };
        self.record_once(&subject.uid, event).await?;
        self.close(subject, kind, reason, message).await
    }

    /// Adds a condition that ends the request, and an event.
    pub(super) async fn close(
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
        let ending = match kind {
            Kind::Approved | Kind::Failed => Ending::Failed,
            Kind::Denied => Ending::Denied,
        };
        self.metrics.ended(ending, reason);
        // Not before: until the request is closed, a certificate of an earlier try can still arrive.
        self.end_open_intent(&subject.uid, message).await?;
        self.settle(&subject.uid);
        self.events
            .publish(&subject.request, now, Level::Warning, reason, message)
            .await;
        Ok(Outcome::Done)
    }

    /// Writes the status by a subresource. `false`: someone else changed what was judged, or the object is gone.
    #[tracing::instrument(target = TRACES, skip_all, err, fields(otel.name = format!("write {subresource}")))]
    pub(super) async fn write(
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
    pub(super) async fn wait(
        &self,
        subject: &Subject,
        waiting: &Waiting,
    ) -> Result<Outcome, ControllerError> {
        let approved = conditions::state(&subject.request) == State::Approved;
        if approved && subject.is_signed_by_cluster() {
            return self
                .alarm_of_another_approval(subject, waiting.message())
                .await;
        }
        let until = waiting.until().to_string();
        let annotations = [
            (WAITING_FOR_ANNOTATION, waiting.message()),
            (WAITS_UNTIL_ANNOTATION, &until),
        ];
        let told = annotations.iter().all(|(key, value)| {
            let told = subject.request.annotations().get(*key);
            told.is_some_and(|told| told == value)
        });
        // Not only when it has not been told: who makes a request can say so beforehand.
        let event = Event::Waiting {
            request: subject.reference(),
            message: waiting.message().to_owned(),
        };
        self.record_once(&subject.uid, event).await?;
        if !told {
            let now = self.clock.now();
            let patch = serde_json::json!({
                "metadata": {
                    // With the UID, a request made anew under this name is not written to.
                    "uid": subject.uid,
                    "annotations": BTreeMap::from(annotations),
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
        // Nothing is looked at until then but what is heard of: the request, or a new policy.
        let left = waiting.until().duration_since(self.clock.now());
        Ok(Outcome::Wait(Duration::try_from(left).unwrap_or_default()))
    }
}
