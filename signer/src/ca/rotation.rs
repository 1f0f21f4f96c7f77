//! The rotation as it runs: reads the record, makes the steps that are due, and hands on what changed.
//!
//! Every signer of a cluster runs it. What one of them does, it does by compare-and-swap on the record, after what the step
//! needs is on disk and before anyone relies on it; whoever crashes or loses the race leaves a record from which every
//! other goes on. A step that cannot be made holds up no other: what is wrong stands in the record, the metrics, the log
//! and an Event, until it is made.

mod found;
mod make;
mod tell;

pub use found::found;

use super::{
    CaError,
    authority::{self, Authority},
    bootstrap::{self, Founded},
    canary::{self, CanaryError},
    key::{self, CaKeyError, KeySource},
    lifecycle::{CaId, Due, Event, Proof, Refused, Step},
    record::{Binding, Blocked, Planned, Record, RecordError},
    settings::CaSettings,
    store::{Read, Store, StoreError},
};
use crate::{
    audit::AuditLog,
    bundle::{Bundle, publish::Publisher},
    clock::Clock,
    controller::chain,
    data_dir::{self, DataDir, DataDirError},
    lease::Leadership,
    metrics::Metrics,
    traces::TRACES,
};
use jiff::{SignedDuration, Timestamp};
use kube::{Client, Config};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use touchstone_common::certificate::SignError;
use tracing::Instrument as _;

/// How often the record is read where nothing is due: how long a signer may go on signing by a CA that an operator
/// distrusted.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How soon it is read again at the soonest.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How soon a step that could not be made is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// How often what others may have changed of the published trust bundle is looked at.
const PUBLISH_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// How long making a key may take: whoever takes longer is taken for dead.
const PLAN_LIFETIME: SignedDuration = SignedDuration::from_mins(1);
/// How many steps are made in one look: more than any rotation has.
const MAX_STEPS: usize = 16;

/// What a rotation works with, beside the API.
pub struct Parts {
    /// The CA that the data directory begins with: the first one of a new record.
    pub founded: Option<Founded>,
    /// The settings.
    pub settings: CaSettings,
    /// Which cluster it is for.
    pub binding: Binding,
    /// Where the record and the trust bundle are.
    pub namespace: String,
    /// The signer name, which a ClusterTrustBundle carries.
    pub signer_name: String,
    /// Where the root of a trial is, and the trust bundle as a file.
    pub data: Arc<DataDir>,
    /// API servers at which a CA proves itself.
    pub endpoints: Vec<Config>,
    /// Who is told of another trust bundle, beside the cluster.
    pub trust: Arc<dyn Trust>,
    /// Whether this process is the one that moves the record; the others follow it.
    pub leadership: Leadership,
}

/// Somebody who trusts what the bundle says.
pub trait Trust: Send + Sync {
    /// Trusts these CAs from now on, and no other.
    ///
    /// # Errors
    /// Why not.
    fn trust(&self, bundle: Option<&Bundle>) -> Result<(), String>;
}

/// Nobody but the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterAlone;

impl Trust for ClusterAlone {
    fn trust(&self, _: Option<&Bundle>) -> Result<(), String> {
        Ok(())
    }
}

/// A rotation that has its record.
pub struct Rotation {
    parts: Parts,
    store: Store,
    publisher: Publisher,
    teller: tell::Teller,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    authority: watch::Sender<Arc<Authority>>,
    published: Option<Shown>,
}

/// The trust bundle that was handed on last.
struct Shown {
    bundle: Option<Mark>,
    at: Timestamp,
}

/// What tells one bundle from another: its revision and its digest.
type Mark = (u64, String);

