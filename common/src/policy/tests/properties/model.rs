//! Rules as the language is meant, judged by the plainest code that can be written for the few that these tests make.

use super::super::Request;
use crate::{
    key::KeyAlgorithm,
    policy::{Decision, Tie},
};
use jiff::tz::TimeZone;
use std::fmt;

/// A rule without its name.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) who: &'static str,
    pub(super) patterns: Vec<&'static str>,
    /// A place in [`CONDITIONS`].
    pub(super) condition: usize,
    pub(super) decision: Decision,
}

pub(super) const WHO: [&str; 6] = [
    "",
    "who: { users: [alice] }, ",
    "who: { teams: [payments] }, ",
    "who: { teams: [sre] }, ",
    "who: { users: [bob, carol], teams: [payments] }, ",
    "who: { groups: [leads] }, ",
];

pub(super) const GROUPS: [&str; 7] = [
    "a",
    "b",
    "ab",
    "jit:x",
    "jit:y:x",
    "jit:team-x",
    "jit:team-",
];

/// Patterns, with the groups that each matches.
pub(super) const PATTERNS: [(&str, &[&str]); 8] = [
    ("a", &["a"]),
    ("b", &["b"]),
    ("a*", &["a", "ab"]),
    ("*", &["a", "b", "ab"]),
    ("jit:*", &["jit:x", "jit:team-x", "jit:team-"]),
    ("jit:**", &["jit:x", "jit:y:x", "jit:team-x", "jit:team-"]),
    ("jit:*:x", &["jit:y:x"]),
    // With the namespaces y and team-*.
    ("jit:{namespace}", &["jit:team-x"]),
];

pub(super) const CONDITIONS: [&str; 10] = [
    "",
    ", reason: { pattern: \"^INC\" }",
    ", reason: { minLength: 3 }, maxTTL: 40m",
    ", maxTTL: 15m",
    ", key: { algorithms: [p384] }",
    ", key: { attested: false }",
    ", key: { minFirmware: \"5.8.0\" }",
    ", hours: { from: \"22:00\", to: \"06:00\", zone: Asia/Tokyo }",
    ", clusters: [\"dev*\"]",
    ", key: { attested: false, enrolled: false }",
];
pub(super) const NIGHT: usize = 7;
pub(super) const OTHER_CLUSTER: usize = 8;

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<_> = self.patterns.iter().map(|p| format!("{p:?}")).collect();
        write!(f, "{}groups: [{}]", self.who, groups.join(", "))?;
        if self.patterns.iter().any(|p| p.contains('{')) {
            f.write_str(", namespaces: [y, team-*]")?;
        }
        write!(
            f,
            "{}, decision: {}",
            CONDITIONS[self.condition], self.decision
        )?;
        if self.decision == Decision::Manual {
            f.write_str(", approvals: kubernetes")?;
        }
        Ok(())
    }
}

impl Model {
    fn is_for(&self, request: &Request) -> bool {
        let user = request.user.as_str();
        match WHO.iter().position(|who| *who == self.who) {
            Some(0) => true,
            Some(1 | 2) => user == "alice",
            Some(3) => user == "bob",
            Some(4) => true,
            _ => !request.kubernetes_groups.is_empty(),
        }
    }

    fn speaks_of(&self, group: &str) -> bool {
        let of = |p: &&str| PATTERNS.iter().find(|(text, _)| text == p).unwrap().1;
        self.patterns.iter().any(|p| of(p).contains(&group))
    }

    fn holds(&self, request: &Request) -> bool {
        // Of rules that grant: the key is a P-256 or P-384 key of firmware 5.7.1, or is not attested; and is enrolled or not.
        let attested = request.attested.is_some();
        let key = self.decision == Decision::Deny || (attested && request.tie == Tie::Enrolled);
        match self.condition {
            1 | 2 => key && !request.reason.is_empty(),
            4 => key && request.algorithm == KeyAlgorithm::P384,
            5 => request.tie == Tie::Enrolled,
            9 => request.tie != Tie::Nothing,
            6 => false,
            NIGHT => {
                let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
                let hour = request.now.to_zoned(tokyo).hour();
                key && !(6..22).contains(&hour)
            }
            OTHER_CLUSTER => false,
            _ => key,
        }
    }

    fn minutes(&self) -> u32 {
        match self.condition {
            2 => 40,
            3 => 15,
            _ => 60,
        }
    }
}

/// Deny, wait or approve as 0, 1 and 2; and the seconds.
pub(super) fn judge(rules: &[Model], request: &Request) -> (u8, Option<u32>) {
    const DENIED: (u8, Option<u32>) = (0, None);
    if request.user.as_str() == "mallory" {
        return DENIED;
    }
    let mut seconds = request.ttl.map_or(30 * 60, |ttl| ttl.as_secs()).min(3600);
    let mut rank = 2;
    for group in &request.groups {
        let longest = |decision| {
            rules
                .iter()
                .filter(|rule| rule.decision == decision && rule.speaks_of(group.as_str()))
                .filter(|rule| rule.is_for(request) && rule.holds(request))
                .map(Model::minutes)
                .max()
        };
        if longest(Decision::Deny).is_some() {
            return DENIED;
        }
        let minutes = match (longest(Decision::Auto), longest(Decision::Manual)) {
            (Some(minutes), _) => minutes,
            (None, Some(minutes)) => {
                rank = 1;
                minutes
            }
            (None, None) => return DENIED,
        };
        seconds = seconds.min(minutes * 60);
    }
    (rank, Some(seconds))
}
