//! Discovery: what kinds there are (`/api`, `/apis` and below), and `/version`.

use serde_json::{Value, json};

use crate::resource::{RESOURCES, Resource, Subresource};

/// The Kubernetes whose API this follows; the API types in use are of this version.
const MINOR: &str = "37";

/// The document at a discovery path, if there is one.
pub(crate) fn document(path: &str) -> Option<Value> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["version"] => Some(version()),
        ["api"] => Some(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["api", version] => resource_list("", version),
        ["apis"] => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups().into_iter().filter_map(group).collect::<Vec<_>>(),
        })),
        ["apis", name] => {
            let mut group = group(name)?;
            let members = crate::object::members_mut(&mut group);
            members.insert("kind".to_owned(), json!("APIGroup"));
            members.insert("apiVersion".to_owned(), json!("v1"));
            Some(group)
        }
        ["apis", group, version] if !group.is_empty() => resource_list(group, version),
        _ => None,
    }
}

/// The groups besides core, each once, with its version.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = RESOURCES
        .iter()
        .map(|one| one.group)
        .filter(|group| !group.is_empty())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn group(name: &str) -> Option<Value> {
    let first = RESOURCES
        .iter()
        .find(|one| one.group == name && !name.is_empty())?;
    let version = json!({"groupVersion": first.api_version(), "version": first.version});
    Some(json!({"name": name, "versions": [version], "preferredVersion": version}))
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let resources: Vec<&Resource> = RESOURCES
        .iter()
        .filter(|one| one.group == group && one.version == version)
        .collect();
    let first = resources.first()?;
    let entries: Vec<Value> = resources
        .iter()
        .flat_map(|one| {
            std::iter::once(entry(one))
                .chain(one.subresources.iter().map(|sub| sub_entry(one, *sub)))
        })
        .collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": entries,
    }))
}

fn entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs(),
    });
    if !resource.short_names.is_empty() {
        crate::object::members_mut(&mut entry)
            .insert("shortNames".to_owned(), json!(resource.short_names));
    }
    entry
}

fn sub_entry(resource: &Resource, subresource: Subresource) -> Value {
    json!({
        "name": format!("{}/{}", resource.plural, subresource.name()),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["get", "patch", "update"],
    })
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+touchstone-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found() {
        for resource in RESOURCES.iter() {
            let path = match resource.group {
                "" => format!("/api/{}", resource.version),
                group => format!("/apis/{group}/{}", resource.version),
            };
            let list = document(&path).unwrap();
            let names: Vec<&str> = list["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            assert!(names.contains(&resource.plural), "{path}");
        }
        assert_eq!(document("/apis/nothing.example"), None);
        assert_eq!(document("/apis/nothing.example/v1"), None);
        assert_eq!(document("/api/v2"), None);
    }
}
