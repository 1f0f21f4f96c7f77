//! The RoleBindings of a grant: what the certificate's own group is bound to until it ends or is revoked.
//!
//! Their names follow from the grant's, so that they are found again after any interruption without a search. Nothing of
//! another's is changed: what stands under such a name and is not for the grant's own group is left, and told of.

use super::{Context, ControllerError, code};
use crate::{
    grant::{Grant, GrantBinding},
    traces::TRACES,
};
use k8s_openapi::{
    api::rbac::v1::{RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::fmt;

const RBAC: &str = "rbac.authorization.k8s.io";
/// Which grant a RoleBinding belongs to, for `kubectl get rolebindings -A -l`.
const GRANT_LABEL: &str = "touchstone.dev/grant";

/// What became of binding a grant's group.
pub(super) enum Bound {
    /// Everything is there.
    Yes,
    /// The API does not take one, and will not take it later either: why.
    Refused(String),
}

/// The name of the RoleBinding at this place of a grant's list.
pub(super) fn name(grant: &str, place: usize) -> String {
    format!("touchstone-{grant}-{place}")
}

fn made(grant: &Grant, place: usize, binding: &GrantBinding, group: &str) -> RoleBinding {
    let grant_name = grant.name_any();
    let labels = [
        (GRANT_LABEL, grant_name.as_str()),
        ("app.kubernetes.io/managed-by", "touchstone-signer"),
    ];
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(name(&grant_name, place)),
            namespace: Some(binding.namespace.clone()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            // Whoever deletes the Grant ends what it opened: Kubernetes collects what it owned.
            owner_references: grant.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: Some(RBAC.to_owned()),
            kind: binding.kind.clone(),
            name: binding.role.clone(),
        },
        subjects: Some(vec![Subject {
            api_group: Some(RBAC.to_owned()),
            kind: "Group".to_owned(),
            name: group.to_owned(),
            namespace: None,
        }]),
    }
}

/// Whether it gives a role to this group, whoever made it so.
fn is_for(binding: &RoleBinding, group: &str) -> bool {
    let subjects = binding.subjects.iter().flatten();
    subjects
        .filter(|subject| subject.kind == "Group")
        .any(|subject| subject.name == group)
}

/// The RoleBindings of the cluster.
pub(super) struct RoleBindings(Client);

impl RoleBindings {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    fn of(&self, namespace: &str) -> Api<RoleBinding> {
        Api::namespaced(self.0.clone(), namespace)
    }
}

impl fmt::Debug for RoleBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleBindings").finish_non_exhaustive()
    }
}

impl Context {
    /// Makes the RoleBindings of a grant, those that are there already but for.
    #[tracing::instrument(target = TRACES, skip_all, err)]
    pub(super) async fn bind(&self, grant: &Grant) -> Result<Bound, ControllerError> {
        let Some(group) = &grant.spec.group else {
            return Ok(Bound::Yes);
        };
        for (place, binding) in grant.spec.bindings.iter().enumerate() {
            let wanted = made(grant, place, binding, group);
            let (namespace, name) = (&binding.namespace, wanted.name_any());
            let api = self.role_bindings.of(namespace);
            match api.create(&PostParams::default(), &wanted).await {
                Ok(_) => {}
                Err(error) if code(&error) == Some(409) => {
                    let there = api
                        .get_opt(&name)
                        .await
                        .map_err(ControllerError::api("read a RoleBinding"))?;
                    let is_ours = there.is_some_and(|there| {
                        there.role_ref == wanted.role_ref
                            && there.subjects == wanted.subjects
                            && there.metadata.owner_references == wanted.metadata.owner_references
                    });
                    if !is_ours {
                        return Ok(Bound::Refused(format!(
                            "RoleBinding {name} in namespace {namespace} is there already, and not the signer's: find out \
                             who made it"
                        )));
                    }
                }
                // It may not, there is no such namespace, or the object is not taken.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 422) => {
                    return Ok(Bound::Refused(format!(
                        "{} {} cannot be bound in namespace {namespace}: {}",
                        binding.kind, binding.role, status.message
                    )));
                }
                Err(error) => return Err(ControllerError::api("create a RoleBinding")(error)),
            }
        }
        Ok(Bound::Yes)
    }

    /// Removes the RoleBindings of a grant. Those that are gone are gone.
    #[tracing::instrument(target = TRACES, skip_all, err)]
    pub(super) async fn unbind(&self, grant: &Grant) -> Result<(), ControllerError> {
        let Some(group) = &grant.spec.group else {
            return Ok(());
        };
        for (place, binding) in grant.spec.bindings.iter().enumerate() {
            let name = name(&grant.name_any(), place);
            let api = self.role_bindings.of(&binding.namespace);
            let there = api
                .get_opt(&name)
                .await
                .map_err(ControllerError::api("read a RoleBinding"))?;
            let Some(there) = there else {
                continue;
            };
            if !is_for(&there, group) {
                tracing::error!(
                    grant = grant.name_any(),
                    namespace = binding.namespace,
                    name,
                    "a RoleBinding has the name of one of the signer's and is for others; it is left as it is"
                );
                continue;
            }
            // That very object, and no other that came in its place.
            let parameters = DeleteParams::default().preconditions(Preconditions {
                uid: there.uid(),
                resource_version: None,
            });
            match api.delete(&name, &parameters).await {
                Ok(_) => {}
                Err(error) if code(&error) == Some(404) => {}
                Err(error) => return Err(ControllerError::api("delete a RoleBinding")(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_for_a_group_and_not_for_a_user_of_that_name() {
        let subject = |kind: &str, name: &str| Subject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..Subject::default()
        };
        let of = |subjects| RoleBinding {
            subjects: Some(subjects),
            ..RoleBinding::default()
        };
        assert!(is_for(
            &of(vec![subject("User", "x"), subject("Group", "g")]),
            "g"
        ));
        assert!(!is_for(&of(vec![subject("User", "g")]), "g"));
        assert!(!is_for(&RoleBinding::default(), "g"));
    }
}
