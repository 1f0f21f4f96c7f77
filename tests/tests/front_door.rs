//! The front door: engineers whom the cluster does not know log in there by the key in their YubiKey.
//!
//! On a real control plane the signer is the one that `deploy/` describes. On the embedded API it is a second one, for a
//! signer name of its own, that knows the embedded API only as its cluster.

#[path = "front_door/world.rs"]
mod world;

use serde_json::{Value, json};
use std::{fs, thread, time::Duration};
use touchstone_tests::{
    engineer::{Engineer, Ran},
    pcscd::Options,
    policy::{GRANTED, MANUAL, OF_ANOTHER_TEAM},
};
use world::{REQUESTS, World};

const USER: &str = "alice@example.com";
const CONFIG: i32 = 3;
const DENIED: i32 = 7;
const WAITING: i32 = 8;
const REFUSED: i32 = 9;

fn engineer(user: &str, options: &Options) -> Engineer {
    let engineer = Engineer::new(user, options);
    engineer.set_up();
    engineer.generate(&[]);
    engineer
}

#[test]
fn an_engineer_without_credentials_gets_a_certificate_and_the_cluster_says_who_asked_for_it() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    let login = engineer.login(GRANTED).succeeded();
    assert!(engineer.certificate("demo").is_file(), "{login}");

    let [request] = &world.requests()[..] else {
        panic!("one request: {:?}", world.requests());
    };
    assert_eq!(request["spec"]["username"], world.account(), "{request}");
    let annotations = &request["metadata"]["annotations"];
    assert_eq!(annotations["touchstone.dev/created-for"], USER);
    assert!(
        annotations["touchstone.dev/key-serial"].is_string(),
        "{request}"
    );
    let grants = world.cluster.kubectl_ok(["get", "grants", "-o", "json"]);
    let grants: Value = serde_json::from_str(&grants).expect("kubectl prints JSON");
    assert_eq!(grants["items"][0]["spec"]["user"], USER, "{grants}");
    assert_eq!(grants["items"][0]["status"]["phase"], "Issued", "{grants}");
    assert!(
        grants["items"][0]["spec"]["keySerial"].is_number(),
        "{grants}"
    );

    // The policy rules here as everywhere, and a request that waits says for whom.
    engineer.login(OF_ANOTHER_TEAM).failed(DENIED, &["denied"]);
    let waits = Ran::of(engineer.login_command(MANUAL).args(["--timeout", "5s"]));
    waits.failed(WAITING, &["1 approval from team billing", "--resume"]);

    // Who asked for what, and why, is nobody's business who only looks where time went.
    let told = [
        "create at front door",
        "reconcile",
        "approve",
        "deny",
        "wait",
    ];
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut sent = String::new();
    while !told.iter().all(|word| sent.contains(word)) {
        assert!(std::time::Instant::now() < end, "{sent}");
        thread::sleep(Duration::from_millis(200));
        sent = world.collector.text();
    }
    for word in [
        "alice",
        "oncall",
        "INC-",
        "billing",
        "BEGIN CERT",
        "touchstone-admin",
    ] {
        assert!(!sent.contains(word), "{word} was sent:\n{sent}");
    }
}

#[test]
fn certificates_are_asked_for_at_the_front_door_and_used_at_the_api_server() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    world.configure_beside(&engineer, &world.ca());
    let api = &world.cluster.files().server;
    let shown = engineer.run(["config", "show", "demo"]).succeeded();
    for address in [world.server(), api] {
        assert!(shown.stdout.contains(address), "{address}: {shown}");
    }
    let doctor = engineer.run(["doctor", "--output", "json"]);
    let findings: Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    for check in ["server", "front door"] {
        let found = findings.as_array().into_iter().flatten();
        let mut found = found.filter(|it| it["check"] == check && it["level"] == "ok");
        assert!(found.next().is_some(), "{check}: {doctor}");
    }

    engineer.login(GRANTED).succeeded();
    let [request] = &world.requests()[..] else {
        panic!("one request: {:?}", world.requests());
    };
    assert_eq!(request["spec"]["username"], world.account(), "{request}");
    let pin = engineer.path_text("pin");
    let whoami = engineer.run(["whoami", "--cluster", "demo", "--pin-file", &pin]);
    if world.cluster.is_embedded() {
        // It takes no certificates of this second signer, but it is the one that was asked.
        whoami.failed(REFUSED, &["401"]);
        return;
    }
    assert!(whoami.succeeded().stdout.contains(USER));
    let config = engineer.path_text("kubeconfig");
    let setup = [
        "setup",
        "--cluster",
        "demo",
        "--set-current",
        "--kubeconfig",
    ];
    engineer.run(setup.iter().chain(&[&*config])).succeeded();
    // The plug-in starts the proxy.
    let mut credential = engineer.touchstone(["credential", "--cluster", "demo"]);
    Ran::of(credential.args(["--pin-file", &pin])).succeeded();
    let own = engineer.touchstone([""; 0]);
    let surroundings = own
        .get_envs()
        .map(|(name, value)| (name, value.unwrap_or_default()));
    let mut kubectl = touchstone_tests::cluster::kubectl(config.as_ref());
    kubectl
        .env_clear()
        .envs(surroundings)
        .env("KUBECONFIG", &config);
    let said = Ran::of(kubectl.args(["auth", "whoami", "-o", "json"])).succeeded();
    let said: Value = serde_json::from_str(&said.stdout).expect("kubectl prints JSON");
    assert_eq!(said["status"]["userInfo"]["username"], USER, "{said}");
    let groups = &said["status"]["userInfo"]["groups"];
    assert!(groups.to_string().contains(GRANTED), "{said}");
}

