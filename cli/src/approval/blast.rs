//! The blast radius: what the groups of a request can do, as far as the approver's own credential lets one see.
//!
//! Where the approver may impersonate, the API server itself says it (SelfSubjectRulesReview, with the groups and without
//! them). Where they may only read role bindings, those that name the groups say it. Otherwise nobody can tell, and that is
//! what is shown: an approver must not take an empty list for a harmless one.

use crate::api::{ApiError, Connection};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderValue, Request, header};
use k8s_openapi::api::{
    authorization::v1::{SelfSubjectRulesReview, SubjectRulesReviewStatus},
    core::v1::Namespace,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use touchstone_common::name::{GroupName, UserName};

/// How many namespaces are looked at.
const NAMESPACES: u32 = 50;
/// How many questions are asked at once.
const AT_ONCE: usize = 4;
/// How long looking may take in all.
const WITHIN: Duration = Duration::from_secs(20);
/// How many lines are shown.
const SHOWN: usize = 40;

/// What the groups add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blast {
    /// How it was found.
    pub source: Source,
    /// Why it could not be told, or what was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What they add.
    pub added: Vec<Access>,
}

/// How it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// By role bindings that name the groups.
    Bindings,
    /// By asking the API server as the requester, with the groups and without.
    Impersonation,
    /// Not at all.
    #[default]
    Unknown,
}

/// Verbs on a resource or a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The namespace; `None`: all, or none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `resource.group`, or a path.
    pub on: String,
    /// Only objects of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The verbs.
    pub verbs: BTreeSet<String>,
    /// The binding that gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Blast {
    /// Of an API that knows no roles: the groups mean what the clusters make of them that trust its CA.
    #[must_use]
    pub fn elsewhere() -> Self {
        let note = "could not tell: this API knows no roles; the groups open what your clusters bind them to";
        Self::unknown(note.to_owned())
    }

    fn unknown(note: String) -> Self {
        Self {
            note: Some(note),
            ..Self::default()
        }
    }

    /// For people: what is grave first, a line each; the rest together where the verbs are the same.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let (grave, rest): (Vec<_>, Vec<_>) =
            self.added.iter().partition(|access| access.is_grave());
        let mut together: BTreeMap<_, Vec<&Access>> = BTreeMap::new();
        for access in rest {
            let alike = (&access.namespace, &access.by, &access.name, &access.verbs);
            together.entry(alike).or_default().push(access);
        }
        let grave = grave.into_iter().map(|access| vec![access]);
        let all: Vec<_> = grave.chain(together.into_values()).collect();
        let mut lines: Vec<String> = all.iter().take(SHOWN).map(|alike| line(alike)).collect();
        let more: usize = all.iter().skip(SHOWN).map(Vec::len).sum();
        if more > 0 {
            lines.push(format!("and {more} more: --output json has all"));
        }
        if lines.is_empty() && self.source != Source::Unknown {
            lines.push("nothing that was found".to_owned());
        }
        lines.extend(self.note.clone());
        lines
    }
}

/// Accesses that differ in nothing but what they are on.
fn line(alike: &[&Access]) -> String {
    let Some(first) = alike.first() else {
        return String::new();
    };
    let verbs: Vec<_> = first.verbs.iter().map(String::as_str).collect();
    let on: Vec<_> = alike.iter().map(|access| access.on.as_str()).collect();
    let mut line = format!("{} {}", verbs.join(","), on.join(", "));
    if let Some(name) = &first.name {
        line.push_str(&format!(" {name:?}"));
    }
    match &first.namespace {
        Some(namespace) => line.push_str(&format!(" in namespace {namespace}")),
        None => line.push_str(" everywhere"),
    }
    if let Some(by) = &first.by {
        line.push_str(&format!(" (by {by})"));
    }
    line
}

impl Access {
    /// Whether it opens more than its name says: others' secrets, a shell, or further access. Kubernetes' documentation
    /// names these under "RBAC Good Practices: privilege escalation risks".
    fn is_grave(&self) -> bool {
        const READS: [&str; 3] = ["get", "list", "watch"];
        const VERBS: [&str; 6] = ["*", "approve", "bind", "escalate", "impersonate", "sign"];
        const RESOURCES: [&str; 9] = [
            "nodes/proxy",
            "pods/attach",
            "pods/ephemeralcontainers",
            "pods/exec",
            "pods/portforward",
            "pods/proxy",
            "secrets",
            "serviceaccounts/token",
            "services/proxy",
        ];
        const ROLES: [&str; 4] = [
            "clusterrolebindings",
            "clusterroles",
            "rolebindings",
            "roles",
        ];
        // A resource's name has no dot, its group's does.
        let (resource, group) = self.on.split_once('.').unwrap_or((&self.on, ""));
        let is_of = |of: &str| group == of || group == "*";
        let mut verbs = self.verbs.iter().map(String::as_str);
        let writes = verbs.clone().any(|verb| !READS.contains(&verb));
        verbs.any(|verb| VERBS.contains(&verb))
            || resource.contains('*')
            || (is_of("") && RESOURCES.contains(&resource))
            || (is_of("certificates.k8s.io") && resource.starts_with("certificatesigningrequests/"))
            || (is_of("rbac.authorization.k8s.io") && writes && ROLES.contains(&resource))
    }
}

