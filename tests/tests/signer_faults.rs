//! What goes wrong with the signer: killed at any moment, started twice, without room, with a broken policy.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;
use touchstone_tests::{
    card_key::CardKey,
    child::{Running, program},
    cluster::{Cluster, Setup},
    engineer::Ran,
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";
const POLICY_BROKEN: i32 = 3;
const IN_USE: i32 = 4;
const UNUSABLE: i32 = 5;

fn signer() -> Command {
    let mut command = Command::new(program("touchstone-signer"));
    command.env("RUST_LOG", "info");
    command
}

/// `touchstone-signer standalone` on this data directory and policy, on a port of its own.
fn standalone(data: &Path, policy: &Path) -> Command {
    let mut command = signer();
    command
        .arg("standalone")
        .arg("--data")
        .arg(data)
        .arg("--policy")
        .arg(policy)
        .args(["--listen", "127.0.0.1:0"]);
    command
}

fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("touchstone-signer-")
        .tempdir()
        .expect("make a temporary folder")
}

/// An attested key of [`USER`] in the team `payments`, and a cluster that knows it.
fn cluster_with_key() -> (CardKey, Cluster) {
    let key = CardKey::generate(12_345_678);
    let roots = folder();
    let root = roots.path().join("root.pem");
    fs::write(&root, key.attestation_root()).expect("write the root");
    let user =
        format!("  - {{ name: {USER}, teams: [payments], keys: [ {{ serial: 12345678 }} ] }}\n");
    let cluster = Cluster::start(&Setup {
        policy: policy(&[user]),
        attestation_roots: vec![root],
    });
    (key, cluster)
}

fn audit(cluster: &Cluster) -> Ran {
    Ran::of(
        signer()
            .args(["audit", "verify", "--data"])
            .arg(&cluster.files().data),
    )
}

fn items(cluster: &Cluster, kind: &str) -> Vec<serde_json::Value> {
    let list: serde_json::Value =
        serde_json::from_str(&cluster.kubectl_ok(["get", kind, "-o", "json"]))
            .expect("kubectl prints JSON");
    list["items"].as_array().expect("a list").clone()
}

#[test]
fn killed_at_any_moment_it_goes_on_and_no_certificate_is_without_its_intent() {
    let (key, mut cluster) = cluster_with_key();
    let rounds: u64 = 6;
    for round in 0..rounds {
        for _ in 0..4 {
            let pem = key.request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now());
            cluster.submit(USER, &pem);
        }
        // Somewhere between the first word of the first request and the last of the last.
        thread::sleep(Duration::from_millis(round * 9));
        cluster.kill_signer();
        cluster.start_signer();
    }
    let all = usize::try_from(rounds * 4).expect("a small number");
    cluster.wait_until("every request is answered", |cluster| {
        let requests = items(cluster, "csr");
        requests.len() == all
            && requests
                .iter()
                .all(|request| request["status"]["certificate"].is_string())
    });
    let grants = items(&cluster, "grants");
    assert_eq!(grants.len(), all, "one grant for each request");
    for request in items(&cluster, "csr") {
        let uid = request["metadata"]["uid"].as_str().expect("a UID");
        let of_it: Vec<_> = grants
            .iter()
            .filter(|grant| grant.to_string().contains(uid))
            .collect();
        let [grant] = of_it.as_slice() else {
            panic!("one grant of {uid}: {of_it:?}")
        };
        assert_eq!(grant["status"]["phase"], "Issued", "{grant}");
    }
    audit(&cluster).succeeded();
}

