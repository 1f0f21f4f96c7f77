//! The issuing CA's key in an HSM: logins with the real programs, what is said at the start when the HSM does not do, and a
//! second kind of token whose PIN has few tries.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    child::program,
    cluster::{Cluster, Setup},
    engineer::{Engineer, Ran},
    pcscd::{Options, Pcscd, VirtualYubiKey},
    policy::{GRANTED, policy},
    softhsm::{self, SoftHsm, Token},
};

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const QUARTER: &str = "{ lifetime: 120s, activateEvery: 20s, prepareAfter: 8s, publishBefore: 4s, keepAfterLastLeaf: 3s, longestLeaf: 12s }";
/// The signer's exit code where its CA's key cannot be used.
const UNUSABLE: i32 = 5;

fn settings(token: &Token, schedule: &str) -> String {
    format!(
        "apiVersion: touchstone.dev/v1\nkind: CaSettings\nschedule: {schedule}\nkeys: {{ pkcs11: {} }}\n",
        token.settings()
    )
}

fn status(cluster: &Cluster, further: &[&str]) -> Ran {
    let mut command = Command::new(program("touchstone-signer"));
    command.args(["ca", "status"]);
    if cluster.is_embedded() {
        command.arg("--data").arg(&cluster.files().data);
    } else {
        let kubeconfig = &cluster.files().admin_kubeconfig;
        command.arg("--kubeconfig").arg(kubeconfig);
    }
    Ran::of(command.args(further)).succeeded()
}

fn state(cluster: &Cluster, ca: &str) -> String {
    let status: serde_json::Value =
        serde_json::from_str(&status(cluster, &["--output", "json"]).stdout).expect("JSON");
    let cas = status["cas"].as_array().expect("a list");
    let found = cas.iter().find(|one| one["id"] == ca);
    found
        .and_then(|one| one["state"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn engineers_log_in_while_the_issuing_keys_are_in_a_token_before_and_after_a_rotation() {
    let test = "engineers_log_in_while_the_issuing_keys_are_in_a_token_before_and_after_a_rotation";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let engineer = Engineer::new("alice@example.com", &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    let setup = Setup {
        policy: policy(&[engineer.enrolment("payments")]),
        attestation_roots: vec![engineer.attestation_root()],
    };
    let mut cluster = Cluster::start_with_ca(&setup, Some(&settings(&token, QUARTER)));
    engineer.configure(&cluster);
    let login = || {
        engineer.login(GRANTED).succeeded();
        let chain = engineer.certificate("demo");
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-CAfile"]);
        openssl.arg(&cluster.files().trust_bundle);
        softhsm::run(openssl.arg("-untrusted").arg(&chain).arg(&chain));
    };
    login();
    let first = token.private_keys().remove(0).id;
    assert!(!cluster.files().data.join("ca/issuing/key.pem").exists());
    let shown = status(&cluster, &[]).stdout;
    assert!(shown.contains("in the token hsm (serial "), "{shown}");
    assert!(
        shown.contains(&first) && !shown.contains(softhsm::PIN),
        "{shown}"
    );

    let end = Instant::now() + PATIENCE;
    while state(&cluster, "ca-1") != "removed"
        || token.private_keys().iter().any(|key| key.id == first)
    {
        assert!(Instant::now() < end, "{}", cluster.signer_output());
        thread::sleep(Duration::from_millis(500));
    }
    login();
    assert!(!cluster.signer_output().contains(softhsm::PIN));
    cluster.kill_signer();
    cluster.start_signer();
    engineer.configure(&cluster);
    engineer.login(GRANTED).succeeded();
}

/// `touchstone-signer ca init` of a new data directory.
fn init(settings: &str, command: impl FnOnce(PathBuf) -> Command) -> (tempfile::TempDir, Ran) {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let file = folder.path().join("ca.yaml");
    fs::write(&file, settings).expect("write the settings");
    let mut command = command(program("touchstone-signer"));
    command.args(["ca", "init", "--data"]);
    command.arg(folder.path().join("data"));
    let ran = Ran::of(command.arg("--ca-settings").arg(&file));
    (folder, ran)
}

#[test]
fn a_wrong_pin_founds_no_ca_and_the_right_one_does() {
    let Some(hsm) = SoftHsm::alone("a_wrong_pin_founds_no_ca_and_the_right_one_does") else {
        return;
    };
    let token = hsm.token("hsm");
    softhsm::write_private(token.pin_file(), "999999");
    let text = settings(&token, "{}");
    let (folder, ran) = init(&text, Command::new);
    ran.failed(UNUSABLE, &["is wrong", "write the right PIN"]);
    assert!(!ran.to_string().contains("999999"), "{ran}");
    assert!(!folder.path().join("data/ca").exists());
    assert!(token.private_keys().is_empty());

    softhsm::write_private(token.pin_file(), softhsm::PIN);
    let (folder, ran) = init(&text, Command::new);
    ran.succeeded();
    assert_eq!(token.private_keys().len(), 1);
    assert!(folder.path().join("data/ca/issuing/key.json").exists());
}

/// A YubiKey is a token, too, and counts wrong PINs as HSMs do. OpenSC is its module.
#[test]
fn the_last_try_of_a_pin_is_never_spent() {
    let pcscd = Pcscd::start();
    let card = VirtualYubiKey::start(&pcscd, &Options::default());
    let module = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|folder| PathBuf::from(folder).join("opensc-pkcs11.so"))
        .into_iter()
        .find(|module| module.exists())
        .expect("OpenSC: scripts/setup test installs it");
    let tool = |arguments: &[&str]| {
        let mut tool = pcscd.command("pkcs11-tool");
        Ran::of(tool.arg("--module").arg(&module).args(arguments))
    };
    let slots = tool(&["--list-token-slots"]).succeeded().stdout;
    let label = slots
        .lines()
        .find_map(|line| line.trim().strip_prefix("token label"))
        .expect("a token")
        .trim_matches([' ', ':']);
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let pin = folder.path().join("pin");
    softhsm::write_private(&pin, "123456");
    let text = format!(
        "apiVersion: touchstone.dev/v1\nkind: CaSettings\nkeys: {{ pkcs11: {{ module: {}, token: '{label}', pin: {{ file: {} }} }} }}\n",
        module.display(),
        pin.display()
    );
    let start = || init(&text, |program| pcscd.command(program)).1;
    for _ in 0..2 {
        let wrong = tool(&["--login", "--pin", "999999", "--list-objects"]);
        assert!(wrong.to_string().contains("CKR_PIN_INCORRECT"), "{wrong}");
    }
    start().failed(UNUSABLE, &["one try is left", "by hand"]);
    // It is still there, and gives the others back.
    tool(&["--login", "--pin", "123456", "--list-objects"]).succeeded();
    card.control("block-pin");
    start().failed(UNUSABLE, &["locked", "security officer"]);
}
