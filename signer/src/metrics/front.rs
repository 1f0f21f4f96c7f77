//! What is counted at the front door.

use super::Add;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use std::fmt;
use touchstone_apiserver::FrontOutcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outcome(FrontOutcome);

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let value = match self.0 {
            FrontOutcome::Created => "created",
            FrontOutcome::Failed => "failed",
            FrontOutcome::Limited => "limited",
            FrontOutcome::Read => "read",
            FrontOutcome::Refused => "refused",
        };
        EncodeLabelValue::encode(&value, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

/// What is counted at the front door. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct FrontMetrics {
    requests: Family<Labels, Counter>,
    certificate_refused: Gauge,
}

impl FrontMetrics {
    pub(super) fn register(&self, add: &mut Add<'_>) {
        add.metric(
            "front_requests",
            "Requests at the front door: created, read, refused, limited or failed",
            self.requests.clone(),
        );
        add.metric(
            "front_certificate_refused",
            "1 while the front door's certificate files cannot be used and the last good ones stay",
            self.certificate_refused.clone(),
        );
    }

    pub(crate) fn count(&self, outcome: FrontOutcome) {
        let outcome = Outcome(outcome);
        self.requests.get_or_create(&Labels { outcome }).inc();
    }

    pub(crate) fn certificate_refused(&self, is_refused: bool) {
        self.certificate_refused.set(is_refused.into());
    }
}
