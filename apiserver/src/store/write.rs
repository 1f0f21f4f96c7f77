//! Writing: the one thread that does, in transactions that several writers share.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};

use super::{ChangeKind, Changed, Key, LOGGED_CHANGES, failed, read};
use crate::{config::Clock, object, resource, status::ApiError};

/// The most writes that share a transaction.
const BATCH: usize = 128;
/// How often what has ended is collected.
const COLLECT_EVERY: Duration = Duration::from_secs(30);
/// How many objects one collection takes away, so that writers never wait long.
const COLLECT_AT_MOST: i64 = 500;
/// The log is cut back whenever this many more changes were made.
const COMPACT_EVERY: u64 = 256;

/// What is to happen to an object.
#[derive(Debug)]
pub(crate) enum Change {
    /// Store this; with the hash of a token that may read it.
    Put(Value, Option<[u8; 32]>),
    /// Delete it.
    Delete,
    /// Delete the namespace and all in it.
    DeleteNamespace,
    /// Answer with this and store nothing: a dry run, or nothing changed.
    Keep(Value),
}

/// What a change is told.
pub(crate) struct WriteContext {
    /// The time.
    pub(crate) now: Timestamp,
    /// Whether the namespace is there; true for cluster-scoped kinds.
    pub(crate) namespace_exists: bool,
}

/// Says what is to become of the object that is there (or is not).
pub(crate) type ChangeFn =
    Box<dyn FnOnce(Option<&Value>, &WriteContext) -> Result<Change, ApiError> + Send>;

/// What became of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The object as it is now, or was when it was deleted.
    pub(crate) object: Value,
}

/// Work for the writer.
pub(super) enum Job {
    Change {
        key: Key,
        change: ChangeFn,
        reply: oneshot::Sender<Result<Outcome, ApiError>>,
    },
    Collect {
        reply: oneshot::Sender<Result<usize, ApiError>>,
    },
}

impl Job {
    /// Answers that it was not done.
    fn refuse(self, failure: &ApiError) {
        match self {
            Self::Change { reply, .. } => Answer::Change(reply, Err(failure.clone())).send(None),
            Self::Collect { reply } => Answer::Collect(reply, Err(failure.clone())).send(None),
        }
    }
}

/// An answer that waits for the commit.
enum Answer {
    Change(
        oneshot::Sender<Result<Outcome, ApiError>>,
        Result<Outcome, ApiError>,
    ),
    Collect(
        oneshot::Sender<Result<usize, ApiError>>,
        Result<usize, ApiError>,
    ),
}

impl Answer {
    fn send(self, failure: Option<&ApiError>) {
        // Whoever asked may be gone; the write stands all the same.
        match self {
            Self::Change(reply, result) => {
                let _ = reply.send(failure.map_or(result, |failure| Err(failure.clone())));
            }
            Self::Collect(reply, result) => {
                let _ = reply.send(failure.map_or(result, |failure| Err(failure.clone())));
            }
        }
    }
}

