//! Reading: one object, a page of objects, the log.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};

use super::{ChangeKind, Changed, Key, Stored, schema};

/// Idle connections that are kept.
const IDLE: usize = 4;
/// How much of the log is read at once: a watcher that is far behind must not bring all of it into memory.
const LOG_PAGE: i64 = 64;

/// Connections that read.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Reads with a connection of its own. Blocks.
    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let connection = Connection::open_with_flags(
                    &self.path,
                    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
                )?;
                schema::settle(&connection)?;
                connection.pragma_update(None, "query_only", true)?;
                connection
            }
        };
        let result = read(&mut connection);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
        result
    }
}

/// What a list asks for.
#[derive(Clone, Debug)]
pub(crate) struct PageRequest {
    pub(crate) store: &'static str,
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
    /// `None`: all names.
    pub(crate) name: Option<String>,
    /// The namespace and name of the last object of the page before.
    pub(crate) after: Option<(String, String)>,
    /// `None`: all.
    pub(crate) limit: Option<u64>,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Stored>,
    /// Whether there are more.
    pub(crate) more: bool,
    /// How many more there are, on a first page: counting them again on each would cost a long list more than reading it.
    pub(crate) remaining: Option<u64>,
    /// The resource version it was read at.
    pub(crate) revision: u64,
    /// Changes up to this one are no longer in the log.
    pub(crate) compacted: u64,
}

/// Which part of the log is read.
#[derive(Clone, Debug)]
pub(crate) struct LogRequest {
    pub(crate) store: &'static str,
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
    /// `None`: all names.
    pub(crate) name: Option<String>,
    /// The resource version to begin after.
    pub(crate) after: u64,
}

/// What happened after a resource version.
#[derive(Debug)]
pub(crate) enum Since {
    /// The next changes after it.
    Changes {
        changes: Vec<Arc<Changed>>,
        /// The resource version they lead to.
        revision: u64,
        /// Whether the log may have more.
        more: bool,
    },
    /// The log does not go back that far.
    Compacted,
    /// That resource version has not been yet.
    Future,
}

pub(super) fn counter(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT value FROM counters WHERE name = ?1")?
        .query_row([name], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        namespace: row.get(0)?,
        name: row.get(1)?,
        uid: row.get(2)?,
        json: row.get(3)?,
    })
}

pub(super) fn object(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Stored>> {
    connection
        .prepare_cached(
            "SELECT namespace, name, uid, json FROM objects WHERE store = ?1 AND namespace = ?2 AND name = ?3",
        )?
        .query_row(params![key.store, key.namespace, key.name], stored)
        .optional()
}

pub(super) fn page(connection: &mut Connection, request: &PageRequest) -> rusqlite::Result<Page> {
    // One transaction, so that the objects and the resource version are of the same moment.
    let transaction = connection.transaction()?;
    let revision = counter(&transaction, "revision")?;
    let compacted = counter(&transaction, "compacted")?;
    let (after_namespace, after_name) = request.after.clone().unwrap_or_default();
    // One more than asked for, to see whether there is one.
    let limit = request
        .limit
        .and_then(|limit| i64::try_from(limit).ok()?.checked_add(1))
        .unwrap_or(-1);
    let from = format!(
        "FROM objects WHERE store = ?1{}{}{}",
        request
            .namespace
            .as_ref()
            .map_or("", |_| " AND namespace = ?2"),
        request.name.as_ref().map_or("", |_| " AND name = ?3"),
        request
            .after
            .as_ref()
            .map_or("", |_| " AND (namespace, name) > (?4, ?5)"),
    );
    let mut objects = Vec::new();
    {
        let mut statement = transaction.prepare_cached(&format!(
            "SELECT namespace, name, uid, json {from} ORDER BY namespace, name LIMIT ?6",
        ))?;
        let mut rows = statement.query(params![
            request.store,
            request.namespace,
            request.name,
            after_namespace,
            after_name,
            limit
        ])?;
        while let Some(row) = rows.next()? {
            objects.push(stored(row)?);
        }
    }
    let asked = request.limit.and_then(|limit| usize::try_from(limit).ok());
    let more = asked.is_some_and(|asked| objects.len() > asked);
    if let Some(asked) = asked {
        objects.truncate(asked);
    }
    let remaining = if more && request.after.is_none() && !objects.is_empty() {
        let all: i64 = transaction
            // The limit is on the one row of the count; it names the last parameter.
            .prepare_cached(&format!("SELECT count(*) {from} LIMIT ?6"))?
            .query_row(
                params![
                    request.store,
                    request.namespace,
                    request.name,
                    after_namespace,
                    after_name,
                    -1
                ],
                |row| row.get(0),
            )?;
        Some(all.unsigned_abs().saturating_sub(objects.len() as u64))
    } else {
        None
    };
    transaction.commit()?;
    Ok(Page {
        objects,
        more,
        remaining,
        revision,
        compacted,
    })
}

pub(super) fn since(connection: &mut Connection, request: &LogRequest) -> rusqlite::Result<Since> {
    let revision = request.after;
    let transaction = connection.transaction()?;
    let now = counter(&transaction, "revision")?;
    if revision > now {
        return Ok(Since::Future);
    }
    if revision < counter(&transaction, "compacted")? {
        return Ok(Since::Compacted);
    }
    let mut changes: Vec<Arc<Changed>> = Vec::new();
    {
        let mut statement = transaction.prepare_cached(
            "SELECT revision, kind, store, namespace, name, json, labels_before FROM changes
             WHERE revision > ?1 AND store = ?2 AND (?3 IS NULL OR namespace = ?3) AND (?4 IS NULL OR name = ?4)
             ORDER BY revision LIMIT ?5",
        )?;
        let mut rows = statement.query(params![
            i64::try_from(revision).unwrap_or(i64::MAX),
            request.store,
            request.namespace,
            request.name,
            LOG_PAGE
        ])?;
        while let Some(row) = rows.next()? {
            changes.push(Arc::new(Changed {
                revision: row.get::<_, i64>(0)?.unsigned_abs(),
                kind: match row.get_ref(1)?.as_str()? {
                    "ADDED" => ChangeKind::Added,
                    "DELETED" => ChangeKind::Deleted,
                    _ => ChangeKind::Modified,
                },
                store: row.get(2)?,
                namespace: row.get(3)?,
                name: row.get(4)?,
                json: row.get(5)?,
                labels_before: row.get(6)?,
                parsed: OnceLock::new(),
            }));
        }
    }
    transaction.commit()?;
    let more = i64::try_from(changes.len()).is_ok_and(|read| read >= LOG_PAGE);
    let revision = match changes.last() {
        Some(last) if more => last.revision,
        _ => now,
    };
    Ok(Since::Changes {
        changes,
        revision,
        more,
    })
}

pub(super) fn requests_of_token(
    connection: &mut Connection,
    sha256: &[u8; 32],
) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare_cached("SELECT uid, sha256 FROM read_tokens WHERE sha256 = ?1")?;
    let rows = statement.query_map([sha256.as_slice()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let mut uids = Vec::new();
    for row in rows {
        let (uid, kept) = row?;
        // The index compares hashes, from which the token can't be worked out; what decides takes the same time always.
        if aws_lc_rs::constant_time::verify_slices_are_equal(&kept, sha256).is_ok() {
            uids.push(uid);
        }
    }
    Ok(uids)
}
