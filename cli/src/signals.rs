//! Signals as things to read, so that one poll(2) waits for everything.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// Signals that are read instead of acted on, from [`Signals::take`] to the end of the program: one that comes
/// while plab tidies up must not replace the exit status that it has just learned.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks `wanted` and makes them readable, but for those that the caller had ignored: under nohup(1) a
    /// hangup must stay ignored, and a blocked signal is queued even where it is ignored.
    ///
    /// # Errors
    /// As sigprocmask(2) and signalfd(2).
    pub fn take(wanted: &[Signal]) -> Result<Signals, Error> {
        let mut mask = SigSet::empty();
        for &signal in wanted {
            if !is_ignored(signal) {
                mask.add(signal);
            }
        }
        let failed = Error::system::<nix::errno::Errno>;
        mask.thread_block().map_err(failed("block signals"))?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(failed("make a signalfd"))?;
        Ok(Signals { fd })
    }

    /// The next signal that came, if one did.
    ///
    /// # Errors
    /// As read(2).
    pub fn next(&self) -> Result<Option<Signal>, Error> {
        let read = self.fd.read_signal().map_err(Error::system("read signals"))?;
        // Only what was asked for comes, and all of that has a name.
        Ok(read.and_then(|info| i32::try_from(info.ssi_signo).ok()).and_then(|n| Signal::try_from(n).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_ignored(signal: Signal) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action nothing changes; the kernel writes the old one into `old`, which is large
    // enough and zeroed, so that it is valid also when the call fails.
    unsafe { libc::sigaction(signal as i32, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed above, and all of its fields are integers or an optional function.
    unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}
