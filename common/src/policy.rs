//! The policy: who may have which groups, for how long, on what key, and why.
//!
//! A file is read by [`Policy::parse`] into checked rules, or refused with every finding's line and column. A request's
//! [`Facts`] are judged by [`Policy::evaluate`], a pure function: the same policy and facts give the same
//! [`Evaluation`]. What no rule grants is denied, and nothing in a file can grant a `system:` name.

pub(crate) mod at;
mod binding;
mod cases;
pub(crate) mod check;
mod diff;
mod evaluate;
mod explain;
mod hours;
mod index;
mod key;
mod lint;
pub(crate) mod load;
mod pattern;
mod rule;
mod syntax;
mod tally;
#[cfg(test)]
mod tests;
mod user;
pub(crate) mod wire;

pub use at::Position;
pub use binding::{Binding, MAX_BINDINGS, RoleKind};
pub use cases::{CaseResult, Cases, DescribedRequest, Mismatch, Word};
pub use diff::{
    Access, AccessChange, DenialChange, Diff, FieldChange, ListChange, Terms, UserChange,
};
pub use evaluate::{Evaluation, Facts, KeyFacts, Outcome, Tie, Verdict};
pub use explain::Violation;
pub use lint::{GrantBindings, Lint, Severity, Surroundings, lint};
pub use load::{Finding, LoadError};
pub use rule::{Decision, Rule, Stage};
pub use tally::{Missing, Tally, Vote};
pub use user::User;

use crate::{
    name::{ClusterName, UserName},
    ttl::Ttl,
};
use binding::PerGrant;
use index::Index;
use key::KeyCondition;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use user::TeamId;

/// The most bytes a policy file may have: room for the most users and rules, and their comments.
pub const MAX_POLICY_BYTES: usize = 16 * 1024 * 1024;

/// The language's JSON Schema, for editors and other programs.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<wire::Policy>()
        .into()
}

/// A policy that was read and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    cluster: ClusterName,
    /// The lifetime of a certificate whose request names none.
    ttl: Ttl,
    /// The longest that any rule grants.
    max_ttl: Ttl,
    /// What is asked of the keys that sign approvals.
    approver_key: KeyCondition,
    /// Places in `users`.
    approvers: HashSet<usize>,
    users: Vec<User>,
    by_name: HashMap<UserName, usize>,
    /// Users by the names that Kubernetes knows them under, where those differ.
    by_creator: HashMap<String, usize>,
    /// Team names; a [`TeamId`] is a place in here.
    teams: Vec<Arc<str>>,
    rules: Vec<Rule>,
    /// What rules have bound for each of their grants, by the rule's name.
    per_grant: HashMap<Arc<str>, PerGrant>,
    index: Index,
    /// Places of `users`, by name: for what is nearly a name.
    sorted: Vec<usize>,
    digest: [u8; 32],
    generation: u64,
}

impl Policy {
    /// Reads a policy, YAML or JSON. `file` names it in errors.
    ///
    /// # Errors
    /// Every finding, with its place in the file.
    pub fn parse(file: &str, source: &[u8]) -> Result<Self, LoadError> {
        load::parse(file, source)
    }

    /// What its rules have bound, for any of their grants in the policy's cluster.
    #[must_use]
    pub fn grant_bindings(&self) -> BTreeSet<Binding> {
        let rules = self.rules.iter();
        rules
            .filter(|rule| rule.is_for_cluster(self.cluster.as_str()))
            .filter_map(|rule| rule.per_grant.as_ref())
            .flat_map(PerGrant::bindings)
            .collect()
    }

    /// The same policy, counted as the `generation`th that this process uses.
    #[must_use]
    pub fn with_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// Which policy of this process it is; 1 for the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// SHA-256 of the file's bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The cluster that the policy is for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The user of that name.
    #[must_use]
    pub fn user(&self, name: &UserName) -> Option<&User> {
        self.users.get(*self.by_name.get(name)?)
    }

    /// Whether who Kubernetes calls `creator` may ask in the name of `user`: it is the same name, or the policy maps it.
    #[must_use]
    pub fn speaks_for(&self, creator: &str, user: &UserName) -> bool {
        let Some(owner) = self.by_name.get(user) else {
            return false;
        };
        creator == user.as_str() || self.by_creator.get(creator) == Some(owner)
    }

    /// Whether the policy lists what Kubernetes calls `creator` as another name of `user`: then Kubernetes said who asks. The
    /// user's own name does not count here: a certificate of this very signer authenticates under it, and whoever stole one
    /// could ask for the next with it, and so for ever.
    #[must_use]
    pub fn lists(&self, creator: &str, user: &UserName) -> bool {
        creator != user.as_str() && self.speaks_for(creator, user)
    }

    /// Whether a rule takes keys that nobody enrolled.
    #[must_use]
    pub fn takes_any_key(&self) -> bool {
        self.rules.iter().any(Rule::takes_any_key)
    }

    /// That the policy has no such user, in words, with the nearest name that it has.
    #[must_use]
    pub fn why_unknown(&self, name: &UserName) -> String {
        explain::unknown_user(self, name)
    }

    /// The rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The RoleBindings that a certificate comes with which these rules grant, by their names. Sorted, none twice.
    #[must_use]
    pub fn bindings(&self, rules: &[Arc<str>]) -> Vec<Binding> {
        let of_rules = rules.iter().filter_map(|name| self.per_grant.get(name));
        let bindings: BTreeSet<Binding> = of_rules.flat_map(PerGrant::bindings).collect();
        bindings.into_iter().collect()
    }

    /// The users, in the order of the file.
    #[must_use]
    pub fn users(&self) -> &[User] {
        &self.users
    }

    fn team(&self, TeamId(index): TeamId) -> &str {
        self.teams.get(index).map_or("", |name| name)
    }

    /// Judges a request. The outcomes are those of the rules that can have a say.
    #[must_use]
    pub fn evaluate(&self, facts: &Facts<'_>) -> Evaluation {
        evaluate::evaluate(self, facts)
    }

    /// Judges a request to the same verdict, with the outcome of every rule: to be explained, not to be quick.
    #[must_use]
    pub fn evaluate_by_every_rule(&self, facts: &Facts<'_>) -> Evaluation {
        evaluate::evaluate_by_every_rule(self, facts)
    }
}
