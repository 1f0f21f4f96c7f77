//! What is counted, in the words of Prometheus. No label carries a name of a user, a group or a request: who has access
//! stands in the grants and the audit log, not on a dashboard.

mod endpoint;
mod front;

pub use endpoint::serve;
pub use front::FrontMetrics;

use crate::ca::{
    fingerprint,
    lifecycle::{Ca, Lifecycle, State},
    record::Record,
};
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry},
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use touchstone_common::{policy::Policy, ttl::Ttl};

/// In place of a time: no CA signs.
const NO_CA: i64 = i64::MIN;
/// In place of a time: kube-controller-manager signs.
const NO_CA_NEEDED: i64 = i64::MAX;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The policy, or what is checked before it, refused it.
    Denied,
    /// It was approved, and nothing came of it.
    Failed,
    /// Its certificate was delivered.
    Issued,
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let value = match self {
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Issued => "issued",
        };
        EncodeLabelValue::encode(&value, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    ending: Ending,
    /// The reason of the condition that it ended with: one of a few words.
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CaLabels {
    /// Such as `ca-3`.
    ca: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CaStateLabels {
    /// Such as `ca-3`.
    ca: String,
    /// Such as `active`.
    state: &'static str,
}

/// The ends of living leaves, by the fingerprint of their CA, in seconds since 1970.
type Leaves = HashMap<String, BinaryHeap<Reverse<i64>>>;

/// Everything that is counted, and whether the signer is ready.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is counted of the CA; nothing where there is none.
    ca_registry: Option<Registry>,
    requests: Family<RequestLabels, Counter>,
    waiting: Gauge,
    retries: Counter,
    issuing: Histogram,
    foreign_certificates: Counter,
    audit_writable: Gauge,
    leader: Gauge,
    lease_taken: Counter,
    policy_generation: Gauge,
    policy_refused: Gauge,
    policy_refusals: Counter,
    ca_not_before: Gauge,
    ca_not_after: Gauge,
    ca_states: Family<CaStateLabels, Gauge>,
    ca_leaves: Family<CaLabels, Gauge>,
    ca_next_step: Gauge,
    ca_overdue: Gauge,
    ca_blocked: Gauge,
    ca_record_readable: Gauge,
    bundle_published: Gauge,
    leaves: Mutex<Leaves>,
    is_overdue: AtomicBool,
    is_audit_lost: AtomicBool,
    is_standing_by: AtomicBool,
    is_watching: AtomicBool,
    /// Seconds since 1970.
    signs_until: AtomicI64,
}

/// What a signer is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It answers requests.
    Answering,
    /// Another replica does, and this one would take over.
    StandingBy,
}

/// Why the signer is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// What is done cannot be recorded.
    #[error("the audit log cannot be written: nothing is signed")]
    Audit,
    /// The issuing CA ends before the shortest certificate would.
    #[error("the issuing CA ends at {0}: nothing more can be signed")]
    CaEnds(Timestamp),
    /// No CA is active.
    #[error("no CA signs: touchstone-signer ca status says why")]
    NoCa,
    /// A step of the CA's rotation is late.
    #[error(
        "the rotation of the CA is overdue: touchstone-signer ca status says what is to be done"
    )]
    Overdue,
    /// The requests that are there are not known yet, or it is ending.
    #[error("the requests are not watched")]
    NotWatching,
}

