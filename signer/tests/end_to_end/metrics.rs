//! What the running signer tells who watches over it.

use crate::world::{self, Engineer, GROUP, World};
use touchstone_signer::grant::name_of;

const ALERTS: &str = include_str!("../../../deploy/components/prometheus/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/touchstone.json");
const CA_PAGE: &str = include_str!("../../../docs/ca.md");

async fn counted(world: &World, line: &str) {
    loop {
        let metrics = world.monitor("/metrics").await;
        if metrics.lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Fails with the line that did not come.
async fn shows(world: &World, line: &str) {
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, counted(world, line))
        .await
        .unwrap_or_else(|_| panic!("never counted: {line}"));
}

#[tokio::test]
async fn what_the_signer_does_is_counted_and_names_nobody() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let ready = world.monitor("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");

    let request = alice.request(&[GROUP]);
    world.submit(&alice, "granted", &request.pem).await;
    world.settled_grant(&name_of(&request.nonce)).await;
    let refused = alice.request(&["jit:oncall:others"]);
    world.submit(&alice, "denied", &refused.pem).await;
    for line in [
        "touchstone_requests_total{ending=\"issued\",reason=\"PolicyApproved\"} 1",
        "touchstone_requests_total{ending=\"denied\",reason=\"DeniedByPolicy\"} 1",
        "touchstone_issuing_seconds_count 1",
        "touchstone_policy_generation 1",
        "touchstone_policy_refused 0",
    ] {
        shows(&world, line).await;
    }
    let end = world.founded.issuing().certificate().validity().not_after;
    let end = format!(
        "touchstone_ca_not_after_timestamp_seconds {}",
        end.as_second()
    );
    shows(&world, &end).await;
    let metrics = world.monitor("/metrics").await;
    for name in ["alice", GROUP, "granted\n"] {
        assert!(!metrics.contains(name), "{name}: {metrics}");
    }
}

#[tokio::test]
async fn a_request_that_waits_and_a_policy_that_is_broken_are_seen_from_outside() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    let manual = world::policy(&alice).replace(
        "decision: auto",
        "decision: manual\n    approvals: [ { from: { teams: [payments] } } ]",
    );
    world.stop().await;
    world.write_policy(&manual);
    world.restart().await;
    let request = alice.request(&[GROUP]);
    world.create(&alice, "waits", &request.pem).await;
    shows(&world, "touchstone_requests_waiting 1").await;

    world.write_policy("rules: [");
    shows(&world, "touchstone_policy_refused 1").await;
    shows(&world, "touchstone_policy_refusals_total 1").await;
    shows(&world, "touchstone_policy_generation 1").await;
    world.write_policy(&manual);
    shows(&world, "touchstone_policy_refused 0").await;
    world.write_policy(&world::policy(&alice));
    shows(&world, "touchstone_requests_waiting 0").await;
}

/// Every name of ours in an expression of Prometheus.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("touchstone_"))
}

/// Whether there is a sample of this name.
fn has(metrics: &str, name: &str) -> bool {
    let mut samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.any(|line| line.split([' ', '{']).next() == Some(name))
}

#[tokio::test]
async fn whatever_the_dashboard_shows_is_there_and_all_that_is_counted_is_shown() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    world.submit(&alice, "granted", &request.pem).await;
    world.settled_grant(&name_of(&request.nonce)).await;
    shows(&world, "touchstone_issuing_seconds_count 1").await;

    let metrics = world.monitor("/metrics").await;
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = targets.map(|it| it["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 10, "{expressions:?}");
    for name in expressions.iter().flat_map(|it| names(it)) {
        assert!(has(&metrics, name), "{name}\n{metrics}");
    }
    let families = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    for family in families.filter_map(|line| line.split(' ').next()) {
        assert!(
            expressions.iter().any(|it| it.contains(family)),
            "{family} is on no panel"
        );
    }
}

#[tokio::test]
async fn whatever_an_alarm_looks_at_is_there() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let metrics = world.monitor("/metrics").await;
    let is_there = |name: &str| has(&metrics, name);
    let expressions: Vec<&str> = ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .collect();
    let rules = ALERTS.matches("- alert: ").count();
    assert!(rules >= 7 && expressions.len() == rules, "{expressions:?}");
    for expression in expressions {
        assert!(names(expression).count() > 0, "{expression}");
        for name in names(expression) {
            assert!(is_there(name), "{expression}: {name}\n{metrics}");
        }
    }
    // What a rule selects by a label is a value that the label has.
    assert!(ALERTS.contains("touchstone_ca_state{state=\"active\"}"));
    assert!(metrics.contains("touchstone_ca_state{ca=\"ca-1\",state=\"active\"} 1"));

    // The page names them without the prefix that they share.
    let (_, alarms) = CA_PAGE.split_once("## Alarms").unwrap();
    let (named, _) = alarms.split_once("all with the prefix").unwrap();
    let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
    assert!(named.len() >= 8, "{named:?}");
    for name in named {
        let (name, _) = name.split_once('{').unwrap_or((name, ""));
        assert!(is_there(&format!("touchstone_{name}")), "{name}");
    }
}
