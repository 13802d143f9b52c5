//! How much the node and its slices may send and receive, and where nothing may be sent.

use serde::{Deserialize, Serialize};

/// The answer to `plab bandwidth`. Rates are in bits per second, with the headers of the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// The most that all together send.
    pub out: Limit,
    /// The most that all together receive.
    #[serde(rename = "in")]
    pub incoming: Limit,
    /// The interfaces on which something is limited now.
    pub interfaces: Vec<String>,
    /// Interfaces that the node file names and that are not there.
    pub absent: Vec<String>,
    /// Why not everything is in force that should be; then no capsule is started.
    pub problem: Option<String>,
    /// What was received since there is a limit for it; none if there is none.
    pub received: Option<Counts>,
    /// The node's own traffic, then the slices by name.
    pub classes: Vec<ClassStatus>,
}

/// A limit of the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// In bits per second; none for no limit.
    pub rate: Option<u64>,
    /// Where that comes from.
    pub origin: Origin,
}

/// Who has said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The node file, or its silence.
    NodeFile,
    /// Root, while plabd ran.
    Live,
}

impl Origin {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NodeFile => "node file",
            Self::Live => "set live",
        }
    }
}

/// One traffic class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassStatus {
    /// The slice; none for what is no capsule's.
    pub slice: Option<String>,
    /// As in tc(8): `major:minor`, both hexadecimal.
    pub class: String,
    /// The slice's own limit, from its definition, in bits per second.
    pub rate: Option<u64>,
    /// What it has sent since something is limited; none while nothing is.
    pub sent: Option<Counts>,
}

/// What went through a class, on all interfaces together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Bytes, with the headers of the link.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were dropped, because too many waited.
    pub drops: u64,
    /// How often it had to wait for its limit.
    pub overlimits: u64,
    /// Bytes that wait now.
    pub backlog: u64,
}

/// The answer to `plab opt-out`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOuts {
    /// By address.
    pub prefixes: Vec<OptOut>,
    /// The slices that have tried to send to any of them, by name.
    pub refused: Vec<OptOutRefusals>,
}

/// A prefix to which no capsule may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOut {
    /// The prefix: `192.0.2.0/24`.
    pub prefix: String,
    /// Where it comes from; of both, the node file.
    pub origin: Origin,
}

/// What a slice was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptOutRefusals {
    /// The slice.
    pub slice: String,
    /// Packets, and attempts to connect, since its capsule was made.
    pub count: u64,
}
