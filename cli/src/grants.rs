//! Grants as a cluster has them, read page by page. Who may write them writes what stands in them: nothing in one is
//! believed to be more than text, and one that cannot be read is shown as such.

use crate::{
    api::{ApiError, Connection},
    error::Error,
};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use touchstone_common::grant::{REVOCATION_REASON_ANNOTATION, REVOKED_BY_ANNOTATION};

/// How many are read at once: with the largest there can be, less than an answer may have.
const PAGE: u32 = 250;
/// How often a listing is begun anew whose pages the server has forgotten.
const LISTINGS: usize = 3;
/// HTTP 410, "Gone": the server does not know any more what it began to list.
const GONE: u16 = 410;

/// How far a grant came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Its certificate is valid.
    Live,
    /// Recorded; a certificate may be on its way.
    Intent,
    /// Its certificate is valid, and the grant is revoked.
    Revoked,
    /// Its certificate has ended.
    Ended,
    /// It came to nothing.
    Failed,
    /// It cannot be read.
    Unreadable,
}

impl State {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Intent => "intent",
            Self::Revoked => "revoked",
            Self::Ended => "ended",
            Self::Failed => "failed",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A grant, as `--output json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Its name.
    pub name: String,
    /// How far it came.
    pub state: State,
    /// The certificate's CN.
    pub user: String,
    /// The certificate's O values.
    pub groups: Vec<String>,
    /// Why, in the engineer's words.
    pub reason: String,
    /// The rules that granted it.
    pub rules: Vec<String>,
    /// Who approved.
    pub approvers: Vec<String>,
    /// Whether an approval counted that nobody signed.
    pub unsigned_approval: bool,
    /// The serial number of the YubiKey.
    pub key_serial: Option<i64>,
    /// The request that asked.
    pub request: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Option<Timestamp>,
    /// SHA-256 of the certificate.
    pub fingerprint: Option<String>,
    /// The RoleBindings that it came with.
    pub bindings: Vec<GrantBinding>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<String>,
    /// When the signer acted on it.
    pub revoked_at: Option<Timestamp>,
    /// Why it failed, or cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its UID: one made again under the same name is another.
    #[serde(skip)]
    pub uid: Option<String>,
}

/// What is bound to a grant's own group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantBinding {
    /// In which namespace.
    pub namespace: String,
    /// `ClusterRole` or `Role`.
    pub kind: String,
    /// The role's name.
    pub role: String,
}

/// Which grants are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// This user's.
    pub user: Option<&'a str>,
    /// Those with this group.
    pub group: Option<&'a str>,
    /// Also those that ended or came to nothing.
    pub all: bool,
}

impl Wanted<'_> {
    fn takes(&self, grant: &Grant) -> bool {
        // What cannot be read may be anyone's, and may be in force.
        grant.state == State::Unreadable
            || self.user.is_none_or(|user| grant.user == user)
                && self
                    .group
                    .is_none_or(|group| grant.groups.iter().any(|one| one == group))
                && (self.all || matches!(grant.state, State::Live | State::Intent | State::Revoked))
    }
}

/// What is read of a Grant's own part.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSpec {
    user: String,
    groups: Vec<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    rules: Vec<String>,
    #[serde(default)]
    approvers: Vec<String>,
    #[serde(default)]
    unsigned_approval: bool,
    key_serial: Option<i64>,
    request: WireRequest,
    #[serde(default)]
    bindings: Vec<GrantBinding>,
}

#[derive(Deserialize)]
struct WireRequest {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStatus {
    #[serde(default)]
    phase: Phase,
    fingerprint: Option<String>,
    issued_at: Option<Timestamp>,
    not_after: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    message: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Phase {
    /// Creating a Grant sets no status.
    #[default]
    Intent,
    Issued,
    Failed,
}

impl Grant {
    /// Reads one.
    fn read(object: &DynamicObject, now: Timestamp) -> Self {
        let created = object.creation_timestamp().map(|time| time.0);
        let annotation = |key: &str| object.annotations().get(key).cloned();
        let revoked_by = annotation(REVOKED_BY_ANNOTATION);
        let revocation_reason = annotation(REVOCATION_REASON_ANNOTATION);
        match serde_json::from_value::<Wire>(object.data.clone()) {
            Ok(Wire { spec, status }) => Self {
                name: object.name_any(),
                state: match (status.phase, status.not_after) {
                    (Phase::Intent, _) => State::Intent,
                    (Phase::Failed, _) => State::Failed,
                    (Phase::Issued, Some(end)) if end < now => State::Ended,
                    (Phase::Issued, _) if revoked_by.is_some() => State::Revoked,
                    (Phase::Issued, _) => State::Live,
                },
                user: spec.user,
                groups: spec.groups,
                reason: spec.reason,
                rules: spec.rules,
                approvers: spec.approvers,
                unsigned_approval: spec.unsigned_approval,
                key_serial: spec.key_serial,
                request: spec.request.name,
                since: status.issued_at.or(created),
                until: status.not_after,
                fingerprint: status.fingerprint,
                bindings: spec.bindings,
                revoked_by,
                revocation_reason,
                revoked_at: status.revoked_at,
                message: status.message,
                uid: object.uid(),
            },
            Err(error) => Self {
                name: object.name_any(),
                state: State::Unreadable,
                user: String::new(),
                groups: Vec::new(),
                reason: String::new(),
                rules: Vec::new(),
                approvers: Vec::new(),
                unsigned_approval: false,
                key_serial: None,
                request: String::new(),
                since: created,
                until: None,
                fingerprint: None,
                bindings: Vec::new(),
                revoked_by,
                revocation_reason,
                revoked_at: None,
                message: Some(error.to_string()),
                uid: object.uid(),
            },
        }
    }

    /// Its own RoleBindings, `NAMESPACE/NAME`, as the signer names them.
    pub fn role_bindings(&self) -> impl Iterator<Item = String> + '_ {
        let places = self.bindings.iter().enumerate();
        places.map(|(place, binding)| {
            format!("{}/touchstone-{}-{place}", binding.namespace, self.name)
        })
    }
}

/// The kind, which belongs to no namespace.
fn api(connection: &Connection) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("touchstone.dev", "v1", "Grant");
    Api::all_with(connection.client(), &ApiResource::from_gvk(&kind))
}

/// One grant.
///
/// # Errors
/// When it is not there, or cannot be read.
pub async fn get(connection: &Connection, name: &str) -> Result<Grant, Error> {
    let object = connection.within(api(connection).get(name)).await?;
    Ok(Grant::read(&object, Timestamp::now()))
}

/// Marks a grant as revoked, if it is still the one that was read.
///
/// # Errors
/// When the API server does not take it.
pub async fn revoke(
    connection: &Connection,
    grant: &Grant,
    by: &str,
    reason: &str,
) -> Result<(), Error> {
    let mut annotations = BTreeMap::from([(REVOKED_BY_ANNOTATION, by)]);
    if !reason.is_empty() {
        annotations.insert(REVOCATION_REASON_ANNOTATION, reason);
    }
    let patch = serde_json::json!({
        "metadata": { "uid": grant.uid, "annotations": annotations },
    });
    let patch = Patch::Merge(patch);
    connection
        .within(api(connection).patch(&grant.name, &PatchParams::default(), &patch))
        .await?;
    Ok(())
}

/// The grants that are wanted, those that end first at the top. What is not wanted is forgotten page by page.
///
/// # Errors
/// When they cannot be read.
pub async fn list(
    connection: &Connection,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<Vec<Grant>, Error> {
    let api = api(connection);
    let mut grants = Vec::new();
    let mut listings = 1;
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = match connection.within(api.list(&parameters)).await {
            // What changed since is missing from the pages that were read: they are read again.
            Err(ApiError::Refused {
                code: Some(GONE), ..
            }) if listings < LISTINGS => {
                listings += 1;
                grants.clear();
                parameters = ListParams::default().limit(PAGE);
                continue;
            }
            page => page?,
        };
        let read = page.items.iter().map(|object| Grant::read(object, now));
        grants.extend(read.filter(|grant| wanted.takes(grant)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    grants.sort_by(|a, b| {
        let key = |grant: &Grant| (grant.until.is_none(), grant.until, grant.since);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(data: Value) -> Grant {
        let mut object = DynamicObject::new(
            "g-1",
            &ApiResource::from_gvk(&GroupVersionKind::gvk("touchstone.dev", "v1", "Grant")),
        );
        object.data = data;
        Grant::read(&object, "2026-07-01T10:00:00Z".parse().unwrap())
    }

    fn grant(status: Value) -> Value {
        json!({
            "spec": { "user": "alice", "groups": ["a"], "request": { "name": "r", "uid": "u" } },
            "status": status,
        })
    }

    #[test]
    fn a_grant_is_live_until_its_certificate_ends_and_an_intent_may_become_one() {
        let state = |status| read(grant(status)).state;
        let until = |time| json!({ "phase": "Issued", "notAfter": time });
        assert_eq!(state(until("2026-07-01T10:00:00Z")), State::Live);
        assert_eq!(state(until("2026-07-01T09:59:59Z")), State::Ended);
        assert_eq!(state(json!({ "phase": "Issued" })), State::Live);
        assert_eq!(state(json!({ "phase": "Failed" })), State::Failed);
        assert_eq!(state(json!({})), State::Intent);
    }

    #[test]
    fn what_cannot_be_read_is_shown_whatever_is_asked_for() {
        let grant = read(json!({ "spec": { "user": 7 } }));
        assert_eq!(grant.state, State::Unreadable);
        let wanted = Wanted {
            user: Some("alice"),
            ..Wanted::default()
        };
        assert!(wanted.takes(&grant));
    }

    #[test]
    fn what_is_wanted_is_a_users_with_a_group_and_in_force() {
        let live = read(grant(json!({ "phase": "Issued" })));
        let failed = read(grant(json!({ "phase": "Failed" })));
        let takes = |user, group, all, grant| {
            let wanted = Wanted { user, group, all };
            wanted.takes(grant)
        };
        assert!(takes(Some("alice"), Some("a"), false, &live));
        assert!(!takes(Some("alice"), Some("b"), false, &live));
        assert!(!takes(Some("ALICE"), None, false, &live));
        assert!(!takes(None, None, false, &failed));
        assert!(takes(None, None, true, &failed));
    }
}
