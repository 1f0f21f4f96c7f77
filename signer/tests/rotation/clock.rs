//! The clock goes wrong by a day and by a year, ahead and behind, and is right again an hour later.

use crate::{
    is_active,
    world::{self, World},
};
use touchstone_signer::ca::{lifecycle::State, record::Record};

/// A place in a quarter, and whether a record is there.
type Place = (&'static str, fn(&Record) -> bool);

/// How far a quarter is when the clock goes wrong.
const PLACES: [Place; 4] = [
    ("ca-1 signs", |record| record.lifecycle().active().is_some()),
    ("ca-2 is published", |record| {
        record.lifecycle().newcomer().is_some()
    }),
    ("ca-2 signs", |record| is_active(record, 2)),
    ("ca-1 is removed", |record| {
        let first = record.lifecycle().cas().first();
        first.is_some_and(|ca| ca.state() == State::Removed)
    }),
];

/// At each place of a quarter: nobody is cut off when the clock is right again, issuing goes on, and so does the rotation.
async fn a_clock_that_is_wrong_by(seconds: i64) {
    for (place, is_there) in PLACES {
        let mut world = World::with(world::MONTH, 20 * 3600).await;
        world.begin().await;
        world.go_until(place, is_there).await;
        let before = world.record().await;
        world.be_wrong_for(seconds, 6).await;
        world.nobody_is_cut_off().await;
        for _ in 0..6 {
            world.look().await.unwrap();
            world.nobody_is_cut_off().await;
            world.advance(600);
        }
        assert!(world.may_sign(), "{place}: issuing goes on");
        let signed = before.lifecycle().active().unwrap().id().number();
        world
            .go_until("two further CAs have signed", |record| {
                let active = record.lifecycle().active();
                active.is_some_and(|ca| ca.id().number() >= signed + 2)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_day_ahead_for_an_hour_cuts_nobody_off() {
    a_clock_that_is_wrong_by(86_400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_day_behind_for_an_hour_cuts_nobody_off() {
    a_clock_that_is_wrong_by(-86_400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_year_ahead_for_an_hour_cuts_nobody_off() {
    a_clock_that_is_wrong_by(365 * 86_400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_year_behind_for_an_hour_cuts_nobody_off() {
    a_clock_that_is_wrong_by(-365 * 86_400).await;
}
