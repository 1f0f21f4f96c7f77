//! A log read from where it was copied to: a pipe, a container's output. What is no record is passed over there, the first
//! lines may be gone, and each start of a signer without a file begins a chain anew.

use super::{
    AuditError, Event,
    chain::{Head, Problem},
};
use jiff::Timestamp;
use serde::Deserialize;
use std::{
    io::{BufRead, Read as _},
    path::Path,
};

/// The longest line that is read. The longest record is far shorter.
const MAX_LINE: u64 = 1 << 20;
/// How a record begins, and nothing that a signer logs.
const RECORD: &[u8] = b"{\"seq\":";

/// How strictly a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The file as the signer writes it: whole, and nothing else in it.
    File,
    /// A copy among other lines.
    Copy,
}

/// What was found in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its last record.
    pub head: Head,
    /// The number of its first record; 1 for a whole log, 0 for an empty one.
    pub first: u64,
    /// How many records there are.
    pub records: u64,
    /// How many chains they make.
    pub chains: u64,
}

/// A record, as it stands in the log.
#[derive(Debug)]
pub struct Record<'a> {
    /// The line, without its newline.
    pub line: &'a str,
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Event,
}

#[derive(Deserialize)]
struct Wire {
    time: Timestamp,
    #[serde(flatten)]
    event: Event,
}

/// A log that is being read, file by file.
#[derive(Debug)]
pub struct Reading {
    kind: Kind,
    anchor: Option<String>,
    anchored: bool,
    so_far: Verified,
}

impl Reading {
    /// Of nothing yet. With an `anchor`, a record's hash that was kept elsewhere, this record has to be there.
    #[must_use]
    pub fn new(kind: Kind, anchor: Option<&str>) -> Self {
        Self {
            kind,
            anchored: anchor.is_none(),
            anchor: anchor.map(str::to_owned),
            so_far: Verified {
                head: Head::EMPTY,
                first: 0,
                records: 0,
                chains: 0,
            },
        }
    }

    /// Reads on, to the end of this file, checks every record, and hands each to `see`.
    ///
    /// # Errors
    /// The first line that does not fit; or why it cannot be read.
    pub fn read(
        &mut self,
        path: &Path,
        mut reader: impl BufRead,
        mut see: impl FnMut(&Record<'_>),
    ) -> Result<(), AuditError> {
        let mut number: u64 = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            let read = read.map_err(|source| AuditError::Read {
                path: path.to_owned(),
                source,
            })?;
            if read == 0 {
                return Ok(());
            }
            number = number.saturating_add(1);
            if self.kind == Kind::Copy && !line.starts_with(RECORD) {
                continue;
            }
            let broken = |problem| AuditError::Broken {
                path: path.to_owned(),
                line: number,
                problem,
            };
            let whole = match (line.strip_suffix(b"\n"), self.kind) {
                (Some(whole), _) => whole,
                (None, Kind::File) => return Err(broken(Problem::Incomplete)),
                // A pipe may end without one.
                (None, Kind::Copy) => line.as_slice(),
            };
            self.take(whole).map_err(broken)?;
            let text = str::from_utf8(whole).map_err(|_| broken(Problem::Syntax))?;
            // Of a later version there may be kinds that are not known here: they verify, and are not shown.
            if let Ok(wire) = serde_json::from_str::<Wire>(text) {
                see(&Record {
                    line: text,
                    time: wire.time,
                    event: wire.event,
                });
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Problem> {
        let begins = self.so_far.records == 0;
        let (head, begins) = match self.kind {
            Kind::Copy if begins => (Head::at(line)?, true),
            Kind::Copy => match Head::EMPTY.follow(line) {
                Ok(first) => (first, true),
                Err(_) => (self.so_far.head.follow(line)?, false),
            },
            Kind::File if begins => (start_of(line).follow(line)?, true),
            Kind::File => (self.so_far.head.follow(line)?, false),
        };
        self.so_far.records = self.so_far.records.saturating_add(1);
        self.so_far.chains = self.so_far.chains.saturating_add(begins.into());
        if self.so_far.first == 0 {
            self.so_far.first = head.seq;
        }
        self.so_far.head = head;
        self.anchored |= self.anchor.as_ref() == Some(&head.hash.to_string());
        Ok(())
    }

    /// What was found.
    ///
    /// # Errors
    /// When the anchored record is not among what was read; `path` names it all.
    pub fn end(self, path: &Path) -> Result<Verified, AuditError> {
        match self.anchor {
            Some(anchor) if !self.anchored => Err(AuditError::AnchorMissing {
                path: path.to_owned(),
                anchor,
            }),
            Some(_) | None => Ok(self.so_far),
        }
    }
}

/// The head before a file's first line: a file that goes on where another ended says so in its first record.
pub(super) fn start_of(line: &[u8]) -> Head {
    let is_rotated = |wire: &Wire| matches!(wire.event, Event::Rotated { .. });
    let rotated = serde_json::from_slice::<Wire>(line).is_ok_and(|wire| is_rotated(&wire));
    rotated
        .then(|| Head::before(line).ok())
        .flatten()
        .unwrap_or(Head::EMPTY)
}

/// Reads all of one log.
///
/// # Errors
/// As [`Reading::read`] and [`Reading::end`].
pub fn read(
    path: &Path,
    reader: impl BufRead,
    kind: Kind,
    anchor: Option<&str>,
    see: impl FnMut(&Record<'_>),
) -> Result<Verified, AuditError> {
    let mut reading = Reading::new(kind, anchor);
    reading.read(path, reader, see)?;
    reading.end(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<Vec<u8>> {
        let mut head = Head::EMPTY;
        (0..count)
            .map(|_| {
                let (line, next) = head
                    .line(Timestamp::UNIX_EPOCH, &Event::Stopped {})
                    .unwrap();
                head = next;
                line
            })
            .collect()
    }

    fn verify(bytes: &[u8], kind: Kind) -> Result<(Verified, usize), AuditError> {
        let mut seen = 0;
        let verified = read(Path::new("-"), bytes, kind, None, |_| seen += 1)?;
        Ok((verified, seen))
    }

    #[test]
    fn a_copy_may_begin_later_hold_other_lines_and_begin_anew() {
        let all = lines(4);
        let bytes = [
            all[1].as_slice(),
            b"2026-01-01T00:00:00Z INFO a log line\n",
            all[2].as_slice(),
            all[0].as_slice(),
            all[1].as_slice(),
        ]
        .concat();
        let (verified, seen) = verify(&bytes, Kind::Copy).unwrap();
        assert_eq!((verified.first, verified.records), (2, 4));
        assert_eq!((verified.chains, seen), (2, 4));
        assert!(verify(&bytes, Kind::File).is_err());
    }

    #[test]
    fn a_line_that_is_missing_from_the_middle_of_a_copy_or_was_changed_in_it_is_found() {
        let all = lines(4);
        let gap = [all[0].as_slice(), all[2].as_slice()].concat();
        assert!(matches!(
            verify(&gap, Kind::Copy),
            Err(AuditError::Broken { line: 2, .. })
        ));
        let changed = String::from_utf8(all.concat())
            .unwrap()
            .replacen("1970", "1971", 1);
        assert!(matches!(
            verify(changed.as_bytes(), Kind::Copy),
            Err(AuditError::Broken { line: 1, .. })
        ));
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_the_longest_record() {
        let endless = [RECORD, &vec![b'x'; 3 << 20]].concat();
        assert!(verify(&endless, Kind::Copy).is_err());
    }
}
