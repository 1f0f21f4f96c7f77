//! Reading a request's body into the shape its kind has, and finding what does not belong there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{object, request::Parameters, resource::Resource, status::ApiError};

/// How many unknown fields are named, and how much of each (kube-apiserver cuts its warnings too: k8s.io/apiserver/pkg/
/// endpoints/filters/warning.go).
const MAX_WARNINGS: usize = 10;
const MAX_WARNING_CHARS: usize = 200;

/// What to do with fields that the kind does not have (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// An object in the shape of its kind, and what the client is to be warned of.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The object, without what its kind does not have.
    pub(crate) object: Value,
    /// Warnings for the client.
    pub(crate) warnings: Vec<String>,
}

/// Brings JSON into the shape of `resource`.
pub(crate) fn decode(
    resource: &Resource,
    mut sent: Value,
    parameters: &Parameters,
) -> Result<Decoded, ApiError> {
    let validation = match parameters.value("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "fieldValidation must be Ignore, Warn or Strict, not {other:?}"
            )));
        }
    };
    let Value::Object(members) = &mut sent else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    expect(members, "apiVersion", &resource.api_version())?;
    expect(members, "kind", resource.kind)?;
    let object = (resource.shape)(&sent).map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            resource.kind, resource.version, resource.kind
        ))
    })?;
    let mut unknown = Vec::new();
    if validation != FieldValidation::Ignore {
        find_unknown(&sent, &object, String::new(), &mut unknown);
    }
    let mut warnings: Vec<String> = unknown
        .iter()
        .take(MAX_WARNINGS)
        .map(|field| format!("unknown field {:?}", beginning(field)))
        .collect();
    // Each is a header of the answer, and a client can send more of them than a head has room for.
    if let Some(further @ 1..) = unknown.len().checked_sub(MAX_WARNINGS) {
        warnings.push(format!("{further} further unknown fields"));
    }
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            warnings.join(", ")
        )));
    }
    Ok(Decoded { object, warnings })
}

fn beginning(field: &str) -> &str {
    field
        .char_indices()
        .nth(MAX_WARNING_CHARS)
        .and_then(|(at, _)| field.get(..at))
        .unwrap_or(field)
}

/// Brings JSON into the shape of a type of k8s-openapi.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(
    sent: &Value,
) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(sent)?)
}

/// A kind whose spec and status are not looked into here.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct FreeForm {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Map<String, Value>>,
}

/// Brings JSON into the shape metadata, spec, status.
pub(crate) fn free_form(sent: &Value) -> Result<Value, serde_json::Error> {
    typed::<FreeForm>(sent)
}

fn expect(members: &mut Map<String, Value>, member: &str, wanted: &str) -> Result<(), ApiError> {
    match members.get(member) {
        None => {
            members.insert(member.to_owned(), Value::String(wanted.to_owned()));
            Ok(())
        }
        Some(Value::String(found)) if found == wanted => Ok(()),
        Some(found) => Err(ApiError::bad_request(format!(
            "the {member} in the data ({found}) does not match the expected {member} ({wanted})"
        ))),
    }
}

fn find_unknown(sent: &Value, known: &Value, at: String, unknown: &mut Vec<String>) {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => {
            for (key, value) in sent {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                match known.get(key) {
                    Some(known) => find_unknown(value, known, path, unknown),
                    None if value.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(sent), Value::Array(known)) => {
            for (index, (value, known)) in sent.iter().zip(known).enumerate() {
                find_unknown(value, known, format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Checks that the name and namespace in the object are those of the path; fills in those that are missing.
pub(crate) fn fit_to_path(
    object: &mut Value,
    resource: &Resource,
    name: &str,
    namespace: &str,
) -> Result<(), ApiError> {
    if !name.is_empty() {
        let found = object::name(object);
        if !found.is_empty() && found != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            )));
        }
        object::metadata_mut(object).insert("name".to_owned(), Value::String(name.to_owned()));
    }
    let found = object::namespace(object);
    if resource.namespaced {
        if !found.is_empty() && found != namespace {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({namespace})"
            )));
        }
        object::metadata_mut(object)
            .insert("namespace".to_owned(), Value::String(namespace.to_owned()));
    } else {
        object::metadata_mut(object).remove("namespace");
    }
    Ok(())
}
