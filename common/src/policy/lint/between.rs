//! What rules do to each other: one that another makes idle, or that reaches into another's groups; and approvals that
//! nobody, or one person alone, can give.

use super::{Lint, Severity};
use crate::policy::{
    Finding, Policy, Position,
    pattern::Pattern,
    rule::{Decision, Rule, Stage, Who},
    tally,
    user::{TeamId, User},
    wire,
};
use std::collections::{HashMap, HashSet};

pub(super) fn look(policy: &Policy, wire: &wire::Policy, found: &mut Vec<Lint>) {
    let mut look = Look::over(policy, wire, found);
    look.unused_teams();
    for (i, (rule, written)) in policy.rules.iter().zip(&wire.rules).enumerate() {
        look.hours(rule, written);
        if rule.decision == Decision::Deny || !look.applies(rule) {
            continue;
        }
        look.nobody(rule, written);
        look.stages(rule, written);
        look.denied(rule, written);
        look.redundant(i, rule, written);
        look.swallows(i, rule, written);
    }
}

struct Look<'a> {
    policy: &'a Policy,
    wire: &'a wire::Policy,
    /// Users by team, as places in the policy's list.
    members: Vec<Vec<usize>>,
    /// Rules by the prefix of one of their patterns: what covers a pattern begins with a part of its prefix.
    denying: HashMap<&'a str, Vec<usize>>,
    granting: HashMap<&'a str, Vec<usize>>,
    found: &'a mut Vec<Lint>,
}

impl<'a> Look<'a> {
    fn over(policy: &'a Policy, wire: &'a wire::Policy, found: &'a mut Vec<Lint>) -> Self {
        let mut members = vec![Vec::new(); policy.teams.len()];
        for (i, user) in policy.users.iter().enumerate() {
            for TeamId(team) in &user.teams {
                if let Some(members) = members.get_mut(*team) {
                    members.push(i);
                }
            }
        }
        let mut look = Self {
            policy,
            wire,
            members,
            denying: HashMap::new(),
            granting: HashMap::new(),
            found,
        };
        for (i, rule) in policy.rules.iter().enumerate() {
            if !look.applies(rule) {
                continue;
            }
            let index = match rule.decision {
                Decision::Auto | Decision::Manual => &mut look.granting,
                Decision::Deny => &mut look.denying,
            };
            for pattern in &rule.groups {
                let of_prefix = index.entry(pattern.prefix()).or_default();
                if of_prefix.last() != Some(&i) {
                    of_prefix.push(i);
                }
            }
        }
        look
    }

    fn note(&mut self, severity: Severity, code: &'static str, at: Position, message: String) {
        let finding = Finding {
            position: Some(at),
            message,
        };
        self.found.push(Lint {
            severity,
            code,
            finding,
        });
    }

    fn applies(&self, rule: &Rule) -> bool {
        rule.is_for_cluster(self.policy.cluster.as_str())
    }

    /// The rules of an index one of whose patterns may cover this one; in the order of the file.
    fn may_cover(
        &self,
        index: &HashMap<&str, Vec<usize>>,
        group: &Pattern,
    ) -> Vec<(usize, &'a Rule)> {
        let prefix = group.prefix();
        let ends = prefix.char_indices().map(|(i, _)| i).chain([prefix.len()]);
        let mut rules: Vec<usize> = ends
            .filter_map(|end| index.get(prefix.get(..end)?))
            .flatten()
            .copied()
            .collect();
        rules.sort_unstable();
        rules.dedup();
        let policy: &'a Policy = self.policy;
        let of = |i: usize| policy.rules.get(i).map(|rule| (i, rule));
        rules.into_iter().filter_map(of).collect()
    }

    fn unused_teams(&mut self) {
        let mut used: HashSet<&str> = HashSet::new();
        for rule in &self.policy.rules {
            let who = rule.who.iter().flat_map(|who| &who.teams);
            used.extend(who.map(|team| self.policy.team(*team)));
            for stage in &rule.stages {
                if let Stage::Approvers { teams, .. } = stage {
                    used.extend(teams.iter().map(|team| &**team));
                }
            }
        }
        let wire: &'a wire::Policy = self.wire;
        for at in wire.users.iter().flat_map(|user| &user.teams) {
            if used.insert(&at.value) {
                let message = format!("no rule names team {:?}", at.value);
                self.note(Severity::Warning, "unused-team", at.position, message);
            }
        }
    }

    fn hours(&mut self, rule: &Rule, written: &wire::Rule) {
        if let (Some(hours), Some(at)) = (&rule.hours, written.hours.as_ref())
            && hours.is_always()
        {
            let message = "these hours are the whole week: leave them out".to_owned();
            self.note(Severity::Warning, "hours-always", at.position, message);
        }
    }

