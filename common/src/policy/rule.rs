//! A checked rule.

use super::{
    binding::PerGrant,
    evaluate::Facts,
    hours::Hours,
    key::KeyCondition,
    pattern::Pattern,
    user::{TeamId, User},
};
use crate::{
    name::UserName,
    ttl::{Ttl, WaitLimit},
};
use regex::Regex;
use std::{fmt, sync::Arc};

/// A rule of a policy.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: Arc<str>,
    /// `None`: everyone. Only rules that deny are.
    pub(super) who: Option<Who>,
    pub(super) groups: Vec<Pattern>,
    /// `None`: the policy's cluster.
    pub(super) clusters: Option<Vec<Pattern>>,
    /// Never more than the policy's.
    pub(super) max_ttl: Ttl,
    pub(super) reason: Option<ReasonCondition>,
    pub(super) hours: Option<Hours>,
    /// `None` for rules that deny.
    pub(super) key: Option<KeyCondition>,
    pub(super) decision: Decision,
    pub(super) stages: Vec<Stage>,
    /// How long a request waits for them.
    pub(super) wait_for: WaitLimit,
    /// What is bound to the own group of each certificate.
    pub(super) per_grant: Option<PerGrant>,
}

/// Who a rule is for: anyone named, in a team, or in a Kubernetes group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// Sorted.
    pub(crate) users: Vec<UserName>,
    pub(crate) teams: Vec<TeamId>,
    pub(crate) kubernetes_groups: Vec<Arc<str>>,
}

/// What is asked of the reason.
#[derive(Clone, Debug)]
pub(crate) struct ReasonCondition {
    /// Rules with the same pattern share it.
    pub(crate) pattern: Option<Arc<Regex>>,
    pub(crate) min_length: u16,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Granted at once.
    Auto,
    /// Denied, whatever other rules grant.
    Deny,
    /// Granted when the approvals are there.
    Manual,
}

/// One stage of a manual rule: what must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// So many approvals, signed by enrolled approvers other than the requester.
    Approvers {
        /// How many.
        count: u16,
        /// Users who may approve. Sorted.
        users: Vec<Arc<str>>,
        /// Teams whose members may approve. Sorted.
        teams: Vec<Arc<str>>,
    },
    /// The Kubernetes approval of the request, by whoever Kubernetes lets approve.
    Kubernetes,
}

impl Rule {
    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it decides.
    #[must_use]
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// The patterns of the groups it speaks of.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(Pattern::as_str)
    }

    /// Whether it counts in the cluster that its policy is for.
    pub(super) fn is_for_cluster(&self, cluster: &str) -> bool {
        let named = self.clusters.as_ref();
        named.is_none_or(|named| named.iter().any(|pattern| pattern.matches(cluster)))
    }

    /// Whether it takes keys that nobody enrolled.
    pub(super) fn takes_any_key(&self) -> bool {
        self.key.as_ref().is_some_and(|key| !key.enrolled)
    }

    /// Whether the user has what it takes to ask for what the rule grants: a key, or a name that is as good.
    pub(super) fn is_open_to(&self, user: &User) -> bool {
        !user.keys.is_empty() || (self.takes_any_key() && user.listed)
    }

    pub(super) fn speaks_of(&self, group: &str) -> bool {
        self.groups.iter().any(|pattern| pattern.matches(group))
    }
}

impl Who {
    pub(super) fn includes(&self, user: &User, facts: &Facts<'_>) -> bool {
        self.teams
            .iter()
            .any(|team| user.teams.binary_search(team).is_ok())
            || self.users.binary_search(facts.user).is_ok()
            || self
                .kubernetes_groups
                .iter()
                .any(|group| facts.kubernetes_groups.iter().any(|g| **g == **group))
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Deny => "deny",
            Self::Manual => "manual",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes => f.write_str("an approval in Kubernetes"),
            Self::Approvers { count, .. } => {
                let plural = if *count == 1 { "" } else { "s" };
                write!(f, "{count} approval{plural} from {}", self.approvers())
            }
        }
    }
}

impl Stage {
    /// Who may approve in it, for people.
    pub(super) fn approvers(&self) -> String {
        match self {
            Self::Kubernetes => "whoever Kubernetes lets approve".to_owned(),
            Self::Approvers { users, teams, .. } => {
                let names: Vec<_> = teams
                    .iter()
                    .map(|team| format!("team {team}"))
                    .chain(users.iter().map(ToString::to_string))
                    .collect();
                names.join(" or ")
            }
        }
    }
}
