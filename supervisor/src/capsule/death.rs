//! Kill, and what is left to clear away.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use plab_sandbox::KernelError;
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;

use crate::machine::Machine;
use crate::watched::watched;

/// A killed process is gone in milliseconds, unless it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at a cgroup whose last process is leaving: `cgroup.events` tells when it is empty, but on v1
/// the directories of the other hierarchies may be busy a moment longer, and nothing tells about those.
const V1_RETRY: Duration = Duration::from_millis(2);

/// Kills everything in a slice's cgroup and removes the cgroup, and the socket if its UID is known. Fine if there is
/// nothing.
///
/// # Errors
/// Something is left: a process stuck in the kernel, or a directory the kernel will not remove.
pub async fn clear(machine: &Machine, slice: &str, uid: Option<u32>) -> Result<(), KernelError> {
    machine.tree.kill(slice)?;
    let cgroup = machine.tree.capsule_id(slice)?;
    tokio::time::timeout(KILL_TIMEOUT, empty(machine, slice)).await.unwrap_or_else(|_| {
        Err(KernelError::new("end every process of", slice, Errno::TIMEDOUT)
            .hint("a process is stuck in the kernel (state D in ps); the slice stays in this state until it is gone"))
    })?;
    if let (Some(guard), Some(cgroup)) = (machine.guard(), cgroup) {
        guard.dismiss(cgroup)?;
    }
    let Some(uid) = uid else { return Ok(()) };
    match unlinkat(machine.sockets(), Machine::socket_name(uid), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(KernelError::new("remove the capsule socket of", slice, error)),
    }
}

async fn empty(machine: &Machine, slice: &str) -> Result<(), KernelError> {
    if let Some(events) = machine.tree.events_file(slice)? {
        let events = watched(events, Interest::PRIORITY)
            .map_err(|error| KernelError::new("watch the cgroup of", slice, error))?;
        while machine.tree.populated(slice)? {
            let mut ready = events
                .ready(Interest::PRIORITY)
                .await
                .map_err(|error| KernelError::new("watch the cgroup of", slice, error))?;
            ready.clear_ready();
        }
    }
    while !machine.tree.remove_capsule(slice)? {
        tokio::time::sleep(V1_RETRY).await;
    }
    Ok(())
}

/// Collects the exit status of an ended capsule-init, if it is this plabd's child.
pub fn reap(pidfd: &OwnedFd) {
    // An adopted one is init's to bury.
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok();
}

/// Ends a helper that this plabd started, and buries it.
pub fn kill_and_reap(pidfd: &OwnedFd) {
    pidfd_send_signal(pidfd, Signal::KILL).ok();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
}
