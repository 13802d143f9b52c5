//! What happened on the node: numbered, kept, told to whoever follows, and to the audit trail.

use std::cell::Cell;

use jiff::Timestamp;
use plab_protocol::control::{Event, Severity};
use plab_protocol::escape::for_terminal;
use tokio::sync::broadcast;

use crate::audit::Audit;
use crate::ledger::Ledger;

/// Events a follower may lag behind before it misses some.
const FOLLOWER_LAG: usize = 4096;

/// Where all parts of plabd report.
pub struct Events {
    next: Cell<u64>,
    ledger: Ledger,
    audit: Audit,
    followers: broadcast::Sender<Event>,
}

impl Events {
    /// `last` is the highest number given before.
    pub fn new(ledger: Ledger, audit: Audit, last: u64) -> Self {
        Self { next: Cell::new(last + 1), ledger, audit, followers: broadcast::channel(FOLLOWER_LAG).0 }
    }

    /// Reports an event; `kind` is a stable name.
    pub fn report(&self, slice: Option<&str>, kind: &str, severity: Severity, message: impl Into<String>) {
        self.report_numbered(slice, kind, severity, message);
    }

    /// As [`Self::report`]; returns the event's number.
    pub fn report_numbered(
        &self,
        slice: Option<&str>,
        kind: &str,
        severity: Severity,
        message: impl Into<String>,
    ) -> u64 {
        let seq = self.next.replace(self.next.get() + 1);
        let event = Event {
            seq,
            time: Timestamp::now().to_string(),
            slice: slice.map(str::to_owned),
            kind: kind.to_owned(),
            severity,
            message: message.into(),
        };
        tracing::info!(seq, slice, kind, message = for_terminal(&event.message, 2000), "event");
        self.audit.send(&event);
        self.ledger.append(event.clone());
        // An error means that nobody follows.
        self.followers.send(event).ok();
        seq
    }

    /// Every event from now on.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.followers.subscribe()
    }
}
