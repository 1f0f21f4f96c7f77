//! The life cycle of issuing CAs: pure. It knows no clock, no key, no certificate and no network, only when what
//! happened, and says what is to happen next.
//!
//! ```text
//! prepared ─┬──────────────────▶ published ──▶ active ──▶ retiring ──▶ removed
//!           └─▶ awaiting-root ──────▲
//! ```
//!
//! [`Lifecycle`] is one value in one record. A move is a pure function of it, an [`Event`] and the time; the record is
//! then written by compare-and-swap, so that a move happened whole or not at all, whoever else tried one. [`agenda`]
//! says which step is due and why, [`apply`] makes a move or refuses it.
//!
//! Three rules keep a rotation from hurting anyone, whatever crashes and whatever the clock says:
//!
//! - **A proof comes before every step that cannot be taken back.** A CA becomes active, and an old one is removed, only
//!   right after a certificate of the CA that signs from then on authenticated at every API server. That shows that they
//!   trust it, and that their clocks agree with this one: a clock that jumped by a year moves nothing.
//! - **The record bounds the leaves.** A leaf is signed only while the record was marked as seen lately ([`may_sign`]),
//!   so that its end is known from the record alone, even if another replica signed it or the clock went back since.
//! - **Trust outlives leaves.** A CA leaves the trust bundle when no leaf of it can be alive and the clock has been
//!   steady for a while, or when it is distrusted.
//!
//! [`agenda`]: Lifecycle::agenda
//! [`apply`]: Lifecycle::apply
//! [`may_sign`]: Lifecycle::may_sign

mod agenda;
mod apply;
mod ca;
pub mod schedule;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use agenda::{Due, Step, Why};
pub use apply::{Event, Refused};
pub use ca::{Ca, CaId, CaIdError, Lifetime, State};
pub use schedule::{Length, Root, Schedule, ScheduleError, Settings};

/// How many moves are remembered.
const JOURNAL: usize = 128;
/// How many removed CAs are remembered.
const REMOVED: usize = 128;
/// For how long a proof counts.
pub const PROOF_LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// What an operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// One step, now.
    Step,
    /// Every step until another CA is active, each as soon as it is safe.
    Through,
}

/// One move, for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Its number in the record, from 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Which CA.
    pub ca: CaId,
    /// From where; nothing for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// To where.
    pub to: State,
    /// What moved it.
    pub cause: Cause,
}

/// What moved a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It was the record's first.
    Adopted,
    /// It can never serve.
    Discarded,
    /// Its key is known to others, or may be.
    Distrusted,
    /// Another CA took over.
    Followed,
    /// Its certificate came from the security team.
    Imported,
    /// An operator went back.
    RolledBack,
    /// It was due.
    Schedule,
}

/// All CAs of a record, and what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    schedule: Schedule,
    /// In the order of their making.
    cas: Vec<Ca>,
    next_id: u32,
    moves: u64,
    /// How often the set of trusted CAs changed.
    trust_changes: u64,
    journal: Vec<Move>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<Asked>,
    /// Since when nothing moves by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<Timestamp>,
    /// The latest time that a signer read from its clock.
    seen: Timestamp,
    /// The last one.
    read: Timestamp,
    /// Since when its clock has gone on without a jump, and the record was looked at all the time.
    steady_since: Timestamp,
}

/// That a certificate of a CA authenticated at every API server that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whose.
    pub ca: CaId,
    /// When.
    pub at: Timestamp,
}

/// Why a leaf may not be signed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// No CA is active.
    #[error("no CA is active")]
    NoActive,
    /// The active one has ended, or begins later.
    #[error("the active CA {0} is not valid now")]
    NotValid(CaId),
    /// The record was not marked as seen for long.
    #[error("the record of the CA was last seen at {0}")]
    Stale(Timestamp),
}

/// A record that no sequence of moves leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Two sign, or two are to come.
    #[error("more than one CA is {0}")]
    Several(State),
    /// Ids that are not in order.
    #[error("the CAs' ids are not in order")]
    Order,
    /// A CA without what its state needs.
    #[error("{0} has no {1}, and is {2}")]
    Missing(CaId, &'static str, State),
}

impl Lifecycle {
    /// Of a new record: nothing is there yet.
    #[must_use]
    pub fn new(schedule: Schedule, now: Timestamp) -> Self {
        Self {
            schedule,
            cas: Vec::new(),
            next_id: 1,
            moves: 0,
            trust_changes: 0,
            journal: Vec::new(),
            asked: None,
            held: None,
            seen: now,
            read: now,
            steady_since: now,
        }
    }

