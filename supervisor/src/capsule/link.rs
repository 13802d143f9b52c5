//! The socket to a capsule-init, without blocking.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plab_sandbox::message::{self, FromInit, MAX_DATAGRAM, ToInit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::watched::watched;

thread_local! {
    // One for all links: plabd's loop is one thread, and a thousand buffers would be its largest expense.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// A connection to one capsule-init.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
}

impl Link {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// It cannot be made non-blocking or watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: watched(socket, Interest::READABLE)? })
    }

    /// Sends a message at once or not at all: a capsule-init that does not read must not hold plabd.
    ///
    /// # Errors
    /// `WouldBlock` when its queue is full; else as sendmsg(2).
    pub fn send(&self, message: &ToInit, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        message::send(self.socket.as_fd(), message, fds)
    }

    /// A message that has come already, if there is one; never waits.
    pub fn waiting(&self) -> Option<FromInit> {
        let received = BUFFER.with_borrow_mut(|buffer| message::receive(self.socket.get_ref(), buffer));
        received.ok().flatten().map(|(message, _)| message)
    }

    /// The next message; none when the other side is gone. What is no message of the protocol is an error, after
    /// which the link is of no more use.
    ///
    /// # Errors
    /// As recvmsg(2), or `InvalidData`.
    pub async fn receive(&self) -> io::Result<Option<FromInit>> {
        self.socket
            .async_io(Interest::READABLE, |socket| {
                // Descriptors that come with it have no use here, and are closed.
                BUFFER.with_borrow_mut(|buffer| message::receive::<FromInit>(socket, buffer))
            })
            .await
            .map(|received| received.map(|(message, _)| message))
    }
}
