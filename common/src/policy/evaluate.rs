//! Judging a request.
//!
//! Every rule that can have a say is tried, and every one of its conditions, so that a denial can name all that is missing.
//! What came of it is kept as bits; words are made of them only where someone reads them.

use super::{
    Policy, explain,
    hours::{Hours, Wall},
    pattern::is_reserved,
    rule::{Decision, Rule, Stage},
    tally,
    user::User,
};
use crate::{
    attestation::Attested,
    key::KeyAlgorithm,
    name::{ClusterName, GroupName, MAX_GROUPS, UserName},
    ttl::{Ttl, WaitLimit},
};
use jiff::Timestamp;
use regex::Regex;
use std::sync::Arc;

/// What is known of a request. The caller has checked that the key signed it, and what ties the key to the user.
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
    /// What ties it to who asks.
    pub tie: Tie,
}

/// What ties a key to who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// It is not enrolled, and Kubernetes knows who made the request: [`Policy::lists`] that name for the user.
    Creator,
    /// It is enrolled for the user.
    Enrolled,
    /// Nothing: no rule grants anything.
    Nothing,
}

/// What the policy says of a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The verdict.
    pub verdict: Verdict,
    /// What the rules made of it, in the order of the file: every rule that could have a say, or just every rule.
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
        /// For how long it waits, from its creation.
        wait_for: WaitLimit,
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
    KeyEnrolled = 1 << 5,
    KeyMinFirmware = 1 << 6,
    KeyPin = 1 << 7,
    KeySlots = 1 << 8,
    KeyTouch = 1 << 9,
    ReasonMinLength = 1 << 10,
    ReasonPattern = 1 << 11,
    Who = 1 << 12,
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

/// Judges by the rules that can have a say.
pub(super) fn evaluate(policy: &Policy, facts: &Facts<'_>) -> Evaluation {
    let user = match asking(policy, facts) {
        Ok(user) => user,
        Err(reason) => return Evaluation::denied(vec![reason], Vec::new()),
    };
    let by_group = || policy.index.by_group(facts);
    let by_who = || policy.index.by_who(user, facts);
    let mut judging = Judging::of(policy, facts);
    let outcomes = judging.outcomes(by_group().or_fewer(by_who()).into_rules());
    match decide(policy, facts, &outcomes) {
        Ok(verdict) => Evaluation { verdict, outcomes },
        Err(obstacles) => {
            // A denial says who has the group, and what else is near.
            let outcomes = judging.outcomes(by_group().and(by_who()).into_rules());
            let reasons = explain::obstacles(policy, facts, user, &outcomes, &obstacles);
            Evaluation::denied(reasons, outcomes)
        }
    }
}

/// Judges by every rule. The verdict is that of [`evaluate`], to the letter.
pub(super) fn evaluate_by_every_rule(policy: &Policy, facts: &Facts<'_>) -> Evaluation {
    let outcomes = Judging::of(policy, facts).outcomes(0..policy.rules.len());
    let user = match asking(policy, facts) {
        Ok(user) => user,
        Err(reason) => return Evaluation::denied(vec![reason], outcomes),
    };
    match decide(policy, facts, &outcomes) {
        Ok(verdict) => Evaluation { verdict, outcomes },
        Err(obstacles) => {
            let reasons = explain::obstacles(policy, facts, user, &outcomes, &obstacles);
            Evaluation::denied(reasons, outcomes)
        }
    }
}

impl Evaluation {
    fn denied(reasons: Vec<String>, outcomes: Vec<Outcome>) -> Self {
        Self {
            verdict: Verdict::Deny { reasons },
            outcomes,
        }
    }
}

/// Who asks; or why no rule has to be asked.
fn asking<'p>(policy: &'p Policy, facts: &Facts<'_>) -> Result<&'p User, String> {
    // Again, though no policy that loads has such a pattern, and no request that parses such a name.
    let names = facts.groups.iter().map(GroupName::as_str);
    if let Some(name) = names
        .chain([facts.user.as_str()])
        .find(|name| is_reserved(name))
    {
        return Err(explain::reserved(name));
    }
    if facts.groups.is_empty() || facts.groups.len() > MAX_GROUPS {
        return Err(explain::group_count(facts.groups.len()));
    }
    let user = policy.user(facts.user);
    let user = user.ok_or_else(|| explain::unknown_user(policy, facts.user))?;
    if facts.cluster != &policy.cluster {
        return Err(explain::wrong_cluster(policy, facts.cluster));
    }
    Ok(user)
}

