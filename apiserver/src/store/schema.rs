//! The tables.

use rusqlite::{Connection, TransactionBehavior};

/// The version of the tables below, kept in SQLite's `user_version`.
pub(super) const VERSION: i64 = 1;

const TABLES: &str = "
    -- One row each: revision, compacted.
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
    INSERT INTO counters VALUES ('revision', 1), ('compacted', 1);

    CREATE TABLE objects (
        store TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        -- Seconds since 1970 at which it is collected.
        ends INTEGER,
        json TEXT NOT NULL,
        PRIMARY KEY (store, namespace, name)
    ) STRICT;
    CREATE INDEX objects_by_end ON objects (ends) WHERE ends IS NOT NULL;

    CREATE TABLE changes (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        store TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        json TEXT NOT NULL,
        labels_before TEXT
    ) STRICT;

    CREATE TABLE read_tokens (
        uid TEXT PRIMARY KEY,
        sha256 BLOB NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX read_tokens_by_hash ON read_tokens (sha256);
";

/// Sets up a connection that writes, and the tables if there are none; returns the version found or made.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    settle(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut version: i64 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        version = VERSION;
    }
    transaction.commit()?;
    Ok(version)
}

/// What every connection needs.
pub(super) fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(32);
    // Deleted Secrets and tokens are overwritten.
    connection.pragma_update(None, "secure_delete", true)
}
