//! The ledger: what was accepted and what was done, in SQLite, on a thread of its own.
//!
//! Desired state is the definitions; what is, the kernel shows. The ledger holds only what neither can tell: which
//! UID a slice has, what was last accepted for it, that its `configure` has succeeded, that its storage is
//! still being removed, and the events. Writes that arrive together are committed together, so a thousand
//! acceptances cost few syncs; nobody is answered before the commit is on disk.

pub mod boots;
mod events;
mod schema;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use plab_config::UidRange;
use plab_protocol::control::Event;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{oneshot, watch};

use self::schema::{OpenError, SCHEMA, connect};

/// How long requests that were only noted are gathered into one transaction: a slice's commands come by the hundred,
/// and the audit trail has had them already. What a `kill -9` of plabd can cost of them.
const GATHER: Duration = Duration::from_millis(50);

/// Writes taken into one transaction at the most.
const BATCH: usize = 512;

/// What the ledger knows of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceRow {
    /// Its name.
    pub name: String,
    /// Its UID and GID; nobody else's while this row is there.
    pub uid: u32,
    /// The definition last accepted, as canonical TOML.
    pub definition: String,
    /// The file it came from.
    pub source: String,
    /// `configure` has succeeded for what is installed.
    pub configured: bool,
    /// The definition is gone; capsule and storage are being removed.
    pub removing: bool,
}

/// Something the ledger could not do.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's word.
    #[error("ledger {path}: {source}")]
    Sqlite {
        /// The file.
        path: String,
        /// Why.
        source: rusqlite::Error,
    },
    /// Written by a newer release.
    #[error(
        "ledger {path} has schema {schema}, of a newer release; this one knows {SCHEMA}. Install that release again"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its schema.
        schema: i64,
    },
    /// The commit failed: nothing of it is in effect.
    #[error("ledger could not be written: {0}; free space on the disk that holds it")]
    Commit(String),
    /// No UID is left for a new slice.
    #[error("no UID is free in {0}: every one belongs to a slice or to storage that is still being removed")]
    NoUid(String),
    /// What was set live is not understood, so it cannot be kept to.
    #[error(
        "the ledger has {key} = {value:?}, which this release does not understand; install the one that wrote it"
    )]
    Unread {
        /// What it is about.
        key: &'static str,
        /// What is there.
        value: String,
    },
    /// The ledger's thread has ended.
    #[error("the ledger is closed")]
    Closed,
}

type Finish = Box<dyn FnOnce(Result<(), String>) + Send>;
type Work = Box<dyn FnOnce(&Connection) -> Finish + Send>;

struct Job {
    /// Whether it is written at once: somebody waits for the answer, or a later plabd would miss it.
    awaited: bool,
    /// Whether it has to be on disk by then.
    durable: bool,
    work: Work,
}

/// A handle on the ledger; clones share the thread.
#[derive(Clone)]
pub struct Ledger {
    jobs: mpsc::Sender<Job>,
    path: String,
    trouble: Arc<watch::Sender<Option<Trouble>>>,
    backlog: Arc<Mutex<VecDeque<Event>>>,
}

/// Why the ledger cannot be written at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The disk is full; else something worse.
    pub full: bool,
    /// SQLite's word.
    pub message: String,
}

