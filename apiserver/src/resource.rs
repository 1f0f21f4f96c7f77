//! The kinds that are served, one row each, and the rules that a row may carry.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, UserInfo},
    authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview},
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Secret},
    events::v1::Event as NewEvent,
    rbac::v1::RoleBinding,
};
use serde_json::{Value, json};

use crate::{
    csr,
    decode::{free_form, typed},
    object,
    status::FieldError,
    table::{self, Columns},
};

/// Part of an object that has an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subresource {
    /// `/approval`.
    Approval,
    /// `/status`.
    Status,
}

impl Subresource {
    /// Its name in a path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Status => "status",
        }
    }
}

/// What a kind is to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Objects are kept under this name; two kinds may share it.
    Stored(&'static str),
    /// Who am I?
    SubjectReview,
    /// May I?
    AccessReview,
    /// What may I?
    RulesReview,
}

/// Brings an object from one shape into another.
pub(crate) type Convert = fn(&mut Value);
/// A rule on a new object: sets what the server sets, and says what is wrong.
pub(crate) type PrepareCreate = fn(&mut Value, &UserInfo) -> Vec<FieldError>;
/// A rule on a changed object: new, old, where it was changed.
pub(crate) type PrepareUpdate =
    fn(&mut Value, &Value, Option<Subresource>, Timestamp) -> Vec<FieldError>;

/// A kind that is served.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) nature: Nature,
    pub(crate) subresources: &'static [Subresource],
    /// Part of Kubernetes itself, not a custom resource.
    pub(crate) built_in: bool,
    /// `metadata.generation` counts changes of the spec.
    pub(crate) counts_generations: bool,
    /// Brings JSON into the kind's shape.
    pub(crate) shape: fn(&Value) -> Result<Value, serde_json::Error>,
    pub(crate) prepare_create: PrepareCreate,
    pub(crate) prepare_update: PrepareUpdate,
    /// When the object is collected, if ever.
    pub(crate) ends: fn(&Value) -> Option<Timestamp>,
    /// Fields besides name and namespace that it can be selected by, with where they stand.
    pub(crate) selectable: &'static [(&'static str, &'static str)],
    /// From the stored shape to this kind's and back, where several kinds share a store.
    pub(crate) conversion: Option<(Convert, Convert)>,
    pub(crate) columns: Columns,
}

const STORED_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

impl Resource {
    /// `group/version`, or `v1` for core.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `plural.group`, or the plural for core.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The name its objects are kept under; `None` when there are none.
    pub(crate) fn store(&self) -> Option<&'static str> {
        match self.nature {
            Nature::Stored(name) => Some(name),
            Nature::SubjectReview | Nature::AccessReview | Nature::RulesReview => None,
        }
    }

    /// What can be done with it.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        match self.store() {
            Some(_) => STORED_VERBS,
            None => &["create"],
        }
    }

    /// The subresource of this name, if the kind has it.
    pub(crate) fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources
            .iter()
            .copied()
            .find(|one| one.name() == name)
    }

    /// Brings a stored object into this kind's shape.
    pub(crate) fn present(&self, object: &mut Value) {
        if let Some((from_stored, _)) = self.conversion {
            from_stored(object);
        }
    }

    /// Brings an object of this kind into the stored shape.
    pub(crate) fn keep(&self, object: &mut Value) {
        if let Some((_, to_stored)) = self.conversion {
            to_stored(object);
        }
    }
}

/// The kind at this place, if it is served.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|one| one.plural == plural && one.group == group && one.version == version)
}

/// The first kind whose objects are kept under this name.
pub(crate) fn find_stored(store: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|one| one.store() == Some(store))
}

/// A stored, built-in, cluster-scoped kind without rules of its own: what rows start from.
fn row(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        short_names: &[],
        namespaced: false,
        nature: Nature::Stored(plural),
        subresources: &[],
        built_in: true,
        counts_generations: false,
        shape: free_form,
        prepare_create: |_, _| Vec::new(),
        prepare_update: |_, _, _, _| Vec::new(),
        ends: |_| None,
        selectable: &[],
        conversion: None,
        columns: table::NAME_AND_AGE,
    }
}

