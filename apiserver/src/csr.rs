//! The rules of certificates.k8s.io/v1 CertificateSigningRequest, as Kubernetes has them: pkg/registry/certificates/
//! certificates/strategy.go, pkg/apis/certificates/validation/validation.go and pkg/controller/certificates/cleaner.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::UserInfo,
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition,
            CertificateSigningRequestSpec, CertificateSigningRequestStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    object::{self, is_dns_subdomain},
    pkcs10,
    resource::Subresource,
    status::FieldError,
};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The shortest lifetime that can be asked for.
const MIN_EXPIRATION_SECONDS: i32 = 600;

/// k8s.io/api/certificates/v1, KeyUsage.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A new request: the creator is who the server says, and nothing is decided yet.
pub(crate) fn prepare_create(new: &mut Value, creator: &UserInfo) -> Vec<FieldError> {
    let members = object::members_mut(new);
    members.insert("status".to_owned(), json!({}));
    if let Some(Value::Object(spec)) = members.get_mut("spec") {
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert(
            "username".to_owned(),
            json!(creator.username.clone().unwrap_or_default()),
        );
        if let Some(uid) = creator.uid.as_ref().filter(|uid| !uid.is_empty()) {
            spec.insert("uid".to_owned(), json!(uid));
        }
        if let Some(groups) = creator.groups.as_ref().filter(|groups| !groups.is_empty()) {
            spec.insert("groups".to_owned(), json!(groups));
        }
        if let Some(extra) = creator.extra.as_ref().filter(|extra| !extra.is_empty()) {
            spec.insert("extra".to_owned(), json!(extra));
        }
    }
    match CertificateSigningRequest::deserialize(&*new) {
        Ok(request) => check_spec(&request.spec),
        Err(error) => vec![unreadable(&error)],
    }
}

