//! Requests that are at their end, and intents that an earlier try left open.

use super::{
    Context, ControllerError,
    events::Level,
    grants::{self, Delivered},
    reconcile::Outcome,
    subject::Subject,
};
use crate::{
    audit::{Event, RequestRef},
    grant::Grant,
    signers::OwnCa,
};
use jiff::Timestamp;

impl Context {
    /// Intents whose request is gone, or was made anew under the same name, come to nothing.
    pub(super) async fn fail_intents_of_the_gone(
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

    pub(super) async fn end_open_intent(
        &self,
        uid: &str,
        message: &str,
    ) -> Result<(), ControllerError> {
        let Some(open) = self.memory().open.get(uid).cloned() else {
            return Ok(());
        };
        let event = Event::Failed {
            request: RequestRef {
                csr: open.request,
                csr_uid: uid.to_owned(),
                creator: String::new(),
            },
            grant: Some(open.grant.clone()),
            message: message.to_owned(),
        };
        self.record(self.clock.now(), event).await?;
        self.end_grant(&open.grant, None, &grants::failed(message))
            .await?;
        self.memory().open.remove(uid);
        Ok(())
    }

    /// A request that carries a certificate: ours, delivered before a crash could record it, or one that it should not
    /// carry. It is never overwritten.
    pub(super) async fn settle_certified(
        &self,
        subject: &Subject,
        certificate: &[u8],
        own: &OwnCa,
    ) -> Result<Outcome, ControllerError> {
        let recognised = own.authority.borrow().recognise(certificate);
        let open = self.memory().open.get(&subject.uid).cloned();
        match (recognised, open) {
            (Some(_), None) => {}
            (Some((leaf, ca)), Some(open)) => {
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
                    self.metrics.leaf(&ca, leaf.not_after);
                    let delivered = Delivered {
                        ca,
                        fingerprint: leaf.fingerprint,
                        serial_number: leaf.serial_number,
                        not_after: leaf.not_after,
                    };
                    self.record_issued(subject, &open.grant, grant, delivered, self.clock.now())
                        .await?;
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

    /// Records that a certificate was delivered: in the audit log, then in its grant.
    pub(super) async fn record_issued(
        &self,
        subject: &Subject,
        name: &str,
        grant: Option<Grant>,
        delivered: Delivered,
        now: Timestamp,
    ) -> Result<(), ControllerError> {
        let event = Event::Issued {
            request: subject.reference(),
            grant: name.to_owned(),
            fingerprint: delivered.fingerprint.clone(),
            serial_number: delivered.serial_number.clone(),
            not_after: delivered.not_after,
        };
        self.record(now, event).await?;
        self.end_grant(name, grant, &grants::issued(delivered, now))
            .await
    }

    pub(super) async fn report_foreign(
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
        self.metrics.found_foreign_certificate();
        let now = self.clock.now();
        let event = Event::ForeignCertificate {
            request: subject.reference(),
            sha256,
        };
        self.record(now, event).await?;
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
}
