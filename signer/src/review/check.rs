//! What is checked of a request before the policy's rules are asked.

use super::{Denial, EvidenceCache, FRESH_SECONDS, ReviewError, Snapshot};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use touchstone_common::{
    attestation::Attested,
    claims::Claims,
    csr::{KUBE_APISERVER_CLIENT, Request},
    name::{ClusterName, UserName},
    policy::{Binding, Evaluation, MAX_BINDINGS, Policy, Stage, Tie, User, Verdict},
    ttl::{Ttl, WaitLimit},
};

/// 2026-01-01T00:00:00Z. No request is older than this program: a clock before it is not set.
const EPOCH: i64 = 1_767_225_600;
/// What a certificate of Touchstone is for (`certificates.k8s.io/v1` KeyUsage).
const CLIENT_AUTH: &str = "client auth";
/// The most characters of a denial's message.
const MESSAGE: usize = 1000;

fn denial(reason: &'static str, message: impl Into<String>) -> Denial {
    Denial {
        reason,
        message: shortened(message.into()),
    }
}

pub(super) fn shortened(message: String) -> String {
    if message.chars().count() <= MESSAGE {
        message
    } else {
        message.chars().take(MESSAGE - 1).chain(['…']).collect()
    }
}

pub(super) fn clock(now: Timestamp, created_at: Option<Timestamp>) -> Result<(), ReviewError> {
    if now.as_second() < EPOCH {
        return Err(ReviewError::Clock(now));
    }
    match created_at {
        Some(created_at) if seconds_between(now, created_at) > FRESH_SECONDS => {
            Err(ReviewError::ClockBehind { created_at, now })
        }
        _ => Ok(()),
    }
}

pub(super) fn request(pem: &[u8]) -> Result<Request, Denial> {
    Request::from_pem(pem).map_err(|error| {
        denial(
            "InvalidRequest",
            format!("the request can't be taken: {error}"),
        )
    })
}

pub(super) fn usages(usages: &[String]) -> Result<(), Denial> {
    match usages {
        [only] if only == CLIENT_AUTH => Ok(()),
        _ => Err(denial(
            "InvalidUsages",
            "spec.usages must be exactly [\"client auth\"]; log in with `touchstone login`",
        )),
    }
}

/// Each is an object in the cluster, written before the certificate is delivered.
pub(super) fn bindings(bindings: &[Binding]) -> Result<(), Denial> {
    if bindings.len() <= MAX_BINDINGS {
        return Ok(());
    }
    Err(denial(
        "TooManyBindings",
        format!(
            "the certificate would come with {} RoleBindings, and at most {MAX_BINDINGS} are made: ask for fewer groups at once",
            bindings.len()
        ),
    ))
}

/// kube-controller-manager signs a request as it is, at once when it is approved: nothing can be added to it, nothing cut
/// off, and an approval that is not Touchstone's own comes before anything is recorded.
pub(super) fn signed_as_it_is(
    verdict: &Verdict,
    asked: Ttl,
    bindings: &[Binding],
) -> Result<(), Denial> {
    let (ttl, stages) = match verdict {
        Verdict::Approve { ttl, .. } => (*ttl, &[][..]),
        Verdict::Wait { ttl, stages, .. } => (*ttl, &stages[..]),
        Verdict::Deny { .. } => return Ok(()),
    };
    let wrong = |what: String| {
        Err(denial(
            "NotSignedByCluster",
            format!("the signer {KUBE_APISERVER_CLIENT} signs requests as they are, and {what}"),
        ))
    };
    if ttl != asked {
        return wrong(format!(
            "the policy grants {ttl}, not {asked}: ask with --ttl {ttl}"
        ));
    }
    if !bindings.is_empty() {
        return wrong(
            "a rule that grants this gives the certificate a group of its own (`binding: perGrant`): ask another signer for it"
                .to_owned(),
        );
    }
    if stages.contains(&Stage::Kubernetes) {
        return wrong(
            "a rule that grants this takes a bare approval in Kubernetes, with which it would be signed before it is judged: \
             whoever owns the policy has approvers sign instead"
                .to_owned(),
        );
    }
    Ok(())
}

/// What an approver cannot see in the request: what its groups come with. Empty where that is nothing.
pub(super) fn would_bind(bindings: &[Binding]) -> String {
    if bindings.is_empty() {
        return String::new();
    }
    let all: Vec<_> = bindings
        .iter()
        .map(|binding| format!("{} {} in {}", binding.kind, binding.role, binding.namespace))
        .collect();
    format!("; it would have {}", all.join(", "))
}

/// What Kubernetes was asked and what the card signed must be the same, or someone between them changed it.
pub(super) fn lifetime(asked: Option<i32>, signed: Ttl) -> Result<(), Denial> {
    let wrong = |what: String| Err(denial("InvalidLifetime", what));
    match asked.map(i64::from) {
        None => wrong("spec.expirationSeconds is missing".to_owned()),
        Some(seconds) if seconds < i64::from(Ttl::MIN.as_secs()) => wrong(format!(
            "spec.expirationSeconds is {seconds}; the least is 600"
        )),
        Some(seconds) if seconds != i64::from(signed.as_secs()) => wrong(format!(
            "spec.expirationSeconds is {seconds}, and the lifetime that the key signed is {signed}; they must be the same"
        )),
        Some(_) => Ok(()),
    }
}

pub(super) fn cluster(claimed: &ClusterName, policy: &Policy) -> Result<(), Denial> {
    if claimed == policy.cluster() {
        return Ok(());
    }
    Err(denial(
        "WrongCluster",
        format!(
            "the request is for cluster {claimed}, and this signer serves {}; correct the cluster's name in `touchstone config`",
            policy.cluster()
        ),
    ))
}

