//! The ledger's tables, and how a file comes to have them.

use std::path::Path;

use rusqlite::Connection;

/// The version of the tables below.
pub(super) const SCHEMA: i64 = 2;

/// Why a ledger cannot be opened.
pub(super) enum OpenError {
    /// SQLite's word.
    Sqlite(rusqlite::Error),
    /// It has this schema, of a newer release.
    Newer(i64),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Opens the file, and brings its tables up to date.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    let connection = Connection::open(path)?;
    // plabd is the only one that opens it, so the index of the journal can be in memory and needs no file: a ledger on
    // a full disk can still be read.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Pages: the ledger is small, and plabd's memory is everybody's.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > SCHEMA {
        return Err(OpenError::Newer(version));
    }
    if version == SCHEMA {
        // Nothing is written that is there already: the disk may be full.
        return Ok(connection);
    }
    connection.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE IF NOT EXISTS slices (
             name TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE, definition TEXT NOT NULL, source TEXT NOT NULL,
             configured INTEGER NOT NULL DEFAULT 0, removing INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS events (
             seq INTEGER PRIMARY KEY, time TEXT NOT NULL, slice TEXT, kind TEXT NOT NULL,
             severity TEXT NOT NULL, message TEXT NOT NULL);
         CREATE INDEX IF NOT EXISTS events_of_slice ON events (slice, seq);
         {}
         PRAGMA user_version = {SCHEMA};
         COMMIT;",
        super::boots::TABLES
    ))?;
    Ok(connection)
}
