//! One object that holds the bundle: read, compared, written by compare-and-swap.

use super::{Change, PublishError};
use crate::{
    bundle::{
        Bundle,
        published::{self, KEY},
    },
    controller::{chain, code},
};
use kube::{
    Api,
    api::{DynamicObject, PostParams},
};
use serde_json::{Value, json};

/// How often a write is tried when others write, too.
const TRIES: usize = 8;

/// An object, there or not.
pub(super) struct Holder {
    pub(super) api: Api<DynamicObject>,
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Which kind it is.
pub(super) enum Kind {
    ClusterTrustBundle { signer_name: String },
    ConfigMap { namespace: String },
}

/// How what stands there relates to what is to stand there.
enum Found {
    /// It is the same.
    Same,
    /// It is an older bundle of this cluster.
    Older,
    /// It is a newer one.
    Newer(u64),
    /// It is something else: why.
    Other(String),
}

impl Holder {
    pub(super) async fn publish(&self, bundle: &Bundle) -> Result<Change, PublishError> {
        for _ in 0..TRIES {
            let object = self
                .api
                .get_opt(&self.name)
                .await
                .map_err(|error| self.failed("read", error))?;
            let Some(object) = object else {
                match self.create(bundle).await? {
                    Some(change) => return Ok(change),
                    None => continue,
                }
            };
            let found = self.compare(&object, bundle);
            let change = match &found {
                Found::Same => return Ok(Change::Unchanged),
                Found::Newer(found) => {
                    return Err(PublishError::Newer {
                        object: self.object(),
                        found: *found,
                        ours: bundle.revision(),
                    });
                }
                Found::Older => Change::Updated,
                Found::Other(_) => Change::Repaired,
            };
            if self.replace(object, bundle).await? {
                let revision = bundle.revision();
                if let Found::Other(why) = found {
                    tracing::warn!(
                        object = self.object(),
                        revision,
                        why,
                        "the published trust bundle was not the signer's; it is put right: find out who may write there"
                    );
                } else {
                    tracing::info!(
                        object = self.object(),
                        revision,
                        "the trust bundle is published"
                    );
                }
                return Ok(change);
            }
        }
        Err(PublishError::Contended {
            object: self.object(),
        })
    }

    /// For messages, and as kubectl takes it.
    fn object(&self) -> String {
        match &self.kind {
            Kind::ClusterTrustBundle { .. } => format!("clustertrustbundle/{}", self.name),
            Kind::ConfigMap { namespace } => {
                format!("configmap/{} in the namespace {namespace}", self.name)
            }
        }
    }

    fn failed(&self, doing: &'static str, source: kube::Error) -> PublishError {
        PublishError::Kubernetes {
            doing,
            object: self.object(),
            source: Box::new(source),
        }
    }

    fn pem<'a>(&self, object: &'a DynamicObject) -> Option<&'a str> {
        let (part, key) = match self.kind {
            Kind::ClusterTrustBundle { .. } => ("spec", "trustBundle"),
            Kind::ConfigMap { .. } => ("data", KEY),
        };
        object.data.get(part)?.get(key)?.as_str()
    }

    fn compare(&self, object: &DynamicObject, bundle: &Bundle) -> Found {
        let found = match published::read(&object.metadata, self.pem(object)) {
            Ok(found) => found,
            Err(error) => return Found::Other(chain(&error)),
        };
        if found.binding().uid != bundle.binding().uid {
            return Found::Other(format!(
                "it is the one of cluster {} ({})",
                found.binding().cluster,
                found.binding().uid
            ));
        }
        let is_same = found.to_pem() == bundle.to_pem() && found.binding() == bundle.binding();
        match found.revision().cmp(&bundle.revision()) {
            std::cmp::Ordering::Greater => Found::Newer(found.revision()),
            std::cmp::Ordering::Less => Found::Older,
            std::cmp::Ordering::Equal if is_same => Found::Same,
            std::cmp::Ordering::Equal => {
                Found::Other("it says that it is of this revision, and is another".into())
            }
        }
    }

    /// Nothing when someone else made it first.
    async fn create(&self, bundle: &Bundle) -> Result<Option<Change>, PublishError> {
        let resource = match &self.kind {
            Kind::ClusterTrustBundle { .. } => json!({ "spec": {} }),
            Kind::ConfigMap { .. } => json!({ "data": {} }),
        };
        let mut object = DynamicObject {
            types: None,
            metadata: kube::api::ObjectMeta {
                name: Some(self.name.clone()),
                ..kube::api::ObjectMeta::default()
            },
            data: resource,
        };
        self.fill(&mut object, bundle);
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                tracing::info!(
                    object = self.object(),
                    revision = bundle.revision(),
                    "the trust bundle is published"
                );
                Ok(Some(Change::Created))
            }
            Err(error) if code(&error) == Some(409) => Ok(None),
            Err(error) => Err(self.failed("create", error)),
        }
    }

    /// Whether it was still what had been read.
    async fn replace(
        &self,
        mut object: DynamicObject,
        bundle: &Bundle,
    ) -> Result<bool, PublishError> {
        if object.data.get("immutable") == Some(&Value::Bool(true)) {
            return Err(PublishError::Immutable {
                object: self.object(),
            });
        }
        // Of the time it was read: a write since then is a conflict. The labels and annotations of others stay.
        self.fill(&mut object, bundle);
        let written = self
            .api
            .replace(&self.name, &PostParams::default(), &object)
            .await;
        match written {
            Ok(_) => Ok(true),
            Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(false),
            Err(error) => Err(self.failed("write", error)),
        }
    }

    fn fill(&self, object: &mut DynamicObject, bundle: &Bundle) {
        published::annotate(&mut object.metadata, bundle);
        let (part, content) = match &self.kind {
            Kind::ClusterTrustBundle { signer_name } => (
                "spec",
                json!({ "signerName": signer_name, "trustBundle": bundle.to_pem() }),
            ),
            Kind::ConfigMap { .. } => ("data", json!({ KEY: bundle.to_pem() })),
        };
        if let Value::Object(data) = &mut object.data {
            data.insert(part.to_owned(), content);
            // The same key may not stand in both.
            data.remove("binaryData");
        }
    }
}
