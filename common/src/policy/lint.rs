//! What a policy says that its authors can hardly have meant.
//!
//! A policy with such findings loads: each of them may be wanted. They are for the pull request.

mod around;
mod between;

use super::{
    Finding, Position,
    at::At,
    binding::Binding,
    explain::nearest,
    load::{self, LoadError},
    pattern::Pattern,
    wire,
};
use crate::attestation::Firmware;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

/// Where Kubernetes keeps its own: whoever may change what runs there can take the cluster.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Kubernetes' own roles that may write RoleBindings (plugin/pkg/auth/authorizer/rbac/bootstrappolicy).
const CAN_BIND_ROLES: [&str; 2] = ["admin", "cluster-admin"];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy does what it says, and that is worth a second look.
    Warning,
    /// Something in the policy can have no effect, or not the one that it seems to have.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Something that a policy's authors can hardly have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// How bad it is.
    pub severity: Severity,
    /// A name for the kind of finding, for programs.
    pub code: &'static str,
    /// Where and what.
    pub finding: Finding,
}

/// What is known of where the policy is to be used.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The groups that the cluster's RoleBindings and ClusterRoleBindings name; `None`: not known.
    pub bound_groups: Option<BTreeSet<String>>,
    /// What the cluster says of the bindings that rules have made for their grants.
    pub grant_bindings: GrantBindings,
    /// How many seconds the certificate of the issuing CA lasts in all; `None`: not known.
    pub ca_seconds: Option<u64>,
}

/// Bindings of grants ([`Policy::grant_bindings`](super::Policy::grant_bindings)) that a cluster would not take, or that
/// would give nothing there. Those that are in neither may do, or nobody asked.
#[derive(Clone, Debug, Default)]
pub struct GrantBindings {
    /// The signer's account, as the cluster calls it.
    pub account: String,
    /// Those that the account may not make or take back: what it lacks, such as "bind clusterroles/jit-debug".
    pub lacking: BTreeMap<Binding, String>,
    /// Those whose role is not there.
    pub without_role: BTreeSet<Binding>,
}

/// Reads a policy and looks it over; findings come in the order of the file.
///
/// # Errors
/// When it does not load at all.
pub fn lint(file: &str, source: &[u8], around: &Surroundings) -> Result<Vec<Lint>, LoadError> {
    let checked = load::parse(file, source)?;
    let policy = load::read(file, source)?;
    let mut look = Look {
        people: People::of(&policy.users),
        cluster: &policy.cluster.value,
        found: Vec::new(),
    };
    if let Some(defaults) = policy.defaults.as_ref()
        && let Some(key) = defaults.key.as_ref()
    {
        look.key(key);
    }
    look.users(&policy.users, checked.takes_any_key());
    for rule in &policy.rules {
        look.rule(rule);
    }
    if policy.rules.is_empty() {
        look.warn(
            "no-rules",
            None,
            "there are no rules: every request is denied".to_owned(),
        );
    }
    let mut found = look.found;
    between::look(&checked, &policy, &mut found);
    around::look(&checked, &policy, around, &mut found);
    found.sort_by_key(|lint| lint.finding.position);
    Ok(found)
}

struct People<'a> {
    users: HashMap<&'a str, &'a wire::User>,
    members: HashMap<&'a str, HashSet<&'a str>>,
}

impl<'a> People<'a> {
    fn of(users: &'a [wire::User]) -> Self {
        let mut members: HashMap<&str, HashSet<&str>> = HashMap::new();
        for user in users {
            for team in &user.teams {
                members
                    .entry(&team.value)
                    .or_default()
                    .insert(&user.name.value);
            }
        }
        Self {
            users: users
                .iter()
                .map(|user| (user.name.value.as_str(), user))
                .collect(),
            members,
        }
    }
}

struct Look<'a> {
    people: People<'a>,
    cluster: &'a str,
    found: Vec<Lint>,
}

