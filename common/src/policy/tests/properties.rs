//! What holds for every policy and request.

mod model;

use super::{EXAMPLE, Request, request, rules};
use crate::{
    key::KeyAlgorithm,
    name::GroupName,
    policy::{Decision, Policy, Tie, Verdict},
};
use model::Model;
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

/// A rule that grants, without its name.
fn grant() -> impl Strategy<Value = Model> {
    let decision = prop::sample::select(vec![Decision::Auto, Decision::Auto, Decision::Manual]);
    let who = prop::sample::select(model::WHO[1..].to_vec());
    let parts = (
        who,
        pattern(),
        pattern(),
        0..model::CONDITIONS.len(),
        decision,
    );
    parts.prop_map(|(who, p, q, condition, decision)| Model {
        who,
        patterns: vec![p, q],
        condition,
        decision,
    })
}

/// A rule that denies, without its name.
fn deny() -> impl Strategy<Value = Model> {
    let who = prop::sample::select(model::WHO.to_vec());
    // Conditions of hours and clusters only: a rule that denies takes no others.
    let condition = prop::sample::select(vec![0, 0, model::NIGHT, model::OTHER_CLUSTER]);
    (who, pattern(), condition).prop_map(|(who, p, condition)| Model {
        who,
        patterns: vec![p],
        condition,
        decision: Decision::Deny,
    })
}

fn pattern() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        model::PATTERNS
            .iter()
            .map(|(text, _)| *text)
            .collect::<Vec<_>>(),
    )
}

fn any_rules() -> impl Strategy<Value = Vec<Model>> {
    prop::collection::vec(prop_oneof![3 => grant(), 1 => deny()], 0..6)
}

fn policy_of(all: &[Model]) -> Policy {
    let text: String = all
        .iter()
        .enumerate()
        .map(|(i, rule)| format!("- {{ name: r{i}, {rule} }}\n"))
        .collect();
    rules(if text.is_empty() { "  []" } else { &text })
}