#[test]
fn a_request_counts_once_however_often_it_is_sent() {
    let (key, cluster) = cluster_with_key();
    let pem = key.request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now());
    for _ in 0..3 {
        cluster.submit(USER, &pem);
    }
    cluster.wait_until("every request is answered", |cluster| {
        let requests = items(cluster, "csr");
        requests.len() == 3
            && requests
                .iter()
                .all(|request| request["status"]["conditions"].is_array())
    });
    cluster.wait_until("one certificate", |cluster| {
        items(cluster, "csr")
            .iter()
            .filter(|request| request["status"]["certificate"].is_string())
            .count()
            == 1
    });
    let denied: Vec<_> = items(&cluster, "csr")
        .into_iter()
        .filter(|request| request["status"]["conditions"][0]["type"] == "Denied")
        .collect();
    assert_eq!(denied.len(), 2, "{denied:?}");
    assert_eq!(items(&cluster, "grants").len(), 1);
}

#[test]
fn an_old_request_is_denied_and_the_clock_is_named() {
    let (key, cluster) = cluster_with_key();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(6);
    let pem = key.request("demo", USER, GRANTED, [7; 32], old);
    if cluster.is_embedded() {
        let refused = cluster.try_submit(USER, &pem);
        assert!(refused.contains("clock"), "{refused}");
    } else {
        cluster.submit(USER, &pem);
        cluster.wait_until("it is denied", |cluster| {
            items(cluster, "csr").first().is_some_and(|request| {
                let condition = &request["status"]["conditions"][0];
                condition["type"] == "Denied" && condition.to_string().contains("clock")
            })
        });
    }
    assert!(items(&cluster, "grants").is_empty());
}

#[test]
fn a_request_of_another_signer_name_is_left_alone() {
    let (key, cluster) = cluster_with_key();
    let pem = key.request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now());
    let manifest = cluster.dir().join("other.json");
    let request = touchstone_tests::cluster::manifest("other", "example.com/other", &pem);
    fs::write(&manifest, request.to_string()).expect("write a manifest");
    cluster.kubectl_ok(["create", "-f", manifest.to_str().expect("a plain name")]);
    let ours = key.request("demo", USER, GRANTED, [8; 32], jiff::Timestamp::now());
    cluster.submit(USER, &ours);
    cluster.wait_until("ours is answered", |cluster| {
        items(cluster, "csr")
            .iter()
            .any(|request| request["status"]["certificate"].is_string())
    });
    cluster.kubectl_ok(["certificate", "approve", "other"]);
    thread::sleep(Duration::from_secs(1));
    let other = cluster.kubectl_ok(["get", "csr", "other", "-o", "jsonpath={.status}"]);
    assert!(
        other.contains("Approved") && !other.contains("certificate\":"),
        "{other}"
    );
}

#[test]
fn the_last_good_policy_stays_when_the_file_breaks_and_a_good_one_is_taken_up() {
    let (key, cluster) = cluster_with_key();
    let file = cluster.files().policy.clone();
    let good = fs::read_to_string(&file).expect("read the policy");
    fs::write(&file, "kind: Polly\n").expect("break the policy");
    cluster.wait_until("it complains", |cluster| {
        cluster.signer_output().contains("policy.yaml:1:7")
    });
    cluster.submit(
        USER,
        &key.request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now()),
    );
    cluster.wait_until("it is issued by the last good policy", |cluster| {
        items(cluster, "csr")
            .iter()
            .any(|request| request["status"]["certificate"].is_string())
    });

    fs::write(&file, good.replace(GRANTED, "jit:oncall:nothing")).expect("change the policy");
    thread::sleep(Duration::from_secs(3));
    cluster.submit(
        USER,
        &key.request("demo", USER, GRANTED, [8; 32], jiff::Timestamp::now()),
    );
    cluster.wait_until("it is denied by the new policy", |cluster| {
        items(cluster, "csr")
            .iter()
            .any(|request| request["status"]["conditions"][0]["type"] == "Denied")
    });
}

