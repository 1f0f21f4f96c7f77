//! What `deploy/` permits, held against what its accounts do. A right that is missing is refused in the API server's audit
//! log; one that is needless does not stand there. On a real control plane: the embedded API has no roles.

#[path = "permissions/audit.rs"]
mod audit;
#[expect(dead_code, reason = "that suite asks more of it")]
#[path = "front_door/world.rs"]
mod front_door;
#[path = "permissions/role.rs"]
mod role;

use audit::Call;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    child::{Running, program},
    cluster::{Cluster, Setup, kubectl},
    colleagues::{self, ALICE, BOB, CAROL},
    engineer::{Engineer, Ran},
    pcscd::Options,
    policy::{GRANTED, MANUAL, OF_ANOTHER_TEAM},
};

const SIGNER: &str = "system:serviceaccount:touchstone:touchstone-signer";
const BUNDLE_SYNC: &str = "touchstone-bundle-sync";
/// What the front door's component names its role and binding.
const FRONT_DOOR: &str = "touchstone-front";
const REQUESTS: &str = "certificatesigningrequests";
const DENIED: i32 = 7;
const REFUSED: i32 = 9;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// alice, who asks, bob, who approves, and a cluster whose signer runs with the rights of `deploy/`.
struct World {
    alice: Engineer,
    bob: Engineer,
    cluster: Cluster,
}

impl World {
    /// Nothing where the API is embedded.
    fn start() -> Option<Self> {
        Self::on(Cluster::start)
    }

    fn on(start: impl FnOnce(&Setup) -> Cluster) -> Option<Self> {
        let (alice, bob, cluster) = colleagues::on(start, |policy| policy);
        if cluster.is_embedded() {
            return None;
        }
        Some(Self {
            alice,
            bob,
            cluster,
        })
    }

    /// alice asks and does not wait; the request's name.
    fn ask(&self, group: &str) -> String {
        let mut login = self.alice.login_command(group);
        let asked = Ran::of(login.args(["--no-wait", "--output", "json"])).succeeded();
        let asked: Value = serde_json::from_str(&asked.stdout).expect("JSON");
        asked["request"].as_str().expect("a name").to_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let all = arguments.iter().chain(&["-o", "json"]);
        serde_json::from_str(&self.cluster.kubectl_ok(all)).expect("kubectl prints JSON")
    }

    fn status(&self, request: &str) -> Value {
        self.json(&["get", "csr", request])["status"].clone()
    }

    fn wait_until_issued(&self, request: &str) {
        self.cluster.wait_until("it is issued", |_| {
            self.status(request)["certificate"].is_string()
        });
    }

    fn calls(&self) -> Vec<Call> {
        audit::read(&self.cluster.api_audit_log().expect("a real API server"))
    }

    fn called(&self, by: &str, verb: &str, resource: &str, code: i64) -> bool {
        self.calls()
            .iter()
            .any(|it| it.user == by && it.is(verb, resource) && it.code == code)
    }

    /// alice asks while a binding is away, until the signer was refused what it binds; the request's name. Its status is as
    /// it was then.
    fn refused_without(&self, binding: &str, subresource: &str) -> (String, Value) {
        let resource = format!("{REQUESTS}/{subresource}");
        let mut kept = self.json(&["get", "clusterrolebinding", binding]);
        kept["metadata"] = json!({ "name": binding });
        self.cluster
            .kubectl_ok(["delete", "clusterrolebinding", binding]);
        let request = self.ask(GRANTED);
        let end = Instant::now() + PATIENCE;
        while !self.called(SIGNER, "update", &resource, 403) {
            assert!(
                Instant::now() < end,
                "the signer did not try:\n{}",
                self.cluster.signer_output()
            );
            thread::sleep(Duration::from_millis(200));
        }
        let status = self.status(&request);
        let file = self.cluster.dir().join("binding.json");
        fs::write(&file, kept.to_string()).expect("write a manifest");
        self.cluster.kubectl_ok(["create", "-f", text(&file)]);
        (request, status)
    }

