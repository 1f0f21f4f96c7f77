//! Judging a request.
//!
//! Every rule is tried and every one of its conditions, so that a denial can name all that is missing. What came of it is
//! kept as bits; words are made of them only where someone reads them.

use super::{
    Policy, explain,
    hours::{Hours, Wall},
    pattern::is_reserved,
    rule::{Decision, Rule, Stage},
    user::User,
};
use crate::{
    attestation::Attested,
    key::KeyAlgorithm,
    name::{ClusterName, GroupName, MAX_GROUPS, UserName},
    ttl::Ttl,
};
use jiff::Timestamp;
use regex::Regex;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    rule: usize,
    /// The requested groups that the rule speaks of: bit `i` for the `i`th.
    groups: u32,
    failures: Failures,
}

/// A condition of a rule, as the policy's schema names it. Each is one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Field {
    Clusters = 1,
    Groups = 1 << 1,
    Hours = 1 << 2,
    KeyAlgorithms = 1 << 3,
    KeyAttested = 1 << 4,
    KeyMinFirmware = 1 << 5,
    KeyPin = 1 << 6,
    KeySlots = 1 << 7,
    KeyTouch = 1 << 8,
    ReasonMinLength = 1 << 9,
    ReasonPattern = 1 << 10,
    Who = 1 << 11,
}

/// The conditions that do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures(u16);

impl Failures {
    fn note(&mut self, field: Field, failed: bool) {
        if failed {
            self.0 |= field as u16;
        }
    }

    pub(super) fn has(self, field: Field) -> bool {
        self.0 & field as u16 != 0
    }

    pub(super) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

impl Outcome {
    /// Which rule, counted from 0 in the order of the file.
    #[must_use]
    pub fn rule(&self) -> usize {
        self.rule
    }

    /// Whether every condition of the rule holds, so that its decision counts for the groups it speaks of.
    #[must_use]
    pub fn applies(&self) -> bool {
        self.failures.0 == 0
    }

    /// Whether the rule speaks of the `i`th of the requested groups.
    #[must_use]
    pub fn speaks_of(&self, i: usize) -> bool {
        i < MAX_GROUPS && self.groups & (1 << i) != 0
    }

    pub(super) fn failures(&self) -> Failures {
        self.failures
    }
}

pub(super) fn evaluate(policy: &Policy, facts: &Facts<'_>) -> Evaluation {
    let user = policy.user(facts.user);
    let outcomes = if facts.groups.len() <= MAX_GROUPS {
        let mut memo = Memo::default();
        let rules = policy.rules.iter().enumerate();
        rules
            .map(|(i, rule)| outcome(policy, i, rule, user, facts, &mut memo))
            .collect()
    } else {
        Vec::new()
    };
    let verdict = verdict(policy, facts, user, &outcomes);
    Evaluation { verdict, outcomes }
}

/// What rules ask again and again of one request: the rules of a policy share a few zones and reason patterns.
#[derive(Default)]
struct Memo<'p> {
    walls: Vec<(&'p str, Wall)>,
    matches: Vec<(&'p Arc<Regex>, bool)>,
}

/// The most answers of a kind that are remembered: they are found by looking through them.
const REMEMBERED: usize = 8;

impl<'p> Memo<'p> {
    fn wall(&mut self, hours: &'p Hours, now: Timestamp) -> Wall {
        let zone = hours.zone_name();
        if let Some((_, wall)) = self.walls.iter().find(|(known, _)| *known == zone) {
            return *wall;
        }
        let wall = hours.wall(now);
        if self.walls.len() < REMEMBERED {
            self.walls.push((zone, wall));
        }
        wall
    }

    fn is_match(&mut self, pattern: &'p Arc<Regex>, reason: &str) -> bool {
        let mut known = self.matches.iter();
        if let Some((_, is_match)) = known.find(|(known, _)| Arc::ptr_eq(known, pattern)) {
            return *is_match;
        }
        let is_match = pattern.is_match(reason);
        if self.matches.len() < REMEMBERED {
            self.matches.push((pattern, is_match));
        }
        is_match
    }
}

fn outcome<'p>(
    policy: &Policy,
    index: usize,
    rule: &'p Rule,
    user: Option<&User>,
    facts: &Facts<'_>,
    memo: &mut Memo<'p>,
) -> Outcome {
    let mut groups = 0;
    for (i, group) in facts.groups.iter().enumerate() {
        if rule.speaks_of(group.as_str()) {
            groups |= 1 << i;
        }
    }
    let mut failures = Failures::default();
    failures.note(Field::Groups, groups == 0);
    failures.note(
        Field::Who,
        match (&rule.who, user) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(who), Some(user)) => !who.includes(user, facts),
        },
    );
    failures.note(
        Field::Clusters,
        match &rule.clusters {
            None => facts.cluster != &policy.cluster,
            Some(patterns) => !patterns.iter().any(|p| p.matches(facts.cluster.as_str())),
        },
    );
    if let Some(hours) = &rule.hours {
        failures.note(Field::Hours, !hours.contain(memo.wall(hours, facts.now)));
    }
    if let Some(reason) = &rule.reason {
        let pattern = reason.pattern.as_ref();
        failures.note(
            Field::ReasonPattern,
            pattern.is_some_and(|p| !memo.is_match(p, facts.reason)),
        );
        let length = facts.reason.chars().count();
        failures.note(
            Field::ReasonMinLength,
            length < usize::from(reason.min_length),
        );
    }
    if let Some(key) = &rule.key {
        let failed = key.check(&facts.key);
        failures.note(Field::KeyAlgorithms, failed.algorithm);
        failures.note(Field::KeyAttested, failed.attested);
        failures.note(Field::KeyMinFirmware, failed.firmware);
        failures.note(Field::KeyPin, failed.pin);
        failures.note(Field::KeySlots, failed.slot);
        failures.note(Field::KeyTouch, failed.touch);
    }
    Outcome {
        rule: index,
        groups,
        failures,
    }
}