    /// Of a CA that signs already.
    #[must_use]
    pub fn adopt(schedule: Schedule, root: Root, lifetime: Lifetime, now: Timestamp) -> Self {
        let mut new = Self::new(schedule, now);
        let id = CaId::FIRST;
        let since = lifetime.not_before.min(now);
        new.next_id = 2;
        new.cas.push(Ca {
            lifetime: Some(lifetime),
            published: Some(since),
            activated: Some(since),
            ..Ca::new(id, root, since, new.schedule.settings().longest_leaf)
        });
        new.set_state(id, State::Active, Cause::Adopted, now);
        new.trust_changes = 1;
        new
    }

    /// The settings in force.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Its CAs, oldest first.
    #[must_use]
    pub fn cas(&self) -> &[Ca] {
        &self.cas
    }

    /// One of its CAs.
    #[must_use]
    pub fn ca(&self, id: CaId) -> Option<&Ca> {
        self.cas.iter().find(|ca| ca.id == id)
    }

    /// The one that signs.
    #[must_use]
    pub fn active(&self) -> Option<&Ca> {
        self.cas.iter().find(|ca| ca.state == State::Active)
    }

    /// The one that is to sign next.
    #[must_use]
    pub fn newcomer(&self) -> Option<&Ca> {
        self.cas.iter().find(|ca| ca.state.is_coming())
    }

    /// The id that the next CA will have.
    #[must_use]
    pub fn next_id(&self) -> CaId {
        CaId(self.next_id)
    }

    /// Its latest moves, oldest first.
    #[must_use]
    pub fn journal(&self) -> &[Move] {
        &self.journal
    }

    /// How often what is trusted changed: a later trust bundle has a higher number.
    #[must_use]
    pub fn trust_changes(&self) -> u64 {
        self.trust_changes
    }

    /// The set of trusted certificates changed by something that is not a CA of the life cycle: a root.
    pub fn count_change_of_trust(&mut self) {
        self.trust_changes = self.trust_changes.saturating_add(1);
    }

    /// What an operator asked for.
    #[must_use]
    pub fn asked(&self) -> Option<Asked> {
        self.asked
    }

    /// Since when nothing moves by itself.
    #[must_use]
    pub fn held(&self) -> Option<Timestamp> {
        self.held
    }

    /// The latest time that a signer read from its clock.
    #[must_use]
    pub fn seen(&self) -> Timestamp {
        self.seen
    }

    /// Which CA may sign a leaf now.
    ///
    /// # Errors
    /// When none may.
    pub fn may_sign(&self, now: Timestamp) -> Result<&Ca, CannotSign> {
        let active = self.active().ok_or(CannotSign::NoActive)?;
        let valid = active
            .lifetime
            .is_some_and(|lifetime| lifetime.contains(now));
        if !valid {
            return Err(CannotSign::NotValid(active.id));
        }
        let keep = self.schedule.settings().keep_after_last_leaf;
        if now > after(self.seen, keep) {
            return Err(CannotSign::Stale(self.seen));
        }
        Ok(active)
    }

    /// Whether the record is to be marked as seen.
    #[must_use]
    pub fn is_to_be_seen(&self, now: Timestamp) -> bool {
        let half = i64::from(self.schedule.settings().keep_after_last_leaf.as_secs() / 2);
        now.duration_since(self.read).abs() > SignedDuration::from_secs(half)
    }

    /// Checks what was read: every record that moves lead to passes.
    ///
    /// # Errors
    /// When no sequence of moves leads to it.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let count = |is: fn(&Ca) -> bool| self.cas.iter().filter(|ca| is(ca)).count();
        if count(|ca| ca.state == State::Active) > 1 {
            return Err(Inconsistent::Several(State::Active));
        }
        if count(|ca| ca.state.is_coming()) > 1 {
            return Err(Inconsistent::Several(State::Prepared));
        }
        let ordered = self.cas.is_sorted_by(|one, other| one.id < other.id);
        let last = self.cas.last().map_or(0, |ca| ca.id.0);
        if !ordered || last >= self.next_id {
            return Err(Inconsistent::Order);
        }
        for ca in &self.cas {
            for (what, is_there) in ca.needs() {
                if !is_there {
                    return Err(Inconsistent::Missing(ca.id, what, ca.state));
                }
            }
        }
        Ok(())
    }
}

/// A moment so much later.
fn after(time: Timestamp, length: Length) -> Timestamp {
    time.saturating_add(length.as_duration())
        .unwrap_or(Timestamp::MAX)
}

/// A moment so much earlier.
fn before(time: Timestamp, length: Length) -> Timestamp {
    time.saturating_sub(length.as_duration())
        .unwrap_or(Timestamp::MIN)
}
