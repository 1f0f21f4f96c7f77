//! What a change of the policy changes: who gains and who loses what.
//!
//! Groups are compared as patterns, by what they cover: who had `jit:**` and now has `jit:oncall:*` loses the first and
//! keeps the second. A user without a key gets nothing but from rules that take any key, so the first key gains all that
//! the others grant, and taking the last one loses it. Groups that Kubernetes knows a request's creator in stand for themselves.

mod access;
mod users;

use super::{
    Policy,
    rule::{Decision, Rule},
};
use crate::ttl::Ttl;
use std::collections::BTreeSet;

/// What differs between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What the whole policy says: `cluster`, `defaults.ttl`, `defaults.maxTTL`.
    pub settings: Vec<FieldChange>,
    /// Users, by name.
    pub users: Vec<UserChange>,
    /// What users and Kubernetes groups may have, by who and group.
    pub access: Vec<AccessChange>,
    /// What rules deny.
    pub denials: Vec<DenialChange>,
}

/// A value that is another one now; `None`: not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// What, as the policy's schema names it.
    pub field: &'static str,
    /// Before.
    pub old: Option<String>,
    /// After.
    pub new: Option<String>,
}

/// What is new of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserChange {
    /// The user.
    pub name: String,
    /// Whether the user is in the old policy.
    pub was: bool,
    /// Whether the user is in the new one.
    pub is: bool,
    /// Teams joined and left.
    pub teams: ListChange,
    /// Keys enrolled and removed.
    pub keys: ListChange,
    /// Kubernetes user names that stand for the user.
    pub usernames: ListChange,
}

/// What came to a list and what left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListChange {
    /// What came.
    pub added: Vec<String>,
    /// What left.
    pub removed: Vec<String>,
}

/// What is new of someone's access to the groups of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessChange {
    /// A user, or `Kubernetes group …`.
    pub who: String,
    /// The pattern of the groups.
    pub group: String,
    /// What changed.
    pub change: Access,
}

/// How access changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// On other terms than before.
    Changed {
        /// Before.
        old: Vec<Terms>,
        /// After.
        new: Vec<Terms>,
    },
    /// Not all of these groups were granted before.
    Gained {
        /// On which terms.
        terms: Vec<Terms>,
        /// Patterns of those that were.
        had: Vec<String>,
    },
    /// Not all of these groups are granted any more.
    Lost {
        /// On which terms they were.
        terms: Vec<Terms>,
        /// Patterns of those that still are.
        keeps: Vec<String>,
    },
}

/// What a rule asks for its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// At once, or after approvals.
    pub decision: Decision,
    /// For how long at most.
    pub max_ttl: Ttl,
    /// Its conditions as the policy's schema names them, each with what it asks.
    pub conditions: Vec<(&'static str, String)>,
    /// The rule.
    pub rule: String,
}

/// Something that was not denied and is, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DenialChange {
    /// `everyone`, a user, `team …` or `Kubernetes group …`.
    pub who: String,
    /// The pattern of the groups.
    pub group: String,
    /// The hours, where it is not always denied.
    pub hours: Option<String>,
    /// Whether it is denied now.
    pub denied: bool,
}

impl Diff {
    /// What `new` says otherwise than `old`.
    #[must_use]
    pub fn between(old: &Policy, new: &Policy) -> Self {
        Self {
            settings: settings(old, new),
            users: users::changes(old, new),
            access: access::changes(old, new),
            denials: denials(old, new),
        }
    }

    /// How many differences there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.settings.len() + self.users.len() + self.access.len() + self.denials.len()
    }
}

impl ListChange {
    fn between(old: &BTreeSet<String>, new: &BTreeSet<String>) -> Self {
        Self {
            added: new.difference(old).cloned().collect(),
            removed: old.difference(new).cloned().collect(),
        }
    }

    /// Whether nothing came or left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Terms {
    fn of(rule: &Rule) -> Self {
        Self {
            decision: rule.decision,
            max_ttl: rule.max_ttl,
            conditions: conditions(rule),
            rule: rule.name.to_string(),
        }
    }

    /// Whether they are the same, under whatever name of a rule.
    fn same(&self, other: &Self) -> bool {
        self.decision == other.decision
            && self.max_ttl == other.max_ttl
            && self.conditions == other.conditions
    }

