//! Policies and requests that the tests judge.

mod approving;
mod cases;
mod diffing;
mod evaluating;
mod explaining;
mod hostile;
mod linting;
mod loading;
mod properties;

use super::{Facts, KeyFacts, Policy, Tie, Verdict};
use crate::{
    attestation::{Attested, Firmware, PinPolicy, Slot, TouchPolicy},
    certificate::Validity,
    key::{KeyAlgorithm, PublicKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};
use jiff::Timestamp;

const EXAMPLE: &str = include_str!("../../../docs/examples/policy.yaml");

fn policy(text: &str) -> Policy {
    Policy::parse("policy.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

/// Alice (payments), bob (sre) and carol (no team).
const USERS: [(&str, &str); 3] = [
    (
        "alice",
        "- { name: alice, teams: [payments], keys: [{ serial: 1 }], usernames: [\"oidc:alice\"] }\n",
    ),
    (
        "bob",
        "- { name: bob, teams: [sre], keys: [{ serial: 2 }] }\n",
    ),
    ("carol", "- { name: carol }\n"),
];

/// A policy of these rules, with alice (payments), bob (sre) and carol (no team).
fn rules(rules: &str) -> Policy {
    rules_without("", rules)
}

/// The same, but for one of the users.
fn rules_without(gone: &str, rules: &str) -> Policy {
    let users = USERS.iter().filter(|(name, _)| *name != gone);
    let users: String = users.map(|(_, line)| *line).collect();
    policy(&format!(
        "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nusers:\n{users}rules:\n{rules}"
    ))
}

/// A request; the default is one that asks for `a` with a good key.
#[derive(Clone, Debug)]
struct Request {
    user: UserName,
    kubernetes_groups: Vec<String>,
    groups: Vec<GroupName>,
    cluster: ClusterName,
    ttl: Option<Ttl>,
    reason: String,
    algorithm: KeyAlgorithm,
    attested: Option<Attested>,
    tie: Tie,
    now: Timestamp,
}

fn request(user: &str, groups: &[&str]) -> Request {
    Request {
        user: UserName::parse(user).unwrap(),
        kubernetes_groups: Vec::new(),
        groups: groups
            .iter()
            .map(|g| GroupName::parse(g).unwrap())
            .collect(),
        cluster: ClusterName::parse("prod").unwrap(),
        ttl: None,
        reason: "INC-4211 checkout latency".into(),
        algorithm: KeyAlgorithm::P256,
        attested: Some(attested()),
        tie: Tie::Enrolled,
        now: "2026-07-01T10:00:00Z".parse().unwrap(),
    }
}

fn attested() -> Attested {
    Attested {
        serial: 12_345_678,
        firmware: Firmware {
            major: 5,
            minor: 7,
            patch: 1,
        },
        slot: Slot::new(0x9a).unwrap(),
        pin_policy: PinPolicy::Once,
        touch_policy: TouchPolicy::Always,
        public_key: public_key(),
        test_root: false,
        form_factor: None,
        valid: Validity {
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::MAX,
        },
    }
}

/// The point of RFC 6979 A.2.5, a P-256 key whose private half is public.
fn public_key() -> PublicKey {
    let spki = "3059301306072a8648ce3d020106082a8648ce3d03010703420004\
        60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
        7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
    PublicKey::from_spki_der(&hex::decode(spki).unwrap()).unwrap()
}

impl Request {
    fn facts(&self) -> Facts<'_> {
        Facts {
            user: &self.user,
            kubernetes_groups: &self.kubernetes_groups,
            groups: &self.groups,
            cluster: &self.cluster,
            ttl: self.ttl,
            reason: &self.reason,
            key: KeyFacts {
                algorithm: self.algorithm,
                attested: self.attested.as_ref(),
                tie: self.tie,
            },
            now: self.now,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn verdict(&self, policy: &Policy) -> Verdict {
        policy.evaluate(&self.facts()).verdict
    }

    fn short(&self, policy: &Policy) -> String {
        policy.evaluate(&self.facts()).short()
    }

    /// `approve 30m`, `wait 30m` or `deny`.
    fn outcome(&self, policy: &Policy) -> String {
        match self.verdict(policy) {
            Verdict::Approve { ttl, .. } => format!("approve {ttl}"),
            Verdict::Deny { .. } => "deny".into(),
            Verdict::Wait { ttl, .. } => format!("wait {ttl}"),
        }
    }
}
