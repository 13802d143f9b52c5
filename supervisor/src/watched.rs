//! Descriptors in tokio's reactor: the one place that vouches for them.

use std::io;
use std::os::fd::OwnedFd;

use inotify::Inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What owns one descriptor, always the same, open until it is dropped.
pub trait Owner: std::os::fd::AsRawFd {}

impl Owner for OwnedFd {}
impl Owner for Inotify {}

/// Registers a descriptor with the running reactor.
///
/// # Errors
/// The kernel refused (the descriptor is of a kind that cannot be polled, or too many are watched).
pub fn watched<T: Owner>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` shows the same open descriptor for as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(owner, interest) }.map_err(Into::into)
}
