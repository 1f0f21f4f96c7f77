//! Who may have which groups, and on which terms.

use super::{Access, AccessChange, Terms, applies, kubernetes_group};
use crate::policy::{
    Policy,
    pattern::Pattern,
    rule::{Decision, Rule},
    user::TeamId,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How access to the groups of each pattern changed.
type Changes = Vec<(String, Access)>;

pub(super) fn changes(old: &Policy, new: &Policy) -> Vec<AccessChange> {
    let (before, after) = (rules_by_subject(old), rules_by_subject(new));
    let subjects: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    // Most people of a team have the same rules: what changes for them is found once.
    let mut known: HashMap<(&[usize], &[usize]), Changes> = HashMap::new();
    let mut all = Vec::new();
    for who in subjects {
        let was = before.get(who).map_or(&[][..], Vec::as_slice);
        let is = after.get(who).map_or(&[][..], Vec::as_slice);
        let changes = known
            .entry((was, is))
            .or_insert_with(|| compare(&Granted::of(old, was), &Granted::of(new, is)));
        all.extend(changes.iter().map(|(group, change)| AccessChange {
            who: who.clone(),
            group: group.clone(),
            change: change.clone(),
        }));
    }
    all
}

/// The rules that are open to each user, and those that speak of each Kubernetes group; in the order of the file.
fn rules_by_subject(policy: &Policy) -> BTreeMap<String, Vec<usize>> {
    let mut everyone = Vec::new();
    let mut teams: HashMap<TeamId, Vec<usize>> = HashMap::new();
    let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, rule) in policy.rules.iter().enumerate() {
        if !applies(policy, rule) {
            continue;
        }
        let Some(who) = &rule.who else {
            everyone.push(i);
            continue;
        };
        for team in &who.teams {
            teams.entry(*team).or_default().push(i);
        }
        for user in &who.users {
            named.entry(user.as_str()).or_default().push(i);
        }
        for group in &who.kubernetes_groups {
            groups.entry(group).or_default().push(i);
        }
    }
    let sorted = |mut rules: Vec<usize>| {
        rules.extend(&everyone);
        rules.sort_unstable();
        rules.dedup();
        rules
    };
    let users = policy.users.iter().filter_map(|user| {
        let own = named.get(user.name.as_str());
        let of_teams = user.teams.iter().filter_map(|team| teams.get(team));
        let rules = own.into_iter().chain(of_teams).flatten().copied();
        // A rule that denies is of no matter to who can't ask.
        let is_open = |i: &usize| policy.rules.get(*i).is_some_and(|r| r.is_open_to(user));
        let can_ask = !user.keys.is_empty() || rules.clone().any(|i| is_open(&i));
        let denies = |i: &usize| policy.rules.get(*i).is_some_and(|r| r.key.is_none());
        let rules = rules.filter(|i| is_open(i) || denies(i)).collect();
        can_ask.then(|| (user.name.to_string(), sorted(rules)))
    });
    let groups = groups
        .iter()
        .map(|(name, rules)| (kubernetes_group(name), sorted(rules.clone())));
    users.chain(groups).collect()
}

/// What someone's rules grant, and what they deny always.
struct Granted<'p> {
    grants: Vec<(&'p Rule, Terms)>,
    denies: Vec<&'p Rule>,
}

impl<'p> Granted<'p> {
    fn of(policy: &'p Policy, rules: &[usize]) -> Self {
        let rules = || rules.iter().filter_map(|i| policy.rules.get(*i));
        Self {
            grants: rules()
                .filter(|rule| rule.decision != Decision::Deny)
                .map(|rule| (rule, Terms::of(rule)))
                .collect(),
            denies: rules()
                .filter(|rule| rule.decision == Decision::Deny && rule.hours.is_none())
                .collect(),
        }
    }

    /// Whether they are rule by rule the same.
    fn is_same(&self, other: &Self) -> bool {
        let grants = self.grants.iter().zip(&other.grants);
        let denies = self.denies.iter().zip(&other.denies);
        self.grants.len() == other.grants.len()
            && self.denies.len() == other.denies.len()
            && grants
                .into_iter()
                .all(|((a, of_a), (b, of_b))| of_a.same(of_b) && a.groups().eq(b.groups()))
            && denies.into_iter().all(|(a, b)| a.groups().eq(b.groups()))
    }

    fn patterns(&self) -> impl Iterator<Item = &'p Pattern> {
        self.grants.iter().flat_map(|(rule, _)| &rule.groups)
    }

    fn is_denied(&self, group: &Pattern) -> bool {
        self.denies.iter().any(|rule| covers(rule, group))
    }

    /// The terms on which every group of the pattern is granted; none where some is not.
    fn terms(&self, group: &Pattern) -> Vec<Terms> {
        let mut all: Vec<Terms> = Vec::new();
        if self.is_denied(group) {
            return all;
        }
        for (_, terms) in self.grants.iter().filter(|(rule, _)| covers(rule, group)) {
            if !all.iter().any(|known| known.same(terms)) {
                all.push(terms.clone());
            }
        }
        all
    }

    /// The narrower patterns that are granted.
    fn within(&self, group: &Pattern) -> Vec<String> {
        let patterns = self.patterns();
        let within = patterns.filter(|own| group.covers(own) && !self.is_denied(own));
        let names: BTreeSet<_> = within.map(ToString::to_string).collect();
        names.into_iter().collect()
    }
}

fn covers(rule: &Rule, group: &Pattern) -> bool {
    rule.groups.iter().any(|pattern| pattern.covers(group))
}

fn compare(old: &Granted<'_>, new: &Granted<'_>) -> Changes {
    // The usual case, and the comparison below is of every pattern with every other.
    if old.is_same(new) {
        return Changes::new();
    }
    let patterns: BTreeMap<&str, &Pattern> = old
        .patterns()
        .chain(new.patterns())
        .map(|pattern| (pattern.as_str(), pattern))
        .collect();
    let differs = |(name, group): (&str, &Pattern)| {
        let (was, is) = (old.terms(group), new.terms(group));
        let missing = |from: &[Terms], of: &[Terms]| {
            of.iter().any(|terms| !from.iter().any(|t| t.same(terms)))
        };
        let change = match (was.is_empty(), is.is_empty()) {
            (true, true) => return None,
            (true, false) => Access::Gained {
                terms: is,
                had: old.within(group),
            },
            (false, true) => Access::Lost {
                terms: was,
                keeps: new.within(group),
            },
            (false, false) if missing(&was, &is) || missing(&is, &was) => {
                Access::Changed { old: was, new: is }
            }
            (false, false) => return None,
        };
        Some((name.to_owned(), change))
    };
    patterns.into_iter().filter_map(differs).collect()
}
