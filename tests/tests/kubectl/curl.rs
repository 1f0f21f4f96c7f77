//! curl with OpenSSL and Yubico's PKCS#11 module: the issued certificate opens the API server for a client of another make.

use crate::needs;
use std::path::{Path, PathBuf};
use touchstone_tests::{
    cluster::{Cluster, Setup},
    engineer::{Engineer, PIN, Ran},
    pcscd::Options,
    policy::{GRANTED, policy},
};

const USER: &str = "alice@example.com";
/// The slot's private key, as ykcs11 names it: slot 9a is its object 01.
fn key_of_9a(pin: &str) -> String {
    format!("pkcs11:id=%01;type=private;pin-value={pin}")
}

/// Where Debian puts Yubico's PKCS#11 module.
fn module() -> PathBuf {
    let path = format!("/usr/lib/{}-linux-gnu/libykcs11.so", std::env::consts::ARCH);
    assert!(
        Path::new(&path).exists(),
        "{path} is missing: apt-get install ykcs11 libengine-pkcs11-openssl (scripts/setup test does)"
    );
    path.into()
}

/// Asks the API server who it is that asks.
fn who_am_i(engineer: &Engineer, cluster: &Cluster, pin: &str) -> Ran {
    let files = cluster.files();
    let mut curl = needs("curl", "curl");
    // The card service of this engineer.
    curl.envs(
        engineer
            .touchstone([""; 0])
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    curl.env("PKCS11_MODULE_PATH", module());
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--fail-with-body",
    ])
    .args(["--engine", "pkcs11", "--key-type", "ENG", "--key"])
    .arg(key_of_9a(pin))
    .arg("--cert")
    .arg(engineer.certificate("demo"))
    .arg("--cacert")
    .arg(&files.server_ca)
    .args(["--header", "Content-Type: application/json", "--data"])
    .arg(r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#)
    .arg(format!(
        "{}/apis/authentication.k8s.io/v1/selfsubjectreviews",
        files.server
    ));
    Ran::of(&mut curl)
}

#[test]
fn the_cards_key_opens_the_server_for_curl_and_openssl_too() {
    let engineer = Engineer::new(USER, &Options::default());
    engineer.set_up();
    engineer.generate(&[]);
    let cluster = Cluster::start(&Setup {
        policy: policy(&[engineer.enrolment("payments")]),
        attestation_roots: vec![engineer.attestation_root()],
    });
    engineer.configure(&cluster);
    engineer.login(GRANTED).succeeded();

    let review = who_am_i(&engineer, &cluster, PIN).succeeded().stdout;
    let review: serde_json::Value = serde_json::from_str(&review).expect("JSON");
    let me = &review["status"]["userInfo"];
    assert_eq!(me["username"], USER, "{review}");
    let groups = me["groups"].as_array().expect("groups");
    assert!(groups.iter().any(|group| group == GRANTED), "{review}");

    // The certificate is worth nothing without the touch.
    engineer.yubikey().control("touch-mode never");
    engineer.yubikey().control("touch-timeout 500");
    let refused = who_am_i(&engineer, &cluster, PIN);
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(!refused.stdout.contains(USER), "{refused}");
}
