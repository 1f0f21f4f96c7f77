//! Reads and writes the Lease, as the election has it.

use super::{
    Action, BootTime, Election, Leadership, LeaseDuration, NAME, Seen, leadership::Standing,
};
use crate::{
    clock::Clock,
    controller::{chain, code},
    metrics::Metrics,
};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long giving the Lease back may take: another takes it anyway when it has run out.
const RESIGN_WITHIN: Duration = Duration::from_millis(500);

/// How often a replica that stands aside looks whether it still has to.
const ASIDE: Duration = Duration::from_secs(1);

/// One replica that leads when no other does.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    duration: LeaseDuration,
    standing: watch::Sender<Standing>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// When it took the Lease that it holds.
    acquired: Option<Timestamp>,
}

impl Candidate {
    /// A candidate for the Lease of this namespace, and what the rest asks. `name` must be no other process's, ever.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        name: String,
        duration: LeaseDuration,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> (Self, Leadership) {
        let (standing, leadership) = Leadership::new();
        let candidate = Self {
            leases: Api::namespaced(client, namespace),
            name,
            duration,
            standing,
            clock,
            metrics,
            acquired: None,
        };
        (candidate, leadership)
    }

    /// Stands until `shutdown`, and gives the Lease back then; and while its audit log cannot be written, for it could sign
    /// nothing, and another can.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut election = Election::new(self.name.clone(), self.duration);
        // What it tells early is read again, and what it fails to tell is found by looking.
        let changes = watch_object(self.leases.clone(), NAME).default_backoff();
        let mut changes = std::pin::pin!(changes);
        loop {
            if self.metrics.is_audit_lost() {
                tracing::warn!("this replica stands aside until its audit log can be written");
                self.resign(&mut election).await;
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.fit() => {}
                }
                election = Election::new(self.name.clone(), self.duration);
            }
            let action = election.next(BootTime::now());
            if let Action::Wait(until) = action {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(until.since(BootTime::now())) => {}
                    Some(Ok(lease)) = changes.next() => {
                        let seen = lease.map(seen);
                        // One's own writes come back late.
                        let holder = seen.as_ref().and_then(|seen| seen.holder.as_ref());
                        match election.is_mine() {
                            true if holder == Some(&self.name) => {}
                            true => election.lost_the_race(BootTime::now()),
                            false => election.saw(seen, BootTime::now()),
                        }
                    }
                }
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.act(&mut election, action) => {}
            }
            self.tell(&election);
        }
        self.resign(&mut election).await;
    }

    /// Leads no more, and gives the Lease back.
    async fn resign(&mut self, election: &mut Election) {
        let resigned = election.resign();
        self.tell(election);
        if let Some((version, transitions)) = resigned {
            let gave = tokio::time::timeout(RESIGN_WITHIN, self.give_back(version, transitions));
            match gave.await {
                Ok(Ok(())) => tracing::info!("gave the lease back: another replica leads now"),
                Ok(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "the lease could not be given back: it runs out by itself");
                }
                Err(_) => {
                    tracing::warn!("the lease was not given back in time: it runs out by itself")
                }
            }
        }
    }

    /// Waits until the audit log can be written.
    async fn fit(&self) {
        while self.metrics.is_audit_lost() {
            tokio::time::sleep(ASIDE).await;
        }
    }

    async fn act(&mut self, election: &mut Election, action: Action) {
        let within = self.duration.leads_for() / 2;
        match tokio::time::timeout(within, self.try_to(election, action)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if code(&error) == Some(409) => election.lost_the_race(BootTime::now()),
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "the lease could not be read or written; trying again");
                election.failed(BootTime::now());
            }
            Err(_) => {
                tracing::warn!(
                    "the API server did not answer about the lease in time; trying again"
                );
                election.failed(BootTime::now());
            }
        }
    }

    async fn try_to(&mut self, election: &mut Election, action: Action) -> Result<(), kube::Error> {
        let sent = BootTime::now();
        match action {
            Action::Wait(_) => {}
            Action::Look => {
                let lease = self.leases.get_opt(NAME).await?;
                election.saw(lease.map(seen), BootTime::now());
            }
            Action::Create => {
                self.acquired = Some(self.clock.now());
                let lease = self.lease(None, 0);
                let written = self.leases.create(&PostParams::default(), &lease).await?;
                election.wrote(seen(written), sent);
            }
            Action::Take {
                version,
                transitions,
            } => {
                self.acquired = Some(self.clock.now());
                let lease = self.lease(Some(version), transitions);
                election.wrote(self.replace(lease).await?, sent);
                self.metrics.lease_taken();
            }
            Action::Renew {
                version,
                transitions,
            } => {
                let lease = self.lease(Some(version), transitions);
                election.wrote(self.replace(lease).await?, sent);
            }
        }
        Ok(())
    }

    async fn replace(&self, lease: Lease) -> Result<Seen, kube::Error> {
        let parameters = PostParams::default();
        let written = self.leases.replace(NAME, &parameters, &lease).await?;
        Ok(seen(written))
    }

    async fn give_back(&self, version: String, transitions: i32) -> Result<(), kube::Error> {
        let mut lease = self.lease(Some(version), transitions);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        self.replace(lease).await.map(|_| ())
    }

    fn lease(&self, version: Option<String>, transitions: i32) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(self.duration.as_secs().into()),
                lease_transitions: Some(transitions),
                acquire_time: self.acquired.map(MicroTime),
                renew_time: Some(MicroTime(self.clock.now())),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Hands on what is known now.
    fn tell(&self, election: &Election) {
        let standing = match (election.until(), election.holder()) {
            (until, _) if BootTime::now() < until => Standing::Leads(until),
            (_, Some(_)) => Standing::By,
            // Nobody leads.
            (_, None) => Standing::Unknown,
        };
        let before = self.standing.send_replace(standing);
        let leads = |standing| matches!(standing, Standing::Leads(_));
        self.metrics.leads(leads(standing));
        match (leads(before), leads(standing)) {
            (false, true) => tracing::info!(replica = self.name, "this replica leads"),
            (true, false) => tracing::warn!(replica = self.name, "this replica leads no more"),
            (true, true) | (false, false) => {}
        }
    }
}

/// What stands in a Lease. One that says nothing of its length is over.
fn seen(lease: Lease) -> Seen {
    let version = lease.resource_version().unwrap_or_default();
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Seen {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lasts: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version,
    }
}
