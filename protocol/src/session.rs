//! The session socket: a client and the `capsule-init` that runs its command.
//!
//! The client makes the socket pair and sends one end with [`crate::control::Request::Exec`]. When the client
//! closes its end, the command's session gets `SIGHUP` and then, after a short grace, `SIGKILL`.

use serde::{Deserialize, Serialize};

/// From the client. A changed window it tells the kernel itself, by the pseudo-terminal's master, which it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToSession {
    /// Send a signal to the command's process group. With a terminal, Ctrl-C and its like go through that instead,
    /// to whatever is in its foreground.
    Signal {
        /// As numbered on this architecture; see signal(7).
        number: i32,
    },
}

/// From `capsule-init`. To the client this is a slice's word: bounded and escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromSession {
    /// The command runs, in a terminal whose master comes attached. Not said of a command without one: its end is
    /// all its client waits for.
    Running,
    /// Before the command is started, if the client asked for it: the socket that `SSH_AUTH_SOCK` names inside comes
    /// attached, listening, and what connects to it is the client's to serve.
    Agent {
        /// Why there is none; then the command runs without.
        problem: Option<String>,
    },
    /// It could not be started.
    Failed {
        /// The kernel's error number; see errno(3).
        errno: i32,
        /// What was tried.
        what: String,
    },
    /// It ended by itself.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// The node has something to say to whoever sits at the terminal: that it reboots soon (3.5). The command goes on.
    Notice {
        /// One line.
        text: String,
    },
    /// A signal ended it.
    Killed {
        /// As numbered on this architecture.
        signal: i32,
    },
}
