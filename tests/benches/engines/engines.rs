//! One decision of the policy beside the same decision of Cedar and of Rego (regorus), in one run.
//!
//! All three know 50,000 users in 1,000 teams and so many rules: rule `i` grants group `i` to team `i`, to who gives an
//! incident for a reason and has a key that asks for a touch. Before anything is measured, they are held to the same
//! answers. Each is written as its own handbook would have it: Cedar with one policy a rule, Rego with the rules as data
//! that are found by the group.

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request,
};
use criterion::{Criterion, criterion_group};
use jiff::Timestamp;
use regorus::Engine;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    hint::black_box,
    str::FromStr,
    time::{Duration, Instant},
};
use touchstone_common::{
    attestation::{Attested, Firmware, PinPolicy, Slot, TouchPolicy},
    certificate::Validity,
    key::{KeyAlgorithm, SigningKey, SoftwareKey},
    name::{ClusterName, GroupName, UserName},
    policy::{Facts, KeyFacts, Policy, Tie, Verdict},
};

const USERS: usize = 50_000;
const TEAMS: usize = 1_000;
const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn user(i: usize) -> String {
    format!("user{i:05}@example.com")
}

fn group(i: usize) -> String {
    format!("jit:oncall:group{i}")
}

/// What is asked: of which user, for which group, and why.
#[derive(Clone)]
struct Asked {
    user: String,
    group: String,
    reason: &'static str,
    granted: bool,
}

/// Grants, requests of another team's group, and requests without an incident.
fn asked(rules: usize) -> Vec<Asked> {
    (0..60)
        .map(|n| {
            let rule = (n * 7919) % rules;
            let teams = TEAMS.min(rules);
            let member = rule % TEAMS + TEAMS * (n % (USERS / TEAMS));
            let (who, reason, granted) = match n % 3 {
                0 => (member, "INC-4211 checkout latency", true),
                1 => (
                    (member + 1) % teams.max(2),
                    "INC-4211 checkout latency",
                    false,
                ),
                _ => (member, "just looking", false),
            };
            let granted = granted || (n % 3 == 1 && who % TEAMS == rule % TEAMS);
            Asked {
                user: user(who),
                group: group(rule),
                reason,
                granted,
            }
        })
        .collect()
}

struct Touchstone {
    policy: Policy,
    attested: Attested,
    cluster: ClusterName,
    now: Timestamp,
}

fn text(users: usize, rules: usize) -> String {
    let mut text =
        String::from("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nusers:\n");
    for i in 0..users {
        let _ = writeln!(
            text,
            "- {{ name: {}, teams: [team{}], keys: [{{ serial: {} }}] }}",
            user(i),
            i % TEAMS,
            i + 1
        );
    }
    text.push_str("rules:\n");
    for i in 0..rules {
        let _ = writeln!(
            text,
            "- {{ name: rule {i}, who: {{ teams: [team{}] }}, groups: [\"{}\"], reason: {{ pattern: \"^INC-\" }}, decision: auto }}",
            i % TEAMS,
            group(i)
        );
    }
    text
}

impl Touchstone {
    fn new(users: usize, rules: usize) -> Self {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
        Self {
            policy: Policy::parse("policy.yaml", text(users, rules).as_bytes())
                .expect("the policy loads"),
            attested: Attested {
                serial: 1,
                firmware: Firmware {
                    major: 5,
                    minor: 7,
                    patch: 4,
                },
                slot: Slot::new(0x9a).expect("a slot"),
                pin_policy: PinPolicy::Once,
                touch_policy: TouchPolicy::Always,
                public_key: key.public_key().clone(),
                test_root: false,
                form_factor: None,
                valid: Validity {
                    not_before: Timestamp::MIN,
                    not_after: Timestamp::MAX,
                },
            },
            cluster: ClusterName::parse("prod").expect("a name"),
            now: "2026-07-01T10:00:00Z".parse().expect("a time"),
        }
    }

    fn ask(&self, asked: &(UserName, [GroupName; 1], &str)) -> bool {
        let evaluation = self.policy.evaluate(&Facts {
            user: &asked.0,
            kubernetes_groups: &[],
            groups: &asked.1,
            cluster: &self.cluster,
            ttl: None,
            reason: asked.2,
            key: KeyFacts {
                algorithm: KeyAlgorithm::P256,
                attested: Some(&self.attested),
                tie: Tie::Enrolled,
            },
            now: self.now,
        });
        matches!(evaluation.verdict, Verdict::Approve { .. })
    }

    fn prepared(asked: &[Asked]) -> Vec<(UserName, [GroupName; 1], &'static str)> {
        let one = |a: &Asked| {
            let group = GroupName::parse(&a.group).expect("a group");
            (UserName::parse(&a.user).expect("a user"), [group], a.reason)
        };
        asked.iter().map(one).collect()
    }
}

