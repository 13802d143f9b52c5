//! What a node's configuration may say: the node file, slice definitions, and what is wrong with them.
//!
//! A [`NodeFile`] describes one machine; a [`Definition`] describes one slice on it, read from TOML with every
//! mistake told by file, line and key ([`ConfigError`]); a [`DefinitionSet`] holds the definitions of a directory
//! and settles conflicts between them. Nothing here touches the kernel: whether a machine can keep what a
//! definition asks for is decided by the sandbox.

mod bandwidth;
mod contact;
mod control_times;
mod definition;
mod error;
mod etc;
mod feature;
mod from_toml;
mod limits;
mod names;
mod nearest;
mod network;
mod node_file;
mod paths;
mod profile_name;
mod reader;
pub mod seccomp;
mod set;
mod shown;
mod ssh_keys;
mod text;
pub mod units;
mod value_error;
mod view;

pub use bandwidth::{InterfaceName, NodeBandwidth};
pub use control_times::ControlTimes;
pub use definition::{ChangeKind, Definition, NodeEntry, Origin, RestartPolicy, SeccompChoice, View};
pub use error::{ConfigError, ErrorKind};
pub use etc::EtcEntry;
pub use feature::Feature;
pub use limits::{CpuLimits, MemoryLimits, TaskLimits};
pub use names::{NodeName, SliceName};
pub use network::{Network, NodeNetwork, RawProtocol};
pub use node_file::{Audit, Defaults, FlowRetention, LandlockNeed, NodeFile, NodeView};
pub use paths::AbsolutePath;
pub use set::{DefinitionSet, Outcome};
pub use ssh_keys::SshKey;
pub use text::{MAX_TEXT, read_text};
pub use units::{
    BitRate, Bytes, CpuQuota, CpuWeight, IpPrefix, PortRange, TaskCount, TimeSpan, Timestamp, Transport, Uid,
    UidRange,
};
pub use value_error::ValueError;
pub use view::ViewPath;
