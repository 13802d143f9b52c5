//! The success of `configure`. It is recorded when all that it made is on disk and not before: `configure` is never run
//! again, so a power cut in between would leave a slice whose installation is missing for good.

use std::time::Duration;

use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::Severity;
use plab_sandbox::message::State;
use tokio::time::{Instant, timeout};

use super::Task;
use crate::disk::Synced;

/// Between two attempts to record it.
const AGAIN: Duration = Duration::from_secs(60);

/// How long a capsule that is to end waits for the disk.
const LAST_CHANCE: Duration = Duration::from_secs(5);

/// What is known of the success of `configure` beside the ledger.
#[derive(Default)]
pub(super) struct Configured {
    /// It was seen, in this capsule or one before, by this plabd or by one that told the capsule so.
    seen: bool,
    /// What it made is being written to disk.
    syncing: Option<Synced>,
    /// Not before this time again.
    again: Option<Instant>,
}

impl Configured {
    /// How the sync ended; never without one.
    pub(super) async fn synced(&mut self) -> Result<(), String> {
        match &mut self.syncing {
            Some(synced) => synced.await.unwrap_or_else(|_| Err("the thread that syncs has ended".into())),
            None => std::future::pending().await,
        }
    }

    /// When to try again, if so.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }
}

impl Task {
    /// Takes note of a success that the ledger does not have yet.
    pub(super) fn see_configured(&mut self, state: &State) {
        let configure = state.hooks.get(&Hook::Configure).and_then(|configure| configure.outcome.as_ref());
        self.configured.seen |= state.configured || configure.is_some_and(HookOutcome::is_success);
        if self.configured.again.is_none() {
            self.record_configured();
        }
    }

    /// Begins to record it, unless that is done or under way.
    pub(super) fn record_configured(&mut self) {
        self.configured.again = None;
        let recorded = self.row.as_ref().is_none_or(|row| row.configured);
        if self.configured.seen && !recorded && self.configured.syncing.is_none() {
            self.configured.syncing = Some(self.node.machine.disk.sync());
        }
    }

    /// Whether `configure` need not be run by another capsule of this slice.
    pub(super) fn is_configured(&self) -> bool {
        self.configured.seen || self.row.as_ref().is_some_and(|row| row.configured)
    }

    /// Records the success, now that it will last.
    pub(super) async fn configured_synced(&mut self, synced: Result<(), String>) {
        self.configured.syncing = None;
        let Some(row) = &mut self.row else { return };
        let recorded = match synced {
            Ok(()) => {
                self.node.ledger.set_configured(row.name.clone()).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(()) => row.configured = true,
            Err(error) => {
                self.configured.again = Some(Instant::now() + AGAIN);
                self.tell("ledger-failed", Severity::Error, error);
            }
        }
    }

    /// A last chance for it to be recorded, before the capsule ends that knows it, and perhaps the machine goes down.
    pub(super) async fn settle_configured(&mut self) {
        if self.configured.syncing.is_some() {
            let record = async {
                let synced = self.configured.synced().await;
                self.configured_synced(synced).await;
            };
            timeout(LAST_CHANCE, record).await.ok();
        }
    }
}