struct Cedar {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(
        EntityTypeName::from_str(kind).expect("a type"),
        EntityId::new(id),
    )
}

impl Cedar {
    fn new(users: usize, rules: usize) -> Self {
        let mut policies = String::new();
        for i in 0..rules {
            let _ = writeln!(
                policies,
                "permit(principal in Team::\"team{}\", action == Action::\"assume\", resource == Group::\"{}\") \
                 when {{ context.reason like \"INC-*\" && context.touch == \"always\" }};",
                i % TEAMS,
                group(i)
            );
        }
        let users = (0..users).map(|i| {
            let team = uid("Team", &format!("team{}", i % TEAMS));
            Entity::new_no_attrs(uid("User", &user(i)), HashSet::from([team]))
        });
        Self {
            authorizer: Authorizer::new(),
            policies: PolicySet::from_str(&policies).expect("policies"),
            entities: Entities::from_entities(users, None).expect("entities"),
        }
    }

    fn prepared(asked: &[Asked]) -> Vec<Request> {
        let one = |a: &Asked| {
            let context = json!({ "reason": a.reason, "touch": "always" });
            let context = Context::from_json_value(context, None).expect("a context");
            let action = uid("Action", "assume");
            Request::new(
                uid("User", &a.user),
                action,
                uid("Group", &a.group),
                context,
                None,
            )
            .expect("a request")
        };
        asked.iter().map(one).collect()
    }

    fn ask(&self, request: &Request) -> bool {
        let answer = self
            .authorizer
            .is_authorized(request, &self.policies, &self.entities);
        answer.decision() == Decision::Allow
    }
}

struct Rego(Engine);

const REGO: &str = "package touchstone
import rego.v1

default allow := false

