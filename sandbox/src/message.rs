//! What plabd and capsule-init say to each other: JSON datagrams on a seqpacket socket.
//!
//! capsule-init outlives plabd, so the two may be of different releases: unknown fields are ignored, new ones
//! have defaults, and [`PROTOCOL`] tells what the other side can do. To plabd everything here is untrusted input
//! (the tenant cannot speak for capsule-init, but defence does not rest on that): sizes are bounded by
//! [`MAX_DATAGRAM`], strings are cut and escaped before they are shown.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::WindowSize;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The protocol's version; rises when something is added.
pub const PROTOCOL: u32 = 2;

/// The longest datagram, in bytes.
pub const MAX_DATAGRAM: usize = plab_protocol::MAX_DATAGRAM;

/// The longest text that capsule-init passes on for a slice, in bytes.
pub const MAX_TEXT: usize = 512;

/// From plabd.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToInit {
    /// First: what to become. Descriptors: see [`Setup::FIXED_FDS`].
    Setup(Box<Setup>),
    /// Second, once plabd has read everything back: begin.
    Go(Box<Go>),
    /// Write a new `resources`.
    Resources {
        /// Its whole text.
        text: String,
    },
    /// Run one hook now. An `id` not above the last one seen is ignored, so that it can be said twice.
    Run {
        /// Rises by one a request.
        id: u64,
        /// Which.
        hook: Hook,
        /// Killed after this many milliseconds; a service may stay.
        limit_ms: Option<u64>,
    },
    /// The definition's times changed.
    Times(Times),
    /// Run a command. Descriptors: the session socket, then standard input, output, error; with `tty` only
    /// the session socket.
    Exec(Exec),
    /// Tell every session this: [`plab_protocol::session::FromSession::Notice`]. Version 2; an older capsule-init
    /// passes it over.
    Notice {
        /// One line.
        text: String,
    },
    /// First, instead of a setup: empty the directories that come as descriptors, as this UID, and end.
    Wipe {
        /// UID and GID to become.
        uid: u32,
        /// [`Setup::landlock_abi`].
        landlock_abi: i32,
    },
}

/// How long hooks may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// `configure`, in milliseconds.
    pub configure_ms: u64,
}

/// What a new capsule-init makes of itself. Everything in here was decided by plabd from a checked definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The slice.
    pub slice: String,
    /// This node's name.
    pub node: String,
    /// UID and GID.
    pub uid: u32,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Most open files a process.
    pub open_files: u64,
    /// Most tasks at birth; what else grows with a capsule is measured by it.
    pub tasks: u64,
    /// The Landlock ABI to use: the lesser of the kernel's and what this build knows.
    pub landlock_abi: i32,
    /// The TCP ports that Landlock lets it bind; none if ports are not Landlock's to hold, because BPF programs do.
    #[serde(default)]
    pub tcp_ports: Option<Vec<u16>>,
    /// It keeps CAP_NET_RAW; see [`crate::privileges::Kept`].
    #[serde(default)]
    pub raw: bool,
    /// Directories with programs and data that the capsule may read and execute, as seen inside.
    pub readable: Vec<String>,
    /// What of the definition can only change by a new capsule; handed back in [`State::birthmark`], so that a
    /// later plabd knows what this one was made of.
    #[serde(default)]
    pub birthmark: String,
    /// Further trees to show, one descriptor each after the fixed ones.
    pub extra: Vec<ExtraTree>,
    /// The last descriptor is the node's skeleton directory, to copy into an empty home.
    #[serde(default)]
    pub skel: bool,
}

impl Setup {
    /// Descriptors that come with every setup, in this order: the mount namespace with the view's read-only
    /// part, detached mounts of the home's parent, `/tmp`, `/var/tmp` and the identity directory, the bound
    /// socket to listen on, and the compiled seccomp profile (a sealed memfd).
    pub const FIXED_FDS: usize = 7;
}

/// A read-only tree from `[view] paths`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExtraTree {
    /// The directory of the node file's `[view] allow` it lies under; an empty one in the read-only part.
    pub under: String,
    /// Where it shall be seen.
    pub at: String,
}

/// What to do first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Go {
    /// Whether `configure` has succeeded in this installation.
    pub configured: bool,
    /// The text of `resources`.
    pub resources: String,
    /// Limits on hooks.
    pub times: Times,
}

/// A command to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// Empty for the login shell.
    pub argv: Vec<String>,
    /// Beside the capsule's own variables.
    pub env: BTreeMap<String, String>,
    /// Make a pseudo-terminal of this size.
    pub tty: Option<WindowSize>,
    /// Make a socket for the client's ssh agent.
    #[serde(default)]
    pub agent: bool,
}