/// Finds out, within limits. What cannot be found out is said.
pub async fn of(connection: &Connection, user: &UserName, groups: &[GroupName]) -> Blast {
    let looking = async {
        let by_impersonation = match impersonated(connection, user, groups).await {
            Ok(blast) => return blast,
            Err(why) => why,
        };
        match bound(connection, groups).await {
            Ok(blast) => blast,
            Err(why) => Blast::unknown(format!(
                "could not tell: asking as the requester: {by_impersonation}; reading role bindings: {why}"
            )),
        }
    };
    tokio::time::timeout(WITHIN, looking)
        .await
        .unwrap_or_else(|_| Blast::unknown("could not tell: it took too long".to_owned()))
}

/// One thing that can be done: where, on what, on which name, which verb.
type Atom = (Option<String>, String, Option<String>, String);

async fn impersonated(
    connection: &Connection,
    user: &UserName,
    groups: &[GroupName],
) -> Result<Blast, ApiError> {
    let (namespaces, note) = namespaces(connection).await;
    let found: Vec<(String, SubjectRulesReviewStatus, SubjectRulesReviewStatus)> =
        stream::iter(namespaces.iter().cloned().map(|namespace| async move {
            let with = review(connection, user, groups, &namespace).await?;
            let without = review(connection, user, &[], &namespace).await?;
            Ok::<_, ApiError>((namespace, with, without))
        }))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut everywhere: BTreeMap<Atom, usize> = BTreeMap::new();
    let mut incomplete = false;
    for (namespace, with, without) in &found {
        incomplete |= with.incomplete;
        let before = atoms(without);
        for atom in atoms(with) {
            if !before.iter().any(|has| covers(has, &atom)) {
                *everywhere.entry(atom.clone()).or_default() += 1;
                let (_, on, name, verb) = atom;
                everywhere.insert((Some(namespace.clone()), on, name, verb), 1);
            }
        }
    }
    // What holds in each namespace holds everywhere, as far as one looked.
    let all = found.len();
    let is_everywhere: BTreeSet<Atom> = everywhere
        .iter()
        .filter(|((namespace, ..), count)| namespace.is_none() && **count == all)
        .map(|(atom, _)| atom.clone())
        .collect();
    let kept = everywhere.into_keys().filter(|atom| match &atom.0 {
        None => is_everywhere.contains(atom),
        Some(_) => {
            let (_, on, name, verb) = atom.clone();
            !is_everywhere.contains(&(None, on, name, verb))
        }
    });
    let mut notes: Vec<String> = note.into_iter().collect();
    if incomplete {
        notes.push("the API server says that this is not all".to_owned());
    }
    Ok(Blast {
        source: Source::Impersonation,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        added: grouped(kept.map(|atom| (atom, None))),
    })
}

/// The namespaces to look at, and what that leaves out.
async fn namespaces(connection: &Connection) -> (Vec<String>, Option<String>) {
    let api: Api<Namespace> = Api::all(connection.client());
    let parameters = ListParams::default().limit(NAMESPACES);
    match connection.within(api.list(&parameters)).await {
        Ok(list) if !list.items.is_empty() => {
            let more = list
                .metadata
                .continue_
                .is_some_and(|token| !token.is_empty());
            let names = list.items.iter().map(|namespace| namespace.name_any());
            let note = format!("only the first {NAMESPACES} namespaces were looked at");
            (names.collect(), more.then_some(note))
        }
        Ok(_) | Err(_) => (
            vec!["default".to_owned()],
            Some("only the namespace default was looked at: you may not list them".to_owned()),
        ),
    }
}

async fn review(
    connection: &Connection,
    user: &UserName,
    groups: &[GroupName],
    namespace: &str,
) -> Result<SubjectRulesReviewStatus, ApiError> {
    let invalid = |what: &str| ApiError::Refused {
        code: None,
        message: format!("the {what} cannot stand in a header"),
    };
    let body = serde_json::json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": namespace },
    });
    let mut request = Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| ApiError::Config(error.to_string()))?;
    let headers = request.headers_mut();
    let name = HeaderValue::from_str(user.as_str()).map_err(|_| invalid("user's name"))?;
    headers.insert("impersonate-user", name);
    for group in groups {
        let group = HeaderValue::from_str(group.as_str()).map_err(|_| invalid("group's name"))?;
        headers.append("impersonate-group", group);
    }
    let client = connection.client();
    let review: SelfSubjectRulesReview = connection.within(client.request(request)).await?;
    review.status.ok_or_else(|| ApiError::Refused {
        code: None,
        message: "the review has no result".to_owned(),
    })
}

