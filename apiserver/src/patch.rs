//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and of the strategic merge patch what means the same as
//! a merge patch.

use serde::Deserialize;
use serde_json::Value;

use crate::{resource::Resource, status::ApiError};

/// The most operations of a JSON patch (as in kube-apiserver).
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that `copy` operations may add up to (as the body's limit).
const MAX_COPIED_BYTES: usize = 1024 * 1024;

/// How deeply an object may be nested; serde_json reads 128 levels.
const MAX_DEPTH: usize = 100;

/// A patch that can be applied.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Merge(Value),
    Json(Vec<Operation>),
}

/// One step of a JSON patch.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    Add { path: String, value: Value },
    Copy { from: String, path: String },
    Move { from: String, path: String },
    Remove { path: String },
    Replace { path: String, value: Value },
    Test { path: String, value: Value },
}

impl Patch {
    /// Reads a patch of this media type.
    pub(crate) fn read(
        resource: &Resource,
        media_type: &str,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let unreadable = |error: serde_json::Error| {
            ApiError::bad_request(format!("error decoding patch: {error}"))
        };
        match media_type {
            "application/merge-patch+json" => serde_json::from_slice(body)
                .map(Self::Merge)
                .map_err(unreadable),
            "application/json-patch+json" => {
                let operations: Vec<Operation> =
                    serde_json::from_slice(body).map_err(unreadable)?;
                if operations.len() > MAX_OPERATIONS {
                    return Err(ApiError::too_large(MAX_OPERATIONS));
                }
                Ok(Self::Json(operations))
            }
            "application/strategic-merge-patch+json" if resource.built_in => {
                let patch: Value = serde_json::from_slice(body).map_err(unreadable)?;
                if is_plain(&patch) {
                    Ok(Self::Merge(patch))
                } else {
                    Err(ApiError::unsupported_media_type(
                        "this strategic merge patch merges lists, which this API does not do; send a merge patch or a \
                         JSON patch (kubectl patch --type=merge|json)",
                    ))
                }
            }
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(ApiError::unsupported_media_type(
                    "this API does not do server-side apply; create the object, or update it with a merge patch \
                     (kubectl create|replace|patch --type=merge)",
                ))
            }
            _ => Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json",
            )),
        }
    }

    /// The object as the patch leaves it.
    pub(crate) fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut object = object.clone();
        match self {
            Self::Merge(patch) => merge(&mut object, patch),
            Self::Json(operations) => {
                let mut copied = 0;
                for operation in operations {
                    apply(&mut object, operation, &mut copied).map_err(|why| {
                        ApiError::bad_request(format!("the JSON patch cannot be applied: {why}"))
                    })?;
                }
            }
        }
        // Bodies are read to this depth, and what is stored must be readable again.
        if is_deeper(&object, MAX_DEPTH) {
            return Err(ApiError::bad_request(
                "the patched object is nested too deeply",
            ));
        }
        Ok(object)
    }
}

/// Whether a strategic merge patch means what it means as a merge patch: no directives, no lists that are merged by key.
fn is_plain(patch: &Value) -> bool {
    fn has_directive(value: &Value) -> bool {
        match value {
            Value::Object(members) => members
                .iter()
                .any(|(key, value)| key.starts_with('$') || has_directive(value)),
            Value::Array(items) => items.iter().any(has_directive),
            _ => false,
        }
    }
    let merged_by_key = ["/metadata/finalizers", "/metadata/ownerReferences"];
    !has_directive(patch) && merged_by_key.iter().all(|at| patch.pointer(at).is_none())
}

