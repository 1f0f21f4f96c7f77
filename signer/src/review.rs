//! What the policy says of a request: pure, the same input gives the same verdict. No kube, no tokio, no clock.
//!
//! A request is read strictly, then held against what surrounds it (who created it, for how long, when), then its key
//! against the enrolment, and last the policy's rules. The first thing that is wrong is the denial's reason; a denial says
//! what would make the request pass.

mod approvals;
mod cache;
mod check;
mod explain;
mod intent;
#[cfg(test)]
mod tests;

pub use approvals::{Approval, Approvals, admit_statement, pass_holder};
pub use cache::EvidenceCache;
pub use explain::{Explanation, RulesSay, explain, explain_described};
pub use intent::{Intent, Waiting};

use check::Asking;
use jiff::Timestamp;
use std::sync::Arc;
use touchstone_common::{
    approval::Asked,
    attestation::Roots,
    csr::{KUBE_APISERVER_CLIENT, Request},
    grant::GrantId,
    name::{GroupName, UserName},
    policy::{Facts, KeyFacts, Policy, Stage, User, Verdict},
    ttl::Ttl,
};

/// How far apart the engineer's clock and the server's may be, and so how old a request may be when it is created.
pub const FRESH_SECONDS: i64 = 300;

/// A CertificateSigningRequest as Kubernetes keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `spec.signerName`.
    pub signer_name: &'a str,
    /// `spec.username`: who created it, as Kubernetes authenticated them.
    pub username: &'a str,
    /// `spec.groups`: the groups of who created it.
    pub groups: &'a [String],
    /// `spec.request`: PEM.
    pub request: &'a [u8],
    /// `spec.expirationSeconds`.
    pub expiration_seconds: Option<i32>,
    /// `spec.usages`.
    pub usages: &'a [String],
    /// `metadata.creationTimestamp`, which the API server sets: the request must have been fresh then, so that it may
    /// wait for approvals. `None`: it must be fresh now.
    pub created_at: Option<Timestamp>,
    /// What may count as approval.
    pub approvals: Approvals<'a>,
}

/// What requests are judged by. One request is judged by one snapshot, from review to signature.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// The attestation roots.
    pub roots: Arc<Roots>,
}

/// What is to be done with a request.
#[derive(Clone, Debug)]
pub enum Review {
    /// Approve it, and sign what the intent says.
    Approve(Intent),
    /// Deny it.
    Deny(Denial),
    /// Leave it pending.
    Wait(Waiting),
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The condition's reason, CamelCase.
    pub reason: &'static str,
    /// The condition's message, at most a thousand characters: why, and what would make it pass.
    pub message: String,
}

/// A request that the embedded API takes from someone it does not know: the key alone speaks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who the key is enrolled for.
    pub user: UserName,
    /// The YubiKey's serial number.
    pub key_serial: u32,
    /// The request's own nonce.
    pub nonce: [u8; 32],
    /// The lifetime that the key signed.
    pub ttl: Ttl,
    /// SHA-256 of the token with which the request is read back.
    pub read_token_sha256: [u8; 32],
}

/// A request could not be judged: not a verdict, to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The signer's clock cannot be right.
    #[error("judge the request: this machine's clock says {0}, which cannot be; set it")]
    Clock(Timestamp),
    /// The signer's clock is behind the API server's.
    #[error(
        "judge the request: it was created at {created_at}, and this machine's clock says {now}; \
         set the clocks of the signer and of the API server"
    )]
    ClockBehind {
        /// The API server's time when it stored the request.
        created_at: Timestamp,
        /// The signer's time.
        now: Timestamp,
    },
}

