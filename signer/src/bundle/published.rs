//! How a trust bundle stands in a cluster: its PEM, and annotations that say whose, which and what it is.
//!
//! The annotations prove nothing to someone who is allowed to write there: that right is the right to say who gets into
//! the cluster. They tell a bundle from what a slip, an old backup or another cluster left.

use super::{Bundle, BundleError, sha256};
use crate::ca::record::Binding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use touchstone_common::name::ClusterName;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "touchstone-trust-bundle";
/// Where in the ConfigMap the PEM is.
pub const KEY: &str = "ca.crt";

const CLUSTER: &str = "touchstone.dev/cluster";
const CLUSTER_UID: &str = "touchstone.dev/cluster-uid";
const REVISION: &str = "touchstone.dev/trust-revision";
const SHA256: &str = "touchstone.dev/trust-sha256";

/// Why what stands in the cluster is no trust bundle. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishedError {
    /// An annotation is missing or cannot be read.
    #[error("use the published trust bundle: its annotation {0} is missing or malformed")]
    Annotation(&'static str),
    /// The certificates.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its PEM is not what the annotation says.
    #[error(
        "use the published trust bundle: it was cut off or changed, its SHA-256 is not the one that it says"
    )]
    Changed,
    /// There is no PEM in it.
    #[error("use the published trust bundle: there is no {KEY} in it")]
    Missing,
}

impl PublishedError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        "find out who wrote there; a running signer puts it right within minutes, and nothing is trusted meanwhile that \
         was not before"
            .into()
    }
}

/// Writes the annotations of a bundle; others stay.
pub(super) fn annotate(metadata: &mut ObjectMeta, bundle: &Bundle) {
    let annotations = metadata.annotations.get_or_insert_default();
    for (name, value) in [
        (CLUSTER, bundle.binding().cluster.clone()),
        (CLUSTER_UID, bundle.binding().uid.clone()),
        (REVISION, bundle.revision().to_string()),
        (SHA256, bundle.sha256()),
    ] {
        annotations.insert(name.to_owned(), value);
    }
}

/// Reads a bundle from its PEM and its object's metadata.
///
/// # Errors
/// When the two do not belong together, or the certificates are no bundle.
pub fn read(metadata: &ObjectMeta, pem: Option<&str>) -> Result<Bundle, PublishedError> {
    let annotation = |name: &'static str| {
        let annotations = metadata.annotations.as_ref();
        annotations
            .and_then(|annotations| annotations.get(name))
            .filter(|value| !value.is_empty())
            .ok_or(PublishedError::Annotation(name))
    };
    let pem = pem.ok_or(PublishedError::Missing)?;
    let cluster = annotation(CLUSTER)?;
    let uid = annotation(CLUSTER_UID)?;
    // Both go into the comments of a file.
    if ClusterName::parse(cluster).is_err() {
        return Err(PublishedError::Annotation(CLUSTER));
    }
    if !uid
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(PublishedError::Annotation(CLUSTER_UID));
    }
    let binding = Binding {
        cluster: cluster.clone(),
        uid: uid.clone(),
    };
    let revision = annotation(REVISION)?
        .parse()
        .map_err(|_| PublishedError::Annotation(REVISION))?;
    if *annotation(SHA256)? != sha256(pem.as_bytes()) {
        return Err(PublishedError::Changed);
    }
    Ok(Bundle::from_pem(binding, revision, pem.as_bytes())?)
}
