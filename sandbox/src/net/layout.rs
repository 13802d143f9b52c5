//! The maps' structures, as `bpf/state.h` has them.

use std::net::IpAddr;

use plab_config::{IpPrefix, Transport};

/// Ports are nobody's.
pub(super) const OWNER_NOBODY: u32 = 0;
/// Ports are the node's.
pub(super) const OWNER_NODE: u32 = 0xffff_ffff;
/// Ports are the node's, and capsules may reach them.
pub(super) const OWNER_NODE_OPEN: u32 = 0xffff_fffe;

/// It has ports of SCTP.
const CAPSULE_SCTP: u32 = 1;
/// It may have raw sockets of ICMP, of ICMP for IPv6.
const CAPSULE_RAW_ICMP: u32 = 2;
const CAPSULE_RAW_ICMP6: u32 = 4;

/// Structures of whole numbers without padding, as bytes.
pub(super) trait Plain: Copy {
    /// Its bytes in the machine's order.
    fn bytes(self) -> Vec<u8>;
}

/// `struct node`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    pub(super) ephemeral: (u16, u16),
    pub(super) opt_outs: (u32, u32),
}

impl NodeState {
    /// Bytes of the structure.
    pub(super) const SIZE: usize = 12;

    /// The structure of these bytes.
    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { ephemeral: (half(0), half(2)), opt_outs: (word(4), word(8)) }
    }
}

impl Plain for NodeState {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        bytes.extend(self.ephemeral.0.to_ne_bytes());
        bytes.extend(self.ephemeral.1.to_ne_bytes());
        bytes.extend(self.opt_outs.0.to_ne_bytes());
        bytes.extend(self.opt_outs.1.to_ne_bytes());
        bytes
    }
}

/// What the programs know of one capsule: `struct capsule`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapsuleState {
    /// The slice's UID: by it ports are property.
    pub uid: u32,
    /// The traffic class of its packets, `major:minor` as in tc(8), high half and low; 0 for none.
    pub classid: u32,
    /// Whether it has ports of SCTP, and so may have its sockets.
    pub sctp: bool,
    /// Whether it may have raw sockets of ICMP.
    pub raw_icmp: bool,
    /// Whether it may have raw sockets of ICMP for IPv6.
    pub raw_icmp6: bool,
}

impl CapsuleState {
    /// Bytes of the structure.
    pub(super) const SIZE: usize = 16;

    /// The structure of these bytes.
    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [a, b, c, _] = words(bytes);
        let has = |flag: u32| c & flag != 0;
        Self {
            uid: a,
            classid: b,
            sctp: has(CAPSULE_SCTP),
            raw_icmp: has(CAPSULE_RAW_ICMP),
            raw_icmp6: has(CAPSULE_RAW_ICMP6),
        }
    }
}

impl Plain for CapsuleState {
    fn bytes(self) -> Vec<u8> {
        let flags = [
            (self.sctp, CAPSULE_SCTP),
            (self.raw_icmp, CAPSULE_RAW_ICMP),
            (self.raw_icmp6, CAPSULE_RAW_ICMP6),
        ];
        let flags = flags.into_iter().filter(|(has, _)| *has).fold(0, |all, (_, flag)| all | flag);
        [self.uid, self.classid, flags, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
    }
    words
}

/// What a slice was refused since its capsule was made, in packets and calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// To a prefix that opted out.
    pub opt_out: u64,
    /// Binding or sending from a port that is not its own.
    pub port: u64,
    /// To a service of the node's.
    pub local: u64,
    /// A socket, an option or a packet of a kind that no capsule may have.
    pub other: u64,
}

impl Refusals {
    /// Bytes of the structure.
    pub(super) const SIZE: usize = 32;

    /// The structure of these bytes.
    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let mut counts = [0; 4];
        for (count, eight) in counts.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(eight);
            *count = u64::from_ne_bytes(word);
        }
        let [opt_out, port, local, other] = counts;
        Self { opt_out, port, local, other }
    }
}

/// The index of a port in the array of owners.
pub(super) fn port_index(transport: Transport, port: u16) -> u32 {
    let class = match transport {
        Transport::Tcp => 0,
        Transport::Udp => 1,
        Transport::Sctp => 2,
        Transport::UdpLite => 3,
    };
    class << 16 | u32::from(port)
}

/// The key of a prefix in its list: `struct prefix4` or `struct prefix6`, the address in the network's order.
pub(super) fn prefix_key(prefix: IpPrefix) -> Vec<u8> {
    let mut key = u32::from(prefix.length()).to_ne_bytes().to_vec();
    match prefix.address() {
        IpAddr::V4(v4) => key.extend(v4.octets()),
        IpAddr::V6(v6) => key.extend(v6.octets()),
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_in_c() {
        let node = NodeState { ephemeral: (32_768, 60_999), opt_outs: (3, 1) };
        assert_eq!(NodeState::from_bytes(node.bytes().try_into().expect("12 bytes")), node);
        let state =
            CapsuleState { uid: 70_001, classid: 0x0001_0010, sctp: true, raw_icmp: true, raw_icmp6: false };
        let bytes: [u8; CapsuleState::SIZE] = state.bytes().try_into().expect("16 bytes");
        assert_eq!(CapsuleState::from_bytes(bytes), state);
        assert_eq!(prefix_key("192.0.2.0/24".parse().expect("a prefix")).len(), 8);
        assert_eq!(prefix_key("2001:db8::/32".parse().expect("a prefix")).len(), 20);
    }

    #[test]
    fn ports_of_protocols_do_not_meet() {
        assert_eq!(port_index(Transport::Tcp, 80), 80);
        assert_eq!(port_index(Transport::UdpLite, 65_535), (4 << 16) - 1);
    }
}
