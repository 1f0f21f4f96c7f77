//! The main job: from a key in a YubiKey to a certificate that opens an API server, and everything that must not.

use std::{fs, path::Path, process::Command};
use touchstone_tests::{
    cluster::Cluster,
    engineer::{Engineer, Ran, is_private},
    pcscd::Options,
    policy::{GRANTED, MANUAL, OF_ANOTHER_TEAM},
};

const USER: &str = "alice@example.com";
const DENIED: i32 = 7;
const WAITING: i32 = 8;
const NOT_LOGGED_IN: i32 = 15;

/// An engineer of the team `payments` with an enrolled key, and the cluster.
struct Setting {
    engineer: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        Self::with_keys(&[])
    }

    /// The key made with `further` arguments.
    fn with_keys(further: &[&str]) -> Self {
        let engineer = Engineer::new(USER, &Options::default());
        engineer.set_up();
        engineer.generate(further);
        let cluster = engineer.enrolled_cluster();
        Self { engineer, cluster }
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = self
            .engineer
            .run(arguments.iter().chain(&["--output", "json"]))
            .succeeded()
            .stdout;
        serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}):\n{printed}"))
    }

    fn grants(&self) -> Vec<serde_json::Value> {
        let list: serde_json::Value =
            serde_json::from_str(&self.cluster.kubectl_ok(["get", "grants", "-o", "json"]))
                .expect("kubectl prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    fn audit(&self) -> Ran {
        let data = self.cluster.files().data.display().to_string();
        Ran::of(
            Command::new(touchstone_tests::child::program("touchstone-signer"))
                .args(["audit", "verify", "--data", &data]),
        )
    }
}

