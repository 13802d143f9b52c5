//! Where flow records are delivered to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};

use crate::error::FlowError;
use crate::owner::Owner;
use crate::record::{Flow, RecordError};
use crate::store::flush;
use crate::writer::{ClockReading, Job, Shared};

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// The store has it.
    Yes,
    /// There is no room for it now.
    NoRoom,
    /// Nobody takes records any more: the store is closed, or its thread has died.
    Ended,
}

/// Takes records in; clones share the store. [`Self::deliver`] never waits: what the store cannot take is lost, counted, and shown.
#[derive(Clone)]
pub struct FlowSink {
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) shared: Arc<Shared>,
}

impl FlowSink {
    /// Takes in one record as the kernel has it.
    ///
    /// # Errors
    /// It is not understood; that is counted.
    pub fn deliver(&self, record: &[u8]) -> Result<(), RecordError> {
        if self.try_deliver(record)? != Took::Yes {
            self.shared.lost_store.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`Self::deliver`], but what the store does not take is the caller's, who may have time.
    ///
    /// # Errors
    /// It is not understood; that is counted.
    pub fn try_deliver(&self, record: &[u8]) -> Result<Took, RecordError> {
        let flow = Flow::parse(record).inspect_err(|_| {
            self.shared.unread.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(match self.jobs.try_send(Job::Flow(flow)) {
            Ok(()) => Took::Yes,
            Err(TrySendError::Full(_)) => Took::NoRoom,
            Err(TrySendError::Disconnected(_)) => Took::Ended,
        })
    }

    /// Waits until what was delivered before, and counted as lost, is written, or until `give_up` says so. Blocks.
    ///
    /// # Errors
    /// The store cannot write, or is closed; or it was given up.
    pub fn flush(&self, give_up: impl Fn() -> bool) -> Result<(), FlowError> {
        flush(&self.jobs, give_up)
    }

    /// Counts packets whose flow the kernel could not note: so many more than were told before.
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
