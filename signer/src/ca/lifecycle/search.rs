//! Every interleaving, up to a bound: steps, crashes, API servers that hear of the trust bundle late, operators, and clocks
//! that jump by a day and by a year.
//!
//! A world has one record, a fast and a slow API server, and any number of replicas. Each action is one of its atomic
//! parts: a crash between two is that the second does not come. Of the replicas it is enough to keep the one whose write
//! comes next, since compare-and-swap brings the writes of all others to nothing, and that each may still sign by what it
//! read before: in every state, every record of the last moment signs the longest leaf that it allows. More leaves make
//! no step possible that was not possible without them, so that no search over who signs when is needed.
//!
//! The search asserts the invariants in every state, and that from every state a calm world comes to the same end: one CA
//! signs, and rotations go on.

use super::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

/// The lengths of a quarter, in seconds of the model. A "day" is as long as CAs are kept after their last leaf.
const DAY: i64 = 1;
const YEAR: i64 = 20;
const QUARTER: Settings = Settings {
    root: Root::None,
    lifetime: Length::seconds(7),
    activate_every: Length::seconds(4),
    prepare_after: Length::seconds(2),
    publish_before: Length::seconds(1),
    keep_after_last_leaf: Length::seconds(1),
    longest_leaf: Length::seconds(1),
};

/// Where the API servers' clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Clocks {
    /// Right, whatever the signers' says.
    Apart,
    /// The signers': the standalone.
    Shared,
}

