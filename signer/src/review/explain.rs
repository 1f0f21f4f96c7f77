//! Everything that stands in a request's way, not only the first.

use super::{Denial, EvidenceCache, ReviewError, Snapshot, Submission, check};
use check::Asking;
use jiff::Timestamp;
use touchstone_common::{
    csr::Request,
    policy::{Evaluation, Facts, KeyFacts, Outcome, Verdict, Violation},
};

/// What [`super::review`] would say of a request, with all that leads to it.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What is wrong before the rules are asked. With any of it, the request is denied whatever the rules say.
    pub objections: Vec<Denial>,
    /// What the rules say; `None` where the request cannot be read.
    pub rules: Option<RulesSay>,
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
    /// `approve`, `wait` or `deny`.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match self.rules.as_ref().map(|rules| &rules.evaluation.verdict) {
            Some(Verdict::Approve { .. }) if self.objections.is_empty() => "approve",
            Some(Verdict::Wait { .. }) if self.objections.is_empty() => "wait",
            _ => "deny",
        }
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
            });
        }
    };
    let objections = objections(&request, submission, snapshot, evidence, now);
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
        },
        now,
    };
    let evaluation = snapshot.policy.evaluate_by_every_rule(&facts);
    let violations = evaluation
        .outcomes
        .iter()
        .map(|outcome| (*outcome, outcome.violations(&snapshot.policy, &facts)))
        .collect();
    let long = evaluation.long(&snapshot.policy, &facts).to_string();
    Ok(Explanation {
        objections,
        rules: Some(RulesSay {
            evaluation,
            violations,
            long,
        }),
    })
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
            Asking::with(request, user, snapshot, evidence, now).map(drop),
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
