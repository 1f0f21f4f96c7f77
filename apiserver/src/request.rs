//! What a request asks for, read from its method, path and query as Kubernetes reads them
//! (k8s.io/apiserver/pkg/endpoints/request/requestinfo.go).

use axum::extract::Query;
use http::{Method, Uri};
use serde_json::{Value, json};

use crate::{selector::FieldSelector, status::ApiError};

/// What is asked, for the authorizer and the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the method in lower case.
    pub(crate) verb: String,
    /// The path when it is not a resource's.
    pub(crate) path: Option<String>,
    /// API group, empty for core.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Plural name.
    pub(crate) resource: String,
    /// Such as `status`; empty for none.
    pub(crate) subresource: String,
    /// Empty for cluster-wide.
    pub(crate) namespace: String,
    /// Name of the object; empty for none.
    pub(crate) name: String,
}

impl Attributes {
    /// Reads a request line. `None` when the path can't be any path of the API.
    pub(crate) fn read(method: &Method, uri: &Uri, parameters: &Parameters) -> Option<Self> {
        let path = uri.path();
        // No name of this API needs an escape, so none is read: what is not seen can't be read in two ways.
        if path.contains(['%', '\\']) {
            return None;
        }
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !is_blank(rest) => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !is_blank(rest) => (*group, *version, rest),
            _ => {
                return Some(Self {
                    verb: method.as_str().to_ascii_lowercase(),
                    path: Some(path.to_owned()),
                    ..Self::default()
                });
            }
        };
        if rest
            .iter()
            .any(|segment| matches!(*segment, "" | "." | ".."))
        {
            return None;
        }
        let (namespace, resource, name, subresource) = match rest {
            ["namespaces"] => ("", "namespaces", "", ""),
            ["namespaces", name] => ("", "namespaces", *name, ""),
            ["namespaces", name, "status"] => ("", "namespaces", *name, "status"),
            ["namespaces", namespace, resource] => (*namespace, *resource, "", ""),
            ["namespaces", namespace, resource, name] => (*namespace, *resource, *name, ""),
            ["namespaces", namespace, resource, name, subresource] => {
                (*namespace, *resource, *name, *subresource)
            }
            [resource] => ("", *resource, "", ""),
            [resource, name] => ("", *resource, *name, ""),
            [resource, name, subresource] => ("", *resource, *name, *subresource),
            _ => return None,
        };
        let selected = || {
            parameters
                .field_selector()
                .ok()
                .and_then(|selector| selector.name().map(str::to_owned))
                .unwrap_or_default()
        };
        let (verb, name) = match (method.as_str(), name) {
            ("POST", name) => ("create", name.to_owned()),
            ("PUT", name) => ("update", name.to_owned()),
            ("PATCH", name) => ("patch", name.to_owned()),
            ("DELETE", "") => ("deletecollection", selected()),
            ("DELETE", name) => ("delete", name.to_owned()),
            ("GET" | "HEAD", "") if parameters.flag("watch") => ("watch", selected()),
            ("GET" | "HEAD", "") => ("list", selected()),
            ("GET" | "HEAD", name) => ("get", name.to_owned()),
            _ => ("", name.to_owned()),
        };
        Some(Self {
            verb: verb.to_owned(),
            path: None,
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name,
        })
    }

    /// The sentence in which Kubernetes refuses this.
    pub(crate) fn forbidden(&self, user: &str) -> String {
        let verb = &self.verb;
        if let Some(path) = &self.path {
            return format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        }
        let resource = if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let subject = match self.group.as_str() {
            "" => self.resource.clone(),
            group => format!("{}.{group}", self.resource),
        };
        let subject = if self.name.is_empty() {
            format!("{subject} is forbidden")
        } else {
            format!("{subject} {:?} is forbidden", self.name)
        };
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "{subject}: User {user:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
            self.group
        )
    }

    /// The details of a refusal.
    pub(crate) fn details(&self) -> Value {
        let mut details = json!({});
        for (key, value) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.resource),
        ] {
            if let (false, Some(details)) = (value.is_empty(), details.as_object_mut()) {
                details.insert(key.to_owned(), json!(value));
            }
        }
        details
    }
}

fn is_blank(rest: &[&str]) -> bool {
    matches!(rest, [] | [""])
}

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query string.
    pub(crate) fn read(uri: &Uri) -> Result<Self, ApiError> {
        Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(format!("the query can't be read: {error}")))
    }

    /// The value of a parameter, if it is there and not empty.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is set, as Kubernetes reads booleans: there and not `0` or `false`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.value(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!("{name} must be a whole number, not {text:?}"))
                })
            })
            .transpose()
    }

    /// `dryRun=All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.value("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun must be \"All\", not {other:?}"
            ))),
        }
    }

    /// `fieldSelector`.
    pub(crate) fn field_selector(&self) -> Result<FieldSelector, ApiError> {
        FieldSelector::parse(self.value("fieldSelector").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str) -> Option<Attributes> {
        let uri: Uri = uri.parse().unwrap();
        let parameters = Parameters::read(&uri).unwrap();
        Attributes::read(&method.parse().unwrap(), &uri, &parameters)
    }

    #[test]
    fn a_watch_of_one_name_is_judged_by_that_name() {
        let attributes = read(
            "GET",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=1&fieldSelector=metadata.name%3Da",
        )
        .unwrap();
        assert_eq!(attributes.verb, "watch");
        assert_eq!(attributes.name, "a");
    }

    #[test]
    fn a_namespaced_object_is_found_in_its_namespace() {
        let attributes = read("GET", "/api/v1/namespaces/n/secrets/s").unwrap();
        assert_eq!(attributes.namespace, "n");
        assert_eq!(attributes.resource, "secrets");
        assert_eq!(attributes.name, "s");
        assert_eq!(attributes.verb, "get");
    }

    #[test]
    fn escapes_and_dots_in_a_path_are_no_path_of_the_api() {
        for path in [
            "/api/v1/namespaces/n/secrets/..%2Fx",
            "/api/v1/namespaces/../secrets/x",
            "/api/v1/namespaces//secrets",
            "/api/v1/namespaces/n/secrets/a/b/c",
        ] {
            assert_eq!(read("GET", path), None, "{path}");
        }
    }

    #[test]
    fn a_refusal_reads_as_kubernetes_words_it() {
        let attributes = read(
            "GET",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
        )
        .unwrap();
        assert_eq!(
            attributes.forbidden("x"),
            "certificatesigningrequests.certificates.k8s.io is forbidden: User \"x\" cannot list resource \
             \"certificatesigningrequests\" in API group \"certificates.k8s.io\" at the cluster scope"
        );
    }
}
