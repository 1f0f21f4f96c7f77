//! Reads bodies in Kubernetes' protobuf form, which kubectl sends for built-in kinds, into the JSON that all else here
//! works on. Answers are always JSON: every client that sends protobuf accepts that.
//!
//! The envelope is `k8s\0` and a runtime.Unknown (k8s.io/apimachinery/pkg/runtime/serializer/protobuf); the fields and
//! their numbers are those of the `generated.proto` beside each kind. Kinds that no kubectl sends in protobuf are not
//! described here, and refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The first bytes of a body.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("the body does not begin as Kubernetes' protobuf does")]
    NotKubernetes,
    #[error("the body is not protobuf")]
    Malformed,
    #[error("a text in the body is not UTF-8")]
    NotText,
    #[error("{0} can't be sent as protobuf here; send JSON")]
    UnknownKind(String),
}

/// What a field holds.
enum Field {
    Text,
    Texts,
    Bytes,
    Bool,
    Integer,
    Time,
    Message(Fields),
    Messages(Fields),
    TextMap,
    BytesMap,
    /// Lists of texts by key, each list a message of its own.
    ListMap,
}

/// The fields of a message: number, name, content.
type Fields = &'static [(u64, &'static str, Field)];

const METADATA: Fields = &[
    (1, "name", Field::Text),
    (2, "generateName", Field::Text),
    (3, "namespace", Field::Text),
    (5, "uid", Field::Text),
    (6, "resourceVersion", Field::Text),
    (7, "generation", Field::Integer),
    (8, "creationTimestamp", Field::Time),
    (11, "labels", Field::TextMap),
    (12, "annotations", Field::TextMap),
    (13, "ownerReferences", Field::Messages(OWNER_REFERENCE)),
    (14, "finalizers", Field::Texts),
];
const OWNER_REFERENCE: Fields = &[
    (1, "kind", Field::Text),
    (3, "name", Field::Text),
    (4, "uid", Field::Text),
    (5, "apiVersion", Field::Text),
    (6, "controller", Field::Bool),
    (7, "blockOwnerDeletion", Field::Bool),
];
const REQUEST: Fields = &[
    (1, "metadata", Field::Message(METADATA)),
    (
        2,
        "spec",
        Field::Message(&[
            (1, "request", Field::Bytes),
            (2, "username", Field::Text),
            (3, "uid", Field::Text),
            (4, "groups", Field::Texts),
            (5, "usages", Field::Texts),
            (6, "extra", Field::ListMap),
            (7, "signerName", Field::Text),
            (8, "expirationSeconds", Field::Integer),
        ]),
    ),
    (
        3,
        "status",
        Field::Message(&[
            (
                1,
                "conditions",
                Field::Messages(&[
                    (1, "type", Field::Text),
                    (2, "reason", Field::Text),
                    (3, "message", Field::Text),
                    (4, "lastUpdateTime", Field::Time),
                    (5, "lastTransitionTime", Field::Time),
                    (6, "status", Field::Text),
                ]),
            ),
            (2, "certificate", Field::Bytes),
        ]),
    ),
];
const NAMESPACE: Fields = &[(1, "metadata", Field::Message(METADATA))];
const SECRET: Fields = &[
    (1, "metadata", Field::Message(METADATA)),
    (2, "data", Field::BytesMap),
    (3, "type", Field::Text),
    (4, "stringData", Field::TextMap),
    (5, "immutable", Field::Bool),
];
const CONFIG_MAP: Fields = &[
    (1, "metadata", Field::Message(METADATA)),
    (2, "data", Field::TextMap),
    (3, "binaryData", Field::BytesMap),
    (4, "immutable", Field::Bool),
];
const SUBJECT_REVIEW: Fields = &[(1, "metadata", Field::Message(METADATA))];
const ACCESS_REVIEW: Fields = &[
    (1, "metadata", Field::Message(METADATA)),
    (
        2,
        "spec",
        Field::Message(&[
            (
                1,
                "resourceAttributes",
                Field::Message(&[
                    (1, "namespace", Field::Text),
                    (2, "verb", Field::Text),
                    (3, "group", Field::Text),
                    (4, "version", Field::Text),
                    (5, "resource", Field::Text),
                    (6, "subresource", Field::Text),
                    (7, "name", Field::Text),
                ]),
            ),
            (
                2,
                "nonResourceAttributes",
                Field::Message(&[(1, "path", Field::Text), (2, "verb", Field::Text)]),
            ),
        ]),
    ),
];
const RULES_REVIEW: Fields = &[
    (1, "metadata", Field::Message(METADATA)),
    (2, "spec", Field::Message(&[(1, "namespace", Field::Text)])),
];
const DELETE_OPTIONS: Fields = &[
    (1, "gracePeriodSeconds", Field::Integer),
    (
        2,
        "preconditions",
        Field::Message(&[(1, "uid", Field::Text), (2, "resourceVersion", Field::Text)]),
    ),
    (4, "propagationPolicy", Field::Text),
    (5, "dryRun", Field::Texts),
];

