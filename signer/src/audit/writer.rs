//! Appending: one thread writes, and one `fdatasync` serves all who came in meanwhile.

use super::{
    AuditError, Event,
    chain::{self, Head},
    files,
    verify::{self, Tail},
};
use crate::{data_dir, traces::TRACES};
use jiff::Timestamp;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// The most records one `fdatasync` serves.
const BATCH: usize = 1024;

/// Where records go, beside the log's file, and when that is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Each line is also printed on standard output.
    pub printed: bool,
    /// The bytes after which a file is full; `None`: never.
    pub max_bytes: Option<u64>,
}

/// The open log. Cheap to clone; the file is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    sender: mpsc::Sender<Entry>,
}

/// The proof that a record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where the chain stands with it.
    pub head: Head,
}

#[derive(Debug)]
struct Entry {
    time: Timestamp,
    event: Event,
    done: oneshot::Sender<Result<Receipt, AuditError>>,
}

impl AuditLog {
    /// Opens or begins the log. A last line that a crash cut short is moved to a file of its own and recorded.
    ///
    /// # Errors
    /// When it cannot be read or written, or its end was changed by something else.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, AuditError> {
        Self::open_with(path, now, Options::default())
    }

    /// As [`AuditLog::open`].
    ///
    /// # Errors
    /// As [`AuditLog::open`]; or when the log's file is gone and older ones are there.
    pub fn open_with(path: &Path, now: Timestamp, options: Options) -> Result<Self, AuditError> {
        Self::start(Appender::open(path, now, options)?)
    }

    /// A log that is printed on standard output and kept nowhere here: each start begins a chain.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn on_stdout() -> Result<Self, AuditError> {
        Self::start(Appender {
            file: None,
            path: PathBuf::from("standard output"),
            head: Head::EMPTY,
            length: 0,
            number: 1,
            lost: false,
            options: Options::default(),
        })
    }

    fn start(file: Appender) -> Result<Self, AuditError> {
        let path = file.path.clone();
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || write_loop(file, &receiver))
            .map_err(|source| AuditError::Write { path, source })?;
        Ok(Self { sender })
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// When it is not on disk: the caller must not go on with what it was about to do.
    #[tracing::instrument(name = "append to audit log", target = TRACES, skip_all, err)]
    pub async fn append(&self, time: Timestamp, event: Event) -> Result<Receipt, AuditError> {
        let (done, answer) = oneshot::channel();
        self.sender
            .send(Entry { time, event, done })
            .map_err(|_| AuditError::Closed)?;
        answer.await.map_err(|_| AuditError::Closed)?
    }
}

fn write_loop(mut file: Appender, receiver: &mpsc::Receiver<Entry>) {
    while let Ok(first) = receiver.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(entry) = receiver.try_recv()
        {
            batch.push(entry);
        }
        file.append(batch);
    }
}

#[derive(Debug)]
struct Appender {
    /// `None`: standard output.
    file: Option<File>,
    path: PathBuf,
    head: Head,
    length: u64,
    /// Which file of the log it is, from 1.
    number: u64,
    options: Options,
    /// The disk refused to say that something is safe: what the file holds is unknown until it is read again.
    lost: bool,
}

