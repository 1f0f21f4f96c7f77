//! What is granted, waits and is denied.

use super::{Request, Verdict, attested, policy, request, rules};
use crate::{
    attestation::{Firmware, PinPolicy, Slot, TouchPolicy},
    key::KeyAlgorithm,
    name::{ClusterName, GroupName, UserName},
    policy::{Policy, Stage, Tie},
    ttl::Ttl,
};

const A_FOR_PAYMENTS: &str =
    "- { name: r, who: { teams: [payments] }, groups: [a], decision: auto }\n";

fn with_key(condition: &str) -> Policy {
    rules(&format!(
        "- {{ name: r, who: {{ users: [alice] }}, groups: [a], decision: auto, key: {condition} }}"
    ))
}

fn firmware(major: u8, minor: u8, patch: u8) -> Firmware {
    Firmware {
        major,
        minor,
        patch,
    }
}

fn alice_with(change: impl FnOnce(&mut crate::attestation::Attested)) -> Request {
    let mut key = attested();
    change(&mut key);
    request("alice", &["a"]).with(|r| r.attested = Some(key))
}

#[test]
fn what_no_rule_grants_is_denied() {
    let policy = rules(A_FOR_PAYMENTS);
    assert_eq!(request("alice", &["a"]).outcome(&policy), "approve 30m");
    assert_eq!(request("alice", &["b"]).outcome(&policy), "deny");
    assert_eq!(request("bob", &["a"]).outcome(&policy), "deny");
    assert_eq!(request("carol", &["a"]).outcome(&policy), "deny");
    assert_eq!(request("mallory", &["a"]).outcome(&policy), "deny");
    assert_eq!(request("alice", &["a"]).outcome(&rules("  []")), "deny");
}

#[test]
fn every_group_of_a_request_must_be_granted() {
    let policy = rules(A_FOR_PAYMENTS);
    assert_eq!(request("alice", &["a", "b"]).outcome(&policy), "deny");
    assert_eq!(request("alice", &[]).outcome(&policy), "deny");
}

#[test]
fn a_rule_is_for_anyone_named_or_in_a_team_or_in_a_kubernetes_group() {
    let policy = rules(
        "- { name: r, who: { users: [carol], teams: [sre], groups: [\"oidc:leads\"] }, groups: [a], decision: auto }",
    );
    assert_eq!(request("carol", &["a"]).outcome(&policy), "approve 30m");
    assert_eq!(request("bob", &["a"]).outcome(&policy), "approve 30m");
    let alice = request("alice", &["a"]);
    assert_eq!(alice.outcome(&policy), "deny");
    let lead = alice.with(|r| r.kubernetes_groups = vec!["x".into(), "oidc:leads".into()]);
    assert_eq!(lead.outcome(&policy), "approve 30m");
}

#[test]
fn a_kubernetes_group_does_not_make_a_stranger_a_user() {
    let policy = rules("- { name: r, who: { groups: [leads] }, groups: [a], decision: auto }");
    let stranger = request("mallory", &["a"]).with(|r| r.kubernetes_groups = vec!["leads".into()]);
    assert_eq!(stranger.outcome(&policy), "deny");
}

