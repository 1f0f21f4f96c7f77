//! Keys in memory, for groups that the policy gives to any key: from the login to real kubectl, and who must not get there.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup},
    engineer::{Engineer, Ran},
    policy::{GRANTED, policy},
};

/// Who Kubernetes says asks.
const LOGIN: &str = "alice@example.com";
/// Who the policy says that is.
const USER: &str = "alice";
/// What any key gets.
const SCRATCH: &str = "jit:scratch";
const REASON: &str = "INC-4211 checkout latency";

/// Exit codes of docs/exit-codes.md.
mod exit {
    pub(crate) const CONFIG: i32 = 3;
    pub(crate) const DENIED: i32 = 7;
    pub(crate) const NOT_LOGGED_IN: i32 = 15;
}

/// An engineer without a card, and a cluster where any key gets [`SCRATCH`], reached by a credential of [`LOGIN`].
struct Setting {
    engineer: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        let user = |names: &str| {
            format!("  - {{ {names}, teams: [payments], keys: [{{ serial: 12345678 }}] }}\n")
        };
        let any_key = format!(
            "  - name: scratch
    who: {{ teams: [payments] }}
    groups: [\"{SCRATCH}\"]
    key: {{ attested: false, enrolled: false }}
    maxTTL: 15m
    decision: auto
"
        );
        let known = user(&format!("name: {USER}, usernames: [\"{LOGIN}\"]"));
        let wanted = policy(&[known]) + &any_key;
        let engineer = Engineer::without_card(USER);
        let key = CardKey::generate(12_345_678);
        let root = engineer.attestation_root();
        fs::write(&root, key.attestation_root()).expect("write the root");
        let mut cluster = Cluster::start(&Setup {
            policy: policy(&[user(&format!("name: {LOGIN}"))]),
            attestation_roots: vec![root],
        });
        let credential = cluster
            .is_embedded()
            .then(|| certificate_login(&cluster, &key));
        fs::write(&cluster.files().policy, wanted).expect("write the policy");
        cluster.kill_signer();
        cluster.start_signer();
        let reach = match credential {
            // It knows people by certificates that it issued itself: here one of the policy before.
            Some((certificate, private_key)) => vec![
                "--kubeconfig".to_owned(),
                kubeconfig(&engineer, &cluster, "own", &certificate, &private_key),
                "--trust-bundle".to_owned(),
                cluster.files().trust_bundle.display().to_string(),
            ],
            None => cluster.client_arguments(LOGIN),
        };
        set_cluster(&engineer, "demo", &reach);
        Self { engineer, cluster }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.engineer.run(arguments)
    }

    fn login(&self, further: &[&str]) -> Ran {
        let login = [
            "login",
            "--cluster",
            "demo",
            "--reason",
            REASON,
            "--ttl",
            "15m",
        ];
        self.run(&[&login, further].concat())
    }

    /// What `touchstone credential` gives kubectl.
    fn credential(&self, further: &[&str]) -> Value {
        let credential = ["credential", "--cluster=demo", "--software-key"];
        let printed = self.run(&[&credential, further].concat()).succeeded();
        let printed: Value = serde_json::from_str(&printed.stdout).expect("JSON");
        printed["status"].clone()
    }

    fn status(&self) -> Value {
        let printed = self.run(&["status", "--output", "json"]);
        serde_json::from_str(&printed.stdout).expect("JSON")
    }

