//! Words for what a policy says: short ones for a condition's message, long ones for `policy explain`.

mod long;

use super::{
    Policy,
    evaluate::{Evaluation, Facts, Field, Obstacle, Outcome, Verdict},
    key::algorithm_name,
    pattern::Pattern,
    rule::{Decision, Rule, Who},
    tally::Tally,
    user::{TeamId, User},
};
use crate::{
    name::{ClusterName, GroupName, MAX_GROUPS, UserName},
    ttl::Ttl,
};
use std::{
    collections::HashSet,
    fmt::{self, Write as _},
};

/// The most characters of the short form.
const SHORT: usize = 1000;
/// The most characters of what an engineer typed that are shown again.
const QUOTED: usize = 60;
/// The most names of a list that are shown.
const LISTED: usize = 4;
/// How many users before and after a name in the order of the alphabet are looked at.
const BESIDE: usize = 32;
/// The most of a user's own rules in which something near is looked for.
const NEAR: usize = 256;
/// How alike two names must be for one to be offered for the other.
const ALIKE: f64 = 0.6;

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The condition, as the policy's schema names it: `reason.pattern`.
    pub field: &'static str,
    /// What it asks and what it was given.
    pub message: String,
}

impl Evaluation {
    /// In a sentence or two, at most a thousand characters: the verdict, why, and what would make it pass.
    #[must_use]
    pub fn short(&self) -> String {
        let text = match &self.verdict {
            Verdict::Approve { ttl, rules } => format!("granted for {ttl} by {}", quoted(rules)),
            Verdict::Deny { reasons } => format!("denied: {}", reasons.join("; ")),
            Verdict::Wait {
                ttl, rules, stages, ..
            } => waiting(stages, *ttl, rules),
        };
        shortened(&text, SHORT)
    }

    /// As [`Evaluation::short`], after approvals were counted.
    #[must_use]
    pub fn short_after(&self, tally: &Tally) -> String {
        let text = match &self.verdict {
            Verdict::Wait { ttl, rules, .. } if tally.missing().is_empty() => {
                format!("granted for {ttl} by {}", quoted(rules))
            }
            Verdict::Wait { ttl, rules, .. } => waiting(tally.missing(), *ttl, rules),
            Verdict::Approve { .. } | Verdict::Deny { .. } => return self.short(),
        };
        shortened(&text, SHORT)
    }

    /// All of it: the request, the verdict, and what each rule made of it.
    #[must_use]
    pub fn long<'a>(&'a self, policy: &'a Policy, facts: &'a Facts<'a>) -> impl fmt::Display + 'a {
        long::Long {
            evaluation: self,
            policy,
            facts,
        }
    }
}

impl Outcome {
    /// The conditions that do not hold, in words. Empty where the rule applies.
    #[must_use]
    pub fn violations(&self, policy: &Policy, facts: &Facts<'_>) -> Vec<Violation> {
        let Some(rule) = policy.rules.get(self.rule()) else {
            return Vec::new();
        };
        FIELDS
            .iter()
            .filter(|(field, _)| self.failures().has(*field))
            .map(|(field, name)| Violation {
                field: name,
                message: message(*field, rule, policy, facts),
            })
            .collect()
    }
}

/// In the order in which people ask: who, what, where, when, why, with which key.
const FIELDS: [(Field, &str); 13] = [
    (Field::Who, "who"),
    (Field::Groups, "groups"),
    (Field::Clusters, "clusters"),
    (Field::Hours, "hours"),
    (Field::ReasonPattern, "reason.pattern"),
    (Field::ReasonMinLength, "reason.minLength"),
    (Field::KeyAttested, "key.attested"),
    (Field::KeyEnrolled, "key.enrolled"),
    (Field::KeyAlgorithms, "key.algorithms"),
    (Field::KeyMinFirmware, "key.minFirmware"),
    (Field::KeySlots, "key.slots"),
    (Field::KeyPin, "key.pin"),
    (Field::KeyTouch, "key.touch"),
];

