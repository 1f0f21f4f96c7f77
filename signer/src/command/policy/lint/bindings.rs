//! The groups that RoleBindings and ClusterRoleBindings name: in a folder of manifests, or in a cluster.

use crate::error::Error;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// The most bytes of one manifest.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How deep folders may be nested: symbolic links can make circles.
const MAX_DEPTH: usize = 32;
/// How many bindings are read at once.
const PAGE: u32 = 500;

/// Why manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file is no YAML, or no JSON.
    #[error("{0}")]
    Format(String),
    /// The file or the folder cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The groups that the bindings in a file name, or in all the YAML and JSON files of a folder and the folders in it.
pub(super) fn in_manifests(path: &Path) -> Result<BTreeSet<String>, Error> {
    let mut groups = BTreeSet::new();
    let mut folders: Vec<(PathBuf, usize)> = vec![(path.to_owned(), 0)];
    while let Some((path, depth)) = folders.pop() {
        let at = |source: ManifestError| Error::Manifests {
            path: path.clone(),
            source,
        };
        if !path.is_dir() {
            // What was named is read whatever it is called.
            if depth == 0 || is_manifest(&path) {
                in_file(&path, &mut groups).map_err(at)?;
            }
            continue;
        }
        if depth == MAX_DEPTH {
            let message =
                format!("folders are nested {MAX_DEPTH} deep: is there a circle of links?");
            return Err(at(ManifestError::Format(message)));
        }
        for entry in fs::read_dir(&path).map_err(|error| at(error.into()))? {
            let entry = entry.map_err(|error| at(error.into()))?;
            // `.git` and its like.
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                folders.push((entry.path(), depth.saturating_add(1)));
            }
        }
    }
    Ok(groups)
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

fn in_file(path: &Path, groups: &mut BTreeSet<String>) -> Result<(), ManifestError> {
    let mut text = String::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let mut file = File::open(path)?.take(most.saturating_add(1));
    file.read_to_string(&mut text)?;
    if text.len() > MAX_BYTES {
        let message = format!("it has more than {MAX_BYTES} bytes");
        return Err(ManifestError::Format(message));
    }
    in_text(&text, groups)
}

fn in_text(text: &str, groups: &mut BTreeSet<String>) -> Result<(), ManifestError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        // The reader adds a picture of the place; its first line says it all.
        let message = error.without_snippet().to_string();
        ManifestError::Format(message.lines().next().unwrap_or_default().to_owned())
    })?;
    for document in &documents {
        in_object(document, groups);
    }
    Ok(())
}

/// The groups in an object, if it is a binding or a list of them.
fn in_object(object: &Value, groups: &mut BTreeSet<String>) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let is_rbac = text("apiVersion").starts_with("rbac.authorization.k8s.io/");
    let list = |key: &str| {
        let list = object.get(key).and_then(Value::as_array);
        list.map_or(&[][..], Vec::as_slice)
    };
    match text("kind") {
        "RoleBinding" | "ClusterRoleBinding" if is_rbac => in_subjects(list("subjects"), groups),
        "List" => {
            for item in list("items") {
                in_object(item, groups);
            }
        }
        // As the API itself answers: its items don't say what they are.
        "RoleBindingList" | "ClusterRoleBindingList" if is_rbac => {
            for item in list("items") {
                let subjects = item.get("subjects").and_then(Value::as_array);
                in_subjects(subjects.map_or(&[][..], Vec::as_slice), groups);
            }
        }
        _ => {}
    }
}

fn in_subjects(subjects: &[Value], groups: &mut BTreeSet<String>) {
    for subject in subjects {
        if subject.get("kind").and_then(Value::as_str) == Some("Group") {
            let name = subject.get("name").and_then(Value::as_str);
            groups.extend(name.map(str::to_owned));
        }
    }
}

