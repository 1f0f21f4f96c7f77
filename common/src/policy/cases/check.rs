//! Cases as they are meant: every value checked, every finding kept.

use super::{Approval, Case, Expect, Key, Request, Word, wire};
use crate::{
    approval::Decision,
    attestation::{Firmware, PinPolicy, Slot, TouchPolicy},
    claims::Reason,
    key::KeyAlgorithm,
    name::{ClusterName, GroupName, UserName},
    policy::{
        Finding, Position,
        at::At,
        check::{SPKI_FORM, algorithm, parse_spki},
        explain::shortened,
        wire::{Pin, Touch},
    },
    ttl::Ttl,
};
use jiff::Timestamp;
use std::{collections::HashMap, fmt::Display};

/// A key as `touchstone key generate` makes it: what a case says nothing of is so.
const SLOT: &str = "9a";
const FIRMWARE: Firmware = Firmware {
    major: 5,
    minor: 7,
    patch: 4,
};

pub(super) fn cases(wire: &wire::Cases) -> Result<Vec<Case>, Vec<Finding>> {
    let mut check = Check::default();
    let at = wire.at.as_ref().and_then(|at| check.time(at));
    if wire.cases.value.is_empty() {
        check.find(wire.cases.position, "there are no cases".to_owned());
    }
    let mut seen = HashMap::new();
    let mut cases = Vec::with_capacity(wire.cases.value.len());
    for case in &wire.cases.value {
        let name = &case.name;
        if let Some(first) = seen.insert(name.value.as_str(), name.position) {
            let Position { line, .. } = first;
            check.find(
                name.position,
                format!(
                    "case {:?} stands in line {line} already",
                    shown(&name.value)
                ),
            );
        }
        let at = match case.at.as_ref() {
            Some(own) => check.time(own),
            None if wire.at.as_ref().is_none() => {
                check.find(
                    name.position,
                    "the case does not say when: give it `at`, or the file".to_owned(),
                );
                None
            }
            None => at,
        };
        let request = check.request(&case.request);
        let expect = check.expect(&case.expect);
        if let (Some(at), Some(request), Some(expect)) = (at, request, expect) {
            cases.push(Case {
                name: name.value.clone(),
                position: name.position,
                at,
                request,
                expect,
            });
        }
    }
    if check.findings.is_empty() {
        Ok(cases)
    } else {
        Err(check.findings)
    }
}

/// One request by itself.
pub(super) fn request(wire: &wire::Request) -> Result<Request, Vec<Finding>> {
    let mut check = Check::default();
    match check.request(wire) {
        Some(request) if check.findings.is_empty() => Ok(request),
        _ => Err(check.findings),
    }
}

/// Every part that is refused leaves a finding, and only then is `None`.
#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
}

impl Check {
    fn find(&mut self, position: Position, message: String) {
        self.findings.push(Finding {
            position: Some(position),
            message,
        });
    }

    fn ok<V, E: Display>(&mut self, at: &At<String>, what: &str, read: Result<V, E>) -> Option<V> {
        read.map_err(|error| {
            let value = shown(&at.value);
            self.find(at.position, format!("{what} {value:?} {error}"));
        })
        .ok()
    }

    fn time(&mut self, at: &At<String>) -> Option<Timestamp> {
        let read = at
            .value
            .parse()
            .map_err(|_| "is not one such as 2026-07-01T10:00:00Z");
        self.ok(at, "the time", read)
    }

    fn ttl(&mut self, at: &At<String>) -> Option<Ttl> {
        match at.value.parse() {
            Ok(ttl) => Some(ttl),
            Err(error) => {
                let error: crate::ttl::TtlError = error;
                self.find(at.position, error.to_string());
                None
            }
        }
    }

    fn request(&mut self, wire: &wire::Request) -> Option<Request> {
        let user = self.ok(&wire.user, "user name", UserName::parse(&wire.user.value));
        let groups: Vec<_> = wire.groups.value.iter().collect();
        let groups = groups
            .into_iter()
            .filter_map(|at| self.ok(at, "group", GroupName::parse(&at.value)))
            .collect();
        if wire.groups.value.is_empty() {
            self.find(wire.groups.position, "groups is empty".to_owned());
        }
        let cluster = wire
            .cluster
            .as_ref()
            .and_then(|at| self.ok(at, "cluster name", ClusterName::parse(&at.value)));
        let ttl = wire.ttl.as_ref().and_then(|at| self.ttl(at));
        let reason = match wire.reason.as_ref() {
            None => Some(Reason::default()),
            Some(at) => Reason::parse(&at.value)
                .map_err(|error| self.find(at.position, error.to_string()))
                .ok(),
        };
        let approvals = wire.approvals.iter();
        let approvals = approvals.filter_map(|one| self.approval(one)).collect();
        let key = wire.key.as_ref();
        let key = self.key(key.unwrap_or(&wire::Key::default()));
        Some(Request {
            user: user?,
            creator: wire.creator.as_ref().map(|at| at.value.clone()),
            kubernetes_groups: wire
                .creator_groups
                .iter()
                .map(|at| at.value.clone())
                .collect(),
            groups,
            cluster,
            ttl,
            reason: reason?.as_str().to_owned(),
            key: key?,
            approvals,
            approved_in_kubernetes: wire.approved_in_kubernetes,
        })
    }