fn message(field: Field, rule: &Rule, policy: &Policy, facts: &Facts<'_>) -> String {
    let device = rule.key.as_ref().and_then(|key| key.device.as_ref());
    let attested = facts.key.attested;
    // Each condition that failed is there; the fallback only keeps this total.
    let said = match field {
        Field::Clusters => Some(match &rule.clusters {
            Some(patterns) => format!("only for cluster {}; this is {}", patterns_of(patterns), facts.cluster),
            None => format!("only for cluster {}; the request is for {}", policy.cluster, facts.cluster),
        }),
        Field::Groups => Some(format!("it speaks of {} only", patterns_of(&rule.groups))),
        Field::Hours => rule
            .hours
            .as_ref()
            .map(|h| format!("only {h}; it is {} there", h.clock(facts.now))),
        Field::KeyAlgorithms => rule.key.as_ref().and_then(|k| k.algorithms.as_ref()).map(|a| {
            format!("the key must be one of {a}; it is {}", algorithm_name(facts.key.algorithm))
        }),
        Field::KeyAttested => Some(
            "the key must be proven to live in a YubiKey; the request carries no attestation".into(),
        ),
        Field::KeyEnrolled => Some(format!("the key must be enrolled for {}; it is not", facts.user)),
        Field::KeyMinFirmware => device
            .and_then(|d| d.oldest_firmware(facts.key.algorithm))
            .zip(attested)
            .map(|(oldest, a)| {
                format!("the YubiKey's firmware must be {oldest} or later; it is {} and can't be updated", a.firmware)
            }),
        Field::KeyPin => device.zip(attested).map(|(d, a)| {
            format!(
                "the key's PIN policy must be {} or stricter; it is {}",
                d.pin,
                super::key::Pin::from(a.pin_policy)
            )
        }),
        Field::KeySlots => device.and_then(|d| d.slots.as_ref()).zip(attested).map(|(slots, a)| {
            let slots: Vec<_> = slots.iter().map(ToString::to_string).collect();
            format!("the key must be in slot {}; it is in {}", slots.join(", "), a.slot)
        }),
        Field::KeyTouch => device.zip(attested).map(|(d, a)| {
            format!(
                "the key's touch policy must be {} or stricter; it is {}",
                d.touch,
                super::key::Touch::from(a.touch_policy)
            )
        }),
        Field::ReasonMinLength => rule.reason.as_ref().map(|r| {
            format!(
                "the reason must have at least {} characters; it has {}",
                r.min_length,
                facts.reason.chars().count()
            )
        }),
        Field::ReasonPattern => rule.reason.as_ref().and_then(|r| r.pattern.as_ref()).map(|p| {
            format!("the reason must match {p}; it is {:?}", shortened(facts.reason, QUOTED))
        }),
        Field::Who => {
            let are = policy.user(facts.user).map_or_else(
                || format!("{} is not a user of this policy", facts.user),
                |user| you_are_in(policy, user),
            );
            rule.who.as_ref().map(|who| format!("it is for {}; {are}", who_of(policy, [who])))
        }
    };
    said.unwrap_or_else(|| "it does not hold".to_owned())
}

fn waiting(missing: &[impl fmt::Display], ttl: Ttl, rules: &[std::sync::Arc<str>]) -> String {
    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
    format!(
        "waiting for {} (for {ttl}, by {})",
        missing.join(" and "),
        quoted(rules)
    )
}

pub(super) fn reserved(name: &str) -> String {
    format!("{name:?} is a reserved name, which no policy can grant")
}

pub(super) fn group_count(count: usize) -> String {
    if count == 0 {
        "the request names no group".to_owned()
    } else {
        format!("the request names {count} groups; at most {MAX_GROUPS} can be granted at once")
    }
}

pub(super) fn unknown_user(policy: &Policy, user: &UserName) -> String {
    let name = |place: &usize| policy.users.get(*place).map(|user| user.name.as_str());
    // Those that sort beside it, for a large policy has too many to look at: what is typed wrong mostly begins right.
    let place = policy
        .sorted
        .partition_point(|of| name(of) < Some(user.as_str()));
    let beside = policy.sorted.iter().take(place.saturating_add(BESIDE));
    let known = beside.skip(place.saturating_sub(BESIDE)).filter_map(name);
    let mut said = format!("{user} is not a user of this policy");
    if let Some(near) = nearest(user.as_str(), known) {
        let _ = write!(said, "; did you mean {near}?");
    }
    said
}

pub(super) fn wrong_cluster(policy: &Policy, cluster: &ClusterName) -> String {
    format!(
        "the request is for cluster {cluster}; this signer serves {}",
        policy.cluster
    )
}

/// Why groups are not granted, one reason for each obstacle.
pub(super) fn obstacles(
    policy: &Policy,
    facts: &Facts<'_>,
    user: &User,
    outcomes: &[Outcome],
    obstacles: &[Obstacle<'_>],
) -> Vec<String> {
    let reason = |obstacle: &Obstacle<'_>| match *obstacle {
        Obstacle::Denied { group, by } => Some(denied_by_rule(by, facts.groups.get(group)?)),
        Obstacle::NotGranted { group } => Some(not_granted(policy, facts, user, outcomes, group)),
    };
    obstacles.iter().filter_map(reason).collect()
}

fn denied_by_rule(rule: &Rule, group: &GroupName) -> String {
    let until = rule
        .hours
        .as_ref()
        .map_or_else(String::new, |hours| format!(" ({hours})"));
    format!("rule {:?} denies group {group}{until}", rule.name)
}

