//! `touchstone doctor`: each thing that breaks is found, with what helps; nothing is spent by looking.

use crate::{USER, engineer_with_key, exit};
use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    pcscd::{Options, SOCKET_VARIABLE},
    policy::GRANTED,
};

/// What `doctor` found: `check` to level and the rest.
struct Report {
    findings: Vec<serde_json::Value>,
    ran: Ran,
}

fn doctor(engineer: &Engineer) -> Report {
    let ran = engineer.run(["doctor", "--output", "json"]);
    let findings =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"));
    Report { findings, ran }
}

impl Report {
    /// Asserts that a check ended so, and that message and remedy say each of `words`.
    #[track_caller]
    fn says(&self, check: &str, level: &str, words: &[&str]) {
        let found = |finding: &&serde_json::Value| finding["check"] == check;
        let mut found = self.findings.iter().filter(found);
        let matches = |finding: &serde_json::Value| {
            let text = format!("{} {}", finding["message"], finding["remedy"]);
            finding["level"] == level && words.iter().all(|word| text.contains(word))
        };
        assert!(
            found.any(matches),
            "{check} {level} {words:?}: {}",
            self.ran
        );
        if level != "ok" {
            let code = if level == "fail" {
                Some(exit::UNHEALTHY)
            } else {
                self.ran.code
            };
            assert_eq!(self.ran.code, code, "{}", self.ran);
        }
    }
}

