//! One segment: the schema, and the one that is appended to.
//!
//! While it is appended to, a segment is a plain table in arrival order with SQLite's write-ahead log beside it: a commit
//! writes only what is new, readers are not kept waiting, and after a crash SQLite cuts the log at its first frame whose
//! checksum is wrong. Nothing is looked for while writing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use crate::error::FlowError;
use crate::owner::{Owner, Owners};
use crate::record::Flow;
use crate::seal::sync_directory;
use crate::writer::ClockReading;

/// The version of the schema.
pub(crate) const VERSION: i64 = 1;

/// What all segments have: whose flows, and what is said about the segment as a whole. `boot`, `zero` and `believed` say what
/// time it was: `zero` is the wall clock's time, in milliseconds since 1970, when CLOCK_BOOTTIME was 0.
pub(crate) const COMMON: &str = "
    CREATE TABLE owner (
        id INTEGER PRIMARY KEY, cgroup INTEGER NOT NULL, slice TEXT, uid INTEGER, contact TEXT
    );
    CREATE TABLE segment (
        version INTEGER NOT NULL, boot TEXT NOT NULL, zero INTEGER NOT NULL, believed INTEGER NOT NULL,
        base INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, rows INTEGER NOT NULL,
        lost_kernel INTEGER NOT NULL, lost_store INTEGER NOT NULL, unread INTEGER NOT NULL,
        torn INTEGER NOT NULL, orderly INTEGER NOT NULL
    );";

/// The columns of a flow. Small numbers take little room: `start` counts from the segment's `base`, `since` and `last` from
/// `start`, all in milliseconds; `flags` is 1 for a flow's first record, 2 for its last.
pub(crate) const COLUMNS: &str = "remote, remote_port, protocol, owner, local, local_port, start, since, last, flags, \
     packets_out, bytes_out, packets_in, bytes_in, refused";

/// Records that were not kept, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    /// The kernel's ring was full.
    pub(crate) kernel: u64,
    /// The store could not keep up, or could not write.
    pub(crate) store: u64,
    /// The record was not understood.
    pub(crate) unread: u64,
}

impl Lost {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            kernel: self.kernel + other.kernel,
            store: self.store + other.store,
            unread: self.unread + other.unread,
        }
    }

    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// What is said about a segment as a whole. Times are milliseconds of CLOCK_BOOTTIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The boot, by the kernel's name.
    pub(crate) boot: String,
    /// What time it was.
    pub(crate) clock: ClockReading,
    /// When it was begun; `start` counts from here.
    pub(crate) base: i64,
    /// The earliest time of a record; later than `last` if there is none.
    pub(crate) first: i64,
    /// The latest.
    pub(crate) last: i64,
    /// Records.
    pub(crate) rows: u64,
    /// Records that were not kept while this was the newest segment.
    pub(crate) lost: Lost,
    /// How often writing ended without order, so that the last seconds before may be missing.
    pub(crate) torn: u64,
    /// Nobody writes it any more, and its writer has said so.
    pub(crate) orderly: bool,
}

/// The file of a segment that is appended to, or waits to be sealed.
pub(crate) fn open_path(directory: &Path, seq: u64) -> PathBuf {
    directory.join(format!("{seq:08}.open"))
}

/// The file of a segment that is sorted and is not changed any more.
pub(crate) fn sealed_path(directory: &Path, seq: u64) -> PathBuf {
    directory.join(format!("{seq:08}.flows"))
}

/// What SQLite keeps beside an open segment.
pub(crate) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(what);
    PathBuf::from(name)
}

fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn natural(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

impl Header {
    /// Reads it from a segment's connection.
    pub(crate) fn read(connection: &Connection, path: &Path) -> Result<Self, FlowError> {
        let failed = |what| FlowError::sqlite(what, path);
        let version: i64 = connection
            .query_row("SELECT version FROM segment", [], |row| row.get(0))
            .map_err(failed("read the header of"))?;
        if version != VERSION {
            return Err(FlowError::Newer { path: path.to_owned(), version, known: VERSION });
        }
        let columns =
            "boot, zero, believed, base, first, last, rows, lost_kernel, lost_store, unread, torn, orderly";
        connection
            .query_row(&format!("SELECT {columns} FROM segment"), [], |row| {
                Ok(Self {
                    boot: row.get(0)?,
                    clock: ClockReading { zero: row.get(1)?, believed: row.get(2)? },
                    base: row.get(3)?,
                    first: row.get(4)?,
                    last: row.get(5)?,
                    rows: natural(row.get(6)?),
                    lost: Lost {
                        kernel: natural(row.get(7)?),
                        store: natural(row.get(8)?),
                        unread: natural(row.get(9)?),
                    },
                    torn: natural(row.get(10)?),
                    orderly: row.get(11)?,
                })
            })
            .map_err(failed("read the header of"))
    }

    /// Writes it in one step: there is one row, and a segment without it would be none.
    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute(
            "INSERT OR REPLACE INTO segment (rowid, version, boot, zero, believed, base, first, last, rows,
                 lost_kernel, lost_store, unread, torn, orderly)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                VERSION,
                self.boot,
                self.clock.zero,
                self.clock.believed,
                self.base,
                self.first,
                self.last,
                integer(self.rows),
                integer(self.lost.kernel),
                integer(self.lost.store),
                integer(self.lost.unread),
                integer(self.torn),
                self.orderly,
            ],
        )?;
        Ok(())
    }
}

/// The segment that is appended to.
pub(crate) struct OpenSegment {
    connection: Connection,
    path: PathBuf,
    /// Its number.
    pub(crate) seq: u64,
    /// As it was committed last.
    pub(crate) header: Header,
    /// The rows of `owner`: by cgroup the newest, because a contact changes.
    owners: HashMap<u64, (Option<Owner>, i64)>,
}

impl OpenSegment {
    /// Begins a segment.
    pub(crate) fn create(
        directory: &Path,
        seq: u64,
        boot: &str,
        clock: ClockReading,
        base: i64,
    ) -> Result<Self, FlowError> {
        let path = open_path(directory, seq);
        let failed = |source| FlowError::Sqlite { what: "begin", path: path.clone(), source };
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
        let header = Header {
            boot: boot.to_owned(),
            clock,
            base,
            first: i64::MAX,
            last: i64::MIN,
            rows: 0,
            lost: Lost::default(),
            torn: 0,
            orderly: false,
        };
        let transaction = connection.transaction().map_err(failed)?;
        transaction
            .execute_batch(COMMON)
            .and_then(|()| transaction.execute_batch(&format!("CREATE TABLE flow ({COLUMNS})")))
            .and_then(|()| header.write(&transaction))
            .and_then(|()| transaction.commit())
            .map_err(failed)?;
        // SQLite waits for the disk to have the file, not for its name.
        sync_directory(directory)?;
        Ok(Self { connection, path, seq, header, owners: HashMap::new() })
    }

    /// Goes on with a segment that a former writer left.
    pub(crate) fn resume(directory: &Path, seq: u64) -> Result<Self, FlowError> {
        let path = open_path(directory, seq);
        let failed = |source| FlowError::Sqlite { what: "open", path: path.clone(), source };
        let connection = connect(&path, OpenFlags::empty()).map_err(failed)?;
        let mut header = Header::read(&connection, &path)?;
        if !header.orderly {
            header.torn += 1;
        }
        header.orderly = false;
        header.write(&connection).map_err(failed)?;
        let mut owners = HashMap::new();
        {
            let mut rows = connection
                .prepare("SELECT cgroup, slice, uid, contact, id FROM owner ORDER BY id")
                .map_err(failed)?;
            let rows = rows
                .query_map([], |row| {
                    let owner = match (row.get(1)?, row.get(2)?, row.get(3)?) {
                        (Some(slice), Some(uid), Some(contact)) => Some(Owner { slice, uid, contact }),
                        _ => None,
                    };
                    Ok((row.get::<_, i64>(0)?.cast_unsigned(), (owner, row.get(4)?)))
                })
                .map_err(failed)?;
            for row in rows {
                let (cgroup, owner) = row.map_err(failed)?;
                owners.insert(cgroup, owner);
            }
        }
        Ok(Self { connection, path, seq, header, owners })
    }

    /// The owners that it knows by cgroup, for the writer that goes on with it.
    pub(crate) fn known_owners(&self) -> impl Iterator<Item = (u64, &Owner)> {
        self.owners.iter().filter_map(|(&cgroup, (owner, _))| Some((cgroup, owner.as_ref()?)))
    }

