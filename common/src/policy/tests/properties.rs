//! What holds for every policy and request.

use super::{EXAMPLE, Request, request, rules};
use crate::{
    key::KeyAlgorithm,
    name::GroupName,
    policy::{Policy, Verdict},
};
use proptest::prelude::*;

/// How much a verdict gives: deny, wait, approve.
fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Deny { .. } => 0,
        Verdict::Wait { .. } => 1,
        Verdict::Approve { .. } => 2,
    }
}

fn ttl(verdict: &Verdict) -> Option<u32> {
    match verdict {
        Verdict::Deny { .. } => None,
        Verdict::Wait { ttl, .. } | Verdict::Approve { ttl, .. } => Some(ttl.as_secs()),
    }
}

fn who() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{ users: [alice] }",
        "{ teams: [payments] }",
        "{ teams: [sre] }",
        "{ users: [bob, carol], teams: [payments] }",
    ])
}

fn pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "a*", "*", "jit:*", "jit:**", "jit:*:x"])
}

/// A rule that grants, without its name.
fn grant() -> impl Strategy<Value = String> {
    let conditions = prop::sample::select(vec![
        "",
        ", reason: { pattern: \"^INC\" }",
        ", maxTTL: 15m",
        ", key: { algorithms: [p384] }",
        ", key: { touch: never }",
        ", hours: { from: \"08:00\", to: \"09:00\", zone: UTC }",
    ]);
    let decision = prop::sample::select(vec!["auto", "auto", "manual, approvals: kubernetes"]);
    (who(), pattern(), pattern(), conditions, decision).prop_map(
        |(who, p, q, conditions, decision)| {
            format!("who: {who}, groups: [\"{p}\", \"{q}\"]{conditions}, decision: {decision}")
        },
    )
}

/// A rule that denies, without its name.
fn deny() -> impl Strategy<Value = String> {
    (prop::option::of(who()), pattern()).prop_map(|(who, p)| {
        let who = who.map_or_else(String::new, |who| format!("who: {who}, "));
        format!("{who}groups: [\"{p}\"], decision: deny")
    })
}

fn any_rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop_oneof![3 => grant(), 1 => deny()], 0..6)
}

fn policy_of(all: &[String]) -> Policy {
    let text: String = all
        .iter()
        .enumerate()
        .map(|(i, rule)| format!("- {{ name: r{i}, {rule} }}\n"))
        .collect();
    rules(if text.is_empty() { "  []" } else { &text })
}

