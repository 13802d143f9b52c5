//! The process at the other end of a Unix socket, for good: a PID alone may be another's by the time it is used.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

/// A process of this machine, held by a pidfd.
#[derive(Debug)]
pub struct Process {
    /// Refers to it whatever becomes of its PID; readable once it has ended.
    pub pidfd: OwnedFd,
    /// Its PID here.
    pub pid: i32,
}

impl Process {
    /// Whoever connected.
    ///
    /// # Errors
    /// It has ended.
    pub fn connected(socket: impl AsFd) -> Result<Self, Errno> {
        let pid = socket_peercred(&socket)?.pid;
        let pidfd = match peer_pidfd(&socket) {
            Ok(pidfd) => pidfd,
            // An older kernel. The PID is that of connect(2), so whoever has it now may be another; this one has sent
            // a request just now, and PIDs are not used again that fast.
            Err(Errno::NOPROTOOPT) => pidfd_open(pid, PidfdFlags::empty())?,
            Err(error) => return Err(error),
        };
        Ok(Self { pidfd, pid: pid.as_raw_nonzero().get() })
    }
}

/// See unix(7), `SO_PEERPIDFD` (Linux 6.5).
///
/// # Errors
/// `NOPROTOOPT` on older kernels; `SRCH` or `INVAL` for a process that has ended.
pub fn peer_pidfd(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut size = libc::socklen_t::try_from(size_of_val(&pidfd)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the value and its size are ours, and of the type the option has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::NOPROTOOPT));
    }
    if pidfd < 0 {
        return Err(Errno::NOPROTOOPT);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pairs_peer_is_this_process() {
        let (a, _b) = UnixStream::pair().expect("pair");
        let process = Process::connected(&a).expect("alive");
        assert_eq!(process.pid, i32::try_from(std::process::id()).expect("a PID"));
    }
}