    /// Appends flows and what was lost, in one transaction: all of it or, on an error, nothing.
    pub(crate) fn append(
        &mut self,
        flows: &[Flow],
        owners: &Owners,
        lost: Lost,
        clock: ClockReading,
    ) -> Result<(), FlowError> {
        let mut header = self.header.clone();
        header.lost = header.lost.plus(lost);
        header.clock = clock;
        let mut changed = Vec::new();
        let done = insert(&mut self.connection, &mut header, &mut self.owners, &mut changed, flows, owners);
        if let Err(source) = done {
            // The rows of these owners were rolled back with the rest.
            for (cgroup, before) in changed.into_iter().rev() {
                match before {
                    Some(before) => self.owners.insert(cgroup, before),
                    None => self.owners.remove(&cgroup),
                };
            }
            return Err(FlowError::Sqlite { what: "append to", path: self.path.clone(), source });
        }
        self.header = header;
        Ok(())
    }

    /// Moves what was committed from the log to the segment, and waits until the disk has it.
    pub(crate) fn to_disk(&self) -> Result<(), FlowError> {
        // A reader that looks at the log right now keeps a part of it from being moved; the next time moves it.
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(FlowError::sqlite("put on disk", &self.path))
    }

    /// Says that nobody writes it any more; returns the bytes that it takes then.
    pub(crate) fn finish(mut self) -> Result<u64, FlowError> {
        self.header.orderly = true;
        self.header
            .write(&self.connection)
            .and_then(|()| self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .map_err(FlowError::sqlite("finish", &self.path))?;
        Ok(self.bytes())
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        [self.path.clone(), beside(&self.path, "-wal")]
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // The disk is waited for when the log is moved (`to_disk`), not at each commit.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The log counts as the store's: at 512 pages, 2 MiB, it is moved in any case.
    connection.pragma_update(None, "wal_autocheckpoint", 512)?;
    connection.pragma_update(None, "cache_size", -2000)?;
    Ok(connection)
}

type Changed = Vec<(u64, Option<(Option<Owner>, i64)>)>;

fn insert(
    connection: &mut Connection,
    header: &mut Header,
    known: &mut HashMap<u64, (Option<Owner>, i64)>,
    changed: &mut Changed,
    flows: &[Flow],
    owners: &Owners,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut row = transaction.prepare_cached(
            "INSERT INTO flow VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        for flow in flows {
            let now = owners.get(flow.cgroup);
            let owner = match known.get(&flow.cgroup) {
                Some((before, id)) if before.as_ref() == now => *id,
                _ => {
                    transaction.execute(
                        "INSERT INTO owner (cgroup, slice, uid, contact) VALUES (?1, ?2, ?3, ?4)",
                        params![
                            flow.cgroup.cast_signed(),
                            now.map(|owner| &owner.slice),
                            now.map(|owner| owner.uid),
                            now.map(|owner| &owner.contact),
                        ],
                    )?;
                    let id = transaction.last_insert_rowid();
                    changed.push((flow.cgroup, known.insert(flow.cgroup, (now.cloned(), id))));
                    id
                }
            };
            let (start, since, last) = (integer(flow.start), integer(flow.since), integer(flow.last));
            header.first = header.first.min(since);
            header.last = header.last.max(last);
            header.rows += 1;
            let (remote, local) = (octets(flow.remote), octets(flow.local));
            row.execute(params![
                remote.as_slice(),
                flow.remote_port,
                flow.protocol,
                owner,
                local.as_slice(),
                flow.local_port,
                start - header.base,
                since - start,
                last - start,
                u8::from(flow.first) | u8::from(flow.ended) << 1,
                integer(flow.counts.packets_out),
                integer(flow.counts.bytes_out),
                integer(flow.counts.packets_in),
                integer(flow.counts.bytes_in),
                integer(flow.counts.refused),
            ])?;
        }
    }
    header.write(&transaction)?;
    transaction.commit()
}

/// An address in network byte order: 4 or 16 bytes.
pub(crate) enum Octets {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Octets {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}

pub(crate) fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(v4) => Octets::V4(v4.octets()),
        IpAddr::V6(v6) => Octets::V6(v6.octets()),
    }
}
