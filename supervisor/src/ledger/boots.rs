//! The ledger's record of boots: how each began and ended, and plabd's starts within.
//!
//! Every start of plabd writes its row before it does anything else, and an end in order marks it. So a row that is
//! not marked tells of a plabd that was killed or died, if it is of this boot, and of a machine that went down without
//! an order, if it is of an older one. Nothing has to be written at the moment of a power cut.

use plab_protocol::machine::{Boot, BootEnd, ClockState, Network, RUNS_SHOWN, Run, RunEnd};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Ledger, LedgerError};

/// Boots that are kept; with them go their runs.
pub const KEPT: u32 = 1000;

/// The tables.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS boots (
        id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, began TEXT NOT NULL, clock TEXT NOT NULL, kernel TEXT NOT NULL,
        ended TEXT, ended_at TEXT, evidence TEXT, network TEXT,
        starts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS runs (
        id INTEGER PRIMARY KEY, boot INTEGER NOT NULL, began TEXT NOT NULL, version TEXT NOT NULL,
        ended TEXT, ended_at TEXT);
    CREATE INDEX IF NOT EXISTS runs_of_boot ON runs (boot, id);";

/// What a plabd sees when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The kernel's name for this boot.
    pub boot_id: String,
    /// When the kernel began, RFC 3339.
    pub began: String,
    /// How far that is believed.
    pub clock: ClockState,
    /// The kernel's release.
    pub kernel: String,
    /// When this plabd began, RFC 3339.
    pub now: String,
    /// Its version.
    pub version: String,
}

/// What was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// This boot has had a plabd already; what became of its wait for the network.
    pub same_boot: Option<Option<Network>>,
    /// The last plabd, of whatever boot, did not mark its end: when it began.
    pub unmarked: Option<String>,
    /// The boot before this one, if one is known: when it began and its recorded end.
    pub previous: Option<Previous>,
    /// When plabd was last known to run, RFC 3339.
    pub last_seen: Option<String>,
}

/// The boot before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// When it began, RFC 3339.
    pub began: String,
    /// How it ended, if that is on record.
    pub ended: Option<BootEnd>,
}

/// What is concluded about the end of the boot before, when nothing recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// How it ended.
    pub end: BootEnd,
    /// What that rests on.
    pub evidence: String,
}

impl Ledger {
    /// What the ledger knows of the time before this plabd; writes nothing, so that it can be asked on a full disk.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn before(&self, boot_id: String) -> Result<Before, LedgerError> {
        self.run(false, move |db| before(db, &boot_id)).await
    }

    /// Records the start of this plabd, and what is concluded about the ends that nobody recorded; `last_seen` is
    /// when they were at the latest, as far as is known.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn begin_run(
        &self,
        seen: Seen,
        concluded: Option<Conclusion>,
        last_seen: Option<String>,
    ) -> Result<(), LedgerError> {
        self.run(true, move |db| begin(db, &seen, concluded.as_ref(), last_seen.as_deref())).await
    }

    /// Records that this plabd ends in order.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn end_run(&self, at: String) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute(
                "UPDATE runs SET ended = ?1, ended_at = ?2 WHERE id = (SELECT MAX(id) FROM runs)",
                params![RunEnd::Stopped.name(), at],
            )
            .map(drop)
        })
        .await
    }

    /// Records that this boot ends in order; `None` takes that back.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn end_boot(&self, end: Option<BootEnd>, at: String) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            let evidence = end.map(|_| "ordered");
            db.execute(
                "UPDATE boots SET ended = ?1, ended_at = ?2, evidence = ?3 WHERE id = (SELECT MAX(id) FROM boots)",
                params![end.map(BootEnd::name), end.map(|_| at), evidence],
            )
            .map(drop)
        })
        .await
    }

    /// Records what became of the wait for the network.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn set_network(&self, network: Network) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute(
                "UPDATE boots SET network = ?1 WHERE id = (SELECT MAX(id) FROM boots)",
                [network.name()],
            )
            .map(drop)
        })
        .await
    }

    /// Corrects when this boot began: the clock was set.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn correct_boot(&self, began: String, clock: ClockState) -> Result<(), LedgerError> {
        self.run(true, move |db| {
            db.execute(
                "UPDATE boots SET began = ?1, clock = ?2 WHERE id = (SELECT MAX(id) FROM boots)",
                params![began, clock.name()],
            )
            .map(drop)
        })
        .await
    }

    /// The newest boots, newest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn boots(&self, last: u32) -> Result<Vec<Boot>, LedgerError> {
        self.run(false, move |db| {
            let mut boots: Vec<(i64, Boot)> = db
                .prepare_cached(
                    "SELECT id, boot_id, began, clock, kernel, ended, ended_at, evidence, network, starts, crashes
                     FROM boots ORDER BY id DESC LIMIT ?1",
                )?
                .query_map([last], boot_row)?
                .collect::<rusqlite::Result<_>>()?;
            for (id, boot) in &mut boots {
                boot.runs = runs(db, *id)?;
            }
            Ok(boots.into_iter().map(|(_, boot)| boot).collect())
        })
        .await
    }
}

