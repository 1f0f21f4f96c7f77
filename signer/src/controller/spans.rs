//! What the trace of a request says. No words that a person wrote or is called by: see [`crate::traces`].

use super::{Context, ControllerError, code, queue::Input, reconcile::Outcome};
use crate::{
    review::{Review, ReviewError},
    traces::TRACES,
};
use kube::ResourceExt as _;
use tracing::{Span, field::Empty};

impl Context {
    /// The span of one try at a request; none for the echo of what was written to it last.
    pub(super) fn span(&self, input: &Input) -> Span {
        if let Input::Object(request) = input
            && request.uid().is_some_and(|uid| self.is_settled(&uid))
        {
            return Span::none();
        }
        tracing::info_span!(
            target: TRACES,
            "reconcile",
            error.type = Empty,
            otel.status_code = Empty,
            touchstone.grant = Empty,
            touchstone.outcome = Empty,
            touchstone.reason = Empty,
            touchstone.request.uid = Empty,
            touchstone.verdict = Empty,
        )
    }
}

/// Which request is worked on.
pub(super) fn request(uid: &str) {
    Span::current().record("touchstone.request.uid", uid);
}

/// Which grant it gets.
pub(super) fn grant(name: &str) {
    Span::current().record("touchstone.grant", name);
}

/// Why it comes to nothing: the reason of the condition.
pub(super) fn reason(reason: &str) {
    Span::current().record("touchstone.reason", reason);
}

/// Something is broken, and not only refused.
pub(super) fn failed(kind: &str) {
    let span = Span::current();
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

/// How the try ended.
pub(super) fn ended(outcome: Outcome) {
    let outcome = match outcome {
        Outcome::Done => "done",
        Outcome::Reread => "reread",
        Outcome::Retry => "retry",
        Outcome::Wait(_) => "wait",
    };
    Span::current().record("touchstone.outcome", outcome);
}

/// Judges in a span of its own.
pub(super) fn review(
    judge: impl FnOnce() -> Result<Review, ReviewError>,
) -> Result<Review, ReviewError> {
    let span = tracing::info_span!(
        target: TRACES,
        "review",
        otel.status_code = Empty,
        touchstone.rules = Empty,
        touchstone.verdict = Empty,
    );
    let judged = span.in_scope(judge);
    let (verdict, rules) = match &judged {
        Ok(Review::Approve(intent)) => ("approve", intent.rules().len()),
        Ok(Review::Deny(_)) => ("deny", 0),
        Ok(Review::Wait(waiting)) => ("wait", waiting.intent().rules().len()),
        Err(_) => {
            span.record("otel.status_code", "ERROR");
            return judged;
        }
    };
    span.record("touchstone.verdict", verdict);
    span.record("touchstone.rules", i64::try_from(rules).unwrap_or(i64::MAX));
    Span::current().record("touchstone.verdict", verdict);
    judged
}

/// What is broken, for `error.type`.
pub(super) fn kind(error: &ControllerError) -> &'static str {
    match error {
        ControllerError::Audit(_) => "audit log",
        ControllerError::Ca(_) => "CA",
        ControllerError::ClientCa(_) => "client CAs",
        ControllerError::Kubernetes { source, .. } => match code(source) {
            Some(403) => "API: forbidden",
            Some(_) => "API: refused",
            None => "API: no answer",
        },
        ControllerError::NotLeading(_) => "not leading",
        ControllerError::Review(_) => "clock",
    }
}