/// Everything that is served. A new kind is a new row.
pub(crate) static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    vec![
        Resource {
            short_names: &["csr"],
            subresources: &[Subresource::Approval, Subresource::Status],
            shape: typed::<CertificateSigningRequest>,
            prepare_create: csr::prepare_create,
            prepare_update: csr::prepare_update,
            ends: csr::ends,
            selectable: &[("spec.signerName", "/spec/signerName")],
            columns: table::CERTIFICATE_SIGNING_REQUEST,
            ..row(
                "certificates.k8s.io",
                "certificatesigningrequests",
                "certificatesigningrequest",
                "CertificateSigningRequest",
            )
        },
        Resource {
            subresources: &[Subresource::Status],
            built_in: false,
            counts_generations: true,
            prepare_create: |new, _| {
                object::members_mut(new).remove("status");
                Vec::new()
            },
            prepare_update: separate_status,
            columns: table::GRANT,
            ..row("touchstone.dev", "grants", "grant", "Grant")
        },
        Resource {
            short_names: &["ns"],
            subresources: &[Subresource::Status],
            shape: typed::<Namespace>,
            prepare_create: |new, _| {
                let members = object::members_mut(new);
                members.insert("spec".to_owned(), json!({"finalizers": ["kubernetes"]}));
                members.insert("status".to_owned(), json!({"phase": "Active"}));
                let name = json!(object::name(new));
                if let Value::Object(labels) = object::metadata_mut(new)
                    .entry("labels")
                    .or_insert_with(|| json!({}))
                {
                    labels.insert("kubernetes.io/metadata.name".to_owned(), name);
                }
                Vec::new()
            },
            prepare_update: separate_status,
            columns: table::NAMESPACE,
            ..row("", "namespaces", "namespace", "Namespace")
        },
        Resource {
            namespaced: true,
            shape: typed::<Secret>,
            prepare_create: |new, _| {
                merge_string_data(new);
                let members = object::members_mut(new);
                members.entry("type").or_insert_with(|| json!("Opaque"));
                Vec::new()
            },
            prepare_update: |new, old, _, _| {
                merge_string_data(new);
                let members = object::members_mut(new);
                let kind = members
                    .entry("type")
                    .or_insert_with(|| json!("Opaque"))
                    .clone();
                let mut errors = immutable_data(new, old);
                if old.get("type").is_some_and(|before| *before != kind) {
                    errors.push(FieldError::invalid("type", &kind, "field is immutable"));
                }
                errors
            },
            selectable: &[("type", "/type")],
            columns: table::SECRET,
            ..row("", "secrets", "secret", "Secret")
        },
        Resource {
            short_names: &["cm"],
            namespaced: true,
            shape: typed::<ConfigMap>,
            prepare_update: |new, old, _, _| immutable_data(new, old),
            columns: table::CONFIG_MAP,
            ..row("", "configmaps", "configmap", "ConfigMap")
        },
        Resource {
            short_names: &["ev"],
            namespaced: true,
            shape: typed::<Event>,
            ends: event_ends,
            selectable: EVENT_FIELDS,
            columns: table::EVENT,
            ..row("", "events", "event", "Event")
        },
        Resource {
            short_names: &["ev"],
            namespaced: true,
            shape: typed::<NewEvent>,
            ends: event_ends,
            selectable: NEW_EVENT_FIELDS,
            conversion: Some((
                |event| rename(event, "events.k8s.io/v1", |(core, new)| (core, new)),
                |event| rename(event, "v1", |(core, new)| (new, core)),
            )),
            columns: table::NEW_EVENT,
            ..row("events.k8s.io", "events", "event", "Event")
        },
        Resource {
            namespaced: true,
            shape: typed::<Lease>,
            columns: table::LEASE,
            ..row("coordination.k8s.io", "leases", "lease", "Lease")
        },
        Resource {
            namespaced: true,
            shape: typed::<RoleBinding>,
            prepare_update: |new, old, _, _| immutable_role(new, old),
            columns: table::ROLE_BINDING,
            ..row(
                "rbac.authorization.k8s.io",
                "rolebindings",
                "rolebinding",
                "RoleBinding",
            )
        },
        Resource {
            nature: Nature::SubjectReview,
            shape: typed::<SelfSubjectReview>,
            ..row(
                "authentication.k8s.io",
                "selfsubjectreviews",
                "selfsubjectreview",
                "SelfSubjectReview",
            )
        },
        Resource {
            nature: Nature::AccessReview,
            shape: typed::<SelfSubjectAccessReview>,
            ..row(
                "authorization.k8s.io",
                "selfsubjectaccessreviews",
                "selfsubjectaccessreview",
                "SelfSubjectAccessReview",
            )
        },
        Resource {
            nature: Nature::RulesReview,
            shape: typed::<SelfSubjectRulesReview>,
            ..row(
                "authorization.k8s.io",
                "selfsubjectrulesreviews",
                "selfsubjectrulesreview",
                "SelfSubjectRulesReview",
            )
        },
    ]
});

