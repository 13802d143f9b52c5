//! `plab-shell`, the login shell of every slice: what ssh reaches of a node is the inside of the slice's capsule.
//!
//! sshd runs it on the host with the slice's UID. It executes nothing there, opens no file, and believes of its
//! environment only what it passes on. It asks plabd for a command in the capsule, as `plab exec` does, and copies:
//! with a terminal between sshd's and the capsule's own, without one by pipes. So no descriptor of the host's gets
//! inside, and TIOCSTI has no way back.
//!
//! | module | concern |
//! |---|---|
//! | [`call`] | what sshd, or `su`, asks for |
//! | [`command`] | how that is run inside |
//! | [`verbs`] | `ssh SLICE@NODE plab …`, which needs no process inside |
//! | [`advice`] | what to do when nothing can be started |
//! | [`process`] | this process: not to be looked into, gone with its connection |
//! | [`keys`] | `plab-keys`, which tells sshd who may log in |

pub mod advice;
pub mod call;
pub mod command;
pub mod keys;
pub mod process;
pub mod verbs;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use plab_protocol::control::{ErrorCode, Exec, Login, NodeStatus, Reply, Request};

use self::call::{Call, What};
use crate::client::{self, control_socket};
use crate::error::{EXEC_ERROR, Error, OK, USAGE};
use crate::output::{complain, print};
use crate::{exec, terminal};

/// plabd takes so many connections of one user at a time. Some more, of a script that begins many at once, wait.
const BUSY: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(100);

const HELP: &str =
    "plab-shell, the login shell of the slices of a PlanetLab node: it joins the slice's capsule.

sshd runs it; by hand there is `plab shell` and `plab exec`.

Options:
  --root DIR    talk to the plabd that was started with the same --root
  -c COMMAND    run this instead of an interactive shell
  -l            what a login shell is given; there is no other kind

Example:
  ssh princeton4@node               # a shell in the capsule
  ssh princeton4@node plab help     # what works even when nothing can be started in the capsule
";

/// All of `plab-shell`.
pub fn main() -> ExitCode {
    if let Err(e) = process::harden() {
        complain(&e.to_string());
        return ExitCode::from(EXEC_ERROR);
    }
    let call = match Call::read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(call) => call,
        Err(message) => {
            complain(&message);
            return ExitCode::from(USAGE);
        }
    };
    ExitCode::from(run(call).unwrap_or_else(|e| {
        complain(&e.to_string());
        EXEC_ERROR
    }))
}

fn run(call: Call) -> Result<u8, Error> {
    let socket = control_socket(call.root.as_deref());
    let what = match call.what {
        What::Help => return print(HELP).map(|()| OK),
        What::Run(what) => what,
    };
    if let Some(words) = what.as_deref().and_then(verbs::words) {
        let node = status(&socket)?;
        return verbs::run(&socket, &own(&node)?.name, &words);
    }
    join(&socket, what, call.login)
}

/// Runs the command, or the login shell, in the capsule.
fn join(socket: &Path, what: Option<OsString>, login: Option<Login>) -> Result<u8, Error> {
    let node = status(socket)?;
    let slice = own(&node)?.name.clone();
    let tty = terminal::is_interactive();
    // sshd has made it for this connection, and only if the user asked for it.
    let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|_| login.is_some()).map(PathBuf::from);
    let request = Exec {
        slice: slice.clone(),
        argv: what.map(command::argv).unwrap_or_default(),
        env: command::environment(std::env::vars_os(), tty),
        tty: None,
        login,
        agent: false,
    };
    let agent = agent.as_deref();
    let done = patiently(|| exec::follow(socket, request.clone(), tty, false, agent));
    match done {
        Ok(ending) => {
            if ending.error.is_some() && ending.status == EXEC_ERROR {
                complain(&advice::nothing_starts(socket, &slice, &node.node));
            }
            Ok(ending.status)
        }
        Err(e) => {
            if matches!(&e, Error::Session(_)) || is_wrong_state(&e) {
                complain(&e.to_string());
                return Err(Error::Session(advice::from_outside(&slice, &node.node)));
            }
            Err(e)
        }
    }
}

fn is_wrong_state(e: &Error) -> bool {
    matches!(e, Error::Refused(refusal) if refusal.code == ErrorCode::WrongState)
}

/// The node, and the slice that this process's user is.
fn status(socket: &Path) -> Result<NodeStatus, Error> {
    let request = Request::Status { slice: None, verify: false };
    match patiently(|| client::ask(socket, request.clone()))?.reply {
        Reply::Status(node) => Ok(*node),
        _ => Err(Error::Unexpected { expected: "a status" }),
    }
}

fn own(node: &NodeStatus) -> Result<&plab_protocol::control::SliceStatus, Error> {
    let user = rustix::process::getuid().as_raw();
    match &node.slices[..] {
        [own] if own.uid == user => Ok(own),
        // Root sees all of them, and is none.
        _ => Err(Error::Usage("plab-shell is the login shell of a slice, and this user is none".into())),
    }
}

/// Asks again while the node has no room for one more request.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(Error::Refused(refusal)) if refusal.code == ErrorCode::Busy && begun.elapsed() < BUSY => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}
