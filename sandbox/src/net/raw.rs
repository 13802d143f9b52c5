//! Which raw sockets a capsule may have, as the programs have it (`bpf/state.h`).

use std::fmt;

use plab_config::RawProtocol;

/// The protocols of raw sockets that a slice was granted (3.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawSockets(u32);

/// `CAPSULE_RAW_*`.
fn flag(protocol: RawProtocol) -> u32 {
    match protocol {
        RawProtocol::Icmp => 2,
        RawProtocol::Icmpv6 => 4,
        RawProtocol::Udp => 16,
        RawProtocol::Tcp => 32,
    }
}

impl FromIterator<RawProtocol> for RawSockets {
    fn from_iter<I: IntoIterator<Item = RawProtocol>>(protocols: I) -> Self {
        Self(protocols.into_iter().fold(0, |flags, protocol| flags | flag(protocol)))
    }
}

impl RawSockets {
    /// Whether there are none.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their bits of a capsule's flags.
    pub(super) fn flags(self) -> u32 {
        self.0
    }

    /// Those whose bits are set.
    pub(super) fn from_flags(flags: u32) -> Self {
        RawProtocol::ALL.into_iter().filter(|protocol| flags & flag(*protocol) != 0).collect()
    }
}

impl fmt::Display for RawSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for protocol in RawProtocol::ALL.into_iter().filter(|protocol| self.0 & flag(*protocol) != 0) {
            write!(f, "{between}{protocol}")?;
            between = ",";
        }
        Ok(())
    }
}
