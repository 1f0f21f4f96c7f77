//! Moves: each is made whole or refused.

use super::{
    Asked, Ca, CaId, Cause, JOURNAL, Lifecycle, Lifetime, Move, PROOF_LIFETIME, Proof, REMOVED,
    Root, Schedule, State, after,
};
use jiff::Timestamp;

/// What happens to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The newcomer takes over.
    Activated(Proof),
    /// An operator wants a rotation to go on.
    Asked(Asked),
    /// The security team was asked.
    AskedRoot(CaId),
    /// A newcomer that cannot serve is thrown away.
    Discarded(CaId, Option<Proof>),
    /// A CA's key is known to others, or may be.
    Distrusted(CaId),
    /// The security team's certificate for a CA came.
    Imported(CaId, Lifetime),
    /// A new CA has its key, and its certificate where no ceremony is due.
    Prepared(Option<Lifetime>),
    /// A CA entered the trust bundle.
    Published(CaId),
    /// A retiring CA is removed.
    Removed(CaId, Proof),
    /// An operator goes back one step.
    RolledBack,
    /// The settings are others.
    Scheduled(Schedule),
    /// A signer reads the time.
    Seen,
}

/// Why a move is refused. Each message completes "failed to …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Leaves of it may still be alive.
    #[error("take {0} back: leaves of it may live until {1}")]
    Living(CaId, Timestamp),
    /// No CA has this id.
    #[error("find {0}: the record has no such CA")]
    NoSuchCa(CaId),
    /// There is nothing to go back to.
    #[error("go back: no rotation is under way, and the CA before is gone or has ended")]
    NothingToRollBack,
    /// It was not published for long enough.
    #[error("do this before {0}")]
    TooEarly(Timestamp),
    /// The certificate does not prove what it must.
    #[error("go on without a fresh canary certificate of {0}")]
    Unproven(CaId),
    /// It is in a state that this does not follow from.
    #[error("do this with {0}: it is {1}")]
    WrongState(CaId, State),
    /// Something else has to be done first.
    #[error("prepare another CA while {0} is {1}")]
    UnderWay(CaId, State),
}

