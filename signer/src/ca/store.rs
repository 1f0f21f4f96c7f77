//! The Secret that holds the record: read whole, written by compare-and-swap. On Kubernetes and on the embedded API alike.

use super::record::{Binding, Record, RecordError};
use crate::controller::code;
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use std::collections::BTreeMap;

/// The Secret's name.
pub const SECRET: &str = "touchstone-ca";
/// Where in the Secret the record is.
const KEY: &str = "record.json";
/// Its type: nothing else is read as a record.
const TYPE: &str = "touchstone.dev/ca";

/// Where the record is.
#[derive(Clone)]
pub struct Store {
    secrets: Api<Secret>,
    /// Whose record it must be; whoever's for an operator, who is shown whose it is.
    binding: Option<Binding>,
}

/// A record as it was read, and the version that a write must find.
#[derive(Clone, Debug)]
pub struct Read {
    /// The record.
    pub record: Record,
    version: String,
}

/// Why the record was not read or written. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Someone else wrote since it was read: read it again.
    #[error("write the CA's record: another signer or operator wrote it first")]
    Conflict,
    /// It is not there any more.
    #[error("write the CA's record: the Secret {SECRET} is gone")]
    Gone,
    /// The API.
    #[error("{doing}")]
    Kubernetes {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// What stands there.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Conflict => "try again: it is read anew".into(),
            Self::Gone => "restore the Secret from a backup: Touchstone never makes it anew".into(),
            Self::Kubernetes { .. } => {
                "check that the API server can be reached, and the rights of deploy/components/own-ca/rbac.yaml"
                    .into()
            }
            Self::Record(error) => error.remedy(),
        }
    }

    fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes {
            doing,
            source: Box::new(source),
        }
    }
}

impl Store {
    /// The record of a cluster, in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str, binding: Binding) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            binding: Some(binding),
        }
    }

    /// Whatever cluster's record is in this namespace.
    #[must_use]
    pub fn of_any(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            binding: None,
        }
    }

    /// Reads it; `None` where there is no Secret.
    ///
    /// # Errors
    /// When the API does not answer, or what stands there is no record of this cluster.
    pub async fn load(&self) -> Result<Option<Read>, StoreError> {
        let secret = self
            .secrets
            .get_opt(SECRET)
            .await
            .map_err(StoreError::api("read the CA's record"))?;
        secret.map(|secret| self.read(secret)).transpose()
    }

    /// Writes the first record.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there is one.
    pub async fn create(&self, record: &Record) -> Result<Read, StoreError> {
        let secret = secret(record, None)?;
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(written) => self.read(written),
            Err(error) if code(&error) == Some(409) => Err(StoreError::Conflict),
            Err(error) => Err(StoreError::api("write the CA's record")(error)),
        }
    }

    /// Replaces what was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is not what stands there any more.
    pub async fn replace(&self, read: &Read, record: &Record) -> Result<Read, StoreError> {
        let secret = secret(record, Some(read.version.clone()))?;
        match self
            .secrets
            .replace(SECRET, &PostParams::default(), &secret)
            .await
        {
            Ok(written) => self.read(written),
            Err(error) if code(&error) == Some(409) => Err(StoreError::Conflict),
            Err(error) if code(&error) == Some(404) => Err(StoreError::Gone),
            Err(error) => Err(StoreError::api("write the CA's record")(error)),
        }
    }

    fn read(&self, secret: Secret) -> Result<Read, StoreError> {
        let json = secret.data.and_then(|mut data| data.remove(KEY));
        let json = zeroize::Zeroizing::new(json.map(|json| json.0).unwrap_or_default());
        Ok(Read {
            record: Record::from_json(&json, self.binding.as_ref())?,
            version: secret.metadata.resource_version.unwrap_or_default(),
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("binding", &self.binding)
            .finish_non_exhaustive()
    }
}

fn secret(record: &Record, version: Option<String>) -> Result<Secret, RecordError> {
    let json = record.to_json()?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            resource_version: version,
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.into(), ByteString(json.to_vec()))])),
        type_: Some(TYPE.into()),
        ..Secret::default()
    })
}