#[test]
fn killed_during_its_first_start_it_leaves_no_half_made_ca() {
    for delay in [0, 3, 6, 10, 15, 20, 30, 45, 70, 100] {
        let dir = folder();
        let file = dir.path().join("policy.yaml");
        fs::write(&file, policy(&[])).expect("write the policy");
        let data = dir.path().join("data");
        let mut first = Running::start(
            "standalone",
            &mut standalone(&data, &file),
            &dir.path().join("first.log"),
        );
        thread::sleep(Duration::from_millis(delay));
        first.kill().expect("kill it");

        let ready = dir.path().join("ready.json");
        let mut again = standalone(&data, &file);
        let mut again = Running::start(
            "standalone",
            again.arg("--ready-file").arg(&ready),
            &dir.path().join("again.log"),
        );
        again.wait_until(Duration::from_secs(30), "readiness", || ready.is_file());
        again.terminate();
        assert_eq!(
            again.wait(Duration::from_secs(10)).code(),
            Some(0),
            "{}",
            again.output()
        );
        Ran::of(signer().args(["ca", "status", "--data"]).arg(&data)).succeeded();
        Ran::of(signer().args(["audit", "verify", "--data"]).arg(&data)).succeeded();
    }
}

#[test]
fn two_on_one_data_directory_the_second_names_the_first_and_leaves() {
    let dir = folder();
    let file = dir.path().join("policy.yaml");
    fs::write(&file, policy(&[])).expect("write the policy");
    let data = dir.path().join("data");
    let ready = dir.path().join("ready.json");
    let mut first = standalone(&data, &file);
    let mut first = Running::start(
        "standalone",
        first.arg("--ready-file").arg(&ready),
        &dir.path().join("first.log"),
    );
    first.wait_until(Duration::from_secs(30), "readiness", || ready.is_file());
    let second = Ran::of(&mut standalone(&data, &file));
    second.failed(IN_USE, &[&format!("process {}", first.id()), "--data"]);
}

#[test]
fn a_typo_in_the_policy_is_named_with_its_place_and_the_nearest_key() {
    let dir = folder();
    let file = dir.path().join("policy.yaml");
    fs::write(&file, policy(&[]).replacen("    groups:", "    grops:", 1))
        .expect("write the policy");
    let ran = Ran::of(&mut standalone(&dir.path().join("data"), &file));
    ran.failed(POLICY_BROKEN, &["policy.yaml:8:5", "grops", "groups"]);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = folder();
    let file = dir.path().join("policy.yaml");
    fs::write(&file, policy(&[])).expect("write the policy");
    let ran = Ran::of(&mut standalone(&file.join("data"), &file));
    ran.failed(UNUSABLE, &["policy.yaml/data", "try: "]);
}

/// Needs a file system of its own, so a mount namespace: as root, or where users may make one.
#[test]
fn a_full_disk_is_named_and_a_start_with_room_goes_on() {
    let dir = folder();
    let file = dir.path().join("policy.yaml");
    fs::write(&file, policy(&[])).expect("write the policy");
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("make a mount point");
    let script = r#"
set -eu
mount -t tmpfs -o size=64k tmpfs "$1"
head -c 57344 /dev/zero >"$1/ballast"
status=0
"$2" standalone --data "$1/data" --policy "$3" --listen 127.0.0.1:0 || status=$?
echo "full: $status"
rm "$1/ballast"
mount -o remount,size=16m "$1"
"$2" standalone --data "$1/data" --policy "$3" --listen 127.0.0.1:0 --ready-file "$1/ready" &
child=$!
for _ in $(seq 300); do [ -e "$1/ready" ] && break; sleep 0.1; done
[ -e "$1/ready" ] && echo "went on"
kill "$child"; wait "$child"
"#;
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command
        .arg(if root { "-m" } else { "-rm" })
        .args(["sh", "-c", script, "sh"]);
    command
        .arg(&disk)
        .arg(program("touchstone-signer"))
        .arg(&file)
        .stdin(Stdio::null());
    let ran = Ran::of(&mut command).succeeded();
    assert!(ran.stdout.contains(&format!("full: {UNUSABLE}")), "{ran}");
    assert!(ran.stderr.contains("No space left"), "{ran}");
    assert!(ran.stdout.contains("went on"), "{ran}");
}
