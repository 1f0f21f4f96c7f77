//! Where the CA's record is: behind a standalone's API, or in a cluster.

use crate::{
    ca::{
        bootstrap, endpoint,
        store::{Read, Store},
    },
    clock::{ApiClock, SystemClock},
    command::{choose_crypto, cluster::ClusterOptions, run, standalone},
    data_dir::{DataDir, DataDirError},
    error::Error,
    grant::Grant,
};
use clap::Args;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::{Api, Client};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use touchstone_apiserver::{ADMINISTRATORS, ApiServer, Config, Nobody};

/// Where the CA's record is.
#[derive(Debug, Args)]
pub struct Place {
    /// The data directory of a standalone signer, running or not
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["kubeconfig", "context", "namespace"]
    )]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// A place that was found.
pub(super) struct Open {
    pub(super) store: Store,
    pub(super) grants: Api<Grant>,
    /// A standalone that does not run: nobody starts it meanwhile.
    directory: Option<DataDir>,
}

impl Place {
    pub(super) async fn open(&self) -> Result<Open, Error> {
        choose_crypto();
        match &self.data {
            Some(data) => open_standalone(data).await,
            None => {
                let found = self.cluster.find().await?;
                Ok(Open::of(found.client()?, &found.namespace, None))
            }
        }
    }
}

/// A running standalone is asked over its API; the database of one that does not run is opened here.
async fn open_standalone(data: &Path) -> Result<Open, Error> {
    let database = data.join(bootstrap::DATABASE);
    if !database.exists() {
        return Err(Error::CaRecordMissing);
    }
    let directory = match DataDir::open(data) {
        Ok(directory) => directory,
        Err(DataDirError::InUse { .. }) => {
            let kubeconfig = data.join(endpoint::ADMIN_KUBECONFIG);
            let config = run::config(&kubeconfig, None).await?;
            let (client, _) = run::connect(config)?;
            return Ok(Open::of(client, standalone::NAMESPACE, None));
        }
        Err(error) => return Err(error.into()),
    };
    let api = ApiServer::open(Config {
        database,
        client_cas: Vec::new(),
        anonymous: Arc::new(Nobody),
        approvers: Arc::new(Nobody),
        clock: Arc::new(ApiClock(Arc::new(SystemClock))),
    })
    .map_err(|error| Error::ApiOpen(Box::new(error)))?;
    let administrator = UserInfo {
        username: Some("touchstone-admin".into()),
        groups: Some(vec![ADMINISTRATORS.into(), "system:authenticated".into()]),
        ..UserInfo::default()
    };
    let client = api.client(administrator, standalone::NAMESPACE);
    Ok(Open::of(client, standalone::NAMESPACE, Some(directory)))
}

impl Open {
    /// Whether signers may be at work on it.
    pub(super) fn is_in_use(&self) -> bool {
        self.directory.is_none()
    }

    fn of(client: Client, namespace: &str, directory: Option<DataDir>) -> Self {
        Self {
            store: Store::of_any(client.clone(), namespace),
            grants: Api::all(client),
            directory,
        }
    }

    pub(super) async fn read(&self) -> Result<Read, Error> {
        self.store.load().await?.ok_or(Error::CaRecordMissing)
    }
}