/// The groups that the bindings of a cluster name.
pub(super) async fn in_cluster(client: Client) -> Result<BTreeSet<String>, Error> {
    let mut groups = BTreeSet::new();
    let doing = "list the ClusterRoleBindings";
    let subjects = |binding: ClusterRoleBinding| binding.subjects;
    list(&Api::all(client.clone()), doing, subjects, &mut groups).await?;
    let doing = "list the RoleBindings";
    let subjects = |binding: RoleBinding| binding.subjects;
    list(&Api::all(client), doing, subjects, &mut groups).await?;
    Ok(groups)
}

async fn list<K>(
    api: &Api<K>,
    doing: &'static str,
    subjects: impl Fn(K) -> Option<Vec<Subject>>,
    groups: &mut BTreeSet<String>,
) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await;
        let page = page.map_err(|source| Error::Bindings {
            doing,
            source: Box::new(source),
        })?;
        let all = page.items.into_iter().filter_map(&subjects).flatten();
        let of_groups = all.filter(|subject| subject.kind == "Group");
        groups.extend(of_groups.map(|subject| subject.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn groups(text: &str) -> Vec<String> {
        let mut groups = BTreeSet::new();
        in_text(text, &mut groups).unwrap();
        groups.into_iter().collect()
    }

    const BINDING: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: b, namespace: payments }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view }
subjects:
- { apiGroup: rbac.authorization.k8s.io, kind: Group, name: \"jit:oncall:payments\" }
- { apiGroup: rbac.authorization.k8s.io, kind: User, name: alice }
- { kind: ServiceAccount, name: default, namespace: payments }
";

    #[test]
    fn groups_are_found_in_every_document_and_in_lists() {
        let cluster = BINDING.replace("kind: RoleBinding", "kind: ClusterRoleBinding");
        let cluster = cluster.replace("jit:oncall:payments", "jit:oncall:cluster");
        let text = format!("# first\n---\n{BINDING}---\n---\nkind: Service\n---\n{cluster}");
        assert_eq!(groups(&text), ["jit:oncall:cluster", "jit:oncall:payments"]);
        let json = r#"{"kind":"List","apiVersion":"v1","items":[
            {"kind":"RoleBinding","apiVersion":"rbac.authorization.k8s.io/v1","subjects":[{"kind":"Group","name":"a"}]},
            {"kind":"RoleBinding","apiVersion":"rbac.authorization.k8s.io/v1"}]}"#;
        assert_eq!(groups(json), ["a"]);
        let answer = r#"{"kind":"ClusterRoleBindingList","apiVersion":"rbac.authorization.k8s.io/v1",
            "items":[{"subjects":[{"kind":"Group","name":"b"}]}]}"#;
        assert_eq!(groups(answer), ["b"]);
    }

    #[test]
    fn what_only_looks_like_a_binding_names_no_group() {
        for text in [
            "kind: RoleBinding\nsubjects: [{ kind: Group, name: a }]\n",
            "apiVersion: example.com/v1\nkind: RoleBinding\nsubjects: [{ kind: Group, name: a }]\n",
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nsubjects: [{ kind: Group, name: a }]\n",
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nsubjects: { kind: Group, name: a }\n",
            "[]",
            "null",
            "",
        ] {
            assert!(groups(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_folder_is_read_with_the_folders_in_it_and_only_its_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/payments.yaml", BINDING);
        write("c.json", "{}");
        write("README.md", "# {{");
        write(".git/x.yaml", ": {{");
        let found = in_manifests(dir.path()).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["jit:oncall:payments"]
        );
        write(
            "chart.yaml",
            "kind: RoleBinding\nsubjects: {{ .Values.subjects }}\n",
        );
        let error = in_manifests(dir.path()).unwrap_err();
        assert!(error.report().contains("chart.yaml"), "{}", error.report());
        assert_eq!(error.exit() as u8, 1);
    }

    #[test]
    fn a_circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        symlink(dir.path(), dir.path().join("again")).unwrap();
        let error = in_manifests(dir.path()).unwrap_err();
        assert!(error.report().contains("circle"), "{}", error.report());
        assert!(in_manifests(&dir.path().join("none")).is_err());
    }
}