    fn approval(&mut self, wire: &wire::Approval) -> Option<Approval> {
        let by = self.ok(&wire.by, "user name", UserName::parse(&wire.by.value));
        let comment = match wire.comment.as_ref() {
            None => Some(Reason::default()),
            Some(at) => Reason::parse(&at.value)
                .map_err(|error| self.find(at.position, error.to_string()))
                .ok(),
        };
        Some(Approval {
            by: by?,
            decision: wire.decision.as_ref().copied().unwrap_or(Decision::Approve),
            comment: comment?,
        })
    }

    fn key(&mut self, wire: &wire::Key) -> Option<Key> {
        let attested = wire.attested.as_ref().is_none_or(|at| at.value);
        if !attested {
            for (key, position) in [
                ("serial", wire.serial.as_ref().map(|at| at.position)),
                ("firmware", wire.firmware.as_ref().map(|at| at.position)),
                ("touch", wire.touch.as_ref().map(|at| at.position)),
                ("pin", wire.pin.as_ref().map(|at| at.position)),
                ("slot", wire.slot.as_ref().map(|at| at.position)),
            ] {
                if let Some(position) = position {
                    self.find(
                        position,
                        format!(
                            "without an attestation nobody knows the key's {key}: leave it out"
                        ),
                    );
                }
            }
        }
        let spki_sha256 = match wire.spki.as_ref() {
            None => None,
            Some(at) => {
                let digest = parse_spki(&at.value);
                if digest.is_none() {
                    self.find(at.position, SPKI_FORM.to_owned());
                }
                Some(digest?)
            }
        };
        let firmware = match wire.firmware.as_ref() {
            None => Some(FIRMWARE),
            Some(at) => self.ok(at, "firmware", at.value.parse()),
        };
        let slot = match wire.slot.as_ref() {
            None => SLOT.parse().ok(),
            Some(at) => self.ok(at, "slot", at.value.parse::<Slot>()),
        };
        Some(Key {
            serial: wire.serial.as_ref().map(|at| at.value),
            spki_sha256,
            attested,
            is_new: wire.enrolled.as_ref().is_some_and(|at| !at.value),
            algorithm: wire
                .algorithm
                .as_ref()
                .map_or(KeyAlgorithm::P256, |at| algorithm(at.value)),
            firmware: firmware?,
            touch: match wire.touch.as_ref().map(|at| at.value) {
                None | Some(Touch::Always) => TouchPolicy::Always,
                Some(Touch::Cached) => TouchPolicy::Cached,
                Some(Touch::Never) => TouchPolicy::Never,
            },
            pin: match wire.pin.as_ref().map(|at| at.value) {
                Some(Pin::Always) => PinPolicy::Always,
                Some(Pin::Never) => PinPolicy::Never,
                None | Some(Pin::Once) => PinPolicy::Once,
            },
            slot: slot?,
        })
    }

    fn expect(&mut self, wire: &wire::Expect) -> Option<Expect> {
        let verdict = match wire.verdict {
            wire::Verdict::Approve => Word::Approve,
            wire::Verdict::Deny => Word::Deny,
            wire::Verdict::Wait => Word::Wait,
        };
        let ttl = match wire.ttl.as_ref() {
            Some(at) if verdict == Word::Deny => {
                self.find(at.position, "a denial has no ttl: leave it out".to_owned());
                return None;
            }
            Some(at) => Some(self.ttl(at)?),
            None => None,
        };
        let rules = wire.rules.as_ref().map(|rules| {
            let mut rules = rules.clone();
            rules.sort_unstable();
            rules.dedup();
            rules
        });
        Some(Expect {
            verdict,
            rules,
            ttl,
            because: wire.because.as_ref().map(|at| at.value.clone()),
        })
    }
}

fn shown(text: &str) -> String {
    shortened(text, 64)
}
