//! The controller: watches requests of its signer names and brings each to its end. All input and output is here; what to
//! do is decided by [`crate::review`], what to sign by [`crate::issue`].
//!
//! A request's way, each step on disk before the next begins:
//!
//! ```text
//! review → Grant (phase Intent; its name is the replay guard) → audit `intent` → Approved → sign → status.certificate
//!        → audit `issued` → Grant (phase Issued)
//! ```
//!
//! Under the cluster's signer name, kube-controller-manager signs and delivers; the rest is the same.
//!
//! It can stop after any step. The next run reads what is there and goes on: a Grant of the same request is resumed under
//! a new intent, one of another request is a replay.

mod aftercare;
mod bindings;
mod by_cluster;
mod conditions;
pub(crate) mod events;
mod grants;
mod intent;
mod queue;
mod reconcile;
mod settle;
mod spans;
mod subject;
mod verdict;

pub(crate) use grants::all as every_grant;
pub(crate) use subject::Subject;

use crate::{
    audit::{AuditError, AuditLog, Event},
    client_ca::ClientCaError,
    clock::Clock,
    grant::{Grant, Phase},
    lease::{Leadership, NotLeading},
    metrics::Metrics,
    review::{EvidenceCache, ReviewError, Snapshot},
    signers::Signers,
};
use futures::{FutureExt, Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use lru::LruCache;
use queue::{Input, Queue};
use reconcile::Outcome;
use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How many requests are worked on at once.
const AT_ONCE: usize = 64;
/// How many of one creator's. With two the API always has the next one; more bring a creator of thousands their certificates
/// sooner, and make everyone else's take longer. See `docs/benchmarks.md`.
const SHARE: usize = 2;
/// How many settled requests are remembered, so that the echo of one's own writes is not worked on again.
const SETTLED: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");
/// Of how many requests that are not at their end the last record is remembered.
const RECORDED: NonZeroUsize = NonZeroUsize::new(16_384).expect("16384 is not zero");
/// How long one try at a request may take. It can end between any two steps: the next one reads what is there.
const WORK_LIMIT: Duration = Duration::from_secs(60);
/// How long requests under way may take to end when the signer is stopped. Another replica waits for the lease, and goes
/// on with what is not at its end.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// Everything that working on a request needs.
#[derive(Debug)]
pub struct Context {
    audit: AuditLog,
    clock: Arc<dyn Clock>,
    evidence: Arc<EvidenceCache>,
    memory: Mutex<Memory>,
    metrics: Arc<Metrics>,
    signers: Signers,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    requests: Api<CertificateSigningRequest>,
    grants: Api<Grant>,
    role_bindings: bindings::RoleBindings,
    events: events::Events,
    front_account: Option<String>,
    leadership: Leadership,
}

/// What a controller is made of.
#[derive(Clone)]
pub struct Parts {
    /// The API.
    pub client: Client,
    /// Where is recorded what is done.
    pub audit: AuditLog,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// What the API server calls the account of the signer's own front door; `None` where there is none.
    pub front_account: Option<String>,
    /// Whether this process is the one that acts.
    pub leadership: Leadership,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who signs under the signer names that are answered.
    pub signers: Signers,
    /// The policy in force.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// What the process knows beside the API; nothing is lost with it.
#[derive(Debug)]
struct Memory {
    /// Requests by UID that are at their end.
    settled: LruCache<String, ()>,
    /// Grants in phase Intent, by the UID of their request.
    open: HashMap<String, OpenIntent>,
    /// What was last recorded, by UID, of requests that are not at their end.
    recorded: LruCache<String, Event>,
}

/// A Grant in phase Intent.
#[derive(Clone, Debug)]
struct OpenIntent {
    grant: String,
    request: String,
}

/// Why a request could not be worked on now. It is tried again. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The API.
    #[error("{doing}")]
    Kubernetes {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// The CA.
    #[error(transparent)]
    Ca(#[from] crate::ca::CaError),
    /// The cluster's client CAs.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// Another replica acts.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The request could not be judged.
    #[error(transparent)]
    Review(#[from] ReviewError),
}

impl ControllerError {
    fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes {
            doing,
            source: Box::new(source),
        }
    }
}

/// The HTTP code of an API's refusal.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

impl Context {
    /// Puts a controller together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            requests: Api::all(parts.client.clone()),
            grants: Api::all(parts.client.clone()),
            role_bindings: bindings::RoleBindings::new(parts.client.clone()),
            events: events::Events::new(parts.client),
            audit: parts.audit,
            clock: parts.clock,
            evidence: parts.evidence,
            front_account: parts.front_account,
            memory: Mutex::new(Memory {
                settled: LruCache::new(SETTLED),
                open: HashMap::new(),
                recorded: LruCache::new(RECORDED),
            }),
            leadership: parts.leadership,
            metrics: parts.metrics,
            signers: parts.signers,
            snapshot: parts.snapshot,
        }
    }

    /// Puts it into the audit log, if it is this process that acts.
    async fn record(&self, now: Timestamp, event: Event) -> Result<(), ControllerError> {
        self.leadership.check()?;
        let recorded = self.audit.append(now, event).await;
        self.metrics.audit_writable(recorded.is_ok());
        recorded?;
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each use is one whole change: a panic elsewhere leaves nothing half done in it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_settled(&self, uid: &str) -> bool {
        self.memory().settled.get(uid).is_some()
    }

    fn settle(&self, uid: &str) {
        let mut memory = self.memory();
        memory.open.remove(uid);
        memory.recorded.pop(uid);
        memory.settled.put(uid.to_owned(), ());
    }

    /// Works until `shutdown`. `ready` is called once, when every request that was there is known.
    ///
    /// # Errors
    /// When the grants that were left open cannot be read.
    pub async fn run(
        self: Arc<Self>,
        shutdown: CancellationToken,
        ready: impl FnOnce() + Send,
    ) -> Result<(), ControllerError> {
        let mut queue = Queue::new(AT_ONCE, SHARE);
        let mut running = JoinSet::new();
        let mut aftercare = Queue::new(AT_ONCE, AT_ONCE);
        let mut caring = JoinSet::new();
        let mut ready = Some(ready);
        let mut snapshot = self.snapshot.clone();
        let mut grants = std::pin::pin!(self.heard_of_grants());
        for request in self.take_in(grants.as_mut(), &mut aftercare).await? {
            queue.push(request, Arc::default(), Input::Reread);
        }
        let mut unlisted: HashSet<String> = self.signers.names().map(str::to_owned).collect();
        let mut events = std::pin::pin!(self.heard_of_requests());
        let creator = |request: &_| queue::creator(request, self.front_account.as_deref());
        loop {
            while let Some((name, input)) = queue.start() {
                let span = self.span(&input);
                running.spawn(Arc::clone(&self).work(name, input).instrument(span));
            }
            while let Some((name, _)) = aftercare.start() {
                caring.spawn(Arc::clone(&self).look_after(name));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                heard = grants.next() => match heard {
                    Some(Ok(watcher::Event::Apply(grant) | watcher::Event::InitApply(grant))) => {
                        if let Some((name, input)) = aftercare::due(&grant) {
                            aftercare.push(name, Arc::default(), input);
                        }
                    }
                    // What a Grant that was deleted had bound is collected with it.
                    Some(Ok(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) => {
                        tracing::warn!(error = %chain(&error), "the watch on grants was cut: nothing is heard of revocations; trying again");
                    }
                    None => break,
                },
                Some(Ok((name, outcome))) = caring.join_next() => aftercare.finish(&name, outcome),
                () = aftercare.due() => {}
                heard = events.next() => match heard.map(|(name, event)| event.map(|event| (name, event))) {
                    Some(Ok((_, watcher::Event::Apply(request) | watcher::Event::InitApply(request)))) => {
                        queue.push(request.name_any(), creator(&request), Input::Object(Box::new(request)));
                    }
                    Some(Ok((_, watcher::Event::Delete(request)))) => {
                        queue.push(request.name_any(), creator(&request), Input::Reread);
                    }
                    Some(Ok((name, watcher::Event::InitDone))) => {
                        unlisted.remove(&name);
                        if unlisted.is_empty() {
                            self.metrics.watching(true);
                            if let Some(ready) = ready.take() {
                                ready();
                            }
                        }
                    }
                    Some(Ok((_, watcher::Event::Init))) => {}
                    Some(Err(error)) => {
                        tracing::warn!(error = %chain(&error), "the watch on requests was cut; trying again");
                    }
                    None => break,
                },
                Some(done) = running.join_next() => {
                    // Every panic is caught inside `work`.
                    if let Ok((name, outcome)) = done {
                        if outcome == Outcome::Retry {
                            self.metrics.retried();
                        }
                        queue.finish(&name, outcome);
                        self.metrics.waiting(queue.waiting());
                    }
                }
                () = queue.due() => {}
                changed = snapshot.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    queue.wake_waiting();
                }
            }
        }
        self.metrics.watching(false);
        let rest = async {
            while running.join_next().await.is_some() {}
            while caring.join_next().await.is_some() {}
        };
        if tokio::time::timeout(STOP_LIMIT, rest).await.is_err() {
            tracing::warn!("stopped with requests under way; they are resumed at the next start");
        }
        Ok(())
    }

    /// What is heard of requests, with the signer name that it was heard of: first all of a name, then each change. The API
    /// server selects them, so that others' cost nothing here.
    fn heard_of_requests(
        &self,
    ) -> impl Stream<
        Item = (
            String,
            Result<watcher::Event<CertificateSigningRequest>, watcher::Error>,
        ),
    > + Send
    + use<> {
        let of = |name: &str| {
            let name = name.to_owned();
            let config = watcher::Config::default().fields(&format!("spec.signerName={name}"));
            let events = watcher(self.requests.clone(), config).default_backoff();
            events.map(move |event| (name.clone(), event)).boxed()
        };
        stream::select_all(self.signers.names().map(of).collect::<Vec<_>>())
    }

    /// Works on one request. A panic ends this request and no other.
    async fn work(self: Arc<Self>, name: String, input: Input) -> (String, Outcome) {
        let reconcile = tokio::time::timeout(WORK_LIMIT, self.reconcile(&name, input));
        let result = AssertUnwindSafe(reconcile).catch_unwind().await;
        let outcome = match result {
            Ok(Ok(Ok(outcome))) => outcome,
            Ok(Err(_)) => {
                tracing::warn!(
                    request = name,
                    "the API server did not answer in time; reading what it did and trying again"
                );
                spans::failed("timeout");
                Outcome::Retry
            }
            Ok(Ok(Err(error))) => {
                tracing::warn!(request = name, error = %chain(&error), "failed to work on a request; trying again");
                spans::failed(spans::kind(&error));
                Outcome::Retry
            }
            Err(panic) => {
                spans::failed("panic");
                let message = panic_message(panic.as_ref());
                tracing::error!(
                    request = name,
                    panic = message,
                    "a defect in Touchstone: a request made it panic"
                );
                match AssertUnwindSafe(self.fail_after_panic(&name))
                    .catch_unwind()
                    .await
                {
                    Ok(Ok(())) => Outcome::Done,
                    Ok(Err(_)) | Err(_) => Outcome::Retry,
                }
            }
        };
        spans::ended(outcome);
        (name, outcome)
    }

    fn count_living(&self, grant: &Grant) {
        let status = grant.status.as_ref();
        let ends =
            status.and_then(|status| Some((status.ca.as_ref()?, status.not_after.as_ref()?)));
        if let Some((ca, not_after)) = ends {
            self.metrics.leaf(ca, not_after.0);
        }
    }

    /// Takes in all grants that there are: what is due to them later, and those that an earlier process left in phase
    /// Intent; the names of their requests.
    async fn take_in(
        &self,
        mut heard: impl Stream<Item = Result<watcher::Event<Grant>, watcher::Error>> + Unpin,
        aftercare: &mut Queue,
    ) -> Result<Vec<String>, ControllerError> {
        let mut requests = Vec::new();
        while let Some(event) = heard.next().await {
            let grant = match event {
                Ok(watcher::Event::InitApply(grant)) => grant,
                Ok(watcher::Event::InitDone) => break,
                Ok(_) => continue,
                Err(watcher::Error::InitialListFailed(error)) => {
                    return Err(ControllerError::api("list the grants")(error));
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the grants cannot be listed; trying again");
                    continue;
                }
            };
            if grant.phase() != Phase::Intent {
                self.count_living(&grant);
                if let Some((name, input)) = aftercare::due(&grant) {
                    aftercare.push(name, Arc::default(), input);
                }
                continue;
            }
            let request = grant.spec.request.clone();
            tracing::info!(
                grant = grant.name_any(),
                request = request.name,
                "resuming an intent"
            );
            self.memory().open.insert(
                request.uid,
                OpenIntent {
                    grant: grant.name_any(),
                    request: request.name.clone(),
                },
            );
            requests.push(request.name);
        }
        Ok(requests)
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let refusal = refusal(error);
        let said = refusal.map_or_else(|| error.to_string(), str::to_owned);
        // Some libraries print their cause themselves.
        if !text.ends_with(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        next = match refusal {
            Some(_) => None,
            None => error.source(),
        };
    }
    text
}

/// What an API server said, where an error is its refusal: printed, that would be the whole answer, three times over.
fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    let boxed = error.downcast_ref::<Box<kube::Error>>();
    match error
        .downcast_ref::<kube::Error>()
        .or(boxed.map(AsRef::as_ref))
    {
        Some(kube::Error::Api(status)) if !status.message.is_empty() => Some(&status.message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::canary::CanaryError;

    #[test]
    fn a_refusal_of_an_api_server_is_told_once_in_its_words() {
        let status = kube::core::Status {
            code: 401,
            message: "Unauthorized".into(),
            reason: "Unauthorized".into(),
            ..Default::default()
        };
        let refused = || kube::Error::Api(Box::new(status.clone()));
        assert_eq!(chain(&refused()), "Unauthorized");
        let canary = CanaryError::Api {
            endpoint: "https://10.0.0.1/".into(),
            source: Box::new(refused()),
        };
        assert_eq!(
            chain(&canary),
            "have a canary certificate authenticate at https://10.0.0.1/: Unauthorized"
        );
    }
}