fn is_deeper(value: &Value, than: usize) -> bool {
    let Some(left) = than.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Object(members) => members.values().any(|value| is_deeper(value, left)),
        Value::Array(items) => items.iter().any(|value| is_deeper(value, left)),
        _ => false,
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let members = crate::object::members_mut(target);
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn apply(object: &mut Value, operation: &Operation, copied: &mut usize) -> Result<(), String> {
    let at = |object: &Value, path: &str| {
        object
            .pointer(path)
            .cloned()
            .ok_or_else(|| format!("there is nothing at {path:?}"))
    };
    match operation {
        Operation::Add { path, value } => add(object, path, value.clone()),
        Operation::Copy { from, path } => {
            let value = at(object, from)?;
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err("it copies too much".to_owned());
            }
            add(object, path, value)
        }
        Operation::Move { from, path } => {
            if path
                .strip_prefix(from.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
            {
                return Err(format!("{from:?} can't be moved into itself"));
            }
            let value = at(object, from)?;
            remove(object, from)?;
            add(object, path, value)
        }
        Operation::Remove { path } => remove(object, path),
        Operation::Replace { path, value } => {
            let place = object
                .pointer_mut(path)
                .ok_or_else(|| format!("there is nothing at {path:?}"))?;
            *place = value.clone();
            Ok(())
        }
        Operation::Test { path, value } => {
            if at(object, path)? == *value {
                Ok(())
            } else {
                Err(format!("the value at {path:?} is another"))
            }
        }
    }
}

/// The place a pointer's last part is in, and that part unescaped (RFC 6901).
fn parent<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, last) = path
        .rsplit_once('/')
        .ok_or_else(|| format!("{path:?} is not the path of a member"))?;
    let parent = object
        .pointer_mut(parent)
        .ok_or_else(|| format!("there is nothing at {parent:?}"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.matches('/').count() > MAX_DEPTH {
        return Err(format!("{path:?} is nested too deeply"));
    }
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (parent, last) = parent(object, path)?;
    match parent {
        Value::Object(members) => {
            members.insert(last, value);
            Ok(())
        }
        Value::Array(items) => {
            let index = if last == "-" {
                items.len()
            } else {
                index(&last)?
            };
            if index > items.len() {
                return Err(format!("the list at {path:?} is shorter"));
            }
            items.insert(index, value);
            Ok(())
        }
        _ => Err(format!("{path:?} is in neither an object nor a list")),
    }
}

fn remove(object: &mut Value, path: &str) -> Result<(), String> {
    let (parent, last) = parent(object, path)?;
    let gone = match parent {
        Value::Object(members) => members.remove(&last).is_some(),
        Value::Array(items) => {
            let index = index(&last)?;
            let is_there = index < items.len();
            if is_there {
                items.remove(index);
            }
            is_there
        }
        _ => false,
    };
    if gone {
        Ok(())
    } else {
        Err(format!("there is nothing at {path:?}"))
    }
}

/// An array index: digits without a leading zero.
fn index(text: &str) -> Result<usize, String> {
    let is_digits =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| is_digits)
        .ok_or_else(|| format!("{text:?} is not an index"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::resource;

    fn read(media_type: &str, body: &Value) -> Result<Patch, ApiError> {
        let csr = resource::find_stored("certificatesigningrequests").unwrap();
        Patch::read(csr, media_type, body.to_string().as_bytes())
    }

    #[test]
    fn a_merge_patch_merges_as_rfc_7386_shows() {
        let target = json!({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["a", "b"]});
        let patch =
            json!({"title": "Hello!", "phone": "1", "author": {"familyName": null}, "tags": ["a"]});
        let patched = read("application/merge-patch+json", &patch)
            .unwrap()
            .apply(&target)
            .unwrap();
        assert_eq!(
            patched,
            json!({"title": "Hello!", "author": {"givenName": "John"}, "tags": ["a"], "phone": "1"})
        );
    }

    #[test]
    fn a_json_patch_does_its_steps_in_order() {
        let patch = json!([
            {"op": "test", "path": "/a~1b", "value": 1},
            {"op": "add", "path": "/list/-", "value": 3},
            {"op": "add", "path": "/list/0", "value": 0},
            {"op": "remove", "path": "/list/1"},
            {"op": "copy", "from": "/list", "path": "/copy"},
            {"op": "move", "from": "/a~1b", "path": "/c"},
            {"op": "replace", "path": "/c", "value": 2},
        ]);
        let patched = read("application/json-patch+json", &patch)
            .unwrap()
            .apply(&json!({"a/b": 1, "list": [1, 2]}))
            .unwrap();
        assert_eq!(
            patched,
            json!({"list": [0, 2, 3], "copy": [0, 2, 3], "c": 2})
        );
    }

    #[test]
    fn a_json_patch_that_does_not_fit_changes_nothing() {
        for operation in [
            json!({"op": "test", "path": "/a", "value": 2}),
            json!({"op": "remove", "path": "/b"}),
            json!({"op": "add", "path": "/list/9", "value": 1}),
            json!({"op": "add", "path": "/list/01", "value": 1}),
            json!({"op": "move", "from": "/o", "path": "/o/x"}),
            json!({"op": "replace", "path": "/b", "value": 1}),
        ] {
            let patch = read("application/json-patch+json", &json!([operation])).unwrap();
            assert!(patch.apply(&json!({"a": 1, "list": [], "o": {}})).is_err());
        }
    }

    #[test]
    fn lists_that_would_be_merged_and_apply_are_refused_not_guessed() {
        let strategic = "application/strategic-merge-patch+json";
        assert!(read(strategic, &json!({"metadata": {"labels": {"a": "b"}}})).is_ok());
        for (media_type, patch) in [
            (strategic, json!({"metadata": {"$patch": "replace"}})),
            (
                strategic,
                json!({"metadata": {"$setElementOrder/finalizers": ["a"], "finalizers": ["a"]}}),
            ),
            (strategic, json!({"metadata": {"ownerReferences": []}})),
            ("application/apply-patch+yaml", json!({})),
            ("application/json", json!({})),
        ] {
            assert_eq!(read(media_type, &patch).unwrap_err().code().as_u16(), 415);
        }
    }

    #[test]
    fn copies_do_not_grow_without_end() {
        let double = json!({"op": "copy", "from": "/b", "path": "/b/-"});
        let patch = json!(vec![double; 40]);
        assert!(
            read("application/json-patch+json", &patch)
                .unwrap()
                .apply(&json!({"b": [1]}))
                .is_err()
        );
    }

    #[test]
    fn a_patch_cannot_nest_an_object_until_no_one_can_read_it() {
        let nest = json!({"op": "copy", "from": "", "path": "/a"});
        let patch = json!(vec![nest; 120]);
        assert!(
            read("application/json-patch+json", &patch)
                .unwrap()
                .apply(&json!({}))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_path_makes_a_patch_panic(path in ".*", from in ".*") {
            let object = json!({"a": [1, {"b": 2}]});
            for op in ["add", "remove", "replace", "move", "copy", "test"] {
                let patch = json!([{"op": op, "path": path, "from": from, "value": 1}]);
                let _ = read("application/json-patch+json", &patch).unwrap().apply(&object);
            }
        }
    }
}
