//! Publishing the trust bundle to an API: two signers at once, one with an old record, and what others write there.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

use jiff::Timestamp;
use k8s_openapi::api::{authentication::v1::UserInfo, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::TempDir;
use touchstone_apiserver::{ApiServer, Config, Nobody, SIGNER, SystemClock};
use touchstone_common::certificate::CaCertificate;
use touchstone_signer::{
    bundle::{
        Bundle,
        publish::{Change, PublishError, Published, Publisher},
        published::{self, CONFIG_MAP, KEY},
    },
    ca::{bootstrap, record::Binding},
    data_dir::DataDir,
};

const NAMESPACE: &str = "default";

struct World {
    client: Client,
    cas: Vec<CaCertificate>,
    _temp: TempDir,
}

fn world() -> World {
    let temp = tempfile::tempdir().unwrap();
    let cas = ["a", "b", "c"].map(|name| {
        let data = DataDir::open(&temp.path().join(name)).unwrap();
        let authority = bootstrap::open(&data, Timestamp::now()).unwrap();
        authority.root().clone()
    });
    let api = ApiServer::open(Config {
        database: temp.path().join("api.db"),
        client_cas: Vec::new(),
        anonymous: Arc::new(Nobody),
        approvers: Arc::new(Nobody),
        clock: Arc::new(SystemClock),
    })
    .unwrap();
    let identity = UserInfo {
        username: Some("touchstone-signer".into()),
        groups: Some(vec![SIGNER.into()]),
        ..UserInfo::default()
    };
    World {
        client: api.client(identity, NAMESPACE),
        cas: cas.into(),
        _temp: temp,
    }
}

impl World {
    fn publisher(&self) -> Publisher {
        Publisher::new(self.client.clone(), NAMESPACE, "touchstone.dev/client")
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The bundle of the first `count` CAs.
    fn bundle(&self, revision: u64, count: usize) -> Bundle {
        let binding = Binding {
            cluster: "prod".into(),
            uid: "5a1d".into(),
        };
        let cas = self.cas.iter().take(count).cloned().collect();
        Bundle::new(binding, revision, cas).unwrap()
    }

    async fn published(&self) -> Bundle {
        let map = self.config_maps().get(CONFIG_MAP).await.unwrap();
        let pem = map.data.as_ref().and_then(|data| data.get(KEY));
        published::read(&map.metadata, pem.map(String::as_str)).unwrap()
    }

    async fn patch(&self, patch: &Value) {
        self.config_maps()
            .patch(CONFIG_MAP, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
}

fn change(published: Result<Published, PublishError>) -> Change {
    let published = published.unwrap();
    // The embedded API has no ClusterTrustBundles.
    assert_eq!(published.cluster_trust_bundle.unwrap(), None);
    published.config_map
}

#[tokio::test]
async fn a_bundle_is_written_once_and_a_newer_one_replaces_it() {
    let world = world();
    let publisher = world.publisher();
    let first = world.bundle(1, 1);
    assert_eq!(change(publisher.publish(&first).await), Change::Created);
    let version = |map: ConfigMap| map.metadata.resource_version.unwrap();
    let written = version(world.config_maps().get(CONFIG_MAP).await.unwrap());
    assert_eq!(change(publisher.publish(&first).await), Change::Unchanged);
    let now = version(world.config_maps().get(CONFIG_MAP).await.unwrap());
    assert_eq!(written, now);
    let second = world.bundle(2, 2);
    assert_eq!(change(publisher.publish(&second).await), Change::Updated);
    assert_eq!(world.published().await.sha256(), second.sha256());
}

#[tokio::test]
async fn a_signer_with_an_old_record_does_not_take_back_what_another_published() {
    let world = world();
    let (ahead, behind) = (world.publisher(), world.publisher());
    ahead.publish(&world.bundle(7, 2)).await.unwrap();
    let error = behind.publish(&world.bundle(6, 1)).await.unwrap_err();
    assert!(
        matches!(
            error,
            PublishError::Newer {
                found: 7,
                ours: 6,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.remedy().contains("again"), "{}", error.remedy());
    assert_eq!(world.published().await.revision(), 7);
}

#[tokio::test]
async fn what_others_wrote_there_is_put_right_and_what_they_added_beside_it_stays() {
    let world = world();
    let publisher = world.publisher();
    let bundle = world.bundle(5, 2);
    publisher.publish(&bundle).await.unwrap();
    let less = world.bundle(9, 1);
    let annotation =
        |name: &str, value: &str| json!({ "metadata": { "annotations": { name: value } } });
    for vandalism in [
        json!({ "data": { KEY: "" } }),
        json!({ "data": { KEY: null } }),
        json!({ "data": null }),
        json!({ "data": { KEY: less.to_pem() } }),
        json!({ "metadata": { "annotations": null } }),
        annotation("touchstone.dev/cluster-uid", "another"),
        annotation("touchstone.dev/cluster", "another"),
        annotation("touchstone.dev/trust-revision", "many"),
        // A well-made bundle of this very revision that is not ours.
        json!({
            "data": { KEY: less.to_pem() },
            "metadata": { "annotations": { "touchstone.dev/trust-sha256": less.sha256() } },
        }),
        // A newer one, made badly.
        json!({
            "data": { KEY: less.to_pem() },
            "metadata": { "annotations": { "touchstone.dev/trust-revision": "9" } },
        }),
    ] {
        world.patch(&vandalism).await;
        let change = change(publisher.publish(&bundle).await);
        assert_eq!(change, Change::Repaired, "{vandalism}");
        let found = world.published().await;
        assert_eq!((found.revision(), found.sha256()), (5, bundle.sha256()));
        assert_eq!(found.binding(), bundle.binding());
    }
    world
        .patch(&json!({ "metadata": { "labels": { "team": "sre" }, "annotations": { "note": "kept" } } }))
        .await;
    world.patch(&json!({ "data": { KEY: "" } })).await;
    publisher.publish(&bundle).await.unwrap();
    let metadata = world.config_maps().get(CONFIG_MAP).await.unwrap().metadata;
    assert_eq!(metadata.labels.unwrap().get("team").unwrap(), "sre");
    assert_eq!(metadata.annotations.unwrap().get("note").unwrap(), "kept");
    world
        .config_maps()
        .delete(CONFIG_MAP, &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(change(publisher.publish(&bundle).await), Change::Created);
}

#[tokio::test]
async fn of_two_signers_that_publish_at_once_the_newer_bundle_stands_at_the_end() {
    let world = world();
    let (one, other) = (world.publisher(), world.publisher());
    for revision in 1..20 {
        let (old, new) = (world.bundle(revision, 1), world.bundle(revision + 1, 2));
        let (a, b) = tokio::join!(one.publish(&old), other.publish(&new));
        b.unwrap();
        match a {
            Ok(_) | Err(PublishError::Newer { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let found = world.published().await;
        assert_eq!(
            (found.revision(), found.sha256()),
            (revision + 1, new.sha256())
        );
    }
}
