//! What a node may lack and still run, if its administrator says so.

use std::fmt;
use std::str::FromStr;

use crate::ValueError;
use crate::units::serde_as_text;

/// What a feature name looks like, for error messages.
pub(crate) const EXPECTED: &str = "one of memory.high, memory.swap, memory.oom-group, landlock.scope, \
                                   landlock.ioctl, network.bpf, network.untracked, audit";

/// Something the design promises that some kernels or machines cannot give.
///
/// Without it no capsule starts, unless the node file's `degrade` names it; then capsules start and the node says
/// everywhere that it is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// `memory.high`: slowing a capsule before its hard limit; cgroup v1 has no such knob.
    MemoryHigh,
    /// `memory.swap`: keeping a capsule out of swap; needs the kernel's swap accounting.
    MemorySwap,
    /// `memory.oom-group`: killing a capsule as a whole when its memory runs out; cgroup v1 kills one process.
    MemoryOomGroup,
    /// `landlock.scope`: no abstract sockets and signals across the capsule's border by Landlock; ABI 6.
    LandlockScope,
    /// `landlock.ioctl`: no ioctl on devices that were not granted; Landlock ABI 5.
    LandlockIoctl,
    /// `network.bpf`: ports and opt-outs held by BPF programs on the capsules' cgroup; without it Landlock's rules on
    /// TCP ports are all there is (ABI 4).
    NetworkBpf,
    /// `network.untracked`: no firewall that tracks connections sees what raw sockets send before the programs refuse it.
    /// Asked only of definitions with `raw`.
    NetworkUntracked,
    /// `audit`: the syslog that the audit trail goes to can be reached.
    Audit,
}

impl Feature {
    /// All features there are.
    pub const ALL: [Feature; 8] = [
        Feature::MemoryHigh,
        Feature::MemorySwap,
        Feature::MemoryOomGroup,
        Feature::LandlockScope,
        Feature::LandlockIoctl,
        Feature::NetworkBpf,
        Feature::NetworkUntracked,
        Feature::Audit,
    ];

    /// The name in `degrade`.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::MemoryHigh => "memory.high",
            Feature::MemorySwap => "memory.swap",
            Feature::MemoryOomGroup => "memory.oom-group",
            Feature::LandlockScope => "landlock.scope",
            Feature::LandlockIoctl => "landlock.ioctl",
            Feature::NetworkBpf => "network.bpf",
            Feature::NetworkUntracked => "network.untracked",
            Feature::Audit => "audit",
        }
    }
}

impl FromStr for Feature {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|feature| feature.name() == text)
            .ok_or_else(|| ValueError::expected(EXPECTED))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

serde_as_text!(Feature);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_message_lists_them_all() {
        let names: Vec<_> = Feature::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(EXPECTED, format!("one of {}", names.join(", ")));
        for feature in Feature::ALL {
            assert_eq!(feature.name().parse(), Ok(feature));
        }
    }
}