/// One request held against rules. What they ask again and again is remembered: the rules of a policy share a few zones
/// and reason patterns.
struct Judging<'p, 'f> {
    policy: &'p Policy,
    facts: &'f Facts<'f>,
    user: Option<&'p User>,
    reason_length: usize,
    walls: Vec<(&'p str, Wall)>,
    matches: Vec<(&'p Arc<Regex>, bool)>,
}

/// The most answers of a kind that are remembered: they are found by looking through them.
const REMEMBERED: usize = 8;

impl<'p, 'f> Judging<'p, 'f> {
    fn of(policy: &'p Policy, facts: &'f Facts<'f>) -> Self {
        Self {
            policy,
            facts,
            user: policy.user(facts.user),
            reason_length: facts.reason.chars().count(),
            walls: Vec::new(),
            matches: Vec::new(),
        }
    }

    fn outcomes(&mut self, rules: impl IntoIterator<Item = usize>) -> Vec<Outcome> {
        let rules = rules.into_iter();
        rules.filter_map(|index| self.outcome(index)).collect()
    }

    fn outcome(&mut self, index: usize) -> Option<Outcome> {
        let rule = self.policy.rules.get(index)?;
        let facts = self.facts;
        let mut groups = 0;
        // Those beyond the most that a request may have find no bit, and the request is denied for them.
        for (i, group) in facts.groups.iter().take(MAX_GROUPS).enumerate() {
            if rule.speaks_of(group.as_str()) {
                groups |= 1 << i;
            }
        }
        let mut failures = Failures::default();
        failures.note(Field::Groups, groups == 0);
        failures.note(
            Field::Who,
            match (&rule.who, self.user) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(who), Some(user)) => !who.includes(user, facts),
            },
        );
        failures.note(
            Field::Clusters,
            match &rule.clusters {
                None => facts.cluster != &self.policy.cluster,
                Some(patterns) => !patterns.iter().any(|p| p.matches(facts.cluster.as_str())),
            },
        );
        if let Some(hours) = &rule.hours {
            failures.note(Field::Hours, !hours.contain(self.wall(hours)));
        }
        if let Some(reason) = &rule.reason {
            let pattern = reason.pattern.as_ref();
            failures.note(
                Field::ReasonPattern,
                pattern.is_some_and(|p| !self.is_match(p)),
            );
            failures.note(
                Field::ReasonMinLength,
                self.reason_length < usize::from(reason.min_length),
            );
        }
        if let Some(key) = &rule.key {
            let failed = key.check(&facts.key);
            failures.note(Field::KeyAlgorithms, failed.algorithm);
            failures.note(Field::KeyAttested, failed.attested);
            failures.note(Field::KeyEnrolled, failed.enrolled);
            failures.note(Field::KeyMinFirmware, failed.firmware);
            failures.note(Field::KeyPin, failed.pin);
            failures.note(Field::KeySlots, failed.slot);
            failures.note(Field::KeyTouch, failed.touch);
        }
        Some(Outcome {
            rule: index,
            groups,
            failures,
        })
    }

    fn wall(&mut self, hours: &'p Hours) -> Wall {
        let zone = hours.zone_name();
        if let Some((_, wall)) = self.walls.iter().find(|(known, _)| *known == zone) {
            return *wall;
        }
        let wall = hours.wall(self.facts.now);
        if self.walls.len() < REMEMBERED {
            self.walls.push((zone, wall));
        }
        wall
    }

    fn is_match(&mut self, pattern: &'p Arc<Regex>) -> bool {
        let mut known = self.matches.iter();
        if let Some((_, is_match)) = known.find(|(known, _)| Arc::ptr_eq(known, pattern)) {
            return *is_match;
        }
        let is_match = pattern.is_match(self.facts.reason);
        if self.matches.len() < REMEMBERED {
            self.matches.push((pattern, is_match));
        }
        is_match
    }
}

/// What keeps a group from being granted.
pub(super) enum Obstacle<'p> {
    /// A rule denies the `group`th.
    Denied { group: usize, by: &'p Rule },
    /// No rule grants the `group`th.
    NotGranted { group: usize },
}

/// What comes of the outcomes of the rules that speak of a requested group and are for who asks; others change nothing.
fn decide<'p>(
    policy: &'p Policy,
    facts: &Facts<'_>,
    outcomes: &[Outcome],
) -> Result<Verdict, Vec<Obstacle<'p>>> {
    let applying: Vec<(&Rule, &Outcome)> = outcomes
        .iter()
        .filter(|outcome| outcome.applies())
        .filter_map(|outcome| Some((policy.rules.get(outcome.rule)?, outcome)))
        .collect();
    let mut obstacles = Vec::new();
    let mut used: Vec<(&Rule, &Outcome)> = Vec::new();
    for group in 0..facts.groups.len() {
        let of = |decision| {
            let rules = applying.iter().copied();
            rules.filter(move |(rule, outcome)| {
                rule.decision == decision && outcome.speaks_of(group)
            })
        };
        if let Some((by, _)) = of(Decision::Deny).next() {
            obstacles.push(Obstacle::Denied { group, by });
            continue;
        }
        let longest = |decision| {
            // The first of equals: `max_by_key` would take the last.
            of(decision).reduce(|a, b| if b.0.max_ttl > a.0.max_ttl { b } else { a })
        };
        match longest(Decision::Auto).or_else(|| longest(Decision::Manual)) {
            Some(grant) => used.push(grant),
            None => obstacles.push(Obstacle::NotGranted { group }),
        }
    }
    if !obstacles.is_empty() {
        return Err(obstacles);
    }

    used.sort_by_key(|(_, outcome)| outcome.rule);
    used.dedup_by_key(|(_, outcome)| outcome.rule);
    let asked = facts.ttl.unwrap_or(policy.ttl).min(policy.max_ttl);
    let ttl = used
        .iter()
        .map(|(rule, _)| rule.max_ttl)
        .fold(asked, Ttl::min);
    let rules = used.iter().map(|(rule, _)| rule.name.clone()).collect();
    let manual = || {
        let used = used.iter().map(|(rule, _)| *rule);
        used.filter(|rule| rule.decision == Decision::Manual)
    };
    match manual().map(|rule| rule.wait_for).min() {
        Some(wait_for) => Ok(Verdict::Wait {
            ttl,
            rules,
            stages: tally::stages(manual()),
            wait_for,
        }),
        None => Ok(Verdict::Approve { ttl, rules }),
    }
}
