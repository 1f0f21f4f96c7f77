//! The running cluster before kubectl, and the engineer's key before curl: clients that no one here wrote.
//!
//! `KUBECTL` says which kubectl, else the one on the path. What an old one cannot do is left out by its version.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "kubectl/bindings.rs"]
mod bindings;
#[path = "kubectl/curl.rs"]
mod curl;

use std::{fs, path::PathBuf, process::Command, sync::LazyLock, thread, time::Duration};
use touchstone_tests::{
    card_key::CardKey,
    child::Running,
    cluster::{Cluster, Setup, kubectl, manifest},
    engineer::Ran,
    policy::{GRANTED, OF_ANOTHER_TEAM, policy},
};

const USER: &str = "alice@example.com";
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that knows a key of [`USER`], which signs without a card service.
struct Setting {
    cluster: Cluster,
    key: CardKey,
    _roots: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let key = CardKey::generate(12_345_678);
        let roots = tempfile::Builder::new()
            .prefix("touchstone-roots-")
            .tempdir()
            .expect("make a temporary folder");
        let root = roots.path().join("root.pem");
        fs::write(&root, key.attestation_root()).expect("write the root");
        let user = format!(
            "  - {{ name: {USER}, teams: [payments], keys: [ {{ serial: 12345678 }} ] }}\n"
        );
        let cluster = Cluster::start(&Setup {
            policy: policy(&[user]),
            attestation_roots: vec![root],
        });
        Self {
            cluster,
            key,
            _roots: roots,
        }
    }

    fn request(&self, group: &str) -> String {
        self.key
            .request("demo", USER, group, [7; 32], jiff::Timestamp::now())
    }

    /// A manifest of a request that is for another signer.
    fn other(&self, name: &str) -> String {
        let file = self.cluster.dir().join(format!("{name}.json"));
        let object = manifest(name, "example.com/other", &self.request(GRANTED));
        fs::write(&file, object.to_string()).expect("write a manifest");
        file.to_str().expect("a plain name").to_owned()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl_ok(arguments)
    }

    /// Runs a command that must fail; what it says.
    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.cluster.kubectl(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command until it prints all of `words`.
    #[track_caller]
    fn until(&self, arguments: &[&str], words: &[&str]) -> String {
        let done = |printed: &str| words.iter().all(|word| printed.contains(word));
        self.cluster
            .wait_until(&format!("{words:?}"), |_| done(&self.ok(arguments)));
        self.ok(arguments)
    }

    /// A command that goes on until it is dropped, with its output beside it.
    fn watch(&self, arguments: &[&str]) -> Running {
        let mut command = kubectl(&self.cluster.files().admin_kubeconfig);
        command.arg("--request-timeout=0").args(arguments);
        Running::start(
            "kubectl",
            &mut command,
            &self.cluster.dir().join("watch.log"),
        )
    }
}

/// The minor version of kubectl 1.
static MINOR: LazyLock<u32> = LazyLock::new(|| {
    let mut command = kubectl(&PathBuf::from("/nonexistent"));
    command.args(["version", "--client", "-o", "json"]);
    let printed = Ran::of(&mut command).succeeded().stdout;
    let version: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .expect("a version");
    let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().expect("a number")
});

