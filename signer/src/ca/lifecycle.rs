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
pub mod schedule;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

pub use agenda::{Due, Step, Why};
pub use apply::{Event, Refused};
pub use schedule::{Length, Root, Schedule, ScheduleError, Settings};

/// How many moves are remembered.
const JOURNAL: usize = 128;
/// How many removed CAs are remembered.
const REMOVED: usize = 128;
/// For how long a proof counts.
pub const PROOF_LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// Which CA of a record: `ca-1` is its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaId(u32);

/// Not a CA's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a CA's id such as ca-3")]
pub struct CaIdError(String);

/// How far a CA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its key is there.
    Prepared,
    /// The security team is asked for its certificate.
    AwaitingRoot,
    /// It is trusted, and does not sign yet.
    Published,
    /// It signs.
    Active,
    /// It signs no more, and is trusted until its last leaf has ended.
    Retiring,
    /// Its key is destroyed.
    Removed,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifetime {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

/// An issuing CA's way so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ca {
    id: CaId,
    state: State,
    root: Root,
    made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifetime: Option<Lifetime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    activated: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Timestamp>,
    /// No leaf of it lives past this moment and the time that CAs are kept after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves_end: Option<Timestamp>,
    /// How long its leaves may live, from when it became active on.
    longest_leaf: Length,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distrusted: Option<Timestamp>,
}

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
        let id = CaId(1);
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

impl Ca {
    fn new(id: CaId, root: Root, made: Timestamp, longest_leaf: Length) -> Self {
        Self {
            id,
            state: State::Prepared,
            root,
            made,
            lifetime: None,
            published: None,
            activated: None,
            retired: None,
            leaves_end: None,
            longest_leaf,
            removed: None,
            distrusted: None,
        }
    }

    /// What its state asks for, and whether it is there.
    fn needs(&self) -> Vec<(&'static str, bool)> {
        let trusted = || {
            vec![
                ("certificate", self.lifetime.is_some()),
                ("time of publishing", self.published.is_some()),
            ]
        };
        match self.state {
            State::Prepared | State::AwaitingRoot | State::Removed => Vec::new(),
            State::Published => trusted(),
            State::Active => [
                trusted(),
                vec![("time of activation", self.activated.is_some())],
            ]
            .concat(),
            State::Retiring => [trusted(), vec![("last leaf", self.leaves_end.is_some())]].concat(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> CaId {
        self.id
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Who signs, or signed, its certificate.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// When its key was made.
    #[must_use]
    pub fn made(&self) -> Timestamp {
        self.made
    }

    /// The dates of its certificate, once it has one.
    #[must_use]
    pub fn lifetime(&self) -> Option<Lifetime> {
        self.lifetime
    }

    /// Since when it is trusted.
    #[must_use]
    pub fn published(&self) -> Option<Timestamp> {
        self.published
    }

    /// Since when it signs, or signed.
    #[must_use]
    pub fn activated(&self) -> Option<Timestamp> {
        self.activated
    }

    /// When it signed last.
    #[must_use]
    pub fn retired(&self) -> Option<Timestamp> {
        self.retired
    }

    /// When its last leaf ends, at the latest.
    #[must_use]
    pub fn leaves_end(&self) -> Option<Timestamp> {
        self.leaves_end
    }

    /// How long its leaves may live.
    #[must_use]
    pub fn longest_leaf(&self) -> Length {
        self.longest_leaf
    }

    /// When its key was destroyed.
    #[must_use]
    pub fn removed(&self) -> Option<Timestamp> {
        self.removed
    }

    /// When it was distrusted.
    #[must_use]
    pub fn distrusted(&self) -> Option<Timestamp> {
        self.distrusted
    }

    /// Whether leaves of it are to be accepted.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.state.is_trusted()
    }

    /// Whether a leaf of full length fits into its lifetime now.
    fn can_sign(&self, now: Timestamp) -> bool {
        self.lifetime.is_some_and(|lifetime| {
            lifetime.contains(now) && lifetime.contains(after(now, self.longest_leaf))
        })
    }

    /// Whether a leaf of it can be alive.
    fn may_have_living_leaves(&self, now: Timestamp, keep: Length) -> bool {
        self.leaves_end.is_some_and(|end| now <= after(end, keep))
    }
}

impl State {
    /// Whether leaves of a CA in this state are to be accepted.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Published | Self::Active | Self::Retiring)
    }

    /// Whether it is on its way to sign.
    #[must_use]
    pub const fn is_coming(self) -> bool {
        matches!(self, Self::Prepared | Self::AwaitingRoot | Self::Published)
    }

    /// In a word, as the record has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::AwaitingRoot => "awaiting-root",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Removed => "removed",
        }
    }
}

impl Lifetime {
    /// Whether a moment lies within.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        self.not_before <= time && time <= self.not_after
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

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl CaId {
    /// The number alone.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ca-{}", self.0)
    }
}

impl FromStr for CaId {
    type Err = CaIdError;

    fn from_str(text: &str) -> Result<Self, CaIdError> {
        text.strip_prefix("ca-")
            .and_then(|number| number.parse().ok())
            .map(Self)
            .filter(|id| id.0 > 0 && id.to_string() == text)
            .ok_or_else(|| CaIdError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for CaId {
    type Error = CaIdError;

    fn try_from(text: String) -> Result<Self, CaIdError> {
        text.parse()
    }
}

impl From<CaId> for String {
    fn from(id: CaId) -> Self {
        id.to_string()
    }
}