/// Why a rotation does not go on. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The CA of the data directory.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A canary.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// The trust bundle as a file.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There was a record, and it is gone.
    #[error("find the CA's record: {trace} shows that there was one")]
    Gone {
        /// What shows it.
        trace: String,
    },
    /// A key.
    #[error(transparent)]
    Key(#[from] CaKeyError),
    /// There is nowhere to prove a CA at.
    #[error("prove a CA: no API server is named")]
    NoEndpoint,
    /// The record's own root is in another data directory.
    #[error("sign a CA: the root in this data directory is not the one of the CA's record")]
    RootElsewhere,
    /// The move.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A CA's certificate.
    #[error("sign a CA's certificate")]
    Sign(#[from] SignError<CaKeyError>),
    /// The record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The trust bundle in the cluster.
    #[error(transparent)]
    Publish(#[from] crate::bundle::publish::PublishError),
    /// What is in it.
    #[error(transparent)]
    Bundle(#[from] crate::bundle::BundleError),
    /// The embedded API.
    #[error("have the API server trust the CAs: {0}")]
    Trust(String),
}

impl From<RecordError> for RotationError {
    fn from(error: RecordError) -> Self {
        Self::Store(StoreError::Record(error))
    }
}

impl RotationError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Ca(error) => error.remedy(),
            Self::Canary(error) => error.remedy(),
            Self::DataDir(error) => error.remedy(),
            Self::Gone { .. } => "restore the Secret touchstone-ca from a backup: the CAs in it are what clients trust. To begin anew \
                 with another CA, remove what shows that there was one"
                .into(),
            Self::Key(error) => error.remedy(),
            Self::Refused(_) => "touchstone-signer ca status says what is due, and when".into(),
            Self::Sign(SignError::Key(error)) => error.remedy(),
            Self::Sign(SignError::WrongKey) => {
                "restore the root of the data directory from a backup: its key is not its own".into()
            }
            Self::Store(error) => error.remedy(),
            Self::Publish(error) => error.remedy(),
            Self::Bundle(error) => error.remedy(),
            Self::RootElsewhere => {
                "run one replica, with the data directory that the record was begun with; for several, the settings say `root: ceremony` or `root: none`".into()
            }
            Self::NoEndpoint => "name the API servers as endpoints in the CA settings".into(),
            Self::Trust(_) => "look at the log for a defect in Touchstone".into(),
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict))
    }
}

