//! A memory limit that falls below what is in use.
//!
//! v1 reclaims what it can and refuses the rest with EBUSY. v2 kills instead, at once and without a word to the slice:
//! for a change of a definition that is not what anybody asked for, so there it is made to refuse, too.

use rustix::io::Errno;

use super::capsule::CapsuleCgroup;
use super::knobs::{read_small, write_small};
use super::tree::{Controller, ControllerVersion};
use crate::error::{KernelError, Tried};

impl CapsuleCgroup {
    /// Has the kernel reclaim what a limit of so many bytes leaves no room for.
    ///
    /// # Errors
    /// `EBUSY`: more than that is in use and stays so. Nothing has changed then.
    pub(super) fn make_room(&self, memory_max: u64) -> Result<(), KernelError> {
        if self.version(Controller::Memory) == ControllerVersion::V1 {
            return Ok(());
        }
        let (dir, path) = self.dir(Controller::Memory);
        let used = || self.number(Controller::Memory, "memory.current");
        // A kernel that does not say what is in use has the last word when the limit is written.
        if used().is_none_or(|used| used <= memory_max) {
            return Ok(());
        }
        let high = read_small(dir, "memory.high").tried("read memory.high", path)?;
        // The write itself reclaims, and lets nobody grow while it does; see cgroup v2's documentation, memory.high.
        let tried = format!("make room for a memory.max of {memory_max}");
        write_small(dir, "memory.high", &memory_max.to_string()).tried(&tried, path)?;
        if used().is_none_or(|used| used <= memory_max) {
            return Ok(());
        }
        write_small(dir, "memory.high", high.trim()).tried("put memory.high back", path)?;
        Err(KernelError::new(tried, path, Errno::BUSY)
            .hint("the capsule uses more than the new limit and the kernel could not reclaim the rest"))
    }
}
