//! `policy explain`.

mod request;

use crate::{
    command::{Output, print, print_json},
    controller::Subject,
    error::Error,
    reload::{self, PolicyFileError},
    review::{self, Approvals, EvidenceCache, Explanation, Snapshot, Submission},
};
use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt;
use request::Given;
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
    /// The request: the CertificateSigningRequest as `kubectl get csr NAME -o yaml` prints it, its `spec.request` in PEM, or
    /// `user` and `groups` as in a policy's cases; - is the standard input
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// Who Kubernetes says created it [default: what the object says, or the user that the request names]
    #[arg(long, value_name = "KUBERNETES_USER")]
    user_name: Option<String>,
    /// A group that Kubernetes knows the creator in
    #[arg(long, value_name = "KUBERNETES_GROUP")]
    user_group: Vec<String>,
    /// When it is judged, such as 2026-07-01T10:00:00Z [default: when it was signed; an object that is decided: when it was
    /// created; one that waits, and a described request: now]
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
        let given = Given::read(&self.request)?;
        let explanation = self.explain(&given, &snapshot)?;
        match self.output {
            Output::Table => print(&for_people(&explanation)),
            Output::Json => print_json(&for_programs(&explanation, &snapshot.policy)),
        }
    }

    fn explain(&self, given: &Given, snapshot: &Snapshot) -> Result<Explanation, Error> {
        Ok(match given {
            Given::Described(request) => {
                let at = self.at.unwrap_or_else(Timestamp::now);
                review::explain_described(request, &snapshot.policy, at)?
            }
            Given::Object(object) => {
                let uid = object.uid().unwrap_or_default();
                let subject = Subject::new(uid, object.as_ref().clone());
                let mut submission = subject.submission();
                if let Some(username) = &self.user_name {
                    submission.username = username;
                }
                if !self.user_group.is_empty() {
                    submission.groups = &self.user_group;
                }
                // What waits is judged by what is on it now.
                let status = object.status.as_ref();
                let waits = status.is_none_or(|status| status.conditions.is_none());
                let at = if waits { None } else { submission.created_at };
                self.submitted(&submission, at.unwrap_or_else(Timestamp::now), snapshot)?
            }
            Given::Pem(pem) => {
                // What is missing around the request is taken as the CLI would have sent it.
                let request = Request::from_pem(pem).ok();
                let claims = request.as_ref().map(Request::claims);
                let ttl = claims.map(|claims| claims.ttl);
                let signed_at = claims.map_or_else(Timestamp::now, |claims| claims.issued_at);
                let named = request.map(|request| request.user().to_string());
                let submission = Submission {
                    uid: "",
                    signer_name: "",
                    username: &self.user_name.clone().or(named).unwrap_or_default(),
                    groups: &self.user_group,
                    request: pem,
                    expiration_seconds: ttl.and_then(|ttl| ttl.as_secs().try_into().ok()),
                    usages: &["client auth".to_owned()],
                    created_at: None,
                    approvals: Approvals::default(),
                };
                self.submitted(&submission, signed_at, snapshot)?
            }
        })
    }

    fn submitted(
        &self,
        submission: &Submission<'_>,
        at: Timestamp,
        snapshot: &Snapshot,
    ) -> Result<Explanation, Error> {
        let cache = EvidenceCache::new(NonZeroUsize::MIN);
        let at = self.at.unwrap_or(at);
        Ok(review::explain(submission, snapshot, &cache, at)?)
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
    if let Some(approvals) = &explanation.approvals {
        let _ = writeln!(text, "\nwith the approvals: {approvals}");
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
    json!({ "verdict": explanation.verdict(), "objections": objections, "rules": rules, "approvals": explanation.approvals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_common::policy::DescribedRequest;

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
        let explanation = explain
            .explain(&Given::Pem(b"x".to_vec()), &snapshot())
            .unwrap();
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
    fn a_described_request_is_explained_rule_by_rule() {
        let policy = format!(
            "{POLICY}users: [{{ name: alice, teams: [sre], keys: [{{ serial: 1 }}] }}]\n\
             rules: [{{ name: r, who: {{ teams: [sre] }}, groups: [oncall], decision: auto }}]\n"
        );
        let policy = Policy::parse("p", policy.as_bytes()).unwrap();
        let explained = |text: &str| {
            let request = DescribedRequest::parse("r", text.as_bytes()).unwrap();
            let at = "2026-07-01T10:00:00Z".parse().unwrap();
            for_people(&review::explain_described(&request, &policy, at).unwrap())
        };
        let granted = explained("user: alice\ngroups: [oncall]\n");
        assert!(granted.starts_with("verdict: approve\n"), "{granted}");
        assert!(granted.contains("r (auto): applies"), "{granted}");
        let borrowed = explained("user: alice\ngroups: [oncall]\nkey: { serial: 2 }\n");
        assert!(
            borrowed.starts_with("verdict: deny\n\nbefore the rules are asked\n  KeyNotEnrolled: "),
            "{borrowed}"
        );
        assert!(explained("user: bob\ngroups: [oncall]\n").starts_with("verdict: deny\n"));
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
            let explanation = explain
                .explain(&Given::Pem(pem.clone().into_bytes()), &snapshot())
                .unwrap();
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
        // As Kubernetes keeps it: judged by what stands around it.
        explain.at = Some("2026-07-04T20:00:00Z".parse().unwrap());
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": { "name": "late", "creationTimestamp": "2026-07-04T20:00:00Z" },
            "spec": {
                "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &pem),
                "signerName": "touchstone.dev/client",
                "expirationSeconds": 3600,
                "usages": ["client auth"],
                "username": "alice",
            },
        });
        let object = Given::Object(Box::new(serde_json::from_value(object).unwrap()));
        let explanation = explain.explain(&object, &snapshot()).unwrap();
        let of_object: Vec<_> = explanation.objections.iter().map(|o| o.reason).collect();
        assert_eq!(of_object, ["InvalidLifetime", "NotFresh", "UnknownUser"]);
    }
}
