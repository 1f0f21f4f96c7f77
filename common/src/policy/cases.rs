//! Cases that a policy must answer as its authors say: a request and a time, and the verdict that is expected.
//!
//! A case is judged as the signer judges: the creator must speak for the user, something must tie the key to the user,
//! and the rest is [`Policy::evaluate`]. What no case can get wrong is left out: signatures, evidence, freshness.

mod check;
mod wire;

use super::{
    Decision, Evaluation, Facts, KeyFacts, LoadError, Policy, Position, Tie, Verdict,
    explain::nearest,
    load,
    tally::{Tally, Vote},
    user::{EnrolledKey, User},
};
use crate::{
    approval,
    attestation::{Attested, Firmware, PinPolicy, Slot, TouchPolicy},
    certificate::Validity,
    claims::Reason,
    key::{KeyAlgorithm, PublicKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};
use jiff::Timestamp;
use std::fmt;

/// A file of cases that was read and checked; at least one.
#[derive(Clone, Debug)]
pub struct Cases(Vec<Case>);

#[derive(Clone, Debug)]
struct Case {
    name: String,
    position: Position,
    at: Timestamp,
    request: Request,
    expect: Expect,
}

/// A request as a case describes it. What it leaves out is what the CLI and a well-made key would give.
#[derive(Clone, Debug)]
struct Request {
    user: UserName,
    creator: Option<String>,
    kubernetes_groups: Vec<String>,
    groups: Vec<GroupName>,
    /// `None`: the policy's.
    cluster: Option<ClusterName>,
    ttl: Option<Ttl>,
    reason: String,
    key: Key,
    approvals: Vec<Approval>,
    approved_in_kubernetes: bool,
}

/// What an approver said. That the key is theirs, and as good as the policy asks, goes without saying.
#[derive(Clone, Debug)]
struct Approval {
    by: UserName,
    decision: approval::Decision,
    comment: Reason,
}

#[derive(Clone, Debug)]
struct Key {
    /// `None`: the first that is enrolled for the user.
    serial: Option<u32>,
    /// `None`: the enrolled one.
    spki_sha256: Option<[u8; 32]>,
    attested: bool,
    /// Whether nobody enrolled it.
    is_new: bool,
    algorithm: KeyAlgorithm,
    firmware: Firmware,
    touch: TouchPolicy,
    pin: PinPolicy,
    slot: Slot,
}

#[derive(Clone, Debug)]
struct Expect {
    verdict: Word,
    /// Sorted.
    rules: Option<Vec<String>>,
    ttl: Option<Ttl>,
    because: Option<String>,
}

/// A verdict in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The request is granted at once.
    Approve,
    /// It is denied.
    Deny,
    /// It waits for approvals.
    Wait,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    /// The case.
    pub name: String,
    /// Where it stands.
    pub position: Position,
    /// What the policy says.
    pub verdict: Word,
    /// The rules that made it so: those that grant, or those that deny. Sorted.
    pub rules: Vec<String>,
    /// The lifetime; `None` for a denial.
    pub ttl: Option<Ttl>,
    /// The verdict and why, in a sentence or two.
    pub explanation: String,
    /// What is not as expected; empty where the case passes.
    pub mismatches: Vec<Mismatch>,
}

/// A part of the answer that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which: `verdict`, `rules`, `ttl` or `because`.
    pub field: &'static str,
    /// What the case says.
    pub expected: String,
    /// What the policy says.
    pub got: String,
}

impl Cases {
    /// Reads cases, YAML or JSON, as strictly as a policy. `file` names them in errors.
    ///
    /// # Errors
    /// Every finding, with its place in the file.
    pub fn parse(file: &str, source: &[u8]) -> Result<Self, LoadError> {
        let wire = load::read_document(file, source, "a file of cases")?;
        let cases = check::cases(&wire).map_err(|findings| LoadError::of(file, findings))?;
        Ok(Self(cases))
    }

    /// Judges every case, in the order of the file.
    #[must_use]
    pub fn run(&self, policy: &Policy) -> Vec<CaseResult> {
        self.0.iter().map(|case| case.run(policy)).collect()
    }
}

/// A request that a person describes, as a case does: `user`, `groups` and what else matters.
#[derive(Clone, Debug)]
pub struct DescribedRequest(Request);

impl DescribedRequest {
    /// Reads the description, YAML or JSON, as strictly as a policy. `file` names it in errors.
    ///
    /// # Errors
    /// Every finding, with its place in the file.
    pub fn parse(file: &str, source: &[u8]) -> Result<Self, LoadError> {
        let wire = load::read_document(file, source, "a request")?;
        let request = check::request(&wire).map_err(|findings| LoadError::of(file, findings))?;
        Ok(Self(request))
    }

    /// What stands in its way before the rules are asked: a condition's reason, and why.
    #[must_use]
    pub fn objection(&self, policy: &Policy) -> Option<(&'static str, String)> {
        self.0.objection(policy)
    }