#[test]
fn a_front_door_is_believed_by_its_own_ca_alone() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    let ca_of_the_api = world.cluster.files().server_ca.display().to_string();
    world.configure_beside(&engineer, &ca_of_the_api);
    let touches = engineer.yubikey().control("touches");
    engineer
        .login(GRANTED)
        .failed(REFUSED, &[world.server(), "not the server"]);
    assert_eq!(engineer.yubikey().control("touches"), touches);
    assert_eq!(world.requests().len(), 0, "{:?}", world.requests());
    // An address that is none is not written down.
    let show = || engineer.run(["config", "show", "demo"]).succeeded().stdout;
    let before = show();
    for address in ["http://127.0.0.1:1", "127.0.0.1:1", "https://"] {
        let set = [
            "config",
            "set-cluster",
            "demo",
            "--server",
            "https://127.0.0.1:1",
        ];
        let files = ["--ca", &ca_of_the_api, "--trust-bundle", &ca_of_the_api];
        let front = ["--front-door", address, "--front-door-ca", &ca_of_the_api];
        let set = set.iter().chain(&files).chain(&front);
        engineer.run(set).failed(CONFIG, &["frontDoor.server"]);
    }
    assert_eq!(show(), before);
}

#[test]
fn a_key_that_is_not_enrolled_is_refused_before_the_cluster_hears_of_it() {
    let alice = engineer(USER, &Options::default());
    let [mallory, stranger] = [99_999, 12_345_678].map(|serial| {
        engineer(
            USER,
            &Options {
                serial,
                ..Options::default()
            },
        )
    });
    let world = World::start_with_roots_of(&alice, &[&mallory]);
    world.configure(&mallory);
    mallory
        .login(GRANTED)
        .failed(REFUSED, &["YubiKey 99999 is not enrolled"]);
    // The right number on a card that nobody vouches for.
    world.configure(&stranger);
    stranger
        .login(GRANTED)
        .failed(REFUSED, &["attestation does not verify"]);
    assert_eq!(world.requests().len(), 0, "{:?}", world.requests());
    // Nor is a key in memory for those whom the cluster does not know.
    let software = Ran::of(alice.login_command(GRANTED).arg("--software-key"));
    assert_ne!(software.code, Some(0), "{software}");
    assert_eq!(world.requests().len(), 0, "{:?}", world.requests());
}

