//! What an edit must leave alone, and what it must refuse.

use super::*;
use proptest::prelude::*;

const KUBECTLS: &str = "\
apiVersion: v1
clusters:
- cluster:
    server: https://dev.example.com:6443
  name: dev
contexts:
- context:
    cluster: dev
    namespace: default
    user: dev
  name: dev
current-context: dev
kind: Config
preferences: {}
users:
- name: dev
  user:
    token: abc
";

fn wanted(cluster: &str) -> Wanted {
    Wanted {
        cluster: cluster.to_owned(),
        context: None,
        namespace: None,
        server: "https://127.0.0.1:23456".to_owned(),
        ca: "LS0tLS1CRUdJTg==".to_owned(),
        command: "touchstone".to_owned(),
        ttl: None,
        software_key: false,
    }
}

fn added(text: &str) -> Result<String, EditError> {
    let mut file = Kubeconfig::read(text)?;
    file.add(&wanted("prod"))?;
    Ok(file.text().to_owned())
}

/// Every line of `text` stands in `other`, in this order.
fn contains_lines(other: &str, text: &str) -> bool {
    let mut lines = other.lines();
    text.lines().all(|line| lines.any(|other| other == line))
}

#[test]
fn an_empty_file_becomes_a_kubeconfig_of_the_three_entries() {
    let text = added("").unwrap();
    assert_eq!(
        text,
        format!(
            "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: LS0tLS1CRUdJTg==
    server: https://127.0.0.1:23456
  name: touchstone-prod
contexts:
- context:
    cluster: touchstone-prod
    user: touchstone-prod
  name: touchstone-prod
current-context: \"\"
kind: Config
preferences: {{}}
users:
- name: touchstone-prod
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - credential
      - --cluster=prod
      - --ttl=30m
      command: touchstone
      env: null
      installHint: {INSTALL_HINT}
      interactiveMode: IfAvailable
      provideClusterInfo: false
"
        )
    );
}

#[test]
fn a_second_run_changes_nothing_even_after_kubectl_wrote_the_file_again() {
    let text = added(KUBECTLS).unwrap();
    assert_eq!(added(&text).unwrap(), text);
    // kubectl leaves out what says nothing, and puts the keys in its own order.
    let again = text.replace("      env: null\n", "");
    assert_eq!(added(&again).unwrap(), again);
}

#[test]
fn comments_order_and_formatting_of_everything_else_stay() {
    let text = "\
# the team's file
users:   # first
  # dev's
  - {name: dev, user: {token: 'abc'}}

  # the end of the users
kind:   Config
apiVersion: v1
contexts: null # none yet
current-context: \"dev\"
clusters:
    - name: dev   # old
      cluster:
        server: >-
          https://dev.example.com:6443
extra: [1, 2,
  3]
# the end";
    let changed = added(text).unwrap();
    let without_null = text.replace("contexts: null # none yet", "contexts: # none yet");
    assert!(contains_lines(&changed, &without_null), "{changed}");
    assert!(changed.ends_with("\n# the end"), "{changed}");
    let mut file = Kubeconfig::read(&changed).unwrap();
    assert!(file.remove("prod").unwrap());
    assert_eq!(file.text(), text);
}

#[test]
fn lines_end_as_they_did_and_a_byte_order_mark_stays() {
    let text = format!("\u{feff}{}", KUBECTLS.replace('\n', "\r\n"));
    let changed = added(&text).unwrap();
    assert_eq!(
        changed.matches('\n').count(),
        changed.matches("\r\n").count()
    );
    let mut file = Kubeconfig::read(&changed).unwrap();
    file.remove("prod").unwrap();
    assert_eq!(file.text(), text);
}

#[test]
fn entries_are_corrected_and_what_an_engineer_added_to_them_stays() {
    let text = added(KUBECTLS).unwrap();
    let theirs = text
        .replace("23456", "20001")
        .replace(
            "    cluster: touchstone-prod\n",
            "    cluster: touchstone-prod\n    namespace: payments\n",
        )
        .replace(
            "      - --ttl=30m\n",
            "      - --ttl=15m\n      - --group=jit:oncall:payments\n",
        );
    let corrected = added(&theirs).unwrap();
    assert_eq!(corrected, theirs.replace("20001", "23456"));

    let mut file = Kubeconfig::read(&corrected).unwrap();
    let wanted = Wanted {
        ttl: Some("1h".parse().unwrap()),
        namespace: Some("web".to_owned()),
        ..wanted("prod")
    };
    file.add(&wanted).unwrap();
    assert!(
        file.text()
            .contains("- --group=jit:oncall:payments\n      - --ttl=1h\n")
    );
    assert!(file.text().contains("    namespace: web\n"));
    assert!(!file.text().contains("15m"));
}

