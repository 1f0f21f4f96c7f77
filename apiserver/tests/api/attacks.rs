//! What must not work, over TLS, as an attacker would try it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::SignedDuration;
use serde_json::json;

use crate::support::{
    network::{Answer, Connection},
    server::{ATTESTED, TOKEN},
    target::{REQUESTS, REVIEW, Target},
};

fn who(answer: &Answer) -> (String, Vec<String>) {
    let user = &answer.json()["status"]["userInfo"];
    (
        user["username"].as_str().unwrap().to_owned(),
        serde_json::from_value(user["groups"].clone()).unwrap(),
    )
}

fn name(answer: &Answer) -> String {
    answer.json()["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn bearer(token: [u8; 32]) -> String {
    format!("Bearer {}", URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn forged_headers_and_impersonation_make_no_one_somebody() {
    let target = Target::new().await;
    let forged = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-forwarded-client-cert", "Subject=\"CN=root\""),
    ];
    let answer = target
        .nobody()
        .await
        .ask("GET", REQUESTS, &forged, "")
        .await;
    assert_eq!(answer.code, 403);
    assert!(
        answer
            .text
            .contains("User \\\"system:anonymous\\\" cannot list resource"),
        "{}",
        answer.text
    );
    let mut alice = target.engineer("/CN=alice/O=oncall").await;
    let answer = alice.ask("POST", REVIEW, &forged, "{}").await;
    assert_eq!(
        who(&answer),
        (
            "alice".to_owned(),
            vec!["oncall".to_owned(), "system:authenticated".to_owned()]
        )
    );
    for header in [
        ("impersonate-user", "root"),
        ("Impersonate-Group", "system:masters"),
        ("impersonate-extra-x", "y"),
    ] {
        assert_eq!(alice.ask("POST", REVIEW, &[header], "{}").await.code, 403);
        assert_eq!(
            target
                .admin()
                .await
                .ask("POST", REVIEW, &[header], "{}")
                .await
                .code,
            403
        );
    }
}

#[tokio::test]
async fn a_certificate_with_a_reserved_name_is_refused() {
    let target = Target::new().await;
    for subject in [
        "/CN=alice/O=system:masters",
        "/CN=alice/O=System:Masters",
        "/CN=system:admin/O=oncall",
        "/CN=alice/O=touchstone:signer",
        "/CN=alice/CN=bob/O=oncall",
        "/O=oncall",
        "/CN=alice/OU=x",
        "/CN=alice/O=oncall+O=system:masters",
    ] {
        let answer = target
            .engineer(subject)
            .await
            .post(REVIEW, &json!({}))
            .await;
        assert_eq!(answer.code, 401, "{subject}: {}", answer.text);
    }
    // What an administrator's certificate says of groups does not count.
    let certified = target
        .server
        .pki
        .client(&target.server.administrators, "/CN=root/O=nothing");
    let mut admin = Connection::open(target.address, &target.ca, Some(&certified)).await;
    let (user, groups) = who(&admin.post(REVIEW, &json!({})).await);
    assert_eq!(user, "root");
    assert_eq!(groups, ["system:masters", "system:authenticated"]);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_gets_401_and_not_the_rights_of_nobody() {
    let target = Target::new().await;
    let pki = &target.server.pki;
    let engineers = &target.server.engineers;
    let client = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n";
    let of_another_ca = pki.client(&pki.ca("engineers"), "/CN=alice");
    let for_servers = pki.leaf(engineers, "/CN=alice", 1, "extendedKeyUsage=serverAuth\n");
    let ended = pki.leaf(engineers, "/CN=alice", -1, client);
    // A leaf that signs for another: its holder is no CA.
    let alice = pki.client(engineers, "/CN=alice");
    let mut by_alice = pki.client(&alice, "/CN=root");
    by_alice.certificate.push_str(&alice.certificate);
    for shown in [of_another_ca, for_servers, ended, by_alice] {
        let mut connection = Connection::open(target.address, &target.ca, Some(&shown)).await;
        for path in ["/readyz", REQUESTS] {
            let answer = connection.get(path).await;
            assert_eq!(answer.code, 401);
            assert_eq!(answer.json()["reason"], "Unauthorized");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_ends_while_its_connection_lives_ends_its_rights() {
    let target = Target::new().await;
    let mut alice = target.engineer("/CN=alice").await;
    assert_eq!(alice.post(REVIEW, &json!({})).await.code, 201);
    target.server.clock.advance(SignedDuration::from_hours(25));
    assert_eq!(alice.post(REVIEW, &json!({})).await.code, 401);
}

#[tokio::test]
async fn a_ca_that_is_taken_away_takes_its_holders_along() {
    let target = Target::new().await;
    let mut alice = target.engineer("/CN=alice").await;
    assert_eq!(alice.post(REVIEW, &json!({})).await.code, 201);
    let mut cas = target.server.config().client_cas;
    cas.retain(|ca| ca.kind == touchstone_apiserver::CaKind::Administrators);
    target.server.api.set_client_cas(&cas).unwrap();
    assert_eq!(alice.post(REVIEW, &json!({})).await.code, 401);
}

#[tokio::test]
async fn nobody_reads_anything_but_health_and_creates_only_with_evidence() {
    let target = Target::new().await;
    let mut nobody = target.nobody().await;
    for path in ["/readyz", "/livez", "/healthz", "/version"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        REQUESTS,
        "/api/v1/secrets",
        "/metrics",
        "/openapi/v2",
    ] {
        assert_eq!(nobody.get(path).await.code, 403, "{path}");
    }
    assert_eq!(nobody.post(REVIEW, &json!({})).await.code, 403);
    let refused = nobody.post(REQUESTS, &target.request("a.example/b")).await;
    assert_eq!(refused.code, 403);
    assert!(refused.text.contains("the evidence does not verify"));
    let taken = nobody.post(REQUESTS, &target.request(ATTESTED)).await;
    assert_eq!(taken.code, 201);
    assert_eq!(taken.json()["spec"]["username"], "alice");
    assert_eq!(
        taken.json()["spec"]["extra"]["touchstone.dev/serial"],
        json!(["1"])
    );
}

#[tokio::test]
async fn a_token_reads_the_request_it_was_made_for_and_nothing_else() {
    let target = Target::new().await;
    let mut nobody = target.nobody().await;
    let own = name(&nobody.post(REQUESTS, &target.request(ATTESTED)).await);
    let other = name(
        &target
            .engineer("/CN=bob")
            .await
            .post(REQUESTS, &target.request("a.example/b"))
            .await,
    );
    let authorization = bearer(TOKEN);
    let headers = [("authorization", authorization.as_str())];
    let answer = nobody
        .ask("GET", &format!("{REQUESTS}/{own}"), &headers, "")
        .await;
    assert_eq!(answer.code, 200);
    assert!(!answer.text.contains(&URL_SAFE_NO_PAD.encode(TOKEN)));
    let watch = format!("{REQUESTS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{own}");
    let answer = nobody.ask("GET", &watch, &headers, "").await;
    assert_eq!(answer.code, 200);
    assert!(answer.text.starts_with("{\"type\":\"ADDED\"") && answer.text.lines().count() == 1);
    for (method, path) in [
        ("GET", format!("{REQUESTS}/{other}")),
        ("GET", format!("{REQUESTS}/nothing")),
        ("GET", REQUESTS.to_owned()),
        ("GET", format!("{REQUESTS}?watch=1")),
        (
            "GET",
            format!("{REQUESTS}?watch=1&fieldSelector=metadata.name%3D{other}"),
        ),
        (
            "GET",
            format!("{REQUESTS}?fieldSelector=metadata.name%3D{own}"),
        ),
        ("GET", format!("{REQUESTS}/{own}/status")),
        ("DELETE", format!("{REQUESTS}/{own}")),
        ("PUT", format!("{REQUESTS}/{own}")),
        ("POST", REQUESTS.to_owned()),
        ("POST", REVIEW.to_owned()),
        ("GET", "/apis".to_owned()),
        ("GET", "/api/v1/secrets".to_owned()),
    ] {
        let answer = nobody.ask(method, &path, &headers, "{}").await;
        assert_eq!(answer.code, 403, "{method} {path}: {}", answer.text);
    }
    for wrong in [
        bearer([8; 32]),
        "Bearer x".to_owned(),
        "Basic cm9vdDpyb290".to_owned(),
        "Bearer ".to_owned(),
    ] {
        let answer = nobody
            .ask(
                "GET",
                &format!("{REQUESTS}/{own}"),
                &[("authorization", &wrong)],
                "",
            )
            .await;
        assert_eq!(answer.code, 401, "{wrong}");
    }
    // Made again under the same name, it is another's.
    assert_eq!(
        target
            .admin()
            .await
            .ask("DELETE", &format!("{REQUESTS}/{own}"), &[], "")
            .await
            .code,
        200
    );
    let mut again = target.request("a.example/b");
    again["metadata"] = json!({"name": own});
    assert_eq!(
        target
            .engineer("/CN=bob")
            .await
            .post(REQUESTS, &again)
            .await
            .code,
        201
    );
    assert_eq!(
        nobody
            .ask("GET", &format!("{REQUESTS}/{own}"), &headers, "")
            .await
            .code,
        401
    );
}

#[tokio::test]
async fn an_engineer_is_who_the_certificate_says_and_reads_only_their_own() {
    let target = Target::new().await;
    let mut alice = target.engineer("/CN=alice/O=oncall").await;
    let mut injected = target.request("a.example/b");
    injected["spec"]["username"] = json!("root");
    injected["spec"]["groups"] = json!(["system:masters"]);
    injected["spec"]["uid"] = json!("0");
    injected["spec"]["extra"] = json!({"x": ["y"]});
    injected["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "AAAA"});
    injected["metadata"]["uid"] = json!("mine");
    injected["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    let created = alice.post(REQUESTS, &injected).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let object = created.json();
    assert_eq!(object["spec"]["username"], "alice");
    assert_eq!(
        object["spec"]["groups"],
        json!(["oncall", "system:authenticated"])
    );
    assert_eq!(object["spec"].get("uid"), None);
    assert_eq!(object["spec"].get("extra"), None);
    assert_eq!(object["status"], json!({}));
    assert_ne!(object["metadata"]["uid"], "mine");
    assert_ne!(
        object["metadata"]["creationTimestamp"],
        "2001-01-01T00:00:00Z"
    );

    let own = format!("{REQUESTS}/{}", name(&created));
    assert_eq!(alice.get(&own).await.code, 200);
    assert_eq!(target.engineer("/CN=bob").await.get(&own).await.code, 403);
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "AAAA"}});
    let patch = [("content-type", "application/merge-patch+json")];
    for (method, path) in [
        ("PATCH", format!("{own}/approval")),
        ("PATCH", format!("{own}/status")),
        ("PATCH", own.clone()),
        ("PUT", format!("{own}/approval")),
        ("PUT", format!("{own}/status")),
        ("DELETE", own.clone()),
        ("DELETE", REQUESTS.to_owned()),
    ] {
        let answer = alice.ask(method, &path, &patch, approved.to_string()).await;
        assert_eq!(answer.code, 403, "{method} {path}");
    }
    for path in [
        "/api/v1/namespaces/default/secrets/ca",
        "/apis/touchstone.dev/v1/grants",
        "/api/v1/events",
        "/metrics",
    ] {
        assert_eq!(alice.get(path).await.code, 403, "{path}");
    }
}

#[tokio::test]
async fn an_access_review_says_what_is_true() {
    let target = Target::new().await;
    let mut alice = target.engineer("/CN=alice").await;
    let own = name(&alice.post(REQUESTS, &target.request("a.example/b")).await);
    let other = name(
        &target
            .engineer("/CN=bob")
            .await
            .post(REQUESTS, &target.request("a.example/b"))
            .await,
    );
    for (verb, resource, subresource, object, allowed) in [
        ("create", "certificatesigningrequests", "", "", true),
        ("get", "certificatesigningrequests", "", own.as_str(), true),
        (
            "get",
            "certificatesigningrequests",
            "",
            other.as_str(),
            false,
        ),
        ("list", "certificatesigningrequests", "", "", false),
        (
            "update",
            "certificatesigningrequests",
            "approval",
            own.as_str(),
            false,
        ),
        ("*", "*", "", "", false),
    ] {
        let review = json!({"spec": {"resourceAttributes": {
            "group": "certificates.k8s.io", "verb": verb, "resource": resource, "subresource": subresource, "name": object,
        }}});
        let answer = alice
            .post(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                &review,
            )
            .await;
        assert_eq!(
            answer.json()["status"]["allowed"],
            allowed,
            "{verb} {resource} {object}"
        );
    }
}
