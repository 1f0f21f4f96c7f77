//! Metadata of objects held as JSON: reading it, checking it, and what the server itself sets.
//!
//! Rules: k8s.io/apimachinery/pkg/api/validation/objectmeta.go and pkg/util/validation/validation.go.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{resource::Resource, status::FieldError};

/// The most bytes all annotations of an object may have together.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;
/// Letters of generated names: no vowels and nothing that reads as another letter.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A string in the metadata; empty when it is not there.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`.
pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.labels`.
pub(crate) fn labels(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/labels")
}

/// `metadata.creationTimestamp`.
pub(crate) fn created(object: &Value) -> Option<Timestamp> {
    text(object, "creationTimestamp").parse().ok()
}

/// The metadata for writing; made when it is missing or not an object.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    member_mut(members_mut(object), "metadata")
}

/// The members of an object; whatever else stood there is replaced.
pub(crate) fn members_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        // Made an object just above.
        _ => unreachable!(),
    }
}

fn member_mut<'a>(members: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    members_mut(members.entry(key).or_insert(Value::Null))
}

/// Copies a top-level member from `old`, or removes it when `old` has none.
pub(crate) fn restore(object: &mut Value, old: &Value, member: &str) {
    let members = members_mut(object);
    match old.get(member) {
        Some(value) => members.insert(member.to_owned(), value.clone()),
        None => members.remove(member),
    };
}

/// A time as Kubernetes writes it: RFC 3339, UTC, whole seconds.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Bytes from the operating system's random source.
///
/// # Errors
/// When there is none; nothing may be made then.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A version 4 UUID (RFC 9562 section 5.4).
pub(crate) fn new_uid() -> Result<String, getrandom::Error> {
    let bits = u128::from_be_bytes(random()?);
    let bits = bits & !(0xf000_u128 << 64) | (0x4000_u128 << 64);
    let bits = bits & !(0b11_u128 << 62) | (0b10_u128 << 62);
    let hex = format!("{bits:032x}");
    let mut uid = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            uid.push('-');
        }
        uid.push(digit);
    }
    Ok(uid)
}

/// A name from `metadata.generateName`: the prefix and five random letters.
pub(crate) fn generate_name(prefix: &str) -> Result<String, getrandom::Error> {
    let kept = prefix
        .char_indices()
        .nth(58)
        .and_then(|(at, _)| prefix.get(..at))
        .unwrap_or(prefix);
    let mut name = kept.to_owned();
    for byte in random::<5>()? {
        // The remainder is below the length of the alphabet.
        let letter = NAME_ALPHABET.get(usize::from(byte) % NAME_ALPHABET.len());
        name.extend(letter.map(|letter| char::from(*letter)));
    }
    Ok(name)
}

/// What the server itself sets on a new object, whatever the client sent.
pub(crate) fn stamp_new(object: &mut Value, uid: &str, now: Timestamp, counts_generations: bool) {
    let metadata = metadata_mut(object);
    for field in [
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(time(now)));
    if counts_generations {
        metadata.insert("generation".to_owned(), json!(1));
    }
}

/// Keeps what an update may not change.
pub(crate) fn keep_identity(object: &mut Value, old: &Value) {
    let metadata = metadata_mut(object);
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generateName",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// Checks metadata of an object that is to be stored.
pub(crate) fn check(object: &Value, resource: &Resource) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = name(object);
    let is_valid = if resource.plural == "namespaces" {
        is_dns_label(name)
    } else {
        is_dns_subdomain(name)
    };
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if !is_valid {
        errors.push(FieldError::invalid(
            "metadata.name",
            &json!(name),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
        ));
    }
    if resource.namespaced && !is_dns_label(namespace(object)) {
        errors.push(FieldError::invalid(
            "metadata.namespace",
            &json!(namespace(object)),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character",
        ));
    }
    if let Some(Value::Object(labels)) = labels(object) {
        for (key, value) in labels {
            if !is_qualified_name(key) {
                errors.push(FieldError::invalid(
                    "metadata.labels",
                    &json!(key),
                    "not a qualified name",
                ));
            }
            if !value.as_str().is_some_and(is_label_value) {
                errors.push(FieldError::invalid(
                    "metadata.labels",
                    value,
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                     must start and end with an alphanumeric character",
                ));
            }
        }
    }
    if let Some(Value::Object(annotations)) = object.pointer("/metadata/annotations") {
        let mut bytes = 0;
        for (key, value) in annotations {
            bytes += key.len() + value.as_str().unwrap_or_default().len();
            if !is_qualified_name(&key.to_ascii_lowercase()) {
                errors.push(FieldError::invalid(
                    "metadata.annotations",
                    &json!(key),
                    "not a qualified name",
                ));
            }
        }
        if bytes > MAX_ANNOTATIONS_BYTES {
            errors.push(FieldError::too_long(
                "metadata.annotations",
                MAX_ANNOTATIONS_BYTES,
            ));
        }
    }
    if object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
    {
        errors.push(FieldError::forbidden(
            "metadata.finalizers",
            "this API serves no finalizers",
        ));
    }
    errors
}

/// RFC 1123 label, at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && is_alphanumeric_at_the_edges(text)
}

/// RFC 1123 subdomain, at most 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && is_alphanumeric_at_the_edges(label)
        })
}

/// `name` or `domain/name`, as label and annotation keys are.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((domain, name)) if is_dns_subdomain(domain) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    text.is_empty()
        || text.len() <= 63
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && is_alphanumeric_at_the_edges(text)
}

fn is_alphanumeric_at_the_edges(text: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uid_is_a_version_4_uuid() {
        let uid = new_uid().unwrap();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]));
        assert_ne!(uid, new_uid().unwrap());
    }

    #[test]
    fn names_that_are_not_dns_names_are_known() {
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "../x",
            "a/b",
            "a b",
            "ä",
            &"a".repeat(254),
        ] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
        for good in ["a", "a.b-c.0", "csr-x2f4"] {
            assert!(is_dns_subdomain(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn a_generated_name_of_a_dns_prefix_is_a_dns_name(prefix in "[a-z][a-z0-9-]{0,80}") {
            let name = generate_name(&prefix).unwrap();
            prop_assert!(is_dns_subdomain(&name));
            prop_assert!(name.len() <= 63);
        }

        #[test]
        fn no_text_makes_the_name_checks_panic(text in ".*") {
            let _ = (is_dns_label(&text), is_qualified_name(&text), generate_name(&text));
        }
    }
}
