//! Sealing: a full segment is written anew, sorted by remote address, the records of one flow added up.
//!
//! It gets another name when it is on disk, and only then does the old file go; a crash in between leaves both, and the
//! sealed one counts.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::FlowError;
use crate::segment::{COLUMNS, COMMON, beside, open_path, sealed_path};

/// Sorted as it is asked for: by remote address first. Without SQLite's row number: the key is all there is.
const SEALED: &str = "
    CREATE TABLE flow (
        remote BLOB NOT NULL, remote_port INTEGER NOT NULL, protocol INTEGER NOT NULL, owner INTEGER NOT NULL,
        local BLOB NOT NULL, local_port INTEGER NOT NULL, start INTEGER NOT NULL, since INTEGER NOT NULL,
        last INTEGER NOT NULL, flags INTEGER NOT NULL, packets_out INTEGER NOT NULL, bytes_out INTEGER NOT NULL,
        packets_in INTEGER NOT NULL, bytes_in INTEGER NOT NULL, refused INTEGER NOT NULL,
        PRIMARY KEY (remote, remote_port, protocol, owner, local, local_port, start)
    ) WITHOUT ROWID;";

/// Seals the segment `seq`.
pub(crate) fn seal(directory: &Path, seq: u64) -> Result<(), FlowError> {
    let (open, sealed) = (open_path(directory, seq), sealed_path(directory, seq));
    let new = directory.join("sealing");
    remove(&new)?;
    let renamed = write(&open, &new)
        .map_err(FlowError::sqlite("seal", &open))
        .and_then(|()| {
            File::open(&new).and_then(|file| file.sync_all()).map_err(FlowError::io("put on disk", &new))
        })
        .and_then(|()| fs::rename(&new, &sealed).map_err(FlowError::io("rename to", &sealed)));
    if renamed.is_err() {
        // What there is of it takes room on a disk that may be full.
        remove(&new).ok();
    }
    renamed.and_then(|()| sync_directory(directory))
}

/// Removes what was appended to, after [`seal`].
pub(crate) fn remove_open(directory: &Path, seq: u64) -> Result<(), FlowError> {
    let open = open_path(directory, seq);
    // The log last: without its database it is nothing, while a database without its log is an older one.
    for path in [open.clone(), beside(&open, "-wal"), beside(&open, "-shm")] {
        remove(&path)?;
    }
    Ok(())
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> Result<(), FlowError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FlowError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Puts on disk which files there are.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), FlowError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(FlowError::io("put on disk", directory))
}

fn write(open: &Path, new: &Path) -> rusqlite::Result<()> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(new, flags)?;
    // Nobody knows the new file before it is whole and on disk.
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -8000)?;
    connection.execute("ATTACH ?1 AS old", [open.to_string_lossy()])?;
    connection.execute_batch(COMMON)?;
    connection.execute_batch(SEALED)?;
    connection.execute_batch(&format!(
        "BEGIN;
         INSERT INTO owner SELECT * FROM old.owner;
         INSERT INTO flow
             SELECT remote, remote_port, protocol, owner, local, local_port, start, min(since), max(last),
                    max(flags & 1) | max(flags & 2), sum(packets_out), sum(bytes_out), sum(packets_in),
                    sum(bytes_in), sum(refused)
             FROM (SELECT {COLUMNS} FROM old.flow)
             GROUP BY remote, remote_port, protocol, owner, local, local_port, start
             ORDER BY remote, remote_port, protocol, owner, local, local_port, start;
         INSERT INTO segment SELECT * FROM old.segment;
         UPDATE segment SET rows = (SELECT count(*) FROM flow), orderly = 1;
         COMMIT;
         DETACH old;"
    ))
}
