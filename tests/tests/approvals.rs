//! Requests that wait, and people who approve or deny them with their own YubiKeys.

use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_tests::{
    cluster::Cluster,
    colleagues::{self, ALICE, BOB},
    engineer::{Engineer, Ran},
    policy::MANUAL,
    pty::Session,
};

const OTHER: i32 = 1;
const DENIED: i32 = 7;
const WAITING: i32 = 8;
const REFUSED: i32 = 9;

/// alice of `payments`, who asks, and bob of `billing`, who approves.
struct Setting {
    alice: Engineer,
    bob: Engineer,
    cluster: Cluster,
}

impl Setting {
    fn new() -> Self {
        Self::with_policy(|policy| policy)
    }

    fn with_policy(change: impl FnOnce(String) -> String) -> Self {
        let (alice, bob, cluster) = colleagues::with_policy(change);
        Self {
            alice,
            bob,
            cluster,
        }
    }

    fn configure(&self) {
        colleagues::configure(&self.alice, &self.bob, &self.cluster);
    }

    /// alice asks and does not wait; the request's name.
    fn ask(&self, groups: &[&str]) -> String {
        let mut login = self.alice.login_command(groups[0]);
        for group in groups.iter().skip(1) {
            login.args(["--group", group]);
        }
        let asked = Ran::of(login.args(["--no-wait", "--output", "json"])).succeeded();
        let asked: Value = serde_json::from_str(&asked.stdout).expect("JSON");
        let name = asked["request"].as_str().expect("a name").to_owned();
        self.cluster
            .wait_until("the signer says what it waits for", |_| {
                self.annotation(&name, "touchstone.dev/waiting-for") != Value::Null
            });
        name
    }

    /// alice fetches her certificate.
    fn resume(&self, timeout: &str) -> Ran {
        let pin = self.alice.path_text("pin");
        let resume = [
            "login",
            "--cluster",
            "demo",
            "--resume",
            "--timeout",
            timeout,
        ];
        self.alice.run(resume.iter().chain(&["--pin-file", &pin]))
    }

    fn by(engineer: &Engineer, arguments: &[&str]) -> Ran {
        let pin = engineer.path_text("pin");
        engineer.run(arguments.iter().chain(&["--pin-file", &pin]))
    }

    fn request(&self, name: &str) -> Value {
        let printed = self.cluster.kubectl_ok(["get", "csr", name, "-o", "json"]);
        serde_json::from_str(&printed).expect("kubectl prints JSON")
    }

    fn annotation(&self, name: &str, key: &str) -> Value {
        self.request(name)["metadata"]["annotations"][key].clone()
    }

    fn waits_for(&self, name: &str) -> String {
        let words = self.annotation(name, "touchstone.dev/waiting-for");
        words.as_str().unwrap_or_default().to_owned()
    }

    /// The annotation that carries a statement: key and text.
    fn statement(&self, name: &str) -> (String, String) {
        let request = self.request(name);
        let annotations = request["metadata"]["annotations"]
            .as_object()
            .expect("annotations");
        let found = annotations
            .iter()
            .find(|(key, _)| key.starts_with("approval.touchstone.dev/"));
        let (key, text) = found.expect("a statement");
        (key.clone(), text.as_str().expect("text").to_owned())
    }

    fn wait_until_it_waits_for(&self, name: &str, words: &str) {
        self.cluster
            .wait_until(words, |_| self.waits_for(name).contains(words));
    }

