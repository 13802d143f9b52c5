//! Who sent what to whom: the questions, and the shapes of their answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The most rows of one [`FlowPage`]: with the longest of names they fit a line of the protocol.
pub const PAGE: usize = 2000;

/// The most senders of an answer.
pub const MAX_SENDERS: usize = 2000;

/// Which flows a question is about; all of what is given has to be so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Of this slice, also if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// To these addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<AddressRange>,
    /// To this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
    /// From this port of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<u16>,
    /// IP protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Going on at this time or later, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Going on at this time or earlier, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Addresses that have their first `bits` bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// One of them.
    pub address: IpAddr,
    /// At most 32, or 128.
    pub bits: u8,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets that left.
    pub packets_out: u64,
    /// Bytes that left, from the network header on.
    pub bytes_out: u64,
    /// Packets that came.
    pub packets_in: u64,
    /// Bytes that came.
    pub bytes_in: u64,
    /// Packets that were not let out.
    pub refused: u64,
}

/// One slice's part in the answer to "who sent".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The slice; none if the node did not know whose the packets were.
    pub slice: Option<String>,
    /// Its UID then.
    pub uid: Option<u32>,
    /// Its contact then.
    pub contact: Option<String>,
    /// Whether a slice of this name and UID is on the node now.
    pub present: bool,
    /// Flows, at least 1.
    pub flows: u64,
    /// What they moved.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// When the earliest began, RFC 3339.
    pub first: String,
    /// The latest packet, RFC 3339.
    pub last: String,
}

/// The answer to "who sent".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoSent {
    /// Most packets first; at most [`MAX_SENDERS`].
    pub senders: Vec<Sender>,
    /// Further ones.
    pub more: u64,
    /// What the node has to answer from.
    pub kept: FlowsKept,
}

/// One flow, or a part of one that lasted long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The slice; none if the node did not know whose the packets were.
    pub slice: Option<String>,
    /// Its UID then.
    pub uid: Option<u32>,
    /// Its contact then.
    pub contact: Option<String>,
    /// The kernel's ID of the capsule's cgroup: another each time the capsule came up.
    pub cgroup: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The node's address.
    pub local: IpAddr,
    /// The node's port; for ICMP the echo's identifier.
    pub local_port: u16,
    /// The other's address.
    pub remote: IpAddr,
    /// The other's port; for ICMP the type times 256 and the code.
    pub remote_port: u16,
    /// When the flow began, RFC 3339.
    pub first: String,
    /// When this part of it began; as `first` for all but parts of long flows.
    pub since: String,
    /// The last packet of it, RFC 3339.
    pub last: String,
    /// Whether the flow has ended with it.
    pub ended: bool,
    /// What it moved.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Some of the flows, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPage {
    /// At most [`PAGE`].
    pub flows: Vec<FlowRecord>,
}

/// What the node has of flows, and what it has not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowsKept {
    /// The earliest record, RFC 3339; none if there is none.
    pub first: Option<String>,
    /// The latest.
    pub last: Option<String>,
    /// Records.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records lost because the kernel's ring was full, in the time that was asked about; so are the three below.
    pub lost_kernel: u64,
    /// Records lost on the way to disk.
    pub lost_store: u64,
    /// Records that were not understood.
    pub unread: u64,
    /// How often writing ended without order; each time the last seconds may be missing.
    pub torn: u64,
    /// Whether times may be wrong, because the clock was not believed.
    pub clock_doubted: bool,
    /// What cannot be read or written, for people.
    pub problems: Vec<String>,
}
