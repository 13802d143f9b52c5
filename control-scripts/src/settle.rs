//! When a change of the control directory is complete enough to act upon.
//!
//! Researchers copy several files, one after another: a `configure` that ran as soon as it was there
//! would run before the `start` and the data that belong to it. So changes are acted upon when the
//! directory has been quiet for a while.

use std::time::{Duration, Instant};

use rustix::fs::inotify::WatchFlags;

use crate::hook::Hook;
use crate::resources;

/// Collects changes of the control directory until it has settled. Knows no clock: it is told.
#[derive(Clone, Debug, Default)]
pub struct Settle {
    pending: Option<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    first: Instant,
    last: Instant,
    hooks: Vec<Hook>,
}

impl Settle {
    /// How long the directory must have been quiet.
    pub const QUIET: Duration = Duration::from_millis(500);

    /// How long it can be kept from being quiet: a service that logs into its control directory
    /// must not put its `configure` off for ever.
    pub const AT_MOST: Duration = Duration::from_secs(10);

    /// What to watch the directory for. Writes too, not only their end: a large file may take longer
    /// to arrive than [`Self::QUIET`].
    #[must_use]
    pub fn watched() -> WatchFlags {
        WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB // chmod +x
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
    }

    /// A directory that has not changed.
    #[must_use]
    pub fn new() -> Settle {
        Settle::default()
    }

    /// A file of this name was changed, at `now`. The node's own files do not count.
    pub fn event(&mut self, now: Instant, name: &[u8]) {
        if !resources::is_own_file(name) {
            self.note(now, Hook::from_file_name(name).as_slice());
        }
    }

    /// Anything may have changed: the directory is new, or the kernel's queue of events ran over.
    pub fn everything(&mut self, now: Instant) {
        self.note(now, &Hook::ALL);
    }

    fn note(&mut self, now: Instant, hooks: &[Hook]) {
        let pending = self.pending.get_or_insert(Pending { first: now, last: now, hooks: Vec::new() });
        pending.last = now;
        for &hook in hooks {
            if !pending.hooks.contains(&hook) {
                pending.hooks.push(hook);
            }
        }
    }

    /// When the directory will have settled if nothing more happens; `None` if nothing is pending.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| (pending.last + Self::QUIET).min(pending.first + Self::AT_MOST))
    }

    /// If the directory has settled by `now`: the hooks that were touched, to be given to
    /// [`Sequence::changed`](crate::Sequence::changed). There may be none among the changes.
    pub fn settled(&mut self, now: Instant) -> Option<Vec<Hook>> {
        if self.deadline()? > now {
            return None;
        }
        self.pending.take().map(|pending| pending.hooks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn acts_when_the_directory_has_been_quiet() {
        let zero = Instant::now();
        let mut settle = Settle::new();
        assert_eq!((settle.deadline(), settle.settled(zero)), (None, None));
        settle.event(zero, b"configure");
        assert_eq!(settle.deadline(), Some(zero + Settle::QUIET));
        settle.event(zero + ms(400), b"start");
        settle.event(zero + ms(400), b"start");
        settle.event(zero + ms(450), b"data.bin");
        assert_eq!(settle.settled(zero + ms(900)), None);
        assert_eq!(settle.deadline(), Some(zero + ms(950)));
        assert_eq!(settle.settled(zero + ms(950)), Some(vec![Hook::Configure, Hook::Start]));
        assert_eq!((settle.deadline(), settle.settled(zero + ms(2000))), (None, None), "once");
    }

    #[test]
    fn a_directory_that_is_never_quiet_is_acted_upon_all_the_same() {
        let zero = Instant::now();
        let mut settle = Settle::new();
        settle.event(zero, b"configure");
        for tick in 1..100 {
            settle.event(zero + ms(tick * 100), b"service.log");
            assert_eq!(settle.settled(zero + ms(tick * 100)), None);
        }
        assert_eq!(settle.deadline(), Some(zero + Settle::AT_MOST));
        assert_eq!(settle.settled(zero + Settle::AT_MOST), Some(vec![Hook::Configure]));
    }

    #[test]
    fn the_nodes_own_writing_is_no_news() {
        let now = Instant::now();
        let mut settle = Settle::new();
        settle.event(now, b"resources");
        settle.event(now, b".resources.0123456789abcdef");
        assert_eq!(settle.deadline(), None);
        settle.event(now, b"resources.bak");
        assert_eq!(settle.settled(now + Settle::QUIET), Some(vec![]));
    }

    #[test]
    fn lost_events_are_taken_for_all_of_them() {
        let now = Instant::now();
        let mut settle = Settle::new();
        settle.event(now, b"stop");
        settle.everything(now);
        let mut hooks = settle.settled(now + Settle::QUIET).unwrap();
        hooks.sort_unstable();
        assert_eq!(hooks, Hook::ALL);
    }
}
