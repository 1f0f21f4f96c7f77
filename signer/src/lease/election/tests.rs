use super::*;
use proptest::prelude::*;

fn at(milliseconds: u64) -> BootTime {
    BootTime::START + Duration::from_millis(milliseconds)
}

fn held_by(holder: Option<&str>, version: &str) -> Seen {
    Seen {
        holder: holder.map(str::to_owned),
        lasts: LeaseDuration::DEFAULT.as_duration(),
        transitions: 3,
        version: version.to_owned(),
    }
}

fn candidate() -> Election {
    Election::new("me".into(), LeaseDuration::DEFAULT)
}

fn take(version: &str) -> Action {
    Action::Take {
        version: version.to_owned(),
        transitions: 4,
    }
}

#[test]
fn who_finds_no_lease_makes_it_and_leads() {
    let mut me = candidate();
    assert_eq!(me.next(at(0)), Action::Look);
    me.saw(None, at(0));
    assert_eq!(me.next(at(0)), Action::Create);
    assert_eq!(me.until(), BootTime::START);
    me.wrote(held_by(Some("me"), "1"), at(100));
    assert_eq!(me.until(), at(10_100));
    assert_eq!(me.next(at(200)), Action::Wait(at(2_100)));
}

#[test]
fn a_lease_is_taken_when_it_did_not_change_for_as_long_as_it_lasts() {
    let mut me = candidate();
    me.saw(Some(held_by(Some("other"), "7")), at(1_000));
    assert_eq!(me.next(at(3_000)), Action::Look);
    me.saw(Some(held_by(Some("other"), "7")), at(3_000));
    me.saw(Some(held_by(Some("other"), "7")), at(15_900));
    assert_eq!(me.next(at(15_999)), Action::Wait(at(16_000)));
    assert_eq!(me.next(at(16_000)), take("7"));
    // A renewal at the last moment.
    me.saw(Some(held_by(Some("other"), "8")), at(15_999));
    assert_eq!(me.next(at(29_000)), Action::Look);
}

#[test]
fn one_that_was_given_back_is_taken_at_once() {
    let mut me = candidate();
    me.saw(Some(held_by(Some("other"), "7")), at(1_000));
    me.saw(Some(held_by(None, "8")), at(1_500));
    assert_eq!(me.next(at(1_500)), take("8"));
}

#[test]
fn a_lease_that_is_deleted_under_its_holder_is_waited_out() {
    let mut me = candidate();
    me.saw(Some(held_by(Some("other"), "7")), at(1_000));
    me.saw(None, at(2_000));
    assert_eq!(me.next(at(15_999)), Action::Wait(at(16_000)));
    assert_eq!(me.next(at(16_000)), Action::Create);
}

#[test]
fn a_leader_that_hears_of_another_is_none() {
    let mut me = candidate();
    me.saw(None, at(0));
    me.wrote(held_by(Some("me"), "1"), at(0));
    me.saw(Some(held_by(Some("other"), "2")), at(10));
    assert_eq!(me.until(), BootTime::START);
}

#[test]
fn a_renewal_whose_answer_was_lost_prolongs_nothing_and_is_made_again() {
    let mut me = candidate();
    me.saw(None, at(0));
    me.wrote(held_by(Some("me"), "1"), at(0));
    me.failed(at(4_000));
    me.saw(Some(held_by(Some("me"), "2")), at(6_000));
    assert_eq!(me.until(), at(10_000));
    assert!(matches!(me.next(at(6_000)), Action::Renew { version, .. } if version == "2"));
}

#[test]
fn who_resigns_does_nothing_more() {
    let mut me = candidate();
    me.saw(None, at(0));
    me.wrote(held_by(Some("me"), "1"), at(0));
    assert_eq!(me.resign(), Some(("1".into(), 3)));
    assert_eq!(me.until(), BootTime::START);
    assert_eq!(me.next(at(99_000)), Action::Wait(BootTime::NEVER));
}

/// What happens to one of three replicas.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It stands still for so long.
    Pause(u64),
    /// It is killed and another starts after so long.
    Restart(u64),
    /// What it sends takes so long to arrive, and so long again to be answered.
    Slow(u64),
    /// It hears nothing but answers.
    Deaf,
    /// It gives the lease back and starts again.
    Resign,
}

/// One replica, its clock's lead, and its request under way.
struct Replica {
    election: Election,
    lead: u64,
    stands_still_until: u64,
    is_gone: bool,
    is_deaf: bool,
    delay: u64,
    request: Option<Request>,
    born: u32,
}

struct Request {
    action: Action,
    sent: BootTime,
    arrives: u64,
    /// What came of it, once it has arrived.
    answer: Option<Result<Option<Seen>, ()>>,
    answered: u64,
}

/// The steps of the simulation.
const TICK: u64 = 50;
/// How long faults happen, and how long after them someone must lead.
const TROUBLE: u64 = 120_000;
const CALM: u64 = 60_000;

struct World {
    now: u64,
    lease: Option<Seen>,
    written: u64,
    replicas: Vec<Replica>,
}

