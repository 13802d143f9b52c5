//! The control socket: requests, replies, and the shapes of what they show.
//!
//! Everything here is stable, versioned JSON: `plab --json` prints these shapes unchanged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::ports::{Listener, PortStatus};

use crate::bandwidth::{Bandwidth, OptOuts};
use crate::flows::{FlowFilter, FlowPage, FlowsKept, WhoSent};
use crate::machine::{BootSummary, Boots, Plan, PowerAction};

/// One request with the protocol version the client speaks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The client's [`crate::VERSION`].
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What a client may ask of `plabd`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The node and all slices, or one slice; with `verify`, what was asked and what the kernel has in force.
    Status {
        /// Only this slice; all that the caller may see when absent.
        slice: Option<String>,
        /// Read every layer back from the kernel.
        #[serde(default)]
        verify: bool,
    },
    /// Store a definition in the directory of definitions and wait until it is in effect or refused.
    Apply {
        /// The TOML text.
        text: String,
        /// What errors should call the text, such as a file name; `-` for standard input.
        origin: String,
    },
    /// Delete a slice's definition: `stop`, grace, kill, storage removed. Waits until it is gone.
    Remove {
        /// The slice.
        slice: String,
    },
    /// Stop a capsule and start it again.
    Restart {
        /// The slice.
        slice: String,
    },
    /// Freeze every process of a capsule.
    Freeze {
        /// The slice.
        slice: String,
    },
    /// Let a frozen capsule go on.
    Thaw {
        /// The slice.
        slice: String,
    },
    /// Run a command in a capsule. Four descriptors come with it: the session socket, then standard input,
    /// output and error; with `tty` only the session socket.
    Exec(Exec),
    /// What happened, oldest first.
    Events {
        /// Only events with a larger sequence number; 0 for all that are kept.
        #[serde(default)]
        since: u64,
        /// Only this slice.
        slice: Option<String>,
        /// Keep the connection and send each new event as it happens.
        #[serde(default)]
        follow: bool,
    },
    /// CPU time, memory and tasks of every capsule, for `plab top`.
    Usage,
    /// Who is in: commands and shells that clients run in capsules now.
    Sessions {
        /// Only this slice; all that the caller may see when absent.
        slice: Option<String>,
    },
    /// Whose ports are whose, and who listens there.
    Ports {
        /// Only this slice; all, and the node's own, when absent.
        slice: Option<String>,
    },
    /// How much the node and its slices may send and receive, and have sent.
    Bandwidth,
    /// Set what all together may send and receive, from now on and over restarts; what is absent stays as it is.
    SetBandwidth {
        /// A rate such as `10Mbit`, `none`, or `node-file` for what that says.
        out: Option<String>,
        /// The same for what is received.
        #[serde(rename = "in")]
        incoming: Option<String>,
    },
    /// Where no capsule may send anything, and who was refused how often.
    OptOuts,
    /// Add a prefix to those, or take away one that was added.
    ChangeOptOut {
        /// The prefix.
        prefix: String,
        /// Add it.
        add: bool,
    },
    /// Stop every capsule in order (`stop`, grace, kill) and keep them stopped until the next start of `plabd`.
    Drain {
        /// The machine goes down next: once all are stopped, the boot's end is recorded as one in order.
        #[serde(default)]
        for_shutdown: bool,
    },
    /// The machine's boots (3.8).
    Boots {
        /// At most so many, the newest.
        last: u32,
    },
    /// What is planned for the machine.
    Planned,
    /// Stop every capsule in order, then reboot the machine or switch it off (3.5). Replaces what was planned.
    Power {
        /// Which.
        action: PowerAction,
        /// When, RFC 3339; at once if absent.
        at: Option<String>,
        /// Why, for those who are warned.
        reason: Option<String>,
    },
    /// Drop what is planned.
    CancelPower,
    /// Believe the clock as it is now, whatever the node thought of it.
    TrustClock,
    /// Whose packets went somewhere (3.6): one row a slice.
    WhoSent {
        /// Which packets.
        filter: FlowFilter,
    },
    /// The flows, in pages, and last what is kept at all.
    Flows {
        /// Which.
        filter: FlowFilter,
        /// Only so many, the newest, at most [`MAX_NEWEST`].
        last: Option<u32>,
    },
}

/// The most flows that can be asked for as the newest.
pub const MAX_NEWEST: u32 = 100_000;

