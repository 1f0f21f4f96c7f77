//! Requests that kube-controller-manager would sign as they are.

use super::*;
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

const RULES: &str = r#"
- { name: short, who: { teams: [payments] }, groups: [short], maxTTL: 10m, decision: auto }
- { name: bound, who: { teams: [payments] }, groups: [bound], decision: auto, binding: { perGrant: { role: debug, namespaces: [shop] } } }
- { name: bare, who: { teams: [payments] }, groups: [bare], decision: manual, approvals: kubernetes }
"#;

fn bench() -> Bench {
    Bench::with(&format!("{}{}", POLICY.trim_end(), RULES.trim_end()), GOOD)
}

fn asked(case: &mut Case, group: &str) {
    case.signer_name = KUBE_APISERVER_CLIENT;
    case.draft.groups = vec![GroupName::parse(group).unwrap()];
}

#[test]
fn what_the_policy_grants_as_it_is_asked_for_is_approved() {
    let intent = bench().approves(|case| asked(case, "oncall"));
    assert_eq!(intent.ttl(), "30m".parse().unwrap());
    assert!(matches!(
        bench().review(|case| asked(case, "read")),
        Review::Wait(_)
    ));
}

#[test]
fn what_would_have_to_be_cut_or_added_to_is_denied_and_told_what_to_do() {
    for (group, said) in [
        ("short", "ask with --ttl 10m"),
        ("bound", "ask another signer"),
        ("bare", "has approvers sign instead"),
    ] {
        let denial = bench().denial(|case| asked(case, group));
        assert_eq!(denial.reason, "NotSignedByCluster", "{denial:?}");
        assert!(denial.message.contains(said), "{denial:?}");
        // Touchstone's own CA can.
        let own = bench().review(|case| {
            asked(case, group);
            case.signer_name = "touchstone.dev/client";
        });
        assert!(!matches!(own, Review::Deny(_)), "{group}: {own:?}");
    }
}

#[test]
fn what_the_policy_denies_is_denied_in_its_words() {
    let denial = bench().denial(|case| asked(case, "others"));
    assert_eq!(denial.reason, "DeniedByPolicy");
}
