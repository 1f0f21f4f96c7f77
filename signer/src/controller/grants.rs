//! Grants: claiming one, which is the replay guard, and writing down what came of it.

use super::{Context, ControllerError, code};
use crate::{
    grant::{
        Grant, GrantApproval, GrantBinding, GrantIntent, GrantRequest, GrantSpec, GrantStatus,
        Phase, name_of,
    },
    review::Intent,
    traces::TRACES,
};
use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::certificates::v1::CertificateSigningRequest, apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};

/// How many are read at once.
const PAGE: u32 = 500;

/// How many tries at one certificate are remembered in its grant.
const MAX_INTENTS: usize = 16;

/// What became of claiming a grant.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is this request's, and nothing was delivered on it yet.
    Open(Box<Grant>),
    /// It is this request's, and it is at its end.
    Ended(Phase),
    /// It is another request's: this one is a replay.
    Taken {
        /// The request that had it first.
        by: String,
    },
}

/// All grants, page by page.
pub(crate) fn all(api: &Api<Grant>) -> impl Stream<Item = kube::Result<Grant>> + '_ {
    enum Next {
        End,
        First,
        Page(String),
    }
    stream::unfold(Next::First, move |next| async move {
        let mut parameters = ListParams::default().limit(PAGE);
        match next {
            Next::End => return None,
            Next::First => {}
            Next::Page(token) => parameters = parameters.continue_token(&token),
        }
        match api.list(&parameters).await {
            Ok(page) => {
                let next = match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => Next::Page(token),
                    None => Next::End,
                };
                Some((page.items.into_iter().map(Ok).collect(), next))
            }
            Err(error) => Some((vec![Err(error)], Next::End)),
        }
    })
    .flat_map(stream::iter)
}

/// The grant of what was decided, before it is written.
pub(super) fn of(
    intent: &Intent,
    request: &CertificateSigningRequest,
    cluster: &str,
    to_sign: Option<GrantIntent>,
) -> Grant {
    Grant::new(
        &name_of(intent.nonce()),
        GrantSpec {
            user: intent.user().to_string(),
            groups: intent.groups().iter().map(ToString::to_string).collect(),
            reason: intent.reason().as_str().to_owned(),
            rules: intent.rules().iter().map(ToString::to_string).collect(),
            approvers: intent
                .approvals()
                .iter()
                .map(|a| a.approver().to_string())
                .collect(),
            approvals: intent
                .approvals()
                .iter()
                .map(|approval| GrantApproval {
                    approver: approval.approver().to_string(),
                    key_serial: approval.key_serial().map(i64::from),
                    sha256: hex::encode(approval.sha256()),
                })
                .collect(),
            unsigned_approval: intent.has_unsigned_approval(),
            key_serial: intent.key_serial().map(i64::from),
            key_sha256: hex::encode(intent.public_key().spki_sha256()),
            request: GrantRequest {
                name: request.name_any(),
                uid: request.uid().unwrap_or_default(),
                sha256: hex::encode(intent.csr_sha256()),
            },
            cluster: cluster.to_owned(),
            ttl_seconds: i64::from(intent.ttl().as_secs()),
            policy_sha256: hex::encode(intent.policy_digest()),
            policy_generation: i64::try_from(intent.policy_generation()).unwrap_or(i64::MAX),
            group: (!intent.bindings().is_empty()).then(|| intent.grant_id().group_name()),
            bindings: intent
                .bindings()
                .iter()
                .map(|binding| GrantBinding {
                    namespace: binding.namespace.to_string(),
                    kind: binding.kind.to_string(),
                    role: binding.role.to_string(),
                })
                .collect(),
            signer_name: request.spec.signer_name.clone(),
            intents: to_sign.into_iter().collect(),
        },
    )
}