fn check_spec(spec: &CertificateSigningRequestSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Err(error) = pkcs10::check(&spec.request.0) {
        errors.push(FieldError::invalid(
            "spec.request",
            &json!("<certificate request data>"),
            &error.to_string(),
        ));
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    if usages.is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let field = format!("spec.usages[{index}]");
        if !USAGES.contains(&usage.as_str()) {
            errors.push(FieldError::not_supported(field, usage, USAGES));
        } else if !seen.insert(usage) {
            errors.push(FieldError::duplicate(field, usage));
        }
    }
    errors.extend(check_signer_name(&spec.signer_name));
    if let Some(seconds) = spec
        .expiration_seconds
        .filter(|seconds| *seconds < MIN_EXPIRATION_SECONDS)
    {
        errors.push(FieldError::invalid(
            "spec.expirationSeconds",
            &json!(seconds),
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

/// `domain/path` (pkg/apis/core/validation, ValidateSignerName).
fn check_signer_name(signer: &str) -> Option<FieldError> {
    let invalid = |why| Some(FieldError::invalid("spec.signerName", &json!(signer), why));
    if signer.is_empty() {
        return Some(FieldError::required("spec.signerName", ""));
    }
    if signer == "kubernetes.io/legacy-unknown" {
        return invalid("the legacy signerName is not allowed via this API version");
    }
    let Some((domain, path)) = signer.split_once('/') else {
        return invalid(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    if !is_dns_subdomain(domain) || !domain.contains('.') {
        return invalid("should be a domain with at least two segments separated by dots");
    }
    if !is_dns_subdomain(path) {
        return invalid("the part after '/' must be a lowercase RFC 1123 subdomain");
    }
    None
}

/// A changed request: the spec never changes, conditions and certificate only at their own addresses.
pub(crate) fn prepare_update(
    new: &mut Value,
    old: &Value,
    subresource: Option<Subresource>,
    now: Timestamp,
) -> Vec<FieldError> {
    object::restore(new, old, "spec");
    let Some(subresource) = subresource else {
        object::restore(new, old, "status");
        return Vec::new();
    };
    let (before, after) = match (status_of(old), status_of(new)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return vec![unreadable(&error)],
    };
    let mut after = match subresource {
        Subresource::Approval => CertificateSigningRequestStatus {
            certificate: before.certificate.clone(),
            ..after
        },
        Subresource::Status => after,
    };
    let conditions = after.conditions.get_or_insert_default();
    let old_conditions = before.conditions.as_deref().unwrap_or_default();
    if subresource == Subresource::Status {
        for decision in [APPROVED, DENIED] {
            preserve(conditions, old_conditions, decision);
        }
    }
    set_times(conditions, old_conditions, now);

    let mut errors = check_conditions(conditions);
    for kind in [APPROVED, DENIED, FAILED] {
        let was = of_type(old_conditions, kind);
        let is = of_type(conditions, kind);
        let error = if is.len() < was.len() {
            format!("updates may not remove a condition of type {kind:?}")
        } else if subresource == Subresource::Status && kind != FAILED && is.len() > was.len() {
            format!("updates may not add a condition of type {kind:?}")
        } else {
            continue;
        };
        errors.push(FieldError::forbidden("status.conditions", &error));
    }
    if after.certificate != before.certificate {
        if before
            .certificate
            .as_ref()
            .is_some_and(|old| !old.0.is_empty())
        {
            errors.push(FieldError::forbidden(
                "status.certificate",
                "updates may not modify existing certificate content",
            ));
        } else if let Some(Err(why)) = after.certificate.as_ref().map(check_certificate) {
            errors.push(FieldError::invalid(
                "status.certificate",
                &json!("<certificate data>"),
                &why,
            ));
        }
    }
    if conditions.is_empty() {
        after.conditions = None;
    }
    match serde_json::to_value(after) {
        Ok(status) => object::members_mut(new).insert("status".to_owned(), status),
        Err(error) => return vec![unreadable(&error)],
    };
    errors
}

/// Whether nothing was decided of it but, perhaps, that someone approved it.
pub(crate) fn is_pending(request: &Value) -> bool {
    status_of(request).is_ok_and(|status| {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let is_closed = |kind| !of_type(conditions, kind).is_empty();
        let is_issued = status.certificate.is_some_and(|c| !c.0.is_empty());
        !is_closed(DENIED) && !is_closed(FAILED) && !is_issued
    })
}

/// When the cleaner takes a request away: decided ones an hour after, open ones a day after they came.
pub(crate) fn ends(request: &Value) -> Option<Timestamp> {
    let status = status_of(request).ok()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let is_issued = status
        .certificate
        .is_some_and(|certificate| !certificate.0.is_empty());
    let decided = conditions
        .iter()
        .filter(|condition| match condition.type_.as_str() {
            APPROVED => is_issued,
            DENIED | FAILED => true,
            _ => false,
        })
        .filter_map(|condition| condition.last_update_time.as_ref())
        .map(|time| time.0)
        .min();
    let (from, hours) = match decided {
        Some(at) => (at, 1),
        None => (object::created(request)?, 24),
    };
    from.checked_add(SignedDuration::from_hours(hours)).ok()
}

fn status_of(request: &Value) -> Result<CertificateSigningRequestStatus, serde_json::Error> {
    match request.get("status") {
        None | Some(Value::Null) => Ok(CertificateSigningRequestStatus::default()),
        Some(status) => CertificateSigningRequestStatus::deserialize(status),
    }
}

fn of_type<'a>(
    conditions: &'a [CertificateSigningRequestCondition],
    kind: &str,
) -> Vec<&'a CertificateSigningRequestCondition> {
    conditions
        .iter()
        .filter(|condition| condition.type_ == kind)
        .collect()
}

/// Puts the old decision back where a writer of the status sent it changed; added and removed ones are errors later.
fn preserve(
    conditions: &mut [CertificateSigningRequestCondition],
    old: &[CertificateSigningRequestCondition],
    kind: &str,
) {
    let was = of_type(old, kind);
    if of_type(conditions, kind).len() != was.len() {
        return;
    }
    let slots = conditions
        .iter_mut()
        .filter(|condition| condition.type_ == kind);
    for (slot, old) in slots.zip(was) {
        slot.clone_from(old);
    }
}

fn set_times(
    conditions: &mut [CertificateSigningRequestCondition],
    old: &[CertificateSigningRequestCondition],
    now: Timestamp,
) {
    let now = Time(whole_seconds(now));
    for condition in conditions {
        condition
            .last_update_time
            .get_or_insert_with(|| now.clone());
        if condition.last_transition_time.is_none() {
            let before = old
                .iter()
                .find(|old| old.type_ == condition.type_ && old.status == condition.status)
                .and_then(|old| old.last_transition_time.clone());
            condition.last_transition_time = Some(before.unwrap_or_else(|| now.clone()));
        }
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn check_conditions(conditions: &[CertificateSigningRequestCondition]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = |field: &str| format!("status.conditions[{index}].{field}");
        let kind = condition.type_.as_str();
        if kind.is_empty() {
            errors.push(FieldError::required(at("type"), ""));
        }
        let allowed: &[&str] = match kind {
            APPROVED | DENIED | FAILED => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if condition.status.is_empty() {
            errors.push(FieldError::required(at("status"), ""));
        } else if !allowed.contains(&condition.status.as_str()) {
            errors.push(FieldError::not_supported(
                at("status"),
                &condition.status,
                allowed,
            ));
        }
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(at("type"), kind));
        }
    }
    if seen.contains(APPROVED) && seen.contains(DENIED) {
        errors.push(FieldError::invalid(
            "status.conditions",
            &json!(DENIED),
            "Approved and Denied conditions are mutually exclusive",
        ));
    }
    errors
}

fn check_certificate(certificate: &ByteString) -> Result<(), String> {
    use der::Decode;

    if certificate.0.is_empty() {
        return Ok(());
    }
    let blocks = pem::parse_many(&certificate.0).map_err(|error| error.to_string())?;
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    for block in blocks {
        if block.tag() != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.tag()
            ));
        }
        if block.headers().iter().next().is_some() {
            return Err("no PEM block headers are permitted".to_owned());
        }
        x509_cert::Certificate::from_der(block.contents()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn unreadable(error: &serde_json::Error) -> FieldError {
    FieldError::invalid("status", &Value::Null, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: Value) -> Value {
        json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"signerName": "a.example/b"},
            "status": status,
        })
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "r", "message": "m"})
    }

    fn update(old: Value, new: Value, at: Option<Subresource>) -> (Value, Vec<FieldError>) {
        let mut new = request(new);
        let errors = prepare_update(&mut new, &request(old), at, now());
        (new, errors)
    }

    #[test]
    fn a_decision_is_made_once_and_at_its_own_address() {
        let approved = json!({"conditions": [condition("Approved", "True")]});
        let denied = json!({"conditions": [condition("Denied", "True")]});
        let both =
            json!({"conditions": [condition("Approved", "True"), condition("Denied", "True")]});
        let approval = Some(Subresource::Approval);
        assert!(update(json!({}), approved.clone(), approval).1.is_empty());
        assert!(
            !update(json!({}), approved.clone(), Some(Subresource::Status))
                .1
                .is_empty()
        );
        assert!(!update(json!({}), both.clone(), approval).1.is_empty());
        assert!(!update(approved.clone(), both, approval).1.is_empty());
        assert!(!update(approved.clone(), denied, approval).1.is_empty());
        assert!(!update(approved.clone(), json!({}), approval).1.is_empty());
        let (unchanged, errors) = update(json!({}), approved, None);
        assert!(errors.is_empty());
        assert_eq!(unchanged["status"], json!({}));
    }

    #[test]
    fn a_decision_is_true_or_nothing() {
        for status in ["False", "Unknown", "", "yes"] {
            let sent = json!({"conditions": [condition("Approved", status)]});
            assert!(
                !update(json!({}), sent, Some(Subresource::Approval))
                    .1
                    .is_empty(),
                "{status}"
            );
        }
    }

    #[test]
    fn a_writer_of_the_status_cannot_reword_the_decision() {
        let mut reworded = condition("Approved", "True");
        reworded["message"] = json!("other");
        let (new, errors) = update(
            json!({"conditions": [condition("Approved", "True")]}),
            json!({"conditions": [reworded]}),
            Some(Subresource::Status),
        );
        assert!(errors.is_empty());
        assert_eq!(new["status"]["conditions"][0]["message"], "m");
    }

    #[test]
    fn the_spec_stays_whatever_is_sent() {
        let mut new = request(json!({}));
        new["spec"] = json!({"signerName": "other.example/x", "username": "eve"});
        let old = request(json!({}));
        for at in [None, Some(Subresource::Status), Some(Subresource::Approval)] {
            prepare_update(&mut new, &old, at, now());
            assert_eq!(new["spec"], old["spec"]);
        }
    }

    #[test]
    fn an_approver_cannot_set_the_certificate() {
        let (new, _) = update(
            json!({}),
            json!({"certificate": "AAAA"}),
            Some(Subresource::Approval),
        );
        assert_eq!(new["status"], json!({}));
    }

    #[test]
    fn what_is_not_a_certificate_is_not_taken_for_one() {
        let sent = |pem: &str| {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            json!({"certificate": STANDARD.encode(pem)})
        };
        for bad in [
            "nothing",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(
                !update(json!({}), sent(bad), Some(Subresource::Status))
                    .1
                    .is_empty(),
                "{bad}"
            );
        }
    }

    #[test]
    fn signer_names_are_a_domain_and_a_path() {
        for good in [
            "touchstone.dev/client",
            "kubernetes.io/kube-apiserver-client",
        ] {
            assert_eq!(check_signer_name(good), None);
        }
        for bad in [
            "",
            "a",
            "a/b",
            "example.com/",
            "example.com/A",
            "example.com/a/b",
            "kubernetes.io/legacy-unknown",
        ] {
            assert!(check_signer_name(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn requests_are_collected_as_kubernetes_collects_them() {
        let end = |status| ends(&request(status)).map(|at| at.to_string()).unwrap();
        let at = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T05:00:00Z"}]);
        assert_eq!(end(json!({})), "2026-01-02T00:00:00Z");
        assert_eq!(
            end(json!({"conditions": at("Denied")})),
            "2026-01-01T06:00:00Z"
        );
        assert_eq!(
            end(json!({"conditions": at("Approved")})),
            "2026-01-02T00:00:00Z"
        );
        assert_eq!(
            end(json!({"conditions": at("Approved"), "certificate": "AAAA"})),
            "2026-01-01T06:00:00Z"
        );
    }
}
