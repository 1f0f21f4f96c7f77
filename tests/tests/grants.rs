//! Who has access, and who no longer: `touchstone grants` and `touchstone revoke`, and RoleBindings of a grant's own.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use touchstone_tests::{
    cluster::{Cluster, kubectl},
    colleagues::{self, ALICE, BOB, CAROL},
    engineer::{Engineer, Ran},
    policy::{GRANTED, OF_ANOTHER_TEAM},
};

const OTHER: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 9;
const NAMESPACE: &str = "payments";
const ROLE: &str = "jit-debug";
/// An administrator of the cluster, in `system:masters`, who is no operator of Touchstone.
const ROOT: &str = "root@example.com";

/// alice of `payments`, who is granted access, and bob of `billing`, who looks, and revokes by carol's credential.
struct Setting {
    alice: Engineer,
    bob: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        Self::with_policy(|policy| policy)
    }

    /// With a rule whose grants have a group of their own, and the namespace in which it is bound.
    fn with_bindings() -> Self {
        let setting = Self::with_policy(|policy| {
            let rule = "    maxTTL: 30m\n    reason:";
            let binding = format!(
                "    binding: {{ perGrant: {{ clusterRole: {ROLE}, namespaces: [{NAMESPACE}] }} }}\n"
            );
            assert!(policy.contains(rule));
            policy.replacen(rule, &(binding + rule), 1)
        });
        let cluster = &setting.cluster;
        cluster.kubectl_ok(["create", "namespace", NAMESPACE]);
        if !cluster.is_embedded() {
            cluster.kubectl_ok([
                "create",
                "clusterrole",
                ROLE,
                "--verb=get",
                "--resource=pods/log",
            ]);
            let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/per-grant.yaml");
            cluster.kubectl_ok(["apply", "-f", manifest]);
        }
        setting
    }

    fn with_policy(change: impl FnOnce(String) -> String) -> Self {
        let (alice, bob, cluster) = colleagues::with_policy(change);
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

    /// The RoleBindings of grants, by name.
    fn role_bindings(&self) -> Vec<Value> {
        let arguments = ["get", "rolebindings", "-n", NAMESPACE, "-o", "json"];
        let printed = self.cluster.kubectl_ok(arguments);
        let list: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
        let all = list["items"].as_array().expect("a list").iter();
        all.filter(|binding| binding["metadata"]["labels"]["touchstone.dev/grant"].is_string())
            .cloned()
            .collect()
    }

    /// Whether the cluster lets alice read logs in the namespace, with this group.
    fn may(&self, group: &str) -> bool {
        let arguments = [
            "auth",
            "can-i",
            "get",
            "pods",
            "--subresource=log",
            "-n",
            NAMESPACE,
            "--as",
            ALICE,
            "--as-group",
            group,
        ];
        self.cluster.kubectl(arguments).status.success()
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
        let mut by_status: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for grant in grants.iter().filter(|grant| grant["status"].is_object()) {
            let name = grant["metadata"]["name"].as_str().expect("a name");
            let patch = json!({ "status": grant["status"] }).to_string();
            by_status.entry(patch).or_default().push(name);
        }
        for (patch, names) in by_status {
            let status = ["--subresource=status", "--type=merge", "-p", &patch];
            let arguments = ["patch", "grant"].into_iter().chain(names).chain(status);
            self.cluster.kubectl_ok(arguments);
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
    for shown in [ALICE, GRANTED, "INC-4211 checkout latency", "29m", "live"] {
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
            let name = format!("g-old-{number:03}");
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

#[test]
fn a_grant_with_a_binding_of_its_own_opens_a_role_until_it_is_revoked_and_revoking_says_what_stays()
{
    let setting = Setting::with_bindings();
    let ran = setting.alice.login(GRANTED).succeeded();
    assert!(ran.stdout.contains("is this grant's own"), "{ran}");
    setting.cluster.wait_until("the grant is settled", |_| {
        setting.grants(&[])[0]["state"] == "live"
    });
    let grant = setting.grants(&[])[0].clone();
    let name = grant["name"].as_str().expect("a name");
    let group = format!(
        "touchstone:grant:{}",
        name.strip_prefix("g-").expect("a grant's name")
    );
    assert_eq!(grant["groups"], json!([GRANTED, group]));
    let bindings = setting.role_bindings();
    assert_eq!(bindings.len(), 1, "{bindings:?}");
    assert_eq!(bindings[0]["subjects"][0]["name"], group.as_str());
    let binding = format!("{NAMESPACE}/touchstone-{name}-0");
    if !setting.cluster.is_embedded() {
        assert!(setting.may(&group));
        assert!(!setting.may(GRANTED));
    }
    // A second login goes on with the certificate that is kept, and asks for no group of a grant.
    let status = setting
        .alice
        .run(["status", "--output", "json"])
        .succeeded();
    assert!(status.stdout.contains(&group));

    // Who has no credential but a key revokes nothing, and who has no right to is refused.
    let revoke = ["revoke", name, "--yes", "--reason", "laptop stolen\u{7f}"];
    Setting::by(&setting.bob, &revoke).failed(USAGE, &[]);
    let revoke = [
        "revoke",
        name,
        "--yes",
        "--reason",
        "laptop stolen",
        "--output",
        "json",
    ];
    if !setting.cluster.is_embedded() {
        colleagues::with_credential(&setting.alice, &setting.cluster, ALICE);
        Setting::by(&setting.alice, &revoke).failed(REFUSED, &["403"]);
    }
    colleagues::with_credential(&setting.bob, &setting.cluster, CAROL);
    let dry = ["revoke", name, "--dry-run"];
    let ran = Setting::by(&setting.bob, &dry).succeeded();
    for said in [
        binding.as_str(),
        "Kubernetes knows no revocation",
        "port-forward",
        "would remove",
    ] {
        assert!(format!("{ran}").contains(said), "{said}: {ran}");
    }
    assert_eq!(setting.role_bindings().len(), 1);

    let ran = Setting::by(&setting.bob, &revoke).succeeded();
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["removed"], json!([binding]));
    assert!(report["validUntil"].is_string(), "{report}");
    assert!(setting.role_bindings().is_empty());
    if !setting.cluster.is_embedded() {
        assert!(!setting.may(&group));
    }
    let revoked = setting.grants(&[])[0].clone();
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(revoked["revocationReason"], "laptop stolen");
    let by = if setting.cluster.is_embedded() {
        "touchstone-admin"
    } else {
        CAROL
    };
    assert_eq!(revoked["revokedBy"], by);
    // Once more changes nothing, and one that is not there is not revoked.
    Setting::by(&setting.bob, &revoke).succeeded();
    Setting::by(&setting.bob, &["revoke", "g-none", "--yes"]).failed(REFUSED, &["404"]);
    setting.plant(&[grant_of("g-over", json!({ "phase": "Failed" }))]);
    Setting::by(&setting.bob, &["revoke", "g-over", "--yes"]).failed(OTHER, &["came to nothing"]);
}

fn grant_of(name: &str, status: Value) -> Value {
    grant(name, "carol", "", status)
}

#[test]
fn whoever_may_revoke_can_write_nothing_else_into_a_grant_and_nobody_revokes_under_another_name() {
    let setting = Setting::new();
    if setting.cluster.is_embedded() {
        // It lets none but administrators write to grants.
        return;
    }
    let mut planted = grant_of(
        "g-1",
        json!({ "phase": "Issued", "notAfter": "2999-01-01T00:00:00Z" }),
    );
    planted["metadata"]["annotations"] = json!({ "example.com/note": "x" });
    setting.plant(&[planted]);
    let patch_by = |account: &str, patch: &Value| {
        let patch = patch.to_string();
        let patch = ["patch", "grant", "g-1", "--type=merge", "-p", &patch];
        Ran::of(kubectl(&setting.cluster.kubeconfig_of(account)).args(patch))
    };
    let refused = |account: &str, patch: &Value, words: &str| {
        let ran = patch_by(account, patch);
        assert_ne!(ran.code, Some(0), "{patch}: {ran}");
        assert!(ran.stderr.contains(words), "{patch}: {ran}");
    };
    let revoked_by = |name: &str| json!({ "touchstone.dev/revoked-by": name });
    let annotations = |annotations: &Value| json!({ "metadata": { "annotations": annotations } });
    // What a revocation by carol would carry beside itself.
    let beside = |metadata: &[(&str, Value)], further: &[(&str, Value)]| {
        let mut patch = annotations(&revoked_by(CAROL));
        for (key, value) in metadata {
            patch["metadata"][key] = value.clone();
        }
        for (key, value) in further {
            patch["metadata"]["annotations"][key] = value.clone();
        }
        patch
    };
    let owner = json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "1" }]);
    let nothing_else = "changes nothing but annotations";
    let mut other_user = annotations(&revoked_by(CAROL));
    other_user["spec"] = json!({ "user": "mallory" });
    let long = "x".repeat(2049);
    for (patch, words) in [
        (
            json!({ "spec": { "user": "mallory" } }),
            "names who revokes",
        ),
        (
            annotations(&json!({ "touchstone.dev/revocation-reason": "no name" })),
            "names who revokes",
        ),
        (annotations(&revoked_by(ALICE)), "and nobody else"),
        (other_user, nothing_else),
        (
            beside(&[("labels", json!({ "a": "b" }))], &[]),
            nothing_else,
        ),
        (
            beside(&[("finalizers", json!(["a.b/c"]))], &[]),
            nothing_else,
        ),
        (beside(&[("ownerReferences", owner)], &[]), nothing_else),
        (beside(&[], &[("a", "b".into())]), "a revocation sets"),
        (
            beside(&[], &[("example.com/note", "y".into())]),
            "a revocation sets",
        ),
        (
            beside(&[], &[("touchstone.dev/revocation-reason", long.into())]),
            "of 2 KiB at most",
        ),
        (
            beside(&[], &[("example.com/note", Value::Null)]),
            "takes no annotations away",
        ),
    ] {
        refused(CAROL, &patch, words);
    }
    // Nor does whoever may do everything else.
    refused(
        ROOT,
        &json!({ "spec": { "user": "mallory" } }),
        "names who revokes",
    );
    let reason = [("touchstone.dev/revocation-reason", "stolen".into())];
    patch_by(CAROL, &beside(&[], &reason)).succeeded();
    // It stays, and stays as it is.
    for account in [CAROL, ROOT] {
        let taken_back = json!({ "touchstone.dev/revoked-by": Value::Null });
        refused(account, &annotations(&taken_back), "names who revokes");
        let later = json!({ "touchstone.dev/revocation-reason": "later" });
        refused(account, &annotations(&later), "stays as it is");
    }
    refused(ROOT, &annotations(&revoked_by(ROOT)), "stays as it is");

    // Operators may, for a restore. What is being deleted is let go by whoever keeps it.
    let restored = json!({ "spec": { "user": "carol" }, "metadata": { "finalizers": ["a.b/c"] } });
    patch_by("admin", &restored).succeeded();
    let delete = ["delete", "grant", "g-1", "--wait=false"];
    setting.cluster.kubectl_ok(delete);
    patch_by(ROOT, &json!({ "metadata": { "finalizers": [] } })).succeeded();
    let gone = setting.cluster.kubectl(["get", "grant", "g-1"]);
    assert!(!gone.status.success());
}