impl Look<'_> {
    fn note(
        &mut self,
        severity: Severity,
        code: &'static str,
        position: Option<Position>,
        message: String,
    ) {
        let finding = Finding { position, message };
        self.found.push(Lint {
            severity,
            code,
            finding,
        });
    }

    fn error(&mut self, code: &'static str, position: Position, message: String) {
        self.note(Severity::Error, code, Some(position), message);
    }

    fn warn(&mut self, code: &'static str, position: Option<Position>, message: String) {
        self.note(Severity::Warning, code, position, message);
    }

    fn users(&mut self, users: &[wire::User], any_key: bool) {
        // The first user with a serial number, and whether that entry names one key.
        let mut serials: HashMap<u32, (&str, bool)> = HashMap::new();
        for user in users {
            let name = user.name.value.as_str();
            let mut usernames = user.usernames.iter();
            let listed = usernames.any(|at| at.value != user.name.value);
            if user.keys.is_empty() && !(any_key && listed) {
                let message = format!(
                    "user {name} has no key and can't get anything; `touchstone key enrol` prints one"
                );
                self.warn("user-without-keys", Some(user.name.position), message);
            }
            for key in &user.keys {
                let Some(serial) = key.serial.as_ref() else {
                    continue;
                };
                let one_key = key.spki.as_ref().is_some();
                match serials.get(&serial.value) {
                    Some((other, other_one_key))
                        if *other != name && !(one_key && *other_one_key) =>
                    {
                        let message = format!(
                            "YubiKey {} is enrolled for {other} too: each can make keys in it and ask as the other; name \
                             the keys with `spki`",
                            serial.value
                        );
                        self.error("shared-serial", serial.position, message);
                    }
                    _ => {
                        serials.entry(serial.value).or_insert((name, one_key));
                    }
                }
            }
        }
    }

    fn rule(&mut self, rule: &wire::Rule) {
        let denies = matches!(rule.decision, wire::Decision::Deny);
        if let Some(who) = rule.who.as_ref() {
            self.names(&who.value.users, &who.value.teams);
        }
        for at in &rule.groups.value {
            self.group(at, denies);
        }
        if let Some(namespaces) = rule.namespaces.as_ref().filter(|_| !denies) {
            for at in &namespaces.value {
                self.namespace(at);
            }
        }
        if let Some(clusters) = rule.clusters.as_ref() {
            let reached =
                |at: &At<String>| Pattern::parse(&at.value).is_ok_and(|p| p.matches(self.cluster));
            if !clusters.value.iter().any(reached) {
                let message = format!(
                    "this policy is for cluster {}, so the rule never applies",
                    self.cluster
                );
                self.warn("other-cluster", Some(clusters.position), message);
            }
        }
        if let Some(key) = rule.key.as_ref() {
            self.key(&key.value);
        }
        if let Some(approvals) = rule.approvals.as_ref() {
            self.approvals(approvals);
        }
        if let Some(binding) = rule.binding.as_ref() {
            self.per_grant(&binding.value.per_grant);
        }
    }

    fn per_grant(&mut self, per_grant: &wire::PerGrant) {
        let role = per_grant.cluster_role.as_ref();
        if let Some(at) = role.filter(|at| CAN_BIND_ROLES.contains(&at.value.as_str())) {
            let message = format!(
                "who has ClusterRole {:?} in a namespace can bind roles there, and so keep access beyond their grant",
                at.value
            );
            self.warn("outlasts-grant", Some(at.position), message);
        }
        let mut namespaces = per_grant.namespaces.value.iter();
        if let Some(at) = namespaces.find(|at| at.value == SYSTEM_NAMESPACE) {
            let message = format!("what runs the cluster is in {SYSTEM_NAMESPACE}");
            self.warn("takes-in-kube-system", Some(at.position), message);
        }
    }

    /// Names that nobody has.
    fn names(&mut self, users: &[At<String>], teams: &[At<String>]) {
        for at in teams {
            if !self.people.members.contains_key(at.value.as_str()) {
                let known = self.people.members.keys().copied();
                let message = format!(
                    "nobody is in team {:?}{}",
                    at.value,
                    did_you_mean(&at.value, known)
                );
                self.error("unknown-team", at.position, message);
            }
        }
        for at in users {
            if !self.people.users.contains_key(at.value.as_str()) {
                let known = self.people.users.keys().copied();
                let message = format!(
                    "there is no user {:?}{}",
                    at.value,
                    did_you_mean(&at.value, known)
                );
                self.error("unknown-user", at.position, message);
            }
        }
    }

    fn group(&mut self, at: &At<String>, denies: bool) {
        let Ok(pattern) = Pattern::parse(&at.value) else {
            return;
        };
        if !denies && pattern.is_all_stars() {
            let message = format!(
                "group {:?} grants every group of that form; name the groups",
                at.value
            );
            self.warn("grants-everything", Some(at.position), message);
        }
        if denies && pattern.ends_in_single_star() {
            let message = format!(
                "group {:?} does not deny groups with a further colon, such as {:?}; `**` does",
                at.value,
                at.value.replace('*', "x") + ":y"
            );
            self.warn("denies-less-than-it-seems", Some(at.position), message);
        }
    }

    fn namespace(&mut self, at: &At<String>) {
        let takes_in = |pattern: Pattern| !pattern.is_name() && pattern.matches(SYSTEM_NAMESPACE);
        if Pattern::parse(&at.value).is_ok_and(takes_in) {
            let message = format!(
                "namespace {:?} takes in {SYSTEM_NAMESPACE}, where what runs the cluster is; name the namespaces, or begin \
                 the pattern",
                at.value
            );
            self.warn("takes-in-kube-system", Some(at.position), message);
        }
    }

    fn key(&mut self, key: &wire::Key) {
        if let Some(at) = key.attested.as_ref().filter(|at| !at.value) {
            let message = "keys that no YubiKey vouches for can be copied".to_owned();
            self.warn("not-attested", Some(at.position), message);
        }
        if let Some(at) = key.enrolled.as_ref().filter(|at| !at.value) {
            let message = "any key will do, and no YubiKey is needed: whoever Kubernetes takes for one of these users gets a \
                           certificate, for a key in a computer's memory that programs there can copy"
                .to_owned();
            self.warn("not-enrolled", Some(at.position), message);
        }
        let rsa_only = key
            .algorithms
            .as_ref()
            .is_some_and(|at| at.value.iter().all(|a| a.is_rsa()));
        if let Some(at) = key.min_firmware.as_ref().filter(|_| !rsa_only)
            && at
                .value
                .parse::<Firmware>()
                .is_ok_and(|v| v < Firmware::EUCLEAK_FIXED)
        {
            let message = format!(
                "elliptic curve keys on firmware before {} can be cloned by who holds the YubiKey for a while (EUCLEAK)",
                Firmware::EUCLEAK_FIXED
            );
            self.warn("old-firmware", Some(at.position), message);
        }
        if let Some(at) = key
            .touch
            .as_ref()
            .filter(|at| matches!(at.value, wire::Touch::Never))
        {
            let message =
                "without a touch, malware on the engineer's machine can use the key unnoticed"
                    .to_owned();
            self.warn("no-touch", Some(at.position), message);
        }
    }

    fn approvals(&mut self, at: &At<wire::Approvals>) {
        let stages = match &at.value {
            wire::Approvals::Kubernetes(_) => {
                let message =
                    "Kubernetes does not record who approved; approvals by YubiKey do".to_owned();
                return self.warn("unrecorded-approvals", Some(at.position), message);
            }
            wire::Approvals::Stages(stages) => stages,
        };
        for stage in stages {
            let from = &stage.from.value;
            self.names(&from.users, &from.teams);
            let people = &self.people;
            let named = from.users.iter().map(|at| at.value.as_str());
            let teams = from
                .teams
                .iter()
                .filter_map(|at| people.members.get(at.value.as_str()));
            let able: HashSet<&str> = named
                .chain(teams.flatten().copied())
                .filter(|name| {
                    people
                        .users
                        .get(name)
                        .is_some_and(|user| !user.keys.is_empty())
                })
                .collect();
            let count = usize::from(stage.count.as_ref().map_or(1, |at| at.value));
            let able = able.len();
            if able < count {
                let message = format!(
                    "{count} must approve, and {able} can: approvers are users with enrolled keys"
                );
                self.error("unreachable-approval", stage.from.position, message);
            } else if able == count {
                let message = format!(
                    "{count} must approve, and {able} can: one of them who asks, or is away, leaves too few"
                );
                self.warn("scarce-approvers", Some(stage.from.position), message);
            }
        }
    }
}

fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}
