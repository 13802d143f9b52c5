//! What the kernel holds capsules to on the network that they share: ports as property, opt-outs, the node's services out
//! of reach, rates.
//!
//! The programs (`bpf/`) are attached to the cgroup above every capsule's and live as long as it does: neither plabd's end
//! nor a new plabd leaves a moment without them. What they know of each capsule and each port is in maps, which the
//! programs hold; the next plabd finds them through the programs.

mod addresses;
mod btf;
mod call;
mod flows;
mod guard;
mod layout;
mod object;
mod owners;
mod raw;
mod reserved;
mod rtnetlink;
mod shaping;
mod sockets;
mod tc;
mod tracking;
mod words;

pub use flows::{FlowTap, RECORD_SIZE};
pub use guard::{Closed, NetworkGuard};
pub use layout::{CapsuleState, Refusals, Traffic};
pub use raw::RawSockets;
pub use reserved::ReservedPorts;
pub use shaping::{ClassId, Plan, Shaper, TrafficCounts};
pub use sockets::{InetSocket, SocketTable};
pub use tc::ClassCounts;
pub use tracking::Tracking;