/// Whether any line holds all of `words`.
fn a_line_has(text: &str, words: &[&str]) -> bool {
    text.lines()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_watch_sees_requests_arrive_and_become_issued_or_denied() {
    let setting = Setting::new();
    let mut watch = setting.watch(&["get", "csr", "-w"]);
    // The heading comes with the first request.
    thread::sleep(Duration::from_secs(1));
    setting.cluster.submit(USER, &setting.request(GRANTED));
    let seen = |watch: &mut Running, words: &[&str]| {
        let log = setting.cluster.dir().join("watch.log");
        watch.wait_until(PATIENCE, &format!("{words:?}"), || {
            fs::read_to_string(&log).is_ok_and(|text| a_line_has(&text, words))
        });
    };
    seen(
        &mut watch,
        &["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "CONDITION"],
    );
    seen(
        &mut watch,
        &["touchstone-test-", "touchstone.dev/client", "Pending"],
    );
    seen(&mut watch, &["touchstone-test-", USER, "Approved,Issued"]);
    setting
        .cluster
        .submit(USER, &setting.request(OF_ANOTHER_TEAM));
    seen(&mut watch, &["touchstone-test-", USER, "Denied"]);
    drop(watch);

    let listed = setting.ok(&["get", "csr"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let wide = setting.ok(&["get", "csr", "-o", "wide"]);
    assert!(
        a_line_has(&wide, &["touchstone-test-", "Approved,Issued"]),
        "{wide}"
    );
}

#[test]
fn an_issued_request_is_described_and_its_grant_and_event_are_listed() {
    let setting = Setting::new();
    setting.cluster.submit(USER, &setting.request(GRANTED));
    let listed = setting.until(&["get", "csr"], &["Approved,Issued"]);
    let name = listed
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().next())
        .expect("the request's name");

    let described = setting.ok(&["describe", "csr", name]);
    for words in [
        &["Name:", name][..],
        &["Requesting User:", USER],
        &["Signer:", "touchstone.dev/client"],
        &["Status:", "Approved,Issued"],
        &["Common Name:", USER],
        &["Organization:", GRANTED],
    ] {
        assert!(a_line_has(&described, words), "{words:?}:\n{described}");
    }

    let grants = setting.until(&["get", "grants"], &["Issued"]);
    let heading: Vec<&str> = grants
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        heading,
        [
            "NAME", "USER", "GROUPS", "PHASE", "RULE", "EXPIRES", "REVOKED", "AGE"
        ]
    );
    assert!(
        a_line_has(&grants, &[USER, GRANTED, "Issued", "payments on call"]),
        "{grants}"
    );
    // As docs/operations.md has it. The approval has no event of its own.
    let ours = "--field-selector=reportingComponent=touchstone.dev/signer";
    let events = setting.until(&["get", "events", "-A", ours], &[name, "Issued"]);
    let of_it = events.lines().filter(|line| line.contains(name));
    assert_eq!(of_it.count(), 1, "{events}");
    let described = setting.until(&["describe", "csr", name], &["Events:"]);
    assert!(!described.contains("Unable to retrieve"), "{described}");
}

#[test]
fn requests_of_other_signers_are_the_administrators_to_decide() {
    let setting = Setting::new();
    for name in ["one", "two"] {
        let created = setting.ok(&["create", "-f", &setting.other(name)]);
        assert_eq!(
            created,
            format!("certificatesigningrequest.certificates.k8s.io/{name} created\n")
        );
    }
    let again = setting.fails(&["create", "-f", &setting.other("one")]);
    assert!(again.contains("already exists"), "{again}");

    setting.ok(&["certificate", "approve", "one"]);
    setting.ok(&["certificate", "deny", "two"]);
    let listed = setting.ok(&["get", "csr"]);
    assert!(
        a_line_has(&listed, &["one", "example.com/other", "Approved"]),
        "{listed}"
    );
    assert!(
        a_line_has(&listed, &["two", "example.com/other", "Denied"]),
        "{listed}"
    );
    setting.fails(&["certificate", "approve", "two"]);
    setting.fails(&["certificate", "deny", "one"]);

    setting.ok(&["annotate", "csr", "one", "example.com/note=seen"]);
    setting.ok(&["label", "csr", "one", "team=payments"]);
    let note = [
        "get",
        "csr",
        "one",
        "-o",
        "jsonpath={.metadata.annotations}",
    ];
    assert!(setting.ok(&note).contains("seen"));
    let labelled = setting.ok(&["get", "csr", "-l", "team=payments", "-o", "name"]);
    assert_eq!(
        labelled,
        "certificatesigningrequest.certificates.k8s.io/one\n"
    );
    // What was asked for can't be changed: kubectl is told so, or it finds the request as it was.
    let before = setting.ok(&["get", "csr", "one", "-o", "jsonpath={.spec}"]);
    let patch = ["patch", "csr", "one", "--type=merge", "-p"];
    let output = setting.cluster.kubectl(
        patch
            .iter()
            .chain(&["{\"spec\":{\"signerName\":\"a.b/c\"}}"]),
    );
    let after = setting.ok(&["get", "csr", "one", "-o", "jsonpath={.spec}"]);
    assert_eq!(before, after, "{output:?}");

    setting.ok(&["delete", "csr", "one"]);
    let gone = setting.fails(&["get", "csr", "one"]);
    assert!(
        gone.contains("(NotFound)") && gone.contains("\"one\" not found"),
        "{gone}"
    );
    let left = setting.ok(&["get", "csr", "-o", "name"]);
    assert_eq!(left, "certificatesigningrequest.certificates.k8s.io/two\n");
}

#[test]
fn a_request_that_kubernetes_does_not_take_is_refused_in_its_words() {
    let setting = Setting::new();
    let good = manifest("bad", "example.com/other", &setting.request(GRANTED));
    for (path, value, words) in [
        (
            "/spec/expirationSeconds",
            serde_json::json!(60),
            "may not specify a duration less than 600 seconds",
        ),
        (
            "/spec/usages",
            serde_json::json!(["nonsense"]),
            "spec.usages",
        ),
        (
            "/spec/signerName",
            serde_json::json!("nonsense"),
            "spec.signerName",
        ),
        (
            "/spec/request",
            serde_json::json!("bm9uc2Vuc2U="),
            "spec.request",
        ),
        ("/metadata/name", serde_json::json!("a/b"), "metadata.name"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).expect("the field is there") = value;
        let file = setting.cluster.dir().join("bad.json");
        fs::write(&file, bad.to_string()).expect("write a manifest");
        let refused = setting.fails(&["create", "-f", file.to_str().expect("a plain name")]);
        assert!(refused.contains(words), "{path}: {refused}");
    }
}

#[test]
fn the_administrator_is_known_may_do_all_and_finds_the_server_ready() {
    let setting = Setting::new();
    assert_eq!(setting.ok(&["get", "--raw", "/readyz"]), "ok");
    assert_eq!(setting.ok(&["get", "--raw", "/livez"]), "ok");
    for verb in ["create", "get", "list", "watch", "delete"] {
        assert_eq!(
            setting.ok(&["auth", "can-i", verb, "csr"]).trim(),
            "yes",
            "{verb}"
        );
    }
    assert!(setting.ok(&["auth", "can-i", "--list"]).contains("[*]"));
    assert!(
        setting
            .ok(&["api-resources"])
            .contains("certificatesigningrequests")
    );
    let version = setting.ok(&["version", "-o", "json"]);
    assert!(version.contains("serverVersion"), "{version}");
    // The command is of 1.27, on the API that stayed of 1.28.
    if *MINOR >= 28 {
        let me = setting.ok(&["auth", "whoami"]);
        assert!(
            a_line_has(&me, &["Username", "admin"])
                && a_line_has(&me, &["Groups", "system:authenticated"]),
            "{me}"
        );
    }
}

/// Someone else, without a credential, gets nothing.
#[test]
fn without_a_credential_kubectl_gets_nothing() {
    let setting = Setting::new();
    let files = setting.cluster.files();
    let config = setting.cluster.dir().join("nobody.kubeconfig");
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "x", "cluster": { "server": files.server, "certificate-authority": files.server_ca } }],
        "users": [{ "name": "x", "user": { "token": "guessed" } }],
        "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
    });
    fs::write(&config, kubeconfig.to_string()).expect("write a kubeconfig");
    for arguments in [
        &["get", "csr"][..],
        &["get", "grants"],
        &["get", "secrets", "-A"],
    ] {
        let ran = Ran::of(kubectl(&config).args(arguments));
        assert_ne!(ran.code, Some(0), "{ran}");
        assert!(ran.stdout.is_empty(), "{ran}");
    }
}

/// A program that the suite needs beside kubectl.
fn needs(program: &str, package: &str) -> Command {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        found,
        "{program} is missing: apt-get install {package} (scripts/setup test does)"
    );
    Command::new(program)
}
