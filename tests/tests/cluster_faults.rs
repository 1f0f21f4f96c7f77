//! What goes wrong between the signer and its API server, and who else writes there: at the end each request has the one
//! certificate that the policy grants it, or a reason why not.

#[path = "cluster_faults/controller_manager.rs"]
mod controller_manager;
#[path = "cluster_faults/invariants.rs"]
mod invariants;
#[path = "cluster_faults/objects.rs"]
mod objects;
#[path = "cluster_faults/world.rs"]
mod world;

use std::{thread, time::Duration};
use touchstone_signer::audit::Event;
use touchstone_tests::fault_proxy::{Call, Fault};
use world::World;

/// How many calls one issuing makes; shown, because a change of it is a change of cost.
fn calls_of_one_issuing(world: &World) -> usize {
    world.quiet();
    world.submit(&world.alice, "reference");
    world.issued("reference");
    let calls = world.quiet();
    assert!(calls.len() >= 4, "{calls:#?}");
    calls.len()
}

#[test]
fn killed_before_and_after_each_call_of_an_issuing_it_comes_to_the_same_end_and_late_writes_change_nothing()
 {
    killed_at_each_call(World::with_signer());
}

#[test]
fn killed_before_and_after_each_call_of_an_approval_it_comes_to_the_same_end_and_late_writes_change_nothing()
 {
    killed_at_each_call(World::approving());
}

fn killed_at_each_call(mut world: World) {
    let calls = calls_of_one_issuing(&world);
    for nth in 1..=calls {
        for fault in [Fault::HoldBefore, Fault::HoldAfter] {
            let name = format!("killed-{nth}-{fault:?}").to_lowercase();
            world.quiet();
            world.proxy.spoil(fault, nth, 1, Call::is_of_a_request);
            world.submit(&world.alice, &name);
            world.proxy.wait_until_held();
            world.kill_signer();
            world.start_signer();
            world.issued(&name);
            let before = world.get(&name).status;
            // What the dead one had sent arrives now.
            world.proxy.behave();
            assert_eq!(world.get(&name).status, before, "{name}");
            world.check();
        }
    }
    assert_eq!(world.grants().len(), 1 + 2 * calls);
}

#[test]
fn whatever_is_answered_to_any_call_of_an_issuing_it_comes_to_the_same_end() {
    spoilt_at_each_call(&World::with_signer());
}

#[test]
fn whatever_is_answered_to_any_call_of_an_approval_it_comes_to_the_same_end() {
    spoilt_at_each_call(&World::approving());
}

fn spoilt_at_each_call(world: &World) {
    let calls = calls_of_one_issuing(world);
    let faults = [
        Fault::Answer(409, None),
        Fault::Answer(410, None),
        Fault::Answer(429, Some(1)),
        Fault::Answer(500, None),
        Fault::Answer(503, None),
        Fault::CutAfter,
        Fault::CutBefore,
        Fault::CutBody,
        Fault::Delay(Duration::from_millis(300)),
        Fault::Duplicate,
    ];
    for nth in 1..=calls {
        for (number, fault) in faults.into_iter().enumerate() {
            let name = format!("spoilt-{nth}-{number}");
            world.proxy.spoil(fault, nth, 1, Call::is_of_a_request);
            world.submit(&world.alice, &name);
            world.issued(&name);
            // The last of its calls comes after that.
            world.quiet();
            world.proxy.behave();
        }
    }
    world.check();
    assert_eq!(world.grants().len(), 1 + faults.len() * calls);
}

#[test]
fn a_watch_that_is_cut_or_too_old_and_an_api_server_that_is_away_lose_no_request() {
    let world = World::with_signer();
    world.proxy.cut();
    world.submit(&world.alice, "after-a-cut");
    world.issued("after-a-cut");

    let is_watch_of_requests =
        |call: &Call| call.is_watch() && call.path.contains("certificatesigningrequests");
    world.proxy.spoil(Fault::Expire, 1, 1, is_watch_of_requests);
    world.quiet();
    world.proxy.cut();
    world.submit(&world.alice, "after-expiry");
    world.issued("after-expiry");
    let calls = world.proxy.take_calls();
    let selected = |call: &Call| call.path.contains("fieldSelector=spec.signerName");
    let lists = |call: &&Call| call.path.contains("requests?") && !call.is_watch();
    assert!(calls.iter().any(|call| lists(&call)), "{calls:#?}");
    assert!(calls.iter().filter(lists).all(selected), "{calls:#?}");

    world.proxy.set_away(true);
    for number in 0..3 {
        world.submit(&world.alice, &format!("while-away-{number}"));
    }
    thread::sleep(Duration::from_secs(2));
    world.proxy.set_away(false);
    for number in 0..3 {
        world.issued(&format!("while-away-{number}"));
    }
    world.check();
}

#[test]
fn with_an_etcd_that_takes_five_seconds_requests_are_answered_late_and_once() {
    let world = World::with_signer();
    // What slowness does to a lease is not asked here.
    world.proxy.spoil(
        Fault::Delay(Duration::from_secs(5)),
        1,
        32,
        Call::is_of_a_request,
    );
    for number in 0..3 {
        world.submit(&world.alice, &format!("slow-{number}"));
    }
    for number in 0..3 {
        world.issued(&format!("slow-{number}"));
    }
    world.check();
    assert_eq!(world.grants().len(), 3);
}

#[test]
fn one_request_does_not_wait_for_hundreds_of_another() {
    const FLOOD: usize = 300;
    let mut world = World::start();
    for number in 0..FLOOD {
        world.submit(&world.alice, &format!("a-flood-{number:03}"));
    }
    world.submit(&world.dave, "z-last-of-all");
    world.proxy.spoil(
        Fault::Delay(Duration::from_millis(20)),
        1,
        usize::MAX,
        Call::is_of_a_request,
    );
    world.start_signer();
    world.issued("z-last-of-all");
    let before = world
        .audit()
        .iter()
        .filter_map(|event| match event {
            Event::Issued { request, .. } => Some(request.csr.clone()),
            _ => None,
        })
        .position(|name| name == "z-last-of-all")
        .expect("it is issued");
    // Two at once of the other's, while it took its own way. In the order of arrival it would be the last, and with turns alone
    // it would come after as many as are worked on at once.
    assert!(before < 32, "{before} of {FLOOD} came before it");
    world.proxy.behave();
    world.issued(&format!("a-flood-{:03}", FLOOD - 1));
    world.check();
}
