//! Puts the trust bundle into the cluster: a ConfigMap, and a ClusterTrustBundle where the cluster knows that kind.
//!
//! Both are read first and written by compare-and-swap, only where they differ. A bundle that is newer than the one to be
//! published stays: whoever publishes an older one read the record before someone else wrote it. What was changed by hand
//! is put right.

mod object;

use self::object::{Holder, Kind};
use super::{Bundle, published::CONFIG_MAP};
use crate::controller::{chain, code};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Error,
    api::{ApiResource, GroupVersionKind},
    discovery,
    error::DiscoveryError,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// The versions of ClusterTrustBundle, the better one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// The part of a ClusterTrustBundle's name that is ours.
const NAME: &str = "trust-bundle";

/// Publishes bundles of one signer.
pub struct Publisher {
    client: Client,
    namespace: String,
    signer_name: String,
    told_absent: AtomicBool,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It had an older revision.
    Updated,
    /// Someone else had changed it.
    Repaired,
    /// It was right.
    Unchanged,
}

/// What became of a bundle.
#[derive(Debug)]
pub struct Published {
    /// Of the ConfigMap, from which control-plane nodes take it.
    pub config_map: Change,
    /// Of the ClusterTrustBundle, for whoever wants to verify clients in the cluster; nothing where the cluster has no such
    /// kind. API servers do not read it, so that a failure here holds nobody up.
    pub cluster_trust_bundle: Result<Option<Change>, PublishError>,
}

/// Why a bundle was not published. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Someone else writes all the time.
    #[error("publish the trust bundle: others wrote {object} again and again meanwhile")]
    Contended {
        /// Which object.
        object: String,
    },
    /// It was made unchangeable.
    #[error("publish the trust bundle: {object} is immutable")]
    Immutable {
        /// Which object.
        object: String,
    },
    /// The API.
    #[error("publish the trust bundle: {doing} {object}")]
    Kubernetes {
        /// What was tried.
        doing: &'static str,
        /// Which object.
        object: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// A newer one is there.
    #[error("publish the trust bundle: {object} has revision {found}, newer than {ours}")]
    Newer {
        /// Which object.
        object: String,
        /// Its revision.
        found: u64,
        /// Of the bundle to be published.
        ours: u64,
    },
}

impl PublishError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Contended { object } => {
                format!("find out who else writes {object}: only the signer should have the right to")
            }
            Self::Immutable { object } => {
                format!("find out who made it so, then delete {object}: it is made again at once")
            }
            Self::Kubernetes { source, .. } if code(source) == Some(403) => {
                "give the signer's account the rights of deploy/components/own-ca/bundle.yaml (docs/operations.md)".into()
            }
            Self::Kubernetes { source, .. } if code(source) == Some(404) => {
                "create the namespace that the trust bundle is to be in".into()
            }
            Self::Kubernetes { .. } => {
                "check that the API server runs and can be reached from here; it is tried again".into()
            }
            Self::Newer { object, .. } => format!(
                "read the CA's record again: another signer published from a newer one. If the record was restored from a \
                 backup, delete {object}, and let control-plane nodes take the older bundle with `touchstone-signer \
                 bundle sync --once --overwrite`"
            ),
        }
    }
}

impl Publisher {
    /// Publishes to `namespace`, and as the bundle of `signer_name`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, signer_name: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            signer_name: signer_name.to_owned(),
            told_absent: AtomicBool::new(false),
        }
    }

    /// Whether there is a bundle of ours: a trace of a CA's record that was there.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read.
    pub async fn is_published(&self) -> Result<bool, PublishError> {
        Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace)
            .get_metadata_opt(CONFIG_MAP)
            .await
            .map(|found| found.is_some())
            .map_err(|source| PublishError::Kubernetes {
                doing: "read",
                object: format!("ConfigMap {}/{CONFIG_MAP}", self.namespace),
                source: Box::new(source),
            })
    }

    /// Makes the cluster have this bundle. To be called after each change, and from time to time: it writes only what
    /// differs.
    ///
    /// # Errors
    /// When the ConfigMap cannot be read or written, or has a newer bundle.
    pub async fn publish(&self, bundle: &Bundle) -> Result<Published, PublishError> {
        let holder = Holder {
            api: Api::namespaced_with(
                self.client.clone(),
                &self.namespace,
                &ApiResource::erase::<ConfigMap>(&()),
            ),
            name: CONFIG_MAP.to_owned(),
            kind: Kind::ConfigMap {
                namespace: self.namespace.clone(),
            },
        };
        let config_map = holder.publish(bundle).await?;
        let cluster_trust_bundle = self.publish_cluster_trust_bundle(bundle).await;
        if let Err(error) = &cluster_trust_bundle {
            tracing::warn!(error = %chain(error), try = error.remedy(), "the ClusterTrustBundle was not published");
        }
        Ok(Published {
            config_map,
            cluster_trust_bundle,
        })
    }

    async fn publish_cluster_trust_bundle(
        &self,
        bundle: &Bundle,
    ) -> Result<Option<Change>, PublishError> {
        let name = cluster_trust_bundle_name(&self.signer_name);
        let Some(resource) = self.find_cluster_trust_bundles(&name).await? else {
            if !self.told_absent.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    "this cluster has no ClusterTrustBundles; the trust bundle is in the ConfigMap alone"
                );
            }
            return Ok(None);
        };
        let holder = Holder {
            api: Api::all_with(self.client.clone(), &resource),
            name,
            kind: Kind::ClusterTrustBundle {
                signer_name: self.signer_name.clone(),
            },
        };
        holder.publish(bundle).await.map(Some)
    }

    /// Asked each time: the cluster may be upgraded meanwhile.
    async fn find_cluster_trust_bundles(
        &self,
        name: &str,
    ) -> Result<Option<ApiResource>, PublishError> {
        for version in VERSIONS {
            let kind = GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle");
            match discovery::pinned_kind(&self.client, &kind).await {
                Ok((resource, _)) => return Ok(Some(resource)),
                Err(error) if code(&error) == Some(404) => {}
                Err(Error::Discovery(DiscoveryError::MissingKind(_))) => {}
                Err(source) => {
                    return Err(PublishError::Kubernetes {
                        doing: "find the kind of",
                        object: format!("ClusterTrustBundle {name}"),
                        source: Box::new(source),
                    });
                }
            }
        }
        Ok(None)
    }
}

/// The name that Kubernetes demands of a bundle of this signer: its name with a colon for the slash, and a colon
/// (pkg/apis/certificates/validation, `ValidateClusterTrustBundle`).
fn cluster_trust_bundle_name(signer_name: &str) -> String {
    format!("{}:{NAME}", signer_name.replace('/', ":"))
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("namespace", &self.namespace)
            .field("signer_name", &self.signer_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_a_signer_is_named_after_it() {
        assert_eq!(
            cluster_trust_bundle_name("touchstone.dev/client"),
            "touchstone.dev:client:trust-bundle"
        );
    }
}