pub(super) struct Writer {
    connection: Connection,
    clock: Arc<dyn Clock>,
    changes: broadcast::Sender<Arc<Changed>>,
    revision: u64,
    compacted: u64,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        clock: Arc<dyn Clock>,
        changes: broadcast::Sender<Arc<Changed>>,
    ) -> rusqlite::Result<Self> {
        let revision = read::counter(&connection, "revision")?;
        let compacted = read::counter(&connection, "compacted")?;
        Ok(Self {
            connection,
            clock,
            changes,
            revision,
            compacted,
        })
    }

    /// Makes changes before anyone can ask.
    pub(super) fn begin(&mut self, first: Vec<(Key, ChangeFn)>) -> rusqlite::Result<()> {
        let mut jobs = first
            .into_iter()
            .map(|(key, change)| {
                let (reply, _) = oneshot::channel();
                Job::Change { key, change, reply }
            })
            .collect();
        self.transact(&mut jobs, &mut Vec::new(), &mut Vec::new())
    }

    /// Works until all who could ask are gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut collected = Instant::now();
        loop {
            let mut batch = Vec::new();
            match jobs.recv_timeout(COLLECT_EVERY.saturating_sub(collected.elapsed())) {
                Ok(job) => batch.push(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            batch.extend(jobs.try_iter().take(BATCH));
            if collected.elapsed() >= COLLECT_EVERY {
                collected = Instant::now();
                let (reply, _) = oneshot::channel();
                batch.push(Job::Collect { reply });
            }
            self.work(batch);
        }
    }

    /// One transaction; answers when it is on disk.
    fn work(&mut self, batch: Vec<Job>) {
        let mut waiting = VecDeque::from(batch);
        let before = (self.revision, self.compacted);
        let mut answers = Vec::with_capacity(waiting.len());
        let mut changed = Vec::new();
        let result = self.transact(&mut waiting, &mut answers, &mut changed);
        let failure = result.err().map(|error| {
            (self.revision, self.compacted) = before;
            changed.clear();
            failed(error)
        });
        for change in changed {
            // No watchers, no one to tell.
            let _ = self.changes.send(Arc::new(change));
        }
        for answer in answers {
            answer.send(failure.as_ref());
        }
        // Only a failed transaction leaves work undone.
        if let Some(failure) = failure {
            for job in waiting {
                job.refuse(&failure);
            }
        }
    }

    fn transact(
        &mut self,
        waiting: &mut VecDeque<Job>,
        answers: &mut Vec<Answer>,
        changed: &mut Vec<Changed>,
    ) -> rusqlite::Result<()> {
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut revision = self.revision;
        while !waiting.is_empty() {
            let now = self.clock.now();
            let savepoint = (revision, changed.len());
            let mut step = Step {
                transaction: &transaction,
                now,
                revision: &mut revision,
                changed,
            };
            // A failing or panicking change takes itself back, not its neighbours.
            step.transaction.execute_batch("SAVEPOINT job")?;
            let Some(job) = waiting.pop_front() else {
                break;
            };
            let is_ok = match job {
                Job::Change { key, change, reply } => {
                    let result = guarded(|| step.change(&key, change));
                    let is_ok = result.is_ok();
                    answers.push(Answer::Change(reply, result));
                    is_ok
                }
                Job::Collect { reply } => {
                    let result = guarded(|| step.collect().map_err(failed));
                    let is_ok = result.is_ok();
                    answers.push(Answer::Collect(reply, result));
                    is_ok
                }
            };
            if !is_ok {
                transaction.execute_batch("ROLLBACK TO job")?;
                revision = savepoint.0;
                changed.truncate(savepoint.1);
            }
            transaction.execute_batch("RELEASE job")?;
        }
        if revision == self.revision {
            return Ok(());
        }
        transaction
            .prepare_cached("UPDATE counters SET value = ?1 WHERE name = 'revision'")?
            .execute([signed(revision)])?;
        let mut compacted = self.compacted;
        if revision > compacted + LOGGED_CHANGES + COMPACT_EVERY {
            compacted = revision - LOGGED_CHANGES;
            transaction.execute(
                "DELETE FROM changes WHERE revision <= ?1",
                [signed(compacted)],
            )?;
            transaction.execute(
                "UPDATE counters SET value = ?1 WHERE name = 'compacted'",
                [signed(compacted)],
            )?;
        }
        transaction.set_drop_behavior(rusqlite::DropBehavior::Rollback);
        transaction.commit()?;
        self.revision = revision;
        self.compacted = compacted;
        Ok(())
    }
}

fn guarded<T>(work: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a write panicked; it was taken back");
        Err(ApiError::internal("the write failed"))
    })
}

/// A resource version for SQLite, whose integers have a sign. Counting one a nanosecond, it lasts 292 years.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// One job within a transaction.
struct Step<'a> {
    transaction: &'a Transaction<'a>,
    now: Timestamp,
    revision: &'a mut u64,
    changed: &'a mut Vec<Changed>,
}