    /// What the policy says of it at `now`, with the approvals that it describes; and why, in a sentence or two.
    #[must_use]
    pub fn judge(&self, policy: &Policy, now: Timestamp) -> (Word, String) {
        let answer = self.0.answer(policy, now);
        (answer.verdict, answer.explanation)
    }

    /// What is known of it, for the policy to judge at `now`.
    pub fn with_facts<R>(
        &self,
        policy: &Policy,
        now: Timestamp,
        judge: impl FnOnce(&Facts<'_>) -> R,
    ) -> R {
        self.0.with_facts(policy, now, judge)
    }
}

impl CaseResult {
    /// Whether all is as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl Case {
    fn run(&self, policy: &Policy) -> CaseResult {
        let answer = self.request.answer(policy, self.at);
        let mismatches = self.expect.compare(&answer, policy);
        let Answer {
            verdict,
            rules,
            ttl,
            explanation,
        } = answer;
        CaseResult {
            name: self.name.clone(),
            position: self.position,
            verdict,
            rules,
            ttl,
            explanation,
            mismatches,
        }
    }
}

struct Answer {
    verdict: Word,
    rules: Vec<String>,
    ttl: Option<Ttl>,
    explanation: String,
}

impl Answer {
    /// What becomes of a request that waits once approvals were counted.
    fn after(self, evaluation: &Evaluation, tally: &Tally) -> Self {
        if let Some(denial) = tally.denial() {
            return Self::denied(denial);
        }
        let is_met = tally.missing().is_empty();
        Self {
            verdict: if is_met { Word::Approve } else { Word::Wait },
            explanation: evaluation.short_after(tally),
            ..self
        }
    }

    fn denied(reason: &str) -> Self {
        Self {
            verdict: Word::Deny,
            rules: Vec::new(),
            ttl: None,
            explanation: format!("denied: {reason}"),
        }
    }

    fn of(policy: &Policy, evaluation: &Evaluation) -> Self {
        let names = |rules: &[std::sync::Arc<str>]| -> Vec<String> {
            rules.iter().map(ToString::to_string).collect()
        };
        let (verdict, ttl, mut rules) = match &evaluation.verdict {
            Verdict::Approve { ttl, rules } => (Word::Approve, Some(*ttl), names(rules)),
            Verdict::Deny { .. } => (Word::Deny, None, denying(policy, evaluation)),
            Verdict::Wait { ttl, rules, .. } => (Word::Wait, Some(*ttl), names(rules)),
        };
        rules.sort_unstable();
        Self {
            verdict,
            rules,
            ttl,
            explanation: evaluation.short(),
        }
    }
}

impl Approval {
    fn vote(&self) -> Vote<'_> {
        Vote {
            approver: &self.by,
            decision: self.decision,
            comment: &self.comment,
        }
    }
}

/// The rules that deny one of the groups: those that apply speak of one.
fn denying(policy: &Policy, evaluation: &Evaluation) -> Vec<String> {
    let outcomes = evaluation.outcomes.iter();
    outcomes
        .filter(|outcome| outcome.applies())
        .filter_map(|outcome| policy.rules.get(outcome.rule()))
        .filter(|rule| rule.decision == Decision::Deny)
        .map(|rule| rule.name.to_string())
        .collect()
}

impl Request {
    fn answer(&self, policy: &Policy, now: Timestamp) -> Answer {
        match self.objection(policy) {
            Some((_, why)) => Answer::denied(&why),
            None => self.with_facts(policy, now, |facts| self.judged(policy, facts)),
        }
    }

    fn judged(&self, policy: &Policy, facts: &Facts<'_>) -> Answer {
        let evaluation = policy.evaluate(facts);
        match &evaluation.verdict {
            Verdict::Wait { stages, .. } => {
                let votes: Vec<Vote<'_>> = self.approvals.iter().map(Approval::vote).collect();
                let bare = self.approved_in_kubernetes;
                let tally = policy.tally(stages, &self.user, &votes, bare);
                Answer::of(policy, &evaluation).after(&evaluation, &tally)
            }
            Verdict::Approve { .. } | Verdict::Deny { .. } => Answer::of(policy, &evaluation),
        }
    }

    fn objection(&self, policy: &Policy) -> Option<(&'static str, String)> {
        // One whom the policy does not know is denied by it.
        let user = policy.user(&self.user)?;
        let creator = self.creator();
        if !policy.speaks_for(creator, &self.user) {
            let user = &self.user;
            let why = format!(
                "the request is for {user} and was created by {creator:?}, which is not one of the `usernames` of {user}"
            );
            return Some(("WrongCreator", why));
        }
        let enrolled = self.key.enrolled(user);
        let any_key = policy.takes_any_key() && policy.lists(creator, &self.user);
        enrolled
            .err()
            .filter(|_| !any_key)
            .map(|why| ("KeyNotEnrolled", why))
    }

