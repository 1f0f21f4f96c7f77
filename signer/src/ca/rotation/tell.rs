//! What happened to the CAs, told to people: audit log, log, Events on the record.

use super::{Blocked, Record, Step};
use crate::{
    audit::{AuditLog, Event},
    ca::{self, lifecycle::Move, store},
    clock::Clock,
    controller::{
        chain,
        events::{Events, Level},
    },
    traces::TRACES,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use std::{fmt, sync::Arc};
use tracing::{Span, field::Empty};

/// Who is told.
pub(super) struct Teller {
    audit: AuditLog,
    clock: Arc<dyn Clock>,
    events: Events,
    regarding: ObjectReference,
}

/// A step, in words that complete "could not …".
pub(super) struct Words<'a>(pub(super) &'a Step);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Step::Activate(ca) => write!(f, "activate {ca}"),
            Step::AskRoot(ca) => write!(f, "ask the security team for the certificate of {ca}"),
            Step::AwaitRoot(ca) => write!(f, "get the certificate of {ca} from the security team"),
            Step::Discard(ca) => write!(f, "discard {ca}"),
            Step::Prepare => f.write_str("prepare the next CA"),
            Step::Publish(ca) => write!(f, "publish {ca}"),
            Step::Remove(ca) => write!(f, "remove {ca}"),
        }
    }
}

/// The span of a step; none while people are waited for.
pub(super) fn span(step: &Step) -> Span {
    match step {
        Step::AwaitRoot(_) => Span::none(),
        step => tracing::info_span!(
            target: TRACES,
            "rotate CA",
            otel.status_code = Empty,
            touchstone.step = %Words(step),
        ),
    }
}

impl Teller {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        audit: AuditLog,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            audit,
            clock,
            events: Events::new(client),
            regarding: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Secret".into()),
                name: Some(store::SECRET.into()),
                namespace: Some(namespace.to_owned()),
                ..ObjectReference::default()
            },
        }
    }

    /// Every move that is in `after` and not yet in `before`.
    pub(super) async fn moved(&self, before: &Record, after: &Record) {
        let known = before
            .lifecycle()
            .journal()
            .last()
            .map_or(0, |it| it.number);
        let moves = after.lifecycle().journal().iter();
        for one in moves.filter(|one| one.number > known) {
            self.moved_one(one, after).await;
        }
    }

    async fn moved_one(&self, one: &Move, record: &Record) {
        let cause = cause(one);
        let fingerprint = record
            .material(one.ca)
            .and_then(|material| material.certificate.as_ref())
            .map(|certificate| ca::fingerprint(certificate.der()));
        tracing::info!(ca = %one.ca, from = one.from.map(|from| from.name()), to = one.to.name(), cause, "a CA moved");
        let event = Event::CaMoved {
            ca: one.ca.to_string(),
            from: one.from.map(|from| from.name().to_owned()),
            to: one.to.name().to_owned(),
            cause: cause.to_owned(),
            fingerprint,
        };
        if let Err(error) = self.audit.append(self.clock.now(), event).await {
            tracing::error!(error = %chain(&error), "a move of a CA could not be recorded in the audit log; the CA's record has it");
        }
        let note = format!("{} is {} now ({cause})", one.ca, one.to);
        self.tell(Level::Normal, "CaMoved", &note).await;
    }

    /// A step that is due and could not be made.
    pub(super) async fn blocked(&self, blocked: &Blocked) {
        let note = format!(
            "could not {}: failed to {}. {}",
            blocked.step, blocked.why, blocked.remedy
        );
        self.tell(Level::Warning, "CaRotationBlocked", &note).await;
    }

    async fn tell(&self, level: Level, reason: &str, note: &str) {
        let (regarding, now) = (self.regarding.clone(), self.clock.now());
        self.events
            .tell(regarding, "Rotate", now, level, reason, note)
            .await;
    }
}

fn cause(one: &Move) -> &'static str {
    use crate::ca::lifecycle::Cause;
    match one.cause {
        Cause::Adopted => "adopted",
        Cause::Discarded => "discarded",
        Cause::Distrusted => "distrusted",
        Cause::Followed => "followed",
        Cause::Imported => "imported",
        Cause::RolledBack => "rolled back",
        Cause::Schedule => "schedule",
    }
}
