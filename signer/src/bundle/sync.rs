//! Keeps the file that API servers read as `--client-ca-file` as the cluster has it published.
//!
//! The file is the only memory. Each look reads it, what is to be included and, when something may have changed, the
//! ConfigMap; makes a [plan](merge::plan); and replaces the file if it differs. Whatever is away or broken, the file stays
//! as good as it was.

use super::{
    Bundle,
    file::{self, Existing, FileError, Held},
    include::{self, IncludeError},
    merge::{self, Plan, Refusal},
    published::CONFIG_MAP,
    source::{Source, SourceError},
    voice::Voice,
};
use crate::{
    controller::{chain, code},
    credentials::Credentials,
};
use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use std::{
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use touchstone_common::certificate::CaCertificate;

/// How often the file and those to include are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often the ConfigMap is read, whatever the watch says.
const READ_AGAIN: Duration = Duration::from_secs(5 * 60);
/// How long a connection that does not work is kept.
const CONNECT_AGAIN: Duration = Duration::from_secs(15);

/// What is kept, and from where.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// The file that API servers read.
    pub out: PathBuf,
    /// Files of CAs that stand in it, too.
    pub include: Vec<PathBuf>,
    /// The namespace of the ConfigMap, where it is not the usual one.
    pub namespace: Option<String>,
    /// How the cluster is reached.
    pub credentials: Credentials,
}

/// What may be taken away from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Whatever is neither published nor included, and the file itself, whatever it is.
    Overwrite,
    /// What a newer bundle took away.
    Update,
}

/// Whether the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is only said what would change.
    DryRun,
    /// It is.
    Write,
}

/// Why the file was not brought up to date. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file to include.
    #[error(transparent)]
    Include(#[from] IncludeError),
    /// What is published does not follow what the file has.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What is published.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl SyncError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::File(error) => error.remedy(),
            Self::Include(error) => error.remedy(),
            Self::Refused(error) => error.remedy(),
            Self::Source(error) => error.remedy(),
        }
    }
}

impl Keeper {
    /// Brings the file up to date once.
    ///
    /// # Errors
    /// When anything is away or broken; the file then stays as it was.
    pub async fn once(&self, take: Take, effect: Effect) -> Result<Plan, SyncError> {
        let included = include::read(&self.include)?;
        let source = self.source().await?;
        let published = source.read().await?;
        self.apply(Some(published), included, take, effect).await
    }

    async fn source(&self) -> Result<Source, SourceError> {
        Source::open(&self.credentials, self.namespace.as_deref()).await
    }