impl Rotation {
    /// Reads the record, or makes the first one, and hands on what it says.
    ///
    /// # Errors
    /// When it cannot be read or made, or is gone.
    pub async fn open(
        client: Client,
        parts: Parts,
        audit: AuditLog,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RotationError> {
        let store = Store::new(client.clone(), &parts.namespace, parts.binding.clone());
        let publisher = Publisher::new(client.clone(), &parts.namespace, &parts.signer_name);
        if store.load().await?.is_none() {
            parts.leadership.gained().await;
        }
        let read = found::open(&store, &publisher, &parts, clock.now()).await?;
        let authority = Authority::of(&read.record, None, &parts.settings.tokens).await?;
        let authority = Arc::new(authority);
        let teller = tell::Teller::new(client, &parts.namespace, audit, Arc::clone(&clock));
        let mut rotation = Self {
            parts,
            store,
            publisher,
            teller,
            clock,
            metrics,
            authority: watch::Sender::new(authority),
            published: None,
        };
        rotation.show(&read.record).await?;
        Ok(rotation)
    }

    /// What signs, now and from then on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    /// Goes on for ever: moves the record while this process leads, and follows it otherwise.
    pub async fn run(mut self) -> std::convert::Infallible {
        loop {
            let leads = self.parts.leadership.check().is_ok();
            let looked = match leads {
                true => self.look().await,
                false => self.read().await.map(|_| LOOK_EVERY),
            };
            let pause = match looked {
                Ok(pause) => pause,
                Err(error) => {
                    self.metrics.record_readable(false);
                    tracing::error!(error = %chain(&error), remedy = error.remedy(), "the CA's record cannot be followed");
                    TRY_AGAIN
                }
            };
            let gained = async {
                match leads {
                    true => std::future::pending().await,
                    false => self.parts.leadership.gained().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = gained => {}
            }
        }
    }

    /// Reads the record and makes every step that is due; for how long nothing else is.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub async fn look(&mut self) -> Result<Duration, RotationError> {
        let mut read = self.read().await?;
        let mut failed: Option<(String, RotationError)> = None;
        for _ in 0..MAX_STEPS {
            match self.next(&read, &mut failed).await {
                Ok(Some(written)) => read = written,
                Ok(None) => break,
                Err(error) if error.is_conflict() => read = self.read().await?,
                Err(error) => return Err(error),
            }
            self.show(&read.record).await?;
        }
        let blocked = failed.map(|(step, error)| self.blocked(&read.record, step, &error));
        if read.record.blocked() != blocked.as_ref() {
            if let Some(blocked) = &blocked {
                self.teller.blocked(blocked).await;
            }
            let record = read.record.clone().with_blocked(blocked);
            match self.store.replace(&read, &record).await {
                Ok(written) => read = written,
                Err(StoreError::Conflict) => return Ok(LOOK_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
        let now = self.clock.now();
        self.metrics.rotation(&read.record, now);
        Ok(pause(&read.record, now))
    }

    async fn read(&mut self) -> Result<Read, RotationError> {
        let read = self
            .store
            .load()
            .await?
            .ok_or_else(|| RotationError::Gone {
                trace: "this signer, which read it before,".into(),
            })?;
        self.metrics.record_readable(true);
        self.show(&read.record).await?;
        Ok(read)
    }

    /// Makes one change of the record: what was asked for by settings, what is left to clean up, the first step that is due
    /// and can be made, or that it was seen. Nothing where there is nothing to do.
    async fn next(
        &self,
        read: &Read,
        failed: &mut Option<(String, RotationError)>,
    ) -> Result<Option<Read>, RotationError> {
        let now = self.clock.now();
        let record = &read.record;
        *failed = None;
        if !record.doomed().is_empty() {
            match self.destroy(record).await {
                Ok(()) => {
                    let record = record.clone().with_nothing_doomed();
                    return Ok(Some(self.store.replace(read, &record).await?));
                }
                // It is told, and tried again. Whoever signs must not stop for it.
                Err(error) => *failed = Some(("destroy a key of no use".into(), error.into())),
            }
        }
        let is_given_up =
            |planned: &Planned| now.duration_since(planned.since).abs() > PLAN_LIFETIME;
        if record.planned().is_some_and(is_given_up) {
            let record = record.clone().without_plan();
            return Ok(Some(self.store.replace(read, &record).await?));
        }
        if record.lifecycle().schedule() != &self.parts.settings.schedule {
            let event = Event::Scheduled(self.parts.settings.schedule);
            return self.write(read, event, now).await.map(Some);
        }
        let due = record.lifecycle().agenda(now);
        for Due { step, .. } in due.into_iter().filter(|due| due.at <= now) {
            let span = tell::span(&step);
            match self.step(read, step).instrument(span.clone()).await {
                Ok(Some(written)) => return Ok(Some(written)),
                Ok(None) => {}
                Err(error) if error.is_conflict() => return Err(error),
                Err(error) => {
                    span.record("otel.status_code", "ERROR");
                    tracing::warn!(step = %tell::Words(&step), error = %chain(&error), remedy = error.remedy(), "a step of the CA's rotation is due and could not be made");
                    // The first in the order of the agenda is what everything waits for.
                    if failed.is_none() {
                        *failed = Some((tell::Words(&step).to_string(), error));
                    }
                }
            }
        }
        if record.lifecycle().is_to_be_seen(now) {
            return self.write(read, Event::Seen, now).await.map(Some);
        }
        Ok(None)
    }

    async fn step(&self, read: &Read, step: Step) -> Result<Option<Read>, RotationError> {
        let now = self.clock.now();
        let proof = match step.needs_proof_of(read.record.lifecycle(), now) {
            Some(id) => Some(self.prove(&read.record, id).await?),
            None => None,
        };
        // Proving took its time.
        let now = self.clock.now();
        let event = match (step, proof) {
            (Step::AwaitRoot(_), _) => return Ok(None),
            (Step::Prepare, _) => return self.prepare(read, now).await,
            (Step::AskRoot(id), _) => Event::AskedRoot(id),
            (Step::Publish(id), _) => Event::Published(id),
            (Step::Discard(id), proof) => Event::Discarded(id, proof),
            (Step::Activate(_), Some(proof)) => Event::Activated(proof),
            (Step::Remove(id), Some(proof)) => Event::Removed(id, proof),
            (Step::Activate(id) | Step::Remove(id), None) => {
                return Err(Refused::Unproven(id).into());
            }
        };
        self.write(read, event, now).await.map(Some)
    }

    /// Has a certificate of this CA authenticate at every API server.
    #[tracing::instrument(target = TRACES, skip_all, err, fields(touchstone.ca = %id))]
    async fn prove(&self, record: &Record, id: CaId) -> Result<Proof, RotationError> {
        if self.parts.endpoints.is_empty() {
            return Err(RotationError::NoEndpoint);
        }
        let longest = record
            .lifecycle()
            .ca(id)
            .map(|ca| ca.longest_leaf().as_duration())
            .unwrap_or_default();
        let ca = authority::issuing(record, id, &self.parts.settings.tokens).await?;
        let ca = Arc::new(ca);
        let at = self.clock.now();
        for endpoint in &self.parts.endpoints {
            canary::prove(&ca, endpoint, longest, self.clock.now()).await?;
        }
        Ok(Proof { ca: id, at })
    }

    /// Makes a move and writes it.
    async fn write(
        &self,
        read: &Read,
        event: Event,
        now: Timestamp,
    ) -> Result<Read, RotationError> {
        let mut lifecycle = read.record.lifecycle().clone();
        lifecycle.apply(event, now)?;
        let record = read.record.clone().with_lifecycle(lifecycle)?;
        self.replace(read, &record).await
    }

    #[tracing::instrument(name = "write CA record", target = TRACES, skip_all, err)]
    async fn replace(&self, read: &Read, record: &Record) -> Result<Read, RotationError> {
        let written = self.store.replace(read, record).await?;
        self.teller.moved(&read.record, &written.record).await;
        Ok(written)
    }

    /// Hands on what a record says: who signs, and who is trusted.
    async fn show(&mut self, record: &Record) -> Result<(), RotationError> {
        let now = self.clock.now();
        // Before the first CA is published there is nothing to trust.
        let bundle = match record.trust_bundle().is_empty() {
            true => None,
            false => Some(Bundle::of(record)?),
        };
        let mark = bundle
            .as_ref()
            .map(|bundle| (bundle.revision(), bundle.sha256()));
        let before = self.published.as_ref();
        let is_new = before.is_none_or(|shown| shown.bundle != mark);
        let is_late = before.is_none_or(|shown| now.duration_since(shown.at).abs() > PUBLISH_EVERY);
        if is_new {
            let told = self.parts.trust.trust(bundle.as_ref());
            told.map_err(RotationError::Trust)?;
            if let Some(bundle) = &bundle {
                self.write_file(bundle)?;
            }
        }
        // Who is to trust is told before who signs.
        let before = Arc::clone(&self.authority.borrow());
        let authority = Authority::of(record, Some(&before), &self.parts.settings.tokens).await?;
        self.metrics.rotation(record, now);
        self.authority.send_replace(Arc::new(authority));
        if self.parts.leadership.check().is_err() {
            // The leader publishes. Who leads next looks at once.
            self.published = None;
            self.metrics.bundle_published(false);
            return Ok(());
        }
        if !is_new && !is_late {
            return Ok(());
        }
        let published = match &bundle {
            Some(bundle) => self.publisher.publish(bundle).await.map(|_| ()),
            None => Ok(()),
        };
        self.metrics.bundle_published(published.is_ok());
        match published {
            Ok(()) => {
                self.published = Some(Shown {
                    bundle: mark,
                    at: now,
                });
            }
            Err(error) => {
                self.published = None;
                tracing::error!(error = %chain(&error), remedy = error.remedy(), "the trust bundle could not be published");
            }
        }
        Ok(())
    }

    fn write_file(&self, bundle: &Bundle) -> Result<(), DataDirError> {
        let file = self.parts.data.file(bootstrap::TRUST_BUNDLE);
        let content = bundle.to_pem();
        if data_dir::read_optional(&file)?.as_deref() == Some(content.as_bytes()) {
            return Ok(());
        }
        data_dir::write_atomic(&file, content.as_bytes())
    }

    async fn destroy(&self, record: &Record) -> Result<(), CaKeyError> {
        for key in record.doomed() {
            self.destroy_key(key).await?;
            tracing::info!(key = %key, "destroyed a key that is of no use any more");
        }
        Ok(())
    }

    async fn destroy_key(&self, key: &KeySource) -> Result<(), CaKeyError> {
        let (key, tokens) = (key.clone(), self.parts.settings.tokens.clone());
        key::apart(move || key.destroy(&tokens)).await
    }

    fn blocked(&self, record: &Record, step: String, error: &RotationError) -> Blocked {
        let why = chain(error);
        let since = record
            .blocked()
            .filter(|before| before.step == step)
            .map_or_else(|| self.clock.now(), |before| before.since);
        Blocked {
            step,
            since,
            why,
            remedy: error.remedy(),
        }
    }
}

/// For how long nothing is due that is not already.
fn pause(record: &Record, now: Timestamp) -> Duration {
    let lifecycle = record.lifecycle();
    let keep = lifecycle.schedule().settings().keep_after_last_leaf;
    let seen = Duration::from_secs(u64::from(keep.as_secs())) / 8;
    let due = lifecycle
        .agenda(now)
        .into_iter()
        .filter(|due| due.at > now)
        .filter_map(|due| Duration::try_from(due.at.duration_since(now)).ok())
        .min()
        .unwrap_or(LOOK_EVERY);
    due.min(seen).min(LOOK_EVERY).max(LOOK_AGAIN)
}
