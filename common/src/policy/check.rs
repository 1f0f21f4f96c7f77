//! What is written to what it means: every value checked, every finding kept.

mod key;
mod rule;

use super::{
    Finding, Policy, Position,
    at::At,
    explain::shortened,
    index::Index,
    pattern::is_reserved,
    rule::{Rule, Stage},
    user::{EnrolledKey, TeamId, User},
    wire,
};
use crate::{
    name::{ClusterName, NameError, UserName, check_text},
    ttl::{Ttl, WaitLimit},
};
use key::KeyParts;
pub(super) use key::algorithm;
use regex::Regex;
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

/// The most users a policy may have.
const MAX_USERS: usize = 100_000;
/// The most rules a policy may have.
const MAX_RULES: usize = 10_000;
/// The most characters of a team's, a rule's or a Kubernetes user's name.
const MAX_LABEL: usize = 128;
const DEFAULT_TTL_SECONDS: u64 = 30 * 60;
const DEFAULT_MAX_TTL_SECONDS: u64 = 60 * 60;

pub(super) fn policy(wire: wire::Policy, digest: [u8; 32]) -> Result<Policy, Vec<Finding>> {
    let mut check = Check::default();
    let cluster = check.cluster(&wire.cluster);
    let defaults = wire.defaults.into_option().unwrap_or_default();
    let (ttl, max_ttl) = check.lifetimes(&defaults);
    let wait_for = defaults.wait_for.as_ref();
    let wait_for = wait_for.and_then(|at| check.ok(at, "waitFor", at.value.parse()));
    let wait_for = wait_for.unwrap_or(WaitLimit::DEFAULT);
    let default_key = defaults.key.into_option().unwrap_or_default();
    let default_key = check.key_parts(&default_key);
    let wrong = default_key.enrols_nobody();
    let wrong = wrong.or_else(|| default_key.contradiction(&KeyParts::default()));
    check.findings.extend(wrong);

    let users = check.users(&wire.users);
    let by_name: HashMap<UserName, usize> = users
        .iter()
        .enumerate()
        .map(|(i, user)| (user.name.clone(), i))
        .collect();
    let by_creator = check.creators(&wire.users, &by_name);

    for (what, count, most) in [
        ("users", wire.users.len(), MAX_USERS),
        ("rules", wire.rules.len(), MAX_RULES),
    ] {
        if count > most {
            check.find(
                None,
                format!("there are {count} {what}; at most {most} are read"),
            );
        }
    }
    let mut seen = HashMap::new();
    let mut rules = Vec::with_capacity(wire.rules.len());
    for rule in &wire.rules {
        let name = &rule.name;
        if let Some(first) = seen.insert(name.value.as_str(), name.position) {
            let line = first.line;
            check.at(
                name,
                format!(
                    "rule {:?} stands in line {line} already",
                    shown(&name.value)
                ),
            );
        }
        rules.push(check.rule(rule, &default_key, max_ttl, wait_for));
    }

    let mut sorted: Vec<usize> = (0..users.len()).collect();
    sorted.sort_unstable_by_key(|i| users.get(*i).map(|user| &user.name));
    match cluster {
        Some(cluster) if check.findings.is_empty() => Ok(Policy {
            cluster,
            ttl,
            max_ttl,
            approver_key: default_key.over(&KeyParts::default()),
            approvers: check.approvers(&users, &rules),
            users,
            by_name,
            by_creator,
            teams: check.team_names,
            index: Index::of(&rules),
            per_grant: rules
                .iter()
                .filter_map(|rule| Some((rule.name.clone(), rule.per_grant.clone()?)))
                .collect(),
            rules,
            sorted,
            digest,
            generation: 1,
        }),
        _ => Err(check.findings),
    }
}

#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
    team_names: Vec<Arc<str>>,
    teams: HashMap<Arc<str>, TeamId>,
    regexes: HashMap<String, Arc<Regex>>,
}

impl Check {
    fn find(&mut self, position: Option<Position>, message: String) {
        self.findings.push(Finding { position, message });
    }

    fn at<T>(&mut self, at: &At<T>, message: String) {
        self.find(Some(at.position), message);
    }

    /// The value, or a finding that begins with `what`.
    fn ok<T, V, E: std::fmt::Display>(
        &mut self,
        at: &At<T>,
        what: &str,
        result: Result<V, E>,
    ) -> Option<V> {
        result
            .map_err(|error| {
                let space = if what.is_empty() { "" } else { " " };
                self.at(at, format!("{what}{space}{error}"));
            })
            .ok()
    }

    fn cluster(&mut self, at: &At<String>) -> Option<ClusterName> {
        let what = format!("cluster name {:?}", shown(&at.value));
        self.ok(at, &what, ClusterName::parse(&at.value))
    }

    fn user_name(&mut self, at: &At<String>) -> Option<UserName> {
        let what = format!("user name {:?}", shown(&at.value));
        let name = self.ok(at, &what, UserName::parse(&at.value))?;
        if is_reserved(name.as_str()) {
            self.at(at, format!("{what} is a reserved one"));
        }
        Some(name)
    }

    /// A name of something that no certificate carries.
    fn label(&mut self, what: &str, at: &At<String>) -> bool {
        let checked = match check_text(&at.value, MAX_LABEL) {
            Ok(()) if at.value.is_empty() => Err(NameError::Empty),
            checked => checked,
        };
        let what = format!("{what} {:?}", shown(&at.value));
        self.ok(at, &what, checked).is_some()
    }

    fn ttl(&mut self, at: &At<String>) -> Option<Ttl> {
        self.ok(at, "", at.value.parse::<Ttl>())
    }

