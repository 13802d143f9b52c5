//! How a command ended, and the exit status that says so.

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::error::{EXEC_CANNOT, EXEC_ERROR, EXEC_NOT_FOUND};

/// How a session can end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
    /// The capsule went away with it.
    Lost,
    /// The command was not started.
    Failed {
        /// What the kernel said.
        errno: i32,
        /// What was tried; the capsule's words.
        what: String,
    },
}

/// How plab ends with it: an exit status, and for a program the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// plab's exit status.
    pub status: u8,
    /// The signal that ended the command, or plab before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why the command was not started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Ending {
    /// With this status.
    pub fn status(status: u8) -> Ending {
        Ending { status, signal: None, error: None }
    }

    /// By this signal. Above 127 is none; what is said of one is the slice's word.
    pub fn signal(signal: i32) -> Ending {
        Ending { signal: Some(signal), ..Ending::status(status_of_signal(signal)) }
    }
}

/// The exit status of a command that was not started.
pub fn status_of_failure(errno: i32) -> u8 {
    match errno {
        libc::ENOENT => EXEC_NOT_FOUND,
        // No room for another process is nothing the command is to blame for.
        libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC => EXEC_ERROR,
        _ => EXEC_CANNOT,
    }
}

/// The exit status of a command that was ended by a signal, as shells have it. Above 127 is no signal.
fn status_of_signal(signal: i32) -> u8 {
    u8::try_from(signal).ok().filter(|&n| (1..=127).contains(&n)).map_or(EXEC_ERROR, |n| 128 + n)
}

/// Whether a signal is sent to end something.
pub fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_env_and_shells() {
        assert_eq!(status_of_failure(libc::ENOENT), 127);
        for errno in [libc::EACCES, libc::ENOEXEC, libc::EPERM, libc::EISDIR, libc::E2BIG] {
            assert_eq!(status_of_failure(errno), 126);
        }
        for errno in [libc::EAGAIN, libc::ENOMEM] {
            assert_eq!(status_of_failure(errno), 125);
        }
        assert_eq!(status_of_signal(libc::SIGKILL), 137);
        assert_eq!(status_of_signal(libc::SIGTERM), 143);
        for nonsense in [0, -1, 128, i32::MAX] {
            assert_eq!(status_of_signal(nonsense), 125);
        }
    }
}