fn any_request() -> impl Strategy<Value = Request> {
    let user = prop::sample::select(vec!["alice", "bob", "carol", "mallory"]);
    let group = prop::sample::select(vec!["a", "b", "ab", "jit:x", "jit:y:x"]);
    let groups = prop::collection::btree_set(group, 1..4);
    let reason = prop::sample::select(vec!["", "INC-1 x"]);
    let algorithm = prop::sample::select(vec![KeyAlgorithm::P256, KeyAlgorithm::P384]);
    (user, groups, reason, algorithm, any::<bool>()).prop_map(
        |(user, groups, reason, algorithm, attested)| {
            let groups: Vec<_> = groups.into_iter().collect();
            request(user, &groups).with(|r| {
                r.reason = reason.into();
                r.algorithm = algorithm;
                if !attested {
                    r.attested = None;
                }
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Policy::parse("p", &bytes);
    }

    #[test]
    fn no_text_panics(text in "(\\PC|[-\n :{}\\[\\]&*!|>\"'#,]){0,200}") {
        let _ = Policy::parse("p", text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_policy_panics(
        at in 0..EXAMPLE.len(),
        cut in 0..40_usize,
        put in "(\\PC|[-\n :{}\\[\\]&*!|>\"'#,]){0,6}",
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, put.bytes());
        if let Err(error) = Policy::parse("p", &bytes) {
            prop_assert!(!error.findings().is_empty());
        }
    }

    #[test]
    fn a_rule_that_denies_never_gives_more(
        all in any_rules(), at in any::<prop::sample::Index>(), more in deny(), request in any_request(),
    ) {
        let before = request.verdict(&policy_of(&all));
        let mut all = all;
        all.insert(at.index(all.len() + 1), more);
        let after = request.verdict(&policy_of(&all));
        prop_assert!(rank(&after) <= rank(&before));
        if rank(&after) > 0 {
            prop_assert_eq!(ttl(&after), ttl(&before));
        }
    }

    #[test]
    fn a_rule_that_grants_never_gives_less(
        all in any_rules(), at in any::<prop::sample::Index>(), more in grant(), request in any_request(),
    ) {
        let before = request.verdict(&policy_of(&all));
        let mut all = all;
        all.insert(at.index(all.len() + 1), more);
        prop_assert!(rank(&request.verdict(&policy_of(&all))) >= rank(&before));
    }

    #[test]
    fn asking_for_fewer_groups_never_gives_less(all in any_rules(), request in any_request()) {
        let policy = policy_of(&all);
        let before = request.verdict(&policy);
        for i in 0..request.groups.len() {
            let fewer = request.clone().with(|r| { r.groups.remove(i); });
            if fewer.groups.is_empty() {
                continue;
            }
            let after = fewer.verdict(&policy);
            prop_assert!(rank(&after) >= rank(&before));
        }
    }

    #[test]
    fn a_request_is_granted_exactly_what_its_groups_are_granted_one_by_one(
        all in any_rules(), request in any_request(),
    ) {
        let policy = policy_of(&all);
        let single = |group: &GroupName| {
            request.clone().with(|r| r.groups = vec![group.clone()]).verdict(&policy)
        };
        let least = request.groups.iter().map(|g| rank(&single(g))).min();
        prop_assert_eq!(Some(rank(&request.verdict(&policy))), least);
    }

    #[test]
    fn the_order_of_the_rules_decides_nothing(all in any_rules(), request in any_request()) {
        let forward = request.verdict(&policy_of(&all));
        let backward: Vec<_> = all.into_iter().rev().collect();
        let backward = request.verdict(&policy_of(&backward));
        prop_assert_eq!((rank(&forward), ttl(&forward)), (rank(&backward), ttl(&backward)));
    }

    #[test]
    fn no_lifetime_is_longer_than_what_was_asked(all in any_rules(), request in any_request(), seconds in 600..86_400_u64) {
        let asked = crate::ttl::Ttl::from_secs(seconds).unwrap();
        let verdict = request.with(|r| r.ttl = Some(asked)).verdict(&policy_of(&all));
        prop_assert!(ttl(&verdict).is_none_or(|ttl| ttl <= asked.as_secs() && ttl <= 3600));
    }

    #[test]
    fn every_denial_says_why_in_a_thousand_characters(all in any_rules(), request in any_request()) {
        let policy = policy_of(&all);
        let facts = request.facts();
        let evaluation = policy.evaluate(&facts);
        if let Verdict::Deny { reasons } = &evaluation.verdict {
            prop_assert!(!reasons.is_empty());
        }
        prop_assert!(evaluation.short().chars().count() <= 1000);
        prop_assert!(!evaluation.long(&policy, &facts).to_string().is_empty());
        for outcome in &evaluation.outcomes {
            prop_assert_eq!(outcome.applies(), outcome.violations(&policy, &facts).is_empty());
        }
    }

    /// No pattern that loads grants a reserved name, were a request to carry one.
    #[test]
    fn no_pattern_that_loads_reaches_a_system_name(
        pattern in "(system|[sytem]|:|\\*|\\*\\*|a){1,8}", tail in "[a-z:]{0,6}",
    ) {
        let text = format!("- {{ name: r, who: {{ users: [alice] }}, groups: [\"{pattern}\"], decision: auto }}");
        let text = format!("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nrules:\n{text}\n");
        if let Ok(policy) = Policy::parse("p", text.as_bytes()) {
            let name = format!("system:{tail}");
            prop_assert!(!policy.rules()[0].speaks_of(&name));
        }
    }
}