#[test]
fn a_copy_of_a_request_gets_nothing_and_another_token_reads_nothing() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    engineer.login(GRANTED).succeeded();
    let name = world.requests()[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let path = format!("{REQUESTS}/{name}");
    let zeros = "Authorization: Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(world.curl(&path, &["--header", zeros]).0, 404);
    assert_eq!(world.curl(&path, &[]).0, 401);
    assert_eq!(world.curl(REQUESTS, &["--header", zeros]).0, 404);

    // Whoever may read requests in the cluster has a copy.
    let copy = world.requests()[0]["spec"].clone();
    let send = |seconds: i64| {
        let sent = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "spec": {
                "request": copy["request"], "signerName": copy["signerName"],
                "expirationSeconds": seconds, "usages": ["client auth"],
            },
        });
        let sent = sent.to_string();
        world.curl(REQUESTS, &["--data-binary", &sent])
    };
    let (code, answer) = send(3600);
    assert_eq!(code, 403, "{answer}");
    assert!(answer.contains("must be the same"), "{answer}");
    // As often as a client whose connection broke may send it: not one of them gets a certificate.
    let mut taken = 0;
    for _ in 0..6 {
        let (code, answer) = send(1800);
        match code {
            201 => taken += 1,
            403 => assert!(answer.contains("times already"), "{answer}"),
            code => panic!("{code}: {answer}"),
        }
    }
    assert!((1..4).contains(&taken), "{taken}");
    world.cluster.wait_until("all copies are denied", |_| {
        let requests = world.requests();
        let denied = |request: &&Value| {
            request["status"]["conditions"][0]["reason"] == "Replayed"
                && request["status"]["certificate"].is_null()
        };
        requests.iter().filter(denied).count() == taken
    });
}

/// Whoever may create and annotate requests can say all that the front door says, but not that it was the front door.
#[test]
fn marks_of_the_front_door_on_a_request_of_someone_else_count_for_nothing() {
    let alice = engineer(USER, &Options::default());
    let world = World::start(&alice);
    let Some(mallory) = world.as_user("mallory@example.com") else {
        // On the embedded API nobody creates requests as another: the API itself says who did.
        return;
    };
    alice.login(GRANTED).succeeded();
    let made = world.requests()[0].clone();
    let forged = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "generateName": "touchstone-alice-example-com-", "annotations": made["metadata"]["annotations"] },
        "spec": {
            "request": made["spec"]["request"], "signerName": made["spec"]["signerName"],
            "expirationSeconds": 1800, "usages": ["client auth"],
            "username": world.account(), "extra": { "touchstone.dev/key-serial": ["12345678"] },
        },
    });
    let path = world.cluster.dir().join("forged.json");
    fs::write(&path, forged.to_string()).expect("write a request");
    let mut create = touchstone_tests::cluster::kubectl(&mallory);
    let created = Ran::of(create.args(["create", "-o", "name", "-f"]).arg(&path));
    if created.code != Some(0) {
        // An admission policy may keep it out before the signer sees it.
        assert!(created.stderr.contains("touchstone"), "{created}");
        return;
    }
    let name = created.stdout.trim().to_owned();
    world
        .cluster
        .wait_until("the forged request is denied", |cluster| {
            let read = cluster.kubectl_ok(["get", &name, "-o", "json"]);
            let read: Value = serde_json::from_str(&read).expect("kubectl prints JSON");
            assert!(read["status"]["certificate"].is_null(), "{read}");
            read["status"]["conditions"][0]["reason"] == "WrongCreator"
        });
    // And it cannot be read at the front door either.
    let path = format!("{REQUESTS}/{}", name.rsplit('/').next().unwrap_or_default());
    let zeros = "Authorization: Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert_eq!(world.curl(&path, &["--header", zeros]).0, 404);
}

#[test]
fn a_renewed_certificate_is_taken_up_and_what_happens_is_counted_without_names() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    engineer.login(GRANTED).succeeded();
    let metrics = world.metrics();
    assert!(
        metrics.contains("touchstone_front_requests_total{outcome=\"created\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("alice"), "{metrics}");
    assert!(
        metrics.contains("touchstone_front_certificate_refused 0"),
        "{metrics}"
    );

    // Half of a renewal: the key does not fit, and the old pair stays.
    world.renew_key_alone();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !world
        .metrics()
        .contains("touchstone_front_certificate_refused 1")
    {
        assert!(
            std::time::Instant::now() < end,
            "the certificate is not looked at"
        );
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(world.curl("/healthz", &[]), (200, "ok".to_owned()));

    world.renew();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while world.curl("/healthz", &[]).0 != 200 {
        assert!(
            std::time::Instant::now() < end,
            "the new certificate is not shown"
        );
        thread::sleep(Duration::from_millis(200));
    }
    world.configure(&engineer);
    engineer.login(GRANTED).succeeded();
    assert!(
        world
            .metrics()
            .contains("touchstone_front_certificate_refused 0")
    );
}

#[test]
fn a_front_door_without_a_certificate_of_its_own_does_not_open() {
    let engineer = engineer(USER, &Options::default());
    let world = World::start(&engineer);
    world.expose_key();
    let ran = world.start_another();
    ran.failed(1, &["front door's key", "0644", "chmod"]);
}
