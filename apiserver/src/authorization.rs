//! Who may do what. What no rule allows is denied.
//!
//! | who | may |
//! |---|---|
//! | `system:masters` | everything |
//! | `touchstone:signer`, in this process only | what reviewing, signing and recording needs |
//! | approvers | read the pending requests of the signer; set their own statement on them; read grants |
//! | engineers | look around, ask who they are and what they may, create requests, read their own |
//! | a read token | read the one request it was made for |
//! | nobody | health, version; create a request, if its evidence convinces |

use serde_json::{Value, json};

use crate::{
    authentication::{Identity, Scope},
    csr,
    request::Attributes,
};

/// The group that may do everything. The server gives it to the holders of administrators' certificates.
pub const ADMINISTRATORS: &str = "system:masters";
/// The group for the signer that runs in the same process.
pub const SIGNER: &str = "touchstone:signer";

/// Whether only the server itself gives this name.
pub(crate) fn is_reserved(name: &str) -> bool {
    let name = name.trim_start().to_ascii_lowercase();
    name.starts_with("system:") || name.starts_with("touchstone:")
}

/// Whether only the engineers' CA gives this group, to one certificate. It gives no rights here.
pub(crate) fn is_of_a_grant(group: &str) -> bool {
    group.starts_with("touchstone:grant:")
}

const REQUESTS: &str = "certificatesigningrequests";

/// A rule for resources.
struct Rule {
    group: &'static str,
    /// Each `plural` or `plural/subresource`.
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    reach: Reach,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    /// Only those whose `spec.username` is the one who asks.
    Own,
}

/// What a group may do.
struct Role {
    group: &'static str,
    rules: &'static [Rule],
    paths: &'static [&'static str],
}

const READ_WRITE: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const REVIEW_SELF: Rule = Rule {
    group: "authentication.k8s.io",
    resources: &["selfsubjectreviews"],
    verbs: &["create"],
    reach: Reach::All,
};
const REVIEW_ACCESS: Rule = Rule {
    group: "authorization.k8s.io",
    resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    verbs: &["create"],
    reach: Reach::All,
};
/// Whoever made a request may read it back.
const READ_OWN: Rule = Rule {
    group: "certificates.k8s.io",
    resources: &[REQUESTS],
    verbs: &["get", "watch"],
    reach: Reach::Own,
};
/// What approvers may do with what waits.
const APPROVE: Rule = Rule {
    group: "certificates.k8s.io",
    resources: &[REQUESTS],
    verbs: &["get", "list", "patch", "watch"],
    reach: Reach::Own,
};
/// Whoever approves access may see who has it.
const READ_GRANTS: Rule = Rule {
    group: "touchstone.dev",
    resources: &["grants"],
    verbs: &["get", "list", "watch"],
    reach: Reach::All,
};
const HEALTH: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

const ROLES: &[Role] = &[
    Role {
        group: SIGNER,
        rules: &[
            Rule {
                group: "certificates.k8s.io",
                resources: &[
                    REQUESTS,
                    "certificatesigningrequests/approval",
                    "certificatesigningrequests/status",
                ],
                verbs: READ_WRITE,
                reach: Reach::All,
            },
            Rule {
                group: "touchstone.dev",
                resources: &["grants", "grants/status"],
                verbs: READ_WRITE,
                reach: Reach::All,
            },
            Rule {
                group: "",
                resources: &["configmaps", "events", "namespaces", "secrets"],
                verbs: READ_WRITE,
                reach: Reach::All,
            },
            Rule {
                group: "events.k8s.io",
                resources: &["events"],
                verbs: READ_WRITE,
                reach: Reach::All,
            },
            Rule {
                group: "rbac.authorization.k8s.io",
                resources: &["rolebindings"],
                verbs: &["create", "delete", "get"],
                reach: Reach::All,
            },
            Rule {
                group: "coordination.k8s.io",
                resources: &["leases"],
                verbs: READ_WRITE,
                reach: Reach::All,
            },
        ],
        paths: &[],
    },
    Role {
        group: "system:authenticated",
        rules: &[
            REVIEW_SELF,
            REVIEW_ACCESS,
            Rule {
                group: "certificates.k8s.io",
                resources: &[REQUESTS],
                verbs: &["create"],
                reach: Reach::All,
            },
            READ_OWN,
        ],
        paths: DISCOVERY,
    },
    Role {
        group: "system:unauthenticated",
        // Whether the request is taken is for its evidence to decide.
        rules: &[Rule {
            group: "certificates.k8s.io",
            resources: &[REQUESTS],
            verbs: &["create"],
            reach: Reach::All,
        }],
        paths: HEALTH,
    },
];

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// If the named object belongs to this owner; every object sent must.
    AllowedFor(Owner),
    Denied,
}