fn atoms(status: &SubjectRulesReviewStatus) -> BTreeSet<Atom> {
    let mut atoms = BTreeSet::new();
    for rule in &status.resource_rules {
        add(
            &mut atoms,
            rule.api_groups.as_deref(),
            rule.resources.as_deref(),
            rule.resource_names.as_deref(),
            &rule.verbs,
        );
    }
    for rule in &status.non_resource_rules {
        for path in rule.non_resource_urls.iter().flatten() {
            for verb in &rule.verbs {
                atoms.insert((None, path.clone(), None, verb.clone()));
            }
        }
    }
    atoms
}

fn add(
    atoms: &mut BTreeSet<Atom>,
    groups: Option<&[String]>,
    resources: Option<&[String]>,
    names: Option<&[String]>,
    verbs: &[String],
) {
    let names: Vec<Option<String>> = match names {
        None | Some([]) => vec![None],
        Some(names) => names.iter().cloned().map(Some).collect(),
    };
    for group in groups.unwrap_or_default() {
        for resource in resources.unwrap_or_default() {
            let on = if group.is_empty() {
                resource.clone()
            } else {
                format!("{resource}.{group}")
            };
            for name in &names {
                for verb in verbs {
                    atoms.insert((None, on.clone(), name.clone(), verb.clone()));
                }
            }
        }
    }
}

/// Whether who may do the one may do the other. A star stands for all.
fn covers((_, on, name, verb): &Atom, (_, of_on, of_name, of_verb): &Atom) -> bool {
    (on == of_on || on == "*.*")
        && (name.is_none() || name == of_name)
        && (verb == of_verb || verb == "*")
}

fn grouped(atoms: impl Iterator<Item = (Atom, Option<String>)>) -> Vec<Access> {
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for ((namespace, on, name, verb), by) in atoms {
        found
            .entry((namespace, on, name, by))
            .or_default()
            .insert(verb);
    }
    found
        .into_iter()
        .map(|((namespace, on, name, by), verbs)| Access {
            namespace,
            on,
            name,
            verbs,
            by,
        })
        .collect()
}

/// What role bindings give to the groups.
async fn bound(connection: &Connection, groups: &[GroupName]) -> Result<Blast, ApiError> {
    let names_one = |subjects: &Option<Vec<Subject>>| {
        subjects.iter().flatten().any(|subject| {
            subject.kind == "Group" && groups.iter().any(|group| group.as_str() == subject.name)
        })
    };
    let client = connection.client();
    let everywhere: Api<ClusterRoleBinding> = Api::all(client.clone());
    let inside: Api<RoleBinding> = Api::all(client.clone());
    let everywhere = connection
        .within(everywhere.list(&ListParams::default()))
        .await?;
    let inside = connection
        .within(inside.list(&ListParams::default()))
        .await?;
    let everywhere = everywhere
        .items
        .iter()
        .filter(|binding| names_one(&binding.subjects))
        .map(|binding| {
            (
                None,
                &binding.role_ref,
                format!("ClusterRoleBinding {}", binding.name_any()),
            )
        });
    let inside = inside
        .items
        .iter()
        .filter(|binding| names_one(&binding.subjects))
        .map(|binding| {
            (
                binding.namespace(),
                &binding.role_ref,
                format!("RoleBinding {}", binding.name_any()),
            )
        });
    let mut found = Vec::new();
    for (namespace, role, by) in everywhere.chain(inside) {
        let mut atoms = BTreeSet::new();
        for rule in rules(connection, role, namespace.as_deref()).await? {
            add(
                &mut atoms,
                rule.api_groups.as_deref(),
                rule.resources.as_deref(),
                rule.resource_names.as_deref(),
                &rule.verbs,
            );
            for path in rule.non_resource_urls.iter().flatten() {
                for verb in &rule.verbs {
                    atoms.insert((None, path.clone(), None, verb.clone()));
                }
            }
        }
        found.extend(
            atoms
                .into_iter()
                .map(|(_, on, name, verb)| ((namespace.clone(), on, name, verb), Some(by.clone()))),
        );
    }
    Ok(Blast {
        source: Source::Bindings,
        note: Some(
            "read from role bindings: the requester may have some of it without these groups"
                .to_owned(),
        ),
        added: grouped(found.into_iter()),
    })
}

async fn rules(
    connection: &Connection,
    role: &RoleRef,
    namespace: Option<&str>,
) -> Result<Vec<PolicyRule>, ApiError> {
    let client = connection.client();
    let rules = match (role.kind.as_str(), namespace) {
        ("Role", Some(namespace)) => {
            let api: Api<Role> = Api::namespaced(client, namespace);
            let found = connection.within(api.get_opt(&role.name)).await?;
            found.and_then(|role| role.rules)
        }
        _ => {
            let api: Api<ClusterRole> = Api::all(client);
            let found = connection.within(api.get_opt(&role.name)).await?;
            found.and_then(|role| role.rules)
        }
    };
    // A binding of a role that is not there gives nothing.
    Ok(rules.unwrap_or_default())
}

#[cfg(test)]
mod tests;
