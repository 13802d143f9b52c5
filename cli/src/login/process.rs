//! This process: not to be looked into, holding nothing that it was not given on purpose, gone with its connection.

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};

use crate::error::Error;

/// Descriptors above the standard ones.
const FIRST_OTHER: libc::c_uint = 3;

/// Puts all of it into force.
///
/// # Errors
/// The kernel refuses one of them.
pub fn harden() -> Result<(), Error> {
    // Whatever else has the slice's UID outside its capsule (sshd's process of the connection) must not be able to trace
    // this one, nor the other way round by a core file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::system("become undumpable"))?;
    // Without a terminal nothing else tells that the connection has gone: a command that neither reads nor writes would
    // keep its session open for ever.
    set_parent_process_death_signal(Some(Signal::HUP)).map_err(Error::system("follow sshd"))?;
    // SAFETY: nothing in this process owns a descriptor yet but the standard three.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, 0) } != 0 {
        return Err(Error::system("close what was inherited")(std::io::Error::last_os_error()));
    }
    Ok(())
}
