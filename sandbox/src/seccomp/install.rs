//! Handing one program to the kernel.

use std::io;

use seccompiler::sock_filter;

use super::instructions::MAX_INSTRUCTIONS;

/// Puts `program` in force for the calling thread and everything that it starts, for good. It also sets
/// `no_new_privs`, without which the kernel takes no filter from the unprivileged. Allocates nothing.
///
/// See `seccomp(2)`, `SECCOMP_SET_MODE_FILTER`.
///
/// # Errors
/// The kernel's, or `EINVAL` for an empty or too long program.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    // seccompiler hands the length on as 16 bits: a longer program would lose its end, and with it its rules.
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    seccompiler::apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(errno) | seccompiler::Error::Seccomp(errno) => errno,
        _ => io::Error::from_raw_os_error(libc::EINVAL),
    })
}
