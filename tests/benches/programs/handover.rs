//! Two replicas, of which the leader is told to stop: how long until the other holds the Lease, and until a certificate is
//! delivered that was asked for when the leader was told. On a real control plane where `KUBEBUILDER_ASSETS` names one, else
//! on the embedded API.

use super::cluster::client;
use crate::support::{Durations, figure, ms};
use futures::TryStreamExt as _;
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, coordination::v1::Lease};
use kube::{
    Api, Client, Resource,
    api::{PostParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use touchstone_tests::{
    card_key::CardKey,
    child::{Running, program},
    cluster::{Cluster, Setup, manifest},
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";
const SERIAL: u32 = 12_345_678;
/// A signer beside the one that every cluster of the suites has.
const SIGNER_NAME: &str = "touchstone.dev/handover";
const NAMESPACE: &str = "default";
const LEASE: &str = "touchstone-signer";
const ROUNDS: usize = 20;
/// Beyond any that is worth measuring.
const LIMIT: Duration = Duration::from_secs(90);

struct World {
    cluster: Cluster,
    key: CardKey,
    root: PathBuf,
    dir: TempDir,
}

pub(crate) fn run() {
    let key = CardKey::generate(SERIAL);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("attestation-root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    // An administrator asks, on either API.
    let enrolment = format!(
        "- {{ name: {USER}, teams: [payments], keys: [ {{ serial: {SERIAL} }} ], usernames: [admin, touchstone-admin] }}\n"
    );
    let cluster = Cluster::start(&Setup {
        policy: policy(&[enrolment]),
        attestation_roots: vec![root.clone()],
    });
    let where_ = if cluster.is_embedded() {
        "embedded API"
    } else {
        "control plane"
    };
    let world = World {
        cluster,
        key,
        root,
        dir,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let [mut led, mut issued] = [Durations::new(), Durations::new()];
    runtime.block_on(async {
        let client = client(&world.cluster.files().admin_kubeconfig).await;
        let mut leader = world.replica(0);
        for round in 1..=ROUNDS {
            // Ready: it stands by, with policy and CA read.
            let next = world.replica(round);
            let (until_led, until_issued) = world.hand_over(&client, leader, round).await;
            led.push(until_led);
            issued.push(until_issued);
            leader = next;
        }
    });
    for (what, durations) in [("holds the Lease", &led), ("issues", &issued)] {
        figure(
            &format!(
                "handover ({where_}): SIGTERM until the other {what}, min / median / max of {ROUNDS}"
            ),
            &format!(
                "{} / {} / {}",
                ms(durations.percentile(0)),
                ms(durations.median()),
                ms(durations.percentile(100))
            ),
            "",
        );
    }
}

impl World {
    /// A replica with the deployed lease, once it is ready.
    fn replica(&self, number: usize) -> Running {
        let path = |kind: &str| self.dir.path().join(format!("{number}.{kind}"));
        let ready = path("ready");
        let mut command = Command::new(program("touchstone-signer"));
        command
            .args(["run", "--signer-name", SIGNER_NAME])
            .args(["--namespace", NAMESPACE])
            .args(["--replica", &name(number)])
            .arg("--kubeconfig")
            .arg(&self.cluster.files().admin_kubeconfig)
            .arg("--data")
            .arg(path("data"))
            .arg("--policy")
            .arg(&self.cluster.files().policy)
            .arg("--attestation-root")
            .arg(&self.root)
            .arg("--ready-file")
            .arg(&ready);
        let mut running = Running::start("touchstone-signer run", &mut command, &path("log"));
        running.wait_until(LIMIT, "readiness", || ready.is_file());
        running
    }

    /// Tells the leader to stop, and asks for a certificate at once; how long each took to happen.
    async fn hand_over(
        &self,
        client: &Client,
        mut leader: Running,
        next: usize,
    ) -> (Duration, Duration) {
        let request = format!("handover-{next}");
        let now = jiff::Timestamp::now();
        let pem = self.key.request("demo", USER, GRANTED, [7; 32], now);
        let object: CertificateSigningRequest =
            serde_json::from_value(manifest(&request, SIGNER_NAME, &pem)).expect("a request");
        let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
        let requests = Api::<CertificateSigningRequest>::all(client.clone());
        let holder = format!("{}_", name(next));
        let led = when(&leases, LEASE, move |lease: &Lease| {
            let spec = lease.spec.as_ref();
            let by = spec.and_then(|spec| spec.holder_identity.as_deref());
            by.is_some_and(|by| by.starts_with(&holder))
        })
        .await;
        let issued = when(&requests, &request, |request| {
            let status = request.status.as_ref();
            status.is_some_and(|status| status.certificate.is_some())
        })
        .await;
        let told = Instant::now();
        leader.terminate();
        let created = requests.create(&PostParams::default(), &object).await;
        created.expect("the request is taken");
        let [led, issued] = [led, issued].map(|when| tokio::time::timeout(LIMIT, when));
        let [led, issued] = [led.await, issued.await]
            .map(|when| when.expect("in time").expect("the watch ends well") - told);
        assert!(leader.wait(LIMIT).success(), "{}", leader.output());
        (led, issued)
    }
}

fn name(number: usize) -> String {
    format!("replica-{number}")
}

/// When an object is first seen to be so. The watch is open when this returns.
async fn when<K>(
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