/// A command to run in a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The slice.
    pub slice: String,
    /// The command and its arguments; empty for the slice's login shell.
    pub argv: Vec<String>,
    /// Variables set beside the capsule's own (`TERM`, `LANG`, …).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A pseudo-terminal of this size inside the capsule; its master comes back over the session socket.
    pub tty: Option<WindowSize>,
    /// How the slice's user came here, if by ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// A socket inside the capsule for the client's ssh agent; the listening end comes back over the session socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent: bool,
}

/// What the login shell tells about an ssh login. Only sshd starts processes with a slice's UID outside its capsule,
/// and its command line says the key; so it is believed from that UID, and from root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The fingerprint of the key that opened the connection, as `ssh-keygen -l` prints it.
    pub key: String,
    /// The client's address, as `SSH_CONNECTION` has it.
    pub from: Option<String>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What `plabd` answers. One reply ends a request, but for a followed [`Request::Events`] and [`Request::Flows`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<NodeStatus>),
    /// Done; the message says what was done, for a person.
    Done {
        /// One line.
        message: String,
    },
    /// To [`Request::Exec`]: the session socket was handed to the capsule.
    Started,
    /// One event of [`Request::Events`].
    Event(Event),
    /// To [`Request::Events`] without `follow`, and to a followed one before the first new event.
    Events {
        /// Oldest first.
        events: Vec<Event>,
    },
    /// To [`Request::Usage`].
    Usage {
        /// When this was read, in microseconds of the node's monotonic clock.
        at_micros: u64,
        /// One row a capsule.
        capsules: Vec<Usage>,
    },
    /// To [`Request::Boots`].
    Boots(Boots),
    /// To [`Request::Planned`].
    Planned {
        /// None if nothing is.
        plan: Option<Plan>,
    },
    /// To [`Request::Ports`].
    Ports {
        /// The node's own, then by slice, each in the order of its file.
        ports: Vec<PortStatus>,
    },
    /// To [`Request::Bandwidth`].
    Bandwidth(Bandwidth),
    /// To [`Request::OptOuts`].
    OptOuts(OptOuts),
    /// To [`Request::Sessions`].
    Sessions {
        /// Oldest first.
        sessions: Vec<SessionStatus>,
    },
    /// To [`Request::WhoSent`].
    WhoSent(WhoSent),
    /// To [`Request::Flows`], as many as are needed.
    Flows(FlowPage),
    /// The end of the answer to [`Request::Flows`].
    FlowsKept(FlowsKept),
    /// The request was refused or failed.
    Error(ErrorReply),
}

/// A refusal or failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was tried, on what, what the kernel said, what to do. May hold several lines.
    pub message: String,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The client speaks another version.
    Version,
    /// The request could not be read.
    Malformed,
    /// The caller's UID may not ask this.
    Denied,
    /// No such slice, or none that the caller may see.
    NoSuchSlice,
    /// The definition was refused.
    BadDefinition,
    /// Not in the slice's present state (a command in a frozen capsule, say).
    WrongState,
    /// Too many connections or sessions.
    Busy,
    /// It was tried and failed.
    Failed,
}

/// The node, and the slices that the caller may see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// `plabd`'s version.
    pub version: String,
    /// Features that the node file allows to be missing and that are missing.
    pub degraded: Vec<String>,
    /// What is wrong with the node itself: a full disk, a clock that is not believed.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The present boot; absent from an older plabd.
    #[serde(default)]
    pub boot: Option<BootSummary>,
    /// The reboot, or the switching off, that is to come.
    #[serde(default)]
    pub planned: Option<Plan>,
    /// What is kept of flows; only for root, and absent from an older plabd.
    #[serde(default)]
    pub flows: Option<FlowsKept>,
    /// Definitions that are not in effect, with the reason.
    pub refused: Vec<RefusedDefinition>,
    /// One entry a slice, by name.
    pub slices: Vec<SliceStatus>,
}

/// A definition that is not in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedDefinition {
    /// The file.
    pub file: String,
    /// One message an error, each naming file, line, key, what was read, what was expected.
    pub errors: Vec<String>,
}

/// Where a slice's capsule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SliceState {
    /// Accepted; the capsule is being made.
    Starting,
    /// Made, read back, hooks begun.
    Running,
    /// Every process stopped by the freezer.
    Frozen,
    /// `stop` runs, or the grace period, or the kill.
    Stopping,
    /// Not running on purpose (drained).
    Stopped,
    /// The lease has ended; storage is kept until the definition goes.
    Expired,
    /// It could not be made, or it died; `detail` says why.
    Failed,
    /// The definition is gone; storage is being removed.
    Removing,
}