    fn creator(&self) -> &str {
        self.creator.as_deref().unwrap_or(self.user.as_str())
    }

    fn tie(&self, policy: &Policy) -> Tie {
        let user = policy.user(&self.user);
        if user.is_some_and(|user| self.key.enrolled(user).is_ok()) {
            Tie::Enrolled
        } else if policy.lists(self.creator(), &self.user) {
            Tie::Creator
        } else {
            Tie::Nothing
        }
    }

    fn with_facts<R>(
        &self,
        policy: &Policy,
        now: Timestamp,
        judge: impl FnOnce(&Facts<'_>) -> R,
    ) -> R {
        let attested = self.key.attested(policy.user(&self.user));
        judge(&Facts {
            user: &self.user,
            kubernetes_groups: &self.kubernetes_groups,
            groups: &self.groups,
            cluster: self.cluster.as_ref().unwrap_or_else(|| policy.cluster()),
            ttl: self.ttl,
            reason: &self.reason,
            key: KeyFacts {
                algorithm: self.key.algorithm,
                attested: attested.as_ref(),
                tie: self.tie(policy),
            },
            now,
        })
    }
}

impl Key {
    /// Whether the key speaks for the user. What the case does not say of it is taken as enrolled.
    fn enrolled(&self, user: &User) -> Result<(), String> {
        let same = |enrolled: &[u8; 32]| self.spki_sha256.is_none_or(|own| own == *enrolled);
        let name = user.name();
        let speaks = user.keys.iter().any(|key| match key {
            EnrolledKey::Key { spki_sha256 } => self.serial.is_none() && same(spki_sha256),
            EnrolledKey::YubiKey {
                serial,
                spki_sha256,
            } => {
                self.attested
                    && self.serial.is_none_or(|own| own == *serial)
                    && spki_sha256.as_ref().is_none_or(same)
            }
        });
        match self.serial {
            _ if speaks && !self.is_new => Ok(()),
            _ if user.keys.is_empty() => Err(format!("no key is enrolled for {name}")),
            Some(serial) if self.attested => Err(format!(
                "YubiKey {serial} is not enrolled for {name} with this key"
            )),
            _ => Err(format!("the key is not enrolled for {name}")),
        }
    }

    /// What verified evidence would say.
    fn attested(&self, user: Option<&User>) -> Option<Attested> {
        let first = || user.and_then(|user| user.serials().next());
        self.attested.then(|| Attested {
            serial: self.serial.or_else(first).unwrap_or_default(),
            firmware: self.firmware,
            slot: self.slot,
            pin_policy: self.pin,
            touch_policy: self.touch,
            public_key: some_public_key(),
            test_root: false,
            form_factor: None,
            valid: Validity {
                not_before: Timestamp::MIN,
                not_after: Timestamp::MAX,
            },
        })
    }
}

/// The base point of P-256 (SEC 2, 2.4.2). An attestation is of some key; no rule looks at which.
fn some_public_key() -> PublicKey {
    const SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
        \x03\x42\x00\x04\
        \x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\
        \x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\
        \x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\
        \x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";
    #[expect(
        clippy::expect_used,
        reason = "a constant, and a test reads it: a point of the curve in a well-formed SubjectPublicKeyInfo"
    )]
    PublicKey::from_spki_der(SPKI).expect("the base point is a public key")
}

impl Expect {
    fn compare(&self, answer: &Answer, policy: &Policy) -> Vec<Mismatch> {
        let mut mismatches = Vec::new();
        let mut differ = |field, expected: String, got: String| {
            mismatches.push(Mismatch {
                field,
                expected,
                got,
            });
        };
        if self.verdict != answer.verdict {
            differ(
                "verdict",
                self.verdict.to_string(),
                answer.verdict.to_string(),
            );
        }
        if let Some(rules) = self.rules.as_ref().filter(|rules| **rules != answer.rules) {
            let mut expected = listed(rules);
            let known = || policy.rules().iter().map(|rule| rule.name());
            for rule in rules {
                if known().any(|name| name == rule) {
                    continue;
                }
                expected += &match nearest(rule, known()) {
                    Some(near) => format!(" (there is no rule {rule:?}; did you mean {near:?}?)"),
                    None => format!(" (there is no rule {rule:?})"),
                };
            }
            differ("rules", expected, listed(&answer.rules));
        }
        if let Some(ttl) = self.ttl.filter(|ttl| Some(*ttl) != answer.ttl) {
            let got = answer.ttl.map_or("none".to_owned(), |ttl| ttl.to_string());
            differ("ttl", ttl.to_string(), got);
        }
        if let Some(because) = &self.because
            && !answer.explanation.contains(because)
        {
            differ("because", because.clone(), answer.explanation.clone());
        }
        mismatches
    }
}

fn listed(rules: &[String]) -> String {
    if rules.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<_> = rules.iter().map(|rule| format!("{rule:?}")).collect();
    quoted.join(", ")
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Wait => "wait",
        })
    }
}
