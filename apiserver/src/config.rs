//! What the embedder gives: where to store, who may come in, who decides on requests without credentials.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use zeroize::Zeroizing;

/// Where the server stores, who may come in, and which hook decides on requests without credentials.
pub struct Config {
    /// The SQLite file; made when missing, readable by its owner only.
    pub database: PathBuf,
    /// The CAs whose client certificates authenticate. Replaceable while running.
    pub client_cas: Vec<ClientCa>,
    /// Decides on certificate signing requests that come without a credential.
    pub anonymous: Arc<dyn AnonymousCreate>,
    /// Says who approves, and which statements are taken.
    pub approvers: Arc<dyn Approvers>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Root certificates and what their leaves stand for.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// One or more PEM blocks `CERTIFICATE`.
    pub certificates_pem: Vec<u8>,
    /// What a client certificate under them says.
    pub kind: CaKind,
}

/// What a client certificate says about its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaKind {
    /// CN is the user, each O a group. A certificate with any reserved name (`system:…`, `touchstone:…`) is refused.
    Engineers,
    /// CN is the user; the server itself puts the holder in `system:masters`, whatever O says.
    Administrators,
}

/// Decides whether a certificate signing request that came without a credential is taken.
pub trait AnonymousCreate: Send + Sync {
    /// Judges the spec as the client sent it; called off the async threads, may take a millisecond of CPU.
    ///
    /// # Errors
    /// The reason, as the client is to read it.
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal>;
}

/// Says who may see the requests that wait for approval and say something of them.
///
/// An approver reads the pending requests of one signer name, and sets one annotation of theirs; nothing else.
pub trait Approvers: Send + Sync {
    /// Judges a statement that an approver wants to put on the request of this UID. Called off the async threads.
    ///
    /// # Errors
    /// The reason, as the client is to read it.
    fn admit(&self, approver: &str, uid: &str, statement: &str) -> Result<(), Refusal>;

    /// The annotation that carries this approver's statement.
    fn annotation(&self, approver: &str) -> String;

    /// Who shows this bearer token, which a key of theirs signed. Called off the async threads, may take a millisecond of
    /// CPU.
    ///
    /// # Errors
    /// The reason, for the log.
    fn authenticate(&self, pass: &str) -> Result<PassHolder, Refusal>;

    /// Whether the holder of a client certificate of this name approves.
    fn is_approver(&self, user: &str) -> bool;

    /// The signer name of the requests.
    fn signer_name(&self) -> &str;
}

/// Who holds a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassHolder {
    /// The approver's name.
    pub username: String,
    /// When the pass ends.
    pub ends: Timestamp,
}

/// Who made a request, as its own evidence says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestedCreator {
    /// Becomes `spec.username`.
    pub username: String,
    /// Becomes `spec.groups`.
    pub groups: Vec<String>,
    /// Becomes `spec.extra`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// SHA-256 of the 32 bytes that, as a bearer token, read this one request back.
    pub read_token_sha256: [u8; 32],
}

/// Why a request without a credential was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the client: what is wrong and what would make it pass.
    pub message: String,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The server's own certificate and key.
pub struct ServerTls {
    /// Leaf first, PEM.
    pub certificate_chain_pem: Vec<u8>,
    /// PKCS#8, SEC1 or PKCS#1, PEM.
    pub private_key_pem: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("private_key_pem", &"[redacted]")
            .finish_non_exhaustive()
    }
}
