//! Two replicas of `touchstone-signer run`: one leads, and whatever becomes of it, each request gets one certificate.
//!
//! They answer a signer name of their own, beside the signer that every cluster of the suites has.

use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_tests::{
    card_key::CardKey,
    child::{Running, program},
    cluster::{Cluster, Setup, manifest},
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";
const SIGNER_NAME: &str = "touchstone.dev/replicas";
/// Where their lease and their record are.
const NAMESPACE: &str = "default";
const LEASE: &str = "3s";
const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    cluster: Cluster,
    key: CardKey,
    root: PathBuf,
    requests: Vec<String>,
    dir: TempDir,
}

struct Replica {
    name: &'static str,
    running: Running,
    data: PathBuf,
}

impl World {
    fn start() -> Self {
        let key = CardKey::generate(12_345_678);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().join("root.pem");
        fs::write(&root, key.attestation_root()).expect("write the root");
        // Whoever sends the requests is an administrator here, on either API.
        let user = format!(
            "  - {{ name: {USER}, teams: [payments], keys: [ {{ serial: 12345678 }} ], usernames: [admin, touchstone-admin] }}\n"
        );
        let cluster = Cluster::start(&Setup {
            policy: policy(&[user]),
            attestation_roots: vec![root.clone()],
        });
        Self {
            cluster,
            key,
            root,
            requests: Vec::new(),
            dir,
        }
    }

    fn replica(&self, name: &'static str) -> Replica {
        self.replica_by(name, Command::new(program("touchstone-signer")))
    }

    /// One whose data directory is a file system of its own, full while there is a file `full`.
    fn replica_on_a_small_disk(&self, name: &'static str) -> Replica {
        let script = r#"
set -eu
mkdir "$1"
mount -t tmpfs -o size=128k tmpfs "$1"
while [ -d "$2" ]; do
    if [ ! -e "$2/full" ]; then rm -f "$1/ballast"; elif [ ! -e "$1/ballast" ]; then cat /dev/zero >"$1/ballast" 2>"$2/why" || true; fi
    sleep 0.1
done &
shift 2
exec "$@"
"#;
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        command
            .arg(if root { "-m" } else { "-rm" })
            .args(["sh", "-c", script, "sh"])
            .arg(self.dir.path().join(name))
            .arg(self.dir.path())
            .arg(program("touchstone-signer"));
        self.replica_by(name, command)
    }

    /// One that `command` starts.
    fn replica_by(&self, name: &'static str, mut command: Command) -> Replica {
        let data = self.dir.path().join(name);
        let ready = self.dir.path().join(format!("{name}.ready"));
        command
            .args(["run", "--signer-name", SIGNER_NAME])
            .args(["--namespace", NAMESPACE, "--replica", name])
            .args(["--lease-duration", LEASE, "--kubeconfig"])
            .arg(&self.cluster.files().admin_kubeconfig)
            .arg("--data")
            .arg(&data)
            .arg("--policy")
            .arg(&self.cluster.files().policy)
            .arg("--attestation-root")
            .arg(&self.root)
            .arg("--ready-file")
            .arg(&ready);
        let log = self.dir.path().join(format!("{name}.log"));
        let mut running = Running::start(name, &mut command, &log);
        running.wait_until(PATIENCE, "readiness", || ready.is_file());
        Replica {
            name,
            running,
            data,
        }
    }

