//! Whose turn it is: one of each creator after the other, so that nobody's many requests make others wait.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

/// Names of requests, in a line for each creator.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Creators with requests, each once, the next one first.
    creators: VecDeque<Arc<str>>,
    lines: HashMap<Arc<str>, VecDeque<String>>,
}

impl Turns {
    pub(super) fn push(&mut self, creator: &Arc<str>, request: String) {
        match self.lines.entry(Arc::clone(creator)) {
            Entry::Occupied(mut line) => line.get_mut().push_back(request),
            Entry::Vacant(place) => {
                self.creators.push_back(Arc::clone(creator));
                place.insert(VecDeque::from([request]));
            }
        }
    }

    pub(super) fn pop(&mut self) -> Option<String> {
        let creator = self.creators.pop_front()?;
        let Entry::Occupied(mut line) = self.lines.entry(creator) else {
            return None;
        };
        let request = line.get_mut().pop_front();
        if line.get().is_empty() {
            line.remove();
        } else {
            self.creators.push_back(Arc::clone(line.key()));
        }
        request
    }
}