    /// bob sees what is asked, and what it would open, approves it, and sees who has access; carol takes some back.
    fn decide(&self, request: &str) {
        for arguments in [
            &["role", "sees-pods", "--verb=get", "--resource=pods"][..],
            &[
                "rolebinding",
                "sees-pods",
                "--role=sees-pods",
                "--group",
                MANUAL,
            ],
            &[
                "clusterrolebinding",
                "sees",
                "--clusterrole=view",
                "--group",
                MANUAL,
            ],
        ] {
            self.cluster.kubectl_ok(["create"].iter().chain(arguments));
        }
        let log = self.cluster.dir().join("requests.log");
        let mut watch = self.bob.touchstone(["requests", "--watch"]);
        let mut watch = Running::start("touchstone requests --watch", &mut watch, &log);
        watch.wait_until(PATIENCE, "a watch", || {
            self.called(BOB, "watch", REQUESTS, 200)
        });
        let pin = self.bob.path_text("pin");
        self.bob
            .run(["approve", request, "--yes", "--pin-file", &pin])
            .succeeded();
        self.bob.run(["grants"]).succeeded();
        let kubeconfig = self.cluster.kubeconfig_of(BOB);
        let grants = |arguments: &[&str]| {
            let mut get = kubectl(&kubeconfig);
            Ran::of(get.args(["get", "grants"]).args(arguments))
        };
        let names = grants(&["-o", "name"]).succeeded().stdout;
        let first = names.lines().next().and_then(|line| line.split_once('/'));
        let (_, name) = first.expect("a grant");
        grants(&[name]).succeeded();
        // Ends by itself: without an end of its own a watch goes on.
        grants(&["--watch", "--request-timeout=2s"]);
        colleagues::with_credential(&self.bob, &self.cluster, CAROL);
        let revoke = ["revoke", name, "--reason", "laptop stolen", "--yes"];
        self.bob.run(revoke).succeeded();
    }

    /// Granted at once, denied, and granted when bob has approved.
    fn ask_for_all(&self) {
        self.alice.login(GRANTED).succeeded();
        self.alice.login(OF_ANOTHER_TEAM).failed(DENIED, &[]);
        let waiting = self.ask(MANUAL);
        self.cluster.wait_until("it waits", |_| {
            self.json(&["get", "csr", &waiting])["metadata"]["annotations"]
                ["touchstone.dev/waiting-for"]
                .is_string()
        });
        self.decide(&waiting);
        self.wait_until_issued(&waiting);
        let resume = ["login", "--cluster", "demo", "--resume"];
        let pin = ["--pin-file", &self.alice.path_text("pin")];
        self.alice.run(resume.iter().chain(&pin)).succeeded();
    }

    /// What was refused; nothing should be.
    fn refused(&self) -> Vec<Call> {
        let ours = [SIGNER, ALICE, BOB, CAROL, BUNDLE_SYNC];
        // `touchstone approve` asks for more than it is given, and says so: deploy/base/approvers.yaml.
        let asked_in_vain = |it: &Call| {
            it.user == BOB
                && (it.is("create", "selfsubjectrulesreviews") || it.is("list", "namespaces"))
        };
        let refused = |it: &Call| ours.contains(&&*it.user) && it.code == 403 && !asked_in_vain(it);
        self.calls().into_iter().filter(refused).collect()
    }

    /// Rights that nothing needed.
    fn unused(&self) -> Vec<String> {
        role::unused(&role::deployed(&self.cluster), &self.calls())
    }

