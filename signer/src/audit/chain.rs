//! One line of the log and how it hangs on the one before.
//!
//! ```text
//! {"seq":7,"time":"…","prev":"<SHA-256 of line 6>","kind":"issued",…,"digest":"<SHA-256 of this line up to here>"}
//! ```
//!
//! `prev` covers every byte of the line before, without its newline; the first line has 64 zeros. `digest` covers the
//! line's own bytes before `,"digest"`, so that a change in the last line shows too.

use super::Event;
use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::Deserialize;
use std::fmt;

/// SHA-256 of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LineHash([u8; 32]);

/// Where a chain stands: the number and the hash of its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last line's number; 0 for an empty log.
    pub seq: u64,
    /// The last line's hash; zeros for an empty log.
    pub hash: LineHash,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its own digest does not fit its bytes.
    #[error("the line was changed: its digest does not fit")]
    Digest,
    /// It ends without a newline.
    #[error("the line is cut short")]
    Incomplete,
    /// It hangs on another line than the one before it.
    #[error("a line before it was cut or changed: its link does not fit")]
    Link,
    /// Its number is not the next one.
    #[error("its number is {found}, {expected} was expected: lines were cut or put in")]
    Sequence {
        /// The number that should stand there.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// It is not a record.
    #[error("the line is not a record")]
    Syntax,
}

impl LineHash {
    /// Reads what it prints.
    fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// Of this line, without its newline.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self(sha256(line))
    }
}

impl fmt::Display for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineHash({self})")
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

const DIGEST_KEY: &[u8] = b",\"digest\":\"";
/// `,"digest":"` + 64 hexadecimal digits + `"}`.
const DIGEST_BYTES: usize = DIGEST_KEY.len() + 64 + 2;

#[derive(Deserialize)]
struct Wire {
    seq: u64,
    prev: String,
}

impl Head {
    /// Of an empty log.
    pub const EMPTY: Self = Self {
        seq: 0,
        hash: LineHash([0; 32]),
    };

    /// The next line, with its newline, and the head after it.
    ///
    /// # Errors
    /// Never for the events of this crate: none holds a map with keys that are not text.
    pub fn line(self, time: Timestamp, event: &Event) -> serde_json::Result<(Vec<u8>, Self)> {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            seq: u64,
            time: Timestamp,
            prev: String,
            #[serde(flatten)]
            event: &'a Event,
        }
        let seq = self.seq.saturating_add(1);
        let mut line = serde_json::to_vec(&Line {
            seq,
            time,
            prev: self.hash.to_string(),
            event,
        })?;
        line.pop(); // The closing brace.
        let digest = hex::encode(sha256(&line));
        line.extend_from_slice(DIGEST_KEY);
        line.extend_from_slice(digest.as_bytes());
        line.extend_from_slice(b"\"}");
        let hash = LineHash::of(&line);
        line.push(b'\n');
        Ok((line, Self { seq, hash }))
    }

    /// Checks that `line`, without its newline, is the next one, and moves on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn follow(self, line: &[u8]) -> Result<Self, Problem> {
        let (seq, prev) = read_line(line)?;
        let expected = self.seq.saturating_add(1);
        if seq != expected {
            return Err(Problem::Sequence {
                expected,
                found: seq,
            });
        }
        if prev != self.hash.to_string() {
            return Err(Problem::Link);
        }
        Ok(Self {
            seq,
            hash: LineHash::of(line),
        })
    }

    /// The head that `line` says it hangs on: its digest fits, whatever stood before it.
    ///
    /// # Errors
    /// When it is no record, or was changed.
    pub fn before(line: &[u8]) -> Result<Self, Problem> {
        let (seq, prev) = read_line(line)?;
        Ok(Self {
            seq: seq.checked_sub(1).ok_or(Problem::Syntax)?,
            hash: LineHash::parse(&prev).ok_or(Problem::Syntax)?,
        })
    }

    /// The head after `line` alone: its digest fits, whatever stood before it.
    ///
    /// # Errors
    /// When it is no record, or was changed.
    pub fn at(line: &[u8]) -> Result<Self, Problem> {
        let (seq, _) = read_line(line)?;
        Ok(Self {
            seq,
            hash: LineHash::of(line),
        })
    }
}

fn read_line(line: &[u8]) -> Result<(u64, String), Problem> {
    let split = line
        .len()
        .checked_sub(DIGEST_BYTES)
        .ok_or(Problem::Syntax)?;
    let (body, tail) = line.split_at_checked(split).ok_or(Problem::Syntax)?;
    let digest = tail
        .strip_prefix(DIGEST_KEY)
        .and_then(|rest| rest.strip_suffix(b"\"}"))
        .ok_or(Problem::Syntax)?;
    if digest != hex::encode(sha256(body)).as_bytes() {
        return Err(Problem::Digest);
    }
    let wire: Wire = serde_json::from_slice(line).map_err(|_| Problem::Syntax)?;
    Ok((wire.seq, wire.prev))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_follows_the_one_before_and_no_other() {
        let (one, head1) = Head::EMPTY
            .line(Timestamp::UNIX_EPOCH, &Event::Stopped {})
            .unwrap();
        let (two, head2) = head1
            .line(Timestamp::UNIX_EPOCH, &Event::Stopped {})
            .unwrap();
        let one = one.strip_suffix(b"\n").unwrap();
        let two = two.strip_suffix(b"\n").unwrap();
        assert_eq!(Head::EMPTY.follow(one).unwrap(), head1);
        assert_eq!(head1.follow(two).unwrap(), head2);
        assert_eq!(
            Head::EMPTY.follow(two),
            Err(Problem::Sequence {
                expected: 1,
                found: 2
            })
        );
        let other = Head {
            seq: 1,
            hash: LineHash::of(b"another"),
        };
        assert_eq!(other.follow(two), Err(Problem::Link));
    }
}
