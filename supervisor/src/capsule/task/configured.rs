//! The success of `configure`. It is recorded when all that it made is on disk and not before: `configure` is never run
//! again, so a power cut in between would leave a slice whose installation is missing for good.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::Severity;
use plab_sandbox::KernelError;
use plab_sandbox::message::State;
use tokio::task::JoinHandle;

use super::Task;

/// What `configure` made, on its way to the disk.
pub(super) type Syncing = JoinHandle<Result<(), KernelError>>;

impl Task {
    /// Takes note of a success that the ledger does not have yet.
    pub(super) fn see_configured(&mut self, state: &State) {
        let succeeded = state
            .hooks
            .get(&Hook::Configure)
            .is_some_and(|configure| configure.outcome.as_ref().is_some_and(HookOutcome::is_success));
        let recorded = self.row.as_ref().is_none_or(|row| row.configured);
        if succeeded && !recorded && self.syncing.is_none() {
            let machine = Arc::clone(&self.node.machine);
            // The whole filesystem, as there is no call for less; others may have written much, so it is not waited for here.
            self.syncing = Some(tokio::task::spawn_blocking(move || sync(machine.paths.storage.clone())));
        }
    }

    /// Whether `configure` need not be run by another capsule of this slice.
    pub(super) fn is_configured(&self) -> bool {
        self.syncing.is_some() || self.row.as_ref().is_some_and(|row| row.configured)
    }

    /// Records the success, now that it will last.
    pub(super) async fn synced(&mut self, synced: Result<(), KernelError>) {
        self.syncing = None;
        let Some(row) = &mut self.row else { return };
        let recorded = match synced {
            Ok(()) => {
                self.node.ledger.set_configured(row.name.clone()).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match recorded {
            Ok(()) => row.configured = true,
            Err(error) => self.tell("ledger-failed", Severity::Error, error),
        }
    }
}

fn sync(storage: PathBuf) -> Result<(), KernelError> {
    let failed = |error| KernelError::new("write to disk", storage.display(), error);
    let directory = File::open(&storage).map_err(failed)?;
    rustix::fs::syncfs(&directory).map_err(|errno| failed(errno.into()))
}

/// How the sync ended; never without one.
pub(super) async fn end_of(syncing: &mut Option<Syncing>) -> Result<(), KernelError> {
    match syncing {
        Some(handle) => handle.await.unwrap_or_else(|error| {
            Err(KernelError::new("write to disk", "what configure made", std::io::Error::other(error)))
        }),
        None => std::future::pending().await,
    }
}
