//! plab-hold-cgroup: the main process of `planetlab-capsules.service`, whose cgroup the capsules live in.
//!
//! On SIGTERM it ends what is left there and then itself. That it is killed in any other way disturbs no capsule.

use std::process::ExitCode;
use std::time::Duration;

use plab_sandbox::cgroup::Held;
use sd_notify::NotifyState;

/// The kernel kills at once; what is still there after this is stuck in it.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plab-hold-cgroup: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hold() -> Result<(), Box<dyn std::error::Error>> {
    // Blocked before anything can be asked to end, so that none is lost.
    let signals = end_signals();
    // SAFETY: the set was initialised, and there is no other thread.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let held = Held::own()?;
    sd_notify::notify(false, &[NotifyState::Ready])
        .map_err(|error| format!("could not tell systemd that the cgroup is held: {error}"))?;
    let mut signal = 0;
    // SAFETY: both pointers are to live objects.
    let error = unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
    if error != 0 {
        return Err(std::io::Error::from_raw_os_error(error).into());
    }
    held.end_all(PATIENCE)?;
    Ok(())
}

fn end_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to initialise.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: initialised above, and the signal is one.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
