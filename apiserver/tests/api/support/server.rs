//! A server on a database of its own, and the people who ask it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
};

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::UserInfo,
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    },
};
use kube::api::ObjectMeta;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{
    ADMINISTRATORS, AnonymousCreate, ApiServer, Approvers, AttestedCreator, CaKind, ClientCa,
    Clock, Config, OpenError, PassHolder, Refusal, SIGNER, ServerTls, StoreOpenError,
};

use crate::support::pki::{Certified, Pki};

/// The signer name of requests that convince without a credential.
pub(crate) const ATTESTED: &str = "touchstone.dev/client";
/// The token of such requests.
pub(crate) const TOKEN: [u8; 32] = [9; 32];

/// A clock that tests move.
#[derive(Default)]
pub(crate) struct TestClock(Mutex<SignedDuration>);

impl TestClock {
    pub(crate) fn advance(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + *self.0.lock().unwrap()
    }
}

/// A request for this long is judged until the test lets go.
pub(crate) const HELD: i32 = 1500;

/// Holds what is judged.
#[derive(Default)]
pub(crate) struct Hold {
    /// How many were held so far, and whether they go on.
    held: Mutex<(usize, bool)>,
    lets_go: Condvar,
}

impl Hold {
    pub(crate) fn hold(&self) {
        let mut held = self.held.lock().unwrap();
        held.0 += 1;
        drop(self.lets_go.wait_while(held, |held| !held.1));
    }

    /// How many were held so far.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().unwrap().0
    }

    pub(crate) fn let_go(&self) {
        self.held.lock().unwrap().1 = true;
        self.lets_go.notify_all();
    }
}

/// Takes requests for [`ATTESTED`] and says whose they are; refuses others.
struct Evidence(Arc<Hold>);

impl AnonymousCreate for Evidence {
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal> {
        if spec.signer_name != ATTESTED {
            return Err(Refusal {
                message: "the evidence does not verify".to_owned(),
            });
        }
        assert_ne!(spec.expiration_seconds, Some(666), "a panic on demand");
        if spec.expiration_seconds == Some(HELD) {
            self.0.hold();
        }
        Ok(AttestedCreator {
            username: "alice".to_owned(),
            groups: vec!["system:authenticated".to_owned()],
            extra: BTreeMap::from([("touchstone.dev/serial".to_owned(), vec!["1".to_owned()])]),
            read_token_sha256: sha256(&TOKEN),
        })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap()
}

/// carol approves; her pass is `carol.pass.x`, and what she says begins with the UID of the request.
struct People;

impl Approvers for People {
    fn admit(&self, approver: &str, uid: &str, statement: &str) -> Result<(), Refusal> {
        match statement == format!("{uid} {approver}") {
            true => Ok(()),
            false => Err(Refusal {
                message: "the statement is not taken".to_owned(),
            }),
        }
    }

    fn annotation(&self, approver: &str) -> String {
        format!("approval.touchstone.dev/{approver}")
    }

    fn authenticate(&self, pass: &str) -> Result<PassHolder, Refusal> {
        match pass {
            "carol.pass.x" => Ok(PassHolder {
                username: "carol".to_owned(),
                ends: Timestamp::MAX,
            }),
            _ => Err(Refusal {
                message: "the pass does not verify".to_owned(),
            }),
        }
    }

    fn is_approver(&self, user: &str) -> bool {
        user == "carol"
    }

    fn signer_name(&self) -> &str {
        ATTESTED
    }
}

/// A server and its surroundings; stops when it is dropped.
pub(crate) struct TestServer {
    pub(crate) api: ApiServer,
    pub(crate) hold: Arc<Hold>,
    pub(crate) pki: Pki,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) engineers: Certified,
    pub(crate) administrators: Certified,
    pub(crate) database: PathBuf,
    pub(crate) shutdown: CancellationToken,
}

impl TestServer {
    pub(crate) fn new() -> Self {
        let pki = Pki::new();
        let database = pki.path("api.sqlite");
        let (engineers, administrators) = (pki.ca("engineers"), pki.ca("administrators"));
        let clock = Arc::new(TestClock::default());
        let hold = Arc::new(Hold::default());
        let mut config = config(&database, &engineers, &administrators, clock.clone());
        config.anonymous = Arc::new(Evidence(Arc::clone(&hold)));
        let api = ApiServer::open(config).unwrap();
        Self {
            api,
            hold,
            pki,
            clock,
            engineers,
            administrators,
            database,
            shutdown: CancellationToken::new(),
        }
    }

    pub(crate) fn config(&self) -> Config {
        config(
            &self.database,
            &self.engineers,
            &self.administrators,
            self.clock.clone(),
        )
    }

    /// A client in this process with everything allowed.
    pub(crate) fn admin(&self) -> kube::Client {
        self.api.client(user("admin", &[ADMINISTRATORS]), "default")
    }

    /// A client in this process as the signer.
    pub(crate) fn signer(&self) -> kube::Client {
        self.api.client(user("signer", &[SIGNER]), "default")
    }

    /// Serves on loopback; the address and the CA of the server's certificate.
    pub(crate) async fn listen(&self) -> (SocketAddr, Certified) {
        let ca = self.pki.ca("server");
        let server = self.pki.server(&ca);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTls {
            certificate_chain_pem: server.certificate.into_bytes(),
            private_key_pem: server.key.into_bytes().into(),
        };
        let (api, shutdown) = (self.api.clone(), self.shutdown.clone());
        tokio::spawn(async move { api.serve(listener, tls, shutdown).await.unwrap() });
        (address, ca)
    }

    /// A request that Kubernetes takes.
    pub(crate) fn request(&self, signer: &str) -> CertificateSigningRequest {
        request(&self.pki.request("/CN=alice/O=oncall"), signer)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.hold.let_go();
        self.shutdown.cancel();
    }
}

fn config(
    database: &std::path::Path,
    engineers: &Certified,
    administrators: &Certified,
    clock: Arc<TestClock>,
) -> Config {
    let ca = |ca: &Certified, kind| ClientCa {
        certificates_pem: ca.certificate.clone().into_bytes(),
        kind,
    };
    Config {
        database: database.to_owned(),
        client_cas: vec![
            ca(administrators, CaKind::Administrators),
            ca(engineers, CaKind::Engineers),
        ],
        anonymous: Arc::new(Evidence(Arc::default())),
        approvers: Arc::new(People),
        clock,
    }
}

pub(crate) fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        username: Some(name.to_owned()),
        groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
        ..UserInfo::default()
    }
}

pub(crate) fn request(pem: &str, signer: &str) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("touchstone-alice-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["client auth".to_owned()]),
            expiration_seconds: Some(1800),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// A server on a database that outlives it, with CAs that no one has the key of.
pub(crate) async fn open_at(database: &std::path::Path) -> ApiServer {
    let pki = Pki::new();
    let (engineers, administrators) = (pki.ca("engineers"), pki.ca("administrators"));
    // The one before may need a moment to let go of the database.
    for _ in 0..100 {
        match ApiServer::open(config(
            database,
            &engineers,
            &administrators,
            Arc::default(),
        )) {
            Ok(api) => return api,
            Err(OpenError::Store(StoreOpenError::Busy(_))) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the database stays busy");
}
