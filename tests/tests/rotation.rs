//! A quarter in a minute, with the root on a second YubiKey: ceremonies, logins before, during and after, none refused, the
//! old CA gone at the end, and openssl content with every certificate against the bundle of its day.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    child::{Running, program},
    cluster::{Cluster, Setup},
    engineer::{Engineer, Ran},
    pcscd::Options,
    policy::{GRANTED, policy},
};

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &str = "
apiVersion: touchstone.dev/v1
kind: CaSettings
schedule: { root: ceremony, lifetime: 120s, activateEvery: 20s, prepareAfter: 8s, publishBefore: 4s, keepAfterLastLeaf: 3s, longestLeaf: 12s }
";
const ROOT_PLAN: &str = "
apiVersion: touchstone.dev/v1
kind: Ceremony
makes: root
subject: Example Root 1
validityDays: 3650
pathLength: 1
present:
  - { name: Carol Example, role: key holder }
";

/// An engineer, the security team with a card of its own, and a cluster whose CA waits for the team.
struct World {
    engineer: Engineer,
    team: Engineer,
    cluster: Cluster,
    /// What keeps a real kube-apiserver's `--client-ca-file`.
    _sync: Option<Running>,
    ceremonies: u32,
}

impl World {
    fn new() -> Self {
        let engineer = Engineer::new("alice@example.com", &Options::default());
        engineer.set_up();
        engineer.generate(&[]);
        let team = Engineer::new("carol@example.com", &Options::default());
        team.set_up();
        let setup = Setup {
            policy: policy(&[engineer.enrolment("payments")]),
            attestation_roots: vec![engineer.attestation_root()],
        };
        let cluster = Cluster::start_with_ca(&setup, Some(SETTINGS));
        let sync = cluster.files().client_ca.as_ref().map(|out| {
            let mut command = Command::new(program("touchstone-signer"));
            command
                .args(["bundle", "sync", "--out"])
                .arg(out)
                .arg("--kubeconfig")
                .arg(&cluster.files().admin_kubeconfig);
            let log = cluster.dir().join("sync.log");
            Running::start("touchstone-signer bundle sync", &mut command, &log)
        });
        Self {
            engineer,
            team,
            cluster,
            _sync: sync,
            ceremonies: 0,
        }
    }