    fn users_of<'w>(&'w self, who: &'w Who) -> impl Iterator<Item = &'a User> + 'w {
        let policy: &'a Policy = self.policy;
        let teams = who
            .teams
            .iter()
            .filter_map(|TeamId(team)| self.members.get(*team));
        let members = teams.flatten().filter_map(|i| policy.users.get(*i));
        who.users
            .iter()
            .filter_map(|name| policy.user(name))
            .chain(members)
    }

    /// A rule for people none of whom can ask. Names that nobody has are found elsewhere.
    fn nobody(&mut self, rule: &Rule, written: &wire::Rule) {
        let Some(who) = rule
            .who
            .as_ref()
            .filter(|who| who.kubernetes_groups.is_empty())
        else {
            return;
        };
        let users: Vec<_> = self.users_of(who).collect();
        if !users.is_empty() && !users.iter().any(|user| rule.is_open_to(user)) {
            let or_a_name = if rule.takes_any_key() {
                ", or another name under `usernames`"
            } else {
                ""
            };
            let message = format!(
                "nobody whom rule {:?} is for has a key{or_a_name}",
                rule.name
            );
            self.note(
                Severity::Warning,
                "unreachable-rule",
                written.name.position,
                message,
            );
        }
    }

    fn stages(&mut self, rule: &Rule, written: &wire::Rule) {
        let Some(wire::Approvals::Stages(stages)) = written.approvals.as_ref().map(|at| &at.value)
        else {
            return;
        };
        let mut each = true;
        for (stage, written) in rule.stages.iter().zip(stages) {
            let Stage::Approvers { count, .. } = stage else {
                continue;
            };
            let able = self.able(stage);
            each &= able.len() >= usize::from(*count);
            self.self_approval(rule, usize::from(*count), &able, written.from.position);
        }
        // A stage that is out of reach by itself is found elsewhere.
        if each
            && !self.policy.can_meet(&tally::stages(std::iter::once(rule)))
            && let Some(first) = stages.first()
        {
            let message = "each stage has approvers enough, but not all of them together: nobody counts in two".to_owned();
            self.note(
                Severity::Error,
                "unreachable-approval",
                first.from.position,
                message,
            );
        }
    }

    /// Who may approve in a stage and has a key to do it with.
    fn able(&self, stage: &Stage) -> HashSet<&'a str> {
        let Stage::Approvers { users, teams, .. } = stage else {
            return HashSet::new();
        };
        let policy: &'a Policy = self.policy;
        let named = |user: &&User| users.iter().any(|name| **name == *user.name.as_str());
        let in_team = |user: &&User| {
            let mut own = user.teams.iter().map(|team| policy.team(*team));
            own.any(|own| teams.iter().any(|team| **team == *own))
        };
        let able = policy.users.iter().filter(|user| !user.keys.is_empty());
        able.filter(|user| named(user) || in_team(user))
            .map(|user| user.name.as_str())
            .collect()
    }

    /// Those who ask never count: whom that leaves with too few approvers.
    fn self_approval(&mut self, rule: &Rule, count: usize, able: &HashSet<&str>, at: Position) {
        let Some(who) = rule.who.as_ref().filter(|_| able.len() == count) else {
            return;
        };
        let asking: HashSet<&str> = self
            .users_of(who)
            .filter(|user| rule.is_open_to(user))
            .map(|user| user.name.as_str())
            .collect();
        let Some(name) = asking.intersection(able).min() else {
            return;
        };
        let all = who.kubernetes_groups.is_empty() && asking.is_subset(able);
        let (severity, whose) = if all {
            (
                Severity::Error,
                "nobody's request can ever be approved".to_owned(),
            )
        } else {
            (
                Severity::Warning,
                format!("{name}'s own requests can never be approved"),
            )
        };
        let message = format!(
            "{whose}: {count} must approve, {count} can, and who asks does not count for themselves"
        );
        self.note(severity, "self-approval", at, message);
    }

    /// Groups that a rule grants and another denies to all the same people at all the same hours.
    fn denied(&mut self, rule: &Rule, written: &wire::Rule) {
        let by: Vec<Option<&Rule>> = rule
            .groups
            .iter()
            .map(|group| {
                let rules = self.may_cover(&self.denying, group);
                rules
                    .into_iter()
                    .map(|(_, denying)| denying)
                    .find(|denying| {
                        covers(denying, group)
                            && self.who_covers(denying.who.as_ref(), rule.who.as_ref())
                            && hours_cover(denying, rule)
                    })
            })
            .collect();
        let whom = |by: &Rule| {
            if by.who.is_none() {
                "everyone"
            } else {
                "all whom it is for"
            }
        };
        if let (Some(Some(first)), true) = (by.first(), by.iter().all(Option::is_some)) {
            let message = format!(
                "rule {:?} can never grant anything: rule {:?} denies it to {}",
                rule.name,
                first.name,
                whom(first)
            );
            self.note(Severity::Error, "shadowed", written.name.position, message);
            return;
        }
        for (at, by) in written.groups.value.iter().zip(by) {
            if let Some(by) = by {
                let message = format!(
                    "group {:?} is never granted: rule {:?} denies it to {}",
                    at.value,
                    by.name,
                    whom(by)
                );
                self.note(Severity::Warning, "shadowed-group", at.position, message);
            }
        }
    }

    /// A rule in whose place another always stands.
    fn redundant(&mut self, i: usize, rule: &Rule, written: &wire::Rule) {
        let Some(first) = rule.groups.first() else {
            return;
        };
        let others = self.may_cover(&self.granting, first);
        // Of two that stand for each other, the second is the idle one.
        let other = others.into_iter().find(|(j, other)| {
            *j != i && self.stands_for(other, rule) && (*j < i || !self.stands_for(rule, other))
        });
        let Some((_, other)) = other else {
            return;
        };
        let (severity, code, what) = match (rule.decision, other.decision) {
            (Decision::Manual, Decision::Auto) => (
                Severity::Error,
                "bypassed-approvals",
                "never waits for its approvals: rule",
            ),
            _ => (Severity::Warning, "redundant", "changes nothing: rule"),
        };
        let message = format!(
            "rule {:?} {what} {:?} grants the same to all whom it is for",
            rule.name, other.name
        );
        self.note(severity, code, written.name.position, message);
    }

    /// Whether whatever `rule` grants, `other` grants too, for as long and on no further conditions.
    fn stands_for(&self, other: &Rule, rule: &Rule) -> bool {
        let reason = |rule: &Rule| {
            let reason = rule.reason.as_ref();
            let pattern = reason.and_then(|r| r.pattern.as_ref());
            let text = pattern.map(|p| p.as_str().to_owned());
            (text, reason.map_or(0, |r| r.min_length))
        };
        let (own, others) = (reason(rule), reason(other));
        let approvals = other.decision == Decision::Auto
            || (rule.decision == Decision::Manual && other.stages == rule.stages);
        approvals
            && other.max_ttl >= rule.max_ttl
            && other.key == rule.key
            && other.per_grant == rule.per_grant
            && (others.0.is_none() || others.0 == own.0)
            && others.1 <= own.1
            && rule.groups.iter().all(|group| covers(other, group))
            && hours_cover(other, rule)
            && self.who_covers(other.who.as_ref(), rule.who.as_ref())
    }

    /// A pattern that takes in what another rule names for other people.
    fn swallows(&mut self, i: usize, rule: &Rule, written: &wire::Rule) {
        let policy: &'a Policy = self.policy;
        for (pattern, at) in rule.groups.iter().zip(&written.groups.value) {
            // `grants-everything` says it of these already.
            if pattern.is_name() || pattern.is_all_stars() {
                continue;
            }
            let others = policy.rules.iter().enumerate();
            let swallowed = others
                .filter(|(j, other)| {
                    *j != i && other.decision != Decision::Deny && self.applies(other)
                })
                .flat_map(|(_, other)| other.groups.iter().map(move |group| (other, group)))
                .find(|(other, group)| {
                    group.as_str() != pattern.as_str()
                        && pattern.covers(group)
                        && !covers_beside(rule, pattern, group)
                        && !self.who_covers(other.who.as_ref(), rule.who.as_ref())
                });
            if let Some((other, group)) = swallowed {
                let message = format!(
                    "group {:?} takes in {:?}, which rule {:?} grants to others",
                    at.value,
                    group.as_str(),
                    other.name
                );
                self.note(Severity::Warning, "swallows-others", at.position, message);
            }
        }
    }

    /// Whether `outer` is for everyone whom `inner` is for.
    fn who_covers(&self, outer: Option<&Who>, inner: Option<&Who>) -> bool {
        let Some(outer) = outer else {
            return true;
        };
        let Some(inner) = inner else {
            return false;
        };
        let has = |user: &User| {
            outer.users.binary_search(&user.name).is_ok()
                || outer
                    .teams
                    .iter()
                    .any(|team| user.teams.binary_search(team).is_ok())
        };
        let teams = inner
            .teams
            .iter()
            .filter(|team| !outer.teams.contains(team));
        let mut members = teams
            .filter_map(|TeamId(team)| self.members.get(*team))
            .flatten()
            .filter_map(|i| self.policy.users.get(*i));
        let mut users = inner.users.iter().filter_map(|name| self.policy.user(name));
        let mut groups = inner.kubernetes_groups.iter();
        members.all(has)
            && users.all(has)
            && groups.all(|group| outer.kubernetes_groups.contains(group))
    }
}

fn covers(rule: &Rule, group: &Pattern) -> bool {
    rule.groups.iter().any(|pattern| pattern.covers(group))
}

/// Whether the rule names the group by its own name too, beside the pattern: then it is meant.
fn covers_beside(rule: &Rule, pattern: &Pattern, group: &Pattern) -> bool {
    let beside = rule
        .groups
        .iter()
        .filter(|other| other.as_str() != pattern.as_str());
    beside
        .into_iter()
        .any(|other| other.as_str() == group.as_str())
}

fn hours_cover(outer: &Rule, inner: &Rule) -> bool {
    match (&outer.hours, &inner.hours) {
        (None, _) => true,
        (Some(outer), Some(inner)) => outer.covers(inner),
        (Some(outer), None) => outer.is_always(),
    }
}
