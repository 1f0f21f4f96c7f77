//! What is counted, in the words of Prometheus. No label carries a name of a user, a group or a request: who has access
//! stands in the grants and the audit log, not on a dashboard.

mod endpoint;

pub use endpoint::serve;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
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
    fmt,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};
use touchstone_common::{certificate::CaCertificate, policy::Policy, ttl::Ttl};

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

/// Everything that is counted, and whether the signer is ready.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    waiting: Gauge,
    retries: Counter,
    issuing: Histogram,
    foreign_certificates: Counter,
    policy_generation: Gauge,
    policy_refused: Gauge,
    policy_refusals: Counter,
    ca_not_before: Gauge,
    ca_not_after: Gauge,
    is_watching: AtomicBool,
    /// Seconds since 1970.
    signs_until: AtomicI64,
}

/// Why the signer is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The issuing CA ends before the shortest certificate would.
    #[error("the issuing CA ends at {0}: nothing more can be signed")]
    CaEnds(Timestamp),
    /// The requests that are there are not known yet, or it is ending.
    #[error("the requests are not watched")]
    NotWatching,
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
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
            ca_not_before: add.metric(
                "ca_not_before_timestamp_seconds",
                "When the issuing CA's certificate begins, in seconds since 1970",
                Gauge::default(),
            ),
            ca_not_after: add.metric(
                "ca_not_after_timestamp_seconds",
                "When the issuing CA's certificate ends, in seconds since 1970",
                Gauge::default(),
            ),
            is_watching: AtomicBool::new(false),
            signs_until: AtomicI64::new(i64::MIN),
            registry,
        }
    }

    /// All of it, in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Whether requests are answered and certificates can be signed.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self, now: Timestamp) -> Result<(), NotReady> {
        if !self.is_watching.load(Ordering::Acquire) {
            return Err(NotReady::NotWatching);
        }
        let until = self.signs_until.load(Ordering::Acquire);
        let until = Timestamp::from_second(until).unwrap_or(Timestamp::MIN);
        let shortest = Duration::from_secs(u64::from(Ttl::MIN.as_secs()));
        match now.checked_add(shortest) {
            Ok(end) if end <= until => Ok(()),
            _ => Err(NotReady::CaEnds(until)),
        }
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

    pub(crate) fn policy_in_force(&self, policy: &Policy) {
        let generation = i64::try_from(policy.generation()).unwrap_or(i64::MAX);
        self.policy_generation.set(generation);
        self.policy_refused.set(0);
    }

    pub(crate) fn policy_refused(&self) {
        self.policy_refused.set(1);
        self.policy_refusals.inc();
    }

    pub(crate) fn issuing_ca(&self, certificate: &CaCertificate) {
        let validity = certificate.validity();
        let not_after = validity.not_after.as_second();
        self.ca_not_before.set(validity.not_before.as_second());
        self.ca_not_after.set(not_after);
        self.signs_until.store(not_after, Ordering::Release);
    }

    pub(crate) fn watching(&self, is_watching: bool) {
        self.is_watching.store(is_watching, Ordering::Release);
    }
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
    fn a_signer_is_ready_while_it_watches_and_its_ca_outlives_the_shortest_certificate() {
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
        assert_eq!(metrics.ready(minutes_before(10)), Ok(()));
        assert_eq!(metrics.ready(minutes_before(9)), Err(NotReady::CaEnds(end)));
        metrics.watching(false);
        assert_eq!(
            metrics.ready(minutes_before(60)),
            Err(NotReady::NotWatching)
        );
    }
}
