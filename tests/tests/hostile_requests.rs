//! Requests that no engineer's `touchstone` would send: each is denied in words that fit it, and the signer goes on.
//!
//! The readers of requests have their own tests of every hostile encoding, in `common`; these go the whole way, past an
//! API server that has its own idea of what a request is.

use std::{fs, process::Command};
use tempfile::TempDir;
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup, manifest, request},
    engineer::Ran,
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";

/// A key of [`USER`] in the team `payments`, and a cluster that knows it.
struct Setting {
    key: CardKey,
    cluster: Cluster,
    dir: TempDir,
}

impl Setting {
    fn new() -> Self {
        let key = CardKey::generate(12_345_678);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().join("root.pem");
        fs::write(&root, key.attestation_root()).expect("write the root");
        let user = format!(
            "  - {{ name: {USER}, teams: [payments], keys: [ {{ serial: 12345678 }} ] }}\n"
        );
        let cluster = Cluster::start(&Setup {
            policy: policy(&[user]),
            attestation_roots: vec![root],
        });
        Self { key, cluster, dir }
    }

    /// A request that would be granted.
    fn good(&self) -> String {
        self.key
            .request("demo", USER, GRANTED, [7; 32], jiff::Timestamp::now())
    }

    /// A request made by OpenSSL.
    fn openssl(&self, arguments: &[&str]) -> String {
        let key = self.dir.path().join("key.pem");
        let key = key.to_str().expect("a plain name");
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-new",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-keyout",
            key,
        ]);
        Ran::of(openssl.args(arguments)).succeeded().stdout
    }

    #[track_caller]
    fn refused(&self, what: &str, request: &serde_json::Value, words: &str) {
        let verdict = self.cluster.verdict_on(USER, request);
        assert_ne!(verdict, "Issued", "{what}");
        assert!(
            verdict.contains(words),
            "{what}: {words:?} is missing in {verdict}"
        );
    }
}

#[test]
fn each_is_denied_in_words_that_fit_it_and_the_next_good_one_is_issued() {
    let setting = Setting::new();
    let good = setting.good();
    let by_openssl =
        |subject: &str, further: &[&str]| setting.openssl(&[&["-subj", subject], further].concat());
    for (what, pem, words) in [
        (
            "the highest group",
            by_openssl("/CN=alice@example.com/O=system:masters", &[]),
            "system:",
        ),
        (
            "the name of a component",
            by_openssl("/CN=system:admin/O=x", &[]),
            "system:",
        ),
        (
            "two names",
            by_openssl("/CN=alice@example.com/CN=root/O=x", &[]),
            "2 common names",
        ),
        ("no group", by_openssl("/CN=alice@example.com", &[]), "O"),
        (
            "a country",
            by_openssl("/C=CH/CN=alice@example.com/O=x", &[]),
            "2.5.4.6",
        ),
        (
            "another name of its own",
            by_openssl(
                "/CN=alice@example.com/O=x",
                &["-addext", "subjectAltName=DNS:x"],
            ),
            "extension",
        ),
        (
            "no claims",
            by_openssl("/CN=alice@example.com/O=x", &[]),
            "claims",
        ),
        ("words before the PEM", format!("trust me\n{good}"), "PEM"),
        ("words behind the PEM", format!("{good}trust me\n"), "PEM"),
        (
            "two requests in one",
            format!("{good}{}", setting.good()),
            "PEM",
        ),
    ] {
        setting.refused(what, &request(&pem), words);
    }
    assert_eq!(
        setting.cluster.verdict_on(USER, &request(&setting.good())),
        "Issued"
    );
}

#[test]
fn what_stands_beside_the_request_must_fit_what_the_card_signed() {
    let setting = Setting::new();
    let now = jiff::Timestamp::now();
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = request(&setting.good());
        changed["spec"][field] = value;
        changed
    };
    setting.refused(
        "a longer life",
        &with("expirationSeconds", 3600.into()),
        "expirationSeconds",
    );
    setting.refused(
        "no life",
        &with("expirationSeconds", serde_json::Value::Null),
        "expirationSeconds",
    );
    setting.refused(
        "a server's use",
        &with("usages", serde_json::json!(["client auth", "server auth"])),
        "usages",
    );
    let other = setting
        .key
        .request("production", USER, GRANTED, [7; 32], now);
    setting.refused("another cluster", &request(&other), "production");
    let bob = setting
        .key
        .request("demo", "bob@example.com", GRANTED, [7; 32], now);
    setting.refused("another user", &request(&bob), "bob@example.com");
    let early = now + jiff::SignedDuration::from_mins(6);
    let early = setting.key.request("demo", USER, GRANTED, [7; 32], early);
    setting.refused("a request of tomorrow", &request(&early), "clock");
}

#[test]
fn the_name_in_spec_is_the_api_servers_word_whatever_the_client_writes() {
    let setting = Setting::new();
    let mut changed = request(&setting.good());
    changed["spec"]["username"] = "system:admin".into();
    changed["spec"]["groups"] = serde_json::json!(["system:masters"]);
    assert_eq!(setting.cluster.verdict_on(USER, &changed), "Issued");
    let spec = setting.cluster.kubectl_ok([
        "get",
        "csr",
        "-o",
        "jsonpath={.items[0].spec.username} {.items[0].spec.groups}",
    ]);
    assert!(
        spec.starts_with(USER) && !spec.contains("system:masters"),
        "{spec}"
    );
}

#[test]
fn a_creator_who_is_not_the_user_gets_nothing_with_the_users_own_request() {
    let setting = Setting::new();
    let borrowed = manifest("borrowed", "touchstone.dev/client", &setting.good());
    let file = setting.dir.path().join("borrowed.json");
    fs::write(&file, borrowed.to_string()).expect("write a manifest");
    // The administrator: who may do everything is still not the user.
    setting
        .cluster
        .kubectl_ok(["create", "-f", file.to_str().expect("a plain name")]);
    let status = || {
        setting
            .cluster
            .kubectl_ok(["get", "csr", "borrowed", "-o", "jsonpath={.status}"])
    };
    setting
        .cluster
        .wait_until("it is denied", |_| status().contains("Denied"));
    assert!(status().contains(USER), "{}", status());
    assert!(!status().contains("certificate\":"), "{}", status());
}
