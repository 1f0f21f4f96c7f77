//! `--output json`: standard output is one JSON document, whatever else is said.

use crate::{Setting, engineer_with_new_card};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    policy::GRANTED,
};

/// Runs a command, and the one document that it prints.
#[track_caller]
fn document(engineer: &Engineer, arguments: &[&str]) -> serde_json::Value {
    let ran = engineer
        .run(arguments.iter().chain(&["--output", "json"]))
        .succeeded();
    parsed(&ran)
}

#[track_caller]
fn parsed(ran: &Ran) -> serde_json::Value {
    assert!(ran.stdout.ends_with('\n'), "{ran}");
    // Anything behind the document would be an error.
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

#[test]
fn every_command_prints_one_document() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    // So that there is something to be said beside the data.
    engineer.yubikey().control("touch-mode late");
    let [pin, root] = ["pin", "attestation-root.pem"].map(|name| engineer.path_text(name));

    let listed = document(engineer, &["key", "list"]);
    assert_eq!(listed[0]["serial"], 12_345_678, "{listed}");
    assert_eq!(listed[0]["keys"][0]["slot"], "9a", "{listed}");
    let enrol = ["key", "enrol", "--team", "payments", "--user"];
    let enrolment = document(
        engineer,
        &[&enrol[..], &[engineer.user(), "--attestation-root", &root]].concat(),
    );
    assert!(enrolment.to_string().contains("12345678"), "{enrolment}");
    let proof = document(engineer, &["key", "attest", "--attestation-root", &root]);
    assert!(proof.to_string().contains("BEGIN CERTIFICATE"), "{proof}");

    let login = ["login", "--cluster", "demo", "--group", GRANTED];
    let further = ["--reason", "INC-4211 checkout latency", "--pin-file", &pin];
    let login = [&login[..], &further[..]].concat();
    let logged_in = document(engineer, &login);
    assert_eq!(logged_in["user"], engineer.user(), "{logged_in}");
    let status = document(engineer, &["status"]);
    assert_eq!(
        status[0]["fingerprint"], logged_in["fingerprint"],
        "{status}"
    );
    let me = document(engineer, &["whoami", "--pin-file", &pin]);
    assert_eq!(me["user"], engineer.user(), "{me}");
    let waiting = document(engineer, &[&login[..], &["--no-wait"]].concat());
    let name = waiting["request"].as_str().expect("the request's name");
    assert!(name.starts_with("touchstone-alice-example-com-"), "{name}");
    let resumed = document(
        engineer,
        &["login", "--cluster", "demo", "--resume", "--no-card-write"],
    );
    assert_eq!(resumed["request"], waiting["request"], "{resumed}");

    let clusters = document(engineer, &["config", "list"]);
    assert_eq!(clusters[0]["name"], "demo", "{clusters}");
    let shown = document(engineer, &["config", "show", "demo"]);
    assert_eq!(shown["name"], "demo", "{shown}");
    let forgotten = document(engineer, &["logout"]);
    assert_eq!(forgotten[0]["cluster"], "demo", "{forgotten}");
    assert_eq!(forgotten[0]["stillValid"], true, "{forgotten}");

    let nothing = engineer.run(["status", "--output", "json"]);
    nothing.failed(15, &["touchstone login"]);
    assert_eq!(parsed(&nothing), serde_json::json!([]));
}

#[test]
fn the_commands_that_change_something_print_one_too() {
    let engineer = engineer_with_new_card();
    let [factory, pin, puk, root] =
        ["factory-pin", "pin", "puk", "attestation-root.pem"].map(|name| engineer.path_text(name));
    let setup = ["key", "setup", "--pin-file", &factory];
    let new = ["--new-pin-file", &pin, "--new-puk-file", &puk];
    let changed = document(&engineer, &[&setup[..], &new[..]].concat());
    assert_eq!(
        changed["changed"],
        serde_json::json!(["PIN", "PUK", "management key"])
    );
    let generate = ["key", "generate", "--pin-file", &pin];
    let made = document(
        &engineer,
        &[&generate[..], &["--attestation-root", &root]].concat(),
    );
    assert_eq!(made["attested"], true, "{made}");
    let unblock = ["key", "unblock", "--puk-file", &puk, "--new-pin-file", &pin];
    assert_eq!(document(&engineer, &unblock)["serial"], 12_345_678);

    let set = [
        "config",
        "set-cluster",
        "prod",
        "--server",
        "https://127.0.0.1:1",
    ];
    let trust = ["--ca", &root, "--trust-bundle", &root];
    let set = document(&engineer, &[&set[..], &trust[..]].concat());
    assert_eq!(set["name"], "prod", "{set}");
    let removed = document(&engineer, &["config", "remove", "prod"]);
    assert_eq!(removed["name"], "prod", "{removed}");
    assert_eq!(
        document(&engineer, &["config", "list"]),
        serde_json::json!([])
    );
}