    fn lifetimes(&mut self, defaults: &wire::Defaults) -> (Ttl, Ttl) {
        let constant = |seconds| Ttl::from_secs(seconds).unwrap_or(Ttl::MIN);
        let max = defaults.max_ttl.as_ref().and_then(|at| self.ttl(at));
        let max = max.unwrap_or(constant(DEFAULT_MAX_TTL_SECONDS));
        let Some(at) = defaults.ttl.as_ref() else {
            return (constant(DEFAULT_TTL_SECONDS).min(max), max);
        };
        let ttl = self.ttl(at).unwrap_or(Ttl::MIN);
        if ttl > max {
            self.at(
                at,
                format!("the default lifetime {ttl} is longer than defaults.maxTTL, {max}"),
            );
        }
        (ttl, max)
    }

    fn team(&mut self, at: &At<String>) -> Option<TeamId> {
        if !self.label("team", at) {
            return None;
        }
        if let Some(id) = self.teams.get(at.value.as_str()) {
            return Some(*id);
        }
        let name: Arc<str> = at.value.as_str().into();
        let id = TeamId(self.team_names.len());
        self.team_names.push(name.clone());
        self.teams.insert(name, id);
        Some(id)
    }

    fn teams(&mut self, all: &[At<String>]) -> Vec<TeamId> {
        let mut ids: Vec<_> = all.iter().filter_map(|at| self.team(at)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn users(&mut self, wire: &[wire::User]) -> Vec<User> {
        let mut seen = HashMap::new();
        let mut users = Vec::with_capacity(wire.len());
        for user in wire {
            let name = self.user_name(&user.name);
            if let Some(first) = seen.insert(user.name.value.as_str(), user.name.position) {
                let line = first.line;
                self.at(
                    &user.name,
                    format!("user {:?} stands in line {line} already", user.name.value),
                );
            }
            let teams = self.teams(&user.teams);
            let keys = user
                .keys
                .iter()
                .filter_map(|key| self.enrolled(key, &user.name))
                .collect();
            let mut usernames = user.usernames.iter();
            let listed = usernames.any(|at| at.value != user.name.value);
            users.extend(name.map(|name| User {
                name,
                teams,
                keys,
                listed,
            }));
        }
        users
    }

    fn enrolled(&mut self, key: &wire::EnrolledKey, user: &At<String>) -> Option<EnrolledKey> {
        let spki = match key.spki.as_ref() {
            None => None,
            Some(at) => {
                let digest = parse_spki(&at.value);
                if digest.is_none() {
                    self.at(at, SPKI_FORM.to_owned());
                }
                Some(digest?)
            }
        };
        match (key.serial.as_ref(), spki) {
            (Some(serial), spki_sha256) => Some(EnrolledKey::YubiKey {
                serial: serial.value,
                spki_sha256,
            }),
            (None, Some(spki_sha256)) => Some(EnrolledKey::Key { spki_sha256 }),
            (None, None) => {
                self.at(
                    user,
                    format!("a key of {:?} has neither serial nor spki", user.value),
                );
                None
            }
        }
    }

    /// The users, by place, whom a stage of any rule names.
    fn approvers(&self, users: &[User], rules: &[Rule]) -> HashSet<usize> {
        let mut named: HashSet<&str> = HashSet::new();
        let mut of_teams: HashSet<TeamId> = HashSet::new();
        for stage in rules.iter().flat_map(|rule| &rule.stages) {
            if let Stage::Approvers { users, teams, .. } = stage {
                named.extend(users.iter().map(|name| &**name));
                of_teams.extend(teams.iter().filter_map(|team| self.teams.get(team)));
            }
        }
        let approves = |user: &User| {
            named.contains(user.name.as_str())
                || user.teams.iter().any(|team| of_teams.contains(team))
        };
        let all = users.iter().enumerate();
        all.filter(|(_, user)| approves(user))
            .map(|(place, _)| place)
            .collect()
    }

    fn creators(
        &mut self,
        wire: &[wire::User],
        by_name: &HashMap<UserName, usize>,
    ) -> HashMap<String, usize> {
        let index: HashMap<&str, usize> = by_name
            .iter()
            .map(|(name, i)| (name.as_str(), *i))
            .collect();
        let mut creators = HashMap::new();
        for user in wire {
            let Some(&owner) = index.get(user.name.value.as_str()) else {
                continue;
            };
            for at in &user.usernames {
                if !self.label("Kubernetes user name", at) {
                    continue;
                }
                if is_reserved(&at.value) {
                    self.at(at, format!(
                        "Kubernetes user name {:?} is a reserved one, which many share; it can't stand for {}",
                        at.value, user.name.value
                    ));
                } else if index
                    .get(at.value.as_str())
                    .is_some_and(|other| *other != owner)
                {
                    self.at(at, format!("{:?} is another user of this policy", at.value));
                } else {
                    match creators.entry(at.value.clone()) {
                        Entry::Vacant(free) => {
                            free.insert(owner);
                        }
                        Entry::Occupied(taken) if *taken.get() == owner => {}
                        Entry::Occupied(_) => self.at(
                            at,
                            format!(
                                "Kubernetes user name {:?} stands for another user already",
                                at.value
                            ),
                        ),
                    }
                }
            }
        }
        creators
    }
}

/// As little of a wrong value as it takes to know it again.
fn shown(text: &str) -> String {
    shortened(text, 64)
}

/// How an SPKI hash is written, for who wrote it otherwise.
pub(super) const SPKI_FORM: &str = "an SPKI hash is written \"sha256:\" and 64 lower-case hexadecimal digits; \
    `touchstone key enrol` prints it";

pub(crate) fn parse_spki(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?;
    let lower = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut digest = [0; 32];
    (lower && hex::decode_to_slice(digits, &mut digest).is_ok()).then_some(digest)
}
