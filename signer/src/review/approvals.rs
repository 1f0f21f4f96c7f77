//! The approvals on a request: statements that approvers' keys signed, verified and counted.
//!
//! Whoever may write to a request's metadata can put anything into its annotations. A statement counts when it reads
//! strictly, is about this very request, has not ended, and is signed by a key that is enrolled for an approver other than
//! the requester and as good as the policy asks of approvers' keys. Everything else counts for nothing, and the reason is
//! told. How many there can be is bounded: Kubernetes takes 256 KiB of annotations, and each approver has one of their own.

use super::{EvidenceCache, Snapshot};
use jiff::Timestamp;
use std::{collections::BTreeMap, fmt::Write as _};
use touchstone_common::{
    approval::{ANNOTATION_PREFIX, Asked, PassError, Signed, SignedPass},
    evidence::Evidence,
    key::PublicKey,
    name::UserName,
    policy::{KeyFacts, Stage, Tally, Tie, User, Vote},
};

/// How many statements that count for nothing are told of.
const TOLD: usize = 4;

/// What may count as approval of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Approvals<'a> {
    /// `metadata.annotations`.
    pub annotations: Option<&'a BTreeMap<String, String>>,
    /// Whether someone other than this signer added the condition Approved. The API does not record who.
    pub in_kubernetes: bool,
}

/// A signed approval that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub(super) approver: UserName,
    pub(super) key_serial: Option<u32>,
    pub(super) sha256: [u8; 32],
    pub(super) statement: String,
}

impl Approval {
    /// Who.
    #[must_use]
    pub fn approver(&self) -> &UserName {
        &self.approver
    }
    /// The serial number of the approver's YubiKey, where it is attested.
    #[must_use]
    pub fn key_serial(&self) -> Option<u32> {
        self.key_serial
    }
    /// SHA-256 of the statement.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
    /// The statement itself: a JWS in the compact form.
    #[must_use]
    pub fn statement(&self) -> &str {
        &self.statement
    }
}

/// What came of the statements on a request.
pub(super) struct Count {
    pub(super) tally: Tally,
    pub(super) approvals: Vec<Approval>,
    /// For each that counted for nothing: what it is, and why.
    nothing: Vec<String>,
}

impl Count {
    /// Who approved so far, and what counted for nothing, to follow upon what is waited for. Empty where there is neither.
    pub(super) fn remarks(&self) -> String {
        let mut text = String::new();
        if !self.approvals.is_empty() {
            let names: Vec<_> = self.approvals.iter().map(|a| a.approver.as_str()).collect();
            text = format!("; approved by {}", names.join(", "));
        }
        // Writing to a string does not fail.
        for why in self.nothing.iter().take(TOLD) {
            let _ = write!(text, "; not counted: {why}");
        }
        if let Some(more @ 1..) = self.nothing.len().checked_sub(TOLD) {
            let _ = write!(text, "; not counted: {more} more");
        }
        text
    }
}

/// Verifies and counts the approvals of a request that waits for `stages`.
pub(super) fn count(
    approvals: &Approvals<'_>,
    asked: &Asked<'_>,
    requester: &User,
    stages: &[Stage],
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Count {
    let mut nothing = Vec::new();
    let mut verified: Vec<Verified> = Vec::new();
    let annotations = approvals.annotations.into_iter().flatten();
    for (key, text) in annotations.filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX)) {
        match verify(key, text, asked, requester, snapshot, evidence, now) {
            Ok(one) => match verified.iter().find(|other| other.is_of_the_same_key(&one)) {
                Some(other) => nothing.push(format!(
                    "{} signed with the same YubiKey or key as {}",
                    one.approver(),
                    other.approver()
                )),
                None => verified.push(one),
            },
            Err(why) => nothing.push(why),
        }
    }
    let votes: Vec<Vote<'_>> = verified.iter().map(Verified::vote).collect();
    let tally = snapshot
        .policy
        .tally(stages, asked.user, &votes, approvals.in_kubernetes);
    nothing.extend(
        tally
            .nothing()
            .iter()
            .map(|(approver, why)| format!("{approver} {why}")),
    );
    let approvals = tally
        .counted()
        .iter()
        .filter_map(|place| verified.get(*place))
        .map(|one| Approval {
            approver: one.approver().clone(),
            key_serial: one.serial,
            sha256: *one.signed.sha256(),
            statement: one.text.clone(),
        })
        .collect();
    Count {
        tally,
        approvals,
        nothing,
    }
}

