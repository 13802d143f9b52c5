//! capsule-init: PID 1 of one capsule.
//!
//! It starts as root in its cgroup and namespaces, is told by plabd what to become, puts every restriction on
//! itself, gives root up for good, and stays. Everything that ever runs in the capsule is its child and inherits
//! all of it, so a command costs one message and one vfork and exec, with no privileged code on that path. It has
//! one thread, makes no allocation that a slice sizes, and serves plabd through one socket; when plabd goes away
//! it goes on, and takes the next plabd's connection.
//!
//! | module | concern |
//! |---|---|
//! | [`setup`] | from root to the capsule, layer by layer |
//! | [`reactor`] | the loop: sockets, children, timers |
//! | [`hooks`] | running what `control-scripts` says is due |
//! | [`control_watch`] | the control directory and `resources` |
//! | [`sessions`] | commands for clients |
//! | [`agent`] | sockets for their ssh agents |
//! | [`launch`] | posix_spawn |
//! | [`skel`] | a new slice's first files |
//! | [`wipe`] | emptying storage, as the slice |

mod agent;
mod control_watch;
mod hooks;
mod launch;
mod reactor;
mod sessions;
mod setup;
mod skel;
mod wipe;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use crate::error::KernelError;
use crate::message::{self, FromInit, ToInit};
use crate::spawn::LINK_FD;

/// Runs capsule-init; does not return while the capsule lives.
pub fn main() -> ExitCode {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        eprintln!("capsule-init: is started by plabd as PID 1 of a capsule; not by hand");
        return ExitCode::from(2);
    }
    // Whatever plabd may have inherited and passed on: nobody here owns a descriptor above the link yet.
    // SAFETY: no object of this process has been made that owns one of these descriptors.
    if unsafe { libc::syscall(libc::SYS_close_range, LINK_FD + 1, libc::c_uint::MAX, 0) } != 0 {
        return ExitCode::FAILURE;
    }
    // SAFETY: plabd places the socket there before exec, and nothing else in this process has taken it.
    let link = unsafe { OwnedFd::from_raw_fd(LINK_FD) };
    match run(link) {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

fn run(link: OwnedFd) -> Result<(), ()> {
    // plabd gone before it said what to become: nothing was done, and nothing is to be done.
    let mut buffer = vec![0; message::MAX_DATAGRAM];
    let (first, fds) = message::receive::<ToInit>(&link, &mut buffer).ok().flatten().ok_or(())?;
    let tell = |error: &KernelError| {
        let failed = FromInit::SetupFailed { message: message::bounded(error.to_string()) };
        // If plabd is gone there is nobody to tell; the exit status says the rest.
        drop(message::send(&link, &failed, &[]));
    };
    match first {
        ToInit::Setup(setup) => {
            let capsule = setup::become_capsule(*setup, fds).map_err(|error| tell(&error))?;
            reactor::Reactor::new(link, capsule, buffer).map_err(drop)?.run();
            Ok(())
        }
        ToInit::Wipe { uid, landlock_abi } => {
            let removed = wipe::run(uid, landlock_abi, &fds).map_err(|error| tell(&error))?;
            message::send(&link, &FromInit::Wiped { removed }, &[]).map_err(drop)
        }
        _ => Err(()),
    }
}