    /// Everything that the accounts are there for.
    fn work(&mut self) {
        // What Kubernetes gives to every service account would hide what is missing in ours, and may be taken away.
        let given = [
            "clusterrolebinding",
            "system:cluster-trust-bundle-discovery",
        ];
        self.cluster.kubectl_ok(["delete"].iter().chain(&given));
        self.ask_for_all();

        // Others write to the bundle; the next start of the signer puts it right. A node follows it.
        let map = ["configmap", "touchstone-trust-bundle", "-n", "touchstone"];
        let bundle = [
            "clustertrustbundle",
            "touchstone.dev:client:trust-bundle",
            "-n",
            "touchstone",
        ];
        for object in [map, bundle] {
            let patch = json!({ "metadata": { "annotations": { "touchstone.dev/trust-sha256": "forged" } } });
            let patch = patch.to_string();
            let patch = ["--type=merge", "-p", &patch];
            self.cluster
                .kubectl_ok(["patch"].iter().chain(&object).chain(&patch));
        }
        self.cluster.kill_signer();
        self.cluster.start_signer();
        for object in [map, bundle] {
            self.cluster.wait_until("the bundle is put right", |_| {
                let found = self.json(&[&["get"], &object[..]].concat());
                found["metadata"]["annotations"]["touchstone.dev/trust-sha256"] != "forged"
            });
        }
        let out = self.cluster.dir().join("followed.pem");
        let mut follow = Command::new(program("touchstone-signer"));
        follow
            .args(["bundle", "sync", "--kubeconfig"])
            .arg(self.cluster.kubeconfig_of(BUNDLE_SYNC))
            .arg("--out")
            .arg(&out);
        let log = self.cluster.dir().join("follow.log");
        let mut follow = Running::start("touchstone-signer bundle sync", &mut follow, &log);
        follow.wait_until(PATIENCE, "a file", || {
            out.is_file() && self.called(BUNDLE_SYNC, "watch", "configmaps", 200)
        });

        // An operator has the CA change.
        let admin = self.cluster.files().admin_kubeconfig.clone();
        let rotate = ["ca", "rotate", "--kubeconfig", text(&admin)];
        Ran::of(Command::new(program("touchstone-signer")).args(rotate)).succeeded();
        self.cluster.wait_until("the CA's record was written", |_| {
            self.called(SIGNER, "update", "secrets", 200)
                && self.calls().iter().any(|it| {
                    it.user == SIGNER
                        && it.is("create", "events")
                        && it.namespace.as_deref() == Some("touchstone")
                })
        });
    }
}

#[test]
fn every_right_that_is_deployed_is_used_and_nothing_is_refused() {
    let Some(mut world) = World::start() else {
        return;
    };
    world.work();
    assert!(world.refused().is_empty(), "{:#?}", world.refused());

    // Without the right to approve: nothing is approved. With it again: the signer takes its intent up.
    let (request, status) = world.refused_without("touchstone-approve", "approval");
    assert_eq!(status, json!({}));
    world.wait_until_issued(&request);
    // Without the right to sign: nothing is signed, though it is approved.
    let (request, status) = world.refused_without("touchstone-sign", "status");
    assert_eq!(status["conditions"][0]["type"], "Approved");
    assert_eq!(status["certificate"], Value::Null);
    world.wait_until_issued(&request);

    let unused = world.unused();
    assert!(
        unused.is_empty(),
        "needless, or not tried here: {unused:#?}"
    );
}

#[test]
fn who_only_approves_has_the_rights_for_that_and_no_others() {
    let Some(world) = World::on(Cluster::start_approve_only) else {
        return;
    };
    world.ask_for_all();
    let ended = |it: &Call| it.user == SIGNER && it.is("update", "grants/status") && it.code == 200;
    world
        .cluster
        .wait_until("the grants are at their end", |_| {
            world.calls().into_iter().filter(ended).count() >= 3
        });
    assert!(world.refused().is_empty(), "{:#?}", world.refused());
    let (request, status) = world.refused_without("touchstone-approve-only", "approval");
    assert_eq!(status, json!({}));
    world.wait_until_issued(&request);
    let unused = world.unused();
    assert!(
        unused.is_empty(),
        "needless, or not tried here: {unused:#?}"
    );
    for (verb, what) in [
        ("sign", "signers.certificates.k8s.io"),
        ("get", "secrets"),
        ("update", "certificatesigningrequests/status"),
    ] {
        let may = [
            "auth",
            "can-i",
            verb,
            what,
            "--as",
            SIGNER,
            "-n",
            "touchstone",
        ];
        assert!(
            !world.cluster.kubectl(may).status.success(),
            "{verb} {what}"
        );
    }
}

