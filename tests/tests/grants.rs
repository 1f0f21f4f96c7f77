//! Who has access: `touchstone grants`.

use serde_json::{Value, json};
use std::fmt::Write as _;
use touchstone_tests::{
    cluster::{Cluster, Setup},
    engineer::{Engineer, Ran},
    pcscd::Options,
    policy::{GRANTED, OF_ANOTHER_TEAM, policy},
};

const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";
const REFUSED: i32 = 9;

/// alice of `payments`, who is granted access, and bob of `billing`, who approves things and looks.
struct Setting {
    alice: Engineer,
    bob: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        let [alice, bob] = [(ALICE, 12_345_678), (BOB, 23_456_789)].map(|(user, serial)| {
            let options = Options {
                serial,
                ..Options::default()
            };
            let engineer = Engineer::new(user, &options);
            engineer.set_up();
            engineer.generate(&[]);
            engineer
        });
        let users = [alice.enrolment("payments"), bob.enrolment("billing")];
        let cluster = Cluster::start(&Setup {
            policy: policy(&users),
            attestation_roots: vec![alice.attestation_root(), bob.attestation_root()],
        });
        alice.configure(&cluster);
        let mut arguments = vec!["config".to_owned(), "set-cluster".into(), "demo".into()];
        arguments.extend(cluster.client_arguments(BOB));
        arguments.extend(["--user", BOB].map(str::to_owned));
        bob.run(arguments).succeeded();
        Self {
            alice,
            bob,
            cluster,
        }
    }

    fn by(engineer: &Engineer, arguments: &[&str]) -> Ran {
        let pin = engineer.path_text("pin");
        engineer.run(arguments.iter().chain(&["--pin-file", &pin]))
    }

    /// What bob sees.
    fn grants(&self, filters: &[&str]) -> Value {
        let command = [&["grants", "--output", "json"], filters].concat();
        let ran = Self::by(&self.bob, &command).succeeded();
        serde_json::from_str(&ran.stdout).expect("JSON")
    }

    /// Puts objects of the kind Grant into the cluster, as nobody but the signer should; their status with them.
    fn plant(&self, grants: &[Value]) {
        let file = self.cluster.dir().join("planted.json");
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": grants });
        std::fs::write(&file, list.to_string()).expect("write the objects");
        let file = file.display().to_string();
        self.cluster.kubectl_ok(["create", "-f", &file]);
        for grant in grants.iter().filter(|grant| grant["status"].is_object()) {
            let name = grant["metadata"]["name"].as_str().expect("a name");
            let patch = json!({ "status": grant["status"] }).to_string();
            self.cluster.kubectl_ok([
                "patch",
                "grant",
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                &patch,
            ]);
        }
    }
}

fn grant(name: &str, user: &str, reason: &str, status: Value) -> Value {
    json!({
        "apiVersion": "touchstone.dev/v1",
        "kind": "Grant",
        "metadata": { "name": name },
        "spec": {
            "user": user, "groups": ["g"], "reason": reason, "rules": ["r"], "keySha256": "00",
            "request": { "name": "r", "uid": "u", "sha256": "00" }, "cluster": "demo", "ttlSeconds": 600,
            "policySha256": "00", "intents": [],
        },
        "status": status,
    })
}

#[test]
fn whoever_may_look_sees_who_has_access_why_and_for_how_long_and_nobody_else_does() {
    let setting = Setting::new();
    setting.alice.login(GRANTED).succeeded();
    setting.cluster.wait_until("the grant is settled", |_| {
        setting.grants(&[])[0]["state"] == "live"
    });

    let grants = setting.grants(&[]);
    assert_eq!(grants.as_array().map(Vec::len), Some(1), "{grants}");
    let live = &grants[0];
    assert_eq!(live["user"], ALICE);
    assert_eq!(live["groups"], json!([GRANTED]));
    assert_eq!(live["reason"], "INC-4211 checkout latency");
    assert_eq!(live["rules"], json!(["payments on call"]));
    assert_eq!(live["keySerial"], 12_345_678);
    assert_eq!(live["approvers"], json!([]));
    for time in ["since", "until"] {
        assert!(live[time].is_string(), "{live}");
    }
    let printed = Setting::by(&setting.bob, &["grants"]).succeeded().stdout;
    for shown in [ALICE, GRANTED, "INC-4211 checkout latency", "29m"] {
        assert!(printed.contains(shown), "{shown}: {printed}");
    }

    for (filters, found) in [
        (&["--user", ALICE][..], 1),
        (&["--user", BOB], 0),
        (&["--group", GRANTED], 1),
        (&["--group", OF_ANOTHER_TEAM], 0),
        (&["--user", ALICE, "--group", GRANTED, "--all"], 1),
    ] {
        let grants = setting.grants(filters);
        assert_eq!(grants.as_array().map(Vec::len), Some(found), "{filters:?}");
    }

    // alice approves nothing and has no role: what others have is not hers to know.
    Setting::by(&setting.alice, &["grants"]).failed(REFUSED, &[]);
}

#[test]
fn grants_are_read_page_by_page_in_the_order_of_their_ends_and_cannot_drive_the_terminal() {
    let setting = Setting::new();
    let until = |time: &str| json!({ "phase": "Issued", "notAfter": time });
    let mut planted: Vec<Value> = (0..260)
        .map(|number| {
            let mut name = String::from("g-old-");
            write!(name, "{number:03}").expect("a string takes it");
            grant(&name, "carol", "long ago", until("2026-01-01T00:00:00Z"))
        })
        .collect();
    planted.push(grant("g-z", "dave", "first", until("2999-01-01T00:00:00Z")));
    planted.push(grant(
        "g-a",
        "erin",
        "second\u{1b}[2J\u{202e}\ng-b  mallory",
        until("2999-01-02T00:00:00Z"),
    ));
    // The failed come to nothing, and an intent may still become something.
    planted.push(grant("g-failed", "frank", "", json!({ "phase": "Failed" })));
    planted.push(grant("g-intent", "grace", "", Value::Null));
    // What was listed first is not the one that ends first.
    setting.plant(&planted);

    let names = |grants: &Value| -> Vec<String> {
        let all = grants.as_array().expect("a list").iter();
        all.map(|grant| grant["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&setting.grants(&[])), ["g-z", "g-a", "g-intent"]);
    let all = setting.grants(&["--all"]);
    assert_eq!(names(&all).len(), 264);
    assert_eq!(
        names(&all)[259..263],
        ["g-old-259", "g-z", "g-a", "g-failed"]
    );

    let printed = Setting::by(&setting.bob, &["grants"]).succeeded().stdout;
    assert!(!printed.contains('\u{1b}') && !printed.contains('\u{202e}'));
    assert!(printed.contains("second?[2J??g-b  mallory"), "{printed}");
    assert_eq!(printed.lines().count(), 4, "{printed}");
}
