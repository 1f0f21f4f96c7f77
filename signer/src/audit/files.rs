//! The files of a log: the one that is written to, and those that were full before it.
//!
//! `audit.jsonl` is written to; full ones are `audit-000001.jsonl` and so on. A file that goes on where another ended begins
//! with a record `rotated`, which hangs on the last one there, so that the chain goes through all of them.

use super::{
    AuditError, Event,
    chain::Head,
    stream::{Kind, Reading, Record, Verified, start_of},
    verify,
};
use crate::data_dir;
use jiff::Timestamp;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// How often a log that changes while it is read is read again.
const TRIES: usize = 10;

/// The name of a full file.
fn name(current: &Path, number: u64) -> PathBuf {
    let stem = current.file_stem().unwrap_or_default().to_string_lossy();
    current.with_file_name(format!("{stem}-{number:06}.jsonl"))
}

/// The next file, until it has its name.
fn next_path(current: &Path) -> PathBuf {
    let mut name = current.file_name().unwrap_or_default().to_owned();
    name.push(".next");
    current.with_file_name(name)
}

/// The full files that are there, by number.
pub(super) fn full(current: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let stem = current.file_stem().unwrap_or_default().to_string_lossy();
    let prefix = format!("{stem}-");
    let folder = current
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let entries = match fs::read_dir(folder.unwrap_or(Path::new("."))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes good what a crash left of a rotation; the number of the file that is written to.
pub(super) fn recover(current: &Path) -> Result<u64, AuditError> {
    let read = |source| AuditError::Read {
        path: current.to_owned(),
        source,
    };
    let next = next_path(current);
    let full = full(current).map_err(read)?;
    let Some((number, last)) = full.last() else {
        remove(&next).map_err(read)?;
        return Ok(1);
    };
    if current.try_exists().map_err(read)? {
        // Nobody went on because of what is in it.
        remove(&next).map_err(read)?;
    } else if goes_on(&next, last).map_err(read)? {
        fs::rename(&next, current).map_err(read)?;
        data_dir::sync_parent(current).map_err(read)?;
    } else {
        return Err(AuditError::Gone {
            path: current.to_owned(),
            last: last.clone(),
        });
    }
    Ok(number.saturating_add(1))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether the next file is whole and hangs on the end of the last one.
fn goes_on(next: &Path, last: &Path) -> io::Result<bool> {
    let Some(bytes) = fs::read(next)
        .map(Some)
        .or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        })?
    else {
        return Ok(false);
    };
    let line = bytes.strip_suffix(b"\n").unwrap_or_default();
    let verify::Tail::Whole { head, .. } = verify::tail(&File::open(last)?)? else {
        return Ok(false);
    };
    Ok(start_of(line) == head && head.follow(line).is_ok())
}

/// A file that was begun in place of a full one.
pub(super) struct Begun {
    pub(super) file: File,
    pub(super) head: Head,
    pub(super) length: u64,
    /// Its first line.
    pub(super) line: Vec<u8>,
}

/// Whether this file stands under its name.
pub(super) fn is(current: &Path, file: Option<&File>) -> bool {
    let under_name = fs::metadata(current).map(|it| (it.dev(), it.ino()));
    let open = file.and_then(|file| file.metadata().ok());
    open.is_some_and(|it| under_name.is_ok_and(|under| under == (it.dev(), it.ino())))
}

/// Gives the full file its number and begins the next, in which the chain goes on. Cut off anywhere, [`recover`] makes it
/// good; failed, everything is as it was.
pub(super) fn rotate(current: &Path, number: u64, head: Head, now: Timestamp) -> io::Result<Begun> {
    let (full, next) = (name(current, number), next_path(current));
    if full.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let after = full.file_name().unwrap_or_default().to_string_lossy();
    let event = Event::Rotated {
        file: number.saturating_add(1),
        after: after.into_owned(),
    };
    let (line, head) = head.line(now, &event)?;
    remove(&next)?;
    data_dir::write_synced(&next, &line)?;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .mode(0o600)
        .open(&next)?;
    fs::rename(current, &full)?;
    if let Err(error) = fs::rename(&next, current) {
        fs::rename(&full, current)?;
        return Err(error);
    }
    data_dir::sync_parent(current)?;
    Ok(Begun {
        file,
        head,
        length: line.len() as u64,
        line,
    })
}

/// Reads all files of a log in their order, checks every record, and hands each to `see`. The oldest may have been taken
/// elsewhere; none may be missing between others. Works while the signer writes.
///
/// # Errors
/// The first line that does not fit; or why it cannot be read.
pub fn read(
    current: &Path,
    anchor: Option<&str>,
    mut see: impl FnMut(&Record<'_>),
) -> Result<Verified, AuditError> {
    let mut tries: usize = 0;
    let verified = loop {
        let before = listed(current)?;
        let verified = read_once(&before, current, anchor, |_| ());
        tries = tries.saturating_add(1);
        let moves = matches!(
            verified,
            Err(AuditError::Broken {
                problem: super::chain::Problem::Incomplete,
                ..
            })
        ) || verified.is_err() && listed(current)? != before;
        if !moves || tries == TRIES {
            break verified;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    // Once more, for who looks on: as much as was verified. What came in meanwhile may be half written.
    let mut left = verified.as_ref().map_or(u64::MAX, |it| it.records);
    let shown = read_once(&listed(current)?, current, anchor, |record| {
        if left > 0 {
            left = left.saturating_sub(1);
            see(record);
        }
    });
    verified.or(shown)
}

fn listed(current: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let full = full(current).map_err(|source| AuditError::Read {
        path: current.to_owned(),
        source,
    })?;
    let full = full.into_iter().map(|(_, path)| path);
    Ok(full.chain([current.to_owned()]).collect())
}

fn read_once(
    files: &[PathBuf],
    current: &Path,
    anchor: Option<&str>,
    mut see: impl FnMut(&Record<'_>),
) -> Result<Verified, AuditError> {
    let mut reading = Reading::new(Kind::File, anchor);
    for path in files {
        let file = File::open(path).map_err(|source| AuditError::Read {
            path: path.clone(),
            source,
        })?;
        reading.read(path, BufReader::new(file), &mut see)?;
    }
    reading.end(current)
}