allow if {
    some rule in data.rules[input.group]
    rule.team in data.users[input.user].teams
    startswith(input.reason, \"INC-\")
    input.touch == rule.touch
}
";

impl Rego {
    fn new(users: usize, rules: usize) -> Self {
        let users: serde_json::Map<String, Value> = (0..users)
            .map(|i| (user(i), json!({ "teams": [format!("team{}", i % TEAMS)] })))
            .collect();
        let rules: serde_json::Map<String, Value> = (0..rules)
            .map(|i| {
                (
                    group(i),
                    json!([{ "team": format!("team{}", i % TEAMS), "touch": "always" }]),
                )
            })
            .collect();
        let data = json!({ "users": users, "rules": rules }).to_string();
        let mut engine = Engine::new();
        engine
            .add_policy("touchstone.rego".into(), REGO.into())
            .expect("a policy");
        engine
            .add_data(regorus::Value::from_json_str(&data).expect("data"))
            .expect("data");
        Self(engine)
    }

    fn prepared(asked: &[Asked]) -> Vec<regorus::Value> {
        let one = |a: &Asked| {
            let input =
                json!({ "user": a.user, "group": a.group, "reason": a.reason, "touch": "always" });
            regorus::Value::from_json_str(&input.to_string()).expect("an input")
        };
        asked.iter().map(one).collect()
    }

    fn ask(&mut self, input: &regorus::Value) -> bool {
        self.0.set_input(input.clone());
        let answer = self
            .0
            .eval_rule("data.touchstone.allow".into())
            .expect("an answer");
        answer == regorus::Value::from(true)
    }
}

/// The three, with the same policy, and what they are asked.
struct Engines {
    touchstone: Touchstone,
    cedar: Cedar,
    rego: Rego,
    of_touchstone: Vec<(UserName, [GroupName; 1], &'static str)>,
    of_cedar: Vec<Request>,
    of_rego: Vec<regorus::Value>,
}

impl Engines {
    fn new(rules: usize) -> Self {
        let asked = asked(rules);
        let mut engines = Self {
            touchstone: Touchstone::new(USERS, rules),
            cedar: Cedar::new(USERS, rules),
            rego: Rego::new(USERS, rules),
            of_touchstone: Touchstone::prepared(&asked),
            of_cedar: Cedar::prepared(&asked),
            of_rego: Rego::prepared(&asked),
        };
        for (i, asked) in asked.iter().enumerate() {
            let answers = [
                engines.touchstone.ask(&engines.of_touchstone[i]),
                engines.cedar.ask(&engines.of_cedar[i]),
                engines.rego.ask(&engines.of_rego[i]),
            ];
            assert_eq!(
                answers, [asked.granted; 3],
                "{} {}",
                asked.user, asked.group
            );
        }
        engines
    }

    fn all_of_touchstone(&self) -> usize {
        self.of_touchstone
            .iter()
            .filter(|asked| self.touchstone.ask(asked))
            .count()
    }

    fn all_of_cedar(&self) -> usize {
        self.of_cedar
            .iter()
            .filter(|asked| self.cedar.ask(asked))
            .count()
    }

    fn all_of_rego(&mut self) -> usize {
        let rego = &mut self.rego;
        self.of_rego.iter().filter(|asked| rego.ask(asked)).count()
    }
}

fn decisions(criterion: &mut Criterion) {
    for rules in SIZES {
        let mut engines = Engines::new(rules);
        let mut group =
            criterion.benchmark_group(format!("60 decisions, {USERS} users, {rules} rules"));
        group.bench_function("touchstone", |b| {
            b.iter(|| black_box(engines.all_of_touchstone()))
        });
        group.bench_function("regorus", |b| b.iter(|| black_box(engines.all_of_rego())));
        group.bench_function("cedar", |b| b.iter(|| black_box(engines.all_of_cedar())));
        group.finish();
        in_turn(&mut engines, rules);
    }
}

/// One side after the other, so that whatever else the machine does meets them alike.
fn in_turn(engines: &mut Engines, rules: usize) {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..15 {
        let mut timed = |which: usize, work: &mut dyn FnMut() -> usize| {
            let begun = Instant::now();
            let count = u32::try_from(black_box(work())).unwrap_or_default();
            assert!(count > 0);
            times[which].push(begun.elapsed() / 60);
        };
        timed(0, &mut || engines.all_of_touchstone());
        timed(1, &mut || engines.all_of_rego());
        timed(2, &mut || engines.all_of_cedar());
    }
    let [touchstone, rego, cedar] = times.map(median);
    figure(
        &format!("a decision, {rules} rules: touchstone"),
        &us(touchstone),
        "",
    );
    figure(
        &format!("a decision, {rules} rules: regorus, beside it"),
        &ratio(rego, touchstone),
        "",
    );
    figure(
        &format!("a decision, {rules} rules: cedar, beside it"),
        &ratio(cedar, touchstone),
        "",
    );
}

/// What users cost who do not ask, and rules that cannot match.
fn growth() {
    let ask = |users: usize, rules: usize| {
        let touchstone = Touchstone::new(users, rules);
        let asked: Vec<_> = asked(10).into_iter().filter(|a| a.granted).collect();
        let first = Asked {
            user: user(3),
            group: group(3),
            ..asked[0].clone()
        };
        let asked = Touchstone::prepared(&vec![first; 60]);
        (touchstone, asked)
    };
    let mut sides = [
        ask(10, 10),
        ask(USERS, 10),
        ask(10, 10_000),
        ask(USERS, 10_000),
    ];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..200 {
        for ((touchstone, asked), times) in sides.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            assert_eq!(
                asked
                    .iter()
                    .filter(|a| touchstone.ask(black_box(a)))
                    .count(),
                60
            );
            times.push(begun.elapsed() / 60);
        }
    }
    let [small, users, rules, both] = times.map(median);
    figure("a grant, 10 users and 10 rules", &us(small), "");
    figure("50,000 users beside 10", &ratio(users, small), "1.0 ×");
    figure("10,000 rules beside 10", &ratio(rules, small), "1.0 ×");
    figure("both", &ratio(both, small), "1.0 ×");
}

/// What it takes to load the largest policy, and to keep it.
fn load() {
    let text = text(USERS, 10_000);
    let before = resident();
    let begun = Instant::now();
    let policy = Policy::parse("policy.yaml", text.as_bytes()).expect("the policy loads");
    let took = begun.elapsed();
    let kept = resident().saturating_sub(before);
    let most = status("VmHWM").saturating_sub(before);
    black_box(policy);
    figure(
        "a policy of 50,000 users and 10,000 rules",
        &format!("{} MiB", text.len() >> 20),
        "",
    );
    figure("loaded in", &format!("{:.2} s", took.as_secs_f64()), "");
    figure(
        "memory: kept, and at most while loading",
        &format!("{} MiB, {} MiB", kept >> 10, most >> 10),
        "",
    );
}

fn resident() -> u64 {
    status("VmRSS")
}

/// A line of /proc/self/status, in KiB.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn us(time: Duration) -> String {
    format!("{:.2} µs", time.as_secs_f64() * 1e6)
}

fn ratio(one: Duration, other: Duration) -> String {
    format!("{:.2} ×", one.as_secs_f64() / other.as_secs_f64())
}

/// Prints a figure, and keeps it for the table at the end of scripts/bench.
fn figure(what: &str, value: &str, aim: &str) {
    println!("{what}: {value}");
    if let Some(path) = std::env::var_os("TOUCHSTONE_FIGURES") {
        let line = format!("policy: {what}\t{value}\t{aim}\n");
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        let written =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()));
        written.expect("the figures can be written");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = decisions
}

fn main() {
    load();
    growth();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