    /// What `new` says otherwise, field by field.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<FieldChange> {
        let mut changes = Vec::new();
        let mut note = |field, old: Option<&str>, new: Option<&str>| {
            if old != new {
                changes.push(FieldChange {
                    field,
                    old: old.map(str::to_owned),
                    new: new.map(str::to_owned),
                });
            }
        };
        let decisions = (self.decision.to_string(), new.decision.to_string());
        note("decision", Some(&decisions.0), Some(&decisions.1));
        let ttls = (self.max_ttl.to_string(), new.max_ttl.to_string());
        note("maxTTL", Some(&ttls.0), Some(&ttls.1));
        let find = |terms: &'_ Self, field| {
            let mut all = terms.conditions.iter();
            all.find(|(name, _)| *name == field)
                .map(|(_, asked)| asked.clone())
        };
        for (field, asked) in &self.conditions {
            note(field, Some(asked), find(new, *field).as_deref());
        }
        for (field, asked) in &new.conditions {
            if find(self, *field).is_none() {
                note(field, None, Some(asked));
            }
        }
        changes
    }
}

fn conditions(rule: &Rule) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(reason) = &rule.reason {
        if let Some(pattern) = &reason.pattern {
            all.push(("reason.pattern", pattern.as_str().to_owned()));
        }
        if reason.min_length > 0 {
            all.push(("reason.minLength", reason.min_length.to_string()));
        }
    }
    if let Some(hours) = &rule.hours {
        all.push(("hours", hours.to_string()));
    }
    if let Some(key) = &rule.key {
        all.push(("key.attested", key.device.is_some().to_string()));
        if !key.enrolled {
            all.push(("key.enrolled", "false".to_owned()));
        }
        if let Some(algorithms) = &key.algorithms {
            all.push(("key.algorithms", algorithms.to_string()));
        }
        if let Some(device) = &key.device {
            if let Some(firmware) = device.min_firmware {
                all.push(("key.minFirmware", firmware.to_string()));
            }
            if let Some(slots) = &device.slots {
                let slots: Vec<_> = slots.iter().map(ToString::to_string).collect();
                all.push(("key.slots", slots.join(", ")));
            }
            all.push(("key.pin", device.pin.to_string()));
            all.push(("key.touch", device.touch.to_string()));
        }
    }
    if let Some(per_grant) = &rule.per_grant {
        all.push(("binding.perGrant", per_grant.to_string()));
    }
    if !rule.stages.is_empty() {
        let stages: Vec<_> = rule.stages.iter().map(ToString::to_string).collect();
        all.push(("approvals", stages.join(" and ")));
        all.push(("waitFor", rule.wait_for.to_string()));
    }
    all
}

fn settings(old: &Policy, new: &Policy) -> Vec<FieldChange> {
    let all = [
        ("cluster", old.cluster.to_string(), new.cluster.to_string()),
        ("defaults.ttl", old.ttl.to_string(), new.ttl.to_string()),
        (
            "defaults.maxTTL",
            old.max_ttl.to_string(),
            new.max_ttl.to_string(),
        ),
    ];
    all.into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(field, old, new)| FieldChange {
            field,
            old: Some(old),
            new: Some(new),
        })
        .collect()
}

fn denials(old: &Policy, new: &Policy) -> Vec<DenialChange> {
    let (before, after) = (denied(old), denied(new));
    let change = |(who, group, hours): &Denied, denied| DenialChange {
        who: who.clone(),
        group: group.clone(),
        hours: hours.clone(),
        denied,
    };
    let gone = before.difference(&after).map(|of| change(of, false));
    let come = after.difference(&before).map(|of| change(of, true));
    let mut all: Vec<_> = gone.chain(come).collect();
    all.sort_unstable();
    all
}

/// Who, the pattern of the groups, and the hours.
type Denied = (String, String, Option<String>);

fn denied(policy: &Policy) -> BTreeSet<Denied> {
    let mut all = BTreeSet::new();
    let rules = policy.rules.iter().filter(|rule| applies(policy, rule));
    for rule in rules.filter(|rule| rule.decision == Decision::Deny) {
        let who = match &rule.who {
            None => vec!["everyone".to_owned()],
            Some(who) => {
                let teams = who
                    .teams
                    .iter()
                    .map(|t| format!("team {}", policy.team(*t)));
                let groups = who.kubernetes_groups.iter().map(|g| kubernetes_group(g));
                let users = who.users.iter().map(ToString::to_string);
                teams.chain(groups).chain(users).collect()
            }
        };
        let hours = rule.hours.as_ref().map(ToString::to_string);
        for who in who {
            for group in &rule.groups {
                all.insert((who.clone(), group.to_string(), hours.clone()));
            }
        }
    }
    all
}

/// Whether the rule counts in the policy's cluster.
fn applies(policy: &Policy, rule: &Rule) -> bool {
    rule.is_for_cluster(policy.cluster.as_str())
}

fn kubernetes_group(name: &str) -> String {
    format!("Kubernetes group {name}")
}