const ENVELOPE: Fields = &[
    (
        1,
        "typeMeta",
        Field::Message(&[(1, "apiVersion", Field::Text), (2, "kind", Field::Text)]),
    ),
    (2, "raw", Field::Bytes),
];

fn fields_of(api_version: &str, kind: &str) -> Option<Fields> {
    match (api_version, kind) {
        ("certificates.k8s.io/v1", "CertificateSigningRequest") => Some(REQUEST),
        ("v1", "Namespace") => Some(NAMESPACE),
        ("v1", "Secret") => Some(SECRET),
        ("v1", "ConfigMap") => Some(CONFIG_MAP),
        ("authentication.k8s.io/v1", "SelfSubjectReview") => Some(SUBJECT_REVIEW),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => Some(ACCESS_REVIEW),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => Some(RULES_REVIEW),
        // Every group has it, under its own version.
        (_, "DeleteOptions") => Some(DELETE_OPTIONS),
        _ => None,
    }
}

/// Reads a body.
pub(crate) fn read(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body
        .strip_prefix(MAGIC)
        .ok_or(ProtobufError::NotKubernetes)?;
    let envelope = message(body, ENVELOPE)?;
    let text = |at: &str| {
        envelope
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind) = (text("/typeMeta/apiVersion"), text("/typeMeta/kind"));
    let fields = fields_of(api_version, kind)
        .ok_or_else(|| ProtobufError::UnknownKind(format!("{kind} of {api_version}")))?;
    let raw = STANDARD
        .decode(text("/raw"))
        .map_err(|_| ProtobufError::Malformed)?;
    let mut value = message(&raw, fields)?;
    let members = object::members_mut(&mut value);
    members.insert("apiVersion".to_owned(), json!(api_version));
    members.insert("kind".to_owned(), json!(kind));
    Ok(value)
}

/// One field as it stands on the wire.
enum Wire<'a> {
    Number(u64),
    Slice(&'a [u8]),
}

fn message(mut rest: &[u8], fields: Fields) -> Result<Value, ProtobufError> {
    let mut members = Map::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut rest)?),
            1 => Wire::Slice(take(&mut rest, 8)?),
            2 => {
                let length = varint(&mut rest)?;
                Wire::Slice(take(&mut rest, length)?)
            }
            5 => Wire::Slice(take(&mut rest, 4)?),
            _ => return Err(ProtobufError::Malformed),
        };
        // Fields of later versions are passed over, as protobuf asks.
        if let Some((_, name, field)) = fields.iter().find(|(number, ..)| *number == tag >> 3) {
            insert(&mut members, name, field, &wire)?;
        }
    }
    Ok(Value::Object(members))
}