/// The status is changed at `/status` and nothing else is; the rest everywhere else.
fn separate_status(
    new: &mut Value,
    old: &Value,
    subresource: Option<Subresource>,
    _: Timestamp,
) -> Vec<FieldError> {
    match subresource {
        Some(_) => {
            object::restore(new, old, "spec");
            object::restore(new, old, "metadata");
        }
        None => object::restore(new, old, "status"),
    }
    Vec::new()
}

/// Secrets take `stringData` for convenience and never show it.
fn merge_string_data(secret: &mut Value) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let members = object::members_mut(secret);
    let Some(Value::Object(plain)) = members.remove("stringData") else {
        return;
    };
    let data = object::members_mut(members.entry("data").or_insert(Value::Null));
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data.insert(key, json!(STANDARD.encode(text)));
    }
}

/// A Secret or ConfigMap marked `immutable` keeps its data and the mark.
fn immutable_data(new: &Value, old: &Value) -> Vec<FieldError> {
    if old.get("immutable") != Some(&json!(true)) {
        return Vec::new();
    }
    ["data", "binaryData", "immutable"]
        .into_iter()
        .filter(|field| new.get(field) != old.get(field))
        .map(|field| FieldError::forbidden(field, "field is immutable when `immutable` is set"))
        .collect()
}

/// A RoleBinding keeps its role (pkg/apis/rbac/validation). No role is looked up here, and none gives rights: who may do
/// what on this API is fixed. The kind is for clusters that trust its CA.
fn immutable_role(new: &Value, old: &Value) -> Vec<FieldError> {
    match (new.get("roleRef"), old.get("roleRef")) {
        (new, old) if new == old => Vec::new(),
        (new, _) => {
            let new = new.cloned().unwrap_or_default();
            vec![FieldError::invalid(
                "roleRef",
                &new,
                "cannot change roleRef",
            )]
        }
    }
}

/// Kubernetes keeps events for an hour after they were last written (kube-apiserver's --event-ttl).
fn event_ends(event: &Value) -> Option<Timestamp> {
    let last = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime"]
        .iter()
        .filter_map(|at| event.pointer(at)?.as_str()?.parse::<Timestamp>().ok())
        .max();
    let from = last.max(object::created(event))?;
    from.checked_add(SignedDuration::from_hours(1)).ok()
}

const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    (
        "involvedObject.resourceVersion",
        "/involvedObject/resourceVersion",
    ),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

const NEW_EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "/regarding/kind"),
    ("regarding.namespace", "/regarding/namespace"),
    ("regarding.name", "/regarding/name"),
    ("regarding.uid", "/regarding/uid"),
    ("reason", "/reason"),
    ("reportingController", "/reportingController"),
    ("type", "/type"),
];

/// What the core Event and the Event of events.k8s.io call the same things (pkg/apis/events/v1/conversion.go).
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    event: &mut Value,
    api_version: &str,
    from_to: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let members = object::members_mut(event);
    members.insert("apiVersion".to_owned(), json!(api_version));
    for (from, to) in EVENT_NAMES.map(from_to) {
        if let Some(value) = members.remove(from) {
            members.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_either_group_is_the_same_event() {
        let resource = find("events.k8s.io", "v1", "events").unwrap();
        let sent = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
            "regarding": {"kind": "Grant"}, "reportingController": "c",
        });
        let mut stored = sent.clone();
        resource.keep(&mut stored);
        assert_eq!(stored["message"], "n");
        assert_eq!(stored["involvedObject"]["kind"], "Grant");
        assert_eq!(stored["apiVersion"], "v1");
        resource.present(&mut stored);
        assert_eq!(stored, sent);
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "AA=="}, "stringData": {"b": "x"}});
        merge_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "AA==", "b": "eA=="}}));
    }
}
