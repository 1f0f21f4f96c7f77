//! The CA's record on a real API: two writers at once, and what becomes of it while no one looks.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that panics has failed"
)]

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{authentication::v1::UserInfo, core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};
use tempfile::TempDir;
use touchstone_apiserver::{
    ApiServer, CaKind, ClientCa, Config, Nobody, SIGNER, ServerTls, SystemClock,
};
use touchstone_signer::{
    ca::{
        bootstrap::{self, Founded},
        canary::{self, CanaryError},
        endpoint,
        key::{KeySource, Tokens},
        lifecycle::{Asked, Event, Lifecycle, Lifetime, Root, Schedule},
        record::{Binding, Material, Record, RecordError},
        store::{Read, SECRET, Store, StoreError},
    },
    data_dir::DataDir,
};

const NAMESPACE: &str = "default";

struct World {
    client: Client,
    record: Record,
    authority: Founded,
    api: ApiServer,
    data: DataDir,
    _temp: TempDir,
}

fn binding() -> Binding {
    Binding {
        cluster: "prod".into(),
        uid: "5a1d".into(),
    }
}

/// An embedded API, and the record of a CA in a data directory, not yet written.
fn world() -> World {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(&temp.path().join("data")).unwrap();
    let now = Timestamp::now();
    let authority = bootstrap::open(&data, now).unwrap();
    let certificate = authority.issuing().certificate().clone();
    let validity = certificate.validity();
    let lifetime = Lifetime {
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    let lifecycle = Lifecycle::adopt(Schedule::default(), Root::Own, lifetime, now);
    let id = lifecycle.active().unwrap().id();
    let material = Material {
        certificate: Some(certificate),
        key: Some(KeySource::File {
            path: data.file("ca/issuing/key.pem"),
            passphrase: None,
        }),
        request: None,
    };
    let roots = vec![authority.root().clone()];
    let material = BTreeMap::from([(id, material)]);
    let record = Record::new(binding(), lifecycle, roots, material).unwrap();
    let api = ApiServer::open(Config {
        database: data.file(bootstrap::DATABASE),
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
        record,
        authority,
        api,
        data,
        _temp: temp,
    }
}

impl World {
    fn store(&self) -> Store {
        Store::new(self.client.clone(), NAMESPACE, binding())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn put(&self, json: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let patch = json!({ "data": { "record.json": STANDARD.encode(json) } });
        self.secrets()
            .patch(SECRET, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
}

/// The same record after an operator's wish.
fn asked(read: &Read) -> Record {
    let mut lifecycle = read.record.lifecycle().clone();
    lifecycle
        .apply(Event::Asked(Asked::Step), Timestamp::now())
        .unwrap();
    read.record.clone().with_lifecycle(lifecycle).unwrap()
}

#[tokio::test]
async fn of_two_writers_at_once_one_is_told_to_read_again_and_nothing_is_lost() {
    let world = world();
    let (one, other) = (world.store(), world.store());
    assert!(one.load().await.unwrap().is_none());
    let (first, second) = tokio::join!(one.create(&world.record), other.create(&world.record));
    assert_eq!(
        [&first, &second].iter().filter(|made| made.is_ok()).count(),
        1,
        "{first:?} {second:?}"
    );
    for _ in 0..20 {
        let read = one.load().await.unwrap().unwrap();
        let same = other.load().await.unwrap().unwrap();
        let record = asked(&read);
        let (a, b) = tokio::join!(one.replace(&read, &record), other.replace(&same, &record));
        let lost: Vec<_> = [a, b].into_iter().filter_map(Result::err).collect();
        assert!(
            matches!(lost.as_slice(), [StoreError::Conflict]),
            "{lost:?}"
        );
    }
    let read = one.load().await.unwrap().unwrap();
    let id = read.record.lifecycle().active().unwrap().id();
    read.record.open_key(id, &Tokens::default()).await.unwrap();
}

#[tokio::test]
async fn a_record_that_was_emptied_cut_off_or_taken_away_is_refused_and_not_made_anew() {
    let world = world();
    let store = world.store();
    let read = store.create(&world.record).await.unwrap();
    let json = String::from_utf8(world.record.to_json().unwrap().to_vec()).unwrap();
    world.put("").await;
    let error = store.load().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Record(RecordError::Empty)),
        "{error}"
    );
    world.put(json.get(..json.len() / 2).unwrap()).await;
    let error = store.load().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Record(RecordError::Malformed(_))),
        "{error}"
    );
    world.put(&json.replace("\"prod\"", "\"test\"")).await;
    let error = store.load().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Record(RecordError::Foreign { .. })),
        "{error}"
    );
    assert!(error.remedy().contains("backup"), "{}", error.remedy());
    world
        .secrets()
        .delete(SECRET, &DeleteParams::default())
        .await
        .unwrap();
    let error = store.replace(&read, &asked(&read)).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Gone | StoreError::Conflict),
        "{error}"
    );
    assert!(store.load().await.unwrap().is_none());
}

/// Those whose client certificates the API believes.
fn believed(authority: &Founded) -> Vec<ClientCa> {
    vec![ClientCa {
        certificates_pem: authority.trust_bundle().into_bytes(),
        kind: CaKind::Engineers,
    }]
}

#[tokio::test]
async fn a_canary_is_known_where_its_ca_is_trusted_and_the_clocks_agree_and_nowhere_else() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (world, stranger) = (world(), world());
    let now = Timestamp::now();
    let names = endpoint::ServerNames::new(None, &[]);
    let server = endpoint::server(&world.data, &names, now).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut config = kube::Config::new(url.parse().unwrap());
    let server_ca = pem::parse(&server.ca_pem).unwrap();
    config.root_cert = Some(vec![server_ca.into_contents()]);
    let tls = ServerTls {
        certificate_chain_pem: server.certificate_pem.into_bytes(),
        private_key_pem: server.private_key_pem.as_bytes().to_vec().into(),
    };
    world
        .api
        .set_client_cas(&believed(&world.authority))
        .unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let (api, token) = (world.api.clone(), stop.clone());
    let serving = tokio::spawn(async move { api.serve(listener, tls, token).await });

    let hour = SignedDuration::from_hours(1);
    let ours = world.authority.issuing();
    canary::prove(ours, &config, hour, now).await.unwrap();
    for (ca, time) in [
        (stranger.authority.issuing(), now),
        (ours, now.checked_add(hour).unwrap()),
        (ours, now.checked_sub(hour).unwrap()),
    ] {
        let error = canary::prove(ca, &config, hour, time).await.unwrap_err();
        assert!(matches!(error, CanaryError::Api { .. }), "{error}");
        assert!(error.remedy().contains("clock"), "{}", error.remedy());
    }
    // Trust that ends is seen at once.
    world
        .api
        .set_client_cas(&believed(&stranger.authority))
        .unwrap();
    canary::prove(ours, &config, hour, now).await.unwrap_err();
    stop.cancel();
    serving.await.unwrap().unwrap();
}