#[test]
fn entries_of_our_names_that_are_not_ours_are_refused() {
    let clash = |from: &str, to: &str| added(&KUBECTLS.replace(from, to)).unwrap_err();
    let foreign = |kind| EditError::Foreign {
        kind,
        name: "touchstone-prod".to_owned(),
    };
    assert_eq!(
        clash("- name: dev", "- name: touchstone-prod"),
        foreign("user")
    );
    assert_eq!(
        clash("443\n  name: dev", "443\n  name: touchstone-prod"),
        foreign("cluster")
    );
    assert_eq!(
        clash(
            "user: dev\n  name: dev",
            "user: dev\n  name: touchstone-prod"
        ),
        foreign("context")
    );
}

#[test]
fn a_renamed_context_is_known_again_and_goes_with_the_others() {
    let text = added(KUBECTLS).unwrap();
    let renamed = text
        .replace(
            "    user: touchstone-prod\n  name: touchstone-prod",
            "    user: touchstone-prod\n  name: production",
        )
        .replace("current-context: dev", "current-context: production");
    assert_eq!(added(&renamed).unwrap(), renamed);
    let mut file = Kubeconfig::read(&renamed).unwrap();
    assert!(file.remove("prod").unwrap());
    assert_eq!(
        file.text(),
        KUBECTLS.replace("current-context: dev", "current-context: \"\"")
    );
}

#[test]
fn names_that_look_like_numbers_are_written_as_text() {
    let mut file = Kubeconfig::read("").unwrap();
    let wanted = Wanted {
        context: Some("0123".to_owned()),
        namespace: Some("1e3".to_owned()),
        ..wanted("on")
    };
    assert_eq!(file.add(&wanted).unwrap(), "0123");
    file.set_current_context("0123").unwrap();
    assert!(
        file.text().contains("  name: \"0123\"\n"),
        "{}",
        file.text()
    );
    assert!(file.text().contains("    namespace: \"1e3\"\n"));
    assert!(file.text().contains("current-context: \"0123\"\n"));
}

