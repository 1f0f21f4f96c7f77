//! What is due to a grant after its certificate was delivered: its RoleBindings go when the certificate ends, or at once
//! when it is revoked.
//!
//! What is due is read from the Grant alone, so that nothing is forgotten over a restart. It is recorded in the audit log
//! before the Grant says that it was done.

use super::{Context, ControllerError, code, events::Level, queue::Input, reconcile::Outcome};
use crate::{
    audit::Event,
    grant::{Grant, Phase},
    traces::TRACES,
};
use futures::{FutureExt, Stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Resource, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

/// How many grants are read at once.
const PAGE: u32 = 500;

impl Context {
    /// What is heard of grants: first all of them, then each change.
    pub(super) fn heard_of_grants(
        &self,
    ) -> impl Stream<Item = Result<watcher::Event<Grant>, watcher::Error>> + Send + use<> {
        let config = watcher::Config::default().page_size(PAGE);
        watcher(self.grants.clone(), config).default_backoff()
    }

    /// Does what is due to a grant. A panic ends this try and no other.
    pub(super) async fn look_after(self: Arc<Self>, name: String) -> (String, Outcome) {
        let work = tokio::time::timeout(super::WORK_LIMIT, self.do_what_is_due(&name));
        let outcome = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Ok(Err(error))) => {
                tracing::warn!(grant = name, error = %super::chain(&error), "failed to do what is due to a grant; trying again");
                Outcome::Retry
            }
            Ok(Err(_)) => {
                tracing::warn!(
                    grant = name,
                    "the API server did not answer in time; trying again"
                );
                Outcome::Retry
            }
            Err(_) => {
                tracing::error!(
                    grant = name,
                    "a defect in Touchstone: a grant made it panic"
                );
                Outcome::Retry
            }
        };
        (name, outcome)
    }

    #[tracing::instrument(name = "look after grant", target = TRACES, skip_all, err, fields(touchstone.grant = name))]
    async fn do_what_is_due(&self, name: &str) -> Result<Outcome, ControllerError> {
        let grant = self
            .grants
            .get_opt(name)
            .await
            .map_err(ControllerError::api("read the grant"))?;
        let Some(mut grant) = grant else {
            return Ok(Outcome::Done);
        };
        // Whoever works on its request brings it to its end, and then it is heard of again.
        if grant.phase() == Phase::Intent {
            return Ok(Outcome::Done);
        }
        let now = self.clock.now();
        let time = Timestamp::from_second(now.as_second()).ok().map(Time);
        let left = left(&grant, now);
        let revoked = grant
            .revocation()
            .map(|revocation| (revocation.by.to_owned(), revocation.reason.to_owned()));
        let mut changed = false;
        if grant.may_be_bound() && (left.is_none() || revoked.is_some()) {
            self.unbind(&grant).await?;
            let event = Event::Unbound {
                grant: name.to_owned(),
                bindings: grant.spec.bindings.len() as u64,
            };
            self.record(now, event).await?;
            grant.status.get_or_insert_default().bindings_removed_at = time.clone();
            changed = true;
        }
        if let Some((by, reason)) = revoked.filter(|_| grant.is_to_be_revoked()) {
            tracing::warn!(
                grant = name,
                user = grant.spec.user,
                by,
                "a grant was revoked"
            );
            let note = format!("revoked by {by}");
            let event = Event::Revoked {
                grant: name.to_owned(),
                user: grant.spec.user.clone(),
                by,
                reason,
                not_after: left.and(grant.not_after()),
            };
            self.record(now, event).await?;
            grant.status.get_or_insert_default().revoked_at = time;
            let regarding = grant.object_ref(&());
            self.events
                .tell(regarding, "Revoke", now, Level::Warning, "Revoked", &note)
                .await;
            changed = true;
        }
        if changed {
            let written = self
                .grants
                .replace_status(name, &PostParams::default(), &grant)
                .await;
            match written {
                Ok(_) => {}
                Err(error) if code(&error) == Some(404) => return Ok(Outcome::Done),
                Err(error) if code(&error) == Some(409) => return Ok(Outcome::Reread),
                Err(error) => {
                    return Err(ControllerError::api("write the grant's status")(error));
                }
            }
        }
        Ok(match left {
            Some(left) if grant.may_be_bound() => Outcome::Wait(left),
            Some(_) | None => Outcome::Done,
        })
    }
}

/// How long the certificate of a grant is still valid; `None`: no longer.
fn left(grant: &Grant, now: Timestamp) -> Option<Duration> {
    let end = grant.not_after().filter(|end| *end >= now)?;
    Duration::try_from(end.duration_since(now)).ok()
}

/// The grant to look after, if something is or will be due to it.
pub(super) fn due(grant: &Grant) -> Option<(String, Input)> {
    let due = grant.phase() != Phase::Intent && (grant.may_be_bound() || grant.is_to_be_revoked());
    due.then(|| (grant.name_any(), Input::Reread))
}
