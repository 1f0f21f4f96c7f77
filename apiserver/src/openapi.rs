//! As much OpenAPI as kubectl needs to leave the validation to the server: which kinds take `fieldValidation` and
//! `dryRun` (k8s.io/cli-runtime/pkg/resource/query_param_verifier_v3.go). The schemas themselves are not described.

use serde_json::{Map, Value, json};

use crate::{
    discovery,
    resource::{RESOURCES, Resource},
};

/// The JSON document at an OpenAPI path, if there is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == "/openapi/v2" {
        return Some(json!({
            "swagger": "2.0",
            "info": {"title": "Touchstone", "version": env!("CARGO_PKG_VERSION")},
            "paths": {},
            "definitions": {},
        }));
    }
    if path == "/openapi/v3" {
        let mut paths = Map::new();
        let core = ("api/v1".to_owned(), "/openapi/v3/api/v1".to_owned());
        let others = discovery::groups().into_iter().map(|group| {
            (
                format!("apis/{group}/v1"),
                format!("/openapi/v3/apis/{group}/v1"),
            )
        });
        for (name, url) in std::iter::once(core).chain(others) {
            paths.insert(name, json!({"serverRelativeURL": url}));
        }
        return Some(json!({"paths": paths}));
    }
    let rest = path.strip_prefix("/openapi/v3/")?;
    let segments: Vec<&str> = rest.split('/').collect();
    let (group, version) = match segments.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let paths: Map<String, Value> = RESOURCES
        .iter()
        .filter(|one| one.group == group && one.version == version)
        .map(|one| (path_of(one), operations(one)))
        .collect();
    if paths.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Touchstone", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": {}},
    }))
}

/// `/openapi/v2` in protobuf, which kubectl before 1.24 insists on: a document that says `swagger: "2.0"` (field 1) and
/// describes no kind, upon which that kubectl validates nothing itself.
pub(crate) const V2_PROTOBUF: &[u8] = b"\x0a\x032.0";

/// The media type of [`V2_PROTOBUF`]. What kubectl asks for has an `@` in it, which Go then can't parse as a media type.
pub(crate) const V2_PROTOBUF_TYPE: &str =
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn path_of(resource: &Resource) -> String {
    let root = match resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let namespace = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let name = if resource.store().is_some() {
        "/{name}"
    } else {
        ""
    };
    format!("{root}{namespace}/{}{name}", resource.plural)
}

fn operations(resource: &Resource) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = json!({
        "parameters": [parameter("dryRun"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-group-version-kind": {
            "group": resource.group, "version": resource.version, "kind": resource.kind,
        },
    });
    match resource.store() {
        Some(_) => json!({"patch": operation, "put": operation}),
        None => json!({"post": operation}),
    }
}