fn before(db: &Connection, boot_id: &str) -> rusqlite::Result<Before> {
    let newest: Option<(i64, String, Option<Network>)> = db
        .query_row("SELECT id, boot_id, network FROM boots ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, named(row, 2, Network::from_name)?))
        })
        .optional()?;
    let unmarked = db
        .query_row("SELECT began, ended FROM runs ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
        })
        .optional()?
        .and_then(|(began, ended)| ended.is_none().then_some(began));
    let same_boot = newest.as_ref().filter(|(_, id, _)| id == boot_id).map(|(_, _, network)| *network);
    let previous = match (&newest, same_boot) {
        (Some((id, _, _)), Some(_)) => previous(db, id - 1)?,
        (Some((id, _, _)), None) => previous(db, *id)?,
        (None, _) => None,
    };
    Ok(Before { same_boot, unmarked, previous, last_seen: last_seen(db)? })
}

fn previous(db: &Connection, newest: i64) -> rusqlite::Result<Option<Previous>> {
    db.query_row("SELECT began, ended FROM boots WHERE id <= ?1 ORDER BY id DESC LIMIT 1", [newest], |row| {
        Ok(Previous { began: row.get(0)?, ended: named(row, 1, BootEnd::from_name)? })
    })
    .optional()
}

/// The newest sign of life: an event, or the clock's note.
fn last_seen(db: &Connection) -> rusqlite::Result<Option<String>> {
    let event: Option<String> =
        db.query_row("SELECT time FROM events ORDER BY seq DESC LIMIT 1", [], |row| row.get(0)).optional()?;
    let noted: Option<String> =
        db.query_row("SELECT value FROM meta WHERE key = 'last_seen'", [], |row| row.get(0)).optional()?;
    let parsed = |text: &String| text.parse::<jiff::Timestamp>().ok();
    Ok([event, noted].into_iter().flatten().max_by_key(parsed))
}

