//! Requests that kube-controller-manager signs: recorded and approved here, and held against what came out.
//!
//! Whoever else may approve under the cluster's signer name has a certificate made without Touchstone. That cannot be undone
//! from here: it is found, recorded and alarmed.

use super::{
    Context, ControllerError, events::Level, grants::Delivered, reconcile::Outcome, spans,
    subject::Subject,
};
use crate::{
    audit::Event,
    client_ca::ClientCa,
    grant::{Grant, Phase, name_of},
    metrics::Ending,
    review::{Intent, Snapshot},
};
use kube::ResourceExt;
use std::ops::ControlFlow;
use touchstone_common::{
    certificate,
    csr::{POLICY_APPROVED, Request},
};

impl Context {
    /// Whether an intent of this request is recorded and has not come to its end.
    pub(super) fn is_open(&self, uid: &str) -> bool {
        self.memory().open.contains_key(uid)
    }

    /// Records and approves. What comes of it is heard of later.
    pub(super) async fn grant_by_cluster(
        &self,
        subject: Subject,
        intent: &Intent,
        snapshot: &Snapshot,
    ) -> Result<Outcome, ControllerError> {
        let now = self.clock.now();
        let (mut subject, grant) = match self.intend(subject, intent, snapshot, None, now).await? {
            ControlFlow::Continue(opened) => opened,
            ControlFlow::Break(outcome) => return Ok(outcome),
        };
        if !self.approve(&mut subject, intent, now).await? {
            return Ok(Outcome::Reread);
        }
        tracing::info!(
            request = subject.name,
            grant = grant.name_any(),
            user = %intent.user(),
            "approved, for kube-controller-manager to sign"
        );
        Ok(Outcome::Done)
    }

    /// A request that carries a certificate: what was granted, or something else.
    pub(super) async fn settle_certified_by_cluster(
        &self,
        subject: &Subject,
        certificate: &[u8],
        ca: &ClientCa,
    ) -> Result<Outcome, ControllerError> {
        // What cannot be read was granted to nobody.
        let request = Request::from_pem(&subject.request.spec.request.0).ok();
        let granted = match &request {
            Some(request) => self
                .granted(subject, request)
                .await?
                .map(|it| (request, it)),
            None => None,
        };
        match granted {
            Some((request, grant)) if grant.phase() == Phase::Intent => {
                self.settle_intent(subject, certificate, request, grant, ca)
                    .await?;
            }
            // Taken into the records by an earlier process.
            Some((_, grant)) if is_of(&grant, certificate) => {}
            Some(_) | None => {
                self.report_foreign(subject, certificate).await?;
                self.end_open_intent(&subject.uid, "the request carries another certificate")
                    .await?;
            }
        }
        self.settle(&subject.uid);
        Ok(Outcome::Done)
    }

    /// The grant of this very request.
    async fn granted(
        &self,
        subject: &Subject,
        request: &Request,
    ) -> Result<Option<Grant>, ControllerError> {
        let grant = self
            .grants
            .get_opt(&name_of(&request.claims().nonce))
            .await
            .map_err(ControllerError::api("read the grant"))?;
        Ok(grant.filter(|grant| grant.spec.request.uid == subject.uid))
    }

    async fn settle_intent(
        &self,
        subject: &Subject,
        certificate: &[u8],
        request: &Request,
        grant: Grant,
        ca: &ClientCa,
    ) -> Result<(), ControllerError> {
        let now = self.clock.now();
        let name = grant.name_any();
        spans::grant(&name);
        // The grant's lifetime is the request's: nothing else is approved.
        let ttl = request.claims().ttl;
        let issued = match ca.verify(certificate, request, ttl, now).await? {
            Ok(issued) => issued,
            Err(why) => {
                self.report_foreign(subject, certificate).await?;
                let message = format!(
                    "the request carries a certificate that is not what was granted: {why}"
                );
                return self.end_open_intent(&subject.uid, &message).await;
            }
        };
        let fingerprint = hex::encode(issued.fingerprint);
        let user = grant.spec.user.clone();
        let delivered = Delivered {
            ca: hex::encode(issued.anchor),
            fingerprint: fingerprint.clone(),
            serial_number: issued.serial,
            not_after: issued.validity.not_after,
        };
        self.record_issued(subject, &name, Some(grant), delivered, now)
            .await?;
        self.metrics.ended(Ending::Issued, POLICY_APPROVED);
        tracing::info!(
            request = subject.name,
            grant = name,
            user,
            fingerprint,
            "issued by kube-controller-manager"
        );
        let note = format!(
            "certificate issued by kube-controller-manager: grant {name}, until {}",
            issued.validity.not_after
        );
        self.events
            .publish(&subject.request, now, Level::Normal, "Issued", &note)
            .await;
        Ok(())
    }

    /// Someone else approved what should not be: Kubernetes takes no verdict back, and it is signed.
    pub(super) async fn alarm_of_another_approval(
        &self,
        subject: &Subject,
        why: &str,
    ) -> Result<Outcome, ControllerError> {
        let event = Event::ForeignApproval {
            request: subject.reference(),
            message: why.to_owned(),
        };
        if !self.record_once(&subject.uid, event).await? {
            return Ok(Outcome::Done);
        }
        tracing::error!(
            request = subject.name,
            why,
            "approved by someone else: it cannot be denied any more, and kube-controller-manager signs it; find out who may approve"
        );
        let note =
            format!("approved by someone else, and not to be stopped; Touchstone says: {why}");
        self.events
            .publish(
                &subject.request,
                self.clock.now(),
                Level::Warning,
                "ApprovedByAnother",
                &note,
            )
            .await;
        Ok(Outcome::Done)
    }
}

/// Whether a grant says that this is its certificate.
fn is_of(grant: &Grant, certificate: &[u8]) -> bool {
    let leaf = certificate::from_pem_bundle(certificate).ok();
    let fingerprint = leaf
        .and_then(|chain| chain.into_iter().next())
        .map(|leaf| hex::encode(certificate::fingerprint(&leaf)));
    let status = grant.status.as_ref();
    fingerprint.is_some() && status.and_then(|status| status.fingerprint.clone()) == fingerprint
}