#[test]
fn a_template_grants_its_namespaces_and_no_others() {
    let policy = rules(
        "- { name: on call, who: { teams: [payments] }, groups: [\"jit:oncall:{namespace}\"], namespaces: [payments, \"team-*\"], decision: auto }
- { name: not that one, groups: [\"jit:oncall:{namespace}\"], namespaces: [\"team-legacy*\"], decision: deny }",
    );
    for (group, outcome) in [
        ("jit:oncall:payments", "approve 30m"),
        ("jit:oncall:team-a", "approve 30m"),
        ("jit:oncall:team-legacy", "deny"),
        ("jit:oncall:billing", "deny"),
        ("jit:oncall:kube-system", "deny"),
        ("jit:oncall:team-", "deny"),
        ("jit:oncall:Team-a", "deny"),
        ("jit:oncall:team-a:admin", "deny"),
    ] {
        assert_eq!(
            request("alice", &[group]).outcome(&policy),
            outcome,
            "{group}"
        );
    }
    let both = ["jit:oncall:payments", "jit:oncall:billing"];
    assert_eq!(request("alice", &both).outcome(&policy), "deny");
    assert_eq!(
        request("bob", &["jit:oncall:payments"]).outcome(&policy),
        "deny"
    );
}

#[test]
fn a_rule_that_denies_wins_wherever_it_stands() {
    let deny = "- { name: no, groups: [\"a*\"], decision: deny }\n";
    for both in [
        format!("{A_FOR_PAYMENTS}{deny}"),
        format!("{deny}{A_FOR_PAYMENTS}"),
    ] {
        assert_eq!(request("alice", &["a"]).outcome(&rules(&both)), "deny");
    }
}

#[test]
fn a_rule_that_denies_is_only_for_whom_and_when_it_says() {
    let policy = rules(&format!(
        "{A_FOR_PAYMENTS}- {{ name: no, who: {{ teams: [sre] }}, groups: [a], decision: deny }}\n\
         - {{ name: night, groups: [a], hours: {{ from: \"20:00\", to: \"08:00\", zone: UTC }}, decision: deny }}\n"
    ));
    let alice = request("alice", &["a"]);
    assert_eq!(alice.outcome(&policy), "approve 30m");
    let at_night = alice.with(|r| r.now = "2026-07-01T22:00:00Z".parse().unwrap());
    assert_eq!(at_night.outcome(&policy), "deny");
}

#[test]
fn the_lifetime_is_the_least_of_rule_request_and_defaults() {
    let of = |policy: &Policy, groups: &[&str], ttl: Option<&str>| {
        request("alice", groups)
            .with(|r| r.ttl = ttl.map(|t| t.parse().unwrap()))
            .outcome(policy)
    };
    let policy = rules(
        "- { name: short, who: { users: [alice] }, groups: [a], maxTTL: 15m, decision: auto }
- { name: any, who: { users: [alice] }, groups: [b], decision: auto }",
    );
    assert_eq!(of(&policy, &["a"], None), "approve 15m");
    assert_eq!(of(&policy, &["a"], Some("10m")), "approve 10m");
    assert_eq!(of(&policy, &["a"], Some("24h")), "approve 15m");
    assert_eq!(of(&policy, &["b"], None), "approve 30m", "the default");
    assert_eq!(
        of(&policy, &["b"], Some("24h")),
        "approve 1h",
        "the default maxTTL"
    );
    assert_eq!(of(&policy, &["a", "b"], Some("24h")), "approve 15m");
}

#[test]
fn of_two_rules_that_grant_a_group_the_longer_lifetime_counts() {
    let policy = rules(
        "- { name: short, who: { users: [alice] }, groups: [a], maxTTL: 15m, decision: auto }
- { name: long, who: { users: [alice] }, groups: [a], maxTTL: 45m, decision: auto }
- { name: same, who: { users: [alice] }, groups: [a], maxTTL: 45m, decision: auto }",
    );
    let request = request("alice", &["a"]).with(|r| r.ttl = Some(Ttl::MAX));
    let Verdict::Approve { ttl, rules } = request.verdict(&policy) else {
        panic!("not approved");
    };
    assert_eq!((ttl.to_string().as_str(), &*rules[0]), ("45m", "long"));
}

#[test]
fn a_group_that_only_a_manual_rule_grants_makes_the_request_wait() {
    let policy = rules(
        "- { name: auto, who: { users: [alice] }, groups: [a, b], decision: auto }
- name: asked
  who: { users: [alice] }
  groups: [b, c]
  maxTTL: 20m
  decision: manual
  approvals: [{ from: { teams: [sre] }, count: 2 }, { from: { users: [carol] } }]",
    );
    assert_eq!(
        request("alice", &["a", "b"]).outcome(&policy),
        "approve 30m"
    );
    let Verdict::Wait {
        ttl,
        rules,
        stages,
        wait_for,
    } = request("alice", &["a", "c"]).verdict(&policy)
    else {
        panic!("does not wait");
    };
    assert_eq!(
        (ttl.to_string(), wait_for.to_string()),
        ("20m".into(), "1h".into())
    );
    assert_eq!(
        rules.iter().map(|r| &**r).collect::<Vec<_>>(),
        ["auto", "asked"]
    );
    assert_eq!(
        stages,
        [
            Stage::Approvers {
                count: 2,
                users: vec![],
                teams: vec!["sre".into()]
            },
            Stage::Approvers {
                count: 1,
                users: vec!["carol".into()],
                teams: vec![]
            },
        ]
    );
}

#[test]
fn a_manual_rule_whose_conditions_fail_does_not_even_wait() {
    let policy = rules(
        "- { name: m, who: { users: [alice] }, groups: [a], reason: { minLength: 100 }, decision: manual, approvals: kubernetes }",
    );
    assert_eq!(request("alice", &["a"]).outcome(&policy), "deny");
}

#[test]
fn the_reason_must_match_and_be_long_enough() {
    let policy = rules(
        "- { name: r, who: { users: [alice] }, groups: [a], reason: { pattern: \"^INC-[0-9]+ \", minLength: 12 }, decision: auto }",
    );
    let of = |reason: &str| {
        request("alice", &["a"])
            .with(|r| r.reason = reason.into())
            .outcome(&policy)
    };
    assert_eq!(of("INC-4211 checkout"), "approve 30m");
    assert_eq!(of("INC-1 grün äöü"), "approve 30m", "characters, not bytes");
    for reason in [
        "",
        "INC-4211 abc",
        "see INC-4211 checkout",
        "INC-x checkout latency",
    ] {
        let expected = if reason == "INC-4211 abc" {
            "approve 30m"
        } else {
            "deny"
        };
        assert_eq!(of(reason), expected, "{reason}");
    }
    assert_eq!(of("INC-4211 ab"), "deny", "eleven characters");
}

#[test]
fn hours_follow_the_wall_clock_of_the_zone() {
    let policy = rules(
        "- { name: r, who: { users: [alice] }, groups: [a], hours: { days: [wed], from: \"08:00\", to: \"20:00\", zone: Europe/Berlin }, decision: auto }",
    );
    let at = |now: &str| {
        request("alice", &["a"])
            .with(|r| r.now = now.parse().unwrap())
            .outcome(&policy)
    };
    assert_eq!(at("2026-07-01T06:00:00Z"), "approve 30m", "08:00 in summer");
    assert_eq!(at("2026-01-07T06:30:00Z"), "deny", "07:30 in winter");
    assert_eq!(at("2026-07-02T10:00:00Z"), "deny", "a Thursday");
}

#[test]
fn a_request_for_another_cluster_is_denied() {
    let policy = rules(
        "- { name: here, who: { users: [alice] }, groups: [a], clusters: [\"pro*\"], decision: auto }
- { name: elsewhere, who: { users: [alice] }, groups: [b], clusters: [staging], decision: auto }",
    );
    assert_eq!(request("alice", &["a"]).outcome(&policy), "approve 30m");
    assert_eq!(request("alice", &["b"]).outcome(&policy), "deny");
    for other in ["staging", "Prod", "pro"] {
        let elsewhere =
            request("alice", &["a"]).with(|r| r.cluster = ClusterName::parse(other).unwrap());
        assert_eq!(elsewhere.outcome(&policy), "deny", "{other}");
    }
}

#[test]
fn a_key_without_attestation_gets_nothing_unless_the_rule_says_so() {
    let bare = request("alice", &["a"]).with(|r| r.attested = None);
    assert_eq!(bare.outcome(&rules(A_FOR_PAYMENTS)), "deny");
    assert_eq!(bare.outcome(&with_key("{ algorithms: [p256] }")), "deny");
    assert_eq!(
        bare.outcome(&with_key("{ attested: false }")),
        "approve 30m"
    );
    assert_eq!(
        bare.outcome(&with_key("{ attested: false, algorithms: [ed25519] }")),
        "deny"
    );
}

#[test]
fn a_key_that_is_not_enrolled_gets_nothing_unless_the_rule_says_so_and_kubernetes_says_who_asks() {
    let bare = |tie| {
        request("alice", &["a"]).with(|r| {
            r.attested = None;
            r.tie = tie;
        })
    };
    let any = with_key("{ attested: false, enrolled: false }");
    assert_eq!(bare(Tie::Creator).outcome(&any), "approve 30m");
    assert_eq!(bare(Tie::Nothing).outcome(&any), "deny");
    for key in ["{ attested: false }", "{ attested: false, enrolled: true }"] {
        assert_eq!(bare(Tie::Creator).outcome(&with_key(key)), "deny", "{key}");
        assert_eq!(
            bare(Tie::Enrolled).outcome(&with_key(key)),
            "approve 30m",
            "{key}"
        );
    }
    // An attestation is no enrolment.
    let strange = request("alice", &["a"]).with(|r| r.tie = Tie::Creator);
    assert_eq!(strange.outcome(&rules(A_FOR_PAYMENTS)), "deny");
}

#[test]
fn only_another_name_that_the_policy_lists_says_who_asks() {
    let policy = rules(A_FOR_PAYMENTS);
    let alice = UserName::parse("alice").unwrap();
    assert!(policy.lists("oidc:alice", &alice));
    for creator in ["alice", "bob", "oidc:bob", ""] {
        assert!(!policy.lists(creator, &alice), "{creator:?}");
    }
    assert!(!policy.lists("oidc:alice", &UserName::parse("bob").unwrap()));
}

#[test]
fn touch_and_pin_may_be_stricter_than_asked_and_never_weaker() {
    let never_touch = alice_with(|k| k.touch_policy = TouchPolicy::Never);
    let cached = alice_with(|k| k.touch_policy = TouchPolicy::Cached);
    assert_eq!(cached.outcome(&rules(A_FOR_PAYMENTS)), "deny");
    assert_eq!(
        cached.outcome(&with_key("{ touch: cached }")),
        "approve 30m"
    );
    assert_eq!(never_touch.outcome(&with_key("{ touch: cached }")), "deny");
    assert_eq!(
        never_touch.outcome(&with_key("{ touch: never }")),
        "approve 30m"
    );
    assert_eq!(
        request("alice", &["a"]).outcome(&with_key("{ touch: cached }")),
        "approve 30m"
    );

    let pin = |policy| alice_with(|k| k.pin_policy = policy);
    assert_eq!(
        pin(PinPolicy::Never).outcome(&rules(A_FOR_PAYMENTS)),
        "deny"
    );
    assert_eq!(
        pin(PinPolicy::Once).outcome(&with_key("{ pin: always }")),
        "deny"
    );
    assert_eq!(
        pin(PinPolicy::MatchAlways).outcome(&with_key("{ pin: always }")),
        "approve 30m"
    );
    assert_eq!(
        pin(PinPolicy::MatchOnce).outcome(&rules(A_FOR_PAYMENTS)),
        "approve 30m"
    );
    assert_eq!(
        pin(PinPolicy::Never).outcome(&with_key("{ pin: never }")),
        "approve 30m"
    );
}

#[test]
fn elliptic_curve_keys_on_firmware_that_can_be_cloned_are_denied_by_default() {
    let old = |algorithm| {
        alice_with(|k| k.firmware = firmware(5, 6, 9)).with(|r| r.algorithm = algorithm)
    };
    let policy = rules(A_FOR_PAYMENTS);
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ] {
        assert_eq!(old(algorithm).outcome(&policy), "deny");
    }
    assert_eq!(
        old(KeyAlgorithm::Rsa { bits: 2048 }).outcome(&policy),
        "approve 30m"
    );
    assert_eq!(
        old(KeyAlgorithm::P256).outcome(&with_key("{ minFirmware: \"5.4.0\" }")),
        "approve 30m"
    );
    let exactly = alice_with(|k| k.firmware = firmware(5, 7, 0));
    assert_eq!(exactly.outcome(&policy), "approve 30m");
}

#[test]
fn a_firmware_that_a_policy_names_holds_for_every_kind_of_key() {
    let rsa = alice_with(|k| k.firmware = firmware(5, 7, 3))
        .with(|r| r.algorithm = KeyAlgorithm::Rsa { bits: 2048 });
    assert_eq!(rsa.outcome(&with_key("{ minFirmware: \"5.7.4\" }")), "deny");
    assert_eq!(
        rsa.outcome(&with_key("{ minFirmware: \"5.7.3\" }")),
        "approve 30m"
    );
    let ten = alice_with(|k| k.firmware = firmware(5, 10, 0));
    assert_eq!(
        ten.outcome(&with_key("{ minFirmware: \"5.9.0\" }")),
        "approve 30m"
    );
}

#[test]
fn slots_and_algorithms_are_those_that_are_named() {
    let policy = with_key("{ slots: [\"9c\", \"82\"], algorithms: [p256, rsa2048] }");
    let slot = |n| alice_with(|k| k.slot = Slot::new(n).unwrap());
    assert_eq!(slot(0x9a).outcome(&policy), "deny");
    assert_eq!(slot(0x82).outcome(&policy), "approve 30m");
    let p384 = slot(0x9c).with(|r| r.algorithm = KeyAlgorithm::P384);
    assert_eq!(p384.outcome(&policy), "deny");
}

#[test]
fn a_rule_takes_from_the_defaults_what_it_does_not_say() {
    let policy = policy(
        "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: { key: { touch: cached, slots: [\"9a\"] } }
users: [{ name: alice, keys: [{ serial: 1 }] }]
rules: [{ name: r, who: { users: [alice] }, groups: [a], key: { pin: always }, decision: auto }]",
    );
    let key = |pin, slot| {
        alice_with(|k| {
            k.touch_policy = TouchPolicy::Cached;
            k.pin_policy = pin;
            k.slot = Slot::new(slot).unwrap();
        })
    };
    assert_eq!(key(PinPolicy::Always, 0x9a).outcome(&policy), "approve 30m");
    assert_eq!(key(PinPolicy::Once, 0x9a).outcome(&policy), "deny");
    assert_eq!(key(PinPolicy::Always, 0x9c).outcome(&policy), "deny");
}

#[test]
fn a_user_may_be_spoken_for_by_the_names_that_the_policy_maps() {
    let policy = rules(A_FOR_PAYMENTS);
    let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|n| request(n, &["a"]).user);
    assert!(policy.speaks_for("alice", &alice));
    assert!(policy.speaks_for("oidc:alice", &alice));
    assert!(!policy.speaks_for("oidc:alice", &bob));
    assert!(!policy.speaks_for("bob", &alice));
    assert!(!policy.speaks_for("ALICE", &alice));
    assert!(!policy.speaks_for("mallory", &mallory), "not a user");
}

