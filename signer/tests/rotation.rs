//! The rotation on an embedded API that authenticates for real: killed before and after every write, raced, refused, cut
//! off, and looking at records that someone spoiled.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests; at how many places it was killed is a figure to report"
)]

#[path = "rotation/clock.rs"]
mod clock;
#[path = "rotation/cut.rs"]
mod cut;
#[path = "rotation/leaf.rs"]
mod leaf;
#[path = "../../tests/src/softhsm.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the end-to-end suites use it, too"
)]
mod softhsm;
#[path = "rotation/world.rs"]
mod world;

use cut::Cut;
use softhsm::{SoftHsm, Token};
use touchstone_signer::ca::{
    lifecycle::{Root, State},
    record::Record,
};
use world::World;

/// Until the second CA signs and the first one is gone, each leaf of the way authenticating all the time.
async fn to_the_end(world: &mut World) {
    second_signs_alone(world).await;
    assert_eq!(world.key_files(), 1, "one key for the one CA that signs");
}

async fn second_signs_alone(world: &mut World) {
    world
        .go_until("ca-1 is removed", |record| {
            let state = |number: usize| record.lifecycle().cas().get(number).map(|ca| ca.state());
            state(0) == Some(State::Removed) && state(1) == Some(State::Active)
        })
        .await;
    let record = world.record().await;
    let first = record.lifecycle().cas().first().unwrap().id();
    assert!(record.material(first).unwrap().key.is_none());
    assert!(record.doomed().is_empty());
    assert_eq!(
        world.trust_bundle_file(),
        record.trust_bundle(),
        "what API servers are given is what the record says"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_passes_and_nobody_notices() {
    for root in [Root::Own, Root::None] {
        let mut world = World::new(root).await;
        world.start(Cut::Never).await;
        to_the_end(&mut world).await;
    }
}

/// Every write of a quarter, and both of its sides: the process dies before the API has it, or right after.
async fn killed_everywhere(root: Root, hsm: Option<&SoftHsm>) {
    let mut killed = 0;
    let token = hsm.map(|hsm| hsm.token("hsm"));
    for write in 1.. {
        let before = killed;
        for cut in [Cut::Before(write), Cut::After(write)] {
            let mut world = World::with_keys(root, token.as_ref()).await;
            world.start(cut).await;
            if !world.go_until_it_dies().await {
                continue;
            }
            killed += 1;
            world.start(Cut::Never).await;
            match &token {
                Some(token) => to_the_end_in(&mut world, token).await,
                None => to_the_end(&mut world).await,
            }
        }
        if killed == before {
            break;
        }
    }
    println!("{root:?}: killed at {killed} places");
    assert!(killed >= 20, "a quarter has ten writes: {killed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_write_it_comes_to_the_same_end() {
    killed_everywhere(Root::Own, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_write_without_a_root_it_comes_to_the_same_end() {
    killed_everywhere(Root::None, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_at_every_write_holds_nothing_up() {
    let mut world = World::new(Root::Own).await;
    world.start(Cut::ConflictFirst).await;
    to_the_end(&mut world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_signers_rotate_one_record() {
    let mut world = World::new(Root::Own).await;
    world.start(Cut::Never).await;
    world.start_another().await;
    to_the_end(&mut world).await;
    let record = world.record().await;
    let numbers: Vec<u64> = record
        .lifecycle()
        .journal()
        .iter()
        .map(|it| it.number)
        .collect();
    let expected: Vec<u64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "each move was made once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_the_record_does_not_have_signs_no_ca() {
    let mut world = World::new(Root::Own).await;
    world.start(Cut::Never).await;
    world.lose_the_data_directory();
    world.start(Cut::Never).await;
    let is_blocked = |record: &Record| record.blocked().is_some();
    world.go_until("the next one is blocked", is_blocked).await;
    let record = world.record().await;
    let blocked = record.blocked().unwrap();
    assert!(
        blocked.why.contains("not the one of the CA's record"),
        "{blocked:?}"
    );
    assert!(blocked.remedy.contains("root: ceremony"), "{blocked:?}");
    assert!(record.planned().is_none());
    assert_eq!(record.lifecycle().cas().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_some_api_server_does_not_trust_signs_for_nobody_and_says_why() {
    let mut world = World::with_an_active_ca().await;
    world.freeze_trust(true);
    world
        .go_until("the next one is blocked", |record| {
            record.blocked().is_some()
        })
        .await;
    let record = world.record().await;
    let blocked = record.blocked().unwrap();
    assert_eq!(blocked.step, "activate ca-2");
    assert!(blocked.why.contains("canary"), "{blocked:?}");
    assert!(blocked.remedy.contains("--client-ca-file"), "{blocked:?}");
    assert_eq!(
        record.lifecycle().active().unwrap().id().to_string(),
        "ca-1"
    );
    assert!(world.metrics().contains("touchstone_ca_rotation_blocked 1"));
    world.freeze_trust(false);
    to_the_end(&mut world).await;
    assert!(world.record().await.blocked().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_record_is_refused_kept_and_no_reason_to_stop_at_once() {
    for spoil in [
        world::Spoil::Empty,
        world::Spoil::Truncated,
        world::Spoil::OtherCluster,
        world::Spoil::KeyOfAnother,
        world::Spoil::Deleted,
    ] {
        let mut world = World::with_an_active_ca().await;
        let whole = world.spoil(spoil).await;
        // A key that is open already is not opened again: that one is found out at the next start.
        if !matches!(spoil, world::Spoil::KeyOfAnother) {
            let refused = world.look().await.unwrap_err();
            assert!(refused.remedy().contains("backup"), "{spoil:?}: {refused}");
        }
        assert!(
            world.may_sign(),
            "{spoil:?}: what was read before still holds for a while"
        );
        let restarted = world.try_start().await;
        assert!(restarted.is_err(), "{spoil:?}: nothing is made anew");
        let stands = world.raw_record().await;
        world.restore(whole).await;
        world.start(Cut::Never).await;
        world
            .go_until("ca-2 is active", |record| {
                record
                    .lifecycle()
                    .active()
                    .is_some_and(|ca| ca.id().number() == 2)
            })
            .await;
        assert_eq!(stands.is_none(), matches!(spoil, world::Spoil::Deleted));
    }
}

fn is_active(record: &Record, number: u32) -> bool {
    let active = record.lifecycle().active();
    active.is_some_and(|ca| ca.id().number() == number)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_destroyed_is_told_and_stops_nobody() {
    let mut world = World::with_an_active_ca().await;
    let obstacle = world.put_a_folder_in_place_of_the_key();
    world
        .go_until("ca-3 is active", |record| is_active(record, 3))
        .await;
    let record = world.record().await;
    assert_eq!(record.doomed().len(), 1, "it is not forgotten");
    let blocked = record.blocked().unwrap();
    assert_eq!(blocked.step, "destroy a key of no use");
    assert!(blocked.remedy.contains("may write there"), "{blocked:?}");
    std::fs::remove_dir(obstacle).unwrap();
    world.look().await.unwrap();
    let record = world.record().await;
    assert!(record.doomed().is_empty() && record.blocked().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_stops_nobody_until_the_record_is_too_old() {
    let mut world = World::with_an_active_ca().await;
    world.cut_off(true);
    assert!(world.look().await.is_err());
    assert!(world.may_sign());
    world.advance(world::KEEP + 1);
    assert!(
        !world.may_sign(),
        "another signer may have rotated meanwhile"
    );
    world.cut_off(false);
    world.look().await.unwrap();
    assert!(world.may_sign());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_that_never_happens_ends_in_a_refusal_after_ever_louder_alarms() {
    let mut world = World::with_an_active_ca().await;
    world.set_root(Root::Ceremony).await;
    world
        .go_until("the security team is asked", |record| {
            record
                .lifecycle()
                .newcomer()
                .is_some_and(|ca| ca.state() == State::AwaitingRoot)
        })
        .await;
    assert!(world.metrics().contains("touchstone_ca_rotation_overdue 0"));
    world
        .go_until("it is late", |record| {
            record.lifecycle().newcomer().is_some()
        })
        .await;
    world.advance_to_the_end_of_the_active_ca(-1).await;
    assert!(world.metrics().contains("touchstone_ca_rotation_overdue 1"));
    assert!(world.may_sign(), "issuing goes on to the last moment");
    world.advance_to_the_end_of_the_active_ca(1).await;
    assert!(!world.may_sign());
    assert_eq!(
        world.record().await.lifecycle().cas().len(),
        2,
        "nothing is made up"
    );
}

/// As [`to_the_end`], with keys in a token and nowhere else. The world's is destroyed, for the next one.
async fn to_the_end_in(world: &mut World, token: &Token) {
    second_signs_alone(world).await;
    world.openssl_verifies_the_newest_leaf();
    assert_eq!(world.key_files(), 0, "no key is in a file");
    let [key] = &*token.private_keys() else {
        panic!(
            "one key for the one CA that signs: {:?}",
            token.private_keys()
        )
    };
    assert_eq!(token.public_keys().len(), 1);
    let record = world.record().await;
    let active = record.lifecycle().active().unwrap().id();
    let place = record.material(active).unwrap().key.as_ref().unwrap();
    assert!(place.to_string().contains(&key.id), "{place}");
    token.empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_passes_with_every_key_in_a_token() {
    let Some(hsm) = SoftHsm::alone("a_quarter_passes_with_every_key_in_a_token") else {
        return;
    };
    let token = hsm.token("hsm");
    for root in [Root::Own, Root::None] {
        let mut world = World::with_keys(root, Some(&token)).await;
        world.start(Cut::Never).await;
        to_the_end_in(&mut world, &token).await;
    }
}

/// Also between the plan of a key and the key, and between the key and the record of it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_and_after_every_write_it_leaves_no_key_in_a_token_that_nobody_knows_of() {
    let test =
        "killed_before_and_after_every_write_it_leaves_no_key_in_a_token_that_nobody_knows_of";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    killed_everywhere(Root::None, Some(&hsm)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_into_a_token_with_the_next_ca() {
    let Some(hsm) = SoftHsm::alone("keys_move_into_a_token_with_the_next_ca") else {
        return;
    };
    let token = hsm.token("hsm");
    let mut world = World::with_an_active_ca().await;
    assert_eq!(world.key_files(), 1);
    world.move_keys_to(&token).await;
    assert!(world.may_sign(), "the CA of before signs on");
    assert!(token.private_keys().is_empty());
    to_the_end_in(&mut world, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_away_blocks_the_next_ca_and_plans_nothing_that_it_could_not_make() {
    let test = "a_token_that_is_away_blocks_the_next_ca_and_plans_nothing_that_it_could_not_make";
    let Some(hsm) = SoftHsm::alone(test) else {
        return;
    };
    let token = hsm.token("hsm");
    let mut world = World::with_an_active_ca().await;
    softhsm::write_private(token.pin_file(), "999999");
    world.move_keys_to(&token).await;
    world
        .go_until("the next one is blocked", |record| {
            record.blocked().is_some()
        })
        .await;
    for _ in 0..3 {
        world.look().await.unwrap();
        let record = world.record().await;
        assert!(record.planned().is_none() && record.doomed().is_empty());
        let blocked = record.blocked().unwrap();
        assert_eq!(blocked.step, "prepare the next CA");
        assert!(blocked.remedy.contains("right PIN"), "{blocked:?}");
    }
    softhsm::write_private(token.pin_file(), softhsm::PIN);
    to_the_end_in(&mut world, &token).await;
}
