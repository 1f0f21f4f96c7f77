//! Which rules can have a say in a request: those that speak of one of its groups, and those that are for who asks.
//!
//! A rule that grants or denies a group is among both. So the cost of a judgement depends on the shorter of the two lists,
//! and on nothing else that the policy holds.

use super::{
    evaluate::Facts,
    rule::Rule,
    user::{TeamId, User},
};
use crate::name::UserName;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The rules by what they are asked by. Lists are in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By groups that are named.
    names: HashMap<Arc<str>, Vec<usize>>,
    /// By what patterns of groups begin with.
    prefixes: HashMap<Arc<str>, Vec<usize>>,
    /// How many bytes those have.
    prefix_lengths: BTreeSet<usize>,
    /// Rules for everyone.
    everyone: Vec<usize>,
    users: HashMap<UserName, Vec<usize>>,
    teams: HashMap<TeamId, Vec<usize>>,
    kubernetes_groups: HashMap<Arc<str>, Vec<usize>>,
}

impl Index {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            for pattern in &rule.groups {
                let by = if pattern.is_name() {
                    &mut index.names
                } else {
                    index.prefix_lengths.insert(pattern.prefix().len());
                    &mut index.prefixes
                };
                note(by.entry(pattern.prefix().into()).or_default(), i);
            }
            let Some(who) = &rule.who else {
                index.everyone.push(i);
                continue;
            };
            for user in &who.users {
                note(index.users.entry(user.clone()).or_default(), i);
            }
            for team in &who.teams {
                note(index.teams.entry(*team).or_default(), i);
            }
            for group in &who.kubernetes_groups {
                note(index.kubernetes_groups.entry(group.clone()).or_default(), i);
            }
        }
        index
    }

    /// The rules that can speak of a requested group.
    pub(super) fn by_group(&self, facts: &Facts<'_>) -> Candidates<'_> {
        let of = |name: &str| {
            let lengths = self.prefix_lengths.range(..=name.len());
            let prefixes = lengths.filter_map(|length| self.prefixes.get(name.get(..*length)?));
            let lists = self.names.get(name).into_iter().chain(prefixes);
            lists.map(Vec::as_slice).collect::<Vec<_>>()
        };
        let names = facts.groups.iter();
        Candidates(names.flat_map(|name| of(name.as_str())).collect())
    }

    /// The rules for who asks.
    pub(super) fn by_who(&self, user: &User, facts: &Facts<'_>) -> Candidates<'_> {
        let teams = user.teams.iter().filter_map(|team| self.teams.get(team));
        let groups = facts.kubernetes_groups.iter();
        let groups = groups.filter_map(|group| self.kubernetes_groups.get(group.as_str()));
        let lists = self.users.get(&user.name).into_iter();
        let lists = lists.chain(teams).chain(groups).chain([&self.everyone]);
        Candidates(lists.map(Vec::as_slice).collect())
    }
}

/// A rule is noted once, though two of its groups begin alike.
fn note(list: &mut Vec<usize>, rule: usize) {
    if list.last() != Some(&rule) {
        list.push(rule);
    }
}

/// Lists of rules, which may have rules in common.
pub(super) struct Candidates<'p>(Vec<&'p [usize]>);

impl Candidates<'_> {
    /// The one with fewer rules.
    pub(super) fn or_fewer(self, other: Self) -> Self {
        let count = |of: &Self| of.0.iter().map(|list| list.len()).sum::<usize>();
        if count(&other) < count(&self) {
            other
        } else {
            self
        }
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Each rule once, in the order of the file.
    pub(super) fn into_rules(self) -> Vec<usize> {
        let mut rules = self.0.concat();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}