/// Why no rule grants a group, what would, and what else is near. The outcomes are at least those of the rules that speak
/// of a requested group and of those that are for the user.
fn not_granted(
    policy: &Policy,
    facts: &Facts<'_>,
    user: &User,
    outcomes: &[Outcome],
    index: usize,
) -> String {
    let Some(group) = facts.groups.get(index) else {
        return String::new();
    };
    let granting: Vec<(&Rule, &Outcome)> = outcomes
        .iter()
        .filter_map(|outcome| Some((policy.rules.get(outcome.rule())?, outcome)))
        .filter(|(rule, _)| rule.decision != Decision::Deny)
        .collect();
    let candidates = || {
        let speaking = granting.iter().copied();
        speaking.filter(|(_, outcome)| outcome.speaks_of(index))
    };
    let for_user = |outcome: &Outcome| !outcome.failures().has(Field::Who);

    let closest = candidates()
        .filter(|(_, outcome)| for_user(outcome))
        .min_by_key(|(_, outcome)| outcome.failures().count());
    if let Some((rule, outcome)) = closest {
        let missing: Vec<_> = outcome
            .violations(policy, facts)
            .into_iter()
            .map(|violation| violation.message)
            .collect();
        return format!(
            "rule {:?} would grant group {group}, but {}",
            rule.name,
            missing.join(", and ")
        );
    }

    let mut said = if candidates().next().is_none() {
        format!("no rule grants group {group}")
    } else {
        let whos = candidates().filter_map(|(rule, _)| rule.who.as_ref());
        format!(
            "group {group} is granted to {}; {}",
            who_of(policy, whos),
            you_are_in(policy, user)
        )
    };
    let near = granting
        .iter()
        .filter(|(_, outcome)| for_user(outcome))
        .take(NEAR)
        .flat_map(|(rule, _)| rule.groups.iter().map(move |pattern| (rule, pattern)))
        .map(|(rule, pattern)| (rule, pattern, likeness(group, pattern)))
        .filter(|(_, _, likeness)| *likeness >= ALIKE)
        .max_by(|a, b| a.2.total_cmp(&b.2));
    if let Some((rule, pattern, _)) = near {
        let _ = write!(said, ". Nearest: rule {:?} grants {pattern}", rule.name);
    }
    said
}

/// From 0, nothing in common, to 1.
fn likeness(group: &GroupName, pattern: &Pattern) -> f64 {
    if pattern.matches_but_for_the_namespace(group.as_str()) {
        return 1.0;
    }
    let without_stars = pattern.as_str().trim_end_matches('*');
    strsim::normalized_levenshtein(group.as_str(), without_stars)
}

/// The name of `known` that is most like `text`, if any is like it at all.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    known
        .into_iter()
        .map(|name| (name, strsim::jaro_winkler(&lower, &name.to_lowercase())))
        .filter(|(name, likeness)| *likeness >= 0.8 && *name != text)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(name, _)| name)
}

fn who_of<'a>(policy: &'a Policy, whos: impl IntoIterator<Item = &'a Who>) -> String {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut names: Vec<String> = Vec::new();
    for who in whos {
        let teams = who.teams.iter().map(|team| ("team ", policy.team(*team)));
        let users = who.users.iter().map(|user| ("", user.as_str()));
        let groups = who.kubernetes_groups.iter();
        let groups = groups.map(|group| ("Kubernetes group ", &**group));
        for (kind, name) in teams.chain(users).chain(groups) {
            if seen.insert((kind, name)) && names.len() < LISTED {
                names.push(format!("{kind}{name}"));
            }
        }
    }
    listed(&names, seen.len(), " or ")
}

fn you_are_in(policy: &Policy, user: &User) -> String {
    let team = |id: &TeamId| policy.team(*id).to_owned();
    let teams: Vec<_> = user.teams.iter().take(LISTED).map(team).collect();
    if teams.is_empty() {
        "you are in no team".to_owned()
    } else {
        format!("you are in {}", listed(&teams, user.teams.len(), " and "))
    }
}

fn patterns_of(patterns: &[Pattern]) -> String {
    let first = patterns.iter().take(LISTED);
    let names: Vec<_> = first.map(ToString::to_string).collect();
    listed(&names, patterns.len(), " or ")
}

/// The first names of so many.
fn listed(names: &[String], count: usize, word: &str) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] if count == 1 => one.clone(),
        [most @ .., last] if count == names.len() => format!("{}{word}{last}", most.join(", ")),
        _ => format!(
            "{} and {} more",
            names.join(", "),
            count.saturating_sub(names.len())
        ),
    }
}

fn quoted(rules: &[std::sync::Arc<str>]) -> String {
    let plural = if rules.len() == 1 { "" } else { "s" };
    let names: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
    format!("rule{plural} {}", names.join(", "))
}

/// At most so many characters; what is cut off is marked.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}
