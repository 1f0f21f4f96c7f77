//! Cases as they are written.

use crate::approval::Decision;
use crate::policy::{
    at::{At, Given},
    wire::{Algorithm, ApiVersion, Pin, Touch},
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cases {
    #[expect(dead_code, reason = "reading it is checking it")]
    api_version: ApiVersion,
    #[expect(dead_code, reason = "reading it is checking it")]
    kind: Kind,
    /// When, for cases that don't say.
    #[serde(default)]
    pub(super) at: Given<At<String>>,
    pub(super) cases: At<Vec<Case>>,
}

#[derive(Debug, Deserialize)]
enum Kind {
    PolicyTests,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: At<String>,
    #[serde(default)]
    pub(super) at: Given<At<String>>,
    pub(super) request: Request,
    pub(super) expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    pub(super) user: At<String>,
    #[serde(default)]
    pub(super) creator: Given<At<String>>,
    /// The groups that Kubernetes knows the creator in.
    #[serde(default)]
    pub(super) creator_groups: Vec<At<String>>,
    pub(super) groups: At<Vec<At<String>>>,
    #[serde(default)]
    pub(super) cluster: Given<At<String>>,
    #[serde(default)]
    pub(super) ttl: Given<At<String>>,
    #[serde(default)]
    pub(super) reason: Given<At<String>>,
    #[serde(default)]
    pub(super) key: Given<Key>,
    /// What approvers said.
    #[serde(default)]
    pub(super) approvals: Vec<Approval>,
    /// Whether the request has a bare approval of Kubernetes.
    #[serde(default)]
    pub(super) approved_in_kubernetes: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Approval {
    pub(super) by: At<String>,
    /// Default: approve.
    #[serde(default)]
    pub(super) decision: Given<Decision>,
    #[serde(default)]
    pub(super) comment: Given<At<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Key {
    #[serde(default)]
    pub(super) serial: Given<At<u32>>,
    #[serde(default)]
    pub(super) spki: Given<At<String>>,
    #[serde(default)]
    pub(super) attested: Given<At<bool>>,
    /// Default: as the user's keys say.
    #[serde(default)]
    pub(super) enrolled: Given<At<bool>>,
    #[serde(default)]
    pub(super) algorithm: Given<At<Algorithm>>,
    #[serde(default)]
    pub(super) firmware: Given<At<String>>,
    #[serde(default)]
    pub(super) touch: Given<At<Touch>>,
    #[serde(default)]
    pub(super) pin: Given<At<Pin>>,
    #[serde(default)]
    pub(super) slot: Given<At<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) verdict: Verdict,
    #[serde(default)]
    pub(super) rules: Given<Vec<String>>,
    #[serde(default)]
    pub(super) ttl: Given<At<String>>,
    #[serde(default)]
    pub(super) because: Given<At<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Approve,
    Deny,
    Wait,
}