fn insert(
    members: &mut Map<String, Value>,
    name: &str,
    field: &Field,
    wire: &Wire<'_>,
) -> Result<(), ProtobufError> {
    let slice = match (field, wire) {
        (Field::Bool, Wire::Number(number)) => {
            members.insert(name.to_owned(), json!(*number != 0));
            return Ok(());
        }
        (Field::Integer, Wire::Number(number)) => {
            members.insert(name.to_owned(), json!(number.cast_signed()));
            return Ok(());
        }
        (Field::Bool | Field::Integer, Wire::Slice(_)) | (_, Wire::Number(_)) => {
            return Err(ProtobufError::Malformed);
        }
        (_, Wire::Slice(slice)) => *slice,
    };
    match field {
        // Go writes empty texts too; in JSON they are left out.
        Field::Text if slice.is_empty() => {}
        Field::Bytes if slice.is_empty() => {}
        Field::Text => {
            members.insert(name.to_owned(), json!(text(slice)?));
        }
        Field::Bytes => {
            members.insert(name.to_owned(), json!(STANDARD.encode(slice)));
        }
        Field::Time => {
            if let Some(time) = time(slice)? {
                members.insert(name.to_owned(), json!(time));
            }
        }
        Field::Message(fields) => {
            members.insert(name.to_owned(), message(slice, fields)?);
        }
        Field::Texts => push(members, name, json!(text(slice)?)),
        Field::Messages(fields) => push(members, name, message(slice, fields)?),
        Field::TextMap => entry(members, name, slice, |value| Ok(json!(text(value)?)))?,
        Field::BytesMap => entry(members, name, slice, |value| {
            Ok(json!(STANDARD.encode(value)))
        })?,
        Field::ListMap => entry(members, name, slice, |value| {
            let list = message(value, &[(1, "items", Field::Texts)])?;
            Ok(list.get("items").cloned().unwrap_or_else(|| json!([])))
        })?,
        // Numbers were taken above.
        Field::Bool | Field::Integer => return Err(ProtobufError::Malformed),
    }
    Ok(())
}

fn push(members: &mut Map<String, Value>, name: &str, value: Value) {
    if let Value::Array(items) = members.entry(name).or_insert_with(|| json!([])) {
        items.push(value);
    }
}

/// One entry of a map: key 1, value 2.
fn entry(
    members: &mut Map<String, Value>,
    name: &str,
    mut rest: &[u8],
    read: impl Fn(&[u8]) -> Result<Value, ProtobufError>,
) -> Result<(), ProtobufError> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = varint(&mut rest)?;
        let slice = take(&mut rest, length)?;
        match tag {
            0x0a => key = slice,
            0x12 => value = slice,
            _ => return Err(ProtobufError::Malformed),
        }
    }
    let map = object::members_mut(members.entry(name).or_insert(Value::Null));
    map.insert(text(key)?.to_owned(), read(value)?);
    Ok(())
}

/// meta.k8s.io/v1 Time: seconds 1, nanoseconds 2; empty for none.
fn time(slice: &[u8]) -> Result<Option<String>, ProtobufError> {
    let fields = message(
        slice,
        &[(1, "seconds", Field::Integer), (2, "nanos", Field::Integer)],
    )?;
    match fields.get("seconds").and_then(Value::as_i64) {
        None => Ok(None),
        Some(seconds) => Timestamp::from_second(seconds)
            .map(|at| Some(object::time(at)))
            .map_err(|_| ProtobufError::Malformed),
    }
}

fn text(slice: &[u8]) -> Result<&str, ProtobufError> {
    std::str::from_utf8(slice).map_err(|_| ProtobufError::NotText)
}

fn varint(rest: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or(ProtobufError::Malformed)?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ProtobufError::Malformed)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], ProtobufError> {
    let length = usize::try_from(length).map_err(|_| ProtobufError::Malformed)?;
    let (slice, tail) = rest
        .split_at_checked(length)
        .ok_or(ProtobufError::Malformed)?;
    *rest = tail;
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        field.extend(content);
        field
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn a_secret_is_read_as_its_json_would_be() {
        let metadata = [field(1, b"s"), field(2, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &metadata), field(2, &entry), vec![5 << 3, 1]].concat();
        assert_eq!(
            read(&body("v1", "Secret", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}, "immutable": true})
        );
    }

    #[test]
    fn what_is_not_described_is_refused() {
        assert!(matches!(
            read(&body("v1", "Pod", b"")),
            Err(ProtobufError::UnknownKind(_))
        ));
        assert_eq!(read(b"{}"), Err(ProtobufError::NotKubernetes));
        assert_eq!(read(b"k8s\0\x0a\xff"), Err(ProtobufError::Malformed));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&raw);
            let _ = read(&[MAGIC, raw.as_slice()].concat());
            let _ = read(&body("certificates.k8s.io/v1", "CertificateSigningRequest", &raw));
        }
    }
}