    /// How many requests the API server has.
    fn requests(&self) -> usize {
        let listed = self.cluster.kubectl_ok(["get", "csr", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["items"].as_array().expect("a list").len()
    }
}

/// `config set-cluster`, for a cluster whose name in the policy is `demo`.
fn set_cluster(engineer: &Engineer, name: &str, reach: &[String]) {
    let mut arguments = vec![
        "config".to_owned(),
        "set-cluster".to_owned(),
        name.to_owned(),
    ];
    arguments.extend_from_slice(reach);
    arguments.extend(["--user".to_owned(), USER.to_owned()]);
    engineer.run(arguments).succeeded();
}

/// A certificate for [`LOGIN`] on a key in a YubiKey, by the front door: both in PEM.
fn certificate_login(cluster: &Cluster, key: &CardKey) -> (String, String) {
    let request = key.request("demo", LOGIN, GRANTED, [7; 32], jiff::Timestamp::now());
    cluster.submit(LOGIN, &request);
    let chain = |cluster: &Cluster| {
        let encoded = cluster.kubectl_ok([
            "get",
            "csr",
            "-o",
            "jsonpath={.items[0].status.certificate}",
        ]);
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let pem = STANDARD.decode(encoded.trim()).expect("base64");
        String::from_utf8(pem).expect("PEM")
    };
    cluster.wait_until("the certificate is there", |cluster| {
        !chain(cluster).is_empty()
    });
    (chain(cluster), key.private_key())
}

/// A kubeconfig with a certificate and its key; its path.
fn kubeconfig(
    engineer: &Engineer,
    cluster: &Cluster,
    name: &str,
    certificate: &str,
    key: &str,
) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let files = cluster.files();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{ "name": name, "cluster": {
            "server": files.server, "certificate-authority": files.server_ca,
        } }],
        "users": [{ "name": name, "user": {
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key),
        } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
    });
    let path = engineer.secret(&format!("{name}.kubeconfig"), &config.to_string());
    path.to_str().expect("a plain path").to_owned()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().expect("text")
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("read a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.symlink_metadata() {
            Ok(found) if found.is_dir() => files(&path),
            Ok(found) if found.is_file() => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn a_key_in_memory_opens_the_cluster_for_kubectl_and_is_on_no_disk() {
    let setting = Setting::new();
    for kind in ["--software-key", "--software-key=ed25519"] {
        let login = setting.login(&[kind, "--group", SCRATCH]).succeeded();
        assert!(login.stdout.contains(USER), "{login}");
        let (one, again) = (setting.credential(&[]), setting.credential(&[]));
        assert_eq!(one, again);

        let kubectl = std::env::var("KUBECTL").unwrap_or("kubectl".to_owned());
        let whoami = ["auth", "whoami", "-o", "json"];
        let exec = ["exec", "--cluster=demo", "--software-key", "--", &kubectl];
        let who = setting.run(&[&exec, &whoami[..]].concat()).succeeded();
        let who: Value = serde_json::from_str(&who.stdout).expect("JSON");
        let info = &who["status"]["userInfo"];
        assert_eq!(info["username"], USER);
        let groups = info["groups"].as_array().expect("groups");
        assert!(groups.contains(&json!(SCRATCH)), "{info}");

        // A line of the key in base64, as PEM has it, and in hex.
        let pem = pem::parse(text(&one, "clientKeyData")).expect("PEM");
        assert_eq!(pem.tag(), "PRIVATE KEY");
        let line = text(&one, "clientKeyData").lines().nth(1).expect("a line");
        let hex = hex::encode(pem.contents());
        let home = setting.engineer.file("");
        for file in files(&home) {
            let content = fs::read(&file).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            assert!(!content.contains(line), "{}", file.display());
            assert!(!content.contains(&hex), "{}", file.display());
        }
    }

    let status = setting.status();
    assert_eq!(status[0]["user"], USER);
    assert_eq!(status[0]["softwareKey"], "Ed25519");
    assert_eq!(status[0]["yubikey"], Value::Null);
    let out = setting.run(&["logout"]).succeeded();
    assert!(out.stderr.contains("software key"), "{out}");
    let none = setting.run(&["credential", "--cluster=demo", "--software-key"]);
    none.failed(exit::NOT_LOGGED_IN, &["login", "--software-key"]);
    assert_eq!(none.stdout, "");
}

#[test]
fn ten_at_once_ask_for_one_certificate() {
    let setting = Setting::new();
    let before = setting.requests();
    let credential = [
        "credential",
        "--cluster=demo",
        "--software-key",
        "--ttl=15m",
        "--group",
        SCRATCH,
        "--reason",
        REASON,
    ];
    let all: Vec<_> = (0..10)
        .map(|_| {
            let mut command = setting.engineer.touchstone(credential);
            command.stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("start touchstone")
        })
        .collect();
    let printed: BTreeSet<String> = all
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().expect("wait for touchstone");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            String::from_utf8(output.stdout).expect("text")
        })
        .collect();
    assert_eq!(printed.len(), 1);
    assert_eq!(setting.requests(), before + 1);
}