fn any_request() -> impl Strategy<Value = Request> {
    let user = prop::sample::select(vec!["alice", "bob", "carol", "mallory"]);
    let group = prop::sample::select(model::GROUPS.to_vec());
    let groups = prop::collection::btree_set(group, 1..4);
    let reason = prop::sample::select(vec!["", "INC-1 x"]);
    let algorithm = prop::sample::select(vec![KeyAlgorithm::P256, KeyAlgorithm::P384]);
    let leads = any::<bool>();
    let ttl = prop::option::of(600..7200_u64);
    let hour = 0..24_u8;
    let tie = prop::sample::select(vec![
        Tie::Enrolled,
        Tie::Enrolled,
        Tie::Creator,
        Tie::Nothing,
    ]);
    let key = (algorithm, any::<bool>(), tie);
    (user, groups, reason, key, leads, ttl, hour).prop_map(
        |(user, groups, reason, (algorithm, attested, tie), leads, ttl, hour)| {
            let groups: Vec<_> = groups.into_iter().collect();
            request(user, &groups).with(|r| {
                r.reason = reason.into();
                r.algorithm = algorithm;
                r.tie = tie;
                r.now = format!("2026-07-01T{hour:02}:30:00Z").parse().unwrap();
                r.ttl = ttl.map(|seconds| crate::ttl::Ttl::from_secs(seconds).unwrap());
                if leads {
                    r.kubernetes_groups = vec!["leads".into()];
                }
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

    /// What a policy answers, held against the plain reading of its rules.
    #[test]
    fn the_verdict_is_the_one_that_the_rules_say(all in any_rules(), request in any_request()) {
        let verdict = request.verdict(&policy_of(&all));
        let plain = model::judge(&all, &request);
        prop_assert_eq!((rank(&verdict), ttl(&verdict)), plain);
    }

    #[test]
    fn the_rules_that_are_not_looked_at_would_change_nothing(all in any_rules(), request in any_request()) {
        let policy = policy_of(&all);
        let facts = request.facts();
        let (quick, whole) = (policy.evaluate(&facts), policy.evaluate_by_every_rule(&facts));
        prop_assert_eq!(&quick.verdict, &whole.verdict);
        prop_assert_eq!(whole.outcomes.len(), all.len());
        for outcome in &quick.outcomes {
            prop_assert_eq!(outcome, &whole.outcomes[outcome.rule()]);
        }
    }

    /// The explanation's outcomes and violations, and nothing else, lead to the verdict.
    #[test]
    fn the_explanation_and_the_verdict_never_disagree(all in any_rules(), request in any_request()) {
        let policy = policy_of(&all);
        let facts = request.facts();
        let evaluation = policy.evaluate_by_every_rule(&facts);
        let (mut least, mut denies) = (2, false);
        for i in 0..request.groups.len() {
            let holding = |decision| {
                evaluation.outcomes.iter().any(|outcome| {
                    policy.rules()[outcome.rule()].decision() == decision
                        && outcome.speaks_of(i)
                        && outcome.violations(&policy, &facts).is_empty()
                })
            };
            denies |= holding(Decision::Deny);
            least = least.min(if holding(Decision::Auto) { 2 } else { u8::from(holding(Decision::Manual)) });
        }
        let known = policy.user(facts.user).is_some();
        prop_assert_eq!(rank(&evaluation.verdict), if denies || !known { 0 } else { least });
        let first = evaluation.short();
        let word = ["denied: ", "waiting for ", "granted for "][usize::from(rank(&evaluation.verdict))];
        prop_assert!(first.starts_with(word), "{}", first);
        let long = evaluation.long(&policy, &facts).to_string();
        prop_assert_eq!(long.lines().next(), first.lines().next());
        for (i, outcome) in evaluation.outcomes.iter().enumerate() {
            let speaks = (0..request.groups.len()).any(|group| outcome.speaks_of(group));
            prop_assert!(speaks || !outcome.applies());
            let line = format!("  r{i} ({}): {}\n", all[i].decision, if outcome.applies() { "applies" } else { "does not apply" });
            prop_assert!(long.contains(&line), "{}\n{}", line, long);
        }
    }

    #[test]
    fn the_order_of_the_groups_decides_nothing(
        all in any_rules(), request in any_request(), turn in any::<prop::sample::Index>(),
    ) {
        let policy = policy_of(&all);
        let turned = request.clone().with(|r| {
            let by = turn.index(r.groups.len());
            r.groups.rotate_left(by);
        });
        let (one, other) = (request.verdict(&policy), turned.verdict(&policy));
        match (one, other) {
            (Verdict::Deny { reasons: mut a }, Verdict::Deny { reasons: mut b }) => {
                a.sort_unstable();
                b.sort_unstable();
                prop_assert_eq!(a, b);
            }
            (one, other) => prop_assert_eq!(one, other),
        }
    }

    #[test]
    fn a_policy_without_a_user_gives_nobody_more(
        all in any_rules(), request in any_request(), gone in prop::sample::select(vec!["alice", "bob", "carol"]),
    ) {
        let text: String = all.iter().enumerate().map(|(i, rule)| format!("- {{ name: r{i}, {rule} }}\n")).collect();
        let text = if text.is_empty() { "  []".to_owned() } else { text };
        let (before, after) = (rules(&text), super::rules_without(gone, &text));
        prop_assert!(after.user(&gone.parse().unwrap()).is_none());
        let (had, has) = (request.verdict(&before), request.verdict(&after));
        if request.user.as_str() == gone {
            prop_assert_eq!(rank(&has), 0);
        } else {
            prop_assert_eq!((rank(&has), ttl(&has)), (rank(&had), ttl(&had)));
        }
        let creator = format!("oidc:{gone}");
        prop_assert!(!after.speaks_for(&creator, &request.user));
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
        let evaluation = policy.evaluate_by_every_rule(&facts);
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
