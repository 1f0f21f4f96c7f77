//! What is not right is refused in Kubernetes' words, and costs no one else anything.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{
    network::tls,
    server::{ATTESTED, request},
    target::{REQUESTS, Target},
};

#[tokio::test]
async fn bodies_and_names_that_are_not_right_are_refused_and_the_server_lives() {
    let target = Target::new().await;
    let mut admin = target.admin().await;
    let named = |name: &str| {
        let mut request = target.request("a.example/b");
        request["metadata"] = json!({"name": name});
        request.to_string()
    };
    let mut strict = target.request("a.example/b");
    strict["spec"]["surprise"] = json!(1);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for (path, content_type, body, code) in [
        (REQUESTS, "application/json", "{".to_owned(), 400),
        (REQUESTS, "application/json", deep, 400),
        (REQUESTS, "application/json", "[]".to_owned(), 400),
        (
            REQUESTS,
            "application/json",
            "{\"spec\": 7}".to_owned(),
            400,
        ),
        (
            REQUESTS,
            "application/json",
            "{\"kind\": \"Secret\"}".to_owned(),
            400,
        ),
        (REQUESTS, "application/yaml", "a: b".to_owned(), 415),
        (
            REQUESTS,
            "application/vnd.kubernetes.protobuf",
            "k8s\0".to_owned(),
            415,
        ),
        (
            REQUESTS,
            "application/vnd.kubernetes.protobuf",
            "{}".to_owned(),
            400,
        ),
        (REQUESTS, "application/json", named("../../etc/passwd"), 422),
        (REQUESTS, "application/json", named("UPPER"), 422),
        (REQUESTS, "application/json", named("a b"), 422),
        (REQUESTS, "application/json", named(&"a".repeat(254)), 422),
        (REQUESTS, "application/json", named(""), 422),
        (
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?fieldValidation=Strict",
            "application/json",
            strict.to_string(),
            400,
        ),
        (
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?dryRun=Some",
            "application/json",
            named("a"),
            400,
        ),
        (
            "/apis/certificates.k8s.io/v1/namespaces/default/certificatesigningrequests",
            "application/json",
            named("a"),
            404,
        ),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            "application/json",
            "{\"metadata\": {\"name\": \"a\"}}".to_owned(),
            404,
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            "application/json",
            "{\"metadata\": {\"name\": \"a\", \"namespace\": \"kube-system\"}}".to_owned(),
            400,
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            "application/json",
            "{\"metadata\": {\"name\": \"a\", \"finalizers\": [\"x\"]}}".to_owned(),
            422,
        ),
    ] {
        let answer = admin
            .ask(
                "POST",
                path,
                &[("content-type", content_type)],
                body.clone(),
            )
            .await;
        assert_eq!(answer.code, code, "{path} {:.80}: {}", body, answer.text);
        assert_eq!(answer.json()["kind"], "Status");
    }
    for path in [
        "/api/v1/namespaces/default/secrets/..%2f..%2fca",
        "/api/v1/namespaces/default/../kube-system/secrets",
        "/api/v1/namespaces/%2e%2e/secrets/a",
        "/apis/certificates.k8s.io/v1//certificatesigningrequests",
        "/apis/certificates.k8s.io/v2/certificatesigningrequests",
        "/api/v1/pods",
    ] {
        assert_eq!(admin.get(path).await.code, 404, "{path}");
    }
    assert_eq!(admin.get("/readyz").await.text, "ok");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read_to_its_end() {
    let target = Target::new().await;
    let answer = target
        .admin()
        .await
        .ask("POST", REQUESTS, &[], vec![b' '; 2 * 1024 * 1024])
        .await;
    assert_eq!(
        (answer.code, answer.json()["reason"].clone()),
        (413, json!("RequestEntityTooLarge"))
    );
    let answer = target
        .nobody()
        .await
        .ask("POST", REQUESTS, &[], vec![b' '; 65 * 1024])
        .await;
    assert_eq!(answer.code, 413);
}

#[tokio::test]
async fn a_hook_that_panics_fails_its_request_alone() {
    let target = Target::new().await;
    let mut nobody = target.nobody().await;
    let mut fatal = target.request(ATTESTED);
    fatal["spec"]["expirationSeconds"] = json!(666);
    assert_eq!(nobody.post(REQUESTS, &fatal).await.code, 500);
    assert_eq!(
        nobody.post(REQUESTS, &target.request(ATTESTED)).await.code,
        201
    );
}

#[tokio::test]
async fn requests_that_kubernetes_refuses_are_refused() {
    let target = Target::new().await;
    let mut admin = target.admin().await;
    let good = target.request("a.example/b");
    let with = |at: &str, value: Value| {
        let mut request = good.clone();
        *request.pointer_mut(at).unwrap() = value;
        request
    };
    let forged = {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let mut blocks = pem::parse(target.server.pki.request("/CN=alice"))
            .unwrap()
            .into_contents();
        *blocks.last_mut().unwrap() ^= 1;
        json!(STANDARD.encode(pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", blocks))))
    };
    for (bad, field) in [
        (
            with("/spec/expirationSeconds", json!(599)),
            "spec.expirationSeconds",
        ),
        (with("/spec/usages", json!([])), "spec.usages"),
        (
            with("/spec/usages", json!(["client auth", "root"])),
            "spec.usages[1]",
        ),
        (
            with("/spec/usages", json!(["client auth", "client auth"])),
            "spec.usages[1]",
        ),
        (
            with("/spec/signerName", json!("nodomain")),
            "spec.signerName",
        ),
        (
            with("/spec/signerName", json!("kubernetes.io/legacy-unknown")),
            "spec.signerName",
        ),
        (with("/spec/request", json!("AAAA")), "spec.request"),
        (with("/spec/request", forged), "spec.request"),
    ] {
        let answer = admin.post(REQUESTS, &bad).await;
        assert_eq!(answer.code, 422, "{field}: {}", answer.text);
        assert_eq!(answer.json()["details"]["causes"][0]["field"], field);
    }
    let rsa: CertificateSigningRequest = request(
        &target.server.pki.rsa_request(),
        "kubernetes.io/kubelet-serving",
    );
    assert_eq!(admin.post(REQUESTS, &rsa).await.code, 201);
}

#[tokio::test]
async fn strangers_who_keep_the_server_waiting_keep_no_one_else_out() {
    let target = Target::new().await;
    let mut slow = Vec::new();
    for _ in 0..70 {
        let mut stranger = tls(target.address, &target.ca, None).await;
        let head = format!(
            "POST {REQUESTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
        );
        stranger.write_all(head.as_bytes()).await.unwrap();
        slow.push(stranger);
    }
    let mut nobody = target.nobody().await;
    let mut refused = nobody.get("/readyz").await.code;
    for _ in 0..100 {
        if refused == 429 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        refused = nobody.get("/readyz").await.code;
    }
    assert_eq!(refused, 429);
    assert_eq!(target.admin().await.get("/readyz").await.code, 200);
    drop(slow);
}
