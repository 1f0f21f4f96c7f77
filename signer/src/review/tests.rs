//! Requests as engineers and attackers make them.

mod approving;
mod by_cluster;
mod embedded;
mod explaining;
mod front_door;
mod keys;
mod rules;
mod software;
mod surroundings;
mod yubikey;

use super::{
    Approvals, Denial, EvidenceCache, Review, ReviewError, Snapshot, Submission, admit_anonymous,
    review,
};
use jiff::{SignedDuration, Timestamp};
use std::{num::NonZeroUsize, sync::Arc};
use touchstone_common::{
    claims::{Claims, Reason},
    csr::{self, Draft},
    name::{ClusterName, GroupName, UserName},
    policy::Policy,
};
use yubikey::{Attests, GOOD, YubiKey};

const POLICY: &str = r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- { name: alice, teams: [payments], keys: [{ serial: 12345678 }], usernames: ["oidc:alice"] }
- { name: bob, teams: [payments], keys: [{ serial: 2 }] }
rules:
- { name: on call, who: { teams: [payments] }, groups: [oncall], maxTTL: 30m, reason: { pattern: "^INC-" }, decision: auto }
- { name: read, who: { teams: [payments] }, groups: [read], decision: manual, approvals: [{ from: { teams: [payments] } }] }
"#;

fn now() -> Timestamp {
    "2026-07-01T10:00:00Z".parse().unwrap()
}

/// A signer with a cache, and the engineer's YubiKey.
struct Bench {
    card: YubiKey,
    snapshot: Snapshot,
    cache: EvidenceCache,
}

/// A request and what surrounds it; the default is alice's, and good.
#[derive(Clone)]
struct Case {
    draft: Draft,
    username: String,
    expiration_seconds: Option<i32>,
    usages: Vec<String>,
    created_at: Option<Timestamp>,
    signer_name: &'static str,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self::with(POLICY, GOOD)
    }

    fn with(policy: &str, attests: Attests) -> Self {
        let card = YubiKey::new(attests);
        let policy = Policy::parse("policy.yaml", policy.as_bytes()).unwrap();
        let roots = Arc::new(card.roots());
        Self {
            card,
            snapshot: Snapshot { policy, roots },
            cache: EvidenceCache::new(NonZeroUsize::new(2).unwrap()),
        }
    }

    fn case(&self) -> Case {
        Case {
            draft: Draft {
                user: UserName::parse("alice").unwrap(),
                groups: vec![GroupName::parse("oncall").unwrap()],
                claims: Claims {
                    cluster: ClusterName::parse("prod").unwrap(),
                    ttl: "30m".parse().unwrap(),
                    reason: Reason::parse("INC-4211 checkout latency").unwrap(),
                    nonce: [7; 32],
                    issued_at: now(),
                    read_token_sha256: Some([9; 32]),
                },
                evidence: Some(self.card.evidence.clone()),
            },
            username: "alice".into(),
            expiration_seconds: Some(1800),
            usages: vec!["client auth".into()],
            created_at: None,
            signer_name: "touchstone.dev/client",
            now: now(),
        }
    }

    fn pem(&self, case: &Case) -> String {
        csr::to_pem(&case.draft.sign(&self.card).unwrap())
    }

    fn try_review(&self, case: &Case) -> Result<Review, ReviewError> {
        let pem = self.pem(case);
        let submission = Submission {
            uid: "1",
            signer_name: case.signer_name,
            username: &case.username,
            groups: &[],
            request: pem.as_bytes(),
            expiration_seconds: case.expiration_seconds,
            usages: &case.usages,
            created_at: case.created_at,
            approvals: Approvals::default(),
        };
        review(&submission, &self.snapshot, &self.cache, case.now)
    }

    fn review(&self, change: impl FnOnce(&mut Case)) -> Review {
        let mut case = self.case();
        change(&mut case);
        self.try_review(&case).unwrap()
    }

    #[track_caller]
    fn denial(&self, change: impl FnOnce(&mut Case)) -> Denial {
        match self.review(change) {
            Review::Deny(denial) => denial,
            other => panic!("not denied: {other:?}"),
        }
    }

    #[track_caller]
    fn approves(&self, change: impl FnOnce(&mut Case)) -> super::Intent {
        match self.review(change) {
            Review::Approve(intent) => intent,
            other => panic!("not approved: {other:?}"),
        }
    }

    fn admit(&self, case: &Case) -> Result<super::Admission, Denial> {
        let pem = self.pem(case);
        admit_anonymous(pem.as_bytes(), &self.snapshot, &self.cache, case.now).unwrap()
    }

    fn case_key_sha256(&self) -> [u8; 32] {
        use touchstone_common::key::SigningKey as _;
        self.card.public_key().spki_sha256()
    }

    fn explain(&self, case: &Case) -> super::Explanation {
        let pem = self.pem(case);
        let submission = Submission {
            uid: "1",
            signer_name: case.signer_name,
            username: &case.username,
            groups: &[],
            request: pem.as_bytes(),
            expiration_seconds: case.expiration_seconds,
            usages: &case.usages,
            created_at: case.created_at,
            approvals: Approvals::default(),
        };
        super::explain(&submission, &self.snapshot, &self.cache, case.now).unwrap()
    }
}

fn shifted(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}
