//! The API over TLS, as its clients use it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview, certificates::v1::CertificateSigningRequest,
    core::v1::ConfigMap,
};
use kube::{
    Api, Client, ResourceExt,
    api::{PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    network::{Connection, kubeconfig, tls},
    pki::Certified,
    server::TestServer,
};

async fn client(
    server: &TestServer,
    address: std::net::SocketAddr,
    ca: &Certified,
    shown: &Certified,
) -> Client {
    let file = kubeconfig(&server.pki, address, ca, shown);
    let config = Kubeconfig::read_from(file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn kube_clients_come_in_with_a_certificate_and_watch_their_own_request() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let alice = server.pki.client(&server.engineers, "/CN=alice/O=oncall");
    let alice = client(&server, address, &ca, &alice).await;
    let reviews: Api<SelfSubjectReview> = Api::all(alice.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("alice"));

    let requests: Api<CertificateSigningRequest> = Api::all(alice);
    let created = requests
        .create(&PostParams::default(), &server.request("a.example/b"))
        .await
        .unwrap();
    let one = WatchParams::default().fields(&format!("metadata.name={}", created.name_any()));
    let mut events = requests.watch(&one, "0").await.unwrap().boxed();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(request) if request.uid() == created.uid()));
    let all = requests.watch(&WatchParams::default(), "0").await;
    assert!(all.is_err());
}

#[tokio::test]
async fn a_chain_through_an_issuing_ca_authenticates_and_the_leaf_alone_does_not() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let issuing = server.pki.leaf(
        &server.engineers,
        "/CN=issuing",
        20,
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nextendedKeyUsage=clientAuth\n",
    );
    let leaf = server.pki.client(&issuing, "/CN=alice");
    let mut chain = leaf.clone();
    chain.certificate.push_str(&issuing.certificate);
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let mut connection = Connection::open(address, &ca, Some(&chain)).await;
    assert_eq!(connection.post(review, &json!({})).await.code, 201);
    let mut connection = Connection::open(address, &ca, Some(&leaf)).await;
    assert_eq!(connection.post(review, &json!({})).await.code, 401);
}

#[tokio::test]
async fn unknown_fields_are_warned_of_and_tables_have_kubernetes_columns() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let root = server.pki.client(&server.administrators, "/CN=root");
    let mut admin = Connection::open(address, &ca, Some(&root)).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let answer = admin
        .post(
            maps,
            &json!({"metadata": {"name": "a"}, "data": {"k": "v"}, "datum": {}}),
        )
        .await;
    assert_eq!(answer.code, 201);
    assert_eq!(
        answer.headers["warning"],
        "299 - \"unknown field \\\"datum\\\"\""
    );
    assert_eq!(answer.json().get("datum"), None);
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let table = admin
        .ask(
            "GET",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            &accept,
            "",
        )
        .await
        .json();
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        [
            "Name",
            "Age",
            "SignerName",
            "Requestor",
            "RequestedDuration",
            "Condition"
        ]
    );
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(admin.ask("GET", maps, &protobuf, "").await.code, 406);
}

#[tokio::test]
async fn a_stopping_server_ends_its_watches_and_closes() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let root = server.pki.client(&server.administrators, "/CN=root");
    let client = client(&server, address, &ca, &root).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut events = maps
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    server.shutdown.cancel();
    let end = tokio::time::timeout(Duration::from_secs(5), events.next())
        .await
        .unwrap();
    assert!(end.is_none_or(|event| event.is_err()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_hung_up_on() {
    let server = TestServer::new();
    let (address, ca) = server.listen().await;
    let mut slow = tls(address, &ca, None).await;
    slow.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nx: ")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(25), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still open");
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}