/// From capsule-init.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromInit {
    /// Every restriction is in place; waiting for [`ToInit::Go`].
    Ready {
        /// [`PROTOCOL`] of the sender.
        protocol: u32,
    },
    /// A step of the setup failed; capsule-init is gone.
    SetupFailed {
        /// What was tried, on what, what the kernel said.
        message: String,
    },
    /// Everything plabd has to know, whole, each time something changes and at each connection: a lost or
    /// merged message costs nothing.
    State(Box<State>),
    /// Storage is empty (wipe mode).
    Wiped {
        /// Files and directories removed.
        removed: u64,
    },
    /// Something that a later release says, whose capsule this plabd was put back to. Not for us.
    #[serde(other)]
    Unknown,
}

/// What capsule-init knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Whether [`ToInit::Go`] was seen.
    pub going: bool,
    /// The last [`ToInit::Run`] taken up.
    pub last_run_id: u64,
    /// Each hook that was due at least once.
    pub hooks: BTreeMap<Hook, HookState>,
    /// The hooks in whose place something is now, be it runnable or not.
    pub present: Vec<Hook>,
    /// The first line the last `status` printed.
    pub status_line: Option<String>,
    /// What is wrong with `PlanetLab-control`, if anything.
    pub control_problem: Option<String>,
    /// Why `resources` could not be written, if so.
    pub resources_problem: Option<String>,
    /// Commands running now.
    pub sessions: u32,
    /// Nothing runs in the capsule but capsule-init.
    pub idle: bool,
    /// [`Setup::birthmark`].
    pub birthmark: String,
    /// [`Go::configured`]: a success that plabd knew of, and may have died before its ledger did.
    pub configured: bool,
}

/// What became of one hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// How many times it was begun (or found impossible) in this capsule.
    pub runs: u64,
    /// The request it answers, for hooks run by [`ToInit::Run`].
    pub run_id: u64,
    /// None while it runs.
    pub outcome: Option<HookOutcome>,
}

/// Sends one message.
///
/// # Errors
/// As sendmsg(2); a message over [`MAX_DATAGRAM`] is `InvalidInput`.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_DATAGRAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message larger than the protocol allows"));
    }
    plab_protocol::channel::send(socket, &bytes, fds).map(drop)
}

/// Receives one message; none when the peer has closed. `buffer` must hold [`MAX_DATAGRAM`] bytes.
///
/// # Errors
/// As recvmsg(2); what is not a message of this protocol is `InvalidData`.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (n, fds) = plab_protocol::channel::receive(socket, buffer)?;
    if n == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..n])?, fds)))
}

/// Cuts a slice's text to what one message may carry.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// What one release says as another hears it.
    fn heard<T: DeserializeOwned>(said: &str) -> io::Result<T> {
        let (near, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("pair");
        plab_protocol::channel::send(&near, said.as_bytes(), &[]).expect("send");
        receive(&far, &mut vec![0; MAX_DATAGRAM]).map(|message| message.expect("a message").0)
    }

    #[test]
    fn a_later_capsule_init_is_understood() {
        let said =
            r#"{"say":"state","protocol":9,"going":true,"last_run_id":3,"moods":["good"],"birthmark":"b"}"#;
        let FromInit::State(state) = heard(said).expect("read") else { panic!("no state") };
        assert_eq!((state.protocol, state.going, state.last_run_id), (9, true, 3));
        let said = r#"{"say":"mood","of":"all"}"#;
        assert!(matches!(heard(said).expect("read"), FromInit::Unknown));
    }

    #[test]
    fn the_first_capsule_init_is_understood() {
        // The least that a release ever said of itself.
        let FromInit::State(state) = heard(r#"{"say":"state"}"#).expect("read") else { panic!("no state") };
        assert_eq!(*state, State::default());
    }

    #[test]
    fn what_a_later_plabd_asks_for_is_an_error_that_capsule_init_passes_over() {
        let error = heard::<ToInit>(r#"{"say":"dance"}"#).expect_err("not known");
        assert!(error.kind() == io::ErrorKind::InvalidData || error.raw_os_error().is_none(), "{error}");
        let said = r#"{"say":"run","id":1,"hook":"stop","limit_ms":null,"gently":true}"#;
        assert!(matches!(
            heard(said).expect("read"),
            ToInit::Run { id: 1, hook: Hook::Stop, limit_ms: None }
        ));
    }
}