impl Ledger {
    /// Opens the ledger, making it if missing, and brings its schema up to date.
    ///
    /// # Errors
    /// The file cannot be opened, is no database, or is of a newer release.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let shown = path.display().to_string();
        let connection = connect(path).map_err(|error| match error {
            OpenError::Sqlite(source) => LedgerError::Sqlite { path: shown.clone(), source },
            OpenError::Newer(schema) => LedgerError::Newer { path: shown.clone(), schema },
        })?;
        let (jobs, inbox) = mpsc::channel();
        let trouble = Arc::new(watch::Sender::new(None));
        let told = Arc::clone(&trouble);
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || serve(&connection, &inbox, &told))
            .map_err(|error| LedgerError::Commit(error.to_string()))?;
        Ok(Self { jobs, path: shown, trouble, backlog: Arc::default() })
    }

    /// Whether writing fails, as of the last commit; tells when that changes.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    /// The file.
    pub fn path(&self) -> &str {
        &self.path
    }

    async fn run<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let result = work(connection);
            Box::new(move |committed| {
                // Nobody may wait any more: the asking task was cancelled.
                reply.send((result, committed)).ok();
            })
        });
        self.jobs.send(Job { awaited: true, durable, work }).map_err(|_| LedgerError::Closed)?;
        let (result, committed) = answer.await.map_err(|_| LedgerError::Closed)?;
        // What only reads does not fail with the writes it happened to share a transaction with: on a full disk the
        // node has to find out what it was.
        if durable {
            committed.map_err(LedgerError::Commit)?;
        }
        result.map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    /// Every slice, by name.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn slices(&self) -> Result<Vec<SliceRow>, LedgerError> {
        self.run(false, |db| {
            db.prepare(
                "SELECT name, uid, definition, source, configured, removing FROM slices ORDER BY name",
            )?
            .query_map([], slice_row)?
            .collect()
        })
        .await
    }

    /// Records an accepted definition and gives the slice its UID, the same as before if it had one.
    ///
    /// # Errors
    /// No UID is free, or the commit failed; then nothing was accepted.
    pub async fn accept(
        &self,
        name: String,
        definition: String,
        source: String,
        uids: UidRange,
    ) -> Result<SliceRow, LedgerError> {
        let row = self
            .run(true, move |db| {
                if let Some(have) = slice(db, &name)? {
                    db.prepare_cached(
                        "UPDATE slices SET definition = ?2, source = ?3, removing = 0 WHERE name = ?1",
                    )?
                    .execute(params![name, definition, source])?;
                    return Ok(Some(SliceRow { definition, source, removing: false, ..have }));
                }
                let Some(uid) = free_uid(db, uids)? else { return Ok(None) };
                db.prepare_cached(
                    "INSERT INTO slices (name, uid, definition, source) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![name, uid, definition, source])?;
                Ok(Some(SliceRow { name, uid, definition, source, configured: false, removing: false }))
            })
            .await?;
        row.ok_or_else(|| LedgerError::NoUid(uids.to_string()))
    }

    /// Records that the slice's `configure` has succeeded.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn set_configured(&self, name: String) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute("UPDATE slices SET configured = 1 WHERE name = ?1", [name]).map(drop)
        })
        .await
    }

    /// Records that the slice is being removed.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn set_removing(&self, name: String) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute("UPDATE slices SET removing = 1 WHERE name = ?1", [name]).map(drop)
        })
        .await
    }

    /// Forgets a slice: nothing it owned is left, so its UID may be another's.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn forget(&self, name: String) -> Result<(), LedgerError> {
        self.run(true, move |db| db.execute("DELETE FROM slices WHERE name = ?1", [name]).map(drop)).await
    }

    /// Reads a value of the node's own.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn meta(&self, key: &'static str) -> Result<Option<String>, LedgerError> {
        self.run(false, move |db| {
            db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
        .await
    }

    /// Writes a value of the node's own.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn set_meta(&self, key: &'static str, value: String) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value.as_str()])
                .map(drop)
        })
        .await
    }

    /// Forgets a value of the node's own.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn unset_meta(&self, key: &'static str) -> Result<(), LedgerError> {
        self.run(true, move |db| db.execute("DELETE FROM meta WHERE key = ?1", [key]).map(drop)).await
    }
}

fn serve(connection: &Connection, inbox: &mpsc::Receiver<Job>, trouble: &watch::Sender<Option<Trouble>>) {
    while let Ok(first) = inbox.recv() {
        let mut batch = vec![first];
        // Notes of requests can wait a little for more of their kind; nothing else does.
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            let left = until.saturating_duration_since(Instant::now());
            let awaited = batch.iter().any(|job| job.awaited);
            let next = if awaited { inbox.try_recv().ok() } else { inbox.recv_timeout(left).ok() };
            match next {
                Some(job) => batch.push(job),
                None => break,
            }
        }
        // In WAL mode NORMAL cannot corrupt, only lose the newest commits in a power cut: right for events alone.
        let synchronous = if batch.iter().any(|job| job.durable) { "FULL" } else { "NORMAL" };
        let before = connection.total_changes();
        let begun = connection
            .pragma_update(None, "synchronous", synchronous)
            .and_then(|()| connection.execute_batch("BEGIN IMMEDIATE"));
        let finishes: Vec<Finish> = batch.into_iter().map(|job| (job.work)(connection)).collect();
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT")).inspect_err(|_| {
            // After a failed commit the transaction may still be open.
            connection.execute_batch("ROLLBACK").ok();
        });
        note(trouble, &committed, connection.total_changes() > before);
        let committed = committed.map_err(|error| error.to_string());
        finishes.into_iter().for_each(|finish| finish(committed.clone()));
    }
}

