use super::*;

fn atom(on: &str, name: Option<&str>, verb: &str) -> Atom {
    (
        None,
        on.to_owned(),
        name.map(str::to_owned),
        verb.to_owned(),
    )
}

#[test]
fn what_a_star_gives_already_is_not_added() {
    let all = atom("*.*", None, "*");
    assert!(covers(&all, &atom("pods", None, "delete")));
    assert!(covers(
        &atom("pods", None, "*"),
        &atom("pods", Some("a"), "get")
    ));
    assert!(!covers(
        &atom("pods", Some("a"), "get"),
        &atom("pods", None, "get")
    ));
    assert!(!covers(
        &atom("pods", None, "get"),
        &atom("pods", None, "*")
    ));
    assert!(!covers(
        &atom("pods", None, "get"),
        &atom("secrets", None, "get")
    ));
}

#[test]
fn verbs_on_the_same_thing_are_one_line() {
    let atoms = [
        atom("pods", None, "list"),
        atom("pods", None, "get"),
        atom("pods/log", None, "get"),
    ];
    let blast = Blast {
        source: Source::Bindings,
        note: None,
        added: grouped(
            atoms
                .into_iter()
                .map(|atom| (atom, Some("RoleBinding a".to_owned()))),
        ),
    };
    assert_eq!(
        blast.lines(),
        [
            "get pods/log everywhere (by RoleBinding a)",
            "get,list pods everywhere (by RoleBinding a)",
        ]
    );
}

fn access(on: &str, verbs: &[&str]) -> Access {
    Access {
        namespace: Some("pay".to_owned()),
        on: on.to_owned(),
        name: None,
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        by: None,
    }
}

#[test]
fn what_is_grave_stands_first_and_what_is_alike_is_one_line() {
    let blast = Blast {
        source: Source::Impersonation,
        note: None,
        added: vec![
            access("configmaps", &["get", "list"]),
            access("pods", &["get", "list"]),
            access("pods/exec", &["create"]),
            access("rolebindings.rbac.authorization.k8s.io", &["get"]),
            access("roles.rbac.authorization.k8s.io", &["get", "update"]),
            access("secrets", &["get", "list"]),
            access("serviceaccounts", &["impersonate"]),
        ],
    };
    assert_eq!(
        blast.lines(),
        [
            "create pods/exec in namespace pay",
            "get,update roles.rbac.authorization.k8s.io in namespace pay",
            "get,list secrets in namespace pay",
            "impersonate serviceaccounts in namespace pay",
            "get rolebindings.rbac.authorization.k8s.io in namespace pay",
            "get,list configmaps, pods in namespace pay",
        ]
    );
}

#[test]
fn what_is_grave_is_so_by_a_star_too_and_nothing_is_for_a_name_that_is_like_one() {
    for (on, verb) in [
        ("*", "get"),
        ("*.*", "get"),
        ("*/exec", "create"),
        ("pods/*", "create"),
        ("pods/exec.*", "create"),
        ("secrets.*", "list"),
        ("roles.*", "update"),
        (
            "certificatesigningrequests/approval.certificates.k8s.io",
            "update",
        ),
        ("configmaps", "*"),
    ] {
        assert!(access(on, &[verb]).is_grave(), "{verb} {on}");
    }
    for (on, verb) in [
        ("secrets.example.com", "list"),
        ("roles.example.com", "update"),
        ("roles.rbac.authorization.k8s.io", "list"),
        ("pods/log", "get"),
        ("/healthz", "get"),
    ] {
        assert!(!access(on, &[verb]).is_grave(), "{verb} {on}");
    }
}

#[test]
fn however_much_it_is_what_is_grave_is_never_among_what_is_left_out() {
    let mut added: Vec<_> = (0..2 * SHOWN)
        .map(|number| access(&format!("a{number:02}"), &[&format!("v{number:02}")]))
        .collect();
    added.push(access("secrets", &["get"]));
    let lines = Blast {
        source: Source::Bindings,
        note: None,
        added,
    }
    .lines();
    assert_eq!(lines.first().unwrap(), "get secrets in namespace pay");
    assert_eq!(lines.last().unwrap(), "and 41 more: --output json has all");
}

#[test]
fn not_knowing_is_never_an_empty_list() {
    assert_eq!(
        Blast::unknown("could not tell".to_owned()).lines(),
        ["could not tell"]
    );
    let none = Blast {
        source: Source::Impersonation,
        ..Blast::default()
    };
    assert_eq!(none.lines(), ["nothing that was found"]);
}
