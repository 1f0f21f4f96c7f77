//! The proxy that lets kubectl use a key in a YubiKey: real kubectl, the real exec plugin, a virtual card that counts.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "proxy/client.rs"]
mod client;
#[path = "proxy/cluster.rs"]
mod cluster;
#[path = "proxy/faults.rs"]
mod faults;
#[path = "proxy/hostile.rs"]
mod hostile;
#[path = "proxy/kubectl.rs"]
mod kubectl;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_common::{certificate::Validity, key::PublicKey};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    pcscd::Options as CardOptions,
    upstream::{Options, Upstream},
};

const USER: &str = "alice@example.com";
const GROUP: &str = "jit:oncall:payments";
const PATIENCE: Duration = Duration::from_secs(60);

/// An engineer with a key in slot 9a, and a PIN of their own.
fn engineer_with_key() -> Engineer {
    let engineer = Engineer::new(USER, &CardOptions::default());
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

/// How often the card was touched so far.
fn touches(engineer: &Engineer) -> u32 {
    let count = engineer.yubikey().control("touches");
    count.trim().parse().expect("a number of touches")
}

/// An engineer, and the suites' own API server, for which they hold a certificate.
struct Setting {
    engineer: Engineer,
    upstream: Upstream,
}

impl Setting {
    fn new() -> Self {
        Self::with(Options::default(), Duration::from_secs(1800))
    }

    /// With a server of another kind, and a certificate of another life.
    fn with(options: Options, life: Duration) -> Self {
        let engineer = engineer_with_key();
        let upstream = Upstream::start(options);
        let mut command = engineer.touchstone(["config", "set-cluster", "demo", "--user", USER]);
        command
            .args(["--server", &upstream.url(), "--ca"])
            .arg(upstream.server_ca())
            .arg("--trust-bundle")
            .arg(upstream.client_ca_file());
        Ran::of(&mut command).succeeded();
        let setting = Self { engineer, upstream };
        setting.give_certificate(life);
        setting
    }

    /// Keeps a certificate as `touchstone login` does.
    fn give_certificate(&self, life: Duration) {
        let now = jiff::Timestamp::now();
        let now = jiff::Timestamp::from_second(now.as_second()).expect("a time");
        let validity = Validity {
            not_before: now - jiff::SignedDuration::from_mins(1),
            not_after: now + jiff::SignedDuration::try_from(life).expect("a life"),
        };
        let key = public_key(&self.engineer);
        let (chain, fingerprint) = self
            .upstream
            .client_ca()
            .issue(&key, USER, &[GROUP], validity);
        let folder = self.engineer.file("state/demo");
        fs::create_dir_all(&folder).expect("make the state's folder");
        let credential = serde_json::json!({
            "cluster": "demo", "user": USER, "groups": [GROUP],
            "notBefore": validity.not_before, "notAfter": validity.not_after,
            "serial": "01", "fingerprint": fingerprint, "yubikey": 12_345_678, "slot": "9a",
            "request": "of the suite", "reason": "INC-4211 checkout latency",
        });
        fs::write(folder.join("certificate.pem"), chain).expect("keep a certificate");
        fs::write(folder.join("credential.json"), credential.to_string()).expect("keep it");
    }

    fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.engineer)
    }

    fn status(&self) -> serde_json::Value {
        status(&self.engineer)
    }
}

/// The key in slot 9a.
fn public_key(engineer: &Engineer) -> PublicKey {
    let chain = engineer.path_text("attestation.pem");
    let root = engineer.path_text("attestation-root.pem");
    let attest = [
        "key",
        "attest",
        "--out",
        &chain,
        "--attestation-root",
        &root,
    ];
    engineer.run(attest).succeeded();
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-pubkey", "-in", &chain]);
    let pem = Ran::of(&mut openssl).succeeded().stdout;
    let der = pem::parse(pem).expect("PEM").into_contents();
    PublicKey::from_spki_der(&der).expect("a public key")
}

/// `touchstone credential` as a kubeconfig has it.
fn plugin(engineer: &Engineer) -> Command {
    let pin = engineer.path_text("pin");
    engineer.touchstone([
        "credential",
        "--cluster=demo",
        "--ttl=30m",
        "--pin-file",
        &pin,
    ])
}

/// A kubeconfig whose user is the exec plugin, as `touchstone setup` writes it. A proxy runs from here on.
fn kubeconfig(engineer: &Engineer) -> PathBuf {
    Ran::of(&mut plugin(engineer)).succeeded();
    let plugin = plugin(engineer);
    let kept = fs::read(engineer.file("state/demo/loopback.json")).expect("the local identity");
    let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
    let ca = engineer.file("loopback-ca.pem");
    fs::write(&ca, kept["caPem"].as_str().expect("a CA")).expect("write the CA");
    let arguments: Vec<_> = plugin.get_args().filter_map(|a| a.to_str()).collect();
    let environment: Vec<_> = plugin
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
        .map(|(name, value)| serde_json::json!({ "name": name, "value": value }))
        .collect();
    // The oldest version that every kubectl of the suites knows.
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "demo",
        "clusters": [{ "name": "demo", "cluster": {
            "server": format!("https://127.0.0.1:{}", kept["port"]), "certificate-authority": ca,
        } }],
        "users": [{ "name": "demo", "user": { "exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1", "interactiveMode": "IfAvailable",
            "command": plugin.get_program().to_str(), "args": arguments, "env": environment,
        } } }],
        "contexts": [{ "name": "demo", "context": { "cluster": "demo", "user": "demo" } }],
    });
    let path = engineer.file("demo.kubeconfig");
    fs::write(&path, config.to_string()).expect("write a kubeconfig");
    path
}

/// What the running proxy says of itself.
fn status(engineer: &Engineer) -> serde_json::Value {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixStream,
    };
    let socket = engineer.file("state/.run/demo.sock");
    let mut proxy = UnixStream::connect(socket).expect("a proxy runs");
    proxy
        .write_all(b"{\"version\":1,\"op\":\"status\"}\n")
        .expect("ask the proxy");
    let mut answer = String::new();
    BufReader::new(proxy)
        .read_line(&mut answer)
        .expect("the proxy answers");
    serde_json::from_str(&answer).expect("JSON")
}

/// Ends the running proxy, as `touchstone logout` does.
fn stop(engineer: &Engineer) {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };
    let socket = engineer.file("state/.run/demo.sock");
    let mut proxy = UnixStream::connect(&socket).expect("a proxy runs");
    proxy
        .write_all(b"{\"version\":1,\"op\":\"stop\"}\n")
        .expect("ask it to stop");
    // It closes when it has ended.
    let _ = proxy.read_to_end(&mut Vec::new());
    wait_until("it has ended", || !socket.exists());
}

/// Waits until something is so.
#[track_caller]
fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The text of a file, while it is written.
fn text(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
