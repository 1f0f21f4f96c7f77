//! Two replicas, of which the leader is told to stop: how long until the other holds the Lease, and until a certificate is
//! delivered that was asked for when the leader was told. On a real control plane where `KUBEBUILDER_ASSETS` names one, else
//! on the embedded API.

use super::requests::{client, has_certificate, place, request, runtime, start, when};
use crate::support::{Durations, figure, ms};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, coordination::v1::Lease};
use kube::{Api, Client, api::PostParams};
use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_tests::{
    card_key::CardKey,
    child::{Running, program},
    cluster::Cluster,
};

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
    let (cluster, key) = start();
    let where_ = place(&cluster);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("attestation-root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    let world = World {
        cluster,
        key,
        root,
        dir,
    };
    let [mut led, mut issued] = [Durations::new(), Durations::new()];
    runtime().block_on(async {
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
        let asked = format!("handover-{next}");
        let object = request(&self.key, SIGNER_NAME, &asked);
        let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
        let requests = Api::<CertificateSigningRequest>::all(client.clone());
        let holder = format!("{}_", name(next));
        let led = when(&leases, LEASE, move |lease: &Lease| {
            let spec = lease.spec.as_ref();
            let by = spec.and_then(|spec| spec.holder_identity.as_deref());
            by.is_some_and(|by| by.starts_with(&holder))
        })
        .await;
        let issued = when(&requests, &asked, has_certificate).await;
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
