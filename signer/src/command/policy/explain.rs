//! `policy explain`.

use crate::{
    command::{Output, print, print_json},
    error::Error,
    reload::{self, PolicyFileError},
    review::{self, Approvals, EvidenceCache, Explanation, Snapshot, Submission},
};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{fmt::Write as _, num::NonZeroUsize, path::PathBuf, sync::Arc};
use touchstone_common::{
    csr::Request,
    policy::{Policy, Verdict},
};

/// `policy explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The request, PEM: `spec.request` of a CertificateSigningRequest, base64-decoded
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// Who Kubernetes says created it [default: the user that the request names]
    #[arg(long, value_name = "KUBERNETES_USER")]
    user_name: Option<String>,
    /// A group that Kubernetes knows the creator in
    #[arg(long, value_name = "KUBERNETES_GROUP")]
    user_group: Vec<String>,
    /// When it is judged, such as 2026-07-01T10:00:00Z [default: when it was signed]
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// A root that attestations may end in beside Yubico's, PEM
    #[arg(long, value_name = "FILE")]
    attestation_root: Vec<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Error> {
        let source = reload::read(&self.policy)?;
        let policy = Policy::parse(&self.policy.display().to_string(), &source)
            .map_err(PolicyFileError::Load)?;
        let snapshot = Snapshot {
            policy,
            roots: Arc::new(reload::attestation_roots(&self.attestation_root)?),
        };
        let pem = std::fs::read(&self.request).map_err(|source| Error::RequestRead {
            path: self.request.clone(),
            source,
        })?;
        let explanation = self.explain(&pem, &snapshot)?;
        match self.output {
            Output::Table => print(&for_people(&explanation)),
            Output::Json => print_json(&for_programs(&explanation, &snapshot.policy)),
        }
    }

    /// What is missing around the request is taken as the CLI would have sent it.
    fn explain(&self, pem: &[u8], snapshot: &Snapshot) -> Result<Explanation, Error> {
        let request = Request::from_pem(pem).ok();
        let claims = request.as_ref().map(Request::claims);
        let named = request.as_ref().map(|request| request.user().to_string());
        let username = self.user_name.clone().or(named).unwrap_or_default();
        let signed_at = claims.map(|claims| claims.issued_at);
        let submission = Submission {
            uid: "",
            signer_name: "",
            username: &username,
            groups: &self.user_group,
            request: pem,
            expiration_seconds: claims.and_then(|claims| claims.ttl.as_secs().try_into().ok()),
            usages: &["client auth".to_owned()],
            created_at: None,
            approvals: Approvals::default(),
        };
        let at = self.at.or(signed_at).unwrap_or_else(Timestamp::now);
        let cache = EvidenceCache::new(NonZeroUsize::MIN);
        Ok(review::explain(&submission, snapshot, &cache, at)?)
    }
}

fn for_people(explanation: &Explanation) -> String {
    let mut text = format!("verdict: {}\n", explanation.verdict());
    // Writing to a string does not fail.
    if !explanation.objections.is_empty() {
        let _ = writeln!(text, "\nbefore the rules are asked");
        for objection in &explanation.objections {
            let _ = writeln!(text, "  {}: {}", objection.reason, objection.message);
        }
    }
    if let Some(rules) = &explanation.rules {
        let _ = write!(text, "\nthe rules say: {}", rules.long);
    }
    text
}

fn for_programs(explanation: &Explanation, policy: &Policy) -> Value {
    let objections: Vec<_> = explanation
        .objections
        .iter()
        .map(|objection| json!({ "reason": objection.reason, "message": objection.message }))
        .collect();
    let rules = explanation.rules.as_ref().map(|say| {
        let (ttl, used) = match &say.evaluation.verdict {
            Verdict::Approve { ttl, rules } | Verdict::Wait { ttl, rules, .. } => {
                (Some(ttl.to_string()), rules.clone())
            }
            Verdict::Deny { .. } => (None, Vec::new()),
        };
        let each: Vec<_> = policy
            .rules()
            .iter()
            .zip(&say.violations)
            .map(|(rule, (outcome, violations))| {
                let violations: Vec<_> = violations
                    .iter()
                    .map(|v| json!({ "field": v.field, "message": v.message }))
                    .collect();
                json!({
                    "name": rule.name(),
                    "decision": rule.decision().to_string(),
                    "applies": outcome.applies(),
                    "violations": violations,
                })
            })
            .collect();
        json!({
            "message": say.evaluation.short(),
            "ttl": ttl,
            "used": used.iter().map(|name| &**name).collect::<Vec<_>>(),
            "each": each,
        })
    });
    json!({ "verdict": explanation.verdict(), "objections": objections, "rules": rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n";

    fn snapshot() -> Snapshot {
        Snapshot {
            policy: Policy::parse("p", POLICY.as_bytes()).unwrap(),
            roots: Arc::new(reload::attestation_roots(&[]).unwrap()),
        }
    }

    #[test]
    fn what_is_not_a_request_is_explained_too() {
        let explain = Explain {
            policy: "p".into(),
            request: "r".into(),
            user_name: None,
            user_group: Vec::new(),
            at: None,
            attestation_root: Vec::new(),
            output: Output::Table,
        };
        let explanation = explain.explain(b"x", &snapshot()).unwrap();
        let text = for_people(&explanation);
        assert!(
            text.starts_with("verdict: deny\n\nbefore the rules are asked\n  InvalidRequest: "),
            "{text}"
        );
        let json = for_programs(&explanation, &snapshot().policy);
        assert_eq!(json["objections"][0]["reason"], "InvalidRequest");
        assert_eq!(json["rules"], Value::Null);
    }

    #[test]
    fn a_request_is_judged_as_of_when_it_was_signed() {
        use touchstone_common::{
            claims::{Claims, Reason},
            csr::{self, Draft},
            key::{KeyAlgorithm, SoftwareKey},
        };
        let issued_at: Timestamp = "2026-07-04T19:04:00Z".parse().unwrap();
        let draft = Draft {
            user: "alice".parse().unwrap(),
            groups: vec!["oncall".parse().unwrap()],
            claims: Claims {
                cluster: "prod".parse().unwrap(),
                ttl: "30m".parse().unwrap(),
                reason: Reason::parse("INC-1").unwrap(),
                nonce: [1; 32],
                issued_at,
                read_token_sha256: None,
            },
            evidence: None,
        };
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let pem = csr::to_pem(&draft.sign(&key).unwrap());
        let mut explain = Explain {
            policy: "p".into(),
            request: "r".into(),
            user_name: None,
            user_group: Vec::new(),
            at: None,
            attestation_root: Vec::new(),
            output: Output::Table,
        };
        let reasons = |explain: &Explain| {
            let explanation = explain.explain(pem.as_bytes(), &snapshot()).unwrap();
            let text = for_people(&explanation);
            assert!(
                text.contains("alice is not a user of this policy"),
                "{text}"
            );
            let reasons = explanation
                .objections
                .iter()
                .map(|objection| objection.reason);
            reasons.collect::<Vec<_>>()
        };
        assert_eq!(reasons(&explain), ["UnknownUser"]);
        explain.at = Some("2026-07-05T00:00:00Z".parse().unwrap());
        assert_eq!(reasons(&explain), ["NotFresh", "UnknownUser"]);
    }
}
