//! Whose turn it is: one of each creator after the other, and of none more than their share at once, so that nobody's many
//! requests make others wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Names of requests, in a line for each creator.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many of one creator may be under way at once.
    share: usize,
    /// Creators who have a request and are below their share, each once, the next one first.
    next: VecDeque<Arc<str>>,
    /// Creators who have a request, or one under way.
    lines: HashMap<Arc<str>, Line>,
}

#[derive(Debug, Default)]
struct Line {
    requests: VecDeque<String>,
    under_way: usize,
}

impl Line {
    fn has_turn(&self, share: usize) -> bool {
        !self.requests.is_empty() && self.under_way < share
    }
}

impl Turns {
    pub(super) fn new(share: usize) -> Self {
        Self {
            share,
            next: VecDeque::new(),
            lines: HashMap::new(),
        }
    }

    pub(super) fn push(&mut self, creator: &Arc<str>, request: String) {
        let line = self.lines.entry(Arc::clone(creator)).or_default();
        let had_turn = line.has_turn(self.share);
        line.requests.push_back(request);
        if !had_turn && line.has_turn(self.share) {
            self.next.push_back(Arc::clone(creator));
        }
    }

    /// The next request, which is under way from now on.
    pub(super) fn begin(&mut self) -> Option<String> {
        let creator = self.next.pop_front()?;
        let line = self.lines.get_mut(&creator)?;
        let request = line.requests.pop_front()?;
        line.under_way = line.under_way.saturating_add(1);
        if line.has_turn(self.share) {
            self.next.push_back(creator);
        }
        Some(request)
    }

    /// A request of this creator is under way no more.
    pub(super) fn end(&mut self, creator: &Arc<str>) {
        let Some(line) = self.lines.get_mut(creator) else {
            return;
        };
        let had_turn = line.has_turn(self.share);
        line.under_way = line.under_way.saturating_sub(1);
        if !had_turn && line.has_turn(self.share) {
            self.next.push_back(Arc::clone(creator));
        } else if line.requests.is_empty() && line.under_way == 0 {
            self.lines.remove(creator);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.lines.is_empty()
    }
}