impl Metrics {
    /// Nothing counted yet, by a signer that has no CA: what it cannot count is not shown.
    #[must_use]
    pub fn without_ca() -> Self {
        Self {
            ca_registry: None,
            signs_until: AtomicI64::new(NO_CA_NEEDED),
            ..Self::new()
        }
    }

    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut ca_registry = Registry::with_prefix("touchstone");
        let mut of_ca = Add(&mut ca_registry);
        let mut registry = Registry::with_prefix("touchstone");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", build);
        let mut add = Add(&mut registry);
        Self {
            requests: add.metric(
                "requests",
                "Requests that came to their end: issued, denied or failed",
                Family::default(),
            ),
            waiting: add.metric(
                "requests_waiting",
                "Requests that wait for approvals",
                Gauge::default(),
            ),
            retries: add.metric(
                "retries",
                "Tries at a request that did not work and are made again",
                Counter::default(),
            ),
            issuing: add.metric(
                "issuing_seconds",
                "From the verdict on a request to its delivered certificate",
                // From a millisecond to half a minute.
                Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            ),
            foreign_certificates: add.metric(
                "foreign_certificates",
                "Certificates that stood in a request and were not put there by this signer",
                Counter::default(),
            ),
            audit_writable: add.metric(
                "audit_writable",
                "1 unless the last record of the audit log could not be written; nothing is signed then",
                Gauge::default(),
            ),
            leader: add.metric(
                "leader",
                "1 while this replica holds the lease and answers requests",
                Gauge::default(),
            ),
            lease_taken: add.metric(
                "lease_taken",
                "How often this replica took the lease from another or from nobody",
                Counter::default(),
            ),
            policy_generation: add.metric(
                "policy_generation",
                "The policy in force, counted up from the start of the process",
                Gauge::default(),
            ),
            policy_refused: add.metric(
                "policy_refused",
                "1 while the policy file cannot be used and the last good policy stays in force",
                Gauge::default(),
            ),
            policy_refusals: add.metric(
                "policy_refusals",
                "Changes of the policy file that could not be used",
                Counter::default(),
            ),
            ca_not_before: of_ca.metric(
                "ca_not_before_timestamp_seconds",
                "When the issuing CA's certificate begins, in seconds since 1970",
                Gauge::default(),
            ),
            ca_not_after: of_ca.metric(
                "ca_not_after_timestamp_seconds",
                "When the issuing CA's certificate ends, in seconds since 1970",
                Gauge::default(),
            ),
            ca_states: of_ca.metric(
                "ca_state",
                "1 for the state that each CA is in",
                Family::default(),
            ),
            ca_leaves: of_ca.metric(
                "ca_leaves",
                "Certificates of each CA that have not ended",
                Family::default(),
            ),
            ca_next_step: of_ca.metric(
                "ca_next_step_timestamp_seconds",
                "When the next step of the CA's rotation is due, in seconds since 1970; 0 where none is",
                Gauge::default(),
            ),
            ca_overdue: of_ca.metric(
                "ca_rotation_overdue",
                "1 while a step of the CA's rotation is late",
                Gauge::default(),
            ),
            ca_blocked: of_ca.metric(
                "ca_rotation_blocked",
                "1 while a step of the CA's rotation is due and cannot be made",
                Gauge::default(),
            ),
            ca_record_readable: of_ca.metric(
                "ca_record_readable",
                "1 while the CA's record can be read and is whole",
                Gauge::default(),
            ),
            bundle_published: of_ca.metric(
                "trust_bundle_published",
                "1 while the trust bundle in the cluster is the one of the CA's record",
                Gauge::default(),
            ),
            leaves: Mutex::default(),
            is_overdue: AtomicBool::new(false),
            is_audit_lost: AtomicBool::new(false),
            is_standing_by: AtomicBool::new(false),
            is_watching: AtomicBool::new(false),
            signs_until: AtomicI64::new(NO_CA),
            ca_registry: Some(ca_registry),
            registry,
        }
    }

    /// Counts what comes to the front door, too.
    #[must_use]
    pub fn with_front(mut self, front: &FrontMetrics) -> Self {
        front.register(&mut Add(&mut self.registry));
        self
    }

    /// All of it, in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        for registry in [Some(&self.registry), self.ca_registry.as_ref()] {
            // Writing to a string does not fail.
            let _ = registry.map(|registry| text::encode_registry(&mut encoded, registry));
        }
        let _ = text::encode_eof(&mut encoded);
        encoded
    }

    /// Whether requests are answered, here or by a leader that this replica stands by for, and certificates can be signed.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self, now: Timestamp) -> Result<Ready, NotReady> {
        let ready = match self.is_watching.load(Ordering::Acquire) {
            true => Ready::Answering,
            false if self.is_standing_by.load(Ordering::Acquire) => Ready::StandingBy,
            false => return Err(NotReady::NotWatching),
        };
        if self.is_audit_lost() {
            return Err(NotReady::Audit);
        }
        let until = self.signs_until.load(Ordering::Acquire);
        match until {
            NO_CA => return Err(NotReady::NoCa),
            NO_CA_NEEDED => return Ok(ready),
            _ => {}
        }
        let until = Timestamp::from_second(until).unwrap_or(Timestamp::MIN);
        if now > until {
            return Err(NotReady::CaEnds(until));
        }
        if self.is_overdue.load(Ordering::Acquire) {
            return Err(NotReady::Overdue);
        }
        Ok(ready)
    }

    pub(crate) fn ended(&self, ending: Ending, reason: &str) {
        let reason = reason.to_owned();
        let labels = RequestLabels { ending, reason };
        self.requests.get_or_create(&labels).inc();
    }

    pub(crate) fn issued_in(&self, time: Duration) {
        self.issuing.observe(time.as_secs_f64());
    }

    pub(crate) fn waiting(&self, requests: usize) {
        self.waiting
            .set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }

    pub(crate) fn found_foreign_certificate(&self) {
        self.foreign_certificates.inc();
    }

    pub(crate) fn audit_writable(&self, is_writable: bool) {
        self.audit_writable.set(is_writable.into());
        self.is_audit_lost.store(!is_writable, Ordering::Release);
    }

    /// Whether the last record could not be written.
    pub(crate) fn is_audit_lost(&self) -> bool {
        self.is_audit_lost.load(Ordering::Acquire)
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    pub(crate) fn lease_taken(&self) {
        self.lease_taken.inc();
    }

    pub(crate) fn standing_by(&self, is_standing_by: bool) {
        self.is_standing_by.store(is_standing_by, Ordering::Release);
    }

    pub(crate) fn policy_in_force(&self, policy: &Policy) {
        let generation = i64::try_from(policy.generation()).unwrap_or(i64::MAX);
        self.policy_generation.set(generation);
        self.policy_refused.set(0);
    }

    pub(crate) fn policy_refused(&self) {
        self.policy_refused.set(1);
        self.policy_refusals.inc();
    }

    pub(crate) fn record_readable(&self, is_readable: bool) {
        self.ca_record_readable.set(is_readable.into());
    }

    pub(crate) fn bundle_published(&self, is_published: bool) {
        self.bundle_published.set(is_published.into());
    }

    /// A certificate that ends then was signed by the CA with this fingerprint.
    pub(crate) fn leaf(&self, ca: &str, not_after: Timestamp) {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = leaves.entry(ca.to_owned()).or_default();
        ends.push(Reverse(not_after.as_second()));
    }

    /// What the CA's record says.
    pub(crate) fn rotation(&self, record: &Record, now: Timestamp) {
        let lifecycle = record.lifecycle();
        let active = lifecycle.active().and_then(Ca::lifetime);
        let seconds = |time: Timestamp| time.as_second();
        self.ca_not_before
            .set(active.map_or(0, |it| seconds(it.not_before)));
        self.ca_not_after
            .set(active.map_or(0, |it| seconds(it.not_after)));
        // The last moment at which the shortest leaf fits.
        let shortest = i64::from(Ttl::MIN.as_secs().min(longest_leaf(lifecycle)));
        let until = active.map_or(NO_CA, |it| seconds(it.not_after) - shortest);
        self.signs_until.store(until, Ordering::Release);
        let next = lifecycle
            .agenda(now)
            .first()
            .map_or(0, |due| seconds(due.at));
        self.ca_next_step.set(next);
        let is_overdue = lifecycle.is_overdue(now);
        self.ca_overdue.set(is_overdue.into());
        self.is_overdue.store(is_overdue, Ordering::Release);
        self.ca_blocked.set(record.blocked().is_some().into());
        self.count_cas(record, now);
    }

    fn count_cas(&self, record: &Record, now: Timestamp) {
        self.ca_states.clear();
        self.ca_leaves.clear();
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.retain(|_, ends| {
            while ends.peek().is_some_and(|end| end.0 < now.as_second()) {
                ends.pop();
            }
            !ends.is_empty()
        });
        for ca in record.lifecycle().cas() {
            let certificate = record
                .material(ca.id())
                .and_then(|material| material.certificate.as_ref());
            let living = certificate
                .and_then(|certificate| leaves.get(&fingerprint(certificate.der())))
                .map_or(0, BinaryHeap::len);
            if ca.state() == State::Removed && living == 0 {
                continue;
            }
            let (id, state) = (ca.id().to_string(), ca.state().name());
            let labels = CaLabels { ca: id.clone() };
            self.ca_leaves
                .get_or_create(&labels)
                .set(i64::try_from(living).unwrap_or(i64::MAX));
            let labels = CaStateLabels { ca: id, state };
            self.ca_states.get_or_create(&labels).set(1);
        }
    }

    pub(crate) fn watching(&self, is_watching: bool) {
        self.is_watching.store(is_watching, Ordering::Release);
    }
}

