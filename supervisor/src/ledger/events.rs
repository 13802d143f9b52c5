//! The events in the ledger: kept up to a number, and what a full disk keeps out of it for the moment.

use std::sync::{Arc, PoisonError};

use plab_protocol::control::{Event, Severity};
use rusqlite::{Connection, Row, params};

use super::{Job, Ledger, LedgerError, Work, unsigned};

/// Events kept of each slice, and of the node itself; older ones are deleted. A number for each, so that a slice that
/// makes many (it can: hooks that fail, commands) pushes out nobody's but its own.
pub(super) const KEPT_OF_SLICE: u32 = 1000;
const KEPT_OF_NODE: u32 = 20_000;

/// Events that wait for a full disk to have space again; what is more is lost to the ledger.
const BACKLOG: usize = 1000;

impl Ledger {
    /// The highest event number; 0 if there is none.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn last_event(&self) -> Result<u64, LedgerError> {
        self.run(false, |db| {
            db.query_row("SELECT COALESCE(MAX(seq), 0) FROM events", [], |row| unsigned(row, 0))
        })
        .await
    }

    /// The first `limit` events after `since`, oldest first.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn events(
        &self,
        since: u64,
        slice: Option<String>,
        limit: u32,
    ) -> Result<Vec<Event>, LedgerError> {
        self.run(false, move |db| {
            db.prepare_cached(
                "SELECT seq, time, slice, kind, severity, message FROM events
                     WHERE seq > ?1 AND (?2 IS NULL OR slice = ?2) ORDER BY seq LIMIT ?3",
            )?
            .query_map(params![since.cast_signed(), slice, limit], event_row)?
            .collect()
        })
        .await
    }

    /// Writes an event with the next batch; nobody waits for it. What cannot be written waits for
    /// [`Self::append_backlog`].
    pub fn append(&self, event: Event) {
        let backlog = Arc::clone(&self.backlog);
        let awaited = !matches!(event.kind.as_str(), "request" | "session-opened" | "session-closed");
        let work: Work = Box::new(move |db| {
            let written = append(db, &event);
            Box::new(move |committed| {
                if let Err(error) = written.map_err(|error| error.to_string()).and(committed) {
                    let mut backlog = backlog.lock().unwrap_or_else(PoisonError::into_inner);
                    if backlog.len() < BACKLOG {
                        backlog.push_back(event);
                    } else {
                        tracing::error!(event = event.seq, error, "event not kept");
                    }
                }
            })
        });
        // Closed only while plabd ends.
        self.jobs.send(Job { awaited, durable: false, work }).ok();
    }

    /// Writes the events that could not be written.
    pub fn append_backlog(&self) {
        let waiting = std::mem::take(&mut *self.backlog.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(|event| self.append(event));
    }
}

fn append(db: &Connection, event: &Event) -> rusqlite::Result<()> {
    let severity = match event.severity {
        Severity::Info => "info",
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    db.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        event.seq.cast_signed(),
        event.time,
        event.slice,
        event.kind,
        severity,
        event.message
    ])?;
    // Not at each event: a few too many do no harm.
    if event.seq.is_multiple_of(16) {
        let kept = if event.slice.is_some() { KEPT_OF_SLICE } else { KEPT_OF_NODE };
        db.prepare_cached(
            "DELETE FROM events WHERE slice IS ?1 AND seq <=
             (SELECT seq FROM events WHERE slice IS ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![event.slice, kept])?;
    }
    Ok(())
}

fn event_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    let severity: String = row.get(4)?;
    Ok(Event {
        seq: unsigned(row, 0)?,
        time: row.get(1)?,
        slice: row.get(2)?,
        kind: row.get(3)?,
        severity: match severity.as_str() {
            "info" => Severity::Info,
            "notice" => Severity::Notice,
            "warning" => Severity::Warning,
            _ => Severity::Error,
        },
        message: row.get(5)?,
    })
}