pub(super) fn fresh(issued_at: Timestamp, seen_at: Timestamp) -> Result<(), Denial> {
    let age = seconds_between(issued_at, seen_at);
    if age.abs() <= FRESH_SECONDS {
        return Ok(());
    }
    let (by, direction) = if age > 0 {
        (age, "before")
    } else {
        (age.saturating_neg(), "after")
    };
    Err(denial(
        "NotFresh",
        format!(
            "the request was signed {} {direction} it came in, by the clock of the engineer's machine ({issued_at}); at \
             most 5 minutes are allowed. Set that clock (`timedatectl set-ntp true`) and log in again",
            readable(by)
        ),
    ))
}

pub(super) fn user<'p>(name: &UserName, policy: &'p Policy) -> Result<&'p User, Denial> {
    policy
        .user(name)
        .ok_or_else(|| denial("UnknownUser", policy.why_unknown(name)))
}

pub(super) fn creator(creator: &str, user: &UserName, policy: &Policy) -> Result<(), Denial> {
    if policy.speaks_for(creator, user) {
        return Ok(());
    }
    Err(denial(
        "WrongCreator",
        format!(
            "the request is for {user} and was created by {creator:?}; if that is the same person, the policy has to say so: \
             add it to the `usernames` of {user}"
        ),
    ))
}

pub(super) fn read_token(claims: &Claims) -> Result<[u8; 32], Denial> {
    claims.read_token_sha256.ok_or_else(|| {
        denial(
            "NoReadToken",
            "the request carries no read token, and without one nobody can read it back; log in with `touchstone login`",
        )
    })
}

pub(super) fn no_evidence() -> Denial {
    denial(
        "NoEvidence",
        "the request carries no attestation of its key, and nothing else says who asks; make the key with `touchstone key \
         generate`",
    )
}

/// Until when a request that was made at `created_at` waits, if it still does. `waiting` says for what.
pub(super) fn still_waits(
    created_at: Option<Timestamp>,
    wait_for: WaitLimit,
    waiting: &str,
    now: Timestamp,
) -> Result<Timestamp, Denial> {
    let since = created_at.unwrap_or(now);
    let limit = SignedDuration::from_secs(i64::from(wait_for.as_secs()));
    match since.checked_add(limit) {
        Ok(until) if until > now => Ok(until),
        _ => Err(denial(
            "WaitEnded",
            format!(
                "a request like this waits for {wait_for}, and that is over ({waiting}); ask those who may approve, and log in again"
            ),
        )),
    }
}

pub(super) fn denied_by_approver(who: &str) -> Denial {
    denial("DeniedByApprover", format!("denied: {who}"))
}

pub(super) fn denied_by_policy(evaluation: &Evaluation) -> Denial {
    denial("DeniedByPolicy", evaluation.short())
}

/// What is known of a key that may ask.
pub(super) struct Asking {
    /// What verified evidence says; `None` where there is none and the key itself is enrolled, or none needs to be.
    pub(super) attested: Option<Arc<Attested>>,
    /// Enrolled, or brought by a creator whom Kubernetes knows.
    pub(super) tie: Tie,
}

impl Asking {
    /// `creator` is who Kubernetes says made the request; `None` where nobody but the key speaks for who asks.
    pub(super) fn with(
        request: &Request,
        user: &User,
        creator: Option<&str>,
        snapshot: &Snapshot,
        cache: &EvidenceCache,
        now: Timestamp,
    ) -> Result<Self, Denial> {
        let key = request.public_key();
        let attested = match request.evidence() {
            None => None,
            Some(evidence) => Some(cache.verify(evidence, key, &snapshot.roots, now).map_err(
                |error| {
                    denial(
                        "InvalidEvidence",
                        format!("the key's attestation does not verify: {error}"),
                    )
                },
            )?),
        };
        let serial = attested.as_ref().map(|attested| attested.serial);
        let spki_sha256 = key.spki_sha256();
        let name = user.name();
        if user.has_enrolled(serial, &spki_sha256) {
            let tie = Tie::Enrolled;
            return Ok(Self { attested, tie });
        }
        let any_key = creator.filter(|_| snapshot.policy.takes_any_key());
        if any_key.is_some_and(|creator| snapshot.policy.lists(creator, name)) {
            let tie = Tie::Creator;
            return Ok(Self { attested, tie });
        }
        let entry = "`touchstone key enrol` prints the lines for the policy";
        let message = match serial {
            None if any_key.is_some() => format!(
                "the key is not enrolled for {name}, and a key that is not is taken only from a creator whom the policy lists \
                 under `usernames` of {name}, by another name than that"
            ),
            None => format!(
                "the request carries no attestation, and its key is not enrolled by its hash for {name}; {entry}"
            ),
            Some(serial) if user.serials().any(|enrolled| enrolled == serial) => format!(
                "YubiKey {serial} is enrolled for {name} with another key than this one (sha256:{}); {entry}",
                hex::encode(spki_sha256)
            ),
            Some(serial) => format!("YubiKey {serial} is not enrolled for {name}; {entry}"),
        };
        Err(denial("KeyNotEnrolled", message))
    }
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> i64 {
    later.as_second().saturating_sub(earlier.as_second())
}

/// A length of time in its largest unit, rounded down.
fn readable(seconds: i64) -> String {
    let (number, unit) = match seconds {
        ..120 => (seconds, "seconds"),
        120..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit}")
}
