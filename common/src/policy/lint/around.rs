//! A policy held against the cluster and the CA it is for: groups and bindings that give nothing there, and lifetimes that no
//! certificate of that CA can have.

use super::{GrantBindings, Lint, Severity, Surroundings, did_you_mean};
use crate::{
    policy::{
        Finding, Policy, Position,
        at::At,
        binding::{PerGrant, RoleKind},
        pattern::{Pattern, TEMPLATE},
        rule::Decision,
        wire,
    },
    ttl::Ttl,
};
use std::collections::BTreeSet;

pub(super) fn look(
    policy: &Policy,
    wire: &wire::Policy,
    around: &Surroundings,
    found: &mut Vec<Lint>,
) {
    if let Some(bound) = &around.bound_groups {
        for (rule, written) in policy.rules.iter().zip(&wire.rules) {
            if rule.decision == Decision::Deny || !rule.is_for_cluster(policy.cluster.as_str()) {
                continue;
            }
            // What its groups open is bound with each grant.
            if rule.per_grant.is_some() {
                continue;
            }
            for (pattern, at) in rule.groups.iter().zip(&written.groups.value) {
                unbound(pattern, at, written, bound, found);
            }
        }
    }
    for (rule, written) in policy.rules.iter().zip(&wire.rules) {
        if let (Some(per_grant), Some(at)) = (&rule.per_grant, written.binding.as_ref()) {
            bound_for_grants(
                per_grant,
                &at.value.per_grant,
                &around.grant_bindings,
                found,
            );
        }
    }
    if let Some(seconds) = around.ca_seconds {
        let defaults = wire.defaults.as_ref();
        let of_defaults = defaults.into_iter().flat_map(|of| [&of.ttl, &of.max_ttl]);
        let of_rules = wire.rules.iter().map(|rule| &rule.max_ttl);
        for at in of_defaults
            .chain(of_rules)
            .filter_map(|given| given.as_ref())
        {
            outlives(at, seconds, found);
        }
    }
}

fn unbound(
    pattern: &Pattern,
    at: &At<String>,
    written: &wire::Rule,
    bound: &BTreeSet<String>,
    found: &mut Vec<Lint>,
) {
    let mut warn = |position: Position, message: String| {
        found.push(Lint {
            severity: Severity::Warning,
            code: "unbound-group",
            finding: Finding {
                position: Some(position),
                message,
            },
        });
    };
    let name = |name: &str| {
        format!("no binding names group {name:?}: who has it can do nothing more with it")
    };
    if pattern.is_name() && !bound.contains(pattern.as_str()) {
        let near = did_you_mean(pattern.as_str(), bound.iter().map(String::as_str));
        return warn(at.position, name(pattern.as_str()) + &near);
    }
    if !bound.iter().any(|group| pattern.matches(group)) {
        let message = format!(
            "no binding names a group like {:?}: who has one can do nothing more with it",
            pattern.as_str()
        );
        return warn(at.position, message);
    }
    let namespaces = written.namespaces.as_ref();
    for namespace in namespaces.iter().flat_map(|all| &all.value) {
        let group = at.value.replace(TEMPLATE, &namespace.value);
        // With a star it is no name: some group like it is bound, and more is not known.
        if at.value.contains(TEMPLATE) && !group.contains('*') && !bound.contains(&group) {
            warn(namespace.position, name(&group));
        }
    }
}

fn bound_for_grants(
    per_grant: &PerGrant,
    written: &wire::PerGrant,
    cluster: &GrantBindings,
    found: &mut Vec<Lint>,
) {
    let mut note = |severity, code, position: Position, message| {
        found.push(Lint {
            severity,
            code,
            finding: Finding {
                position: Some(position),
                message,
            },
        });
    };
    let (kind, role) = (per_grant.kind, &per_grant.role);
    let place_of_role = written.cluster_role.as_ref().or(written.role.as_ref());
    for binding in per_grant.bindings() {
        let namespace = &binding.namespace;
        let mut places = written.namespaces.value.iter();
        let Some(place) = places.find(|at| at.value == **namespace) else {
            continue;
        };
        if cluster.without_role.contains(&binding) && kind == RoleKind::Role {
            let message = format!(
                "namespace {namespace:?} has no Role {role:?}: grants of this rule give nothing there"
            );
            note(Severity::Error, "missing-role", place.position, message);
        }
        if let Some(lacking) = cluster.lacking.get(&binding) {
            let account = &cluster.account;
            let message = format!(
                "{account} may not {lacking} in namespace {namespace:?}: grants of this rule are not bound there, or not taken back (deploy/per-grant.yaml has the rights)"
            );
            // Kubernetes lets whoever has all the rights of a role bind it, too.
            note(
                Severity::Warning,
                "signer-cannot-bind",
                place.position,
                message,
            );
        }
    }
    let mut all = per_grant.bindings();
    if kind == RoleKind::ClusterRole
        && all.any(|binding| cluster.without_role.contains(&binding))
        && let Some(place) = place_of_role
    {
        let message = format!("there is no ClusterRole {role:?}: grants of this rule give nothing");
        note(Severity::Error, "missing-role", place.position, message);
    }
}

fn outlives(at: &At<String>, ca_seconds: u64, found: &mut Vec<Lint>) {
    let ttl = at.value.parse::<Ttl>();
    if let Ok(ttl) = ttl
        && u64::from(ttl.as_secs()) > ca_seconds
    {
        found.push(Lint {
            severity: Severity::Error,
            code: "outlives-ca",
            finding: Finding {
                position: Some(at.position),
                message: format!(
                    "no certificate can last {ttl}: that of the issuing CA lasts {ca_seconds} seconds in all"
                ),
            },
        });
    }
}
