//! Where flow records are delivered to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::owner::Owner;
use crate::record::{Flow, RecordError};
use crate::writer::{ClockReading, Job, Shared};

/// Takes records in; clones share the store. Never waits: what the store cannot take is lost, counted, and shown.
#[derive(Clone)]
pub struct FlowSink {
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) shared: Arc<Shared>,
}

impl FlowSink {
    /// Takes in one record as the kernel's ring has it.
    ///
    /// # Errors
    /// It is not understood; that is counted.
    pub fn deliver(&self, record: &[u8]) -> Result<(), RecordError> {
        let flow = Flow::parse(record).inspect_err(|_| {
            self.shared.unread.fetch_add(1, Ordering::Relaxed);
        })?;
        match self.jobs.try_send(Job::Flow(flow)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.lost_store.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Counts records that the kernel could not put into its ring: so many more than were told before.
    pub fn lost_in_kernel(&self, more: u64) {
        self.shared.lost_kernel.fetch_add(more, Ordering::Relaxed);
    }

    /// Says whose the flows of a cgroup are from now on. To be said when a capsule is made or found again, and when its
    /// contact changes; a record may come up to a second before.
    pub fn set_owner(&self, cgroup: u64, owner: Owner) {
        self.shared.owners().set(cgroup, owner);
    }

    /// Says what time it is. Holds for every record of this boot, also for those that came before.
    pub fn set_clock(&self, clock: ClockReading) {
        *self.shared.clock() = clock;
    }
}
