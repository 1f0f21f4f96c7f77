//! The Grant: Touchstone's record of who was given access, in the cluster itself.
//!
//! Kubernetes deletes an issued CertificateSigningRequest after an hour; the Grant stays. Its name is derived from the
//! request's nonce, so that creating it is also the proof that the request is used for the first time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use touchstone_common::grant::{GrantId, REVOCATION_REASON_ANNOTATION, REVOKED_BY_ANNOTATION};

/// What was granted. Written before anything is signed.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "touchstone.dev",
    version = "v1",
    kind = "Grant",
    doc = "A client certificate that Touchstone granted: who, which groups, why, by which rule, until when.",
    derive = "PartialEq",
    status = "GrantStatus",
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user","description":"the certificate's CN"}"#,
    printcolumn = r#"{"name":"Groups","type":"string","jsonPath":".spec.groups","description":"the certificate's O values"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase","description":"Intent, Issued or Failed"}"#,
    printcolumn = r#"{"name":"Rule","type":"string","jsonPath":".spec.rules","description":"the policy's rules that granted it"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.notAfter","description":"the certificate's last second"}"#,
    printcolumn = r#"{"name":"Revoked","type":"string","jsonPath":".status.revokedAt","description":"when it was revoked; its certificate is valid all the same"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp","description":"how long ago it was granted"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GrantSpec {
    /// The certificate's CN.
    pub user: String,
    /// The certificate's O values.
    pub groups: Vec<String>,
    /// Why, in the engineer's words, signed by their key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The policy's rules that granted it.
    pub rules: Vec<String>,
    /// Who approved, where a rule asked for approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// What they signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<GrantApproval>,
    /// Whether a rule took a bare approval in Kubernetes, which nobody signed: who gave it is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsigned_approval: bool,
    /// The serial number of the YubiKey that holds the key, where it is attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_serial: Option<i64>,
    /// SHA-256 of the certified public key (SPKI), lower-case hexadecimal.
    pub key_sha256: String,
    /// The CertificateSigningRequest that asked for it.
    pub request: GrantRequest,
    /// The cluster, as the policy names it.
    pub cluster: String,
    /// The lifetime granted, in seconds from issuing.
    pub ttl_seconds: i64,
    /// SHA-256 of the policy file that granted it, lower-case hexadecimal.
    pub policy_sha256: String,
    /// Which policy of its process that was, 1 for the one it started with.
    #[serde(default)]
    pub policy_generation: i64,
    /// The certificate's own group, which no other certificate carries, where a rule asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What that group is bound to until the certificate ends: a RoleBinding each, by the name `touchstone-` and the
    /// grant's, and the place in this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<GrantBinding>,
    /// Who signs it: the request's signer name. Nothing in grants of earlier versions, which Touchstone signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signer_name: String,
    /// What is to be signed, recorded before it is. After an interruption there can be several, the latest last: at most
    /// one of them was delivered. None where kube-controller-manager signs, which signs the request as it is.
    pub intents: Vec<GrantIntent>,
}

/// A signed approval.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantApproval {
    /// Who approved.
    pub approver: String,
    /// The serial number of the YubiKey that signed it, where the key is attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_serial: Option<i64>,
    /// SHA-256 of the statement, lower-case hexadecimal. The statement itself stands in the audit log.
    pub sha256: String,
}

/// The CertificateSigningRequest that asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRequest {
    /// Its name.
    pub name: String,
    /// Its UID: one made again under the same name is another.
    pub uid: String,
    /// SHA-256 of its DER, lower-case hexadecimal.
    pub sha256: String,
}

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantIntent {
    /// SHA-256 of the issuing certificate, lower-case hexadecimal.
    pub ca: String,
    /// SHA-256 of the to-be-signed bytes, lower-case hexadecimal.
    pub tbs_sha256: String,
}

/// A RoleBinding that belongs to a grant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantBinding {
    /// In which namespace.
    pub namespace: String,
    /// `ClusterRole` or `Role`.
    pub kind: String,
    /// The role's name.
    pub role: String,
}

/// That a grant is revoked, in the words of who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation<'a> {
    /// Who, as Kubernetes knows them.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// How far it came.
    #[serde(default)]
    pub phase: Phase,
    /// SHA-256 of the issuing certificate, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// SHA-256 of the certificate, lower-case hexadecimal: what kube-apiserver's audit log carries as
    /// `authentication.kubernetes.io/credential-id: X509SHA256=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The certificate's serial number, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<String>,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Time>,
    /// The certificate's last second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// When its RoleBindings were removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bindings_removed_at: Option<Time>,
    /// When the signer acted on its revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Time>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a grant came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Phase {
    /// Recorded, not yet signed and delivered.
    #[default]
    Intent,
    /// Signed and delivered.
    Issued,
    /// Came to nothing.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intent => "Intent",
            Self::Issued => "Issued",
            Self::Failed => "Failed",
        })
    }
}

impl Grant {
    /// How far it came. One without a status was only just written: creating a Grant sets no status.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.status
            .as_ref()
            .map_or(Phase::Intent, |status| status.phase)
    }

    /// The last second of its certificate.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        self.status.as_ref()?.not_after.as_ref().map(|time| time.0)
    }

    /// Whether RoleBindings of it may be left.
    #[must_use]
    pub fn may_be_bound(&self) -> bool {
        let removed = |status: &GrantStatus| status.bindings_removed_at.is_some();
        !self.spec.bindings.is_empty() && !self.status.as_ref().is_some_and(removed)
    }

    /// Whether it was revoked and nothing was done about it yet.
    #[must_use]
    pub fn is_to_be_revoked(&self) -> bool {
        let done = |status: &GrantStatus| status.revoked_at.is_some();
        self.revocation().is_some() && !self.status.as_ref().is_some_and(done)
    }

    /// Who revoked it and why, where someone did.
    #[must_use]
    pub fn revocation(&self) -> Option<Revocation<'_>> {
        let annotations = self.metadata.annotations.as_ref()?;
        let reason = annotations.get(REVOCATION_REASON_ANNOTATION);
        Some(Revocation {
            by: annotations.get(REVOKED_BY_ANNOTATION)?,
            reason: reason.map_or("", String::as_str),
        })
    }

    /// Whether the CA with this fingerprint signed its certificate, and that has not ended.
    #[must_use]
    pub fn is_living_of(&self, ca: &str, now: Timestamp) -> bool {
        let signed_by = self.status.as_ref().and_then(|status| status.ca.as_deref());
        signed_by == Some(ca) && self.not_after().is_some_and(|end| end >= now)
    }
}

/// The name of the grant for a request with this nonce: the same request, sent again, gives the same name.
#[must_use]
pub fn name_of(nonce: &[u8; 32]) -> String {
    GrantId::of_nonce(nonce).object_name()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::CustomResourceExt;

    #[test]
    fn a_grant_belongs_to_the_cluster_and_has_a_status_of_its_own() {
        let crd = serde_json::to_value(Grant::crd()).unwrap();
        assert_eq!(crd["metadata"]["name"], "grants.touchstone.dev");
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert!(crd["spec"]["versions"][0]["subresources"]["status"].is_object());
    }

    #[test]
    fn a_grant_without_a_status_is_an_intent() {
        let status: GrantStatus = serde_json::from_str("{}").unwrap();
        assert_eq!(status.phase, Phase::Intent);
    }
}
