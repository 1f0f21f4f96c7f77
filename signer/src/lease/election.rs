//! What a candidate does next: pure. The rules are those of client-go's leader election
//! (<https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>).

use super::{BootTime, LeaseDuration};
use std::time::Duration;

/// What stands in a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; nobody where it was given back.
    pub holder: Option<String>,
    /// How long it lasts after its last change, by its holder's settings.
    pub lasts: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// The version of the object, which a write must find.
    pub version: String,
}

/// What a candidate is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until then or until something is seen.
    Wait(BootTime),
    /// Read the Lease.
    Look,
    /// Make the Lease, held by this candidate.
    Create,
    /// Take it over, if it still has this version.
    Take {
        /// The version that the write must find.
        version: String,
        /// How often it has changed hands then.
        transitions: i32,
    },
    /// Renew it, if it still has this version.
    Renew {
        /// The version that the write must find.
        version: String,
        /// How often it has changed hands.
        transitions: i32,
    },
}

/// One candidate's view of the election.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    duration: LeaseDuration,
    view: View,
    /// Until when this candidate leads.
    until: BootTime,
    /// When it may act again.
    next: BootTime,
}

#[derive(Clone, Debug)]
enum View {
    /// Nothing was read yet.
    Unknown,
    /// There is no Lease. One that was seen before and is gone is waited out: its holder may not know yet.
    Absent,
    /// This one, and since when it is unchanged, by the clock of this machine.
    Lease(Seen, BootTime),
}

impl Election {
    /// A candidate that knows nothing yet. `me` must be another at each start: a process takes over nothing from an
    /// earlier one.
    #[must_use]
    pub fn new(me: String, duration: LeaseDuration) -> Self {
        Self {
            me,
            duration,
            view: View::Unknown,
            until: BootTime::START,
            next: BootTime::START,
        }
    }

    /// Until when this candidate leads; a time in the past where it does not.
    #[must_use]
    pub fn until(&self) -> BootTime {
        self.until
    }

    /// Who holds the Lease, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        match &self.view {
            View::Unknown | View::Absent => None,
            View::Lease(seen, _) => seen.holder.as_deref(),
        }
    }

    /// Whether the Lease says that this candidate holds it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.holder() == Some(self.me.as_str())
    }

    /// What to do.
    #[must_use]
    pub fn next(&self, now: BootTime) -> Action {
        if now < self.next {
            return Action::Wait(self.next);
        }
        match &self.view {
            View::Unknown => Action::Look,
            View::Absent => Action::Create,
            View::Lease(seen, _) if seen.holder.as_deref() == Some(self.me.as_str()) => {
                Action::Renew {
                    version: seen.version.clone(),
                    transitions: seen.transitions,
                }
            }
            View::Lease(seen, since) => match seen.holder {
                Some(_) if now < *since + seen.lasts => Action::Look,
                Some(_) | None => Action::Take {
                    version: seen.version.clone(),
                    transitions: seen.transitions.saturating_add(1),
                },
            },
        }
    }

    /// It was read, or heard of, at `now`; `None` where there is none.
    pub fn saw(&mut self, seen: Option<Seen>, now: BootTime) {
        let Some(seen) = seen else {
            self.until = BootTime::START;
            if let View::Lease(before, since) = &self.view
                && before.holder.is_some()
            {
                self.next = now.max(*since + before.lasts);
            }
            self.view = View::Absent;
            return;
        };
        let since = match &self.view {
            View::Lease(before, since) if before.version == seen.version => *since,
            View::Unknown | View::Absent | View::Lease(..) => now,
        };
        if seen.holder.as_deref() == Some(self.me.as_str()) {
            // A renewal of which no answer came. That it leads until then it knows only of those it had an answer to.
            self.next = now;
        } else {
            self.until = BootTime::START;
            let expires = match seen.holder {
                Some(_) => since + seen.lasts,
                None => now,
            };
            self.next = expires.min(now + self.duration.look_every());
        }
        self.view = View::Lease(seen, since);
    }

    /// This candidate wrote it: it sent what was written at `sent`.
    pub fn wrote(&mut self, written: Seen, sent: BootTime) {
        self.until = sent + self.duration.leads_for();
        self.next = sent + self.duration.look_every();
        self.view = View::Lease(written, sent);
    }

    /// Someone else wrote first: what is known is old.
    pub fn lost_the_race(&mut self, now: BootTime) {
        self.view = View::Unknown;
        self.next = now;
    }

    /// Nothing came of it.
    pub fn failed(&mut self, now: BootTime) {
        self.next = now + self.duration.look_every();
    }

    /// Leads no more, at once. The version of the Lease that is to be given back, where this candidate holds it.
    pub fn resign(&mut self) -> Option<(String, i32)> {
        self.until = BootTime::START;
        self.next = BootTime::NEVER;
        match &self.view {
            View::Lease(seen, _) if self.is_mine() => {
                Some((seen.version.clone(), seen.transitions))
            }
            View::Unknown | View::Absent | View::Lease(..) => None,
        }
    }
}

#[cfg(test)]
mod tests;