/// To whom a request must belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Whoever approves requests of this signer name: those that are pending; and the named one's own, to read.
    Approvers {
        signer_name: String,
        reader: Option<String>,
    },
    /// The one that `spec.username` names.
    User(String),
    /// Whoever has a token for these UIDs.
    Uids(Vec<String>),
}

impl Owner {
    /// Whether an object belongs to it.
    pub(crate) fn owns(&self, object: &Value) -> bool {
        match self {
            Self::Approvers {
                signer_name,
                reader,
            } => {
                let signer = object.pointer("/spec/signerName").and_then(Value::as_str);
                signer == Some(signer_name.as_str()) && csr::is_pending(object)
                    || reader
                        .as_ref()
                        .is_some_and(|name| Self::User(name.clone()).owns(object))
            }
            Self::User(name) => {
                object.pointer("/spec/username").and_then(Value::as_str) == Some(name.as_str())
            }
            Self::Uids(uids) => object
                .pointer("/metadata/uid")
                .and_then(Value::as_str)
                .is_some_and(|uid| uids.iter().any(|one| one == uid)),
        }
    }
}

/// Whether it may do everything.
pub(crate) fn is_administrator(identity: &Identity) -> bool {
    let groups = identity.user.groups.as_deref().unwrap_or_default();
    groups.iter().any(|group| group == ADMINISTRATORS)
}

/// Decides.
pub(crate) fn decide(
    identity: &Identity,
    attributes: &Attributes,
    approved_signer: &str,
) -> Decision {
    if let Scope::Requests(uids) = &identity.scope {
        let is_named = attributes.path.is_none() && !attributes.name.is_empty();
        return if is_named && READ_OWN.covers(attributes) {
            Decision::AllowedFor(Owner::Uids(uids.clone()))
        } else {
            Decision::Denied
        };
    }
    let groups = identity.user.groups.as_deref().unwrap_or_default();
    let is_in = |group: &str| groups.iter().any(|one| one == group);
    if identity.scope == Scope::Groups && is_administrator(identity) {
        return Decision::Allowed;
    }
    if identity.approves && attributes.path.is_none() && APPROVE.covers(attributes) {
        let reads_own = identity.scope == Scope::Groups && READ_OWN.covers(attributes);
        return Decision::AllowedFor(Owner::Approvers {
            signer_name: approved_signer.to_owned(),
            reader: (reads_own && !attributes.name.is_empty()).then(|| identity.name().to_owned()),
        });
    }
    if identity.approves && attributes.path.is_none() && READ_GRANTS.covers(attributes) {
        return Decision::Allowed;
    }
    if identity.scope == Scope::Approver {
        return Decision::Denied;
    }
    let roles: Vec<&Role> = ROLES.iter().filter(|role| is_in(role.group)).collect();
    if let Some(path) = &attributes.path {
        let is_open = matches!(attributes.verb.as_str(), "get" | "head")
            && roles
                .iter()
                .flat_map(|role| role.paths)
                .any(|open| fits(open, path));
        return if is_open {
            Decision::Allowed
        } else {
            Decision::Denied
        };
    }
    let mut decision = Decision::Denied;
    for rule in roles.iter().flat_map(|role| role.rules) {
        if !rule.covers(attributes) {
            continue;
        }
        match rule.reach {
            Reach::All => return Decision::Allowed,
            Reach::Own if !attributes.name.is_empty() => {
                decision = Decision::AllowedFor(Owner::User(identity.name().to_owned()));
            }
            Reach::Own => {}
        }
    }
    decision
}