impl Lifecycle {
    /// Makes a move.
    ///
    /// # Errors
    /// When it may not be made now; nothing is changed then.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Result<(), Refused> {
        match event {
            Event::Activated(proof) => self.activate(proof, now)?,
            Event::Asked(asked) => {
                self.asked = Some(asked);
                self.held = None;
            }
            Event::AskedRoot(id) => {
                let ca = self.in_state(id, &[State::Prepared])?;
                if ca.lifetime.is_some() {
                    return Err(Refused::WrongState(id, ca.state));
                }
                self.set_state(id, State::AwaitingRoot, Cause::Schedule, now);
                self.done(false);
            }
            Event::Discarded(id, proof) => self.discard(id, proof, now)?,
            Event::Distrusted(id) => self.distrust(id, now)?,
            Event::Imported(id, lifetime) => {
                let ca = self.in_state(id, &[State::AwaitingRoot])?;
                ca.lifetime = Some(lifetime);
                ca.published = Some(now);
                self.set_state(id, State::Published, Cause::Imported, now);
            }
            Event::Prepared(lifetime) => self.prepared(lifetime, now)?,
            Event::Published(id) => {
                let ca = self.in_state(id, &[State::Prepared])?;
                if ca.lifetime.is_none() {
                    return Err(Refused::WrongState(id, ca.state));
                }
                ca.published = Some(now);
                self.set_state(id, State::Published, Cause::Schedule, now);
                self.done(false);
            }
            Event::Removed(id, proof) => self.remove(id, proof, now)?,
            Event::RolledBack => self.roll_back(now)?,
            Event::Scheduled(schedule) => self.schedule = schedule,
            Event::Seen => {}
        }
        self.look_at_the_clock(now);
        Ok(())
    }

    /// A clock that jumped, or a signer that was away for long, is not to be believed for a while.
    fn look_at_the_clock(&mut self, now: Timestamp) {
        if self.has_jumped(now) {
            self.steady_since = now;
        }
        self.read = now;
        self.seen = self.seen.max(now);
    }

    fn prepared(&mut self, lifetime: Option<Lifetime>, now: Timestamp) -> Result<(), Refused> {
        if let Some(newcomer) = self.newcomer() {
            return Err(Refused::UnderWay(newcomer.id, newcomer.state));
        }
        let settings = self.schedule.settings();
        let id = self.next_id();
        let ca = Ca {
            lifetime,
            ..Ca::new(id, settings.root, now, settings.longest_leaf)
        };
        self.next_id = self.next_id.saturating_add(1);
        self.cas.push(ca);
        self.record(id, None, State::Prepared, Cause::Schedule, now);
        self.done(false);
        Ok(())
    }

    fn activate(&mut self, proof: Proof, now: Timestamp) -> Result<(), Refused> {
        let id = proof.ca;
        let newcomer = self.in_state(id, &[State::Published])?.clone();
        self.prove(id, Some(proof), now)?;
        if !newcomer.can_sign(now) {
            return Err(Refused::WrongState(id, newcomer.state));
        }
        if let Some(due) = self
            .agenda(now)
            .iter()
            .find(|due| due.step.ca() == Some(id))
            && due.at > now
        {
            return Err(Refused::TooEarly(due.at));
        }
        if self.held.is_some() {
            return Err(Refused::WrongState(id, newcomer.state));
        }
        if let Some(old) = self.active().map(Ca::id) {
            self.stop_signing(old, now);
            self.set_state(old, State::Retiring, Cause::Followed, now);
        }
        let longest_leaf = self.schedule.settings().longest_leaf;
        if let Some(ca) = self.ca_mut(id) {
            ca.activated = Some(now);
            // Leaves of an earlier time as the active one may be longer; the removal counts from when it retires.
            ca.longest_leaf = ca
                .leaves_end
                .map_or(longest_leaf, |_| ca.longest_leaf.max(longest_leaf));
            ca.retired = None;
            ca.leaves_end = None;
        }
        self.set_state(id, State::Active, Cause::Schedule, now);
        self.done(true);
        Ok(())
    }

    /// The active CA signs no more: from the record alone it is known when its last leaf ends.
    fn stop_signing(&mut self, id: CaId, now: Timestamp) {
        let latest = self.seen.max(now);
        if let Some(ca) = self.ca_mut(id) {
            let last = after(latest, ca.longest_leaf);
            ca.leaves_end = Some(
                ca.lifetime
                    .map_or(last, |lifetime| last.min(lifetime.not_after)),
            );
            ca.retired = Some(now);
        }
    }

    fn remove(&mut self, id: CaId, proof: Proof, now: Timestamp) -> Result<(), Refused> {
        let keep = self.schedule.settings().keep_after_last_leaf;
        let ca = self.in_state(id, &[State::Retiring])?;
        if ca.may_have_living_leaves(now, keep) {
            return Err(Refused::TooEarly(
                ca.leaves_end.map_or(now, |end| after(end, keep)),
            ));
        }
        let steady = self.steady_at(now);
        if now < steady {
            return Err(Refused::TooEarly(steady));
        }
        let active = self.active().map(Ca::id).ok_or(Refused::Unproven(id))?;
        self.prove(active, Some(proof), now)?;
        if self.held.is_some() {
            return Err(Refused::WrongState(id, State::Retiring));
        }
        self.forget_key(id, Cause::Schedule, now);
        Ok(())
    }

    fn discard(&mut self, id: CaId, proof: Option<Proof>, now: Timestamp) -> Result<(), Refused> {
        let ca = self
            .in_state(id, &[State::Prepared, State::Published])?
            .clone();
        let step = super::Step::Discard(id);
        if !self.agenda(now).iter().any(|due| due.step == step) {
            return Err(Refused::WrongState(id, ca.state));
        }
        if let Some(needed) = step.needs_proof_of(self, now) {
            self.prove(needed, proof, now)?;
        }
        self.forget_key(id, Cause::Discarded, now);
        Ok(())
    }

    fn distrust(&mut self, id: CaId, now: Timestamp) -> Result<(), Refused> {
        let ca = self.ca(id).ok_or(Refused::NoSuchCa(id))?;
        if ca.state == State::Removed {
            return Err(Refused::WrongState(id, ca.state));
        }
        self.forget_key(id, Cause::Distrusted, now);
        if let Some(ca) = self.ca_mut(id) {
            ca.distrusted = Some(now);
        }
        // Whatever an operator held back, a CA that signs is needed now.
        self.held = None;
        Ok(())
    }

    fn roll_back(&mut self, now: Timestamp) -> Result<(), Refused> {
        let keep = self.schedule.settings().keep_after_last_leaf;
        if let Some(newcomer) = self.newcomer().cloned() {
            let id = newcomer.id;
            match newcomer.state {
                State::Published if newcomer.may_have_living_leaves(now, keep) => {
                    let end = newcomer.leaves_end.map_or(now, |end| after(end, keep));
                    return Err(Refused::Living(id, end));
                }
                State::Published => {
                    if let Some(ca) = self.ca_mut(id) {
                        ca.published = None;
                    }
                    self.set_state(id, State::Prepared, Cause::RolledBack, now);
                }
                State::AwaitingRoot => {
                    self.set_state(id, State::Prepared, Cause::RolledBack, now);
                }
                State::Prepared | State::Active | State::Retiring | State::Removed => {
                    self.forget_key(id, Cause::RolledBack, now);
                }
            }
        } else {
            self.return_to_former(now)?;
        }
        self.held = Some(now);
        self.asked = None;
        Ok(())
    }

    /// The CA before signs again; the present one stays trusted, for its leaves.
    fn return_to_former(&mut self, now: Timestamp) -> Result<(), Refused> {
        let former = self
            .cas
            .iter()
            .filter(|ca| ca.state == State::Retiring && ca.can_sign(now))
            .max_by_key(|ca| ca.retired)
            .map(Ca::id)
            .ok_or(Refused::NothingToRollBack)?;
        let present = self.active().map(Ca::id);
        if let Some(present) = present {
            self.stop_signing(present, now);
            if let Some(ca) = self.ca_mut(present) {
                ca.published = Some(now);
            }
            self.set_state(present, State::Published, Cause::RolledBack, now);
        }
        if let Some(ca) = self.ca_mut(former) {
            ca.activated = Some(now);
            ca.retired = None;
            ca.leaves_end = None;
        }
        self.set_state(former, State::Active, Cause::RolledBack, now);
        Ok(())
    }

    /// The CA's key is of no use any more.
    fn forget_key(&mut self, id: CaId, cause: Cause, now: Timestamp) {
        if let Some(ca) = self.ca_mut(id) {
            ca.removed = Some(now);
        }
        self.set_state(id, State::Removed, cause, now);
        let surplus = self
            .cas
            .iter()
            .filter(|ca| ca.state == State::Removed)
            .count()
            .saturating_sub(REMOVED);
        let oldest: Vec<CaId> = self
            .cas
            .iter()
            .filter(|ca| ca.state == State::Removed)
            .map(Ca::id)
            .take(surplus)
            .collect();
        self.cas.retain(|ca| !oldest.contains(&ca.id));
    }

    fn in_state(&mut self, id: CaId, states: &[State]) -> Result<&mut Ca, Refused> {
        let ca = self.ca_mut(id).ok_or(Refused::NoSuchCa(id))?;
        if states.contains(&ca.state) {
            Ok(ca)
        } else {
            Err(Refused::WrongState(id, ca.state))
        }
    }

    fn prove(&self, id: CaId, proof: Option<Proof>, now: Timestamp) -> Result<(), Refused> {
        let fresh = proof.is_some_and(|proof| {
            let age = now.duration_since(proof.at);
            proof.ca == id && !age.is_negative() && age <= PROOF_LIFETIME
        });
        if fresh {
            Ok(())
        } else {
            Err(Refused::Unproven(id))
        }
    }

    fn ca_mut(&mut self, id: CaId) -> Option<&mut Ca> {
        self.cas.iter_mut().find(|ca| ca.id == id)
    }

    pub(super) fn set_state(&mut self, id: CaId, to: State, cause: Cause, now: Timestamp) {
        let Some(ca) = self.ca_mut(id) else { return };
        let from = std::mem::replace(&mut ca.state, to);
        if from.is_trusted() != to.is_trusted() {
            self.trust_changes = self.trust_changes.saturating_add(1);
        }
        self.record(id, Some(from), to, cause, now);
    }

    fn record(&mut self, ca: CaId, from: Option<State>, to: State, cause: Cause, at: Timestamp) {
        self.moves = self.moves.saturating_add(1);
        self.journal.push(Move {
            number: self.moves,
            at,
            ca,
            from,
            to,
            cause,
        });
        let surplus = self.journal.len().saturating_sub(JOURNAL);
        self.journal.drain(..surplus);
    }

    /// An operator's wish is fulfilled: by one step, or by a CA that became active.
    fn done(&mut self, activated: bool) {
        if activated || self.is_asked_step() {
            self.asked = None;
        }
    }
}

impl Root {
    /// In a word, as settings have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ceremony => "ceremony",
            Self::None => "none",
            Self::Own => "own",
        }
    }
}
