//! Judging a request.

use super::{Policy, Stage};
use crate::{
    attestation::Attested,
    key::KeyAlgorithm,
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};
use jiff::Timestamp;
use std::sync::Arc;

/// What is known of a request. The caller has checked that the key signed it and is enrolled for the user.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who asks.
    pub user: &'a UserName,
    /// The groups that Kubernetes knows the request's creator in.
    pub kubernetes_groups: &'a [String],
    /// The groups asked for.
    pub groups: &'a [GroupName],
    /// The cluster asked for.
    pub cluster: &'a ClusterName,
    /// The lifetime asked for; `None`: the policy's default.
    pub ttl: Option<Ttl>,
    /// Why, in the engineer's words.
    pub reason: &'a str,
    /// The key.
    pub key: KeyFacts<'a>,
    /// The time of the judgement.
    pub now: Timestamp,
}

/// What is known of the key that signed a request.
#[derive(Clone, Copy, Debug)]
pub struct KeyFacts<'a> {
    /// Its kind.
    pub algorithm: KeyAlgorithm,
    /// What verified evidence says of it; `None` without evidence.
    pub attested: Option<&'a Attested>,
}

/// What the policy says of a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The verdict.
    pub verdict: Verdict,
    /// What each rule made of it, in the order of the file.
    pub outcomes: Vec<Outcome>,
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Grant it.
    Approve {
        /// For so long at most.
        ttl: Ttl,
        /// The rules that grant it, in the order of the file.
        rules: Vec<Arc<str>>,
    },
    /// Deny it.
    Deny {
        /// Why, one reason for each group that stands in the way; at least one.
        reasons: Vec<String>,
    },
    /// Grant it when every stage is met.
    Wait {
        /// For so long at most.
        ttl: Ttl,
        /// The rules that would grant it, in the order of the file.
        rules: Vec<Arc<str>>,
        /// What must be met.
        stages: Vec<Stage>,
    },
}

/// What one rule made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    rule: usize,
}

impl Outcome {
    /// Which rule, counted from 0 in the order of the file.
    #[must_use]
    pub fn rule(&self) -> usize {
        self.rule
    }
}

pub(super) fn evaluate(policy: &Policy, facts: &Facts<'_>) -> Evaluation {
    todo!("{policy:?} {facts:?}")
}
