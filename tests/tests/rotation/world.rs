//! An engineer, a security team with a card of its own, and a cluster whose CA rotates by settings of seconds or days.

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

/// An engineer and a cluster.
pub(crate) struct World {
    pub(crate) engineer: Engineer,
    pub(crate) cluster: Cluster,
    /// What keeps a real kube-apiserver's `--client-ca-file`.
    _sync: Option<Running>,
}

/// The security team: a card, and the files of its ceremonies.
pub(crate) struct Team {
    engineer: Engineer,
    ceremonies: u32,
}

impl World {
    pub(crate) fn new(settings: &str) -> Self {
        let engineer = Engineer::new("alice@example.com", &Options::default());
        engineer.set_up();
        engineer.generate(&[]);
        let setup = Setup {
            policy: policy(&[engineer.enrolment("payments")]),
            attestation_roots: vec![engineer.attestation_root()],
        };
        let settings = format!("apiVersion: touchstone.dev/v1\nkind: CaSettings\n{settings}\n");
        let cluster = Cluster::start_with_ca(&setup, Some(&settings));
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
            cluster,
            _sync: sync,
        }
    }

    /// Waits until the first CA signs, and tells the engineer's `touchstone` of the cluster.
    #[track_caller]
    pub(crate) fn begin(&self) {
        self.wait_for("ca-1", "active");
        self.engineer.configure(&self.cluster);
    }

    /// Where `touchstone-signer ca` finds the record.
    pub(crate) fn place(&self) -> [String; 2] {
        let files = self.cluster.files();
        let (option, path) = if self.cluster.is_embedded() {
            ("--data", &files.data)
        } else {
            ("--kubeconfig", &files.admin_kubeconfig)
        };
        [option.to_owned(), path.display().to_string()]
    }

    /// `touchstone-signer ca …` as an operator.
    pub(crate) fn ca(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(program("touchstone-signer"));
        command.arg("ca").args(arguments).args(self.place());
        Ran::of(&mut command)
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let printed = self.ca(&["status", "--output", "json"]).succeeded().stdout;
        serde_json::from_str(&printed).expect("JSON")
    }

    pub(crate) fn state(&self, ca: &str) -> String {
        let status = self.status();
        let cas = status["cas"].as_array().expect("a list").clone();
        let found = cas.into_iter().find(|one| one["id"] == ca);
        found.map_or(String::new(), |one| {
            one["state"].as_str().expect("a state").to_owned()
        })
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, ca: &str, state: &str) {
        self.wait_until(&format!("{ca} is {state}"), |world| {
            world.state(ca) == state
        });
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < end,
                "{what}: it never came to this:\n{}\n{}",
                self.ca(&["status"]).stdout,
                self.cluster.signer_output()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The request that waits for the security team.
    pub(crate) fn request(&self) -> String {
        self.ca(&["request"]).succeeded().stdout
    }

    /// The security team comes together for the CA that waits: one touch, and its certificate is handed in.
    #[track_caller]
    pub(crate) fn ceremony(&self, team: &mut Team, further: &[&str]) {
        let certificate = team.sign(&self.request());
        let certificate = certificate.to_str().expect("a plain name");
        self.ca(&[&["import", certificate], further].concat())
            .succeeded();
    }

    /// What API servers believe at this moment, in a file.
    pub(crate) fn bundle_of_the_day(&self) -> PathBuf {
        let bundle = self.cluster.dir().join("bundle-of-the-day.pem");
        let pem = self.ca(&["export-bundle"]).succeeded().stdout;
        fs::write(&bundle, pem).expect("write it");
        bundle
    }

    /// A login, and openssl's word on its certificate against the bundle of the day; the name of its CA.
    #[track_caller]
    pub(crate) fn login(&self) -> String {
        self.engineer.login(GRANTED).succeeded();
        let chain = self.engineer.certificate("demo");
        let chain = chain.to_str().expect("a plain name");
        let bundle = self.bundle_of_the_day();
        openssl(&[
            "verify",
            "-purpose",
            "sslclient",
            "-CAfile",
            bundle.to_str().expect("a plain name"),
            "-untrusted",
            chain,
            chain,
        ]);
        let issuer = openssl(&["x509", "-in", chain, "-noout", "-issuer"]);
        issuer.trim().to_owned()
    }

    /// The API server, asked with the certificate of the last login.
    pub(crate) fn whoami(&self) -> Ran {
        let pin = self.engineer.path_text("pin");
        let arguments = ["whoami", "--cluster", "demo", "--pin-file", &pin];
        self.engineer.run(arguments)
    }
}

