//! Label and field selectors (k8s.io/apimachinery/pkg/labels and pkg/fields).

use serde_json::Value;

use crate::{object, resource::Resource, status::ApiError};

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let unreadable =
            |part: &str| ApiError::bad_request(format!("unable to parse requirement: {part:?}"));
        let mut requirements = Vec::new();
        for part in split(text) {
            let requirement = if let Some((key, value)) = part.split_once("!=") {
                Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some((key, value)) = part.split_once("==").or(part.split_once('=')) {
                Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()])
            } else if let Some((key, values)) = part.split_once('(') {
                let values = values.strip_suffix(')').ok_or_else(|| unreadable(part))?;
                let values = values.split(',').map(|one| one.trim().to_owned()).collect();
                let mut words = key.split_whitespace();
                match (words.next(), words.next(), words.next()) {
                    (Some(key), Some("in"), None) => Requirement::In(key.to_owned(), values),
                    (Some(key), Some("notin"), None) => Requirement::NotIn(key.to_owned(), values),
                    _ => return Err(unreadable(part)),
                }
            } else if let Some(key) = part.strip_prefix('!') {
                Requirement::Absent(key.trim().to_owned())
            } else {
                Requirement::Exists(part.to_owned())
            };
            let key = match &requirement {
                Requirement::Exists(key)
                | Requirement::Absent(key)
                | Requirement::In(key, _)
                | Requirement::NotIn(key, _) => key,
            };
            if !object::is_qualified_name(key) {
                return Err(unreadable(part));
            }
            requirements.push(requirement);
        }
        Ok(Self(requirements))
    }

    /// Whether there is nothing to match.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the labels (a JSON object or null) fit.
    pub(crate) fn matches(&self, labels: Option<&Value>) -> bool {
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|value| values.iter().all(|one| one != value))
            }
        })
    }
}

/// Splits at commas that stand outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

/// A field selector: `field=value` and `field!=value`, all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Reads `metadata.name=a,spec.signerName!=b`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.split_once("!=")
                    .map(|(key, value)| (key, false, value))
                    .or_else(|| part.split_once("==").map(|(key, value)| (key, true, value)))
                    .or_else(|| part.split_once('=').map(|(key, value)| (key, true, value)))
                    .map(|(key, equal, value)| {
                        (key.trim().to_owned(), equal, value.trim().to_owned())
                    })
                    .ok_or_else(|| {
                        ApiError::bad_request(format!("invalid field selector: {part:?}"))
                    })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Refuses fields that this kind can't be selected by.
    pub(crate) fn check(&self, resource: &Resource) -> Result<(), ApiError> {
        match self
            .0
            .iter()
            .find(|(key, ..)| pointer(resource, key).is_none())
        {
            None => Ok(()),
            Some((key, ..)) => Err(ApiError::bad_request(format!(
                "field label not supported: {key}"
            ))),
        }
    }

    /// The one name that is asked for, if it is.
    pub(crate) fn name(&self) -> Option<&str> {
        self.required("metadata.name")
    }

    /// The one namespace that is asked for, if it is.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.required("metadata.namespace")
    }

    /// Whether anything needs the object itself to be read.
    pub(crate) fn needs_object(&self) -> bool {
        self.0.iter().any(|(key, equal, _)| {
            !(*equal && matches!(key.as_str(), "metadata.name" | "metadata.namespace"))
        })
    }

    /// Whether an object fits.
    pub(crate) fn matches(&self, resource: &Resource, object: &Value) -> bool {
        self.0.iter().all(|(key, equal, wanted)| {
            let found = pointer(resource, key)
                .and_then(|pointer| object.pointer(pointer))
                .and_then(Value::as_str)
                .unwrap_or_default();
            (found == wanted) == *equal
        })
    }

    fn required(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, equal, _)| key == field && *equal)
            .map(|(.., value)| value.as_str())
    }
}

fn pointer(resource: &Resource, field: &str) -> Option<&'static str> {
    match field {
        "metadata.name" => Some("/metadata/name"),
        "metadata.namespace" => Some("/metadata/namespace"),
        other => resource
            .selectable
            .iter()
            .find(|(name, _)| *name == other)
            .map(|(_, pointer)| *pointer),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_hold_as_kubernetes_reads_them() {
        let labels = json!({"app": "a", "tier": "front"});
        for (selector, fits) in [
            ("", true),
            ("app=a", true),
            ("app==a,tier in (front, back)", true),
            ("app!=a", false),
            ("gone!=a", true),
            ("tier notin (front)", false),
            ("app,!gone", true),
            ("gone", false),
        ] {
            let selector_read = LabelSelector::parse(selector).unwrap();
            assert_eq!(selector_read.matches(Some(&labels)), fits, "{selector}");
        }
        assert!(LabelSelector::parse("app in front").is_err());
    }
}
