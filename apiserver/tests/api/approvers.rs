//! What approvers may see and say, and nothing else, over TLS.

use serde_json::{Value, json};

use crate::support::{
    network::{Answer, Connection},
    server::ATTESTED,
    target::{REQUESTS, REVIEW, Target},
};

const PASS: (&str, &str) = ("authorization", "Bearer carol.pass.x");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const GRANTS: &str = "/apis/touchstone.dev/v1/grants";

fn metadata(answer: &Answer, field: &str) -> String {
    answer.json()["metadata"][field]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Name and UID of a request of alice's that waits.
async fn waiting(target: &Target) -> (String, String) {
    let mut nobody = target.nobody().await;
    let answer = nobody.post(REQUESTS, &target.request(ATTESTED)).await;
    (metadata(&answer, "name"), metadata(&answer, "uid"))
}

async fn patch(connection: &mut Connection, name: &str, body: &Value) -> Answer {
    let path = format!("{REQUESTS}/{name}");
    connection
        .ask("PATCH", &path, &[PASS, MERGE], body.to_string())
        .await
}

#[tokio::test]
async fn a_pass_lists_what_waits_for_the_signer_and_nothing_else() {
    let target = Target::new().await;
    let (name, _) = waiting(&target).await;
    let mut admin = target.admin().await;
    let other = admin.post(REQUESTS, &target.request("a.example/b")).await;
    let other = metadata(&other, "name");
    let mut nobody = target.nobody().await;
    let listed = |answer: Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().cloned().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let answer = nobody.ask("GET", REQUESTS, &[PASS], "").await;
    assert_eq!(listed(answer), [name.as_str()]);
    let path = format!("{REQUESTS}/{name}");
    assert_eq!(nobody.ask("GET", &path, &[PASS], "").await.code, 200);
    let watch = format!("{REQUESTS}?watch=1&timeoutSeconds=1");
    let answer = nobody.ask("GET", &watch, &[PASS], "").await;
    assert_eq!((answer.code, answer.text.lines().count()), (200, 1));
    // Who has access is theirs to know.
    assert_eq!(nobody.ask("GET", GRANTS, &[PASS], "").await.code, 200);
    for (method, path) in [
        ("GET", format!("{REQUESTS}/{other}")),
        ("GET", format!("{REQUESTS}/nothing")),
        ("PATCH", format!("{REQUESTS}/{other}")),
        ("PATCH", format!("{REQUESTS}/nothing")),
        ("PATCH", format!("{REQUESTS}/{name}/status")),
        ("PATCH", format!("{REQUESTS}/{name}/approval")),
        ("PUT", format!("{REQUESTS}/{name}")),
        ("PUT", format!("{REQUESTS}/{name}/approval")),
        ("DELETE", format!("{REQUESTS}/{name}")),
        ("DELETE", REQUESTS.to_owned()),
        ("POST", REQUESTS.to_owned()),
        ("POST", REVIEW.to_owned()),
        ("GET", "/apis".to_owned()),
        ("GET", "/api/v1/secrets".to_owned()),
        ("POST", GRANTS.to_owned()),
        ("PUT", format!("{GRANTS}/nothing")),
        ("PATCH", format!("{GRANTS}/nothing")),
        ("PATCH", format!("{GRANTS}/nothing/status")),
        ("DELETE", format!("{GRANTS}/nothing")),
        ("DELETE", GRANTS.to_owned()),
    ] {
        let headers: &[_] = if method == "PATCH" {
            &[PASS, MERGE]
        } else {
            &[PASS]
        };
        let answer = nobody.ask(method, &path, headers, "{}").await;
        assert_eq!(answer.code, 403, "{method} {path}: {}", answer.text);
    }
    for wrong in ["Bearer carol.pass.y", "Bearer a.b", "Bearer ..", "Bearer ."] {
        let answer = nobody
            .ask("GET", REQUESTS, &[("authorization", wrong)], "")
            .await;
        assert_eq!(answer.code, 401, "{wrong}");
    }
    // Once it is decided, it is none of theirs.
    let mut request = admin.get(&path).await.json();
    request["status"]["conditions"] = json!([{"type": "Denied", "status": "True"}]);
    let answer = admin
        .ask("PUT", &format!("{path}/approval"), &[], request.to_string())
        .await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!(nobody.ask("GET", &path, &[PASS], "").await.code, 403);
    let answer = nobody.ask("GET", REQUESTS, &[PASS], "").await;
    assert!(listed(answer).is_empty());
}

#[tokio::test]
async fn an_approver_sets_their_own_statement_and_changes_nothing_else() {
    let target = Target::new().await;
    let (name, uid) = waiting(&target).await;
    let mut nobody = target.nobody().await;
    let own = "approval.touchstone.dev/carol";
    let good = format!("{uid} carol");
    let with = |mut body: Value| {
        body["metadata"]["annotations"][own] = json!(good);
        body
    };
    for body in [
        json!({}),
        json!({"metadata": {"annotations": {own: null}}}),
        json!({"metadata": {"annotations": {own: "another"}}}),
        json!({"metadata": {"annotations": {own: format!("{uid} dave")}}}),
        json!({"metadata": {"annotations": {"approval.touchstone.dev/dave": good}}}),
        with(json!({"metadata": {"annotations": {"approval.touchstone.dev/dave": "x"}}})),
        with(json!({"metadata": {"annotations": {"touchstone.dev/waiting-for": "nobody"}}})),
        with(json!({"metadata": {"labels": {"a": "b"}}})),
        with(json!({"metadata": {"finalizers": ["a.example/b"]}})),
        with(
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"}]}}),
        ),
    ] {
        let answer = patch(&mut nobody, &name, &body).await;
        assert!(
            matches!(answer.code, 403 | 422),
            "{body}: {} {}",
            answer.code,
            answer.text
        );
    }
    let mut admin = target.admin().await;
    let path = format!("{REQUESTS}/{name}");
    let before = admin.get(&path).await.json();
    // What the API itself keeps as it is, it keeps for approvers, too.
    let body = with(json!({
        "spec": {"username": "eve"},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]},
    }));
    let answer = patch(&mut nobody, &name, &body).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    let after = admin.get(&path).await.json();
    assert_eq!(after["metadata"]["annotations"], json!({own: good}));
    assert_eq!(
        (&after["spec"], &after["status"]),
        (&before["spec"], &before["status"])
    );
    let stale = with(json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}}));
    assert_eq!(patch(&mut nobody, &name, &stale).await.code, 409);
}