fn longest_leaf(lifecycle: &Lifecycle) -> u32 {
    lifecycle
        .active()
        .map_or(0, |ca| ca.longest_leaf().as_secs())
}

/// Registers metrics and hands them back.
struct Add<'a>(&'a mut Registry);

impl Add<'_> {
    fn metric<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_named_as_prometheus_has_it_and_names_nobody() {
        let metrics = Metrics::new();
        metrics.ended(Ending::Denied, "DeniedByPolicy");
        metrics.ended(Ending::Denied, "DeniedByPolicy");
        metrics.issued_in(Duration::from_millis(3));
        metrics.waiting(7);
        metrics.policy_refused();
        let text = metrics.encode();
        for line in [
            "touchstone_requests_total{ending=\"denied\",reason=\"DeniedByPolicy\"} 2",
            "touchstone_requests_waiting 7",
            "touchstone_issuing_seconds_count 1",
            "touchstone_policy_refused 1",
            "touchstone_policy_refusals_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_signer_is_ready_while_it_watches_its_ca_signs_and_no_rotation_is_late() {
        let metrics = Metrics::new();
        let end: Timestamp = "2026-07-01T10:00:00Z".parse().unwrap();
        let minutes_before = |minutes| end - jiff::SignedDuration::from_mins(minutes);
        metrics
            .signs_until
            .store(end.as_second(), Ordering::Release);
        assert_eq!(
            metrics.ready(minutes_before(60)),
            Err(NotReady::NotWatching)
        );
        metrics.watching(true);
        assert_eq!(metrics.ready(end), Ok(Ready::Answering));
        let late = end + jiff::SignedDuration::from_secs(1);
        assert_eq!(metrics.ready(late), Err(NotReady::CaEnds(end)));
        metrics.is_overdue.store(true, Ordering::Release);
        assert_eq!(metrics.ready(end), Err(NotReady::Overdue));
        metrics.watching(false);
        assert_eq!(
            metrics.ready(minutes_before(60)),
            Err(NotReady::NotWatching)
        );
    }
}