impl SliceState {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Removing => "removing",
        }
    }
}

/// One slice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SliceStatus {
    /// Its name.
    pub name: String,
    /// UID and GID of everything it owns.
    pub uid: u32,
    /// Where it stands.
    pub state: SliceState,
    /// Why, when that needs saying.
    pub detail: Option<String>,
    /// The first line that its `status` printed last; the slice's own words, so escape before showing.
    pub status_line: Option<String>,
    /// Whether that `status` exited with 0; none when there is none.
    pub status_ok: Option<bool>,
    /// What happened to each hook, by name.
    pub hooks: BTreeMap<String, String>,
    /// PID of capsule-init in the node's PID namespace.
    pub pid: Option<u32>,
    /// When this capsule was started, RFC 3339.
    pub since: Option<String>,
    /// End of the lease, RFC 3339.
    pub expires: Option<String>,
    /// Whom to ask about it.
    pub contact: String,
    /// Bytes of memory charged.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Microseconds of CPU time used since this capsule started.
    pub cpu_micros: Option<u64>,
    /// What this capsule has sent and got since it was made.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// What it was refused on the network since then.
    #[serde(default)]
    pub network_refused: Option<NetworkRefused>,
    /// The ports that are its own, as in its definition: `tcp/8080`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Errors in a newer definition that is not in effect.
    pub pending_errors: Vec<String>,
    /// What was asked and what is in force, layer by layer; only with `verify`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<VerifyRow>,
}

/// Packets, and bytes from the network header on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets that left.
    pub packets_out: u64,
    /// Bytes that left.
    pub bytes_out: u64,
    /// Packets that came.
    pub packets_in: u64,
    /// Bytes that came.
    pub bytes_in: u64,
}

/// Packets and calls that were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRefused {
    /// To a prefix that opted out.
    pub opt_out: u64,
    /// Binding or sending from a port that is not its own.
    pub port: u64,
    /// To a service of the node's.
    pub local: u64,
    /// Of a kind that no capsule may have.
    pub other: u64,
}

/// One thing the kernel holds a capsule to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRow {
    /// `cgroup`, `namespaces`, `view`, `privileges`, `landlock`, `seccomp`, `network`.
    pub layer: String,
    /// What is limited, such as `memory.max`.
    pub what: String,
    /// What was asked.
    pub asked: String,
    /// What the kernel says.
    pub in_force: String,
    /// Whether the two agree.
    pub ok: bool,
    /// The file or call that told.
    pub source: String,
}

/// One thing that happened on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises by one an event; kept over restarts of `plabd`.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// The slice it is about; none for the node.
    pub slice: Option<String>,
    /// A stable name such as `capsule-started`.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// For people. May quote a slice's own words: escape before showing.
    pub message: String,
}

/// How much an event matters; the names are syslog's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Normal.
    Info,
    /// Normal but worth a look.
    Notice,
    /// A slice's trouble.
    Warning,
    /// The node's trouble.
    Error,
}

/// A command or shell that a client runs in a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The sequence number of the event that tells of its beginning.
    pub id: u64,
    /// The slice.
    pub slice: String,
    /// Who opened it: `root`, or the slice.
    pub by: String,
    /// How they came, if by ssh.
    pub login: Option<Login>,
    /// The comment of that key in the definition, mostly its owner's name.
    pub key_comment: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// The command's words; empty for the login shell. May be cut.
    pub command: Vec<String>,
    /// When it began, RFC 3339, UTC.
    pub since: String,
    /// PID of the client in the node's PID namespace; the session ends with it.
    pub pid: Option<u32>,
}

/// What one capsule uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The slice.
    pub name: String,
    /// Where it stands.
    pub state: SliceState,
    /// Microseconds of CPU time since the capsule started.
    pub cpu_micros: u64,
    /// CPU limit in microseconds a 100 ms period; none for no limit.
    pub cpu_max_micros: Option<u64>,
    /// Bytes of memory charged.
    pub memory: u64,
    /// Limit in bytes.
    pub memory_max: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Limit.
    pub tasks_max: u64,
    /// What it has sent and got since it was made; none where packets are not counted.
    pub traffic: Option<Traffic>,
}