#[test]
fn a_killed_keeper_takes_the_key_with_it_and_stops_nobody() {
    let setting = Setting::new();
    setting
        .login(&["--software-key", "--group", SCRATCH])
        .succeeded();
    let pid = setting.status()[0]["proxy"]["pid"]
        .as_i64()
        .expect("a process");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a process id"));
    rustix::process::kill_process(pid.expect("not zero"), rustix::process::Signal::KILL)
        .expect("kill it");
    setting
        .cluster
        .wait_until("it is gone", |_| setting.status() == json!([]));
    setting
        .run(&["credential", "--cluster=demo", "--software-key"])
        .failed(exit::NOT_LOGGED_IN, &["--software-key"]);
    setting.credential(&["--ttl=15m", "--group", SCRATCH, "--reason", REASON]);
}

#[test]
fn a_key_in_memory_gets_nothing_that_the_policy_gives_to_yubikeys() {
    let setting = Setting::new();
    let software = "--software-key";
    for groups in [
        vec!["--group", GRANTED],
        vec!["--group", SCRATCH, "--group", GRANTED],
    ] {
        let denied = setting.login(&[&[software], &groups[..]].concat());
        denied.failed(exit::DENIED, &["must be enrolled"]);
    }
    let denied = setting.login(&[software, "--group", SCRATCH, "--user", "bob"]);
    denied.failed(exit::DENIED, &["bob"]);
    assert_eq!(setting.status(), json!([]));
}

#[test]
fn nobody_asks_with_a_key_in_memory_where_only_the_key_would_say_who() {
    let setting = Setting::new();
    let files = setting.cluster.files();
    let reach = [
        "--server",
        &files.server,
        "--ca",
        &files.server_ca.display().to_string(),
        "--trust-bundle",
        &files.trust_bundle.display().to_string(),
    ]
    .map(str::to_owned);
    set_cluster(&setting.engineer, "demo", &reach);
    setting
        .login(&["--software-key", "--group", SCRATCH])
        .failed(exit::CONFIG, &["does not say who you are", "--kubeconfig"]);
}

#[test]
fn a_stolen_certificate_does_not_ask_for_the_next_one() {
    let setting = Setting::new();
    if !setting.cluster.is_embedded() {
        // Who holds it may make requests: nothing but the policy is then in the way.
        let group = format!("--group={SCRATCH}");
        let role = "--clusterrole=touchstone-requester";
        setting
            .cluster
            .kubectl_ok(["create", "clusterrolebinding", "scratch", role, &group]);
    }
    setting
        .login(&["--software-key", "--group", SCRATCH])
        .succeeded();
    let stolen = setting.credential(&[]);
    let (certificate, key) = (
        text(&stolen, "clientCertificateData"),
        text(&stolen, "clientKeyData"),
    );
    let path = kubeconfig(
        &setting.engineer,
        &setting.cluster,
        "thief",
        certificate,
        key,
    );
    let bundle = setting.cluster.files().trust_bundle.display().to_string();
    let reach = ["--kubeconfig", &path, "--trust-bundle", &bundle].map(str::to_owned);
    set_cluster(&setting.engineer, "demo", &reach);
    setting
        .login(&["--software-key", "--group", SCRATCH])
        .failed(exit::DENIED, &["usernames"]);
}
