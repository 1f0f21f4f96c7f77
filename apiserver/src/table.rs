//! Tables for kubectl: Kubernetes' own columns (pkg/printers/internalversion/printers.go), and ours for grants.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{object, request::Parameters, resource::Resource, status::ApiError};

/// A column of a table.
pub(crate) struct Column {
    name: &'static str,
    /// `string`, `integer` or `date`.
    kind: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    priority: u8,
    cell: fn(&Value, Timestamp) -> Value,
}

/// The columns of a kind.
pub(crate) type Columns = &'static [Column];

const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        priority: 0,
        cell,
    }
}

const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        priority: 1,
        cell,
    }
}

const fn count(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "integer",
        priority: 0,
        cell,
    }
}

const NAME: Column = column("Name", |object, _| json!(object::name(object)));
const AGE: Column = column("Age", |object, now| {
    since(object.pointer("/metadata/creationTimestamp"), now)
});

pub(crate) const NAME_AND_AGE: Columns = &[NAME, AGE];

pub(crate) const CERTIFICATE_SIGNING_REQUEST: Columns = &[
    NAME,
    AGE,
    column("SignerName", |csr, _| text(csr, "/spec/signerName")),
    column("Requestor", |csr, _| text(csr, "/spec/username")),
    column("RequestedDuration", |csr, _| {
        match csr
            .pointer("/spec/expirationSeconds")
            .and_then(Value::as_i64)
        {
            Some(seconds) => json!(human_duration(seconds)),
            None => json!("<none>"),
        }
    }),
    column("Condition", |csr, _| json!(request_condition(csr))),
];

pub(crate) const ROLE_BINDING: Columns = &[
    NAME,
    column("Role", |binding, _| {
        let part = |at| {
            binding
                .pointer(at)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        json!(format!(
            "{}/{}",
            part("/roleRef/kind"),
            part("/roleRef/name")
        ))
    }),
    AGE,
];

/// As the CRD prints them, with lists as text.
pub(crate) const GRANT: Columns = &[
    NAME,
    column("User", |grant, _| text(grant, "/spec/user")),
    column("Groups", |grant, _| texts(grant, "/spec/groups")),
    column("Phase", |grant, _| text(grant, "/status/phase")),
    column("Rule", |grant, _| texts(grant, "/spec/rules")),
    column("Expires", |grant, _| text(grant, "/status/notAfter")),
    column("Revoked", |grant, _| text(grant, "/status/revokedAt")),
    AGE,
];

pub(crate) const NAMESPACE: Columns = &[
    NAME,
    column("Status", |namespace, _| text(namespace, "/status/phase")),
    AGE,
];

pub(crate) const SECRET: Columns = &[
    NAME,
    column("Type", |secret, _| text(secret, "/type")),
    count("Data", |secret, _| json!(members(secret, "/data"))),
    AGE,
];

pub(crate) const CONFIG_MAP: Columns = &[
    NAME,
    count("Data", |map, _| {
        json!(members(map, "/data") + members(map, "/binaryData"))
    }),
    AGE,
];

pub(crate) const LEASE: Columns = &[
    NAME,
    column("Holder", |lease, _| text(lease, "/spec/holderIdentity")),
    AGE,
];

pub(crate) const EVENT: Columns = &[
    column("Last Seen", last_seen),
    column("Type", |event, _| text(event, "/type")),
    column("Reason", |event, _| text(event, "/reason")),
    column("Object", |event, _| object_of(event, "/involvedObject")),
    wide("Source", |event, _| {
        let source = text(event, "/source/component");
        if source == "" {
            text(event, "/reportingComponent")
        } else {
            source
        }
    }),
    column("Message", |event, _| {
        json!(
            event
                .pointer("/message")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim()
        )
    }),
    wide("Name", |event, _| json!(object::name(event))),
];

pub(crate) const NEW_EVENT: Columns = &[
    column("Last Seen", last_seen),
    column("Type", |event, _| text(event, "/type")),
    column("Reason", |event, _| text(event, "/reason")),
    column("Object", |event, _| object_of(event, "/regarding")),
    wide("Source", |event, _| text(event, "/reportingController")),
    column("Message", |event, _| {
        json!(
            event
                .pointer("/note")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim()
        )
    }),
    wide("Name", |event, _| json!(object::name(event))),
];

/// How much of each object a row carries (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    Metadata,
    No,
    Whole,
}

