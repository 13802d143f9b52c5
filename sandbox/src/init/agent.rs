//! The socket inside the capsule behind which a client's ssh agent is.
//!
//! The client, plab-shell, serves it: capsule-init makes it, hands its listening end over, and removes it when the
//! session ends. It lies in a directory that only the slice enters, as sshd does it: whoever can connect can use the
//! agent's keys, and that is whatever runs in the capsule.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, mkdir, rmdir, unlink};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::rand::{GetRandomFlags, getrandom};

/// Connections that wait for the client.
const BACKLOG: i32 = 8;

/// A socket in a directory of its own; dropped, both are removed.
pub(super) struct AgentSocket {
    directory: String,
}

impl AgentSocket {
    /// Makes both, and returns the listening end.
    pub(super) fn make() -> Result<(Self, OwnedFd), Errno> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let directory = format!("/tmp/ssh-{:016x}", u64::from_ne_bytes(random));
        // A name that is there already, whoever made it, is an error: nothing is followed or taken over.
        mkdir(&directory, Mode::RWXU)?;
        let socket = Self { directory };
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&listener, &SocketAddrUnix::new(socket.path())?)?;
        listen(&listener, BACKLOG)?;
        Ok((socket, listener))
    }

    fn path(&self) -> String {
        format!("{}/agent", self.directory)
    }

    /// What tells a command where it is.
    pub(super) fn variable(&self) -> CString {
        // Hexadecimal digits: no NUL.
        CString::new(format!("SSH_AUTH_SOCK={}", self.path())).unwrap_or_default()
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // The slice may have removed them itself, or put something of its own there; that stays then.
        unlink(self.path()).ok();
        rmdir(&self.directory).ok();
    }
}