#[test]
fn the_front_door_has_the_one_right_that_it_needs_and_nothing_is_refused() {
    let alice = Engineer::new(ALICE, &Options::default());
    alice.set_up();
    alice.generate(&[]);
    let world = front_door::World::start(&alice);
    let cluster = &world.cluster;
    let Some(log) = cluster.api_audit_log() else {
        return;
    };
    alice.login(GRANTED).succeeded();
    let calls = audit::read(&log);
    let refused: Vec<_> = calls
        .iter()
        .filter(|it| it.user == SIGNER && it.code == 403)
        .collect();
    assert!(refused.is_empty(), "refused: {refused:#?}");
    let unused = role::unused(&role::deployed(cluster), &calls);
    let of_the_component = |it: &&String| it.starts_with(FRONT_DOOR);
    let unused: Vec<_> = unused.iter().filter(of_the_component).collect();
    assert!(unused.is_empty(), "needless: {unused:#?}");

    // Without it nothing is created, and an engineer is told whom to tell.
    cluster.kubectl_ok(["delete", "clusterrolebinding", FRONT_DOOR]);
    cluster.wait_until("the right is gone", |cluster| {
        let may = ["auth", "can-i", "create", REQUESTS];
        let asked = cluster.kubectl(may.iter().chain(&["--as", SIGNER]));
        !asked.status.success()
    });
    let before = world.requests().len();
    alice.login(GRANTED).failed(REFUSED, &["operators"]);
    assert_eq!(world.requests().len(), before);
    let is_refused = |it: &Call| it.user == SIGNER && it.is("create", REQUESTS) && it.code == 403;
    assert!(audit::read(&log).iter().any(is_refused));
}

#[test]
fn the_deployed_pod_is_taken_where_only_restricted_ones_are() {
    let Some(world) = World::start() else {
        return;
    };
    let deployment = world.json(&["get", "deployment", "touchstone-signer", "-n", "touchstone"]);
    let template = &deployment["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "namespace": "touchstone" }, "spec": template["spec"],
    });
    let file = world.cluster.dir().join("pod.json");
    let create = |pod: &Value| {
        fs::write(&file, pod.to_string()).expect("write a manifest");
        world
            .cluster
            .kubectl(["create", "--dry-run=server", "-f", text(&file)])
    };
    let taken = create(&pod);
    assert!(taken.status.success(), "{taken:?}");
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({ "add": ["NET_RAW"] });
    let refused = String::from_utf8_lossy(&create(&pod).stderr).into_owned();
    assert!(
        refused.contains("violates PodSecurity \"restricted"),
        "{refused}"
    );
}

#[test]
fn debug_roles_open_what_their_group_is_for_and_no_secrets() {
    let Some(world) = World::start() else {
        return;
    };
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    world
        .cluster
        .kubectl_ok(["create", "namespace", "payments"]);
    for folder in ["namespace", "cluster"] {
        let folder = deploy.join("debug-roles").join(folder);
        world.cluster.kubectl_ok(["apply", "-k", text(&folder)]);
    }
    let may = |group: &str, namespace: &str, question: &[&str]| {
        let asked = [
            "auth",
            "can-i",
            "--as",
            ALICE,
            "--as-group",
            group,
            "-n",
            namespace,
        ];
        let asked = world.cluster.kubectl(asked.iter().chain(question));
        asked.status.success()
    };
    let [oncall, debug, cluster] = [
        "jit:oncall:payments",
        "jit:debug:payments",
        "jit:oncall:cluster",
    ];
    let logs = ["get", "pods", "--subresource=log"];
    let exec = ["create", "pods", "--subresource=exec"];
    let forward = ["get", "pods", "--subresource=portforward"];
    for group in [oncall, debug] {
        assert!(may(group, "payments", &["list", "pods"]), "{group}");
        assert!(may(group, "payments", &logs), "{group}");
        assert!(!may(group, "default", &["list", "pods"]), "{group}");
    }
    assert!(may(debug, "payments", &exec) && may(debug, "payments", &forward));
    assert!(!may(oncall, "payments", &exec) && !may(cluster, "payments", &exec));
    assert!(may(cluster, "default", &logs) && may(cluster, "default", &["list", "nodes"]));
    for group in [oncall, debug, cluster] {
        for kind in ["secrets", "configmaps", "roles.rbac.authorization.k8s.io"] {
            assert!(!may(group, "payments", &["get", kind]), "{group}: {kind}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert!(!may(group, "payments", &[verb, "pods"]), "{group}: {verb}");
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