impl Step<'_> {
    fn change(&mut self, key: &Key, change: ChangeFn) -> Result<Outcome, ApiError> {
        let current = read::object(self.transaction, key)
            .map_err(failed)?
            .map(|stored| serde_json::from_str::<Value>(&stored.json))
            .transpose()
            .map_err(|error| {
                ApiError::internal(format!("a stored object can't be read: {error}"))
            })?;
        let context = WriteContext {
            now: self.now,
            namespace_exists: key.namespace.is_empty()
                || self.exists("namespaces", &key.namespace).map_err(failed)?,
        };
        match (change(current.as_ref(), &context)?, current) {
            (Change::Put(new, token), current) => {
                self.put(key, new, current.as_ref(), token).map_err(failed)
            }
            (Change::Keep(object), _) => Ok(Outcome { object }),
            (Change::Delete, Some(current)) => self.delete(key, current).map_err(failed),
            (Change::DeleteNamespace, Some(current)) => {
                self.empty_namespace(&key.name).map_err(failed)?;
                self.delete(key, current).map_err(failed)
            }
            (Change::Delete | Change::DeleteNamespace, None) => {
                Err(ApiError::internal("there is nothing to delete"))
            }
        }
    }

    fn exists(&self, store: &str, name: &str) -> rusqlite::Result<bool> {
        self.transaction
            .prepare_cached(
                "SELECT 1 FROM objects WHERE store = ?1 AND namespace = '' AND name = ?2",
            )?
            .exists(params![store, name])
    }

    fn put(
        &mut self,
        key: &Key,
        mut new: Value,
        old: Option<&Value>,
        token: Option<[u8; 32]>,
    ) -> rusqlite::Result<Outcome> {
        *self.revision += 1;
        object::metadata_mut(&mut new).insert(
            "resourceVersion".to_owned(),
            json!(self.revision.to_string()),
        );
        let text = new.to_string();
        let ends = resource::find_stored(key.store)
            .and_then(|resource| (resource.ends)(&new))
            .map(Timestamp::as_second);
        self.transaction
            .prepare_cached(
                "INSERT INTO objects (store, namespace, name, uid, ends, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (store, namespace, name)
                 DO UPDATE SET uid = excluded.uid, ends = excluded.ends, json = excluded.json",
            )?
            .execute(params![key.store, key.namespace, key.name, object::uid(&new), ends, text])?;
        if let Some(sha256) = token {
            self.transaction
                .prepare_cached("INSERT INTO read_tokens (uid, sha256) VALUES (?1, ?2)")?
                .execute(params![object::uid(&new), sha256.as_slice()])?;
        }
        let labels_before = old
            .filter(|old| object::labels(old) != object::labels(&new))
            .map(|old| {
                object::labels(old)
                    .cloned()
                    .unwrap_or(Value::Null)
                    .to_string()
            });
        let kind = if old.is_some() {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        self.log(kind, key, text, labels_before)?;
        Ok(Outcome { object: new })
    }

    fn delete(&mut self, key: &Key, mut object: Value) -> rusqlite::Result<Outcome> {
        *self.revision += 1;
        // Watchers see the object with the version of its end, as in Kubernetes.
        object::metadata_mut(&mut object).insert(
            "resourceVersion".to_owned(),
            json!(self.revision.to_string()),
        );
        self.transaction
            .prepare_cached(
                "DELETE FROM objects WHERE store = ?1 AND namespace = ?2 AND name = ?3",
            )?
            .execute(params![key.store, key.namespace, key.name])?;
        self.transaction
            .prepare_cached("DELETE FROM read_tokens WHERE uid = ?1")?
            .execute([object::uid(&object)])?;
        self.log(ChangeKind::Deleted, key, object.to_string(), None)?;
        Ok(Outcome { object })
    }

    fn empty_namespace(&mut self, namespace: &str) -> rusqlite::Result<()> {
        for one in resource::RESOURCES.iter().filter(|one| one.namespaced) {
            let Some(store) = one.store() else { continue };
            let inside = {
                let mut statement = self.transaction.prepare_cached(
                    "SELECT namespace, name, uid, json FROM objects WHERE store = ?1 AND namespace = ?2",
                )?;
                let rows = statement.query_map(params![store, namespace], read::stored)?;
                rows.collect::<rusqlite::Result<Vec<_>>>()?
            };
            self.delete_all(store, inside)?;
        }
        Ok(())
    }

    fn collect(&mut self) -> rusqlite::Result<usize> {
        let ended = {
            let mut statement = self.transaction.prepare_cached(
                "SELECT namespace, name, uid, json, store FROM objects WHERE ends <= ?1 ORDER BY ends LIMIT ?2",
            )?;
            let rows = statement
                .query_map(params![self.now.as_second(), COLLECT_AT_MOST], |row| {
                    Ok((row.get::<_, String>(4)?, read::stored(row)?))
                })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()?
        };
        let count = ended.len();
        for (store, stored) in ended {
            if let Some(store) = resource::find_stored(&store).and_then(resource::Resource::store) {
                self.delete_all(store, vec![stored])?;
            }
        }
        Ok(count)
    }

    fn delete_all(
        &mut self,
        store: &'static str,
        objects: Vec<super::Stored>,
    ) -> rusqlite::Result<()> {
        for stored in objects {
            let object = serde_json::from_str(&stored.json).unwrap_or_default();
            let key = Key {
                store,
                namespace: stored.namespace,
                name: stored.name,
            };
            self.delete(&key, object)?;
        }
        Ok(())
    }

    fn log(
        &mut self,
        kind: ChangeKind,
        key: &Key,
        json: String,
        labels_before: Option<String>,
    ) -> rusqlite::Result<()> {
        let word = match kind {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        };
        self.transaction
            .prepare_cached(
                "INSERT INTO changes (revision, kind, store, namespace, name, json, labels_before)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                signed(*self.revision),
                word,
                key.store,
                key.namespace,
                key.name,
                json,
                labels_before
            ])?;
        self.changed.push(Changed {
            revision: *self.revision,
            kind,
            store: key.store.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            json,
            labels_before,
            parsed: OnceLock::new(),
        });
        Ok(())
    }
}