    fn holder(&self) -> String {
        let path = "jsonpath={.spec.holderIdentity}";
        let lease = ["get", "lease", "touchstone-signer", "-n", NAMESPACE];
        let output = self.cluster.kubectl(lease.iter().chain(&["-o", path]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn is_led_by(&self, replica: &Replica) -> bool {
        self.holder().starts_with(&format!("{}_", replica.name))
    }

    fn create(&mut self) -> String {
        let name = format!("request-{}", self.requests.len());
        let pem = self
            .key
            .request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now());
        let file = self.dir.path().join("request.json");
        let request = manifest(&name, SIGNER_NAME, &pem);
        fs::write(&file, request.to_string()).expect("write a request");
        let path = file.to_str().expect("a plain path");
        self.cluster.kubectl_ok(["create", "-f", path]);
        self.requests.push(name.clone());
        name
    }

    fn read(&self, name: &str) -> Value {
        let json = self.cluster.kubectl_ok(["get", "csr", name, "-o", "json"]);
        serde_json::from_str(&json).expect("kubectl prints JSON")
    }

    #[track_caller]
    fn is_issued(&self, name: &str, replicas: &[&Replica]) {
        wait_until(&format!("{name} is issued"), replicas, || {
            let request = self.read(name);
            let conditions = &request["status"]["conditions"];
            assert!(!conditions.to_string().contains("Denied"), "{conditions}");
            assert!(!conditions.to_string().contains("Failed"), "{conditions}");
            request["status"]["certificate"].is_string()
        });
    }

    /// In which phase each grant is.
    fn grants(&self) -> Vec<String> {
        let path = "jsonpath={.items[*].status.phase}";
        let phases = self.cluster.kubectl_ok(["get", "grants", "-o", path]);
        phases.split_whitespace().map(str::to_owned).collect()
    }

    /// Each request was signed for once, and whoever did it had said so before.
    #[track_caller]
    fn each_has_one_certificate(&self, folders: &[&Path]) {
        let logs: Vec<String> = folders.iter().map(|folder| audit_log(folder)).collect();
        for name in &self.requests {
            let count = |event: &str| {
                let is_it = |line: &&str| {
                    let record: Value = serde_json::from_str(line).expect("JSON Lines");
                    record["kind"] == event && record["csr"] == name.as_str()
                };
                logs.iter()
                    .flat_map(|log| log.lines())
                    .filter(is_it)
                    .count()
            };
            assert_eq!(count("issued"), 1, "{name}");
            assert!(count("intent") >= 1, "{name}");
        }
        let phases = self.grants();
        assert_eq!(phases, vec!["Issued"; self.requests.len()]);
    }
}

fn audit_log(data: &Path) -> String {
    fs::read_to_string(data.join("audit.jsonl")).expect("read an audit log")
}

#[track_caller]
fn wait_until(what: &str, replicas: &[&Replica], ready: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        let said: String = replicas.iter().map(|it| it.running.output()).collect();
        assert!(
            Instant::now() < end,
            "waited in vain until {what}; the replicas wrote:\n{said}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn whatever_becomes_of_the_leader_each_request_gets_one_certificate() {
    let mut world = World::start();
    let mut a = world.replica("a");
    assert!(world.is_led_by(&a), "{}", world.holder());
    let b = world.replica("b");
    assert!(b.running.output().contains("ready"));
    let request = world.create();
    world.is_issued(&request, &[&a, &b]);
    assert!(!audit_log(&b.data).contains(&request));

    // The leader stands still past its lease, with a request on its way, and wakes up.
    a.running.signal(Signal::STOP);
    let request = world.create();
    world.is_issued(&request, &[&b]);
    assert!(world.is_led_by(&b), "{}", world.holder());
    let recorded = audit_log(&a.data);
    a.running.signal(Signal::CONT);
    wait_until("the one that slept knows", &[&a], || {
        a.running.output().contains("leads no more")
    });
    let request = world.create();
    world.is_issued(&request, &[&a, &b]);
    assert_eq!(audit_log(&a.data), recorded);
    assert!(world.is_led_by(&b), "{}", world.holder());

    // It is told to stop: the other leads at once.
    let before: Vec<String> = (0..5).map(|_| world.create()).collect();
    b.running.terminate();
    wait_until("a leads", &[&a, &b], || world.is_led_by(&a));
    assert!(
        b.running.output().contains("gave the lease back"),
        "{}",
        b.running.output()
    );
    let request = world.create();
    for request in before.iter().chain([&request]) {
        world.is_issued(request, &[&a, &b]);
    }

    // It is killed.
    let c = world.replica("c");
    let status = a.running.kill().expect("kill a replica");
    assert!(status.code().is_none(), "{status}");
    let request = world.create();
    world.is_issued(&request, &[&c]);
    assert!(world.is_led_by(&c), "{}", world.holder());
    // The record follows the delivery.
    wait_until("it is recorded", &[&c], || {
        audit_log(&c.data).contains("\"issued\"")
    });
    let all = world.requests.len();
    wait_until("the grants are at their end", &[&c], || {
        let is_issued = |phase: &&String| *phase == "Issued";
        world.grants().iter().filter(is_issued).count() == all
    });
    world.each_has_one_certificate(&[&a.data, &b.data, &c.data]);
}

/// Needs a file system of its own, so a mount namespace: as root, or where users may make one.
#[test]
fn a_leader_that_cannot_record_stands_aside_for_one_that_can() {
    let mut world = World::start();
    // The first makes the CA, whose key the others read in its folder.
    let founder = world.replica("founder");
    let a = world.replica_on_a_small_disk("a");
    founder.running.terminate();
    wait_until("a leads", &[&a], || world.is_led_by(&a));
    let b = world.replica("b");
    let request = world.create();
    world.is_issued(&request, &[&a, &b]);
    assert!(world.is_led_by(&a), "{}", world.holder());

    let full = world.dir.path().join("full");
    fs::write(&full, "").expect("fill the disk");
    wait_until("the disk is full", &[&a], || {
        fs::metadata(world.dir.path().join("why")).is_ok_and(|why| why.len() > 0)
    });
    // What is left of the log's last page takes a few records more.
    for _ in 0..8 {
        let request = world.create();
        world.is_issued(&request, &[&a, &b]);
    }
    assert!(world.is_led_by(&b), "{}", world.holder());
    assert!(a.running.output().contains("stands aside"));

    // With room again, it stands by, and takes over.
    fs::remove_file(&full).expect("make room");
    wait_until("it writes again", &[&a], || {
        a.running
            .output()
            .contains("the audit log is written again")
    });
    b.running.terminate();
    let request = world.create();
    world.is_issued(&request, &[&a, &b]);
    assert!(world.is_led_by(&a), "{}", world.holder());
}
