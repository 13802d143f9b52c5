//! The present boot, and how the one before ended (3.8).

mod manager;
mod panic_records;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use jiff::Timestamp;
use plab_protocol::control::Severity;
use plab_protocol::machine::{BootEnd, BootSummary, ClockState, Network};

use crate::clock::{self, Clock};
use crate::ledger::boots::{Before, Conclusion, Seen};
use crate::ledger::{Ledger, LedgerError};
use crate::node::Node;

/// What plabd knows of the present boot.
pub struct Boot {
    seen: RefCell<Seen>,
    concluded: Option<Conclusion>,
    before: Before,
    /// Of the plabd before this one.
    verdict: Option<manager::Verdict>,
    /// Whether the ledger has it; it could not be written on a full disk.
    recorded: Cell<bool>,
    network: Cell<Option<Network>>,
}

impl Boot {
    /// Looks at the present boot, and at what the ledger has of the time before; `verdict` is where the service manager has
    /// written how the last plabd ended.
    ///
    /// # Errors
    /// The kernel does not name its boot, or the ledger cannot be read.
    pub async fn look(ledger: &Ledger, clock: &Clock, verdict: &Path) -> Result<Self, LookError> {
        let boot_id = std::fs::read_to_string(BOOT_ID).map_err(LookError::BootId)?.trim().to_owned();
        let before = ledger.before(boot_id.clone()).await?;
        let seen = Seen {
            boot_id,
            began: clock::boot_began().to_string(),
            clock: clock.state(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            now: Timestamp::now().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let concluded = match (&before.same_boot, &before.previous) {
            (None, Some(previous)) if previous.ended.is_none() => {
                let stopped = before.unmarked.is_none();
                Some(conclude(previous.began.parse().ok(), stopped, &panic_records::find()))
            }
            _ => None,
        };
        Ok(Self {
            seen: RefCell::new(seen),
            concluded,
            before,
            verdict: manager::Verdict::take(verdict),
            recorded: Cell::new(false),
            network: Cell::new(None),
        })
    }

    /// The kernel's name of it.
    pub fn id(&self) -> String {
        self.seen.borrow().boot_id.clone()
    }

    /// What the ledger had when plabd began.
    pub fn before(&self) -> &Before {
        &self.before
    }

    /// Writes it down, unless that was done.
    ///
    /// # Errors
    /// The commit failed; to be tried again.
    pub async fn record(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        if !self.recorded.get() {
            let seen = self.seen.borrow().clone();
            ledger.begin_run(seen, self.concluded.clone(), self.before.last_seen.clone()).await?;
            self.recorded.set(true);
            if let Some(network) = self.network.get() {
                ledger.set_network(network).await?;
            }
        }
        Ok(())
    }

    /// Notes what became of the wait for the network.
    ///
    /// # Errors
    /// The commit failed; it is written with the record.
    pub async fn set_network(&self, ledger: &Ledger, network: Network) -> Result<(), LedgerError> {
        self.network.set(Some(network));
        self.record(ledger).await?;
        ledger.set_network(network).await
    }

    /// Notes that the boot ends in order; `None` takes that back.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn end(&self, ledger: &Ledger, end: Option<BootEnd>) -> Result<(), LedgerError> {
        self.record(ledger).await?;
        ledger.end_boot(end, Timestamp::now().to_string()).await
    }

    /// Notes that plabd ends in order.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn end_run(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        self.record(ledger).await?;
        ledger.end_run(Timestamp::now().to_string()).await
    }

    /// The clock was set: by it, the boot began at another time.
    ///
    /// # Errors
    /// The commit failed.
    pub async fn correct(&self, ledger: &Ledger, state: ClockState) -> Result<(), LedgerError> {
        let began = clock::boot_began().to_string();
        {
            let mut seen = self.seen.borrow_mut();
            seen.began = began.clone();
            seen.clock = state;
        }
        self.record(ledger).await?;
        ledger.correct_boot(began, state).await
    }

