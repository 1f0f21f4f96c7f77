//! The front door of another API, which here is the embedded one, reached as the signer reaches it.

mod hostile;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::Value;
use tokio::net::TcpListener;
use touchstone_apiserver::{
    Admitted, Doorkeeper, FrontConfig, FrontDoor, FrontOutcome, Reader, Refusal, ServerTls,
};

use crate::support::{
    network::Connection,
    pki::Certified,
    server::{ATTESTED, HELD, Hold, TOKEN, TestServer, sha256},
    target::REQUESTS,
};

/// A request for this long is of another key.
const OF_ANOTHER_KEY: i32 = 1200;
/// A request for this long is not taken.
const NOT_ENROLLED: i32 = 900;

/// Takes alice's requests; the token of all is [`TOKEN`].
#[derive(Default)]
struct Keeper {
    counted: Mutex<Vec<FrontOutcome>>,
    hold: Hold,
}

impl Keeper {
    fn count_of(&self, outcome: FrontOutcome) -> usize {
        let counted = self.counted.lock().unwrap();
        counted.iter().filter(|one| **one == outcome).count()
    }
}

impl Doorkeeper for Keeper {
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<Admitted, Refusal> {
        if spec.signer_name != ATTESTED || spec.expiration_seconds == Some(NOT_ENROLLED) {
            return Err(Refusal {
                message: "the key is not enrolled".to_owned(),
            });
        }
        assert_ne!(spec.expiration_seconds, Some(666), "a panic on demand");
        if spec.expiration_seconds == Some(HELD) {
            self.hold.hold();
        }
        Ok(Admitted {
            key: format!("{:?}", spec.expiration_seconds == Some(OF_ANOTHER_KEY)),
            generate_name: "touchstone-alice-".to_owned(),
            annotations: BTreeMap::from([("touchstone.dev/created-for".into(), "alice".into())]),
            spec: CertificateSigningRequestSpec {
                expiration_seconds: spec.expiration_seconds,
                request: spec.request.clone(),
                signer_name: ATTESTED.to_owned(),
                usages: Some(vec!["client auth".to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            reader: self.reader(&[]).unwrap(),
        })
    }

    fn reader(&self, _request: &[u8]) -> Option<Reader> {
        Some(Reader {
            username: "alice".to_owned(),
            token_sha256: sha256(&TOKEN),
        })
    }

    fn count(&self, outcome: FrontOutcome) {
        self.counted.lock().unwrap().push(outcome);
    }
}

/// A front door, and the API behind it.
pub(crate) struct Street {
    server: TestServer,
    keeper: Arc<Keeper>,
    door: FrontDoor,
    pub(crate) address: SocketAddr,
    pub(crate) ca: Certified,
}

impl Street {
    pub(crate) async fn new() -> Self {
        let server = TestServer::new();
        let ca = server.pki.ca("front");
        let keeper = Arc::new(Keeper::default());
        let door = FrontDoor::new(FrontConfig {
            requests: Api::all(server.signer()),
            account: "signer".to_owned(),
            signer_names: vec![ATTESTED.to_owned()],
            doorkeeper: keeper.clone(),
            tls: tls(&server.pki.server(&ca)),
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, shutdown) = (door.clone(), server.shutdown.clone());
        tokio::spawn(async move { serving.serve(listener, shutdown).await.unwrap() });
        Self {
            server,
            keeper,
            door,
            address,
            ca,
        }
    }

    async fn nobody(&self) -> Connection {
        Connection::open(self.address, &self.ca, None).await
    }

    /// Requests behind the door, as an administrator sees them.
    fn requests(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.server.admin())
    }

    fn request(&self) -> Value {
        serde_json::to_value(self.server.request(ATTESTED)).unwrap()
    }

    /// Creates one; its name.
    pub(crate) async fn create(&self) -> String {
        let answer = self.nobody().await.post(REQUESTS, &self.request()).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.json()["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn deny(&self, name: &str) {
        let mut request = self.requests().get(name).await.unwrap();
        let condition = CertificateSigningRequestCondition {
            type_: "Denied".to_owned(),
            status: "True".to_owned(),
            reason: Some("Test".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        request.status.get_or_insert_default().conditions = Some(vec![condition]);
        self.requests()
            .replace_subresource("approval", name, &PostParams::default(), &request)
            .await
            .unwrap();
    }
}

fn tls(certified: &Certified) -> ServerTls {
    ServerTls {
        certificate_chain_pem: certified.certificate.clone().into_bytes(),
        private_key_pem: certified.key.clone().into_bytes().into(),
    }
}

fn bearer(token: &[u8]) -> String {
    format!("Bearer {}", URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn what_is_created_is_what_was_admitted_and_nothing_that_was_sent_beside_it() {
    let street = Street::new().await;
    let mut sent = street.request();
    sent["metadata"] = serde_json::json!({
        "name": "chosen",
        "labels": { "a": "b" },
        "annotations": { "touchstone.dev/waiting-for": "nobody", "x": "y" },
        "finalizers": ["a.example/never"],
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u" }],
    });
    sent["spec"]["username"] = "system:admin".into();
    sent["spec"]["groups"] = serde_json::json!(["system:masters"]);
    sent["spec"]["extra"] = serde_json::json!({ "touchstone.dev/key-serial": ["1"] });
    sent["status"] = serde_json::json!({ "certificate": "QQ==" });
    let answer = street.nobody().await.post(REQUESTS, &sent).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let shown = answer.json();
    assert_eq!(shown["spec"]["username"], "alice", "{shown}");
    assert!(shown["spec"]["groups"].is_null(), "{shown}");

    let name = shown["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("touchstone-alice-"), "{name}");
    let made = street.requests().get(name).await.unwrap();
    assert_eq!(made.spec.username.as_deref(), Some("signer"));
    assert_eq!(made.annotations().len(), 1);
    assert_eq!(made.annotations()["touchstone.dev/created-for"], "alice");
    assert!(made.labels().is_empty() && made.finalizers().is_empty());
    assert!(made.owner_references().is_empty());
    assert!(made.status.unwrap_or_default().certificate.is_none());
    assert_eq!(street.keeper.count_of(FrontOutcome::Created), 1);
}

#[tokio::test]
async fn a_request_is_read_and_watched_with_its_token() {
    let street = Street::new().await;
    let name = street.create().await;
    let mut client = street.nobody().await;
    let token = bearer(&TOKEN);
    let with_token = [("authorization", token.as_str())];
    let path = format!("{REQUESTS}/{name}");
    let read = client.ask("GET", &path, &with_token, "").await;
    assert_eq!(read.code, 200, "{}", read.text);
    assert_eq!(read.json()["spec"]["username"], "alice");
    assert!(!read.text.contains("\"signer\""), "{}", read.text);

    let version = read.json()["metadata"]["resourceVersion"].clone();
    let watch = format!(
        "{REQUESTS}?watch=1&fieldSelector=metadata.name%3D{name}&timeoutSeconds=2&resourceVersion={}",
        version.as_str().unwrap()
    );
    let (watched, ()) = tokio::join!(client.ask("GET", &watch, &with_token, ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        street.deny(&name).await;
    });
    assert_eq!(watched.code, 200);
    let lines: Vec<Value> = watched
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap_or_else(|| panic!("{}", watched.text));
    assert_eq!(last["type"], "MODIFIED");
    assert_eq!(last["object"]["status"]["conditions"][0]["type"], "Denied");
    assert_eq!(last["object"]["spec"]["username"], "alice");
    // Whoever watches from an older version is told at once what is there now.
    let watched = client.ask("GET", &watch, &with_token, "").await;
    assert!(watched.text.contains("\"Denied\""), "{}", watched.text);
}

#[tokio::test]
async fn to_everyone_else_there_is_no_such_request() {
    let street = Street::new().await;
    let name = street.create().await;
    let mut client = street.nobody().await;
    let there = format!("{REQUESTS}/{name}");
    let nowhere = format!("{REQUESTS}/touchstone-alice-nowhere");
    for wrong in [[8; 32], [0; 32]] {
        let token = bearer(&wrong);
        let headers = [("authorization", token.as_str())];
        let [there, nowhere] = [
            client.ask("GET", &there, &headers, "").await,
            client.ask("GET", &nowhere, &headers, "").await,
        ];
        assert_eq!((there.code, nowhere.code), (404, 404));
        assert_eq!(
            there.text.replace(&name, "touchstone-alice-nowhere"),
            nowhere.text
        );
    }
    let watch = format!("{REQUESTS}?watch=1&fieldSelector=metadata.name%3D{name}");
    let wrong = bearer(&[8; 32]);
    let answer = client
        .ask("GET", &watch, &[("authorization", &wrong)], "")
        .await;
    assert_eq!(answer.code, 404);
    let right = bearer(&TOKEN);
    for headers in [
        &[][..],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", &right), ("authorization", &wrong)],
        &[("authorization", &wrong), ("authorization", &right)],
    ] {
        let answer = client.ask("GET", &there, headers, "").await;
        assert_eq!(answer.code, 401, "{headers:?} {}", answer.text);
    }
}

#[tokio::test]
async fn requests_that_others_made_are_not_there_whatever_their_token() {
    let street = Street::new().await;
    // Made by an administrator: its claims may say any token.
    let made = street
        .requests()
        .create(&PostParams::default(), &street.server.request(ATTESTED))
        .await
        .unwrap();
    // Made by the signer's account, for another signer.
    let others: Api<CertificateSigningRequest> = Api::all(street.server.signer());
    let other = others
        .create(
            &PostParams::default(),
            &street.server.request("a.example/b"),
        )
        .await
        .unwrap();
    let token = bearer(&TOKEN);
    for name in [made.name_any(), other.name_any()] {
        let path = format!("{REQUESTS}/{name}");
        let headers = [("authorization", token.as_str())];
        let answer = street.nobody().await.ask("GET", &path, &headers, "").await;
        assert_eq!(answer.code, 404, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_watch_of_a_request_that_was_made_anew_under_its_name_ends() {
    let street = Street::new().await;
    let name = street.create().await;
    let token = bearer(&TOKEN);
    let watch =
        format!("{REQUESTS}?watch=1&fieldSelector=metadata.name%3D{name}&timeoutSeconds=20");
    let mut client = street.nobody().await;
    let started = std::time::Instant::now();
    let headers = [("authorization", token.as_str())];
    let (watched, ()) = tokio::join!(client.ask("GET", &watch, &headers, ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let requests = street.requests();
        requests.delete(&name, &Default::default()).await.unwrap();
        let mut other = street.server.request(ATTESTED);
        other.metadata.generate_name = None;
        other.metadata.name = Some(name.clone());
        other.metadata.annotations = Some([("secret".to_owned(), "of another".to_owned())].into());
        requests
            .create(&PostParams::default(), &other)
            .await
            .unwrap();
    });
    assert!(watched.text.contains("\"DELETED\""), "{}", watched.text);
    assert!(!watched.text.contains("of another"), "{}", watched.text);
    assert!(started.elapsed().as_secs() < 15, "it ended by itself");
}

#[tokio::test]
async fn health_is_told_and_nothing_else_is_there() {
    let street = Street::new().await;
    let name = street.create().await;
    let mut client = street.nobody().await;
    assert_eq!(client.get("/healthz").await.text, "ok");
    assert_eq!(client.ask("HEAD", "/healthz", &[], "").await.text, "");
    let token = bearer(&TOKEN);
    let headers = [("authorization", token.as_str())];
    let one = format!("{REQUESTS}/{name}");
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/version"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("POST", "/healthz"),
        ("GET", "/api"),
        ("GET", "/apis"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/openapi/v2"),
        ("GET", REQUESTS),
        ("GET", &format!("{REQUESTS}?watch=1")),
        (
            "GET",
            &format!("{REQUESTS}?watch=1&fieldSelector=metadata.name!%3D{name}"),
        ),
        (
            "GET",
            &format!("{REQUESTS}?watch=1&fieldSelector=spec.signerName%3D{ATTESTED}"),
        ),
        (
            "GET",
            &format!("{REQUESTS}?watch=1&fieldSelector=metadata.name%3D{name},metadata.name%3Db"),
        ),
        ("DELETE", &one),
        ("PUT", &one),
        ("PATCH", &one),
        ("POST", &one),
        ("DELETE", REQUESTS),
        ("OPTIONS", &one),
        ("TRACE", &one),
        ("GET", &format!("{one}/status")),
        ("PUT", &format!("{one}/approval")),
        (
            "GET",
            &format!("{REQUESTS}/../certificatesigningrequests/{name}"),
        ),
        ("GET", &format!("{REQUESTS}//{name}")),
        ("GET", &format!("{REQUESTS}/%2e%2e/{name}")),
        ("GET", &format!("{REQUESTS}/{name}%2fstatus")),
        ("GET", &format!("{REQUESTS}/{name}%3Fwatch=1")),
        ("GET", &format!("{REQUESTS}/{}", name.to_uppercase())),
        (
            "POST",
            "/apis/certificates.k8s.io/v1/namespaces/default/certificatesigningrequests",
        ),
        (
            "POST",
            "/apis/certificates.k8s.io/v1beta1/certificatesigningrequests",
        ),
    ] {
        let answer = client.ask(method, path, &headers, "").await;
        assert_eq!(answer.code, 404, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_a_bad_one_to_none() {
    let street = Street::new().await;
    let mut before = street.nobody().await;
    let new_ca = street.server.pki.ca("renewed");
    let new = street.server.pki.server(&new_ca);
    let broken = Certified {
        key: street.server.pki.server(&new_ca).key,
        ..new.clone()
    };
    assert!(street.door.set_certificate(&tls(&broken)).is_err());
    assert_eq!(street.nobody().await.get("/healthz").await.code, 200);
    street.door.set_certificate(&tls(&new)).unwrap();
    let mut after = Connection::open(street.address, &new_ca, None).await;
    assert_eq!(after.get("/healthz").await.code, 200);
    assert_eq!(before.get("/healthz").await.code, 200);
}