    /// `touchstone-signer ca …` as an operator.
    fn ca(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(program("touchstone-signer"));
        let (verb, further) = arguments.split_first().expect("a command");
        command.args(["ca", verb]);
        if self.cluster.is_embedded() {
            command.arg("--data").arg(&self.cluster.files().data);
        } else {
            let kubeconfig = &self.cluster.files().admin_kubeconfig;
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        Ran::of(command.args(further))
    }

    fn status(&self) -> serde_json::Value {
        let printed = self.ca(&["status", "--output", "json"]).succeeded().stdout;
        serde_json::from_str(&printed).expect("JSON")
    }

    fn state(&self, ca: &str) -> String {
        let status = self.status();
        let cas = status["cas"].as_array().expect("a list").clone();
        let found = cas.into_iter().find(|one| one["id"] == ca);
        found.map_or(String::new(), |one| {
            one["state"].as_str().expect("a state").to_owned()
        })
    }

    #[track_caller]
    fn wait_for(&self, ca: &str, state: &str) {
        let end = Instant::now() + PATIENCE;
        while self.state(ca) != state {
            assert!(
                Instant::now() < end,
                "{ca} never was {state}:\n{}\n{}",
                self.ca(&["status"]).stdout,
                self.cluster.signer_output()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn team(&self, arguments: &[&str]) {
        let pin = self.team.path_text("pin");
        let root = self.team.attestation_root();
        let root = root.to_str().expect("a plain name");
        let common = ["--yes", "--pin-file", &pin, "--attestation-root", root];
        let all = ["ca"].iter().chain(arguments).chain(&common);
        self.team.run(all.copied()).succeeded();
    }

    fn root(&self) -> PathBuf {
        self.team.file("root.pem")
    }

    fn make_root(&self) {
        fs::write(self.team.file("root.yaml"), ROOT_PLAN).expect("write a plan");
        let [plan, out] = ["root.yaml", "root.pem"].map(|name| self.team.path_text(name));
        self.team(&["root", "init", "--plan", &plan, "--out", &out]);
    }

    /// The security team comes together: one touch.
    fn ceremony(&mut self, further: &[&str]) {
        self.ceremonies += 1;
        let file = |name: &str| self.team.path_text(&format!("{}-{name}", self.ceremonies));
        let (request, plan, out) = (file("issuing.csr"), file("plan.yaml"), file("issuing.pem"));
        let pem = self.ca(&["request"]).succeeded().stdout;
        fs::write(&request, &pem).expect("write the request");
        let shown = openssl(&[
            "req",
            "-in",
            &request,
            "-noout",
            "-subject",
            "-verify",
            "-nameopt",
            "multiline",
        ]);
        let subject = shown
            .lines()
            .find_map(|line| line.split_once("commonName").map(|(_, name)| name))
            .expect("a name")
            .trim_matches([' ', '=']);
        let root = self.root();
        let root = root.to_str().expect("a plain name");
        let digest = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in", root]);
        let digest = digest.split('=').nth(1).expect("a fingerprint");
        let digest = digest.trim().replace(':', "").to_lowercase();
        let text = format!(
            "apiVersion: touchstone.dev/v1\nkind: Ceremony\nmakes: issuing-ca\nsubject: {subject}\nvalidityDays: 1\n\
             pathLength: 0\nextendedKeyUsage: [clientAuth]\nroot: \"sha256:{digest}\"\n\
             present:\n  - {{ name: Carol Example, role: key holder }}\n"
        );
        fs::write(&plan, text).expect("write the plan");
        let touches = self.touches();
        self.team(&[
            "sign",
            "--request",
            &request,
            "--plan",
            &plan,
            "--root",
            root,
            "--out",
            &out,
        ]);
        assert_eq!(self.touches(), touches + 1, "one touch a ceremony");
        self.ca(&[&["import", &out], further].concat()).succeeded();
    }

    fn touches(&self) -> u32 {
        let touches = self.team.yubikey().control("touches");
        touches.parse().expect("a number")
    }

    /// A login, and openssl's word on its certificate against the bundle of the day; the fingerprint of its CA.
    #[track_caller]
    fn login(&self) -> String {
        self.engineer.login(GRANTED).succeeded();
        let chain = self.engineer.certificate("demo");
        let chain = chain.to_str().expect("a plain name");
        let bundle = self.cluster.dir().join("bundle-of-the-day.pem");
        fs::write(&bundle, self.ca(&["export-bundle"]).succeeded().stdout).expect("write it");
        let bundle = bundle.to_str().expect("a plain name");
        openssl(&[
            "verify",
            "-purpose",
            "sslclient",
            "-CAfile",
            bundle,
            "-untrusted",
            chain,
            chain,
        ]);
        let issuer = openssl(&["x509", "-in", chain, "-noout", "-issuer"]);
        issuer.trim().to_owned()
    }
}

#[track_caller]
fn openssl(arguments: &[&str]) -> String {
    let ran = Ran::of(Command::new("openssl").args(arguments)).succeeded();
    ran.stdout
}

#[test]
fn a_quarter_with_the_root_on_a_yubikey_refuses_nobody() {
    let mut world = World::new();
    world.make_root();
    world.wait_for("ca-1", "awaiting-root");
    let root = world.root();
    let root = root.to_str().expect("a plain name").to_owned();
    world.ceremony(&["--root", &root]);
    world.wait_for("ca-1", "active");
    world.engineer.configure(&world.cluster);
    let before = world.login();

    world.wait_for("ca-2", "awaiting-root");
    assert_eq!(
        world.login(),
        before,
        "the first signs while the second waits"
    );
    world.ceremony(&[]);
    while world.state("ca-2") != "active" {
        world.login();
    }
    let after = world.login();
    assert_ne!(after, before, "another CA signs");
    world.wait_for("ca-1", "removed");
    assert_eq!(world.login(), after);

    // The key of the one that signs leaked.
    let listed = world.ca(&["distrust", "ca-2", "--yes"]).succeeded().stdout;
    assert!(listed.contains("alice@example.com"), "{listed}");
    assert!(
        listed.contains("WARNING: API servers go on trusting it"),
        "{listed}"
    );
    assert_eq!(world.state("ca-2"), "removed");
    world.wait_for("ca-3", "awaiting-root");
}