    fn grants(&self) -> Vec<Value> {
        let list = self.cluster.kubectl_ok(["get", "grants", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    fn audit(&self) -> String {
        let data = self.cluster.files().data.display().to_string();
        let signer = touchstone_tests::child::program("touchstone-signer");
        Ran::of(Command::new(signer).args(["audit", "verify", "--data", &data])).succeeded();
        fs::read_to_string(self.cluster.files().data.join("audit.jsonl")).expect("read the log")
    }

    /// Puts a changed policy in force.
    fn change_policy(&self, change: impl FnOnce(&str) -> String) {
        let file = &self.cluster.files().policy;
        let before = fs::read_to_string(file).expect("read the policy");
        let after = change(&before);
        assert_ne!(before, after);
        fs::write(file, after).expect("write the policy");
    }
}

#[test]
fn a_request_is_granted_when_another_engineers_yubikey_approves_it_and_a_bare_approval_changes_nothing()
 {
    let mut setting = Setting::new();
    let name = setting.ask(&[MANUAL]);
    setting
        .cluster
        .kubectl_ok(["certificate", "approve", &name]);

    let ran = Setting::by(&setting.bob, &["requests", "--output", "json"]).succeeded();
    let rows: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    assert_eq!(rows[0]["name"], name.as_str());
    assert_eq!(rows[0]["user"], ALICE);
    assert_eq!(rows[0]["groups"], json!([MANUAL]));
    assert_eq!(rows[0]["reason"], "INC-4211 checkout latency");
    let waits_for = rows[0]["waitsFor"].as_str().expect("what it waits for");
    assert!(
        waits_for.starts_with("1 approval from team billing (for 30m, by rule \"cluster read\")"),
        "{waits_for}"
    );
    assert!(rows[0]["waitsUntil"].is_string(), "{rows}");

    // Waiting survives the signer.
    setting.cluster.kill_signer();
    setting.cluster.start_signer();
    setting.configure();
    setting.resume("2s").failed(
        WAITING,
        &["Waiting for 1 approval from team billing", "min left"],
    );

    let comment = ["--comment", "seen the change", "--yes"];
    let approve = ["approve", &name, "--output", "json"];
    let ran = Setting::by(&setting.bob, &[&approve[..], &comment].concat()).succeeded();
    for shown in [
        ALICE,
        MANUAL,
        "INC-4211 checkout latency",
        "YubiKey 12345678",
        "30m",
    ] {
        assert!(ran.stderr.contains(shown), "{shown}: {ran}");
    }
    let said: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(said["decision"], "approve");
    assert_eq!(said["key"]["yubikey"], 12_345_678);
    let source = said["blastRadius"]["source"].as_str();
    let expected = if setting.cluster.is_embedded() {
        "unknown"
    } else {
        "bindings"
    };
    assert_eq!(source, Some(expected), "{said}");

    let before = Instant::now();
    setting.resume("60s").succeeded();
    assert!(before.elapsed() < Duration::from_secs(60));
    setting.cluster.wait_until("the grant is settled", |_| {
        setting
            .grants()
            .iter()
            .all(|g| g["status"]["phase"] == "Issued")
    });
    let grants = setting.grants();
    assert_eq!(grants.len(), 1);
    let spec = &grants[0]["spec"];
    assert_eq!(spec["approvers"], json!([BOB]));
    assert_eq!(spec["approvals"][0]["keySerial"], 23_456_789);
    assert_eq!(spec["unsignedApproval"], Value::Null);
    let (_, statement) = setting.statement(&name);
    assert!(
        setting.audit().contains(&statement),
        "the proof outlives the request"
    );
    let ran = Setting::by(&setting.bob, &["approve", &name, "--yes"]);
    // Over: whoever sees it is told so, and the embedded API shows it no more.
    if setting.cluster.is_embedded() {
        ran.failed(REFUSED, &["403"]);
    } else {
        ran.failed(OTHER, &["was granted"]);
    }
}

#[test]
fn a_signed_no_denies_at_once_and_the_engineer_reads_why() {
    let setting = Setting::new();
    let name = setting.ask(&[MANUAL]);
    Setting::by(
        &setting.bob,
        &["deny", &name, "--comment", "not during the freeze", "--yes"],
    )
    .succeeded();
    setting.resume("60s").failed(
        DENIED,
        &["bob@example.com says no", "not during the freeze"],
    );
    assert!(setting.grants().is_empty());
    assert!(setting.audit().contains("DeniedByApprover"));
}

#[test]
fn a_wait_ends_as_the_policy_says_and_so_does_that_of_a_request_with_a_bare_approval() {
    let setting = Setting::with_policy(|policy| {
        let manual = "decision: manual\n";
        assert!(policy.contains(manual));
        policy.replacen(manual, "decision: manual\n    waitFor: 12s\n", 1)
    });
    let name = setting.ask(&[MANUAL]);
    setting
        .resume("60s")
        .failed(DENIED, &["waits for 12s", "log in again"]);
    assert_eq!(
        setting.request(&name)["status"]["conditions"][0]["reason"],
        "WaitEnded"
    );

    let name = setting.ask(&[MANUAL]);
    setting
        .cluster
        .kubectl_ok(["certificate", "approve", &name]);
    setting.cluster.wait_until("it fails", |_| {
        let request = setting.request(&name);
        let conditions = request["status"]["conditions"].as_array().cloned();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Failed" && condition["reason"] == "WaitEnded")
    });
    assert!(setting.grants().is_empty());
}

#[test]
fn an_approver_who_is_removed_while_it_waits_counts_no_more() {
    let bare = "jit:oncall:bare";
    let setting = Setting::with_policy(|policy| {
        policy
            + &format!(
                "  - name: bare\n    who: {{ teams: [payments] }}\n    groups: [\"{bare}\"]\n    decision: manual\n    approvals: kubernetes\n"
            )
    });
    let name = setting.ask(&[MANUAL, bare]);
    Setting::by(&setting.bob, &["approve", &name, "--yes"]).succeeded();
    setting.wait_until_it_waits_for(&name, "waiting for an approval in Kubernetes");
    assert!(
        setting
            .waits_for(&name)
            .contains("approved by bob@example.com")
    );

    setting.change_policy(|policy| policy.replace(&format!("\"{BOB}\""), "\"bobby@example.com\""));
    setting.wait_until_it_waits_for(&name, "bob@example.com is not a user of this policy");
    setting
        .cluster
        .kubectl_ok(["certificate", "approve", &name]);
    setting.wait_until_it_waits_for(&name, "waiting for 1 approval from team billing (");
    thread::sleep(Duration::from_secs(1));
    assert!(setting.grants().is_empty());

    setting.change_policy(|policy| policy.replace("\"bobby@example.com\"", &format!("\"{BOB}\"")));
    setting.resume("60s").succeeded();
    let spec = &setting.grants()[0]["spec"];
    assert_eq!(spec["approvers"], json!([BOB]));
    assert_eq!(spec["unsignedApproval"], true);
}

#[test]
fn a_statement_that_was_moved_or_changed_counts_for_nothing() {
    let setting = Setting::new();
    let first = setting.ask(&[MANUAL]);
    Setting::by(&setting.bob, &["approve", &first, "--yes"]).succeeded();
    setting.resume("60s").succeeded();
    let (key, text) = setting.statement(&first);

    let second = setting.ask(&[MANUAL]);
    let annotate = |text: &str| {
        let value = format!("{key}={text}");
        setting
            .cluster
            .kubectl_ok(["annotate", "--overwrite", "csr", &second, &value]);
    };
    annotate(&text);
    setting.wait_until_it_waits_for(&second, "bob@example.com is about another request");
    let unsigned = text.rsplit_once('.').expect("three parts").0.to_owned() + ".";
    annotate(&unsigned);
    setting.wait_until_it_waits_for(&second, "has a signature that does not verify");
    annotate("eyJhbGciOiJub25lIn0.e30.");
    setting.wait_until_it_waits_for(&second, "has a header that is not read");
    setting.resume("1s").failed(WAITING, &["--resume"]);
    assert_eq!(setting.grants().len(), 1);

    // And keeps nobody from approving.
    Setting::by(&setting.bob, &["approve", &second, "--yes"]).succeeded();
    setting.resume("60s").succeeded();
}

#[test]
fn nobody_approves_for_themselves_and_who_may_not_approve_is_told() {
    let setting = Setting::new();
    let name = setting.ask(&[MANUAL]);
    let ran = Setting::by(&setting.alice, &["approve", &name, "--yes"]);
    if setting.cluster.is_embedded() {
        ran.failed(REFUSED, &["approves nothing in this policy"]);
        Setting::by(&setting.alice, &["requests"])
            .failed(REFUSED, &["approves nothing in this policy"]);
    } else {
        ran.failed(OTHER, &["nobody approves for themselves"]);
    }
    Setting::by(&setting.bob, &["approve", "no-such-request", "--yes"]).failed(REFUSED, &[]);
    Setting::by(&setting.bob, &["approve", "../secrets", "--yes"])
        .failed(2, &["touchstone requests"]);
    let no_comment = Setting::by(&setting.bob, &["deny", &name, "--yes"]);
    no_comment.failed(2, &["--comment"]);
    // Without a terminal to confirm on, nothing is signed.
    Setting::by(&setting.bob, &["approve", &name]).failed(5, &["--yes"]);
    assert!(
        setting
            .waits_for(&name)
            .contains("1 approval from team billing")
    );
}

/// On a cluster, RBAC lets approvers patch requests; the admission policy of deploy/base/admission/statements.yaml says what.
#[test]
fn an_approver_writes_statements_to_a_request_and_nothing_else() {
    let setting = Setting::new();
    if setting.cluster.is_embedded() {
        // Its own rules: apiserver/tests/api/approvers.rs.
        return;
    }
    let name = setting.ask(&[MANUAL]);
    let arguments = setting.cluster.client_arguments(BOB);
    let patch = |patch: Value| {
        let output = touchstone_tests::cluster::kubectl(arguments[1].as_ref())
            .args([
                "patch",
                "csr",
                &name,
                "--type=merge",
                "-p",
                &patch.to_string(),
            ])
            .output()
            .expect("run kubectl");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    };
    // The policy is in force a moment after it is created.
    setting
        .cluster
        .wait_until("the admission policy denies", |_| {
            patch(json!({"metadata": {"labels": {"a": "b"}}})).is_err()
        });
    for (body, why) in [
        (json!({"metadata": {"labels": {"c": "d"}}}), "no labels"),
        (
            json!({"metadata": {"finalizers": ["a.example/b"]}}),
            "finalizers",
        ),
        (
            json!({"metadata": {"annotations": {"touchstone.dev/waiting-for": "x"}}}),
            "sets annotations that begin",
        ),
        (
            json!({"metadata": {"annotations": {"touchstone.dev/waiting-for": null}}}),
            "takes no annotations away",
        ),
        (
            json!({"metadata": {"annotations": {"approval.touchstone.dev/x": "x".repeat(16_385)}}}),
            "16 KiB",
        ),
    ] {
        let said = patch(body.clone()).expect_err("it is denied");
        assert!(said.contains(why), "{body}: {said}");
    }
    patch(json!({"metadata": {"annotations": {"approval.touchstone.dev/x": "x"}}}))
        .expect("it is taken");
    let mallory = touchstone_tests::cluster::kubectl(
        setting.cluster.client_arguments("mallory@example.com")[1].as_ref(),
    )
    .args(["annotate", "csr", &name, "approval.touchstone.dev/y=y"])
    .output()
    .expect("run kubectl");
    assert!(
        !mallory.status.success(),
        "without the role, nothing is written"
    );
}

#[test]
fn an_approver_is_shown_what_is_asked_and_a_no_on_the_terminal_signs_nothing() {
    let setting = Setting::new();
    let name = setting.ask(&[MANUAL]);
    let pin = setting.bob.path_text("pin");
    let approve = || {
        let command = setting
            .bob
            .touchstone(["approve", &name, "--pin-file", &pin]);
        let mut session = Session::start(&command);
        session.wait_for("would open:");
        session.wait_for("Approve this with your YubiKey? [y/N] ");
        session
    };
    let mut session = approve();
    session.type_line("n");
    session
        .end()
        .with(OTHER, &[ALICE, MANUAL, "nothing was signed"]);
    let request = setting.request(&name);
    assert!(
        !request["metadata"]["annotations"]
            .to_string()
            .contains("approval.touchstone.dev/"),
        "{request}"
    );
    let mut session = approve();
    session.type_line("y");
    session.end().with(0, &["approved:", "counts until:"]);
    setting.resume("60s").succeeded();
}
