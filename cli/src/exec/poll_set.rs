//! What one call of poll(2) waits for.

use rustix::event::{PollFd, PollFlags};

use crate::relay::{Relay, Watch};

/// Descriptors to poll, and where each one is among them.
#[derive(Default)]
pub struct PollSet<'a>(pub Vec<PollFd<'a>>);

impl<'a> PollSet<'a> {
    pub fn add(&mut self, watch: Watch<'a>) -> Option<usize> {
        let (fd, flags) = watch?;
        self.0.push(PollFd::from_borrowed_fd(fd, flags));
        Some(self.0.len() - 1)
    }

    pub fn add_relay(&mut self, relay: &'a Relay) -> (Option<usize>, Option<usize>) {
        let (from, to) = relay.watch();
        (self.add(from), self.add(to))
    }

    pub fn flags(&self, at: Option<usize>) -> PollFlags {
        at.map_or(PollFlags::empty(), |at| self.0[at].revents())
    }
}