/// Judges a request.
///
/// # Errors
/// When it could not be judged.
pub fn review(
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Review, ReviewError> {
    check::clock(now, submission.created_at)?;
    let judged = judge(submission, Maker::Creator, snapshot, evidence, now);
    Ok(judged.unwrap_or_else(Review::Deny))
}

/// Judges a request that the signer's own front door created: the caller knows that from `spec.username`, which the API
/// server sets. Nothing but the key says who asks, as with a request that [`admit_anonymous`] lets in: its evidence must be
/// there and verify, the key must be enrolled, and the groups of the signer's account are nobody's.
///
/// # Errors
/// When it could not be judged.
pub fn review_of_front_door(
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Review, ReviewError> {
    check::clock(now, submission.created_at)?;
    let judged = judge(submission, Maker::Key, snapshot, evidence, now);
    Ok(judged.unwrap_or_else(Review::Deny))
}

/// What says who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// The creator, whom Kubernetes authenticated.
    Creator,
    /// The key alone.
    Key,
}

fn judge(
    submission: &Submission<'_>,
    maker: Maker,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Review, Denial> {
    let policy = &snapshot.policy;
    let request = check::request(submission.request)?;
    let claims = request.claims();
    check::usages(submission.usages)?;
    check::lifetime(submission.expiration_seconds, claims.ttl)?;
    check::cluster(&claims.cluster, policy)?;
    check::fresh(claims.issued_at, submission.created_at.unwrap_or(now))?;
    let user = check::user(request.user(), policy)?;
    let (asking, kubernetes_groups) = match maker {
        Maker::Creator => {
            check::creator(submission.username, request.user(), policy)?;
            let creator = Some(submission.username);
            let asking = Asking::with(&request, user, creator, snapshot, evidence, now)?;
            (asking, submission.groups)
        }
        Maker::Key => (attested(&request, user, snapshot, evidence, now)?, &[][..]),
    };

    let facts = Facts {
        user: request.user(),
        kubernetes_groups,
        groups: request.groups(),
        cluster: &claims.cluster,
        ttl: Some(claims.ttl),
        reason: claims.reason.as_str(),
        key: KeyFacts {
            algorithm: request.public_key().algorithm(),
            attested: asking.attested.as_deref(),
            tie: asking.tie,
        },
        now,
    };
    let evaluation = policy.evaluate(&facts);
    let bindings = match &evaluation.verdict {
        Verdict::Approve { rules, .. } | Verdict::Wait { rules, .. } => policy.bindings(rules),
        Verdict::Deny { .. } => Vec::new(),
    };
    check::bindings(&bindings)?;
    if submission.signer_name == KUBE_APISERVER_CLIENT {
        check::signed_as_it_is(&evaluation.verdict, claims.ttl, &bindings)?;
    }
    let groups = {
        let own = (!bindings.is_empty()).then(|| GrantId::of_nonce(&claims.nonce).group());
        let mut groups: Vec<GroupName> = request.groups().iter().cloned().chain(own).collect();
        groups.sort_unstable();
        groups
    };
    let intent = |ttl, rules: &[Arc<str>], approvals: Vec<Approval>| Intent {
        user: request.user().clone(),
        groups: groups.clone(),
        bindings: bindings.clone(),
        public_key: request.public_key().clone(),
        ttl,
        reason: claims.reason.clone(),
        rules: rules.to_vec(),
        key_serial: asking.attested.as_ref().map(|attested| attested.serial),
        nonce: claims.nonce,
        csr_sha256: request.sha256(),
        read_token_sha256: claims.read_token_sha256,
        policy_digest: policy.digest(),
        policy_generation: policy.generation(),
        approvals,
        unsigned_approval: false,
    };
    match &evaluation.verdict {
        Verdict::Approve { ttl, rules } => Ok(Review::Approve(intent(*ttl, rules, Vec::new()))),
        Verdict::Deny { .. } => Err(check::denied_by_policy(&evaluation)),
        Verdict::Wait {
            ttl,
            rules,
            stages,
            wait_for,
        } => {
            let asked = Asked {
                cluster: &claims.cluster,
                uid: submission.uid,
                csr_sha256: &request.sha256(),
                user: request.user(),
                groups: request.groups(),
                ttl: claims.ttl,
            };
            let count = approvals::count(
                &submission.approvals,
                &asked,
                user,
                stages,
                snapshot,
                evidence,
                now,
            );
            let message = evaluation.short_after(&count.tally)
                + &check::would_bind(&bindings)
                + &count.remarks();
            let until = check::still_waits(submission.created_at, *wait_for, &message, now)?;
            if let Some(denial) = count.tally.denial() {
                return Err(check::denied_by_approver(denial));
            }
            let intent = intent(*ttl, rules, count.approvals);
            if count.tally.missing().is_empty() {
                return Ok(Review::Approve(Intent {
                    unsigned_approval: stages.contains(&Stage::Kubernetes),
                    ..intent
                }));
            }
            Ok(Review::Wait(Waiting {
                intent,
                missing: count.tally.missing().to_vec(),
                message: check::shortened(message),
                until,
            }))
        }
    }
}

/// Judges whether the embedded API takes a request from someone it does not know: its signature, evidence, enrolment and
/// freshness, and that it carries a read token; not the policy's rules.
///
/// # Errors
/// Inside, why it is not taken; outside, that it could not be judged.
pub fn admit_anonymous(
    request_pem: &[u8],
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Result<Admission, Denial>, ReviewError> {
    check::clock(now, None)?;
    Ok(admit(request_pem, snapshot, evidence, now))
}

fn admit(
    request_pem: &[u8],
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Admission, Denial> {
    let request: Request = check::request(request_pem)?;
    let claims = request.claims();
    check::cluster(&claims.cluster, &snapshot.policy)?;
    check::fresh(claims.issued_at, now)?;
    let read_token_sha256 = check::read_token(claims)?;
    let user = check::user(request.user(), &snapshot.policy)?;
    let asking = attested(&request, user, snapshot, evidence, now)?;
    let attested = asking.attested.ok_or_else(check::no_evidence)?;
    Ok(Admission {
        user: request.user().clone(),
        key_serial: attested.serial,
        nonce: claims.nonce,
        ttl: claims.ttl,
        read_token_sha256,
    })
}

/// An enrolled key whose evidence verifies, with nobody beside it who says who asks.
fn attested(
    request: &Request,
    user: &User,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Asking, Denial> {
    let asking = Asking::with(request, user, None, snapshot, evidence, now)?;
    if asking.attested.is_none() {
        return Err(check::no_evidence());
    }
    Ok(asking)
}

/// Whether what surrounds a request is what its key signed: what it is for, and for how long.
///
/// # Errors
/// What differs.
pub fn fits(usages: &[String], expiration_seconds: Option<i32>, signed: Ttl) -> Result<(), Denial> {
    check::usages(usages)?;
    check::lifetime(expiration_seconds, signed)
}

/// Who reads a request back that came without a credential: the name that it is for, and SHA-256 of the token. `None`
/// where the request can't be read or carries no token.
#[must_use]
pub fn reader(request_pem: &[u8]) -> Option<(UserName, [u8; 32])> {
    let request = Request::from_pem(request_pem).ok()?;
    let token = request.claims().read_token_sha256?;
    Some((request.user().clone(), token))
}