#[test]
fn what_cannot_be_edited_safely_is_refused() {
    type Case = (&'static str, fn(&ShapeError) -> bool);
    let shapes: [Case; 19] = [
        ("{\"apiVersion\": \"v1\", \"kind\": \"Config\"}", |e| {
            matches!(e, ShapeError::Layout { .. })
        }),
        ("kind: Config\nclusters: [{name: a, cluster: {}}]\n", |e| {
            matches!(e, ShapeError::Layout { .. })
        }),
        (
            "kind: Config\nclusters:\n-\n  name: a\nusers:\n-\n  name: touchstone-prod\n  user: {exec: {args: [credential]}}\n",
            |e| matches!(e, ShapeError::Layout { .. }),
        ),
        ("  kind: Config\n  users: null\n", |e| {
            matches!(e, ShapeError::Layout { .. })
        }),
        ("kind: Config\nusers: &u []\nclusters: *u\n", |e| {
            matches!(e, ShapeError::Anchor(2))
        }),
        ("a: &a\n  b: *a\n", |e| matches!(e, ShapeError::Anchor(_))),
        ("kind: !!str Config\nusers: null\n", |e| {
            matches!(e, ShapeError::Tag(1))
        }),
        ("kind: Config\nusers: null\n---\nkind: Config\n", |e| {
            matches!(e, ShapeError::Documents)
        }),
        ("kind: Config\nusers: null\nusers: []\n", |e| {
            matches!(e, ShapeError::Duplicate { line: 3, .. })
        }),
        (
            "kind: Config\nusers:\n- name: touchstone-prod\n- name: touchstone-prod\n",
            |e| matches!(e, ShapeError::Duplicate { line: 4, .. }),
        ),
        ("kind: Deployment\napiVersion: apps/v1\n", |e| {
            matches!(e, ShapeError::Kind { .. })
        }),
        ("services:\n  web: {}\n", |e| {
            matches!(e, ShapeError::Kind { .. })
        }),
        ("kind: Config\nusers: many\n", |e| {
            matches!(
                e,
                ShapeError::Kind {
                    wanted: "a list",
                    ..
                }
            )
        }),
        ("kind: Config\nusers:\n- 1\n", |e| {
            matches!(e, ShapeError::Kind { .. })
        }),
        ("- a\n- b\n", |e| {
            matches!(
                e,
                ShapeError::Kind {
                    wanted: "a mapping",
                    ..
                }
            )
        }),
        ("kind: Config\n\tusers: []\n", |e| {
            matches!(e, ShapeError::Yaml(_) | ShapeError::Kind { .. })
        }),
        ("\u{0}\u{1}ELF", |e| {
            matches!(e, ShapeError::Yaml(_) | ShapeError::Kind { .. })
        }),
        ("kind: [", |e| matches!(e, ShapeError::Yaml(_))),
        ("? [a, b]\n: c\n", |e| matches!(e, ShapeError::Key(_))),
    ];
    for (text, is_expected) in shapes {
        match added(text) {
            Err(EditError::Shape(error)) => assert!(is_expected(&error), "{text:?}: {error:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn deep_nesting_ends_in_an_error() {
    for open in ["[", "{a: ", "- ", "a:\n"] {
        let text = format!("kind: Config\nx: {}", open.repeat(100_000));
        assert!(matches!(added(&text), Err(EditError::Shape(_))), "{open}");
    }
}

#[test]
fn a_kubeconfig_to_be_pasted_says_what_an_edit_would() {
    let wanted = Wanted {
        context: Some("prod".to_owned()),
        namespace: Some("web".to_owned()),
        ..wanted("prod")
    };
    let mut file = Kubeconfig::read("").unwrap();
    file.add(&wanted).unwrap();
    file.set_current_context("prod").unwrap();
    assert_eq!(whole(&wanted), file.text());
}

/// A file as kubectl writes it: any number of entries under names of any letters.
fn kubectls() -> impl Strategy<Value = String> {
    let name = "[a-zA-Z0-9@:._/-]{1,12}|[ -~äλ]{0,8}";
    let entries = |most| proptest::collection::btree_set(name, 0..most);
    (entries(4), entries(4), entries(4), name).prop_map(|(clusters, contexts, users, current)| {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list = |key: &str, items: String| match items.as_str() {
            "" => format!("{key}: null\n"),
            _ => format!("{key}:\n{items}"),
        };
        let cluster = |name: &String| {
            format!(
                "- cluster:\n    server: https://{}.example.com\n  name: {}\n",
                name.len(),
                quoted(name)
            )
        };
        let context = |name: &String| {
            format!(
                "- context:\n    cluster: {0}\n    user: {0}\n  name: {0}\n",
                quoted(name)
            )
        };
        let user = |name: &String| {
            format!(
                "- name: {}\n  user:\n    token: {}\n",
                quoted(name),
                quoted(name)
            )
        };
        format!(
            "apiVersion: v1\n{}{}current-context: {}\nkind: Config\npreferences: {{}}\n{}",
            list("clusters", clusters.iter().map(cluster).collect()),
            list("contexts", contexts.iter().map(context).collect()),
            quoted(&current),
            list("users", users.iter().map(user).collect()),
        )
    })
}

proptest! {
    #[test]
    fn setup_and_remove_leave_a_file_of_kubectls_making_byte_for_byte(text in kubectls()) {
        let mut file = Kubeconfig::read(&text).unwrap();
        file.add(&wanted("prod")).unwrap();
        prop_assert!(file.knows("prod"));
        let with_ours = file.text().to_owned();
        prop_assert!(contains_lines(&with_ours, &text.replace(": null\n", ":\n")));
        file.add(&wanted("prod")).unwrap();
        prop_assert_eq!(file.text(), &with_ours);
        file.remove("prod").unwrap();
        prop_assert_eq!(file.text(), text);
    }

    #[test]
    fn any_text_is_edited_or_refused_and_the_rest_of_it_means_the_same(text in "[-a-z:#\\[\\]{}&*!|>'\"%@` \t\r\n0-9]{0,200}") {
        let text = format!("kind: Config\nusers: null\n{text}");
        if let Ok(changed) = added(&text) {
            let mut file = Kubeconfig::read(&changed).unwrap();
            prop_assert!(file.knows("prod"));
            file.remove("prod").unwrap();
            let meaning = |text: &str| Node::read(text).unwrap().map(|root| root.meaning());
            prop_assert_eq!(meaning(file.text()), meaning(&text));
        }
    }
}
