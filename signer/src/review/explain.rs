//! Everything that stands in a request's way, not only the first.

use super::{Denial, EvidenceCache, Maker, Review, ReviewError, Snapshot, Submission, check};
use check::Asking;
use jiff::Timestamp;
use touchstone_common::{
    csr::Request,
    policy::{
        DescribedRequest, Evaluation, Facts, KeyFacts, Outcome, Policy, Tie, Verdict, Violation,
        Word,
    },
};

const DENY: &str = "deny";

/// What [`super::review`] would say of a request, with all that leads to it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What is wrong before the rules are asked. With any of it, the request is denied whatever the rules say.
    pub objections: Vec<Denial>,
    /// What the rules say; `None` where the request cannot be read.
    pub rules: Option<RulesSay>,
    /// What comes of it with the approvals on the request, where a rule asks for some.
    pub approvals: Option<String>,
    verdict: &'static str,
}

/// What the rules say of a request.
#[derive(Clone, Debug)]
pub struct RulesSay {
    /// The verdict and what each rule made of the request.
    pub evaluation: Evaluation,
    /// For each rule, in the order of the file, the conditions that do not hold.
    pub violations: Vec<(Outcome, Vec<Violation>)>,
    /// The whole, for people.
    pub long: String,
}

impl Explanation {
    /// `approve`, `wait` or `deny`: what [`super::review`] says.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        self.verdict
    }
}

/// Explains what would come of a request.
///
/// # Errors
/// When it could not be judged.
pub fn explain(
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Explanation, ReviewError> {
    check::clock(now, submission.created_at)?;
    let request = match check::request(submission.request) {
        Ok(request) => request,
        Err(objection) => {
            return Ok(Explanation {
                objections: vec![objection],
                rules: None,
                approvals: None,
                verdict: DENY,
            });
        }
    };
    let objections = objections(&request, submission, snapshot, evidence, now);
    let tie = tie(&request, submission, snapshot, evidence, now);
    let attested = request.evidence().and_then(|of_key| {
        let key = request.public_key();
        evidence.verify(of_key, key, &snapshot.roots, now).ok()
    });
    let claims = request.claims();
    let facts = Facts {
        user: request.user(),
        kubernetes_groups: submission.groups,
        groups: request.groups(),
        cluster: &claims.cluster,
        ttl: Some(claims.ttl),
        reason: claims.reason.as_str(),
        key: KeyFacts {
            algorithm: request.public_key().algorithm(),
            attested: attested.as_deref(),
            tie,
        },
        now,
    };
    let rules = RulesSay::of(&snapshot.policy, &facts);
    let (verdict, said) = match super::judge(submission, Maker::Creator, snapshot, evidence, now) {
        Ok(Review::Approve(_)) => ("approve", "every stage is met".to_owned()),
        Ok(Review::Wait(waiting)) => ("wait", waiting.message().to_owned()),
        Ok(Review::Deny(denial)) | Err(denial) => (DENY, denial.message),
    };
    let asked = rules.ask_for_approvals() && objections.is_empty();
    Ok(Explanation {
        objections,
        rules: Some(rules),
        approvals: asked.then_some(said),
        verdict,
    })
}

/// Explains what would come of a request that someone describes.
///
/// # Errors
/// When it could not be judged.
pub fn explain_described(
    request: &DescribedRequest,
    policy: &Policy,
    now: Timestamp,
) -> Result<Explanation, ReviewError> {
    check::clock(now, None)?;
    let objection = request.objection(policy);
    let objections = objection.map(|(reason, message)| Denial { reason, message });
    let objections: Vec<_> = objections.into_iter().collect();
    let rules = request.with_facts(policy, now, |facts| RulesSay::of(policy, facts));
    let (verdict, said) = request.judge(policy, now);
    let asked = rules.ask_for_approvals() && objections.is_empty();
    Ok(Explanation {
        objections,
        rules: Some(rules),
        approvals: asked.then_some(said),
        verdict: match verdict {
            Word::Approve => "approve",
            Word::Deny => DENY,
            Word::Wait => "wait",
        },
    })
}

impl RulesSay {
    fn ask_for_approvals(&self) -> bool {
        matches!(self.evaluation.verdict, Verdict::Wait { .. })
    }

    fn of(policy: &Policy, facts: &Facts<'_>) -> Self {
        let evaluation = policy.evaluate_by_every_rule(facts);
        let outcomes = evaluation.outcomes.iter();
        let violations = outcomes
            .map(|outcome| (*outcome, outcome.violations(policy, facts)))
            .collect();
        let long = evaluation.long(policy, facts).to_string();
        Self {
            evaluation,
            violations,
            long,
        }
    }
}

fn objections(
    request: &Request,
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Vec<Denial> {
    let (policy, claims) = (&snapshot.policy, request.claims());
    let user = check::user(request.user(), policy);
    let of_user = match user {
        Ok(user) => vec![
            check::creator(submission.username, request.user(), policy),
            Asking::with(
                request,
                user,
                Some(submission.username),
                snapshot,
                evidence,
                now,
            )
            .map(drop),
        ],
        Err(unknown) => vec![Err(unknown)],
    };
    [
        check::usages(submission.usages),
        check::lifetime(submission.expiration_seconds, claims.ttl),
        check::cluster(&claims.cluster, policy),
        check::fresh(claims.issued_at, submission.created_at.unwrap_or(now)),
    ]
    .into_iter()
    .chain(of_user)
    .filter_map(Result::err)
    .collect()
}

/// What ties the key to who asks, for the rules to look at.
fn tie(
    request: &Request,
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Tie {
    let creator = Some(submission.username);
    let user = snapshot.policy.user(request.user());
    user.and_then(|user| Asking::with(request, user, creator, snapshot, evidence, now).ok())
        .map_or(Tie::Nothing, |asking| asking.tie)
}
