//! The request as a CertificateSigningRequest: submitted, and what its status says. [`wait`] waits for the answer.

mod wait;

pub use wait::wait;

use crate::{
    api::{ApiError, Connection},
    error::Error,
    output::printable,
};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};
use std::time::Duration;
use tokio::time::Instant;
use touchstone_common::{
    csr::{self, POLICY_APPROVED, WAITING_FOR_ANNOTATION, WAITS_UNTIL_ANNOTATION},
    name::UserName,
    ttl::Ttl,
};

/// How a request ended, other than with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Denied.
    #[error("request {name} was denied: {why}")]
    Denied {
        /// Its name.
        name: String,
        /// The signer's words.
        why: String,
    },
    /// The signer failed.
    #[error("request {name} was approved, but the signer failed: {why}")]
    Failed {
        /// Its name.
        name: String,
        /// The signer's words.
        why: String,
    },
    /// Deleted, or made again by someone.
    #[error("request {name} is gone: it was deleted before it was answered")]
    Gone {
        /// Its name.
        name: String,
    },
    /// The server's answer lacks what every object has.
    #[error("the API server answered without {what}")]
    Other {
        /// What is missing.
        what: &'static str,
    },
    /// No decision yet, or no certificate.
    #[error(
        "request {name} {} after {} s",
        if *.approved { "is approved and still not signed" } else { "still waits for a decision" },
        .waited.as_secs()
    )]
    Waiting {
        /// Its name.
        name: String,
        /// Whether the decision is there.
        approved: bool,
        /// The cluster, to resume with.
        cluster: String,
        /// For how long.
        waited: Duration,
    },
}

impl SubmitError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Denied { .. } => Some(
                "read the reason: ask for less or give what it misses, or propose a change of the policy"
                    .to_owned(),
            ),
            Self::Failed { .. } => Some("tell the operators of the signer".to_owned()),
            Self::Gone { .. } => Some("log in again".to_owned()),
            Self::Other { .. } => None,
            Self::Waiting {
                cluster, approved, ..
            } => {
                let first = match approved {
                    true => "ask the operators whether the signer, or kube-controller-manager, runs",
                    false => "have it approved",
                };
                Some(format!(
                    "{first}, then: touchstone login --cluster {cluster} --resume"
                ))
            }
        }
    }
}

/// A request on the server.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The version to watch from.
    pub version: String,
}

/// How long a server that has no turn to give is asked again: a request is fresh for five minutes.
const TURN_WITHIN: Duration = Duration::from_secs(120);

/// Submits a request. A server that has no turn to give did not take it, and is asked again when it says so.
///
/// # Errors
/// When the server cannot be reached or refuses it.
pub async fn create(
    connection: &Connection,
    signer_name: &str,
    user: &UserName,
    ttl: Ttl,
    csr_pem: String,
    progress: &dyn Fn(&str),
) -> Result<Submitted, Error> {
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(csr::generate_name(user)),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            expiration_seconds: i32::try_from(ttl.as_secs()).ok(),
            request: ByteString(csr_pem.into_bytes()),
            signer_name: signer_name.to_owned(),
            usages: Some(vec!["client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(connection.client());
    let started = Instant::now();
    let created = loop {
        let created = connection
            .within(api.create(&PostParams::default(), &request))
            .await;
        match created {
            Err(error @ ApiError::Busy { again, .. })
                if started.elapsed() + again <= TURN_WITHIN =>
            {
                progress(&format!("{error}; trying again in {} s.", again.as_secs()));
                tokio::time::sleep(again).await;
            }
            created => break created?,
        }
    };
    let missing = |what| SubmitError::Other { what };
    Ok(Submitted {
        name: created
            .metadata
            .name
            .filter(|name| is_object_name(name))
            .ok_or_else(|| missing("a name that a request can have"))?,
        uid: created.metadata.uid.ok_or_else(|| missing("a UID"))?,
        version: created.metadata.resource_version.unwrap_or_default(),
    })
}

/// Whether the server's name for a request is one (RFC 1123 subdomain): it is shown, and becomes part of a URL.
pub(crate) fn is_object_name(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.as_bytes().first().is_some_and(alphanumeric)
        && name.as_bytes().last().is_some_and(alphanumeric)
        && name
            .as_bytes()
            .iter()
            .all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'.'))
}