/// Notes whether the ledger could be written. A commit that had nothing to write tells nothing.
fn note(trouble: &watch::Sender<Option<Trouble>>, committed: &Result<(), rusqlite::Error>, wrote: bool) {
    let now = match committed {
        Err(error) => Some(Trouble {
            full: error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            message: error.to_string(),
        }),
        Ok(()) if wrote => None,
        Ok(()) => return,
    };
    trouble.send_if_modified(|have| {
        let changed = *have != now;
        *have = now;
        changed
    });
}

fn slice_row(row: &Row<'_>) -> rusqlite::Result<SliceRow> {
    Ok(SliceRow {
        name: row.get(0)?,
        uid: row.get(1)?,
        definition: row.get(2)?,
        source: row.get(3)?,
        configured: row.get(4)?,
        removing: row.get(5)?,
    })
}

fn slice(db: &Connection, name: &str) -> rusqlite::Result<Option<SliceRow>> {
    db.prepare_cached(
        "SELECT name, uid, definition, source, configured, removing FROM slices WHERE name = ?1",
    )?
    .query_row([name], slice_row)
    .optional()
}

/// The next UID after the last one given, round the range: a UID rests as long as the range allows before
/// it is another slice's.
fn free_uid(db: &Connection, range: UidRange) -> rusqlite::Result<Option<u32>> {
    let (first, last) = (range.first().get(), range.last().get());
    let previous: Option<u32> = db
        .query_row("SELECT value FROM meta WHERE key = 'last_uid'", [], |row| row.get::<_, String>(0))
        .optional()?
        .and_then(|value| value.parse().ok());
    let start = previous.filter(|uid| (first..last).contains(uid)).map_or(first, |uid| uid + 1);
    let mut taken = db.prepare_cached("SELECT 1 FROM slices WHERE uid = ?1")?;
    for uid in (start..=last).chain(first..start) {
        if !taken.exists([uid])? {
            db.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_uid', ?1)")?
                .execute([uid.to_string()])?;
            return Ok(Some(uid));
        }
    }
    Ok(None)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use plab_protocol::control::Severity;

    use super::events::KEPT_OF_SLICE;
    use super::*;

    struct TempFile(std::path::PathBuf);

    impl Drop for TempFile {
        fn drop(&mut self) {
            for suffix in ["", "-wal", "-shm"] {
                std::fs::remove_file(format!("{}{suffix}", self.0.display())).ok();
            }
        }
    }

    fn file(name: &str) -> TempFile {
        TempFile(std::env::temp_dir().join(format!("plab-ledger-{name}-{}", std::process::id())))
    }

    fn range() -> UidRange {
        "70000-70002".parse().expect("range")
    }

    async fn accept(ledger: &Ledger, name: &str) -> Result<u32, LedgerError> {
        ledger.accept(name.into(), "text".into(), "file".into(), range()).await.map(|row| row.uid)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn uids_rest_before_they_are_given_again() {
        let file = file("uids");
        let ledger = Ledger::open(&file.0).expect("open");
        assert_eq!(accept(&ledger, "a").await.expect("a"), 70000);
        assert_eq!(accept(&ledger, "b").await.expect("b"), 70001);
        assert_eq!(accept(&ledger, "a").await.expect("again"), 70000, "a slice keeps its UID");
        ledger.set_removing("a".into()).await.expect("removing");
        assert_eq!(accept(&ledger, "c").await.expect("c"), 70002);
        assert!(
            matches!(accept(&ledger, "d").await, Err(LedgerError::NoUid(_))),
            "a's storage may be there still"
        );
        ledger.forget("a".into()).await.expect("forget");
        assert_eq!(accept(&ledger, "d").await.expect("d"), 70000);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_accepted_is_there_at_the_next_open() {
        let file = file("reopen");
        let ledger = Ledger::open(&file.0).expect("open");
        accept(&ledger, "a").await.expect("a");
        ledger.set_configured("a".into()).await.expect("configured");
        ledger.set_meta("slices_dir", "1:2".into()).await.expect("meta");
        drop(ledger);
        let ledger = Ledger::open(&file.0).expect("open again");
        let rows = ledger.slices().await.expect("slices");
        assert_eq!((rows.len(), rows[0].configured, rows[0].removing), (1, true, false));
        assert_eq!(ledger.meta("slices_dir").await.expect("meta").as_deref(), Some("1:2"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn events_come_back_in_order() {
        let file = file("events");
        let ledger = Ledger::open(&file.0).expect("open");
        for seq in 1..=10 {
            ledger.append(Event {
                seq,
                time: "t".into(),
                slice: seq.is_multiple_of(2).then(|| "even".into()),
                kind: "k".into(),
                severity: Severity::Info,
                message: "m".into(),
            });
        }
        let seqs = |events: Vec<Event>| events.into_iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(seqs(ledger.events(7, None, 100).await.expect("events")), [8, 9, 10]);
        assert_eq!(seqs(ledger.events(0, Some("even".into()), 2).await.expect("events")), [2, 4]);
        assert_eq!(ledger.last_event().await.expect("last"), 10);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_slice_with_many_events_pushes_out_its_own() {
        let file = file("retention");
        let ledger = Ledger::open(&file.0).expect("open");
        let last = u64::from(KEPT_OF_SLICE) * 3;
        for seq in 1..=last {
            ledger.append(Event {
                seq,
                time: "t".into(),
                slice: (seq > 2).then(|| "loud".into()),
                kind: "k".into(),
                severity: Severity::Info,
                message: "m".into(),
            });
        }
        let kept = ledger.events(0, None, u32::MAX).await.expect("events");
        assert!(kept.len() < (KEPT_OF_SLICE + 40) as usize, "{}", kept.len());
        assert_eq!((kept[0].seq, kept[1].seq), (1, 2), "the node's own stay");
        assert_eq!(kept.last().map(|event| event.seq), Some(last));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_ledger_of_the_first_release_is_brought_up_to_date() {
        let file = file("schema1");
        let old = Connection::open(&file.0).expect("open");
        old.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE slices (
                 name TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE, definition TEXT NOT NULL, source TEXT NOT NULL,
                 configured INTEGER NOT NULL DEFAULT 0, removing INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
             CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
             CREATE TABLE events (
                 seq INTEGER PRIMARY KEY, time TEXT NOT NULL, slice TEXT, kind TEXT NOT NULL,
                 severity TEXT NOT NULL, message TEXT NOT NULL);
             CREATE INDEX events_of_slice ON events (slice, seq);
             INSERT INTO slices VALUES ('a', 70000, 'text', 'file', 1, 0);
             PRAGMA user_version = 1;",
        )
        .expect("the tables of schema 1");
        drop(old);
        for _ in 0..2 {
            let ledger = Ledger::open(&file.0).expect("open");
            let rows = ledger.slices().await.expect("slices");
            assert_eq!((rows.len(), rows[0].uid, rows[0].configured), (1, 70000, true));
            assert!(ledger.boots(10).await.expect("boots").is_empty());
        }
        let version: i64 = Connection::open(&file.0)
            .and_then(|db| db.pragma_query_value(None, "user_version", |row| row.get(0)))
            .expect("version");
        assert_eq!(version, SCHEMA);
    }

    #[test]
    fn a_file_that_is_no_ledger_is_an_error_and_kept() {
        let file = file("other");
        std::fs::write(&file.0, "not a database, but somebody's data".repeat(50)).expect("write");
        assert!(Ledger::open(&file.0).is_err());
        assert!(std::fs::read_to_string(&file.0).expect("read").starts_with("not a database"));
    }
}
