//! What is to happen next, when, and why.

use super::{Asked, Ca, CaId, Length, Lifecycle, Root, State, after, before};
use jiff::Timestamp;
use serde::Serialize;

/// A step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", content = "ca", rename_all = "kebab-case")]
pub enum Step {
    /// A CA becomes the one that signs. Needs a proof of it.
    Activate(CaId),
    /// The security team is asked for a certificate.
    AskRoot(CaId),
    /// The security team has to sign. Nothing that the signer can do.
    AwaitRoot(CaId),
    /// A CA that can never serve is thrown away.
    Discard(CaId),
    /// A new CA gets its key, and its certificate where no ceremony is due.
    Prepare,
    /// A CA enters the trust bundle.
    Publish(CaId),
    /// A CA leaves the trust bundle and its key is destroyed. Needs a proof of the active one.
    Remove(CaId),
}

/// Why a step is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The active CA nears its end, or is past it.
    ActiveEnds,
    /// An operator asked.
    Asked,
    /// Its last leaf has ended by then.
    LeavesEnded,
    /// No CA signs.
    NothingSigns,
    /// The quarter goes on.
    Schedule,
    /// It can never serve: its dates do not fit the time.
    Useless,
}

/// A step and the time it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Due {
    /// What.
    pub step: Step,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
}

impl Step {
    /// Which CA must sign a canary certificate before this step; none for a step that can be taken back.
    #[must_use]
    pub fn needs_proof_of(&self, lifecycle: &Lifecycle, now: Timestamp) -> Option<CaId> {
        match self {
            Self::Activate(id) => Some(*id),
            Self::Remove(_) => lifecycle.active().map(Ca::id),
            // Where nothing signs that could prove anything, a useless CA only stands in the way.
            Self::Discard(_) => lifecycle
                .active()
                .filter(|active| active.can_sign(now))
                .map(Ca::id),
            Self::AskRoot(_) | Self::AwaitRoot(_) | Self::Prepare | Self::Publish(_) => None,
        }
    }

    /// Which CA it is about; none for one that is not made yet.
    #[must_use]
    pub fn ca(&self) -> Option<CaId> {
        match self {
            Self::Activate(id)
            | Self::AskRoot(id)
            | Self::AwaitRoot(id)
            | Self::Discard(id)
            | Self::Publish(id)
            | Self::Remove(id) => Some(*id),
            Self::Prepare => None,
        }
    }
}

impl Lifecycle {
    /// What comes next, the earliest first: one step towards the next CA, and the removal of each old one. While
    /// [held](Lifecycle::held) nothing comes by itself.
    #[must_use]
    pub fn agenda(&self, now: Timestamp) -> Vec<Due> {
        if self.held.is_some() {
            return Vec::new();
        }
        let mut agenda: Vec<Due> = self.removals(now).collect();
        agenda.extend(
            self.newcomer()
                .map_or_else(|| self.prepare(now), |newcomer| self.advance(newcomer, now)),
        );
        agenda.sort_by_key(|due| due.at);
        agenda
    }

    /// The last moment at which another CA must have taken over: after it, a leaf of full length does not fit any more.
    #[must_use]
    pub fn last_safe_moment(&self) -> Option<Timestamp> {
        let active = self.active()?;
        Some(before(active.lifetime?.not_after, active.longest_leaf))
    }