/// What a request's status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Approved, not signed yet.
    Approved(String),
    /// Denied, and why.
    Denied(String),
    /// The signer failed, and why.
    Failed(String),
    /// Signed: the chain, PEM.
    Issued(Vec<u8>),
    /// Not decided.
    Undecided,
    /// Not decided, and what the signer waits for.
    Waiting {
        /// In its words.
        what: String,
        /// Until when.
        until: Option<Timestamp>,
    },
}

/// Reads a request's status. A denial counts whatever stands beside it.
#[must_use]
pub fn state(request: &CertificateSigningRequest) -> State {
    let undecided = || {
        let annotation =
            |key: &str| -> Option<&String> { request.metadata.annotations.as_ref()?.get(key) };
        match annotation(WAITING_FOR_ANNOTATION) {
            None => State::Undecided,
            Some(words) => State::Waiting {
                what: printable(words.strip_prefix("waiting for ").unwrap_or(words)),
                until: annotation(WAITS_UNTIL_ANNOTATION).and_then(|text| text.parse().ok()),
            },
        }
    };
    let Some(status) = &request.status else {
        return undecided();
    };
    let condition = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind && condition.status != "False")
            .map(|condition| {
                let reason = condition.reason.as_deref().unwrap_or_default();
                let message = condition.message.as_deref().unwrap_or_default();
                let words = match (reason, message) {
                    ("", "") => "no reason was given",
                    (reason, "") => reason,
                    (_, message) => message,
                };
                // The kind of condition is said anyway.
                printable(words.strip_prefix("denied: ").unwrap_or(words))
            })
    };
    if let Some(why) = condition("Denied") {
        return State::Denied(why);
    }
    if let Some(why) = condition("Failed") {
        return State::Failed(why);
    }
    match (&status.certificate, condition("Approved")) {
        (Some(ByteString(chain)), _) if !chain.is_empty() => State::Issued(chain.clone()),
        // Approved by someone whom the API did not record: the signer goes on waiting, if it waits.
        (_, Some(why)) => match undecided() {
            waiting @ State::Waiting { .. } if !is_approved_by_policy(status) => waiting,
            _ => State::Approved(why),
        },
        (_, None) => undecided(),
    }
}

fn is_approved_by_policy(status: &CertificateSigningRequestStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Approved" && condition.reason.as_deref() == Some(POLICY_APPROVED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(status: &serde_json::Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({
            "metadata": { "name": "touchstone-alice-x", "uid": "u" },
            "spec": { "request": "", "signerName": "touchstone.dev/client" },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_server_cannot_name_a_request_as_it_likes() {
        for name in [
            "",
            "..",
            "a/../b",
            "a\u{1b}[2J",
            "-a",
            "a b",
            "A",
            "é",
            "a,metadata.name!=b",
        ] {
            assert!(!is_object_name(name), "{name:?}");
        }
        assert!(!is_object_name(&"a".repeat(254)));
        assert!(is_object_name("touchstone-alice-example.com-x7k2p"));
    }

    #[test]
    fn a_denial_counts_even_beside_a_certificate() {
        let status = json!({
            "certificate": "QQ==",
            "conditions": [
                { "type": "Approved", "status": "True" },
                { "type": "Denied", "status": "True", "reason": "PolicyDenied", "message": "denied: no rule grants admin" },
            ],
        });
        assert_eq!(
            state(&request(&status)),
            State::Denied("no rule grants admin".to_owned())
        );
    }

    #[test]
    fn an_approval_without_certificate_is_still_waiting() {
        let status = json!({ "conditions": [{ "type": "Approved", "status": "True", "reason": "Rule", "message": "payments on call" }] });
        assert_eq!(
            state(&request(&status)),
            State::Approved("payments on call".to_owned())
        );
        assert_eq!(state(&request(&json!({}))), State::Undecided);
    }

    #[test]
    fn a_certificate_is_the_end() {
        assert_eq!(
            state(&request(&json!({ "certificate": "QQ==" }))),
            State::Issued(b"A".to_vec())
        );
    }

    #[test]
    fn a_failure_is_told_from_a_denial() {
        let status = json!({ "conditions": [{ "type": "Failed", "status": "True", "message": "CA ended" }] });
        assert_eq!(
            state(&request(&status)),
            State::Failed("CA ended".to_owned())
        );
    }

    #[test]
    fn the_signers_words_cannot_drive_the_terminal() {
        let status = json!({ "conditions": [{ "type": "Denied", "status": "True", "message": "\u{1b}[31mred" }] });
        assert_eq!(
            state(&request(&status)),
            State::Denied("?[31mred".to_owned())
        );
    }
}