fn openssl(arguments: &[&str]) -> String {
    let ran = Ran::of(Command::new("openssl").args(arguments)).succeeded();
    format!("{}{}", ran.stdout, ran.stderr)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

#[test]
fn a_touch_gives_thirty_minutes_that_openssl_kubectl_and_the_api_server_agree_on() {
    let setting = Setting::new();
    let Setting { engineer, cluster } = &setting;
    engineer.login(GRANTED).succeeded();

    let certificate = engineer.certificate("demo");
    assert!(is_private(&certificate));
    let shown = openssl(&[
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-text",
        "-nameopt",
        "sname,sep_comma_plus",
    ]);
    for expected in [
        &format!("Subject: CN={USER},O={GRANTED}"),
        "CA:FALSE",
        "TLS Web Client Authentication",
        "Digital Signature",
    ] {
        assert!(
            shown.contains(expected),
            "{expected:?} is missing in:\n{shown}"
        );
    }
    assert!(!shown.contains("Subject Alternative Name"), "{shown}");
    let bundle = text(&cluster.files().trust_bundle);
    let verified = [
        "verify",
        "-purpose",
        "sslclient",
        "-CAfile",
        bundle,
        "-untrusted",
        text(&certificate),
        text(&certificate),
    ];
    assert!(openssl(&verified).contains(": OK"));
    // Thirty minutes from now, not thirty-five: valid in 29, ended in 31.
    openssl(&[
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-checkend",
        "1740",
    ]);
    Ran::of(Command::new("openssl").args([
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-checkend",
        "1860",
    ]))
    .failed(1, &[]);

    // Mutual TLS, signed by the slot.
    let me = setting.json(&[
        "whoami",
        "--cluster",
        "demo",
        "--pin-file",
        &engineer.path_text("pin"),
    ]);
    assert_eq!(me["user"], USER, "{me}");
    assert!(
        me["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .any(|group| group == GRANTED),
        "{me}"
    );

    let grants = setting.grants();
    let [grant] = grants.as_slice() else {
        panic!("one grant, not {grants:?}")
    };
    assert_eq!(grant["spec"]["user"], USER);
    assert_eq!(grant["spec"]["reason"], "INC-4211 checkout latency");
    assert_eq!(grant["status"]["phase"], "Issued");
    let fingerprint = openssl(&[
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-fingerprint",
        "-sha256",
    ]);
    let fingerprint = fingerprint
        .rsplit('=')
        .next()
        .expect("a fingerprint")
        .trim()
        .replace(':', "")
        .to_lowercase();
    assert!(
        grant.to_string().contains(&fingerprint),
        "the grant names the certificate {fingerprint}: {grant}"
    );

    cluster.wait_until("the event is there", |cluster| {
        cluster
            .kubectl_ok(["get", "events", "--all-namespaces"])
            .contains("certificate issued: grant g-")
    });
    let status = setting.json(&["status"]);
    assert!(status.to_string().contains(USER), "{status}");
    setting.audit().succeeded();
}

#[test]
fn the_certificate_is_written_into_the_slot_unless_told_not_to() {
    let setting = Setting::new();
    let pin = setting.engineer.path_text("pin");
    let login = [
        "login",
        "--cluster",
        "demo",
        "--group",
        GRANTED,
        "--reason",
        "INC-4211 checkout latency",
        "--pin-file",
        &pin,
    ];
    setting
        .engineer
        .run(login.iter().chain(&["--no-card-write"]))
        .succeeded();
    let listed = setting.engineer.run(["key", "list"]).succeeded().stdout;
    assert!(!listed.contains(USER), "the card was left alone:\n{listed}");
    setting.engineer.run(login).succeeded();
    let listed = setting.engineer.run(["key", "list"]).succeeded().stdout;
    assert!(
        listed.contains(USER),
        "the card has the certificate:\n{listed}"
    );
}

#[test]
fn every_kind_of_key_that_the_card_makes_gets_a_certificate_and_opens_the_server() {
    for algorithm in ["p384", "ed25519", "rsa2048"] {
        let setting = Setting::with_keys(&["--algorithm", algorithm]);
        setting.engineer.login(GRANTED).succeeded();
        let me = setting.json(&[
            "whoami",
            "--cluster",
            "demo",
            "--pin-file",
            &setting.engineer.path_text("pin"),
        ]);
        assert_eq!(me["user"], USER, "{algorithm}: {me}");
    }
}

#[test]
fn a_group_of_another_team_is_denied_with_the_reason_and_nothing_is_kept() {
    let setting = Setting::new();
    let ran = setting.engineer.login(OF_ANOTHER_TEAM);
    ran.failed(DENIED, &[OF_ANOTHER_TEAM, "billing", "payments"]);
    assert!(!setting.engineer.certificate("demo").exists());
    assert!(setting.grants().is_empty(), "no grant");
    setting.audit().succeeded();
}

#[test]
fn a_reason_that_the_policy_does_not_accept_is_denied_and_the_pattern_is_shown() {
    let setting = Setting::new();
    let pin = setting.engineer.path_text("pin");
    setting
        .engineer
        .run([
            "login",
            "--cluster",
            "demo",
            "--group",
            GRANTED,
            "--reason",
            "because",
            "--pin-file",
            &pin,
        ])
        .failed(DENIED, &["reason", "^INC-[0-9]+ "]);
}

#[test]
fn a_longer_life_than_the_policy_grants_is_shortened_and_a_system_group_never_leaves_the_machine() {
    let setting = Setting::new();
    let pin = setting.engineer.path_text("pin");
    let ask = |group, ttl| {
        setting.engineer.run([
            "login",
            "--cluster",
            "demo",
            "--group",
            group,
            "--ttl",
            ttl,
            "--reason",
            "INC-4211 checkout latency",
            "--pin-file",
            &pin,
        ])
    };
    ask(GRANTED, "1h").succeeded();
    let certificate = setting.engineer.certificate("demo");
    Ran::of(Command::new("openssl").args([
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-checkend",
        "1860",
    ]))
    .failed(1, &[]);
    let ran = ask("system:masters", "30m");
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(ran.stderr.contains("system:"), "{ran}");
}

#[test]
fn a_manual_rule_waits_and_a_bare_kubernetes_approval_counts_for_nothing() {
    let setting = Setting::new();
    let mut login = setting.engineer.login_command(MANUAL);
    let ran = Ran::of(login.args(["--timeout", "3s"]));
    ran.failed(WAITING, &["Waiting for ", "billing", "--resume"]);
    let names = setting.cluster.kubectl_ok(["get", "csr", "-o", "name"]);
    let name = names.lines().next().expect("the request").to_owned();
    setting.cluster.kubectl_ok([
        "certificate",
        "approve",
        name.trim_start_matches("certificatesigningrequest.certificates.k8s.io/"),
    ]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let issued = setting
        .cluster
        .kubectl_ok(["get", &name, "-o", "jsonpath={.status.certificate}"]);
    assert!(
        issued.is_empty(),
        "nothing is signed on the word of someone the API did not record"
    );
    assert!(setting.grants().is_empty(), "no grant");
}

#[test]
fn a_key_that_is_not_enrolled_gets_nothing() {
    let stranger = Engineer::new(
        USER,
        &Options {
            serial: 99_999_999,
            ..Options::default()
        },
    );
    stranger.set_up();
    stranger.generate(&[]);
    let enrolled = Setting::new();
    // The stranger's root is not trusted here, and the serial is not in the policy.
    stranger.configure(&enrolled.cluster);
    let ran = stranger.login(GRANTED);
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(!stranger.certificate("demo").exists());
    assert!(enrolled.grants().is_empty(), "no grant");
}

#[test]
fn another_users_name_is_refused_although_the_key_is_enrolled() {
    let setting = Setting::new();
    let pin = setting.engineer.path_text("pin");
    let ran = setting.engineer.run([
        "login",
        "--cluster",
        "demo",
        "--user",
        "bob@example.com",
        "--group",
        GRANTED,
        "--reason",
        "INC-4211 checkout latency",
        "--pin-file",
        &pin,
    ]);
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(setting.grants().is_empty(), "no grant");
}

#[test]
fn logging_out_forgets_the_certificate_and_says_that_it_lives_on() {
    let setting = Setting::new();
    setting.engineer.login(GRANTED).succeeded();
    let ran = setting
        .engineer
        .run(["logout", "--cluster", "demo"])
        .succeeded();
    assert!(
        format!("{}{}", ran.stdout, ran.stderr).contains("cannot be revoked"),
        "{ran}"
    );
    assert!(!setting.engineer.certificate("demo").exists());
    let pin = setting.engineer.path_text("pin");
    setting
        .engineer
        .run(["whoami", "--cluster", "demo", "--pin-file", &pin])
        .failed(NOT_LOGGED_IN, &["touchstone login"]);
}

#[test]
fn a_broken_credential_is_named_and_not_believed() {
    let setting = Setting::new();
    setting.engineer.login(GRANTED).succeeded();
    let [credential, chain] = ["credential.json", "certificate.pem"]
        .map(|name| setting.engineer.file("state/demo").join(name));
    let pin = setting.engineer.path_text("pin");
    let whoami = ["whoami", "--cluster", "demo", "--pin-file", &pin];
    for file in [&credential, &chain] {
        assert!(is_private(file));
        let kept = fs::read_to_string(file).expect("read what is kept");
        for broken in [
            "",
            "nonsense",
            "{}",
            &kept.replacen('A', "B", 1),
            &kept.replacen(['1', '2'], "3", 1),
        ] {
            fs::write(file, broken).expect("break it");
            let ran = setting.engineer.run(whoami);
            assert!(!ran.stderr.contains("panicked"), "{ran}");
            assert!(
                ran.code == Some(0) || ran.stderr.contains("error:"),
                "{ran}"
            );
        }
        fs::write(file, "nonsense").expect("break it");
        assert_ne!(
            setting.engineer.run(whoami).code,
            Some(0),
            "{}",
            file.display()
        );
        fs::write(file, kept).expect("mend it");
    }
    setting.engineer.run(whoami).succeeded();
}