    /// For `plab status`.
    pub fn summary(&self, clock: &Clock) -> BootSummary {
        BootSummary {
            began: self.seen.borrow().began.clone(),
            previous: self.previous_end(),
            clock: clock.state(),
        }
    }

    fn previous_end(&self) -> Option<BootEnd> {
        let recorded = self.before.previous.as_ref().and_then(|previous| previous.ended);
        recorded.or(self.concluded.as_ref().map(|concluded| concluded.end))
    }

    /// Reports what happened since plabd last ran.
    pub fn report(&self, node: &Rc<Node>) {
        let last_seen = self.before.last_seen.as_deref().unwrap_or("a time that is not known");
        if self.before.same_boot.is_some() {
            if let Some(began) = &self.before.unmarked {
                let how = self.verdict.as_ref().map(|said| format!(" ({said}, as the service manager says)"));
                let message = format!(
                    "the one of {began} ended without an order{}; it was last known to run at {last_seen}",
                    how.unwrap_or_default()
                );
                node.events.report(None, "plabd-crashed", Severity::Error, message);
            }
            return;
        }
        let (severity, how) = match (self.previous_end(), &self.concluded) {
            (None, _) => (Severity::Notice, "no boot before it is known".to_owned()),
            (Some(end), None) => (Severity::Notice, format!("the one before ended in order: {}", end.name())),
            (Some(end), Some(concluded)) => (
                if end == BootEnd::Unknown { Severity::Notice } else { Severity::Error },
                format!(
                    "the one before ended at {last_seen} or later: {}, {}",
                    end.name(),
                    concluded.evidence
                ),
            ),
        };
        let seen = self.seen.borrow();
        let message = format!("boot {} began at {}; {how}", seen.boot_id, seen.began);
        node.events.report(None, "booted", severity, message);
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the present boot is not known.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The kernel does not say.
    #[error("could not read {BOOT_ID}: {0}; is /proc mounted?")]
    BootId(#[source] std::io::Error),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// How a boot whose end nobody recorded has ended; `stopped` if its last plabd had been, and could record none. A record of
/// a panic that is older than it is another boot's.
fn conclude(began: Option<Timestamp>, stopped: bool, records: &[panic_records::Record]) -> Conclusion {
    let newest = records
        .iter()
        .filter(|record| began.is_none_or(|began| record.at >= began))
        .max_by_key(|record| record.at);
    match newest {
        Some(record) => {
            Conclusion { end: BootEnd::Panic, evidence: format!("the kernel left {}", record.path.display()) }
        }
        None if stopped => Conclusion {
            end: BootEnd::Unknown,
            evidence: "plabd had been stopped in order and not been started again".to_owned(),
        },
        None => Conclusion {
            end: BootEnd::Unclean,
            evidence: "power cut, reset, hang, or a panic that left no record".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use panic_records::Record;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    #[test]
    fn only_a_record_of_its_own_time_makes_it_a_panic() {
        let began = at("2026-01-10T00:00:00Z");
        let record = |when: &str| Record { path: "/sys/fs/pstore/dmesg-erst-1".into(), at: at(when) };
        assert_eq!(conclude(Some(began), false, &[]).end, BootEnd::Unclean);
        assert_eq!(conclude(Some(began), false, &[record("2026-01-09T00:00:00Z")]).end, BootEnd::Unclean);
        let found =
            conclude(Some(began), false, &[record("2026-01-09T00:00:00Z"), record("2026-01-11T00:00:00Z")]);
        assert_eq!(found.end, BootEnd::Panic);
        assert!(found.evidence.contains("dmesg-erst-1"), "{}", found.evidence);
        // A plabd that was stopped cannot say how its boot ended; the kernel can.
        assert_eq!(conclude(Some(began), true, &[]).end, BootEnd::Unknown);
        assert_eq!(conclude(Some(began), true, &[record("2026-01-11T00:00:00Z")]).end, BootEnd::Panic);
    }
}