    /// Keeps the file up to date until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        let mut state = State::default();
        tracing::info!(file = %self.out.display(), "keeping the trust bundle");
        while !shutdown.is_cancelled() {
            match self.source().await {
                Ok(source) => self.follow(&source, &mut state, shutdown).await,
                Err(error) => {
                    state.away(&error);
                    self.look(&mut state).await;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Follows the ConfigMap until the connection has not worked for a while.
    async fn follow(&self, source: &Source, state: &mut State, shutdown: &CancellationToken) {
        let watched = watcher::watch_object(source.config_maps(), CONFIG_MAP).default_backoff();
        let mut watched = pin!(watched);
        let ticks = |period| {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut looks, mut reads) = (ticks(LOOK), ticks(READ_AGAIN));
        let mut broken: Option<Instant> = None;
        // The first look waits for the first answer: a file that is missing is not made of what is included alone while the
        // API can say what is published.
        let mut asked = false;
        loop {
            let is_due = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = reads.tick() => true,
                // An API that was away is asked again at each look: its return is not always an event.
                _ = looks.tick() => broken.is_some() || !asked,
                event = watched.next() => match event {
                    Some(event) => {
                        state.watched(event.as_ref().err());
                        true
                    }
                    None => return,
                },
            };
            if is_due {
                asked = true;
                let read = tokio::select! {
                    () = shutdown.cancelled() => return,
                    read = source.read() => read,
                };
                match read {
                    Ok(bundle) => {
                        broken = None;
                        state.read(bundle);
                    }
                    Err(error) if error.is_of_the_api() => {
                        broken.get_or_insert_with(Instant::now);
                        state.away(&error);
                    }
                    Err(error) => {
                        broken = None;
                        state.refused(&error);
                    }
                }
            }
            self.look(state).await;
            if broken.is_some_and(|since| since.elapsed() > CONNECT_AGAIN) {
                return;
            }
        }
    }

    /// One look at the files.
    async fn look(&self, state: &mut State) {
        let included = match include::read(&self.include) {
            Ok(included) => {
                state.voice.well(INCLUDED, Instant::now());
                included
            }
            Err(error) => {
                state
                    .voice
                    .trouble(INCLUDED, chain(&error), &error.remedy(), Instant::now());
                // The file has what was good of it; without a file, half of what is to be trusted is worse than none.
                if !matches!(file::read(&self.out), Ok(Existing::Content(_))) {
                    return;
                }
                Vec::new()
            }
        };
        match self
            .apply(
                state.published.clone(),
                included,
                Take::Update,
                Effect::Write,
            )
            .await
        {
            Ok(plan) => state.kept(&plan),
            // Until the API answers, there is nothing to be said of a file that is not there yet.
            Err(SyncError::Refused(Refusal::Nothing)) => {}
            Err(error) => {
                state
                    .voice
                    .trouble(WRITTEN, chain(&error), &error.remedy(), Instant::now());
            }
        }
    }

    async fn apply(
        &self,
        published: Option<Bundle>,
        included: Vec<CaCertificate>,
        take: Take,
        effect: Effect,
    ) -> Result<Plan, SyncError> {
        let out = self.out.clone();
        let applied = tokio::task::spawn_blocking(move || {
            let plan = |existing: &Existing| match take {
                Take::Overwrite => merge::overwrite(existing, published.as_ref(), &included),
                Take::Update => merge::plan(existing, published.as_ref(), &included),
            };
            let first = plan(&file::read(&out)?)?;
            if effect == Effect::DryRun || !first.changed {
                return Ok(first);
            }
            // Another process may have written since: only who holds the folder may act on what stands there.
            let held = Held::of(&out)?;
            let plan = plan(&file::read(&out)?)?;
            if plan.changed {
                held.write(&plan.content)?;
            }
            Ok(plan)
        });
        match applied.await {
            Ok(applied) => applied,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

const API: &str = "the published trust bundle cannot be read; the file stays as it is";
const INCLUDED: &str = "a file to include cannot be used; its CAs stay in the file as they are";
const KEPT: &str = "the file trusts CAs that are neither published nor included; they stay in it";
const PUBLISHED: &str = "what is published is not taken; the file stays as it is";
const RIGHTS: &str = "give this account the rights of deploy/bundle-sync/rbac.yaml";
const WATCHED: &str = "the published trust bundle cannot be watched; it is read every few minutes";
const WRITTEN: &str = "the file is not brought up to date; it stays as it is";

/// What a running sync knows.
#[derive(Debug, Default)]
struct State {
    /// What was last read and good.
    published: Option<Bundle>,
    voice: Voice,
}

impl State {
    fn read(&mut self, bundle: Bundle) {
        let now = Instant::now();
        self.voice.well(API, now);
        self.voice.well(PUBLISHED, now);
        self.published = Some(bundle);
    }

    /// A watch that ends is begun again; one that is not allowed is worth a word.
    fn watched(&mut self, error: Option<&watcher::Error>) {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        let now = Instant::now();
        match error {
            None => self.voice.well(WATCHED, now),
            Some(InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error))
                if code(error) == Some(403) =>
            {
                self.voice.trouble(WATCHED, chain(error), RIGHTS, now);
            }
            Some(error) => tracing::debug!(error = %chain(error), "the watch ended"),
        }
    }

    fn away(&mut self, error: &SourceError) {
        self.voice
            .trouble(API, chain(error), &error.remedy(), Instant::now());
    }

    fn refused(&mut self, error: &SourceError) {
        let now = Instant::now();
        self.voice.well(API, now);
        self.voice
            .trouble(PUBLISHED, chain(error), &error.remedy(), now);
    }

    fn kept(&mut self, plan: &Plan) {
        let now = Instant::now();
        self.voice.well(WRITTEN, now);
        if plan.changed {
            tracing::info!(
                revision = plan.content.published.as_ref().map(Bundle::revision),
                certificates = plan.content.certificates().count(),
                added = names(&plan.added),
                removed = names(&plan.removed),
                "the file is brought up to date"
            );
        }
        if plan.kept.is_empty() {
            self.voice.well(KEPT, now);
        } else {
            let remedy = "name their file with --include, or take them out with `touchstone-signer bundle sync --once --overwrite`";
            self.voice.trouble(KEPT, names(&plan.kept), remedy, now);
        }
    }
}

fn names(certificates: &[CaCertificate]) -> String {
    certificates
        .iter()
        .map(|one| {
            format!(
                "{:?} ({})",
                one.common_name(),
                hex::encode(one.fingerprint())
            )
        })
        .collect::<Vec<_>>()
        .join(", ")
}