/// The rules for an identity, as SelfSubjectRulesReview shows them: what holds for all objects of a kind.
pub(crate) fn rules(identity: &Identity) -> (Vec<Value>, Vec<Value>) {
    let groups = identity.user.groups.as_deref().unwrap_or_default();
    if identity.scope == Scope::Groups && groups.iter().any(|one| one == ADMINISTRATORS) {
        return (
            vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
        );
    }
    let mut resource_rules = Vec::new();
    let mut path_rules = Vec::new();
    for role in ROLES
        .iter()
        .filter(|role| groups.iter().any(|one| one == role.group))
    {
        for rule in role.rules.iter().filter(|rule| rule.reach == Reach::All) {
            resource_rules.push(json!({
                "verbs": rule.verbs, "apiGroups": [rule.group], "resources": rule.resources,
            }));
        }
        if !role.paths.is_empty() {
            path_rules.push(json!({"verbs": ["get"], "nonResourceURLs": role.paths}));
        }
    }
    (resource_rules, path_rules)
}

impl Rule {
    fn covers(&self, attributes: &Attributes) -> bool {
        self.group == attributes.group
            && self.verbs.contains(&attributes.verb.as_str())
            && self.resources.iter().any(|one| match one.split_once('/') {
                None => *one == attributes.resource && attributes.subresource.is_empty(),
                Some((resource, subresource)) => {
                    resource == attributes.resource && subresource == attributes.subresource
                }
            })
    }
}