    /// Whether a step is late by more than the time that CAs are kept after their last leaf, or the active CA can sign no
    /// leaf of full length any more.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let grace = self.schedule.settings().keep_after_last_leaf;
        let is_late = |due: &Due| after(due.at, grace) < now;
        self.agenda(now).iter().any(is_late)
            || self.last_safe_moment().is_some_and(|last| last < now)
    }

    /// From when on the clock has been steady for as long as CAs are kept: before, nothing is removed.
    pub(super) fn steady_at(&self, now: Timestamp) -> Timestamp {
        let since = if self.has_jumped(now) {
            now
        } else {
            self.steady_since
        };
        after(since, self.schedule.settings().keep_after_last_leaf)
    }

    /// Whether the clock is further from what was last read than a signer that looks on lets it come.
    pub(super) fn has_jumped(&self, now: Timestamp) -> bool {
        let keep = self.schedule.settings().keep_after_last_leaf.as_duration();
        now.duration_since(self.read).abs() > keep
    }

    fn removals(&self, now: Timestamp) -> impl Iterator<Item = Due> + '_ {
        let settings = self.schedule.settings();
        let retiring = self.cas.iter().filter(|ca| ca.state == State::Retiring);
        // Without an active CA there is nothing that could prove that the time is right.
        let retiring = retiring.filter(|_| self.active().is_some());
        retiring.filter_map(move |ca| {
            let of_leaves = after(ca.leaves_end?, settings.keep_after_last_leaf);
            let last = of_leaves.max(self.steady_at(now));
            let at = after(last, Length::seconds(1));
            Some(Due {
                step: Step::Remove(ca.id),
                at,
                why: Why::LeavesEnded,
            })
        })
    }

    fn prepare(&self, now: Timestamp) -> Option<Due> {
        let settings = self.schedule.settings();
        let due = |at, why| {
            Some(Due {
                step: Step::Prepare,
                at,
                why,
            })
        };
        let Some(active) = self.active() else {
            return due(now, Why::NothingSigns);
        };
        if self.asked.is_some() {
            return due(now, Why::Asked);
        }
        if !active.can_sign(now) {
            return due(now, Why::ActiveEnds);
        }
        let scheduled = after(active.activated?, settings.prepare_after);
        let lead = Length::seconds(
            settings
                .activate_every
                .as_secs()
                .saturating_sub(settings.prepare_after.as_secs()),
        );
        let latest = before(self.last_safe_moment()?, lead);
        if latest < scheduled {
            due(latest, Why::ActiveEnds)
        } else {
            due(scheduled, Why::Schedule)
        }
    }

    fn advance(&self, newcomer: &Ca, now: Timestamp) -> Option<Due> {
        let id = newcomer.id;
        if self.is_useless(newcomer, now) {
            return Some(Due {
                step: Step::Discard(id),
                at: now,
                why: Why::Useless,
            });
        }
        let (at, why) = self.activation(newcomer, now);
        let settings = self.schedule.settings();
        let due = |step, at, why| Some(Due { step, at, why });
        match (newcomer.state, newcomer.lifetime) {
            (State::Prepared, None) => due(Step::AskRoot(id), newcomer.made, why),
            (State::Prepared, Some(_)) => due(Step::Publish(id), newcomer.made, why),
            (State::AwaitingRoot, _) => due(
                Step::AwaitRoot(id),
                before(at, settings.publish_before).max(newcomer.made),
                why,
            ),
            (State::Published, _) => due(Step::Activate(id), at, why),
            (State::Active | State::Retiring | State::Removed, _) => None,
        }
    }

    /// When a newcomer is to sign: a quarter after the active one began and published for long enough, but before the
    /// active one ends. Where nothing signs, at once.
    fn activation(&self, newcomer: &Ca, now: Timestamp) -> (Timestamp, Why) {
        let settings = self.schedule.settings();
        let published = newcomer.published.unwrap_or(newcomer.made);
        let Some(active) = self.active() else {
            return (published, Why::NothingSigns);
        };
        if !active.can_sign(now) {
            return (published, Why::ActiveEnds);
        }
        let waited = after(published, settings.publish_before);
        let (at, why) = if self.asked.is_some() {
            (waited, Why::Asked)
        } else {
            let since = active.activated.unwrap_or(active.made);
            (
                waited.max(after(since, settings.activate_every)),
                Why::Schedule,
            )
        };
        match self.last_safe_moment() {
            Some(last) if last < at => (last, Why::ActiveEnds),
            _ => (at, why),
        }
    }

    /// Whether a newcomer can never serve: its certificate has ended, or begins in a future that a wrong clock told of. A
    /// certificate that the security team came together for is not thrown away on the word of a clock that just jumped.
    fn is_useless(&self, newcomer: &Ca, now: Timestamp) -> bool {
        let Some(lifetime) = newcomer.lifetime else {
            return false;
        };
        let keep = self.schedule.settings().keep_after_last_leaf;
        if newcomer.may_have_living_leaves(now, keep) {
            return false;
        }
        let ended = now > before(lifetime.not_after, newcomer.longest_leaf);
        if newcomer.root == Root::Ceremony {
            return ended && now >= self.steady_at(now);
        }
        ended || before(lifetime.not_before, keep) > now
    }

    /// Whether an operator's wish was for this step alone.
    pub(super) fn is_asked_step(&self) -> bool {
        self.asked == Some(Asked::Step)
    }
}
