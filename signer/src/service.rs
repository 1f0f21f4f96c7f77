//! The signer as it runs: the controller, and the policy file looked at beside it. The same on the embedded API and on a
//! cluster.

use crate::{
    audit::{AuditLog, Event},
    ca::rotation::{self, Rotation},
    client_ca::ClientCa,
    clock::Clock,
    controller::{self, Context, Parts},
    error::Error,
    front::Face,
    lease::Leadership,
    metrics::{self, Metrics},
    reload::{self, Change, PolicyFile},
    review::EvidenceCache,
    signers::{OwnCa, Signers},
};
use kube::Client;
use std::{num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use touchstone_common::policy::Policy;

/// How many engineers' evidence is remembered.
const EVIDENCE: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");

/// How often it is tried whether the audit log can be written again.
const RESUME_EVERY: Duration = Duration::from_secs(5);

/// What a signer is made of, beside the API it works on.
pub struct Service {
    /// Where is recorded what is done.
    pub audit: AuditLog,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// The front door, if there is one.
    pub front: Option<Face>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where what is counted is asked for, if anywhere.
    pub metrics_listener: Option<TcpListener>,
    /// The policy.
    pub policy: PolicyFile,
    /// Whether this process is the one that acts.
    pub leadership: Leadership,
    /// What the CA's rotation works with, where the signer has a CA.
    pub rotation: Option<rotation::Parts>,
    /// The cluster's client CAs, where kube-controller-manager signs.
    pub client_ca: Option<Arc<ClientCa>>,
}

/// An empty memory of verified evidence.
#[must_use]
pub fn evidence_cache() -> Arc<EvidenceCache> {
    Arc::new(EvidenceCache::new(EVIDENCE))
}

impl Service {
    /// Works until `shutdown`: answers requests whenever this process leads, and is ready to whenever it does not. `ready` is
    /// called once, when every request that was there is known, or another replica answers them.
    ///
    /// # Errors
    /// When the audit log cannot be written at the start or the end, or the API cannot be read.
    pub async fn run(
        self,
        client: Client,
        shutdown: CancellationToken,
        ready: impl FnOnce() + Send,
    ) -> Result<(), Error> {
        let Self {
            audit,
            clock,
            evidence,
            front,
            metrics,
            metrics_listener,
            policy,
            leadership,
            rotation,
            client_ca,
        } = self;
        let monitor = monitor(metrics_listener, Arc::clone(&metrics), Arc::clone(&clock));
        let stopped = (audit.clone(), Arc::clone(&clock));
        let serving = async {
            let mut signers = Signers {
                own: None,
                cluster: client_ca,
            };
            let rotation = match rotation {
                None => None,
                Some(parts) => {
                    let name = parts.signer_name.clone();
                    let opening = Rotation::open(
                        client.clone(),
                        parts,
                        audit.clone(),
                        Arc::clone(&clock),
                        Arc::clone(&metrics),
                    );
                    // A new installation waits for its first leader.
                    let rotation = tokio::select! {
                        rotation = opening => rotation?,
                        () = shutdown.cancelled() => return Ok(()),
                    };
                    let authority = rotation.subscribe();
                    signers.own = Some(OwnCa { name, authority });
                    Some(rotation)
                }
            };
            metrics.policy_in_force(&policy.subscribe().borrow().policy);
            let snapshot = policy.subscribe();
            let started = Event::Started {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ca: signers.own.as_ref().map(active).unwrap_or_default(),
                signer_name: signers.names().collect::<Vec<_>>().join(", "),
            };
            audit.append(clock.now(), started).await?;
            metrics.audit_writable(true);
            let loaded = loaded(&snapshot.borrow().policy);
            audit.append(clock.now(), loaded).await?;
            let parts = Parts {
                client,
                audit: audit.clone(),
                clock: Arc::clone(&clock),
                evidence,
                front_account: front.map(|front| front.account),
                leadership,
                metrics: Arc::clone(&metrics),
                signers,
                snapshot,
            };
            let resuming = resume(audit.clone(), Arc::clone(&clock), Arc::clone(&metrics));
            let watching = watch_policy(policy, audit, clock, metrics);
            tokio::select! {
                result = answer(parts, shutdown, ready) => result,
                never = resuming => match never {},
                never = watching => match never {},
                never = rotate(rotation) => match never {},
            }
        };
        let result = tokio::select! {
            result = serving => result,
            never = monitor => match never {},
        };
        let (audit, clock) = stopped;
        audit.append(clock.now(), Event::Stopped {}).await?;
        result
    }
}

/// SHA-256 of the CA that signs now; nothing where none does.
fn active(own: &OwnCa) -> String {
    let authority = own.authority.borrow();
    let active = authority.active();
    active
        .map(|ca| ca.fingerprint().to_owned())
        .unwrap_or_default()
}

/// Moves the CA through its life, where there is one, for ever.
async fn rotate(rotation: Option<Rotation>) -> std::convert::Infallible {
    match rotation {
        Some(rotation) => rotation.run().await,
        None => std::future::pending().await,
    }
}

/// Answers requests whenever this process leads, until `shutdown`. What is under way when it ceases to is dropped: whoever
/// leads next reads what is there and goes on.
async fn answer(
    parts: Parts,
    shutdown: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), Error> {
    let (leadership, metrics) = (parts.leadership.clone(), Arc::clone(&parts.metrics));
    let mut ready = Some(ready);
    let mut ready = || {
        if let Some(ready) = ready.take() {
            ready();
        }
    };
    loop {
        let stands_by = async {
            leadership.standing_by().await;
            metrics.standing_by(true);
            ready();
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = leadership.gained() => {}
            () = stands_by => {}
        }
        metrics.standing_by(false);
        // What an earlier term knew may be long past.
        let context = Arc::new(Context::new(parts.clone()));
        tokio::select! {
            result = context.run(shutdown.clone(), &mut ready) => return Ok(result?),
            () = leadership.lost() => metrics.watching(false),
        }
    }
}

/// Answers for ever who asks what is counted.
async fn monitor(
    listener: Option<TcpListener>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
) -> std::convert::Infallible {
    match listener {
        Some(listener) => metrics::serve(listener, metrics, clock).await,
        None => std::future::pending().await,
    }
}

/// Tries for ever whether an audit log that could not be written can be again: a replica that stands aside writes nothing
/// else by which it would know.
async fn resume(
    audit: AuditLog,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(RESUME_EVERY).await;
        if metrics.is_audit_lost() && audit.append(clock.now(), Event::Resumed {}).await.is_ok() {
            tracing::info!("the audit log is written again");
            metrics.audit_writable(true);
        }
    }
}

