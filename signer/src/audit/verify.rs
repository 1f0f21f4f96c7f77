//! Proving that nothing in the log was cut or changed.

use super::{
    AuditError,
    chain::{Head, Problem},
    stream::{self, Kind, Verified},
};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

/// How much of a log's end is checked when it is opened; `audit verify` checks all of it.
const TAIL_BYTES: u64 = 1 << 20;

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// A line was changed, and a good one follows it: no crash does that.
    Broken {
        /// Its number.
        line: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// It ends in something that is not a record.
    Torn {
        /// The last good line.
        head: Head,
        /// The bytes up to its end.
        length: u64,
        /// What follows.
        rest: Vec<u8>,
    },
    /// It ends in a good line.
    Whole {
        /// That line.
        head: Head,
        /// The bytes up to its end.
        length: u64,
    },
}

/// Checks every line. With an `anchor`, a line hash that was kept elsewhere, also that this line is still there.
///
/// # Errors
/// The first line that does not fit.
pub fn verify_file(path: &Path, anchor: Option<&str>) -> Result<Verified, AuditError> {
    let file = File::open(path).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })?;
    stream::read(path, BufReader::new(file), Kind::File, anchor, |_| ())
}

/// As [`verify_file`], for a log that may be written to at the same time: a last line that is not yet whole is waited
/// for a little.
///
/// # Errors
/// As [`verify_file`].
pub fn verify_settled(path: &Path, anchor: Option<&str>) -> Result<Verified, AuditError> {
    for _ in 0..10 {
        match verify_file(path, anchor) {
            Err(AuditError::Broken {
                problem: Problem::Incomplete,
                ..
            }) => std::thread::sleep(Duration::from_millis(50)),
            other => return other,
        }
    }
    verify_file(path, anchor)
}

/// Reads the end of a log.
pub(crate) fn tail(mut file: &File) -> io::Result<Tail> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length.saturating_sub(start))
        .read_to_end(&mut bytes)?;
    // From the middle of a file, the first line is only a part of one.
    let first = if start == 0 {
        0
    } else {
        bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |at| at.saturating_add(1))
    };
    let lines = bytes.get(first..).unwrap_or_default();
    let base = start.saturating_add(first as u64);
    Ok(read_tail(lines, base, start == 0))
}

fn read_tail(lines: &[u8], base: u64, from_start: bool) -> Tail {
    let first = lines.split(|byte| *byte == b'\n').next();
    let mut head = from_start.then(|| stream::start_of(first.unwrap_or_default()));
    let mut offset = 0usize;
    let mut rest = lines;
    let mut bad: Option<Problem> = None;
    let mut good_end = (head, 0usize);
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(at);
        rest = after.get(1..).unwrap_or_default();
        offset = offset.saturating_add(at).saturating_add(1);
        let followed = match head {
            Some(head) => head.follow(line),
            None => Head::at(line),
        };
        match (followed, &bad) {
            (Ok(next), None) => {
                head = Some(next);
                good_end = (head, offset);
            }
            (Err(problem), None) => bad = Some(problem),
            (_, Some(problem)) => {
                // A crash leaves no good line after a bad one.
                if Head::at(line).is_ok() {
                    return Tail::Broken {
                        line: good_end.0.map_or(0, |head| head.seq).saturating_add(1),
                        problem: problem.clone(),
                    };
                }
            }
        }
        // A line that is whole and true in itself but hangs on another was not cut by a crash either.
        if let Some(problem @ (Problem::Link | Problem::Sequence { .. })) = &bad {
            return Tail::Broken {
                line: good_end.0.map_or(0, |head| head.seq).saturating_add(1),
                problem: problem.clone(),
            };
        }
    }
    let (head, end) = good_end;
    let Some(head) = head else {
        // A megabyte without one good line.
        return Tail::Broken {
            line: 0,
            problem: bad.unwrap_or(Problem::Syntax),
        };
    };
    let length = base.saturating_add(end as u64);
    let rest = lines.get(end..).unwrap_or_default();
    if rest.is_empty() {
        Tail::Whole { head, length }
    } else {
        Tail::Torn {
            head,
            length,
            rest: rest.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Event;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::{fs, io::Write};

    fn log(lines: u64) -> Vec<u8> {
        let mut head = Head::EMPTY;
        let mut bytes = Vec::new();
        for n in 0..lines {
            let event = Event::PolicyRefused {
                message: format!("line {n}: näme \"x\""),
            };
            let (line, next) = head.line(Timestamp::UNIX_EPOCH, &event).unwrap();
            bytes.extend_from_slice(&line);
            head = next;
        }
        bytes
    }

    fn verify(bytes: &[u8], anchor: Option<&str>) -> Result<Verified, AuditError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        verify_file(file.path(), anchor)
    }

    #[test]
    fn an_untouched_log_verifies_and_names_its_head() {
        let bytes = log(20);
        let verified = verify(&bytes, None).unwrap();
        assert_eq!(verified.head.seq, 20);
        let anchor = verified.head.hash.to_string();
        let longer = log(25);
        assert!(longer.starts_with(&bytes));
        verify(&longer, Some(&anchor)).unwrap();
    }

    #[test]
    fn records_cut_off_the_end_are_missed_by_whoever_kept_the_head() {
        let anchor = verify(&log(20), None).unwrap().head.hash.to_string();
        let error = verify(&log(19), Some(&anchor)).unwrap_err();
        assert!(matches!(error, AuditError::AnchorMissing { .. }), "{error}");
    }

    #[test]
    fn the_first_line_that_was_changed_is_named() {
        let text = String::from_utf8(log(9)).unwrap();
        let error = verify(text.replacen("line 4", "line 5", 1).as_bytes(), None).unwrap_err();
        assert!(
            matches!(
                error,
                AuditError::Broken {
                    line: 5,
                    problem: Problem::Digest,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read_when_it_is_opened() {
        let bytes = log(8_000);
        assert!(bytes.len() as u64 > TAIL_BYTES + TAIL_BYTES / 2);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let Tail::Whole { head, length } = tail(&file).unwrap() else {
            panic!("not whole")
        };
        assert_eq!((head.seq, length), (8_000, bytes.len() as u64));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_detected(at: prop::sample::Index, mask in 1u8..) {
            let mut bytes = log(8);
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            prop_assert!(verify(&bytes, None).is_err());
        }

        #[test]
        fn any_cut_or_doubled_line_inside_is_detected(at in 0usize..7, twice: bool) {
            let bytes = log(8);
            let mut lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').collect();
            if twice { lines.insert(at, lines[at]); } else { lines.remove(at); }
            prop_assert!(verify(&lines.concat(), None).is_err());
        }

        #[test]
        fn any_cut_inside_a_line_is_detected(at: prop::sample::Index) {
            let bytes = log(8);
            let at = at.index(bytes.len());
            let whole = at == 0 || bytes[at - 1] == b'\n';
            prop_assert_eq!(verify(&bytes[..at], None).is_ok(), whole);
        }

        #[test]
        fn no_tail_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let _ = tail(&file).unwrap();
        }
    }

    #[test]
    fn a_missing_log_cannot_be_read() {
        let temp = tempfile::tempdir().unwrap();
        let error = verify_file(&temp.path().join("none"), None).unwrap_err();
        assert!(matches!(error, AuditError::Read { .. }));
        assert!(fs::read_dir(temp.path()).unwrap().next().is_none());
    }
}