impl IncludeObject {
    pub(crate) fn read(parameters: &Parameters) -> Result<Self, ApiError> {
        match parameters.value("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::No),
            Some("Object") => Ok(Self::Whole),
            Some(other) => Err(ApiError::bad_request(format!(
                "includeObject must be None, Metadata or Object, not {other:?}"
            ))),
        }
    }
}

/// A table of objects; `metadata` is the list's.
pub(crate) fn table(
    resource: &Resource,
    objects: &[Value],
    metadata: &Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = resource
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": if column.name == "Name" { "name" } else { "" },
                "description": "",
                "priority": column.priority,
            })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = resource
                .columns
                .iter()
                .map(|column| (column.cell)(object, now))
                .collect();
            let mut row = json!({"cells": cells});
            let shown = match include {
                IncludeObject::Metadata => Some(metadata_only(object)),
                IncludeObject::No => None,
                IncludeObject::Whole => Some(object.clone()),
            };
            if let Some(shown) = shown {
                object::members_mut(&mut row).insert("object".to_owned(), shown);
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": if with_columns { Value::Array(columns) } else { Value::Null },
        "rows": rows,
    })
}

/// PartialObjectMetadata of an object.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
    })
}

fn text(object: &Value, at: &str) -> Value {
    json!(
        object
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    )
}

fn texts(object: &Value, at: &str) -> Value {
    let texts = object.pointer(at).and_then(Value::as_array);
    let texts: Vec<&str> = texts
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    json!(texts.join(","))
}

fn members(object: &Value, at: &str) -> usize {
    object
        .pointer(at)
        .and_then(Value::as_object)
        .map_or(0, Map::len)
}

fn since(at: Option<&Value>, now: Timestamp) -> Value {
    let at = at
        .and_then(Value::as_str)
        .and_then(|at| at.parse::<Timestamp>().ok());
    match at {
        Some(at) => json!(human_duration(now.duration_since(at).as_secs())),
        None => json!("<unknown>"),
    }
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    let at = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/deprecatedLastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .find_map(|at| event.pointer(at).filter(|at| at.is_string()));
    since(at, now)
}

fn object_of(event: &Value, at: &str) -> Value {
    let part = |part: &str| {
        event
            .pointer(&format!("{at}/{part}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let kind = part("kind").to_lowercase();
    json!(format!("{kind}/{}", part("name")))
}

fn request_condition(csr: &Value) -> String {
    let conditions = csr.pointer("/status/conditions").and_then(Value::as_array);
    let has = |kind: &str| {
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == kind)
    };
    let mut text = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if csr
        .pointer("/status/certificate")
        .and_then(Value::as_str)
        .is_some_and(|pem| !pem.is_empty())
    {
        text.push_str(",Issued");
    }
    text
}

/// A length of time as Kubernetes shows it (k8s.io/apimachinery/pkg/util/duration, HumanDuration).
fn human_duration(seconds: i64) -> String {
    let two = |large: i64, one: char, small: i64, other: char| {
        if small == 0 {
            format!("{large}{one}")
        } else {
            format!("{large}{one}{small}{other}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, 'd', hours % 24, 'h'),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_as_kubectl_shows_them() {
        for (seconds, shown) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (1800, "30m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (24 * 3600, "24h"),
            (49 * 3600, "2d1h"),
            (400 * 86_400, "400d"),
            (3 * 365 * 86_400 + 86_400, "3y1d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), shown);
        }
    }

    #[test]
    fn the_condition_of_a_request_reads_as_kubectl_shows_it() {
        let condition = |kinds: &[&str], certificate: &str| {
            let conditions: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
            request_condition(
                &json!({"status": {"conditions": conditions, "certificate": certificate}}),
            )
        };
        assert_eq!(condition(&[], ""), "Pending");
        assert_eq!(condition(&["Approved"], "AAAA"), "Approved,Issued");
        assert_eq!(condition(&["Approved", "Failed"], ""), "Approved,Failed");
        assert_eq!(condition(&["Denied"], ""), "Denied");
    }
}
