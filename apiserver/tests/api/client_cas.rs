//! The client CAs change while the server runs: from that moment on, for new connections and for open ones.

use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use touchstone_apiserver::{CaKind, ClientCa};

use crate::support::{
    network::{Connection, tls},
    pki::Certified,
    target::{REVIEW, Target},
};

const KNOWN: u16 = 201;
const UNKNOWN: u16 = 401;

/// What a set of two CAs is, one beside the other in one bundle.
fn engineers(cas: &[&Certified]) -> Vec<ClientCa> {
    let bundle: String = cas.iter().map(|ca| ca.certificate.as_str()).collect();
    vec![ClientCa {
        certificates_pem: bundle.into_bytes(),
        kind: CaKind::Engineers,
    }]
}

async fn asks(connection: &mut Connection) -> u16 {
    connection.post(REVIEW, &serde_json::json!({})).await.code
}

/// An HTTP/2 connection, as kubectl and kube-apiserver hold them for hours.
async fn http2(target: &Target, shown: &Certified) -> http2::SendRequest<Full<Bytes>> {
    let stream = tls(target.address, &target.ca, Some(shown)).await;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn asks_over_http2(sender: &mut http2::SendRequest<Full<Bytes>>) -> u16 {
    sender.ready().await.unwrap();
    let request = http::Request::post(format!("https://localhost{REVIEW}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(b"{}")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let code = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    code
}

#[tokio::test]
async fn a_rotation_lets_the_new_in_before_the_old_is_out_on_connections_that_stay_open() {
    let target = Target::new().await;
    let (pki, old) = (&target.server.pki, &target.server.engineers);
    let new = pki.ca("engineers of the next quarter");
    let (by_old, by_new) = (pki.client(old, "/CN=alice"), pki.client(&new, "/CN=alice"));
    let mut of_old = Connection::open(target.address, &target.ca, Some(&by_old)).await;
    let mut of_new = Connection::open(target.address, &target.ca, Some(&by_new)).await;
    let mut of_old_http2 = http2(&target, &by_old).await;
    let mut of_new_http2 = http2(&target, &by_new).await;
    for (set, old_is, new_is) in [
        (engineers(&[old]), KNOWN, UNKNOWN),
        (engineers(&[old, &new]), KNOWN, KNOWN),
        (engineers(&[&new]), UNKNOWN, KNOWN),
        (engineers(&[&new, old]), KNOWN, KNOWN),
        (Vec::new(), UNKNOWN, UNKNOWN),
    ] {
        target.server.api.set_client_cas(&set).unwrap();
        assert_eq!(asks(&mut of_old).await, old_is);
        assert_eq!(asks(&mut of_new).await, new_is);
        assert_eq!(asks_over_http2(&mut of_old_http2).await, old_is);
        assert_eq!(asks_over_http2(&mut of_new_http2).await, new_is);
        for (shown, is) in [(&by_old, old_is), (&by_new, new_is)] {
            let mut fresh = Connection::open(target.address, &target.ca, Some(shown)).await;
            assert_eq!(asks(&mut fresh).await, is);
        }
    }
}

#[tokio::test]
async fn a_set_with_one_that_is_no_ca_is_refused_whole_and_the_last_stays() {
    let target = Target::new().await;
    let (pki, old) = (&target.server.pki, &target.server.engineers);
    let new = pki.ca("new");
    let mut alice = target.engineer("/CN=alice").await;
    let by_new = pki.client(&new, "/CN=alice");
    let cut_off = Certified {
        certificate: new
            .certificate
            .replace("-----END CERTIFICATE-----", "-----END"),
        key: new.key.clone(),
    };
    let no_certificate = Certified {
        certificate: pki.request("/CN=alice"),
        key: new.key.clone(),
    };
    // As a trust anchor, each of these would vouch for whatever its key signed.
    let leaf = pki.client(&new, "/CN=alice");
    let without_constraints = pki.leaf(&new, "/CN=no CA", 1, "extendedKeyUsage=clientAuth\n");
    let no_signer = pki.leaf(
        &new,
        "/CN=signs no certificates",
        1,
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature\n",
    );
    for broken in [
        &no_certificate,
        &cut_off,
        &leaf,
        &without_constraints,
        &no_signer,
    ] {
        let mut set = engineers(&[&new]);
        set.extend(engineers(&[broken]));
        target.server.api.set_client_cas(&set).unwrap_err();
        assert_eq!(asks(&mut alice).await, KNOWN);
        let mut of_new = Connection::open(target.address, &target.ca, Some(&by_new)).await;
        assert_eq!(asks(&mut of_new).await, UNKNOWN);
    }
    // RFC 5280 asks a CA for no key usage, and many clusters' own have none.
    let without_usage = pki.leaf(&new, "/CN=plain CA", 1, "basicConstraints=CA:TRUE\n");
    target
        .server
        .api
        .set_client_cas(&engineers(&[old, &new, &without_usage]))
        .unwrap();
    assert_eq!(asks(&mut alice).await, KNOWN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_changes_under_load_never_refuses_whom_both_sets_know() {
    let target = Target::new().await;
    let (pki, old) = (&target.server.pki, &target.server.engineers);
    let new = pki.ca("new");
    let mut asking = Vec::new();
    for _ in 0..3 {
        let mut alice = target.engineer("/CN=alice").await;
        asking.push(tokio::spawn(async move {
            let mut known = 0;
            for _ in 0..100 {
                known += u32::from(asks(&mut alice).await == KNOWN);
            }
            known
        }));
    }
    let api = target.server.api.clone();
    let sets = [engineers(&[old, &new]), engineers(&[old])];
    while !asking.iter().all(tokio::task::JoinHandle::is_finished) {
        for set in &sets {
            api.set_client_cas(set).unwrap();
            tokio::task::yield_now().await;
        }
    }
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 100);
    }
}