impl Team {
    /// A team whose root is made, with one touch.
    pub(crate) fn with_root(key_holder: &str, root: &str) -> Self {
        let team = Self::new(key_holder);
        let plan = format!(
            "apiVersion: touchstone.dev/v1\nkind: Ceremony\nmakes: root\nsubject: {root}\nvalidityDays: 3650\n\
             pathLength: 1\npresent:\n  - {{ name: Carol Example, role: key holder }}\n"
        );
        fs::write(team.engineer.file("root.yaml"), plan).expect("write a plan");
        let [plan, out] = ["root.yaml", "root.pem"].map(|name| team.engineer.path_text(name));
        team.run(&["root", "init", "--plan", &plan, "--out", &out]);
        team
    }

    /// A team with a card that is set up.
    pub(crate) fn new(key_holder: &str) -> Self {
        let engineer = Engineer::new(key_holder, &Options::default());
        engineer.set_up();
        Self {
            engineer,
            ceremonies: 0,
        }
    }

    pub(crate) fn engineer(&self) -> &Engineer {
        &self.engineer
    }

    fn run(&self, arguments: &[&str]) {
        let all = ["ca"]
            .iter()
            .chain(arguments)
            .map(|text| (*text).to_owned());
        let all = all.chain(self.answers());
        self.engineer.run(all).succeeded();
    }

    /// What stands for the questions of a ceremony.
    pub(crate) fn answers(&self) -> [String; 5] {
        let pin = self.engineer.path_text("pin");
        let root = self.engineer.path_text("attestation-root.pem");
        ["--yes", "--pin-file", &pin, "--attestation-root", &root].map(str::to_owned)
    }

    pub(crate) fn root(&self) -> String {
        self.engineer.path_text("root.pem")
    }

    /// The ceremony file for a request.
    pub(crate) fn plan_for(&self, request: &str, root: &str) -> String {
        let shown = openssl(&[
            "req",
            "-in",
            request,
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
        let digest = openssl(&["x509", "-noout", "-fingerprint", "-sha256", "-in", root]);
        let digest = digest.split('=').nth(1).expect("a fingerprint");
        let digest = digest.trim().replace(':', "").to_lowercase();
        format!(
            "apiVersion: touchstone.dev/v1\nkind: Ceremony\nmakes: issuing-ca\nsubject: {subject}\nvalidityDays: 120\n\
             pathLength: 0\nextendedKeyUsage: [clientAuth]\nroot: \"sha256:{digest}\"\n\
             present:\n  - {{ name: Carol Example, role: key holder }}\n"
        )
    }

    /// The certificate that the root signed for a request: one touch.
    #[track_caller]
    pub(crate) fn sign(&mut self, request_pem: &str) -> PathBuf {
        self.ceremonies += 1;
        let file = |name: &str| {
            self.engineer
                .path_text(&format!("{}-{name}", self.ceremonies))
        };
        let (request, plan, out) = (file("issuing.csr"), file("plan.yaml"), file("issuing.pem"));
        fs::write(&request, request_pem).expect("write the request");
        let root = self.root();
        fs::write(&plan, self.plan_for(&request, &root)).expect("write the plan");
        let touches = self.touches();
        self.run(&[
            "sign",
            "--request",
            &request,
            "--plan",
            &plan,
            "--root",
            &root,
            "--out",
            &out,
        ]);
        assert_eq!(self.touches(), touches + 1, "one touch a ceremony");
        PathBuf::from(out)
    }

    fn touches(&self) -> u32 {
        let touches = self.engineer.yubikey().control("touches");
        touches.parse().expect("a number")
    }
}

#[track_caller]
pub(crate) fn openssl(arguments: &[&str]) -> String {
    let ran = Ran::of(Command::new("openssl").args(arguments)).succeeded();
    ran.stdout
}