fn fits(open: &str, path: &str) -> bool {
    match open.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == open || path.strip_suffix('/') == Some(open),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn identity(groups: &[&str]) -> Identity {
        Identity {
            user: UserInfo {
                username: Some("alice".to_owned()),
                groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
                ..UserInfo::default()
            },
            ends: None,
            scope: Scope::Groups,
            approves: false,
        }
    }

    fn asked(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        }
    }

    const SIGNED: &str = "touchstone.dev/client";
    const CERTIFICATES: &str = "certificates.k8s.io";

    #[test]
    fn an_engineer_reads_only_their_own_requests_and_decides_none() {
        let engineer = identity(&["system:authenticated", "oncall-payments"]);
        assert_eq!(
            decide(
                &engineer,
                &asked("create", CERTIFICATES, REQUESTS, ""),
                SIGNED
            ),
            Decision::Allowed
        );
        assert_eq!(
            decide(
                &engineer,
                &asked("get", CERTIFICATES, REQUESTS, "a"),
                SIGNED
            ),
            Decision::AllowedFor(Owner::User("alice".to_owned()))
        );
        for (verb, group, resource, name) in [
            ("list", CERTIFICATES, REQUESTS, ""),
            ("list", CERTIFICATES, REQUESTS, "a"),
            ("watch", CERTIFICATES, REQUESTS, ""),
            (
                "update",
                CERTIFICATES,
                "certificatesigningrequests/approval",
                "a",
            ),
            (
                "patch",
                CERTIFICATES,
                "certificatesigningrequests/status",
                "a",
            ),
            (
                "get",
                CERTIFICATES,
                "certificatesigningrequests/status",
                "a",
            ),
            ("delete", CERTIFICATES, REQUESTS, "a"),
            ("get", "", "secrets", "ca"),
            ("list", "touchstone.dev", "grants", ""),
        ] {
            assert_eq!(
                decide(&engineer, &asked(verb, group, resource, name), SIGNED),
                Decision::Denied,
                "{verb} {resource}"
            );
        }
    }

    #[test]
    fn a_token_reads_its_request_and_nothing_else() {
        let token = Identity {
            scope: Scope::Requests(vec!["u".to_owned()]),
            ..identity(&["system:authenticated", ADMINISTRATORS])
        };
        assert_eq!(
            decide(&token, &asked("get", CERTIFICATES, REQUESTS, "a"), SIGNED),
            Decision::AllowedFor(Owner::Uids(vec!["u".to_owned()]))
        );
        for (verb, resource, name) in [
            ("create", REQUESTS, ""),
            ("list", REQUESTS, "a"),
            ("watch", REQUESTS, ""),
            ("delete", REQUESTS, "a"),
        ] {
            assert_eq!(
                decide(&token, &asked(verb, CERTIFICATES, resource, name), SIGNED),
                Decision::Denied,
                "{verb}"
            );
        }
        assert!(!Owner::Uids(vec!["u".to_owned()]).owns(&json!({"metadata": {"uid": "v"}})));
    }

    #[test]
    fn an_approver_reads_what_waits_for_the_signer_and_writes_to_it() {
        let by_certificate = Identity {
            approves: true,
            ..identity(&["system:authenticated"])
        };
        let by_pass = Identity {
            scope: Scope::Approver,
            // Whatever else its holder might be in.
            ..Identity {
                approves: true,
                ..identity(&["system:authenticated", ADMINISTRATORS])
            }
        };
        for approver in [&by_certificate, &by_pass] {
            for (verb, name) in [("get", "a"), ("list", ""), ("watch", ""), ("patch", "a")] {
                let decision = decide(approver, &asked(verb, CERTIFICATES, REQUESTS, name), SIGNED);
                let Decision::AllowedFor(owner) = decision else {
                    panic!("{verb}: {decision:?}");
                };
                let request = |signer: &str, status: Value| json!({"spec": {"signerName": signer, "username": "bob"}, "status": status});
                let decided =
                    |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
                assert!(owner.owns(&request(SIGNED, json!({}))));
                assert!(owner.owns(&request(SIGNED, decided("Approved"))));
                assert!(!owner.owns(&request("other.example/x", json!({}))));
                assert!(!owner.owns(&request(SIGNED, decided("Denied"))));
                assert!(!owner.owns(&request(SIGNED, decided("Failed"))));
                assert!(!owner.owns(&request(SIGNED, json!({"certificate": "AAAA"}))));
            }
            for (verb, group, resource) in [
                ("update", CERTIFICATES, REQUESTS),
                ("delete", CERTIFICATES, REQUESTS),
                ("deletecollection", CERTIFICATES, REQUESTS),
                ("patch", CERTIFICATES, "certificatesigningrequests/approval"),
                (
                    "update",
                    CERTIFICATES,
                    "certificatesigningrequests/approval",
                ),
                ("patch", CERTIFICATES, "certificatesigningrequests/status"),
                ("create", "touchstone.dev", "grants"),
                ("patch", "touchstone.dev", "grants"),
                ("update", "touchstone.dev", "grants/status"),
                ("list", "", "secrets"),
            ] {
                let decision = decide(approver, &asked(verb, group, resource, "a"), SIGNED);
                assert_eq!(decision, Decision::Denied, "{verb} {resource}");
            }
            let list = asked("list", "touchstone.dev", "grants", "");
            assert_eq!(decide(approver, &list, SIGNED), Decision::Allowed);
        }
        let create = asked("create", CERTIFICATES, REQUESTS, "");
        assert_eq!(decide(&by_certificate, &create, SIGNED), Decision::Allowed);
        assert_eq!(decide(&by_pass, &create, SIGNED), Decision::Denied);
    }

    #[test]
    fn nobody_creates_requests_and_reads_health_only() {
        let nobody = identity(&["system:unauthenticated"]);
        assert_eq!(
            decide(
                &nobody,
                &asked("create", CERTIFICATES, REQUESTS, ""),
                SIGNED
            ),
            Decision::Allowed
        );
        assert_eq!(
            decide(&nobody, &asked("get", CERTIFICATES, REQUESTS, "a"), SIGNED),
            Decision::Denied
        );
        for (path, decision) in [
            ("/readyz", Decision::Allowed),
            ("/apis", Decision::Denied),
            ("/readyz/../apis", Decision::Denied),
        ] {
            let attributes = Attributes {
                verb: "get".to_owned(),
                path: Some(path.to_owned()),
                ..Attributes::default()
            };
            assert_eq!(decide(&nobody, &attributes, SIGNED), decision, "{path}");
        }
    }

    #[test]
    fn names_that_only_the_server_gives_are_known() {
        for name in [
            "system:masters",
            "System:Masters",
            " system:x",
            "touchstone:signer",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        assert!(!is_reserved("oncall:system"));
    }
}
