//! A request that waits, as an approver sees it: read as strictly as the signer reads it, its signature and attestation
//! verified here, before anyone decides about it.

pub mod blast;

use crate::{
    api::{ApiError, Connection},
    error::Error,
    output::printable,
    submit::{self, State},
};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use std::collections::BTreeMap;
use touchstone_common::{
    approval::Asked,
    attestation::{self, Attested, Roots},
    csr::{Request, WAITING_FOR_ANNOTATION, WAITS_UNTIL_ANNOTATION},
    name::ClusterName,
    ttl::Ttl,
};

/// How many requests are read at once.
const PAGE: u32 = 200;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// It waits no longer.
    #[error("request {name} does not wait for approval any more: it {how}")]
    Decided {
        /// Its name.
        name: String,
        /// What became of it.
        how: String,
    },
    /// The approver said no to the question.
    #[error("nothing was signed")]
    Declined,
    /// It is the approver's own.
    #[error("request {0} is your own, and nobody approves for themselves")]
    Own(String),
    /// What the card signed and what surrounds it differ, or it is for something else.
    #[error("request {name} is not to be trusted: {why}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}

impl ApprovalError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(
            match self {
                Self::Decided { .. } => "touchstone requests shows what waits",
                Self::Declined => return None,
                Self::Own(_) => "ask someone else who may approve it",
                Self::Refused { .. } => {
                    "do not approve it, and tell the security team: touchstone makes no such requests"
                }
            }
            .to_owned(),
        )
    }
}

/// A request as the API has it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Who created it, in the API server's words.
    pub creator: String,
    /// When.
    pub created: Option<Timestamp>,
    /// What the signer says it waits for: words that whoever may annotate a request can write.
    pub waits_for: Option<String>,
    /// Until when, likewise.
    pub until: Option<Timestamp>,
    /// What the engineer's card signed, or why that cannot be read.
    pub signed: Result<Box<Request>, String>,
    expiration_seconds: Option<i32>,
    signer_name: String,
    state: State,
}

impl Waiting {
    /// Reads one. `None`: an object without a name and a UID that such objects have.
    #[must_use]
    pub fn read(request: &CertificateSigningRequest) -> Option<Self> {
        let metadata = &request.metadata;
        let annotation = |key: &str| -> Option<&String> { metadata.annotations.as_ref()?.get(key) };
        Some(Self {
            name: metadata
                .name
                .clone()
                .filter(|name| submit::is_object_name(name))?,
            uid: metadata.uid.clone()?,
            creator: request.spec.username.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            waits_for: annotation(WAITING_FOR_ANNOTATION).map(|words| {
                let words = words.strip_prefix("waiting for ").unwrap_or(words);
                printable(words)
            }),
            until: annotation(WAITS_UNTIL_ANNOTATION).and_then(|text| text.parse().ok()),
            signed: Request::from_pem(&request.spec.request.0)
                .map(Box::new)
                .map_err(|error| error.to_string()),
            expiration_seconds: request.spec.expiration_seconds,
            signer_name: request.spec.signer_name.clone(),
            state: submit::state(request),
        })
    }

    /// Whether nobody but, perhaps, a bare approval decided about it.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(
            self.state,
            State::Approved(_) | State::Undecided | State::Waiting { .. }
        )
    }

    /// What the card signed, if it is for this cluster and signer, says what the object says, and waits.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        cluster: &ClusterName,
        signer_name: &str,
    ) -> Result<&Request, ApprovalError> {
        let refused = |why: String| ApprovalError::Refused {
            name: self.name.clone(),
            why,
        };
        if self.signer_name != signer_name {
            return Err(refused(format!(
                "it is for the signer {:?}, not {signer_name}",
                self.signer_name
            )));
        }
        let decided = |how: &str| ApprovalError::Decided {
            name: self.name.clone(),
            how: how.to_owned(),
        };
        match &self.state {
            State::Denied(why) => return Err(decided(&format!("was denied ({why})"))),
            State::Failed(why) => return Err(decided(&format!("failed ({why})"))),
            State::Issued(_) => return Err(decided("was granted")),
            State::Approved(_) | State::Undecided | State::Waiting { .. } => {}
        }
        let request = self.signed.as_deref().map_err(|why| refused(why.clone()))?;
        let claims = request.claims();
        if &claims.cluster != cluster {
            return Err(refused(format!(
                "its key signed for the cluster {}, not {cluster}",
                claims.cluster
            )));
        }
        let seconds = self.expiration_seconds.and_then(|s| u32::try_from(s).ok());
        if seconds != Some(claims.ttl.as_secs()) {
            return Err(refused(
                "its lifetime is not the one that its key signed".to_owned(),
            ));
        }
        Ok(request)
    }

    /// What a statement is about.
    #[must_use]
    pub fn asked<'a>(&'a self, request: &'a Request, csr_sha256: &'a [u8; 32]) -> Asked<'a> {
        let claims = request.claims();
        Asked {
            cluster: &claims.cluster,
            uid: &self.uid,
            csr_sha256,
            user: request.user(),
            groups: request.groups(),
            ttl: claims.ttl,
        }
    }

    /// The lifetime that is asked for.
    #[must_use]
    pub fn ttl(&self) -> Option<Ttl> {
        self.signed
            .as_ref()
            .ok()
            .map(|request| request.claims().ttl)
    }
}

/// What the attestation says of the key that signed a request; `None`: there is none.
///
/// # Errors
/// When there is one that does not verify.
pub fn attested(
    request: &Request,
    roots: &Roots,
    now: Timestamp,
) -> Result<Option<Attested>, attestation::AttestationError> {
    let verify = |evidence| attestation::verify(evidence, request.public_key(), roots, now);
    request.evidence().map(verify).transpose()
}

/// The requests of a signer name that wait, the oldest first, and the version to watch from.
///
/// # Errors
/// When they cannot be read.
pub async fn list(
    connection: &Connection,
    signer_name: &str,
) -> Result<(Vec<Waiting>, String), Error> {
    let api: Api<CertificateSigningRequest> = Api::all(connection.client());
    let mut waiting = Vec::new();
    let mut parameters = ListParams::default()
        .fields(&format!("spec.signerName={signer_name}"))
        .limit(PAGE);
    let version = loop {
        let page = connection.within(api.list(&parameters)).await?;
        waiting.extend(
            page.items
                .iter()
                .filter_map(Waiting::read)
                .filter(Waiting::is_pending),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break page.metadata.resource_version.unwrap_or_default(),
        }
    };
    waiting.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    Ok((waiting, version))
}

/// One request.
///
/// # Errors
/// When it is not there, or cannot be read.
pub async fn get(connection: &Connection, name: &str) -> Result<Waiting, Error> {
    let api: Api<CertificateSigningRequest> = Api::all(connection.client());
    let request = connection.within(api.get(name)).await?;
    Waiting::read(&request).ok_or_else(|| {
        ApiError::Refused {
            code: None,
            message: "the answer is no request".to_owned(),
        }
        .into()
    })
}

/// Puts a statement on a request, if it is still the one that was read.
///
/// # Errors
/// When the API server does not take it.
pub async fn annotate(
    connection: &Connection,
    waiting: &Waiting,
    key: &str,
    statement: &str,
) -> Result<(), Error> {
    let api: Api<CertificateSigningRequest> = Api::all(connection.client());
    let patch = serde_json::json!({
        "metadata": { "uid": waiting.uid, "annotations": BTreeMap::from([(key, statement)]) },
    });
    let patch = Patch::Merge(patch);
    connection
        .within(api.patch(&waiting.name, &PatchParams::default(), &patch))
        .await?;
    Ok(())
}