fn begin(
    db: &Connection,
    seen: &Seen,
    concluded: Option<&Conclusion>,
    last_seen: Option<&str>,
) -> rusqlite::Result<()> {
    let newest: Option<(i64, String)> = db
        .query_row("SELECT id, boot_id FROM boots ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let again = newest.as_ref().filter(|(_, boot_id)| *boot_id == seen.boot_id).map(|(id, _)| *id);
    let end_of_last = if again.is_some() { RunEnd::Crashed } else { RunEnd::WithBoot };
    let ended = db.execute(
        "UPDATE runs SET ended = ?1, ended_at = ?2 WHERE ended IS NULL",
        params![end_of_last.name(), last_seen],
    )?;
    let boot = if let Some(id) = again {
        // If its end was announced, it did not come.
        db.execute(
            "UPDATE boots SET ended = NULL, ended_at = NULL, evidence = NULL, crashes = crashes + ?2 WHERE id = ?1",
            params![id, u32::from(ended > 0)],
        )?;
        id
    } else {
        if let (Some((id, _)), Some(concluded)) = (&newest, concluded) {
            db.execute(
                "UPDATE boots SET ended = ?2, ended_at = ?3, evidence = ?4 WHERE id = ?1 AND ended IS NULL",
                params![id, concluded.end.name(), last_seen, concluded.evidence],
            )?;
        }
        db.execute(
            "INSERT INTO boots (boot_id, began, clock, kernel) VALUES (?1, ?2, ?3, ?4)",
            params![seen.boot_id, seen.began, seen.clock.name(), seen.kernel],
        )?;
        db.last_insert_rowid()
    };
    db.execute("UPDATE boots SET starts = starts + 1 WHERE id = ?1", [boot])?;
    db.execute(
        "INSERT INTO runs (boot, began, version) VALUES (?1, ?2, ?3)",
        params![boot, seen.now, seen.version],
    )?;
    db.execute(
        "DELETE FROM runs WHERE boot = ?1 AND id <=
         (SELECT id FROM runs WHERE boot = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        params![boot, RUNS_SHOWN],
    )?;
    let oldest = boot - i64::from(KEPT);
    db.execute("DELETE FROM runs WHERE boot <= ?1", [oldest])?;
    db.execute("DELETE FROM boots WHERE id <= ?1", [oldest]).map(drop)
}

fn runs(db: &Connection, boot: i64) -> rusqlite::Result<Vec<Run>> {
    db.prepare_cached(
        "SELECT began, version, ended, ended_at FROM runs WHERE boot = ?1 ORDER BY id DESC LIMIT ?2",
    )?
    .query_map(params![boot, RUNS_SHOWN], |row| {
        Ok(Run {
            began: row.get(0)?,
            version: row.get(1)?,
            ended: named(row, 2, RunEnd::from_name)?,
            ended_at: row.get(3)?,
        })
    })?
    .collect()
}

fn boot_row(row: &Row<'_>) -> rusqlite::Result<(i64, Boot)> {
    let boot = Boot {
        boot_id: row.get(1)?,
        began: row.get(2)?,
        clock: named(row, 3, ClockState::from_name)?.unwrap_or(ClockState::Unsynchronised),
        kernel: row.get(4)?,
        ended: named(row, 5, BootEnd::from_name)?,
        ended_at: row.get(6)?,
        evidence: row.get(7)?,
        network: named(row, 8, Network::from_name)?,
        starts: row.get(9)?,
        crashes: row.get(10)?,
        runs: Vec::new(),
    };
    Ok((row.get(0)?, boot))
}

/// A word of a list that this release knows; none for NULL.
fn named<T>(row: &Row<'_>, column: usize, from: impl Fn(&str) -> Option<T>) -> rusqlite::Result<Option<T>> {
    let Some(name) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    let unknown = || {
        let error = format!("unknown word {name:?}").into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    };
    from(&name).map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(boot_id: &str, now: &str) -> Seen {
        Seen {
            boot_id: boot_id.into(),
            began: format!("{now} (boot)"),
            clock: ClockState::Unsynchronised,
            kernel: "6.12".into(),
            now: now.into(),
            version: "1".into(),
        }
    }

    fn unclean() -> Option<Conclusion> {
        Some(Conclusion { end: BootEnd::Unclean, evidence: "no sign".into() })
    }

    struct Opened(Ledger, std::path::PathBuf);

    fn open(name: &str) -> Opened {
        let path = std::env::temp_dir().join(format!("plab-boots-{name}-{}", std::process::id()));
        Opened(Ledger::open(&path).expect("open"), path)
    }

    impl Drop for Opened {
        fn drop(&mut self) {
            for suffix in ["", "-wal", "-shm"] {
                std::fs::remove_file(format!("{}{suffix}", self.1.display())).ok();
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_nobody_marked_was_a_crash_or_an_unclean_end() {
        let opened = open("ends");
        let ledger = &opened.0;
        assert_eq!(ledger.before("a".into()).await.expect("before"), Before::default());
        ledger.begin_run(seen("a", "1"), None, None).await.expect("first");
        let before = ledger.before("a".into()).await.expect("before");
        assert_eq!((before.same_boot, before.unmarked.as_deref()), (Some(None), Some("1")));
        assert_eq!(before.previous, None, "nothing is known before the first");
        ledger.begin_run(seen("a", "2"), unclean(), None).await.expect("after a crash");
        ledger.end_run("3".into()).await.expect("end");
        ledger.begin_run(seen("a", "4"), unclean(), None).await.expect("after a stop");
        let before = ledger.before("b".into()).await.expect("before");
        assert_eq!((before.same_boot, before.unmarked.as_deref()), (None, Some("4")));
        assert_eq!(before.previous.expect("previous").ended, None);
        ledger.begin_run(seen("b", "5"), unclean(), None).await.expect("after a power cut");
        let boots = ledger.boots(10).await.expect("boots");
        let of = |boot: &Boot| (boot.boot_id.clone(), boot.ended, boot.starts, boot.crashes);
        assert_eq!(
            boots.iter().map(of).collect::<Vec<_>>(),
            [("b".to_owned(), None, 1, 0), ("a".to_owned(), Some(BootEnd::Unclean), 3, 1)]
        );
        let ends: Vec<_> = boots[1].runs.iter().map(|run| run.ended).collect();
        assert_eq!(ends, [Some(RunEnd::WithBoot), Some(RunEnd::Stopped), Some(RunEnd::Crashed)]);
        assert_eq!(ledger.boots(1).await.expect("boots").len(), 1);
        let before = ledger.before("b".into()).await.expect("before");
        assert_eq!(before.previous.expect("previous").ended, Some(BootEnd::Unclean));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_order_counts_unless_the_boot_goes_on() {
        let opened = open("orders");
        let ledger = &opened.0;
        ledger.begin_run(seen("a", "1"), None, None).await.expect("first");
        ledger.end_boot(Some(BootEnd::Reboot), "2".into()).await.expect("end");
        ledger.begin_run(seen("a", "3"), unclean(), None).await.expect("it went on");
        assert_eq!(ledger.boots(1).await.expect("boots")[0].ended, None);
        ledger.end_boot(Some(BootEnd::Poweroff), "4".into()).await.expect("end");
        ledger.begin_run(seen("b", "5"), unclean(), None).await.expect("next");
        let boots = ledger.boots(2).await.expect("boots");
        assert_eq!((boots[1].ended, boots[1].ended_at.as_deref()), (Some(BootEnd::Poweroff), Some("4")));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn old_boots_and_runs_go() {
        let opened = open("kept");
        let ledger = &opened.0;
        for boot in 0..KEPT + 5 {
            ledger.begin_run(seen(&boot.to_string(), "t"), unclean(), None).await.expect("begin");
        }
        for _ in 0..RUNS_SHOWN * 2 {
            ledger.begin_run(seen(&(KEPT + 4).to_string(), "t"), unclean(), None).await.expect("begin");
        }
        let boots = ledger.boots(u32::MAX).await.expect("boots");
        assert_eq!((boots.len(), boots.last().expect("one").boot_id.as_str()), (KEPT as usize, "5"));
        assert_eq!((boots[0].runs.len(), boots[0].starts), (RUNS_SHOWN as usize, 2 * RUNS_SHOWN + 1));
    }
}
