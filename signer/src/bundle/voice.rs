//! What goes wrong is said when it begins, from time to time while it lasts, and when it is over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How often something that lasts is said again.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// What is wrong now.
#[derive(Debug, Default)]
pub(super) struct Voice {
    troubles: BTreeMap<&'static str, Trouble>,
}

#[derive(Debug)]
struct Trouble {
    what: String,
    since: Instant,
    said: Instant,
}

impl Voice {
    /// `subject` is in trouble.
    pub(super) fn trouble(
        &mut self,
        subject: &'static str,
        what: String,
        remedy: &str,
        now: Instant,
    ) {
        let known = self.troubles.get_mut(subject);
        let since = known.as_ref().map_or(now, |trouble| trouble.since);
        if let Some(trouble) = known
            && trouble.what == what
            && now.duration_since(trouble.said) < AGAIN
        {
            return;
        }
        let minutes = now.duration_since(since).as_secs() / 60;
        tracing::warn!(error = what, r#try = remedy, minutes, "{subject}");
        let trouble = Trouble {
            what,
            since,
            said: now,
        };
        self.troubles.insert(subject, trouble);
    }

    /// `subject` is well.
    pub(super) fn well(&mut self, subject: &'static str, now: Instant) {
        if let Some(trouble) = self.troubles.remove(subject) {
            let minutes = now.duration_since(trouble.since).as_secs() / 60;
            tracing::info!(minutes, "over: {subject}");
        }
    }
}
