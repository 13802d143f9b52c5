//! A capsule that outlived plabd: found by its cgroup and its socket, and taken as it is.

use std::os::fd::OwnedFd;

use plab_sandbox::KernelError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::Capsule;
use crate::machine::Machine;
use crate::peer::peer_pidfd;

/// What is left of a capsule.
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// It runs, and this is its capsule-init.
    Running {
        /// The capsule.
        capsule: Capsule,
        /// Whether it is frozen, or about to be.
        frozen: bool,
    },
    /// Remains that must be cleared away: the message says what.
    Remains(String),
}

/// Looks for the slice's capsule.
///
/// # Errors
/// The cgroup file system cannot be read.
pub fn find(machine: &Machine, slice: &str, uid: u32) -> Result<Found, KernelError> {
    let Some(cgroup) = machine.tree.capsule_cgroup(slice)? else { return Ok(Found::Nothing) };
    if !cgroup.populated()? {
        return Ok(Found::Remains("its cgroup was left empty".into()));
    }
    let (link, pidfd, pid) = match reach(machine, slice, uid) {
        Ok(reached) => reached,
        Err(error) => return Ok(Found::Remains(error.to_string())),
    };
    // Its ports are the task's to give; that it is under the programs at all is not to be taken on trust.
    let guard = match machine.required_guard() {
        Ok(guard) => guard,
        Err(error) => return Ok(Found::Remains(error.to_string())),
    };
    if let Some(guard) = guard {
        let id = cgroup.id()?;
        let state = guard.capsule(id)?.filter(|state| state.uid == uid);
        let rows = guard.verify(cgroup.unified(), id, state.unwrap_or_default(), &[])?;
        if let Some(row) = rows.into_iter().find(|row| state.is_none() || !row.ok) {
            return Ok(Found::Remains(format!(
                "it is not held to its network ({}: {})",
                row.what, row.in_force
            )));
        }
    }
    let (frozen, _) = cgroup.frozen()?;
    Ok(Found::Running { capsule: Capsule { pidfd, pid, link, oom: cgroup.oom_event()? }, frozen })
}

/// Connects to the capsule's socket and makes sure that a process of the slice's listens there: listen(2) was
/// called by capsule-init after it had become the slice, and the kernel shows those credentials.
fn reach(machine: &Machine, slice: &str, uid: u32) -> Result<(OwnedFd, OwnedFd, i32), KernelError> {
    let failed = |error: Errno| KernelError::new("reach capsule-init of", slice, error);
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(failed)?;
    let address = SocketAddrUnix::new(machine.socket_address(uid)).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    let peer = sockopt::socket_peercred(&socket).map_err(failed)?;
    if peer.uid.as_raw() != uid {
        return Err(failed(Errno::PERM));
    }
    let pid = peer.pid.as_raw_nonzero().get();
    if let Ok(pidfd) = peer_pidfd(&socket) {
        return Ok((socket, pidfd, pid));
    }
    // An older kernel: the PID could be another's by the time it is opened; what its cgroup is tells.
    let pidfd =
        rustix::process::pidfd_open(peer.pid, rustix::process::PidfdFlags::empty()).map_err(failed)?;
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .map_err(|error| KernelError::new("read the cgroup of capsule-init of", slice, error))?;
    if !own.lines().any(|line| line.starts_with("0::") && line.ends_with(&format!("/{slice}"))) {
        return Err(failed(Errno::SRCH));
    }
    Ok((socket, pidfd, pid))
}
