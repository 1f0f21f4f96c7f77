//! Certificate signing requests: building one, and reading one strictly.

use crate::{
    claims::{Claims, ClaimsError},
    evidence::{Evidence, EvidenceError},
    key::{KeyError, PublicKey},
    name::{GroupName, NameError, UserName},
    pem::{self, PemError},
};
use const_oid::ObjectIdentifier;

pub(crate) use build::{signed, subject};
pub(crate) use read::{EXTENSION_REQUESTS, Parts, der_of, read_names};

mod build;
mod read;

/// The annotation in which a signer says what a pending request waits for. Words for people: whoever may annotate a
/// request can write them.
pub const WAITING_FOR_ANNOTATION: &str = "touchstone.dev/waiting-for";
/// The annotation in which a signer says until when a pending request waits, in RFC 3339: for people, as above.
pub const WAITS_UNTIL_ANNOTATION: &str = "touchstone.dev/waits-until";
/// The reason of the condition Approved where the signer added it.
pub const POLICY_APPROVED: &str = "PolicyApproved";
/// The signer name under which Kubernetes itself signs client certificates that kube-apiserver believes: whoever approves a
/// request decides, and kube-controller-manager signs it as it is.
pub const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The most bytes a request may have, as DER and as PEM.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

const LABEL: &str = "CERTIFICATE REQUEST";

/// What an engineer asks, before the card signs it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub user: UserName,
    /// Which groups; at least one.
    pub groups: Vec<GroupName>,
    /// The conditions.
    pub claims: Claims,
    /// The proof of the key, if it is in a card.
    pub evidence: Option<Evidence>,
}

/// One PEM block `CERTIFICATE REQUEST`.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    pem::encode(LABEL, der)
}

/// `metadata.generateName` of a user's requests: `touchstone-<user>-`, as an object's name may be (RFC 1123 subdomain).
#[must_use]
pub fn generate_name(user: &UserName) -> String {
    let mut name = "touchstone-".to_owned();
    for c in user.as_str().to_ascii_lowercase().chars().take(40) {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    if !name.ends_with('-') {
        name.push('-');
    }
    name
}

/// A request that was read strictly and whose signature verified.
#[derive(Clone, Debug)]
pub struct Request {
    user: UserName,
    groups: Vec<GroupName>,
    public_key: PublicKey,
    claims: Claims,
    evidence: Option<Evidence>,
    sha256: [u8; 32],
}

/// Why a request was refused. Short enough for a condition's message; foreign text in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Attributes that are not sorted as DER sorts a set.
    #[error("the attributes are not in DER's order")]
    AttributeOrder,
    /// An attribute with no value or several.
    #[error("the attribute {0} does not have exactly one value")]
    AttributeValues(ObjectIdentifier),
    /// The claims.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// A CN or an O that is neither UTF8String nor PrintableString.
    #[error("the subject's {0} is not a valid UTF8String or PrintableString")]
    StringType(&'static str),
    /// Two CNs: Kubernetes would take the last one.
    #[error("the subject has {0} common names; exactly one is read")]
    CommonNames(usize),
    /// Not DER, or not the structure of a request.
    #[error("{part} is not strict DER: {error}")]
    Der {
        /// Which part.
        part: &'static str,
        /// What is wrong there.
        error: der::Error,
    },
    /// The same attribute twice.
    #[error("the attribute {0} stands there twice")]
    DuplicateAttribute(ObjectIdentifier),
    /// The same group twice.
    #[error("the group {0} is asked for twice")]
    DuplicateGroup(String),
    /// The evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// Extensions, SANs among them: the certificate is built from the policy's profile, never from the request.
    #[error(
        "the request asks for certificate extensions (subject alternative names, key usages or others); none are granted"
    )]
    ExtensionRequest,
    /// A group's name.
    #[error("the group {name} {error}")]
    Group {
        /// The group, quoted and escaped.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// No group, or too many.
    #[error("the subject has {0} groups (O); 1 to 32 are read")]
    Groups(usize),
    /// The public key.
    #[error("the public key {0}")]
    Key(KeyError),
    /// The claims are missing.
    #[error("the request carries no claims; it was not made by touchstone")]
    NoClaims,
    /// Several attributes in one RDN.
    #[error("the subject has several attributes in one RDN")]
    MultiValuedRdn,
    /// PEM.
    #[error("the request {0}")]
    Pem(#[from] PemError),
    /// The signature, or its algorithm.
    #[error("{0}")]
    Signature(KeyError),
    /// More than [`MAX_CSR_BYTES`].
    #[error("the request has {0} bytes; at most 16384 are read")]
    TooLong(usize),
    /// An attribute that no one here reads.
    #[error("the request has the attribute {0}, which is not read")]
    UnknownAttribute(ObjectIdentifier),
    /// A subject attribute other than CN and O: Kubernetes reads some of them as more than a name.
    #[error("the subject has the attribute {0}; only CN and O are read")]
    SubjectAttribute(ObjectIdentifier),
    /// The user's name.
    #[error("the user {name} {error}")]
    User {
        /// The user, quoted and escaped.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// Another version.
    #[error("the request has version {0}; version 0 is read")]
    Version(u64),
}

impl Request {
    /// The CN.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The O values, sorted, none twice.
    #[must_use]
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    /// The key that signed it.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The evidence, not yet verified.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_ref()
    }

    /// SHA-256 of the DER: tells two objects apart, not two requests.
    ///
    /// Whoever has an ECDSA signature can turn it into a second one that verifies (s becomes n − s), and so make another
    /// digest of the same request. What is used once is the nonce of [`Request::claims`], which is signed.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}