impl World {
    fn new() -> Self {
        let replica = |index: u64| Replica {
            election: Election::new(format!("{index}-0"), LeaseDuration::DEFAULT),
            lead: index * 1_000_003,
            stands_still_until: 0,
            is_gone: false,
            is_deaf: false,
            delay: 20,
            request: None,
            born: 0,
        };
        Self {
            now: 0,
            lease: None,
            written: 0,
            replicas: (0..3).map(replica).collect(),
        }
    }

    fn strike(&mut self, index: usize, fault: Fault) {
        let now = self.now;
        let replica = &mut self.replicas[index];
        match fault {
            Fault::Pause(time) => replica.stands_still_until = now + time,
            Fault::Slow(delay) => replica.delay = delay,
            Fault::Deaf => replica.is_deaf = true,
            Fault::Restart(time) => {
                // What it sent may arrive all the same.
                replica.stands_still_until = now + time;
                replica.is_gone = true;
            }
            Fault::Resign => {
                if let Some((version, transitions)) = replica.election.resign() {
                    let given = Seen {
                        transitions,
                        ..held_by(None, "")
                    };
                    let _ = self.write(&version, given);
                }
                let replica = &mut self.replicas[index];
                replica.stands_still_until = now + 1_000;
                replica.is_gone = true;
            }
        }
    }

    fn write(&mut self, version: &str, seen: Seen) -> Result<Option<Seen>, ()> {
        let stands = self.lease.as_ref().map(|lease| lease.version.as_str());
        if stands.unwrap_or_default() != version {
            return Err(());
        }
        self.written += 1;
        let version = self.written.to_string();
        self.lease = Some(Seen { version, ..seen });
        Ok(self.lease.clone())
    }

    fn arrive(&mut self, index: usize) {
        let me = self.replicas[index].election.me.clone();
        let Some(request) = &self.replicas[index].request else {
            return;
        };
        if request.answer.is_some() || self.now < request.arrives {
            return;
        }
        let mine = |transitions| Seen {
            transitions,
            ..held_by(Some(&me), "")
        };
        let answer = match request.action.clone() {
            Action::Wait(_) => unreachable!("nothing is sent while waiting"),
            Action::Look => Ok(self.lease.clone()),
            Action::Create => self.write("", mine(0)),
            Action::Take {
                version,
                transitions,
            }
            | Action::Renew {
                version,
                transitions,
            } => self.write(&version, mine(transitions)),
        };
        if let Some(request) = &mut self.replicas[index].request {
            request.answer = Some(answer);
        }
    }

    fn act(&mut self, index: usize) {
        let (true_now, lease) = (self.now, self.lease.clone());
        let replica = &mut self.replicas[index];
        if true_now < replica.stands_still_until {
            return;
        }
        if replica.is_gone {
            replica.is_gone = false;
            replica.is_deaf = false;
            replica.born += 1;
            replica.request = None;
            let name = format!("{index}-{}", replica.born);
            replica.election = Election::new(name, LeaseDuration::DEFAULT);
        }
        let now = at(true_now + replica.lead);
        match replica.request.take() {
            Some(request) if request.answer.is_some() && request.answered <= true_now => {
                match (request.action, request.answer) {
                    (Action::Look, Some(Ok(seen))) => replica.election.saw(seen, now),
                    (_, Some(Ok(Some(seen)))) => replica.election.wrote(seen, request.sent),
                    _ => replica.election.lost_the_race(now),
                }
            }
            // As long as it waits for an answer at most.
            Some(request) if now.since(request.sent) > Duration::from_secs(5) => {
                replica.election.failed(now);
            }
            Some(request) => replica.request = Some(request),
            None if !replica.is_deaf && !replica.election.is_mine() && true_now % 1_000 == 0 => {
                replica.election.saw(lease, now);
            }
            None => match replica.election.next(now) {
                Action::Wait(_) => {}
                action => {
                    replica.request = Some(Request {
                        action,
                        sent: now,
                        arrives: true_now + replica.delay,
                        answer: None,
                        answered: true_now + 2 * replica.delay,
                    });
                }
            },
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        for index in 0..self.replicas.len() {
            self.arrive(index);
            self.act(index);
        }
        let leaders = self.leaders();
        assert!(leaders <= 1, "{leaders} lead at {}", self.now);
    }

    /// How many would pass the check now: those that stand still, too, should they wake up.
    fn leaders(&self) -> usize {
        let leads = |replica: &&Replica| {
            !replica.is_gone && at(self.now + replica.lead) < replica.election.until()
        };
        self.replicas.iter().filter(leads).count()
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0..40_000u64).prop_map(Fault::Pause),
        (0..40_000u64).prop_map(Fault::Restart),
        (0..4_000u64).prop_map(Fault::Slow),
        Just(Fault::Deaf),
        Just(Fault::Resign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn two_never_lead_at_once_and_after_trouble_one_does(
        faults in prop::collection::vec((0..TROUBLE, 0..3usize, fault()), 0..24),
    ) {
        let mut world = World::new();
        while world.now < TROUBLE {
            for (when, index, fault) in &faults {
                if (world.now..world.now + TICK).contains(when) {
                    world.strike(*index, *fault);
                }
            }
            world.tick();
        }
        for replica in &mut world.replicas {
            replica.delay = 20;
        }
        while world.now < TROUBLE + CALM {
            world.tick();
        }
        assert_eq!(world.leaders(), 1);
    }
}
