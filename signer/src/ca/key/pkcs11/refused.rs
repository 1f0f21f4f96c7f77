//! Which PINs a token refused. A wrong one is tried once: a token locks itself after a few.
//!
//! Nothing is kept of the PIN, only which state of its file was tried.

use super::super::secret_file::Stamp;
use super::module::lock;
use crate::data_dir;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

/// In the data directory.
const FILE: &str = "refused-pins.json";

#[derive(Debug, Default)]
pub(super) struct Refused {
    file: Option<PathBuf>,
    /// By the token's serial number.
    known: Mutex<BTreeMap<String, Stamp>>,
}

/// One login at a time: two at once would spend two tries on one wrong PIN.
pub(super) struct Trying<'a> {
    refused: &'a Refused,
    known: MutexGuard<'a, BTreeMap<String, Stamp>>,
}

impl Refused {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            file: Some(folder.join(FILE)),
            known: Mutex::default(),
        }
    }

    pub(super) fn begin(&self) -> Trying<'_> {
        let mut known = lock(&self.known);
        let kept = self.file.as_ref().and_then(|file| read(file));
        for (serial, stamp) in kept.into_iter().flatten() {
            known.entry(serial).or_insert(stamp);
        }
        Trying {
            refused: self,
            known,
        }
    }
}

impl Trying<'_> {
    pub(super) fn was_refused(&self, serial: &str, stamp: &Stamp) -> bool {
        self.known.get(serial) == Some(stamp)
    }

    pub(super) fn refused(&mut self, serial: &str, stamp: Stamp) {
        self.known.insert(serial.to_owned(), stamp);
        self.keep();
    }

    pub(super) fn accepted(&mut self, serial: &str) {
        if self.known.remove(serial).is_some() {
            self.keep();
        }
    }

    /// Where it cannot be written, this process still knows.
    fn keep(&self) {
        let Some(file) = &self.refused.file else {
            return;
        };
        let written = serde_json::to_vec(&*self.known)
            .map_err(|error| error.to_string())
            .and_then(|json| {
                data_dir::write_atomic(file, &json).map_err(|error| error.to_string())
            });
        if let Err(error) = written {
            tracing::warn!(
                error,
                "a refused PIN could not be remembered for the next start"
            );
        }
    }
}

fn read(file: &Path) -> Option<BTreeMap<String, Stamp>> {
    let json = data_dir::read_optional(file).ok()??;
    serde_json::from_slice(&json).ok()
}