#[derive(Clone, Debug)]
struct World {
    clocks: Clocks,
    time: i64,
    /// What the signers' clock is off.
    offset: i64,
    record: Lifecycle,
    /// What the API server that hears of it last trusts. The other one always has the trust bundle of the moment.
    laggard: BTreeSet<CaId>,
    /// Records of the last moment: some replica may not have heard of a later one.
    recent: Vec<Lifecycle>,
    /// What the replica that writes next has shown, since it read the record.
    proof: Option<Proof>,
    /// The end of the longest-lived leaf of each CA, by the clock that it was signed by.
    leaves: BTreeMap<CaId, i64>,
    jumps: u8,
    wishes: u8,
    ceremonies: u8,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Advance,
    Jump(i64),
    /// The laggard takes the trust bundle of the moment.
    Spread,
    /// A canary authenticates everywhere.
    Prove,
    /// The step that is due is written, by compare-and-swap.
    Work,
    RollBack,
    Rotate,
    Import,
    Distrust,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl World {
    fn new(clocks: Clocks, root: Root) -> Self {
        let schedule = Schedule::new(Settings { root, ..QUARTER }).unwrap();
        let lifetime = Lifetime {
            not_before: at(0),
            not_after: at(i64::from(QUARTER.lifetime.as_secs())),
        };
        let mut world = Self {
            clocks,
            time: 0,
            offset: 0,
            record: Lifecycle::adopt(schedule, root, lifetime, at(0)),
            laggard: BTreeSet::new(),
            recent: Vec::new(),
            proof: None,
            leaves: BTreeMap::new(),
            jumps: 0,
            wishes: 0,
            ceremonies: 0,
        };
        world.laggard = world.trusted();
        world
    }

    fn trusted(&self) -> BTreeSet<CaId> {
        let trusted = self.record.cas.iter().filter(|ca| ca.is_trusted());
        trusted.map(Ca::id).collect()
    }

    fn reading(&self) -> Timestamp {
        at(self.time + self.offset)
    }

    /// What the API servers hold for the time.
    fn server_time(&self) -> i64 {
        match self.clocks {
            Clocks::Apart => self.time,
            Clocks::Shared => self.time + self.offset,
        }
    }

    /// What tells worlds apart: not how they came about.
    fn key(&self) -> u128 {
        fn record(record: &Lifecycle, hasher: &mut DefaultHasher) {
            for ca in &record.cas {
                if ca.state != State::Removed || ca.distrusted.is_some() {
                    ca.hash(hasher);
                }
            }
            (record.next_id, record.asked, record.held).hash(hasher);
            (record.seen, record.read, record.steady_since).hash(hasher);
        }
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, self.time, self.offset).hash(&mut hasher);
            (self.jumps, self.wishes, self.ceremonies).hash(&mut hasher);
            (&self.laggard, &self.leaves).hash(&mut hasher);
            self.proof
                .map(|proof| (proof.ca, proof.at))
                .hash(&mut hasher);
            record(&self.record, &mut hasher);
            for recent in &self.recent {
                (recent.active().map(Ca::id), recent.seen).hash(&mut hasher);
            }
            u128::from(hasher.finish())
        };
        hash(1) << 64 | hash(2)
    }

    fn write(&mut self, mut record: Lifecycle) {
        // How it came about is of no interest here.
        record.journal.clear();
        let signs = |record: &Lifecycle| (record.active().map(Ca::id), record.seen);
        let old = std::mem::replace(&mut self.record, record);
        if signs(&old) != signs(&self.record) {
            self.recent.push(old);
        }
        // Whoever shows something shows it of the record that it read.
        self.proof = None;
    }

    /// Does it; whether anything came of it.
    fn act(&mut self, action: Action) -> bool {
        let now = self.reading();
        match action {
            Action::Advance => {
                self.time += 1;
                // Neither what was read of the record nor a proof is held to be true for long.
                self.recent.clear();
                self.proof = None;
                true
            }
            Action::Jump(offset) => {
                self.jumps += 1;
                std::mem::replace(&mut self.offset, offset) != offset
            }
            Action::Spread => {
                let trusted = self.trusted();
                let changed = self.laggard != trusted;
                self.laggard = trusted;
                changed
            }
            Action::Prove => self.prove(now),
            Action::Work => self.work(now),
            Action::RollBack => self.wish(Event::RolledBack, now),
            Action::Rotate => self.wish(Event::Asked(Asked::Through), now),
            Action::Distrust => {
                let active = self.record.active().map(Ca::id);
                active.is_some_and(|id| self.wish(Event::Distrusted(id), now))
            }
            Action::Import => {
                let awaiting = self.record.newcomer().map(|ca| (ca.id, ca.state));
                let Some((id, State::AwaitingRoot)) = awaiting else {
                    return false;
                };
                self.ceremonies += 1;
                // The ceremony's clock is right.
                let lifetime = Lifetime {
                    not_before: at(self.server_time()),
                    not_after: at(self.server_time() + i64::from(QUARTER.lifetime.as_secs())),
                };
                let mut record = self.record.clone();
                record.apply(Event::Imported(id, lifetime), now).unwrap();
                self.write(record);
                true
            }
        }
    }

    fn wish(&mut self, event: Event, now: Timestamp) -> bool {
        let mut record = self.record.clone();
        if record.apply(event, now).is_err() {
            return false;
        }
        self.wishes += 1;
        self.write(record);
        true
    }

    fn due(&self, now: Timestamp) -> impl Iterator<Item = Step> + use<> {
        let agenda = self.record.agenda(now).into_iter();
        agenda.filter(move |due| due.at <= now).map(|due| due.step)
    }

    /// Whether a certificate of this CA authenticates everywhere now.
    fn authenticates(&self, ca: CaId, now: Timestamp) -> bool {
        let servers = at(self.server_time());
        let lifetime = self.record.ca(ca).and_then(Ca::lifetime);
        // The canary's own dates, and its CA's, by the API servers' clock.
        now == servers && self.everyone_trusts(ca) && lifetime.is_some_and(|it| it.contains(now))
    }

    fn prove(&mut self, now: Timestamp) -> bool {
        let proof = self
            .due(now)
            .filter_map(|step| step.needs_proof_of(&self.record, now))
            .find(|ca| self.authenticates(*ca, now))
            .map(|ca| Proof { ca, at: now });
        let changed = self.proof.is_none() && proof.is_some();
        self.proof = self.proof.or(proof);
        changed
    }

    /// Writes the first step that is due and can be made; one that is blocked holds up no other.
    fn work(&mut self, now: Timestamp) -> bool {
        let seen = self.record.is_to_be_seen(now).then_some(Event::Seen);
        let events = self.due(now).filter_map(|step| self.event(step, now));
        let events: Vec<Event> = events.chain(seen).collect();
        for event in events {
            let mut record = self.record.clone();
            if record.apply(event, now).is_ok() {
                self.write(record);
                return true;
            }
        }
        false
    }

    fn event(&self, step: Step, now: Timestamp) -> Option<Event> {
        Some(match step {
            Step::Activate(_) => Event::Activated(self.proof?),
            Step::AskRoot(id) => Event::AskedRoot(id),
            Step::AwaitRoot(_) => return None,
            Step::Discard(id) => Event::Discarded(id, self.proof),
            Step::Prepare => {
                let made = self.record.schedule().settings().root != Root::Ceremony;
                let lifetime = Lifetime {
                    not_before: now,
                    not_after: after(now, QUARTER.lifetime),
                };
                Event::Prepared(made.then_some(lifetime))
            }
            Step::Publish(id) => Event::Published(id),
            Step::Remove(id) => Event::Removed(id, self.proof?),
        })
    }

    /// Every replica signs the longest leaf that it may, by what it has read.
    fn sign(&mut self) {
        let now = self.reading();
        for record in self.recent.iter().chain([&self.record]) {
            let Ok(ca) = record.may_sign(now) else {
                continue;
            };
            let end = after(now, ca.longest_leaf);
            // Not past the CA's own end.
            if !ca.lifetime.unwrap().contains(end) {
                continue;
            }
            assert!(
                self.is_distrusted(ca.id) || self.everyone_trusts(ca.id),
                "signed by {}, which an API server does not trust",
                ca.id
            );
            let longest = self.leaves.entry(ca.id).or_insert(i64::MIN);
            *longest = (*longest).max(end.as_second());
        }
    }

    fn everyone_trusts(&self, id: CaId) -> bool {
        self.laggard.contains(&id) && self.trusted().contains(&id)
    }

    fn is_distrusted(&self, id: CaId) -> bool {
        self.record.ca(id).is_some_and(|ca| ca.distrusted.is_some())
    }

    fn assert_invariants(&self) {
        self.record.check().unwrap();
        let distrusted = self.record.cas.iter().any(|ca| ca.distrusted.is_some());
        assert!(
            distrusted || self.record.active().is_some(),
            "no CA is active"
        );
        for (id, end) in &self.leaves {
            // One that has really ended does not live again because a clock goes back.
            let alive = self.server_time().max(self.time) <= *end;
            if alive && !self.is_distrusted(*id) {
                assert!(
                    self.everyone_trusts(*id),
                    "a living leaf of {id} is cut off"
                );
            }
        }
    }

    /// Nobody jumps, crashes or wishes any more: a rotation goes on as it should.
    fn assert_calm_end(mut self, known: &mut HashSet<u128>) {
        self.offset = 0;
        self.wishes = 0;
        self.jumps = 0;
        self.ceremonies = 0;
        self.recent.clear();
        self.proof = None;
        // Longer than whatever a wrong clock left behind can last.
        let end = self.time + 4 * i64::from(QUARTER.lifetime.as_secs());
        let mut passed = Vec::new();
        while self.time < end {
            if self.time + 2 * i64::from(QUARTER.lifetime.as_secs()) < end {
                let key = self.key();
                if known.contains(&key) {
                    known.extend(passed);
                    return;
                }
                passed.push(key);
            }
            if self.record.held().is_some() {
                self.act(Action::Rotate);
            }
            for _ in 0..12 {
                let mut moved = self.act(Action::Import);
                self.act(Action::Spread);
                self.act(Action::Prove);
                moved |= self.act(Action::Work);
                self.sign();
                self.assert_invariants();
                if !moved {
                    break;
                }
            }
            self.act(Action::Advance);
            self.sign();
            self.assert_invariants();
        }
        let now = self.reading();
        let young = |ca: &Ca| {
            let age = now.duration_since(ca.activated.unwrap());
            age.as_secs() <= i64::from(QUARTER.activate_every.as_secs()) + 1
        };
        let active = self.record.active();
        assert!(
            active.is_some_and(|ca| ca.can_sign(now) && young(ca)),
            "a calm world does not go on: {self:#?}"
        );
        let living = self
            .record
            .cas
            .iter()
            .filter(|ca| ca.state != State::Removed);
        assert!(living.count() <= 3, "CAs pile up: {self:#?}");
        known.extend(passed);
    }
}

