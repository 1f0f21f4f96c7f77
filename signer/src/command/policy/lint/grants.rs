//! What rules bind for each of their grants, held against a cluster: is the role there, and may the signer bind it.

use crate::error::Error;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::{ClusterRole, Role},
};
use kube::{Api, Client, Resource, api::PostParams};
use std::collections::BTreeSet;
use touchstone_common::policy::{Binding, GrantBindings, RoleKind};

/// The signer's account, as `deploy/` has it.
pub(super) const ACCOUNT: &str = "system:serviceaccount:touchstone:touchstone-signer";
/// What the signer does with RoleBindings (`deploy/per-grant.yaml`).
const VERBS: [&str; 3] = ["create", "get", "delete"];

/// Asks the cluster after each of the bindings.
pub(super) async fn look(
    client: &Client,
    account: &str,
    bindings: &BTreeSet<Binding>,
) -> Result<GrantBindings, Error> {
    let mut found = GrantBindings {
        account: account.to_owned(),
        ..GrantBindings::default()
    };
    for binding in bindings {
        if !has_role(client, binding).await? {
            found.without_role.insert(binding.clone());
        }
    }
    for binding in bindings {
        match lacking(client, account, binding).await {
            Ok(lacking) if lacking.is_empty() => {}
            Ok(lacking) => {
                found.lacking.insert(binding.clone(), lacking.join(" nor "));
            }
            // A right to ask that few have. What else was found counts all the same.
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    account,
                    "the cluster does not say whether the signer may bind what rules bind for their grants"
                );
                break;
            }
        }
    }
    Ok(found)
}

async fn has_role(client: &Client, binding: &Binding) -> Result<bool, Error> {
    let (client, role) = (client.clone(), &*binding.role);
    let (doing, found) = match binding.kind {
        RoleKind::ClusterRole => (
            "read a ClusterRole that a rule binds",
            Api::<ClusterRole>::all(client)
                .get_metadata_opt(role)
                .await
                .map(|it| it.is_some()),
        ),
        RoleKind::Role => (
            "read a Role that a rule binds",
            Api::<Role>::namespaced(client, &binding.namespace)
                .get_metadata_opt(role)
                .await
                .map(|it| it.is_some()),
        ),
    };
    found.map_err(|source| Error::Bindings {
        doing,
        source: Box::new(source),
    })
}

/// What the account may not do, of all that it must.
async fn lacking(client: &Client, account: &str, binding: &Binding) -> kube::Result<Vec<String>> {
    let roles = match binding.kind {
        RoleKind::ClusterRole => ClusterRole::plural(&()),
        RoleKind::Role => Role::plural(&()),
    };
    let with_bindings = VERBS.map(|verb| (verb, "rolebindings".into(), None));
    let bind = ("bind", roles, Some(&*binding.role));
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for (verb, resource, name) in with_bindings.into_iter().chain([bind]) {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(account.to_owned()),
                groups: Some(groups(account)),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(binding.namespace.to_string()),
                    verb: Some(verb.to_owned()),
                    group: Some(Role::group(&()).into_owned()),
                    resource: Some(resource.to_string()),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        if !answer.status.is_some_and(|status| status.allowed) {
            let name = name.map(|name| format!("/{name}")).unwrap_or_default();
            lacking.push(format!("{verb} {resource}{name}"));
        }
    }
    Ok(lacking)
}

/// The groups that Kubernetes puts an account into
/// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#service-account-tokens).
fn groups(account: &str) -> Vec<String> {
    let mut groups = vec!["system:authenticated".to_owned()];
    let service_account = account.strip_prefix("system:serviceaccount:");
    if let Some((namespace, _)) = service_account.and_then(|rest| rest.split_once(':')) {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    groups
}