/// Who shows a pass to the embedded API, and until when it is good.
///
/// # Errors
/// Why it is not taken, in words.
pub fn pass_holder(
    text: &str,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<(UserName, Timestamp), String> {
    let not_taken = |error: PassError| format!("the pass {error}");
    let signed = SignedPass::parse(text).map_err(not_taken)?;
    let pass = signed.pass();
    let policy = &snapshot.policy;
    pass.check(policy.cluster(), now).map_err(not_taken)?;
    let approver = &pass.approver;
    let (key, proof) = (signed.public_key(), signed.evidence());
    key_of(approver, key, proof, snapshot, evidence, now)?;
    if policy.is_approver(approver) {
        Ok((approver.clone(), pass.expires_at))
    } else {
        Err(format!("{approver} approves nothing in this policy"))
    }
}

/// Whether the embedded API takes what `approver` wants to say of the request of this UID. Whether it counts, and fits
/// the request in all else, is for the review.
///
/// # Errors
/// Why it is not taken, in words.
pub fn admit_statement(
    approver: &str,
    uid: &str,
    text: &str,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<(), String> {
    let signed = Signed::parse(text).map_err(|error| format!("the statement {error}"))?;
    let statement = signed.statement();
    if statement.approver.as_str() != approver {
        return Err("the statement is another approver's".to_owned());
    }
    if statement.request.uid != uid {
        return Err("the statement is about another request".to_owned());
    }
    let (key, proof) = (signed.public_key(), signed.evidence());
    key_of(&statement.approver, key, proof, snapshot, evidence, now).map(drop)
}

/// A statement about this request, by a key that speaks for its approver.
struct Verified {
    signed: Signed,
    serial: Option<u32>,
    text: String,
}

impl Verified {
    fn approver(&self) -> &UserName {
        &self.signed.statement().approver
    }

    fn vote(&self) -> Vote<'_> {
        let statement = self.signed.statement();
        Vote {
            approver: &statement.approver,
            decision: statement.decision,
            comment: &statement.comment,
        }
    }

    fn is_of_the_same_key(&self, other: &Self) -> bool {
        self.signed.public_key() == other.signed.public_key()
            || self.serial.is_some() && self.serial == other.serial
    }
}

fn verify(
    key: &str,
    text: &str,
    asked: &Asked<'_>,
    requester: &User,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Verified, String> {
    let signed = Signed::from_annotation(key, text).map_err(|error| {
        // A key may be long, and is not ours.
        let name: String = key.chars().skip(ANNOTATION_PREFIX.len()).take(8).collect();
        format!("the annotation {name:?} {error}")
    })?;
    let statement = signed.statement();
    let approver = &statement.approver;
    statement
        .check(asked, now)
        .map_err(|error| format!("the statement of {approver} {error}"))?;
    let by = key_of(
        approver,
        signed.public_key(),
        signed.evidence(),
        snapshot,
        evidence,
        now,
    )?;
    // Any key in the requester's YubiKey is in the requester's hand, whoever it is enrolled for.
    let in_their_yubikey = requester.serials().any(|serial| Some(serial) == by);
    if in_their_yubikey || requester.has_enrolled(by, &signed.public_key().spki_sha256()) {
        return Err(format!("{approver} signed with a key of the requester"));
    }
    Ok(Verified {
        serial: by,
        text: text.to_owned(),
        signed,
    })
}

/// Whether a key speaks for an approver and is as good as the policy asks: the serial number of its YubiKey, where it is
/// attested.
///
/// # Errors
/// Why it does not, in words that begin with the approver.
fn key_of(
    approver: &UserName,
    key: &PublicKey,
    proof: Option<&Evidence>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Option<u32>, String> {
    let policy = &snapshot.policy;
    let user = policy
        .user(approver)
        .ok_or_else(|| format!("{approver} is not a user of this policy"))?;
    let attested = proof
        .map(|proof| evidence.verify(proof, key, &snapshot.roots, now))
        .transpose()
        .map_err(|error| {
            format!("{approver} signed with a key whose attestation does not verify: {error}")
        })?;
    let serial = attested.as_ref().map(|attested| attested.serial);
    if !user.has_enrolled(serial, &key.spki_sha256()) {
        return Err(format!(
            "{approver} signed with a key that is not enrolled for them"
        ));
    }
    let facts = KeyFacts {
        algorithm: key.algorithm(),
        attested: attested.as_deref(),
        tie: Tie::Enrolled,
    };
    policy.check_approver_key(&facts).map_err(|what| {
        format!("{approver} signed with a key that is not what the policy's defaults ask: {what}")
    })?;
    Ok(serial)
}
