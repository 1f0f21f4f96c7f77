//! What an explanation names.

use super::*;

#[test]
fn an_explanation_names_everything_that_stands_in_the_way() {
    let bench = Bench::new();
    let mut case = bench.case();
    case.draft.groups = vec![GroupName::parse("other").unwrap()];
    case.draft.claims.cluster = ClusterName::parse("staging").unwrap();
    case.draft.claims.issued_at = shifted(-3600);
    case.username = "bob".into();
    case.usages.clear();
    case.expiration_seconds = None;
    let explanation = bench.explain(&case);
    let reasons: Vec<_> = explanation.objections.iter().map(|o| o.reason).collect();
    assert_eq!(
        reasons,
        [
            "InvalidUsages",
            "InvalidLifetime",
            "WrongCluster",
            "NotFresh",
            "WrongCreator"
        ]
    );
    assert_eq!(explanation.verdict(), "deny");
    let long = explanation.rules.unwrap().long;
    assert!(long.contains("in YubiKey 12345678 slot 9a"), "{long}");
}

#[test]
fn an_explanation_agrees_with_the_review() {
    let bench = Bench::new();
    for (group, verdict) in [("oncall", "approve"), ("read", "wait"), ("other", "deny")] {
        let mut case = bench.case();
        case.draft.groups = vec![GroupName::parse(group).unwrap()];
        let explanation = bench.explain(&case);
        assert_eq!(explanation.verdict(), verdict);
        assert!(explanation.objections.is_empty());
        let reviewed = match bench.try_review(&case).unwrap() {
            Review::Approve(_) => "approve",
            Review::Deny(_) => "deny",
            Review::Wait(_) => "wait",
        };
        assert_eq!(reviewed, verdict);
    }
    let mut stranger = bench.case();
    stranger.username = "bob".into();
    assert_eq!(
        bench.explain(&stranger).verdict(),
        "deny",
        "whatever the rules say"
    );
}