#[test]
fn a_key_is_enrolled_by_serial_and_where_given_by_its_hash() {
    let hash = "ab".repeat(32);
    let policy = policy(&format!(
        "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- {{ name: alice, keys: [{{ serial: 1 }}, {{ serial: 2, spki: \"sha256:{hash}\" }}] }}
- {{ name: bob, keys: [{{ spki: \"sha256:{hash}\" }}] }}"
    ));
    let user = |name: &str| policy.user(&request(name, &["a"]).user).unwrap();
    let (ab, other) = ([0xab; 32], [0xcd; 32]);
    assert!(user("alice").has_enrolled(Some(1), &other));
    assert!(user("alice").has_enrolled(Some(2), &ab));
    assert!(!user("alice").has_enrolled(Some(2), &other));
    assert!(!user("alice").has_enrolled(Some(3), &ab));
    assert!(
        !user("alice").has_enrolled(None, &ab),
        "no proof of the YubiKey"
    );
    assert!(user("bob").has_enrolled(None, &ab));
    assert!(user("bob").has_enrolled(Some(9), &ab));
    assert!(!user("bob").has_enrolled(None, &other));
}

#[test]
fn more_groups_than_a_certificate_may_carry_are_denied() {
    let policy = rules("- { name: r, who: { users: [alice] }, groups: [\"*\"], decision: auto }");
    let many = |n: usize| {
        let names: Vec<_> = (0..n)
            .map(|i| GroupName::parse(&format!("g{i}")).unwrap())
            .collect();
        request("alice", &[]).with(|r| r.groups = names)
    };
    assert_eq!(many(32).outcome(&policy), "approve 30m");
    assert_eq!(many(33).outcome(&policy), "deny");
}

#[test]
fn the_same_policy_and_request_give_the_same_evaluation() {
    let policy = rules(A_FOR_PAYMENTS);
    let request = request("alice", &["a", "b"]);
    assert_eq!(
        policy.evaluate(&request.facts()),
        policy.evaluate(&request.facts())
    );
}
