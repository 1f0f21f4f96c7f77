//! The quarter as a picture, in the terminal: a line for each CA, time from left to right.

use crate::ca::lifecycle::{Ca, Due, Length, Lifecycle, State, Step};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// How many columns the time takes.
const WIDTH: i64 = 64;
const LEGEND: &str = "        . prepared  o trusted, not signing  # signing  - trusted, not signing any more  | now\n";

/// A part of a CA's line.
struct Span {
    from: Timestamp,
    to: Timestamp,
    mark: char,
}

/// The times that a picture shows.
struct Window {
    from: Timestamp,
    length: i64,
}

pub(super) fn draw(lifecycle: &Lifecycle, now: Timestamp) -> String {
    let window = Window::of(lifecycle, now);
    let mut text = format!("{:8}{}\n", "", window.dates());
    for ca in lifecycle.cas() {
        let spans = spans(ca, lifecycle, now);
        let is_in_view = spans.iter().any(|span| span.to >= window.from);
        if ca.state() == State::Removed && !is_in_view {
            continue;
        }
        let line = window.line(&spans, now);
        text.push_str(&format!("{:<8}{line}\n", ca.id().to_string()));
    }
    text.push_str(LEGEND);
    text
}

impl Window {
    /// From half a quarter ago to a whole one ahead.
    fn of(lifecycle: &Lifecycle, now: Timestamp) -> Self {
        let quarter = i64::from(lifecycle.schedule().settings().activate_every.as_secs()).max(1);
        let back = SignedDuration::from_secs(quarter / 2);
        Self {
            from: now.checked_sub(back).unwrap_or(now),
            length: quarter * 3 / 2,
        }
    }

    fn column(&self, time: Timestamp) -> i64 {
        let since = time.duration_since(self.from).as_secs();
        since.saturating_mul(WIDTH).div_euclid(self.length.max(1))
    }

    fn dates(&self) -> String {
        let day = |time: Timestamp| {
            let civil = time.to_zoned(TimeZone::UTC);
            if self.length < 10 * 86_400 {
                civil.strftime("%H:%M:%S").to_string()
            } else {
                civil.strftime("%Y-%m-%d").to_string()
            }
        };
        let at = |part: i64| {
            let offset = SignedDuration::from_secs(self.length / 3 * part);
            day(self.from.checked_add(offset).unwrap_or(self.from))
        };
        let third = usize::try_from(WIDTH / 3).unwrap_or_default();
        format!("{:<third$}{:<third$}{:<third$}", at(0), at(1), at(2))
            .trim_end()
            .to_owned()
    }

    fn line(&self, spans: &[Span], now: Timestamp) -> String {
        let today = self.column(now);
        let line: String = (0..WIDTH)
            .map(|column| {
                if column == today {
                    return '|';
                }
                let covers = |span: &&Span| {
                    self.column(span.from) <= column
                        && column < self.column(span.to).max(self.column(span.from) + 1)
                };
                spans
                    .iter()
                    .rev()
                    .find(covers)
                    .map_or(' ', |span| span.mark)
            })
            .collect();
        line.trim_end().to_owned()
    }
}

/// What was, and what is to come as far as it is known.
fn spans(ca: &Ca, lifecycle: &Lifecycle, now: Timestamp) -> Vec<Span> {
    let due = |is: fn(&Step) -> bool| {
        let mut agenda = lifecycle.agenda(now).into_iter();
        let own = |due: &Due| due.step.ca() == Some(ca.id()) && is(&due.step);
        agenda.find(own).map(|due| due.at.max(now))
    };
    let end = ca.lifetime().map_or(now, |lifetime| lifetime.not_after);
    let gone = ca.removed().unwrap_or_else(|| {
        due(|step| matches!(step, Step::Remove(_))).unwrap_or_else(|| end.max(now))
    });
    let activated = ca
        .activated()
        .or_else(|| due(|step| matches!(step, Step::Activate(_))));
    // An active CA signs until the next one takes over.
    let next = lifecycle
        .agenda(now)
        .into_iter()
        .find_map(|due| match due.step {
            Step::Activate(_) => Some(due.at.max(now)),
            Step::AskRoot(_)
            | Step::AwaitRoot(_)
            | Step::Discard(_)
            | Step::Prepare
            | Step::Publish(_)
            | Step::Remove(_) => None,
        });
    let settings = lifecycle.schedule().settings();
    let planned = |since: Timestamp, length: Length| {
        since
            .checked_add(length.as_duration())
            .unwrap_or(Timestamp::MAX)
    };
    let retired = ca.retired().or_else(|| match ca.state() {
        State::Active => next.or_else(|| {
            ca.activated()
                .map(|since| planned(since, settings.activate_every).max(now))
        }),
        State::Prepared
        | State::AwaitingRoot
        | State::Published
        | State::Retiring
        | State::Removed => None,
    });
    let published = ca.published().unwrap_or(gone);
    let mut spans = vec![
        Span {
            from: ca.made(),
            to: published.min(gone),
            mark: '.',
        },
        Span {
            from: published,
            to: activated.unwrap_or(gone).min(gone),
            mark: 'o',
        },
    ];
    if let Some(activated) = activated {
        let retired = retired.unwrap_or(gone).min(gone);
        spans.push(Span {
            from: retired,
            to: gone.min(end),
            mark: '-',
        });
        spans.push(Span {
            from: activated,
            to: retired,
            mark: '#',
        });
    }
    spans.retain(|span| span.from < span.to);
    spans
}
