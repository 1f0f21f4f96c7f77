//! Touchstone approves and kube-controller-manager signs: the main job under the cluster's own signer name, and what another
//! holder of rights makes of it. Where `KUBEBUILDER_ASSETS` has no kube-controller-manager, openssl signs as it does.

use jiff::SignedDuration;
use serde_json::Value;
use std::{fs, path::Path, process::Command, thread, time::Duration};
use touchstone_common::csr::KUBE_APISERVER_CLIENT;
use touchstone_signer::audit::Event;
use touchstone_tests::{
    child::program,
    cluster::{Cluster, Setup, kubectl},
    controller_manager::{ClusterCa, deliver},
    engineer::{Engineer, Ran},
    pcscd::Options,
    policy::{GRANTED, OF_ANOTHER_TEAM, policy},
};

const USER: &str = "alice@example.com";
const USAGE: i32 = 2;
/// Of `touchstone-signer`: the API server cannot be used.
const API: i32 = 7;
/// Of `touchstone`.
const DENIED: i32 = 7;
const WAITING: i32 = 8;

struct World {
    engineer: Engineer,
    cluster: Cluster,
}

impl World {
    fn start() -> Self {
        Self::on(Cluster::start_approve_only)
    }

    fn on(start: impl FnOnce(&Setup) -> Cluster) -> Self {
        let engineer = Engineer::new(USER, &Options::default());
        engineer.set_up();
        engineer.generate(&[]);
        let cluster = start(&Setup {
            policy: policy(&[engineer.enrolment("payments")]),
            attestation_roots: vec![engineer.attestation_root()],
        });
        engineer.configure(&cluster);
        Self { engineer, cluster }
    }

    fn ca(&self) -> ClusterCa {
        self.cluster.cluster_ca().expect("it has one")
    }

    fn list(&self, kind: &str) -> Vec<Value> {
        let selector = format!("spec.signerName={KUBE_APISERVER_CLIENT}");
        let all = ["get", kind, "-o", "json"];
        let ours = ["--field-selector", &selector];
        let arguments = if kind == "csr" { &ours[..] } else { &[] };
        let list = self.cluster.kubectl_ok(all.iter().chain(arguments));
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    fn the_only(&self, kind: &str) -> Value {
        let all = self.list(kind);
        let [one] = &all[..] else {
            panic!("one of {kind}: {all:#?}");
        };
        one.clone()
    }

    /// What the audit log says; it verifies.
    fn audit(&self) -> Vec<Event> {
        let data = self.cluster.files().data.clone();
        let mut verify = Command::new(program("touchstone-signer"));
        Ran::of(verify.args(["audit", "verify", "--data"]).arg(&data)).succeeded();
        let log = fs::read_to_string(data.join("audit.jsonl")).expect("read the audit log");
        log.lines()
            .map(|line| serde_json::from_str(line).expect("a record"))
            .collect()
    }

    fn foreign(&self) -> usize {
        let is_foreign = |event: &Event| matches!(event, Event::ForeignCertificate { .. });
        self.audit().into_iter().filter(is_foreign).count()
    }

    fn wait_until_foreign(&self) {
        self.cluster
            .wait_until("the alarm is raised", |_| self.foreign() == 1);
    }

    /// The engineer asks and does not wait; the request, once the signer has approved it.
    fn approved(&self) -> Value {
        let mut login = self.engineer.login_command(GRANTED);
        Ran::of(login.arg("--no-wait")).succeeded();
        self.cluster.wait_until("it is approved", |_| {
            self.list("csr")
                .iter()
                .any(|it| it["status"]["conditions"][0]["type"] == "Approved")
        });
        self.the_only("csr")
    }

    /// Puts a certificate into the request, as whoever may sign can; they need rights that nobody has by `deploy/`.
    fn plant(&self, request: Value, subject: &str, lives: SignedDuration) {
        let pem = pem_of(&request);
        let certificate = self.ca().sign(&pem, subject, lives);
        self.without_admission();
        let admin = &self.cluster.files().admin_kubeconfig;
        let file = self.cluster.dir().join("planted.json");
        assert!(deliver(admin, request, &certificate, &file));
    }

    /// Lets others decide, as a cluster without the admission policies of `deploy/` does.
    fn without_admission(&self) {
        if self.cluster.is_embedded() {
            return;
        }
        for policy in ["touchstone-decisions", "touchstone-statements"] {
            let policy = format!("validatingadmissionpolicybinding/{policy}");
            self.cluster.kubectl_ok(["delete", &policy]);
        }
        // It is not in force any more a moment later.
        let someone = |_: &Cluster| {
            let said = self
                .cluster
                .kubectl(["certificate", "approve", "nobody", "--force"]);
            String::from_utf8_lossy(&said.stderr).contains("not found")
        };
        self.cluster.wait_until("nothing is refused", someone);
        thread::sleep(Duration::from_secs(2));
    }
}

fn pem_of(request: &Value) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = request["spec"]["request"].as_str().expect("a request");
    STANDARD.decode(text).expect("base64")
}

