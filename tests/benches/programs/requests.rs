//! What the benchmarks on a cluster ask of its API.

use futures::TryStreamExt as _;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Client, Config, Resource,
    api::{ObjectMeta, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, fs, path::Path, time::Instant};
use tokio::task::JoinHandle;
use touchstone_signer::api;
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup},
    policy::{GRANTED, policy},
};

/// Whose every request is.
pub(crate) const USER: &str = "alice@example.com";
/// Who asks for more than their due, in the same name.
pub(crate) const FLOODER: &str = "mallory@example.com";
const SERIAL: u32 = 12_345_678;

/// How many others ask, in the same name too: see [`crowd`].
pub(crate) const CROWD: usize = 50;

/// A cluster with a policy under which [`USER`], [`FLOODER`], the [`crowd`] and the administrator, `admin` or
/// `touchstone-admin`, ask with this key.
pub(crate) fn start() -> (Cluster, CardKey) {
    let key = CardKey::generate(SERIAL);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("attestation-root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    let crowd: Vec<String> = (0..CROWD).map(one_of_crowd).collect();
    let enrolment = format!(
        "- {{ name: {USER}, teams: [payments], keys: [ {{ serial: {SERIAL} }} ], usernames: [admin, touchstone-admin, {FLOODER}, {}] }}\n",
        crowd.join(", ")
    );
    let cluster = Cluster::start(&Setup {
        policy: policy(&[enrolment]),
        attestation_roots: vec![root],
    });
    (cluster, key)
}

pub(crate) fn place(cluster: &Cluster) -> &'static str {
    if cluster.is_embedded() {
        "embedded API"
    } else {
        "control plane"
    }
}

pub(crate) async fn client(kubeconfig: &Path) -> Client {
    api::client(config(kubeconfig).await).expect("a client")
}

async fn config(kubeconfig: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a usable kubeconfig")
}

/// Engineers, each with a connection of their own; one administrator where the API is embedded, as it knows no others.
pub(crate) async fn crowd(cluster: &Cluster) -> Vec<Client> {
    let admin = config(&cluster.files().admin_kubeconfig).await;
    let as_one = |number| {
        let mut config = admin.clone();
        if !cluster.is_embedded() {
            config.auth_info.impersonate = Some(one_of_crowd(number));
            config.auth_info.impersonate_groups = Some(vec!["touchstone-engineers".to_owned()]);
        }
        api::client(config).expect("a client")
    };
    (0..CROWD).map(as_one).collect()
}

fn one_of_crowd(number: usize) -> String {
    format!("engineer-{number}@example.com")
}

/// A runtime as wide as the machines on which the figures of the documents are measured.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A request that is signed now.
pub(crate) fn request(key: &CardKey, signer_name: &str, name: &str) -> CertificateSigningRequest {
    let now = jiff::Timestamp::now();
    let pem = key.request("demo", USER, GRANTED, [7; 32], now);
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            expiration_seconds: Some(1800),
            request: ByteString(pem.into_bytes()),
            signer_name: signer_name.to_owned(),
            usages: Some(vec!["client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

pub(crate) fn has_certificate(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    status.is_some_and(|status| status.certificate.is_some())
}

/// When an object is first seen to be so. The watch is open when this returns.
pub(crate) async fn when<K>(
    api: &Api<K>,
    name: &str,
    is_so: impl Fn(&K) -> bool + Send + 'static,
) -> JoinHandle<Instant>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let one = WatchParams::default().fields(&format!("metadata.name={name}"));
    let events = api.watch(&one, "0").await.expect("the watch is taken");
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.expect("an event") {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
                && is_so(&object)
            {
                return Instant::now();
            }
        }
        panic!("the watch ended first");
    })
}
