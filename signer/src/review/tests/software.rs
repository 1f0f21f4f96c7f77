//! Keys that nobody enrolled and no YubiKey vouches for, where a rule takes any key.

use super::*;

/// The policy of the other tests, and a rule that takes any key for `scratch`.
fn bench() -> Bench {
    let rule = "- { name: scratch, who: { teams: [payments] }, groups: [scratch, \"dev-*\"], maxTTL: 15m, decision: auto, \
                key: { attested: false, enrolled: false } }\n";
    Bench::with(&format!("{POLICY}{rule}"), GOOD)
}

/// Alice, as her OIDC provider says, with a key that was made for this login.
fn software(case: &mut Case) {
    case.username = "oidc:alice".into();
    case.draft.evidence = None;
    case.draft.claims.read_token_sha256 = None;
    groups(case, &["scratch"]);
}

fn groups(case: &mut Case, names: &[&str]) {
    let names = names.iter().map(|name| GroupName::parse(name).unwrap());
    case.draft.groups = names.collect();
}

#[test]
fn any_key_is_granted_what_a_rule_grants_to_any_key() {
    let intent = bench().approves(software);
    assert_eq!(intent.key_serial(), None);
    assert_eq!(intent.ttl(), "15m".parse().unwrap());
}

#[test]
fn a_rule_that_asks_for_enrolled_keys_grants_nothing_to_another_key() {
    let bench = bench();
    let denial = bench.denial(|case| {
        software(case);
        groups(case, &["oncall"]);
    });
    assert_eq!(denial.reason, "DeniedByPolicy");
    assert!(denial.message.contains("must be enrolled"), "{denial:?}");
    // `attested: false` alone still means a key that a pull request enrolled.
    let unattested = POLICY.replace(
        "groups: [oncall]",
        "groups: [oncall], key: { attested: false }",
    );
    let denial = Bench::with(&unattested, GOOD).denial(|case| {
        software(case);
        groups(case, &["oncall"]);
    });
    assert_eq!(denial.reason, "KeyNotEnrolled");
}

#[test]
fn a_rule_for_any_key_does_not_loosen_the_rule_of_another_group() {
    let bench = bench();
    for names in [["oncall", "scratch"], ["read", "scratch"]] {
        let denial = bench.denial(|case| {
            software(case);
            groups(case, &names);
        });
        assert_eq!(denial.reason, "DeniedByPolicy", "{names:?}");
    }
    // Nor does a YubiKey that nobody enrolled get more than a key in memory.
    let denial = bench.denial(|case| {
        case.username = "bob-at-home".into();
        case.draft.user = UserName::parse("bob").unwrap();
    });
    assert_eq!(denial.reason, "WrongCreator");
}

#[test]
fn who_is_not_the_user_gets_nothing_with_any_key() {
    let bench = bench();
    for creator in [
        "bob",
        "oidc:bob",
        "OIDC:alice",
        "oidc:alice ",
        "mallory",
        "",
        "system:anonymous",
        "system:serviceaccount:default:alice",
    ] {
        let denial = bench.denial(|case| {
            software(case);
            case.username = creator.into();
        });
        assert_eq!(denial.reason, "WrongCreator", "{creator:?}");
    }
    let denial = bench.denial(|case| {
        software(case);
        case.draft.user = UserName::parse("bob").unwrap();
    });
    assert_eq!(denial.reason, "WrongCreator");
}

/// The embedded API writes the user's own name on what came by a key alone, and a certificate that this signer issued
/// authenticates under it too: with either, a stolen certificate would renew itself for ever.
#[test]
fn the_users_own_name_is_no_proof_of_who_asks() {
    let denial = bench().denial(|case| {
        software(case);
        case.username = "alice".into();
    });
    assert_eq!(denial.reason, "KeyNotEnrolled");
    assert!(denial.message.contains("usernames"), "{denial:?}");
    // Listing it changes nothing.
    let listed = POLICY.replace("\"oidc:alice\"", "alice");
    let rule = "- { name: s, who: { teams: [payments] }, groups: [scratch], decision: auto, key: { attested: false, enrolled: false } }\n";
    let denial = Bench::with(&format!("{listed}{rule}"), GOOD).denial(|case| {
        software(case);
        case.username = "alice".into();
    });
    assert_eq!(denial.reason, "KeyNotEnrolled");
}

#[test]
fn the_front_door_takes_no_key_that_nobody_enrolled_whatever_the_policy_says() {
    let bench = bench();
    let mut case = bench.case();
    software(&mut case);
    case.draft.claims.read_token_sha256 = Some([9; 32]);
    assert_eq!(bench.admit(&case).unwrap_err().reason, "KeyNotEnrolled");
}

#[test]
fn evidence_that_does_not_verify_is_not_taken_for_none() {
    let bench = bench();
    let other = YubiKey::new(GOOD);
    let denial = bench.denial(|case| {
        software(case);
        case.draft.evidence = Some(other.evidence);
    });
    assert_eq!(denial.reason, "InvalidEvidence");
}

#[test]
fn an_enrolled_yubikey_gets_what_any_key_gets() {
    let intent = bench().approves(|case| groups(case, &["scratch", "oncall"]));
    assert_eq!(intent.key_serial(), Some(12_345_678));
}

#[test]
fn an_explanation_says_what_ties_the_key_to_who_asks() {
    let bench = bench();
    let mut case = bench.case();
    software(&mut case);
    groups(&mut case, &["oncall"]);
    let explanation = bench.explain(&case);
    assert_eq!(explanation.verdict(), "deny");
    assert!(explanation.objections.is_empty());
    let long = explanation.rules.unwrap().long;
    assert!(
        long.contains("no attestation, not enrolled; Kubernetes says who asks"),
        "{long}"
    );
    assert!(long.contains("key.enrolled"), "{long}");
    case.username = "alice".into();
    let explanation = bench.explain(&case);
    assert_eq!(explanation.objections[0].reason, "KeyNotEnrolled");
    let long = explanation.rules.unwrap().long;
    assert!(long.contains("no attestation, not enrolled\n"), "{long}");
}