fn verdict(
    policy: &Policy,
    facts: &Facts<'_>,
    user: Option<&User>,
    outcomes: &[Outcome],
) -> Verdict {
    let deny = |reason| Verdict::Deny {
        reasons: vec![reason],
    };
    // Again, though no policy that loads has such a pattern, and no request that parses such a name.
    let names = facts.groups.iter().map(GroupName::as_str);
    if let Some(name) = names
        .chain([facts.user.as_str()])
        .find(|name| is_reserved(name))
    {
        return deny(explain::reserved(name));
    }
    if facts.groups.is_empty() || facts.groups.len() > MAX_GROUPS {
        return deny(explain::group_count(facts.groups.len()));
    }
    let Some(user) = user else {
        return deny(explain::unknown_user(policy, facts.user));
    };
    if facts.cluster != &policy.cluster {
        return deny(explain::wrong_cluster(policy, facts.cluster));
    }

    let judged = || policy.rules.iter().zip(outcomes);
    let mut reasons = Vec::new();
    let mut used: Vec<(&Rule, &Outcome)> = Vec::new();
    for (i, group) in facts.groups.iter().enumerate() {
        let of = |decision| {
            judged().filter(move |(rule, outcome)| {
                rule.decision == decision && outcome.applies() && outcome.speaks_of(i)
            })
        };
        if let Some((rule, _)) = of(Decision::Deny).next() {
            reasons.push(explain::denied_by_rule(rule, group));
            continue;
        }
        let longest = |decision| {
            // The first of equals: `max_by_key` would take the last.
            of(decision).reduce(|a, b| if b.0.max_ttl > a.0.max_ttl { b } else { a })
        };
        match longest(Decision::Auto).or_else(|| longest(Decision::Manual)) {
            Some(grant) => used.push(grant),
            None => reasons.push(explain::not_granted(
                policy, facts, user, outcomes, i, group,
            )),
        }
    }
    if !reasons.is_empty() {
        return Verdict::Deny { reasons };
    }

    used.sort_by_key(|(_, outcome)| outcome.rule);
    used.dedup_by_key(|(_, outcome)| outcome.rule);
    let asked = facts.ttl.unwrap_or(policy.ttl).min(policy.max_ttl);
    let ttl = used
        .iter()
        .map(|(rule, _)| rule.max_ttl)
        .fold(asked, Ttl::min);
    let rules = used.iter().map(|(rule, _)| rule.name.clone()).collect();
    let mut stages: Vec<Stage> = Vec::new();
    for stage in used.iter().flat_map(|(rule, _)| &rule.stages) {
        if !stages.contains(stage) {
            stages.push(stage.clone());
        }
    }
    if used
        .iter()
        .any(|(rule, _)| rule.decision == Decision::Manual)
    {
        Verdict::Wait { ttl, rules, stages }
    } else {
        Verdict::Approve { ttl, rules }
    }
}