#[tokio::test]
async fn a_certificate_of_an_approver_does_what_a_pass_does_and_that_of_another_does_not() {
    let target = Target::new().await;
    let (name, uid) = waiting(&target).await;
    let path = format!("{REQUESTS}/{name}");
    let own = json!({"metadata": {"annotations": {"approval.touchstone.dev/carol": format!("{uid} carol")}}});
    let mut bob = target.engineer("/CN=bob").await;
    let mut carol = target.engineer("/CN=carol").await;
    for (method, path) in [("GET", REQUESTS), ("GET", path.as_str()), ("PATCH", &path)] {
        let headers: &[_] = if method == "PATCH" { &[MERGE] } else { &[] };
        let answer = bob.ask(method, path, headers, own.to_string()).await;
        assert_eq!(answer.code, 403, "{method} {path}");
        let answer = carol.ask(method, path, headers, own.to_string()).await;
        assert_eq!(answer.code, 200, "{method} {path}: {}", answer.text);
    }
    // Their own requests they read as everyone does, and do not write to but as approvers.
    let answer = carol.post(REQUESTS, &target.request("a.example/b")).await;
    let own = format!("{REQUESTS}/{}", metadata(&answer, "name"));
    assert_eq!(carol.get(&own).await.code, 200);
    let answer = carol.ask("PATCH", &own, &[MERGE], "{}").await;
    assert_eq!(answer.code, 403);
}
