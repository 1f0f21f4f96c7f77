//! The store: objects, a log of their changes, and read tokens, in one SQLite file.
//!
//! One thread writes. It takes whatever waits, does all of it in one transaction, and answers only when that is on disk
//! (WAL, `synchronous=FULL`): what was answered survives a SIGKILL or a power cut, and many writers share one fsync.
//! Readers have connections of their own and see each transaction whole. Every change gets the next resource version of
//! one global count; watchers are told of it in that order, and those that fell behind read the log.

mod read;
mod schema;
mod write;

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc},
};

use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::{broadcast, oneshot};

use self::{read::Readers, write::Job};
pub(crate) use self::{
    read::{LogRequest, Page, PageRequest, Since},
    write::{Change, ChangeFn, Outcome},
};
use crate::{config::Clock, status::ApiError};

/// Changes that the log keeps. A watcher that is further behind must list again.
const LOGGED_CHANGES: u64 = 10_000;
/// Changes that a slow watcher may be behind before it reads the log.
const BROADCAST_CHANGES: usize = 256;

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The kind's store.
    pub(crate) store: &'static str,
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The whole object, resource version included.
    pub(crate) json: String,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change, as watchers are told of it.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) revision: u64,
    pub(crate) kind: ChangeKind,
    pub(crate) store: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The object after the change, or as it was when it was deleted.
    pub(crate) json: String,
    /// The labels before the change, where the change touched them.
    pub(crate) labels_before: Option<String>,
    parsed: OnceLock<Value>,
}

impl Changed {
    /// The object as a value, parsed once for all watchers.
    pub(crate) fn object(&self) -> &Value {
        self.parsed
            .get_or_init(|| serde_json::from_str(&self.json).unwrap_or_default())
    }
}

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// Another process has it.
    #[error(
        "lock {0}: another process serves this database; stop it first, or use another data directory"
    )]
    Busy(PathBuf),
    /// The file can't be made, locked or given its mode.
    #[error("open {0}")]
    File(PathBuf, #[source] io::Error),
    /// A later version of this program made it.
    #[error(
        "read {path}: its schema is version {found}, this program knows {known}; use the newer program"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// SQLite says no.
    #[error("open {0} as an SQLite database; if it is damaged, restore a copy")]
    Sqlite(PathBuf, #[source] rusqlite::Error),
    /// No thread for the writer.
    #[error("start the thread that writes the database")]
    Thread(#[source] io::Error),
}

/// The open store.
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
    changes: broadcast::Sender<Arc<Changed>>,
}

impl Store {
    /// Opens the database, or makes it, and makes these first changes.
    pub(crate) fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        first: Vec<(Key, ChangeFn)>,
    ) -> Result<Self, StoreOpenError> {
        let lock = lock(path)?;
        // Made before SQLite does, so that it is never readable by others; the WAL takes over its mode.
        open_private(path)?;
        let sqlite = |error| StoreOpenError::Sqlite(path.to_owned(), error);
        let mut connection = Connection::open(path).map_err(sqlite)?;
        let found = schema::prepare(&mut connection).map_err(sqlite)?;
        if found > schema::VERSION {
            return Err(StoreOpenError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        let (jobs, waiting) = mpsc::channel();
        let (changes, _) = broadcast::channel(BROADCAST_CHANGES);
        let mut writer = write::Writer::new(connection, clock, changes.clone()).map_err(sqlite)?;
        writer.begin(first).map_err(sqlite)?;
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run(&waiting);
                // One process a database, to the very last write.
                drop(lock);
            })
            .map_err(StoreOpenError::Thread)?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers::new(path.to_owned())),
            changes,
        })
    }

    /// Changes one object in a transaction: `change` is given what is there and says what is to be.
    /// When this returns, the change is on disk.
    pub(crate) async fn write(&self, key: Key, change: ChangeFn) -> Result<Outcome, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Change { key, change, reply })
            .map_err(|_| ApiError::internal("the store is closed"))?;
        answer
            .await
            .map_err(|_| ApiError::internal("the store gave no answer"))?
    }

    /// Takes away what has ended; returns how much.
    pub(crate) async fn collect(&self) -> Result<usize, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Collect { reply })
            .map_err(|_| ApiError::internal("the store is closed"))?;
        answer
            .await
            .map_err(|_| ApiError::internal("the store gave no answer"))?
    }

    /// One object.
    pub(crate) async fn read(&self, key: Key) -> Result<Option<Stored>, ApiError> {
        self.with_reader(move |connection| read::object(connection, &key))
            .await
    }

    /// A page of objects, in the order of their keys, with the resource version it was read at.
    pub(crate) async fn page(&self, request: PageRequest) -> Result<Page, ApiError> {
        self.with_reader(move |connection| read::page(connection, &request))
            .await
    }

    /// The next changes after a resource version.
    pub(crate) async fn since(&self, request: LogRequest) -> Result<Since, ApiError> {
        self.with_reader(move |connection| read::since(connection, &request))
            .await
    }

    /// UIDs of the requests that a token of this hash reads.
    pub(crate) async fn requests_of_token(
        &self,
        sha256: [u8; 32],
    ) -> Result<Vec<String>, ApiError> {
        self.with_reader(move |connection| read::requests_of_token(connection, &sha256))
            .await
    }

    /// The changes from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Changed>> {
        self.changes.subscribe()
    }

    async fn with_reader<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let readers = self.readers.clone();
        tokio::task::spawn_blocking(move || readers.with(read))
            .await
            .map_err(|_| ApiError::internal("reading the store failed"))?
            .map_err(failed)
    }
}

/// What a client is told when SQLite fails; what exactly, the log has.
fn failed(error: rusqlite::Error) -> ApiError {
    tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
    ApiError::internal(format!("the store failed: {error}"))
}

fn lock(database: &Path) -> Result<File, StoreOpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let file = open_private(Path::new(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreOpenError::Busy(database.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreOpenError::File(path.into(), error)),
    }
}

fn open_private(path: &Path) -> Result<File, StoreOpenError> {
    let error = |error| StoreOpenError::File(path.to_owned(), error);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(error)?;
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::SystemClock;

    #[tokio::test]
    async fn the_log_is_read_a_page_at_a_time_and_without_what_was_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Arc::new(SystemClock), Vec::new()).unwrap();
        for number in 0..100 {
            let key = Key {
                store: "configmaps",
                namespace: String::new(),
                name: format!("m{number}"),
            };
            let object = json!({"metadata": {"name": key.name}});
            let put: ChangeFn = Box::new(move |_, _| Ok(Change::Put(object, None)));
            store.write(key, put).await.unwrap();
        }
        let read = async |store_name, name: Option<&str>, after| {
            let request = LogRequest {
                store: store_name,
                namespace: None,
                name: name.map(str::to_owned),
                after,
            };
            match store.since(request).await.unwrap() {
                Since::Changes {
                    changes,
                    revision,
                    more,
                } => (changes.len(), revision, more),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read("configmaps", None, 1).await, (64, 65, true));
        assert_eq!(read("configmaps", None, 65).await, (36, 101, false));
        assert_eq!(read("configmaps", Some("m99"), 1).await, (1, 101, false));
        assert_eq!(read("secrets", None, 1).await, (0, 101, false));
    }
}