fn openssl(arguments: &[&str]) -> String {
    let ran = Ran::of(Command::new("openssl").args(arguments)).succeeded();
    format!("{}{}", ran.stdout, ran.stderr)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

#[test]
fn what_the_policy_grants_is_signed_by_the_cluster_and_the_grant_says_what_came_out() {
    let world = World::start();
    world.engineer.login(GRANTED).succeeded();
    let certificate = world.engineer.certificate("demo");
    let ca = world.ca().certificate();
    let verified = openssl(&[
        "verify",
        "-purpose",
        "sslclient",
        "-CAfile",
        text(&ca),
        text(&certificate),
    ]);
    assert!(verified.contains(": OK"), "{verified}");

    world.cluster.wait_until("the grant is at its end", |_| {
        world.the_only("grants")["status"]["phase"] == "Issued"
    });
    let grant = world.the_only("grants");
    assert_eq!(grant["spec"]["user"], USER);
    assert_eq!(grant["spec"]["signerName"], KUBE_APISERVER_CLIENT);
    let print = |file: &Path| {
        let shown = openssl(&[
            "x509",
            "-in",
            text(file),
            "-noout",
            "-fingerprint",
            "-sha256",
        ]);
        let (_, print) = shown.trim().split_once('=').expect("a fingerprint");
        print.replace(':', "").to_lowercase()
    };
    assert_eq!(grant["status"]["fingerprint"], print(&certificate));
    assert_eq!(grant["status"]["ca"], print(&ca));

    let audit = world.audit();
    let of = |is: fn(&Event) -> bool| audit.iter().position(is);
    let intent = of(|event| matches!(event, Event::Intent(_))).expect("an intent");
    let issued = of(|event| matches!(event, Event::Issued { .. })).expect("a certificate");
    assert!(intent < issued, "{audit:#?}");
    assert_eq!(world.foreign(), 0);

    if !world.cluster.is_embedded() {
        // kube-apiserver believes its own client CA.
        let pin = world.engineer.path_text("pin");
        let whoami = ["whoami", "--cluster", "demo", "--pin-file", &pin];
        let me = world.engineer.run(whoami).succeeded();
        assert!(
            me.stdout.contains(GRANTED) && me.stdout.contains(USER),
            "{me}"
        );
    }
}

#[test]
fn several_groups_are_asked_for_at_once_and_a_lifetime_is_not_cut_but_asked_for() {
    let world = World::start();
    let ask = |ttl: &str| {
        let mut login = world.engineer.login_command("legacy:shop");
        Ran::of(login.args(["--group", "legacy:till", "--ttl", ttl]))
    };
    ask("30m").failed(
        DENIED,
        &["signs requests as they are", "ask with --ttl 10m"],
    );
    ask("10m").succeeded();
    let shown = openssl(&[
        "x509",
        "-in",
        text(&world.engineer.certificate("demo")),
        "-noout",
        "-subject",
        "-nameopt",
        "sname,sep_multiline",
    ]);
    for group in ["legacy:shop", "legacy:till"] {
        assert!(shown.contains(&format!("O={group}")), "{shown}");
    }
}

#[test]
fn one_signer_answers_to_both_names_by_one_policy() {
    let world = World::on(Cluster::start_with_both);
    let issuer = || {
        let certificate = world.engineer.certificate("demo");
        openssl(&["x509", "-in", text(&certificate), "-noout", "-issuer"])
    };
    world.engineer.login(GRANTED).succeeded();
    assert!(!issuer().contains("CN = kubernetes"), "{}", issuer());
    let ask_cluster = |group: &str| {
        let mut login = world.engineer.login_command(group);
        Ran::of(login.args(["--signer", KUBE_APISERVER_CLIENT]))
    };
    ask_cluster(GRANTED).succeeded();
    assert!(issuer().contains("CN = kubernetes"), "{}", issuer());
    ask_cluster(OF_ANOTHER_TEAM).failed(DENIED, &["denied"]);
    world
        .engineer
        .login(OF_ANOTHER_TEAM)
        .failed(DENIED, &["denied"]);
    world
        .cluster
        .wait_until("both grants are at their end", |_| {
            let grants = world.list("grants");
            let issued = |grant: &&Value| grant["status"]["phase"] == "Issued";
            grants.iter().filter(issued).count() == 2
        });
    assert_eq!(world.foreign(), 0);
}

#[test]
fn an_approval_that_is_not_signed_is_waited_for_and_fetched_later() {
    let mut world = World::start();
    world.cluster.stop_controller_manager();
    let mut login = world.engineer.login_command(GRANTED);
    Ran::of(login.args(["--timeout", "5s"])).failed(
        WAITING,
        &[
            "is approved and still not signed",
            "kube-controller-manager",
        ],
    );
    world.cluster.start_controller_manager();
    let resume = ["login", "--cluster", "demo", "--resume"];
    world.engineer.run(resume).succeeded();
}

#[test]
fn what_the_policy_denies_is_denied_and_never_signed() {
    let world = World::start();
    world
        .engineer
        .login(OF_ANOTHER_TEAM)
        .failed(DENIED, &["denied"]);
    let request = world.the_only("csr");
    assert_eq!(request["status"]["conditions"][0]["type"], "Denied");
    assert!(request["status"]["certificate"].is_null(), "{request}");
    assert_eq!(world.list("grants").len(), 0);
}

#[test]
fn a_request_that_someone_else_approves_raises_the_alarm_when_its_certificate_comes() {
    let world = World::start();
    // The signer must not come first: what the policy denies, it would deny.
    world.without_admission();
    let file = world.cluster.files().policy.clone();
    let policy = fs::read_to_string(&file).expect("read the policy");
    let approvals = "decision: manual\n    approvals: [ { from: { teams: [payments] } } ]";
    fs::write(&file, policy.replacen("decision: auto", approvals, 1)).expect("write the policy");
    let loaded = |event: &Event| matches!(event, Event::PolicyLoaded { generation: 2, .. });
    world.cluster.wait_until("the policy is in force", |_| {
        world.audit().iter().any(loaded)
    });

    let mut login = world.engineer.login_command(GRANTED);
    Ran::of(login.arg("--no-wait")).succeeded();
    let waiting = |event: &Event| matches!(event, Event::Waiting { .. });
    world
        .cluster
        .wait_until("it waits", |_| world.audit().iter().any(waiting));
    let name = world.the_only("csr")["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    world.cluster.kubectl_ok(["certificate", "approve", &name]);
    world.wait_until_foreign();
    assert_eq!(world.list("grants").len(), 0);
    let foreign = |event: &Event| matches!(event, Event::ForeignApproval { .. });
    assert_eq!(world.audit().into_iter().filter(foreign).count(), 1);
}

#[test]
fn a_certificate_that_is_not_what_was_granted_raises_the_alarm_and_the_grant_says_so() {
    let half_an_hour = SignedDuration::from_mins(30);
    for (subject, lives) in [
        (format!("/O=jit:oncall:cluster/CN={USER}"), half_an_hour),
        (
            format!("/O={GRANTED}+O=jit:oncall:cluster/CN={USER}"),
            half_an_hour,
        ),
        (format!("/O={GRANTED}/CN=root@example.com"), half_an_hour),
        (
            format!("/O={GRANTED}/CN={USER}"),
            SignedDuration::from_hours(24),
        ),
    ] {
        let mut world = World::start();
        world.cluster.stop_controller_manager();
        let request = world.approved();
        world.plant(request, &subject, lives);
        world.wait_until_foreign();
        world.cluster.wait_until("the grant says so", |_| {
            let grant = world.the_only("grants");
            let message = grant["status"]["message"].as_str().unwrap_or_default();
            grant["status"]["phase"] == "Failed" && message.contains("not what was granted")
        });
        // Nor does the engineer's side take it.
        let resumed = world
            .engineer
            .run(["login", "--cluster", "demo", "--resume"]);
        assert_ne!(resumed.code, Some(0), "{subject}: {resumed}");
        assert!(!world.engineer.certificate("demo").exists(), "{subject}");
    }
}

#[test]
fn a_signer_that_was_away_takes_what_was_signed_meanwhile_into_the_records() {
    let mut world = World::start();
    if world.cluster.is_embedded() {
        // There the cluster's signer is the API server's own: tests/tests/cluster_faults.rs kills the other one.
        return;
    }
    world.cluster.stop_controller_manager();
    let request = world.approved();
    world.cluster.kill_signer();
    let name = request["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let subject = format!("/O={GRANTED}/CN={USER}");
    world.plant(request, &subject, SignedDuration::from_mins(30));
    world.cluster.start_signer();
    world.cluster.wait_until("the grant is at its end", |_| {
        world.the_only("grants")["status"]["phase"] == "Issued"
    });
    assert_eq!(world.foreign(), 0, "{name}");
    let as_alice = kubectl(&world.cluster.kubeconfig_of(USER))
        .args(["get", "csr", &name, "-o", "jsonpath={.status.certificate}"])
        .output()
        .expect("run kubectl");
    assert!(!as_alice.stdout.is_empty());
}

#[test]
fn a_command_line_or_a_cluster_that_will_not_do_is_told_with_what_mends_it() {
    let cluster = Cluster::start(&Setup {
        policy: policy(&[]),
        attestation_roots: Vec::new(),
    });
    let folder = cluster.dir().join("another");
    fs::create_dir(&folder).expect("make a folder");
    let start = |further: &[&str]| {
        let mut signer = Command::new(program("touchstone-signer"));
        signer
            .args(["run", "--namespace", "default", "--kubeconfig"])
            .arg(&cluster.files().admin_kubeconfig)
            .arg("--policy")
            .arg(&cluster.files().policy)
            .arg("--data")
            .arg(folder.join("data"))
            .args(further);
        Ran::of(&mut signer)
    };
    let by_cluster = ["--signer-name", KUBE_APISERVER_CLIENT];
    let two = [
        "--signer-name",
        "a.example/b",
        "--signer-name",
        "a.example/c",
    ];
    start(&two).failed(USAGE, &["a.example/c", "one process has one CA"]);
    let kubelets = ["--signer-name", "kubernetes.io/kubelet-serving"];
    start(&kubelets).failed(USAGE, &[KUBE_APISERVER_CLIENT]);
    let settings = folder.join("ca.yaml");
    fs::write(&settings, "").expect("write a file");
    let with_settings = [&by_cluster[..], &["--ca-settings", text(&settings)]].concat();
    start(&with_settings).failed(USAGE, &["has no CA", "leave --ca-settings out"]);
    if cluster.is_embedded() {
        let words = ["extension-apiserver-authentication", "--client-ca-file"];
        start(&by_cluster).failed(API, &words);
    }
}