fn loaded(policy: &Policy) -> Event {
    Event::PolicyLoaded {
        sha256: hex::encode(policy.digest()),
        generation: policy.generation(),
    }
}

/// Looks at the policy file for ever.
async fn watch_policy(
    mut policy: PolicyFile,
    audit: AuditLog,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(reload::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        // Reading and checking a large policy takes milliseconds.
        let checked = tokio::task::spawn_blocking(move || {
            let change = policy.check();
            (policy, change)
        });
        let change = match checked.await {
            Ok((back, change)) => {
                policy = back;
                change
            }
            Err(error) => {
                tracing::error!(%error, "a defect in Touchstone: the policy file is not looked at any more; the policy in force stays");
                return std::future::pending().await;
            }
        };
        let event = match change {
            Change::None => continue,
            Change::Loaded(snapshot) => {
                tracing::info!(
                    sha256 = hex::encode(snapshot.policy.digest()),
                    generation = snapshot.policy.generation(),
                    "a new policy is in force"
                );
                metrics.policy_in_force(&snapshot.policy);
                loaded(&snapshot.policy)
            }
            Change::Restored => {
                tracing::info!("the policy file holds the policy in force again");
                metrics.policy_in_force(&policy.subscribe().borrow().policy);
                continue;
            }
            Change::Refused(error) => {
                let message = controller::chain(&error);
                tracing::error!(
                    error = message,
                    "the policy file cannot be used: the last good policy stays in force"
                );
                metrics.policy_refused();
                Event::PolicyRefused { message }
            }
        };
        if let Err(error) = audit.append(clock.now(), event).await {
            tracing::error!(error = %controller::chain(&error), "a change of the policy could not be recorded");
        }
    }
}