impl Context {
    /// Writes the grant, or finds whose it is. What is open for this request is brought to the present intent.
    #[tracing::instrument(name = "claim grant", target = TRACES, skip_all, err)]
    pub(super) async fn claim(&self, grant: &Grant) -> Result<Claim, ControllerError> {
        let name = grant.name_any();
        match self.grants.create(&PostParams::default(), grant).await {
            Ok(created) => return Ok(Claim::Open(Box::new(created))),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(ControllerError::api("create the grant")(error)),
        }
        let mut found = self
            .grants
            .get(&name)
            .await
            .map_err(ControllerError::api("read the grant"))?;
        if found.spec.request.uid != grant.spec.request.uid {
            return Ok(Claim::Taken {
                by: found.spec.request.name,
            });
        }
        match found.phase() {
            phase @ (Phase::Issued | Phase::Failed) => Ok(Claim::Ended(phase)),
            Phase::Intent => {
                if found.spec.bindings != grant.spec.bindings {
                    // The policy changed meanwhile: what an earlier try bound would be found no more.
                    self.unbind(&found).await?;
                }
                // A write of an earlier try can still arrive: what it delivers must be known as ours.
                let mut intents = std::mem::take(&mut found.spec.intents);
                intents.extend(grant.spec.intents.iter().cloned());
                let surplus = intents.len().saturating_sub(MAX_INTENTS);
                intents.drain(..surplus);
                found.spec = GrantSpec {
                    intents,
                    ..grant.spec.clone()
                };
                let found = self
                    .grants
                    .replace(&name, &PostParams::default(), &found)
                    .await
                    .map_err(ControllerError::api("resume the grant"))?;
                Ok(Claim::Open(Box::new(found)))
            }
        }
    }

    /// Writes down what came of a grant that is open. One that is gone, or at its end, is left.
    #[tracing::instrument(name = "write grant status", target = TRACES, skip_all, err)]
    pub(super) async fn end_grant(
        &self,
        name: &str,
        known: Option<Grant>,
        status: &GrantStatus,
    ) -> Result<(), ControllerError> {
        let mut known = known;
        // Nobody else writes to it: a second conflict is an error.
        for _ in 0..2 {
            let mut grant = match known.take() {
                Some(grant) => grant,
                None => match self
                    .grants
                    .get_opt(name)
                    .await
                    .map_err(ControllerError::api("read the grant"))?
                {
                    Some(grant) => grant,
                    None => return Ok(()),
                },
            };
            if grant.phase() != Phase::Intent {
                return Ok(());
            }
            grant.status = Some(status.clone());
            match self
                .grants
                .replace_status(name, &PostParams::default(), &grant)
                .await
            {
                Ok(_) => return Ok(()),
                Err(error) if matches!(code(&error), Some(404 | 409)) => {}
                Err(error) => {
                    return Err(ControllerError::api("write the grant's status")(error));
                }
            }
        }
        Ok(())
    }
}

/// The status of a grant that came to nothing.
pub(super) fn failed(message: &str) -> GrantStatus {
    GrantStatus {
        phase: Phase::Failed,
        message: Some(message.to_owned()),
        ..GrantStatus::default()
    }
}

/// A certificate as a grant says it was delivered.
#[derive(Debug)]
pub(super) struct Delivered {
    /// SHA-256 of the CA that signed it, lower-case hexadecimal.
    pub(super) ca: String,
    /// SHA-256, lower-case hexadecimal.
    pub(super) fingerprint: String,
    /// Lower-case hexadecimal.
    pub(super) serial_number: String,
    /// Its last second.
    pub(super) not_after: Timestamp,
}

/// The status of a grant whose certificate was delivered.
pub(super) fn issued(delivered: Delivered, issued_at: Timestamp) -> GrantStatus {
    let second = |time: Timestamp| Timestamp::from_second(time.as_second()).ok().map(Time);
    GrantStatus {
        phase: Phase::Issued,
        ca: Some(delivered.ca),
        fingerprint: Some(delivered.fingerprint),
        serial_number: Some(delivered.serial_number),
        issued_at: second(issued_at),
        not_after: second(delivered.not_after),
        ..GrantStatus::default()
    }
}