impl Appender {
    fn open(path: &Path, now: Timestamp, options: Options) -> Result<Self, AuditError> {
        let number = files::recover(path)?;
        let read = |source| AuditError::Read {
            path: path.to_owned(),
            source,
        };
        let write = |source| AuditError::Write {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(write)?;
        data_dir::sync_parent(path).map_err(write)?;
        let tail = verify::tail(&file).map_err(read)?;
        let (head, length, torn) = match tail {
            Tail::Whole { head, length } => (head, length, None),
            Tail::Torn { head, length, rest } => (head, length, Some(rest)),
            Tail::Broken { line, problem } => {
                return Err(AuditError::Broken {
                    path: path.to_owned(),
                    line,
                    problem,
                });
            }
        };
        let mut appender = Self {
            file: Some(file),
            path: path.to_owned(),
            head,
            length,
            number,
            lost: false,
            options,
        };
        if let Some(rest) = torn {
            appender.set_aside(&rest, now).map_err(write)?;
        }
        Ok(appender)
    }

    /// Moves what a crash left of a last write out of the way. Nobody went on because of it: it was never acknowledged.
    fn set_aside(&mut self, rest: &[u8], now: Timestamp) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".torn-{}-{}", now.as_second(), self.head.seq));
        let aside = self.path.with_file_name(&name);
        data_dir::write_synced(&aside, rest)?;
        data_dir::sync_parent(&aside)?;
        if let Some(file) = &self.file {
            file.set_len(self.length)?;
            file.sync_all()?;
        }
        tracing::error!(
            file = %aside.display(),
            bytes = rest.len(),
            "the audit log ended in a line that a crash cut short; it was set aside"
        );
        let event = Event::Torn {
            file: name.to_string_lossy().into_owned(),
            bytes: rest.len() as u64,
            sha256: hex::encode(chain::sha256(rest)),
        };
        let (line, head) = self.head.line(now, &event)?;
        self.write(&line)?;
        self.head = head;
        Ok(())
    }

    fn append(&mut self, batch: Vec<Entry>) {
        if let (false, Some(first)) = (self.lost, batch.first()) {
            self.rotate_when_full(first.time);
        }
        let mut bytes = Vec::with_capacity(batch.len().saturating_mul(1024));
        let mut head = self.head;
        let mut waiting = Vec::with_capacity(batch.len());
        for Entry { time, event, done } in batch {
            match head.line(time, &event) {
                Ok((line, next)) => {
                    bytes.extend_from_slice(&line);
                    head = next;
                    waiting.push((done, Receipt { head }));
                }
                Err(error) => {
                    let _ = done.send(Err(self.write_error(error.into())));
                }
            }
        }
        let failed = if self.lost {
            Some(None)
        } else {
            self.write(&bytes).err().map(Some)
        };
        match failed {
            None => {
                self.head = head;
                for (done, receipt) in waiting {
                    // A caller that gave up waiting reads the log's state when it tries again.
                    let _ = done.send(Ok(receipt));
                }
            }
            Some(error) => {
                for (done, _) in waiting {
                    let answer = match &error {
                        Some(error) => self.write_error(same(error)),
                        None => AuditError::Lost {
                            path: self.path.clone(),
                        },
                    };
                    let _ = done.send(Err(answer));
                }
            }
        }
    }

    fn write_error(&self, source: io::Error) -> AuditError {
        AuditError::Write {
            path: self.path.clone(),
            source,
        }
    }

    /// Writes all of it to disk, or leaves the file as it was.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            // A part may be printed: what follows it would not be read as what it is.
            return print(bytes).inspect_err(|error| {
                tracing::error!(%error, "the audit log cannot be printed; nothing is signed");
                self.lost = true;
            });
        };
        if let Err(error) = file.write_all(bytes) {
            tracing::error!(%error, "the audit log cannot be written; nothing is signed");
            // A part may be in the file: a disk that fills up takes what still fits.
            self.lost = file.set_len(self.length).is_err();
            return Err(error);
        }
        if let Err(error) = file.sync_data() {
            // After a failed sync the kernel forgets which pages were lost: a second try could lie.
            tracing::error!(%error, "the disk lost a write to the audit log; nothing more is signed");
            self.lost = true;
            return Err(error);
        }
        self.length = self.length.saturating_add(bytes.len() as u64);
        if self.options.printed
            && let Err(error) = print(bytes)
        {
            // The file has it.
            tracing::warn!(%error, "the audit log's copy on standard output is not read");
        }
        Ok(())
    }

    /// Goes on in another file when this one is full. If that cannot be, goes on in this one.
    fn rotate_when_full(&mut self, now: Timestamp) {
        if self.file.is_none() || self.options.max_bytes.is_none_or(|most| self.length < most) {
            return;
        }
        match files::rotate(&self.path, self.number, self.head, now) {
            Ok(begun) => {
                self.file = Some(begun.file);
                self.head = begun.head;
                self.length = begun.length;
                self.number = self.number.saturating_add(1);
                if self.options.printed {
                    let _ = print(&begun.line);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the audit log is full and cannot go on in another file; it goes on in this one");
                // Under its name there must be this very file.
                self.lost = !files::is(&self.path, self.file.as_ref());
            }
        }
    }
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// `io::Error` is not `Clone`, and one failed write is told to everyone who waits for it.
fn same(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify::verify_file;
    use std::fs;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn append(log: &AuditLog, times: usize) {
        runtime().block_on(async {
            for _ in 0..times {
                log.append(Timestamp::UNIX_EPOCH, Event::Stopped {})
                    .await
                    .unwrap();
            }
        });
    }

    #[test]
    fn a_log_opened_again_goes_on_where_it_stood() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        append(&AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap(), 3);
        append(&AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap(), 2);
        assert_eq!(verify_file(&path, None).unwrap().head.seq, 5);
    }

    #[test]
    fn records_of_many_at_once_are_one_chain() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        let log = AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap();
        runtime().block_on(async {
            let all = (0..500).map(|_| log.append(Timestamp::UNIX_EPOCH, Event::Stopped {}));
            for receipt in futures::future::join_all(all).await {
                receipt.unwrap();
            }
        });
        assert_eq!(verify_file(&path, None).unwrap().head.seq, 500);
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_set_aside_and_recorded() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        append(&AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap(), 3);
        let whole = fs::read(&path).unwrap();
        for cut in [1, 20, 100] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            drop(AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap());
            let text = fs::read_to_string(&path).unwrap();
            let last = text.lines().last().unwrap();
            assert!(last.contains(r#""kind":"torn""#), "{last}");
            assert_eq!(verify_file(&path, None).unwrap().head.seq, 3);
            let aside = temp.path().join("audit.jsonl.torn-0-2");
            assert!(whole.ends_with(b"\n"));
            let line = &whole[whole[..whole.len() - 1]
                .iter()
                .rposition(|b| *b == b'\n')
                .unwrap()
                + 1..whole.len() - cut];
            assert_eq!(fs::read(aside).unwrap(), line);
        }
    }

    #[test]
    fn a_changed_line_near_the_end_keeps_the_log_from_opening() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        append(&AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap(), 5);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("\"seq\":4", "\"seq\":9", 1)).unwrap();
        let error = AuditLog::open(&path, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(
            matches!(error, AuditError::Broken { line: 4, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_disk_that_refuses_is_told_to_everyone_who_waits() {
        let log = AuditLog::open(Path::new("/dev/full"), Timestamp::UNIX_EPOCH).unwrap();
        // `/dev/full` can be opened, refuses every write, and cannot be cut: the log knows nothing of its state then.
        runtime().block_on(async {
            let first = log.append(Timestamp::UNIX_EPOCH, Event::Stopped {}).await;
            assert!(matches!(first, Err(AuditError::Write { .. })), "{first:?}");
            let second = log.append(Timestamp::UNIX_EPOCH, Event::Stopped {}).await;
            assert!(matches!(second, Err(AuditError::Lost { .. })), "{second:?}");
        });
    }
}

#[cfg(test)]
mod rotating {
    use super::*;
    use std::fs;

    const FULL: Options = Options {
        printed: false,
        max_bytes: Some(1000),
    };

    fn append(path: &Path, times: usize) {
        let log = AuditLog::open_with(path, Timestamp::UNIX_EPOCH, FULL).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(async {
                for _ in 0..times {
                    log.append(Timestamp::UNIX_EPOCH, Event::Stopped {})
                        .await
                        .unwrap();
                }
            });
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let full = files::full(path).unwrap();
        full.into_iter().map(|(number, _)| number).collect()
    }

    fn verified(path: &Path) -> Result<u64, AuditError> {
        files::read(path, None, |_| ()).map(|verified| verified.records)
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_the_chain_goes_through_all() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        append(&path, 20);
        append(&path, 20);
        let count = numbers(&path).len();
        assert!(count > 3, "{count}");
        assert_eq!(verified(&path).unwrap(), 40 + count as u64);
        let mut seen = 0;
        files::read(&path, None, |_| seen += 1).unwrap();
        assert_eq!(seen, 40 + count);
        for (_, file) in files::full(&path).unwrap() {
            assert!(fs::metadata(file).unwrap().len() < 1500);
        }
        // The oldest may be kept elsewhere, one in the middle may not.
        fs::rename(
            temp.path().join("audit-000001.jsonl"),
            temp.path().join("kept"),
        )
        .unwrap();
        assert!(verified(&path).is_ok());
        fs::remove_file(temp.path().join("audit-000003.jsonl")).unwrap();
        assert!(matches!(verified(&path), Err(AuditError::Broken { .. })));
    }

    #[test]
    fn a_crash_at_any_step_of_a_rotation_leaves_a_log_that_goes_on() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.jsonl");
        append(&path, 3);
        let before = fs::read(&path).unwrap();
        let verify::Tail::Whole { head, .. } = verify::tail(&File::open(&path).unwrap()).unwrap()
        else {
            panic!("not whole");
        };
        let next = temp.path().join("audit.jsonl.next");
        drop(files::rotate(&path, 1, head, Timestamp::UNIX_EPOCH).unwrap());
        let begun = fs::read(&path).unwrap();
        let full = temp.path().join("audit-000001.jsonl");

        // Before the first rename: what is next is forgotten. Cut short, too.
        for part in [&begun[..], &begun[..40], &[]] {
            fs::rename(&full, &path).unwrap();
            fs::write(&next, part).unwrap();
            append(&path, 0);
            assert!(!next.exists() && numbers(&path).is_empty());
            assert_eq!(fs::read(&path).unwrap(), before);
            fs::rename(&path, &full).unwrap();
        }
        // Between the renames: what is next takes its place.
        fs::write(&next, &begun).unwrap();
        append(&path, 1);
        assert_eq!(verified(&path).unwrap(), 5);
        // The file that is written to was taken away: no chain is begun in its place.
        fs::remove_file(&path).unwrap();
        for part in [None, Some(&b"{}\n"[..]), Some(&before[..])] {
            if let Some(part) = part {
                fs::write(&next, part).unwrap();
            }
            let opened = AuditLog::open_with(&path, Timestamp::UNIX_EPOCH, FULL);
            assert!(matches!(opened, Err(AuditError::Gone { .. })), "{part:?}");
        }
    }
}
