//! Slice definitions: what one slice is and what it gets on this node.

mod parse;
mod write;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;
use crate::control_times::ControlTimes;
use crate::limits::{CpuLimits, MemoryLimits, TaskLimits};
use crate::names::{NodeName, SliceName};
use crate::network::Network;
use crate::ssh_keys::SshKey;
use crate::units::{Timestamp, serde_as_text};
use crate::view::ViewPath;

/// What a restart policy looks like, for error messages.
pub(crate) const RESTART_EXPECTED: &str = "\"no\" or \"on-failure\"";

/// One slice as one node sees it: who answers for it, who may log in, and what its capsule gets (1.2, 4.1–4.7).
///
/// What the file leaves out has been filled in from the node file's defaults. Two definitions are equal if they
/// ask for the same, wherever they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// The slice's name, also its account's.
    pub name: SliceName,
    /// E-mail address of whoever answers for the slice.
    pub contact: String,
    /// Who may log in; none if empty.
    pub keys: Vec<SshKey>,
    /// All nodes of the slice, this one among them.
    pub nodes: Vec<NodeEntry>,
    /// End of the slice's lease; without one it does not end. May lie in the past: then the slice has expired.
    pub expires: Option<Timestamp>,
    /// Processor time.
    pub cpu: CpuLimits,
    /// Memory.
    pub memory: MemoryLimits,
    /// Processes and threads.
    pub tasks: TaskLimits,
    /// What it sees of the node's files.
    pub view: View,
    /// Its ports and raw sockets.
    pub network: Network,
    /// Which system calls it may make.
    pub seccomp: SeccompChoice,
    /// Times for its hooks.
    pub control: ControlTimes,
    /// Whether its `start` is run again after failing.
    pub restart: RestartPolicy,
    /// Where the definition was read; not part of what it says.
    #[serde(skip)]
    pub origin: Origin,
}

/// Where a definition was read. All origins are equal, so that a definition that only moved is no other definition.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The file; empty if it was none.
    pub file: PathBuf,
    /// The line of the `name` key, from 1; 0 if it was not read from a text.
    pub name_line: usize,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// One node of a slice (4.8: a slice knows all its nodes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeEntry {
    /// The node's DNS name.
    pub name: NodeName,
    /// Its address, where the definition says it.
    pub address: Option<IpAddr>,
}

/// What a slice asks to see beside the system directories.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct View {
    /// Directories and files of the node, read-only, each allowed by the node file.
    pub paths: Vec<ViewPath>,
}

/// Which system calls a slice may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeccompChoice {
    /// Name of the profile, safe as a file name. Whether there is such a profile is not known here.
    pub profile: String,
}

impl Default for SeccompChoice {
    fn default() -> Self {
        Self { profile: "default".to_owned() }
    }
}

/// Whether the node runs `start` again when it failed. The specification imposes no policy (4.7), so there is
/// none unless a slice asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RestartPolicy {
    /// A service that ended has ended: `"no"`.
    #[default]
    No,
    /// It is run again if it ended with a failure: `"on-failure"`.
    OnFailure,
}

impl RestartPolicy {
    /// The policy as a definition writes it.
    pub const fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure => "on-failure",
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        [Self::No, Self::OnFailure]
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| ValueError::expected(RESTART_EXPECTED))
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

serde_as_text!(RestartPolicy);

/// What it takes to go from one definition of a slice to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// They say the same.
    None,
    /// The running capsule can be changed without its services noticing more than new limits.
    Live,
    /// The capsule has to be stopped and started, because of these keys.
    Restart(Vec<&'static str>),
}

impl Definition {
    /// What it takes to make a capsule of this definition one of `new`.
    ///
    /// Limits, keys, ports and times can be changed under a running capsule. Its view and its system call filter cannot:
    /// mounts and filters are inherited, and the kernel lets nobody loosen them.
    pub fn changes_live(&self, new: &Definition) -> ChangeKind {
        let fixed = [
            ("name", self.name != new.name),
            ("view", self.view != new.view),
            ("seccomp", self.seccomp != new.seccomp),
        ];
        let changed: Vec<_> = fixed.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect();
        if !changed.is_empty() {
            ChangeKind::Restart(changed)
        } else if self != new {
            ChangeKind::Live
        } else {
            ChangeKind::None
        }
    }
}