#[test]
fn where_all_is_well_nothing_fails_and_what_breaks_is_named_with_its_remedy() {
    let mut engineer = engineer_with_key();
    let cluster = engineer.enrolled_cluster();
    let root = engineer.path_text("attestation-root.pem");
    let mut arguments = ["config", "set-cluster", "demo"]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(cluster.client_arguments(USER));
    arguments.extend(["--user", USER, "--attestation-root", &root].map(str::to_owned));
    engineer.run(&arguments).succeeded();

    let before = doctor(&engineer);
    before.says("certificate", "warn", &["none", "touchstone login"]);
    before.says("signer, enrolment", "warn", &["first login"]);
    before.says("kubeconfig", "warn", &["touchstone setup"]);

    engineer.login(GRANTED).succeeded();
    engineer.run(["setup"]).succeeded();
    let touches = engineer.yubikey().control("touches");
    let well = doctor(&engineer);
    let fails: Vec<_> = well
        .findings
        .iter()
        .filter(|f| f["level"] == "fail")
        .collect();
    assert!(
        fails.iter().all(|f| f["check"] == "kubectl"),
        "{}",
        well.ran
    );
    for check in [
        "card",
        "PIN",
        "PUK",
        "management key",
        "key",
        "attestation",
        "server",
        "clock",
        "signer, enrolment",
        "certificate",
        "proxy",
        "kubeconfig",
        "state folder",
    ] {
        well.says(check, "ok", &[]);
    }
    assert_eq!(
        engineer.yubikey().control("touches"),
        touches,
        "looking needs no touch"
    );
    let tries = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded()
        .stdout;
    assert!(tries.contains("\"pinTriesLeft\": 3"), "{tries}");

    // The port is another's, and the kubeconfig leads elsewhere.
    let kept = fs::read(engineer.file("state/demo/loopback.json")).expect("the local identity");
    let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
    let port = u16::try_from(kept["port"].as_u64().expect("a port")).expect("a port");
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("take the port");
    doctor(&engineer).says("proxy", "fail", &["another program", "--port"]);
    drop(taken);
    let path = engineer.file(".kube/config");
    let text = fs::read_to_string(&path).expect("read it");
    fs::write(&path, text.replace(&port.to_string(), "1")).expect("write it");
    doctor(&engineer).says("kubeconfig", "fail", &["leads to", "touchstone setup"]);
    fs::write(&path, "{}").expect("write it");
    doctor(&engineer).says("kubeconfig", "warn", &[]);

    // Others may write to the state.
    let state = engineer.file("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("open it");
    doctor(&engineer).says("state folder", "fail", &["others may write", "chmod 700"]);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("close it");

    // A wrong PIN was typed, too often.
    let wrong = engineer.secret("wrong", "999999");
    for left in [2, 1, 0] {
        let mut login = engineer.touchstone(["login", "--cluster", "demo", "--group", GRANTED]);
        login
            .args(["--reason", "INC-4211 checkout latency", "--pin-file"])
            .arg(&wrong);
        Ran::of(&mut login).failed(5, &[]);
        let level = if left == 0 { "fail" } else { "warn" };
        doctor(&engineer).says(
            "PIN",
            level,
            &[if left == 0 { "unblock" } else { "tries left" }],
        );
    }

    // A server that is not there, then a trust bundle, then the card service.
    let path = |path: &Path| path.to_str().expect("a plain name").to_owned();
    let files = cluster.files();
    let [ca, bundle] = [path(&files.server_ca), path(&files.trust_bundle)];
    let set = [
        "config",
        "set-cluster",
        "gone",
        "--server",
        "https://127.0.0.1:1",
    ];
    engineer
        .run(set.iter().chain(&["--ca", &ca, "--trust-bundle", &bundle]))
        .succeeded();
    doctor(&engineer).says("server", "fail", &["127.0.0.1:1", "config show"]);
    drop(cluster);
    engineer.pcscd().kill();
    let report = doctor(&engineer);
    report.says("card", "fail", &["pcscd"]);
    report.says("configuration", "fail", &["cannot read", "set-cluster"]);
}

#[test]
fn a_machine_with_nothing_on_it_is_told_what_to_begin_with() {
    let engineer = Engineer::without_card(USER);
    let ran = Ran::of(engineer.touchstone(["doctor"]).env("PATH", "/nonexistent"));
    ran.failed(exit::UNHEALTHY, &["error:", "try:"]);
    for words in [
        "kubectl",
        "not on the PATH",
        "no YubiKey",
        "touchstone config set-cluster",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {ran}");
    }
    fs::write(engineer.file("config.yaml"), "clusters: [").expect("write it");
    doctor(&engineer).says("configuration", "fail", &["config.yaml"]);
}

#[test]
fn a_card_fresh_from_the_factory_is_told_apart_from_a_set_up_one() {
    let engineer = Engineer::new(USER, &Options::default());
    let report = doctor(&engineer);
    for check in ["PIN", "PUK", "management key"] {
        report.says(check, "fail", &["factory", "touchstone key setup"]);
    }
    report.says(
        "key",
        "fail",
        &["slot 9a has no key", "touchstone key generate"],
    );
}

#[test]
fn a_key_whose_attestation_does_not_verify_is_found() {
    let engineer = engineer_with_key();
    // Nothing says that the root of this test YubiKey counts.
    let report = doctor(&engineer);
    report.says("key", "ok", &["slot 9a"]);
    report.says("attestation", "fail", &["--attestation-root"]);
}

/// What the process below says when it has the card.
const HELD: &str = "the card is held";

/// Not a test: the process of another program, which holds the card until its input ends.
#[test]
#[ignore = "run by another test, as a process of its own"]
fn holds_the_card_exclusively() {
    let service = pcsc::Context::establish(pcsc::Scope::User).expect("a card service");
    let readers = service.list_readers_owned().expect("readers");
    let reader = readers.first().expect("a reader");
    let mut card = None;
    // The service may still be at it to take the card back from the program before.
    crate::wait_until("the card is free", || {
        card = service
            .connect(reader, pcsc::ShareMode::Exclusive, pcsc::Protocols::ANY)
            .ok();
        card.is_some()
    });
    // The harness puts its own line before it.
    writeln!(io::stdout(), "\n{HELD}").expect("say so");
    io::stdin().read_to_end(&mut Vec::new()).expect("the end");
}

#[test]
fn another_program_that_has_the_card_is_found_and_once_it_lets_go_all_is_well() {
    let engineer = engineer_with_key();
    let touchstone = engineer.touchstone([""; 0]);
    let mut envs = touchstone.get_envs();
    let socket = envs.find(|(name, _)| *name == SOCKET_VARIABLE);
    let socket = socket.and_then(|(_, value)| value).expect("a card service");
    let mut holder = Command::new(env::current_exe().expect("this program"))
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("doctor::holds_the_card_exclusively")
        .env(SOCKET_VARIABLE, socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the holder");
    let said = BufReader::new(holder.stdout.take().expect("a pipe"));
    let mut lines = said.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(HELD)), "it has the card");

    let report = doctor(&engineer);
    report.says("card", "fail", &["program"]);
    drop(holder.stdin.take());
    assert!(holder.wait().expect("wait for the holder").success());
    doctor(&engineer).says("card", "ok", &[]);
}
