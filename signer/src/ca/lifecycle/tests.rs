use super::*;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
}

fn lives_from(day: i64) -> Lifetime {
    Lifetime {
        not_before: at(day),
        not_after: at(day + 120),
    }
}

fn adopted() -> Lifecycle {
    Lifecycle::adopt(Schedule::default(), Root::Own, lives_from(0), at(0))
}

fn next(lifecycle: &Lifecycle, day: i64) -> (Step, i64) {
    let due = lifecycle.agenda(at(day)).into_iter().next().unwrap();
    let seconds = due.at.duration_since(at(0)).as_secs();
    (due.step, seconds.div_euclid(86_400))
}

fn ca(number: u32) -> CaId {
    CaId(number)
}

fn proof(number: u32, day: i64) -> Proof {
    Proof {
        ca: ca(number),
        at: at(day),
    }
}

/// A record in which ca-2 took over from ca-1 on day 90.
fn followed() -> Lifecycle {
    let mut record = adopted();
    record
        .apply(Event::Prepared(Some(lives_from(70))), at(70))
        .unwrap();
    record.apply(Event::Published(ca(2)), at(70)).unwrap();
    record
        .apply(Event::Activated(proof(2, 90)), at(90))
        .unwrap();
    record
}

#[test]
fn a_quarter_goes_as_the_design_says() {
    let mut record = adopted();
    assert_eq!(next(&record, 1), (Step::Prepare, 70));
    record
        .apply(Event::Prepared(Some(lives_from(70))), at(70))
        .unwrap();
    assert_eq!(next(&record, 70), (Step::Publish(ca(2)), 70));
    record.apply(Event::Published(ca(2)), at(70)).unwrap();
    assert_eq!(next(&record, 71), (Step::Activate(ca(2)), 90));
    assert_eq!(record.active().unwrap().id(), ca(1));
    record
        .apply(Event::Activated(proof(2, 90)), at(90))
        .unwrap();
    assert_eq!(record.active().unwrap().id(), ca(2));
    for day in 91..=92 {
        record.apply(Event::Seen, at(day)).unwrap();
    }
    assert_eq!(next(&record, 92), (Step::Remove(ca(1)), 92));
    record.apply(Event::Seen, at(93)).unwrap();
    record
        .apply(Event::Removed(ca(1), proof(2, 93)), at(93))
        .unwrap();
    assert_eq!(next(&record, 93), (Step::Prepare, 160));
    record.check().unwrap();
}

#[test]
fn nothing_takes_over_without_a_fresh_proof_of_its_own() {
    for proof in [proof(1, 90), proof(2, 89), proof(2, 91)] {
        let mut record = adopted();
        record
            .apply(Event::Prepared(Some(lives_from(70))), at(70))
            .unwrap();
        record.apply(Event::Published(ca(2)), at(70)).unwrap();
        let refused = record.apply(Event::Activated(proof), at(90)).unwrap_err();
        assert!(matches!(
            refused,
            Refused::Unproven(_) | Refused::WrongState(..)
        ));
        assert_eq!(record.active().unwrap().id(), ca(1));
    }
}

#[test]
fn every_step_can_be_taken_back_and_nothing_moves_by_itself_after() {
    let mut record = followed();
    record.apply(Event::RolledBack, at(91)).unwrap();
    assert_eq!(record.active().unwrap().id(), ca(1));
    assert!(record.ca(ca(2)).unwrap().is_trusted(), "its leaves live");
    assert!(record.agenda(at(91)).is_empty());
    assert!(matches!(
        record.apply(Event::RolledBack, at(91)),
        Err(Refused::Living(..))
    ));
    record.apply(Event::RolledBack, at(94)).unwrap();
    assert_eq!(record.ca(ca(2)).unwrap().state(), State::Prepared);
    record.apply(Event::RolledBack, at(94)).unwrap();
    assert_eq!(record.ca(ca(2)).unwrap().state(), State::Removed);
    assert_eq!(
        record.apply(Event::RolledBack, at(94)),
        Err(Refused::NothingToRollBack)
    );
    record.apply(Event::Asked(Asked::Through), at(94)).unwrap();
    assert_eq!(next(&record, 94), (Step::Prepare, 94));
}

#[test]
fn a_distrusted_ca_signs_nothing_more_and_the_next_one_is_due_at_once() {
    let mut record = adopted();
    record.apply(Event::Distrusted(ca(1)), at(5)).unwrap();
    assert_eq!(record.may_sign(at(5)), Err(CannotSign::NoActive));
    assert!(!record.ca(ca(1)).unwrap().is_trusted());
    assert_eq!(next(&record, 5), (Step::Prepare, 5));
    record
        .apply(Event::Prepared(Some(lives_from(5))), at(5))
        .unwrap();
    record.apply(Event::Published(ca(2)), at(5)).unwrap();
    record.apply(Event::Activated(proof(2, 5)), at(5)).unwrap();
    assert_eq!(record.may_sign(at(5)).unwrap().id(), ca(2));
}

#[test]
fn a_ceremony_that_is_never_held_lets_the_old_one_sign_to_its_last_safe_moment() {
    let settings = Settings {
        root: Root::Ceremony,
        ..Settings::default()
    };
    let schedule = Schedule::new(settings).unwrap();
    let mut record = Lifecycle::adopt(schedule, Root::Ceremony, lives_from(0), at(0));
    record.apply(Event::Prepared(None), at(70)).unwrap();
    assert_eq!(next(&record, 70), (Step::AskRoot(ca(2)), 70));
    record.apply(Event::AskedRoot(ca(2)), at(70)).unwrap();
    assert_eq!(next(&record, 100), (Step::AwaitRoot(ca(2)), 76));
    record.apply(Event::Seen, at(119)).unwrap();
    assert_eq!(record.last_safe_moment(), Some(at(119)));
    assert!(record.may_sign(at(119)).is_ok());
    record.apply(Event::Seen, at(121)).unwrap();
    assert_eq!(record.may_sign(at(121)), Err(CannotSign::NotValid(ca(1))));
    // Held at last, it signs as soon as it is proven.
    record
        .apply(Event::Imported(ca(2), lives_from(121)), at(121))
        .unwrap();
    record
        .apply(Event::Activated(proof(2, 121)), at(121))
        .unwrap();
}

#[test]
fn a_record_that_no_moves_lead_to_is_refused() {
    let mut two = followed();
    two.cas[0].state = State::Active;
    assert_eq!(two.check(), Err(Inconsistent::Several(State::Active)));
    let mut bare = followed();
    bare.cas[1].lifetime = None;
    assert!(matches!(bare.check(), Err(Inconsistent::Missing(..))));
    let mut twice = followed();
    twice.cas[1].id = ca(1);
    assert_eq!(twice.check(), Err(Inconsistent::Order));
}
