//! The roles of `deploy/`, as the cluster has them, right by right.

use crate::audit::Call;
use serde_json::Value;
use touchstone_tests::cluster::Cluster;

/// One verb on one resource.
#[derive(Clone, Debug)]
struct Right {
    verb: String,
    group: String,
    resource: String,
    name: Option<String>,
}

/// A role, and to whom it is bound.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    namespace: Option<String>,
    subjects: Vec<String>,
    rights: Vec<Right>,
}

impl Role {
    fn is_for(&self, call: &Call) -> bool {
        let is_theirs = self
            .subjects
            .iter()
            .any(|it| *it == call.user || call.groups.contains(it));
        is_theirs && (self.namespace.is_none() || self.namespace == call.namespace)
    }
}

/// Their rights that no call needed. One that is given twice is needed by none: without it nothing would be refused.
pub(crate) fn unused(roles: &[Role], calls: &[Call]) -> Vec<String> {
    let rights: Vec<(&Role, &Right)> = roles
        .iter()
        .flat_map(|role| role.rights.iter().map(move |right| (role, right)))
        .collect();
    let gives = |(role, right): &(&Role, &Right), call: &Call| {
        call.code != 403 && role.is_for(call) && right.is_for(call)
    };
    let is_needed = |one: &&(&Role, &Right)| {
        calls.iter().filter(|call| gives(one, call)).any(|call| {
            let alike = |other: &&(&Role, &Right)| other.1.answers_as(one.1) && gives(other, call);
            rights.iter().filter(alike).count() == 1
        })
    };
    let unused = rights.iter().filter(|one| !is_needed(one));
    unused
        .map(|(role, right)| format!("{}: {right:?}", role.name))
        .collect()
}

impl Right {
    /// Whether the API server asks after both at once: to sign, `update` and `sign` are asked after one by one.
    fn answers_as(&self, other: &Self) -> bool {
        self.verb == other.verb && self.resource == other.resource
    }

    fn is_for(&self, call: &Call) -> bool {
        // Asked after by the API server itself, where these are written
        // (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization).
        let asked_at = |resource: &str| call.resource == resource && call.verb != "get";
        match self.verb.as_str() {
            "approve" => asked_at("certificatesigningrequests/approval"),
            "sign" => asked_at("certificatesigningrequests/status"),
            "attest" => asked_at("clustertrustbundles"),
            verb => {
                verb == call.verb
                    && self.group == call.group
                    && self.resource == call.resource
                    && (self.name.is_none() || self.name == call.name)
            }
        }
    }
}

/// Those whose name says that they are ours.
pub(crate) fn deployed(cluster: &Cluster) -> Vec<Role> {
    let list = |kind: &str| -> Vec<Value> {
        let printed = cluster.kubectl_ok(["get", kind, "-A", "-o", "json"]);
        let list: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
        let ours = |it: &&Value| text(&it["metadata"]["name"]).starts_with("touchstone-");
        let items = list["items"].as_array().expect("a list");
        items.iter().filter(ours).cloned().collect()
    };
    let bindings = [list("clusterrolebindings"), list("rolebindings")].concat();
    let roles = [list("clusterroles"), list("roles")].concat();
    let all: Vec<Role> = roles
        .iter()
        .map(|role| Role {
            name: text(&role["metadata"]["name"]),
            namespace: role["metadata"]["namespace"].as_str().map(str::to_owned),
            subjects: subjects_of(role, &bindings),
            rights: rights_of(role),
        })
        .collect();
    assert!(all.len() > 5, "deploy/ has roles: {all:?}");
    all
}

fn subjects_of(role: &Value, bindings: &[Value]) -> Vec<String> {
    let binds = |binding: &&Value| {
        binding["roleRef"]["kind"] == role["kind"]
            && binding["roleRef"]["name"] == role["metadata"]["name"]
            && (role["kind"] == "ClusterRole"
                || binding["metadata"]["namespace"] == role["metadata"]["namespace"])
    };
    let subjects = bindings.iter().filter(binds);
    let subjects = subjects.flat_map(|it| it["subjects"].as_array().into_iter().flatten());
    subjects
        .map(|subject| {
            let name = text(&subject["name"]);
            match subject["kind"].as_str() {
                Some("ServiceAccount") => {
                    format!(
                        "system:serviceaccount:{}:{name}",
                        text(&subject["namespace"])
                    )
                }
                _ => name,
            }
        })
        .collect()
}

fn rights_of(role: &Value) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let names = match list(&rule["resourceNames"]) {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    rights.extend(names.iter().map(|name| Right {
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    rights
}

fn list(values: &Value) -> Vec<String> {
    let values = values.as_array().into_iter().flatten();
    values.map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