/// How far a search goes.
struct Bound {
    name: &'static str,
    time: i64,
    /// Clocks jump from this time on.
    jumps_from: i64,
    jumps: u8,
    wishes: u8,
}

/// How many certificates the security team makes.
const CEREMONIES: u8 = 2;

fn actions(world: &World, bound: &Bound) -> Vec<Action> {
    let mut actions = vec![Action::Spread, Action::Prove, Action::Work];
    if world.ceremonies < CEREMONIES {
        actions.push(Action::Import);
    }
    if world.time < bound.time {
        actions.push(Action::Advance);
    }
    if world.jumps < bound.jumps && world.time >= bound.jumps_from {
        actions.extend([0, DAY, -DAY, YEAR, -YEAR].map(Action::Jump));
    }
    if world.wishes < bound.wishes {
        actions.extend([Action::RollBack, Action::Rotate, Action::Distrust]);
    }
    actions
}

/// Visits every world that can be reached; how many.
fn search(first: World, bound: &Bound) -> usize {
    let mut seen = HashSet::from([first.key()]);
    let mut calm = HashSet::new();
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        world.clone().assert_calm_end(&mut calm);
        for action in actions(&world, bound) {
            let mut next = world.clone();
            if !next.act(action) {
                continue;
            }
            next.sign();
            if seen.insert(next.key()) {
                next.assert_invariants();
                open.push(next);
            }
        }
    }
    seen.len()
}

#[test]
#[expect(
    clippy::print_stderr,
    reason = "how far a search went is a part of what it says"
)]
fn no_interleaving_of_steps_crashes_and_clock_jumps_hurts_anyone() {
    let mut all = 0;
    for (clocks, root) in [
        (Clocks::Apart, Root::None),
        (Clocks::Apart, Root::Ceremony),
        (Clocks::Shared, Root::None),
    ] {
        let quiet = Bound {
            name: "nothing but crashes",
            time: 8,
            jumps_from: 0,
            jumps: 0,
            wishes: 0,
        };
        for bound in [
            Bound {
                name: "a jump while the next one is prepared",
                time: 5,
                jumps: 1,
                ..quiet
            },
            Bound {
                name: "a jump while the old one retires",
                time: 7,
                jumps_from: 6,
                jumps: 1,
                ..quiet
            },
            Bound {
                name: "an operator",
                time: 5,
                wishes: 1,
                ..quiet
            },
            quiet,
        ] {
            let states = search(World::new(clocks, root), &bound);
            eprintln!(
                "{clocks:?} clocks, root {}, {}: {states} states",
                root.name(),
                bound.name
            );
            all += states;
        }
    }
    eprintln!("{all} states in all");
    assert!(all > 10_000, "the search is not one: {all} states");
}
