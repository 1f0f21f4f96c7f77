//! A policy that changes beneath requests, and what is remembered of requests beyond the process.

use crate::world::{self, Engineer, GROUP, World, condition};
use aws_lc_rs::digest;
use touchstone_signer::{audit::Event, grant::name_of};

/// Waits until the signer has taken up so many policies.
async fn loaded(world: &World, generation: u64) {
    let is_it = |event: &Event| matches!(event, Event::PolicyLoaded { generation: of, .. } if *of == generation);
    world
        .until("the new policy", || world.audit().iter().any(is_it))
        .await;
}

#[tokio::test]
async fn a_grant_and_the_log_name_the_policy_and_its_generation() {
    let alice = Engineer::new("alice@example.com");
    let world = World::start(&alice).await;
    let text = format!("{}# another text\n", world::policy(&alice));
    world.write_policy(&text);
    loaded(&world, 2).await;
    let request = alice.request(&[GROUP]);
    world.submit(&alice, "second-policy", &request.pem).await;
    let grant = world.settled_grant(&name_of(&request.nonce)).await;
    let sha256 = digest::digest(&digest::SHA256, text.as_bytes());
    assert_eq!(grant.spec.policy_sha256, hex::encode(sha256));
    assert_eq!(grant.spec.policy_generation, 2);
    let log = world.audit();
    let mut intents = log.iter().filter_map(|event| match event {
        Event::Intent(intent) => Some(intent.policy_generation),
        _ => None,
    });
    assert_eq!(intents.next(), Some(2));
}

#[tokio::test]
async fn a_request_that_waits_is_judged_by_the_policy_of_the_day() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    let auto = world::policy(&alice);
    let manual = auto.replace(
        "decision: auto",
        "decision: manual\n    approvals: [ { from: { teams: [payments] } } ]",
    );
    world.stop().await;
    world.write_policy(&manual);
    world.restart().await;
    let (granted, denied) = (alice.request(&[GROUP]), alice.request(&[GROUP]));
    world.create(&alice, "waits", &granted.pem).await;
    world
        .annotation("waits", "touchstone.dev/waiting-for")
        .await;
    world.write_policy(&auto);
    let done = world.wait("waits").await;
    assert!(done.status.unwrap().certificate.is_some());
    let grant = world.settled_grant(&name_of(&granted.nonce)).await;
    assert_eq!(grant.spec.policy_generation, 2);

    world.write_policy(&manual);
    loaded(&world, 3).await;
    world.create(&alice, "waits-too", &denied.pem).await;
    world
        .annotation("waits-too", "touchstone.dev/waiting-for")
        .await;
    // Who asked is no longer in the policy.
    world.write_policy(&manual.replace("alice@example.com", "alicia@example.com"));
    let done = world.wait("waits-too").await;
    let denial = condition(&done, "Denied").unwrap();
    assert_eq!(denial.reason.as_deref(), Some("UnknownUser"));
}

#[tokio::test]
async fn a_request_that_was_used_is_known_after_a_restart() {
    let alice = Engineer::new("alice@example.com");
    let mut world = World::start(&alice).await;
    let request = alice.request(&[GROUP]);
    world.submit(&alice, "before", &request.pem).await;
    world.settled_grant(&name_of(&request.nonce)).await;
    world.delete("before").await;
    world.stop().await;
    world.restart().await;
    let again = world.submit(&alice, "after", &request.pem).await;
    let denial = condition(&again, "Denied").unwrap();
    assert_eq!(denial.reason.as_deref(), Some("Replayed"));
}
