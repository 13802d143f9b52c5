//! The maps' structures, as `bpf/state.h` has them.

use std::net::IpAddr;

use plab_config::{IpPrefix, Transport};

use super::raw::RawSockets;

/// Ports are nobody's.
pub(super) const OWNER_NOBODY: u32 = 0;
/// Ports are the node's.
pub(super) const OWNER_NODE: u32 = 0xffff_ffff;
/// Ports are the node's, and capsules may reach them.
pub(super) const OWNER_NODE_OPEN: u32 = 0xffff_fffe;

/// Slots for flows in one of the two sets.
pub(super) const SLOTS: usize = 32_768;
/// Bytes of one, `struct flow`.
pub(super) const SLOT_SIZE: usize = 128;
/// Capsules that the programs can know at a time.
pub(super) const CAPSULES: u32 = 8192;

/// It has ports of SCTP.
const CAPSULE_SCTP: u32 = 1;
/// It was born with CAP_NET_RAW.
const CAPSULE_NET_RAW: u32 = 8;

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
    /// The raw sockets that it may have.
    pub raw: RawSockets,
}

/// `struct capsule`: a capsule's state, and where its traffic is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CapsuleEntry {
    pub(super) state: CapsuleState,
    /// Below [`CAPSULES`]; no other capsule has it.
    pub(super) index: u32,
    /// It was born with CAP_NET_RAW, and has it until it ends.
    pub(super) net_raw: bool,
}

impl CapsuleEntry {
    /// Bytes of the structure.
    pub(super) const SIZE: usize = 24;

    /// The structure of these bytes. What the programs note for themselves is passed over.
    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let has = |flag: u32| word(8) & flag != 0;
        let state = CapsuleState {
            uid: word(0),
            classid: word(4),
            sctp: has(CAPSULE_SCTP),
            raw: RawSockets::from_flags(word(8)),
        };
        Self { state, index: word(12), net_raw: has(CAPSULE_NET_RAW) }
    }
}

impl Plain for CapsuleEntry {
    fn bytes(self) -> Vec<u8> {
        let CapsuleState { uid, classid, sctp, raw } = self.state;
        let flag = |has: bool, flag: u32| if has { flag } else { 0 };
        let flags = flag(sctp, CAPSULE_SCTP) | flag(self.net_raw, CAPSULE_NET_RAW) | raw.flags();
        [uid, classid, flags, self.index, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}

/// What a capsule has sent and got since it was made, from the network header on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

impl Traffic {
    /// Bytes of the structure.
    pub(super) const SIZE: usize = 32;

    /// The sum of the processors' copies.
    pub(super) fn sum(copies: &[u8]) -> Self {
        let mut sum = [0_u64; 4];
        for copy in copies.chunks_exact(Self::SIZE) {
            for (total, count) in sum.iter_mut().zip(numbers::<4>(copy)) {
                *total = total.wrapping_add(count);
            }
        }
        let [packets_out, bytes_out, packets_in, bytes_in] = sum;
        Self { packets_out, bytes_out, packets_in, bytes_in }
    }
}

/// The first numbers of 64 bits in `bytes`.
pub(super) fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut numbers = [0; N];
    for (number, eight) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(eight);
        *number = u64::from_ne_bytes(word);
    }
    numbers
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
        let [opt_out, port, local, other] = numbers(&bytes);
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
    use plab_config::RawProtocol;

    use super::*;

    #[test]
    fn structures_are_as_large_as_in_c() {
        let shapes = crate::net::object::shapes().expect("the object");
        let shape = |name: &str| {
            let found = shapes.iter().find(|(full, _)| full.ends_with(&format!("_{name}")));
            found.map(|(_, shape)| (shape.key as usize, shape.value as usize, shape.entries as usize))
        };
        for (name, key, value, entries) in [
            ("node", 4, NodeState::SIZE, 1),
            ("capsules", 8, CapsuleEntry::SIZE, CAPSULES as usize),
            ("refusals", 4, Refusals::SIZE, CAPSULES as usize),
            ("owners", 4, 8, 4 << 16),
            ("opt_out4", prefix_key("192.0.2.0/24".parse().expect("a prefix")).len(), 4, 65_536),
            ("opt_out6", prefix_key("2001:db8::/32".parse().expect("a prefix")).len(), 4, 65_536),
            ("turns", 4, crate::net::flows::TURNS_SIZE, 1),
            ("flows", 4, SLOT_SIZE, 2 * SLOTS),
            ("lost", 4, 8, 1),
            ("traffic", 4, Traffic::SIZE, CAPSULES as usize),
            ("addresses", 16, 4, 16_384),
            ("echo_take", 4, 8, 32_768),
            ("changes", 4, 8, 1),
            ("raws", 8, 8, CAPSULES as usize),
        ] {
            assert_eq!(shape(name), Some((key, value, entries)), "{name}");
        }
        // Nobody but the programs reads these.
        let theirs = ["live", "known", "echo_ids", "echo_sent", "held_tcp", "holding", "raw_of"];
        assert!(theirs.into_iter().all(|name| shape(name).is_some()), "{shapes:?}");
        assert_eq!(shapes.len(), 14 + theirs.len(), "{shapes:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let node = NodeState { ephemeral: (32_768, 60_999), opt_outs: (3, 1) };
        assert_eq!(NodeState::from_bytes(node.bytes().try_into().expect("12 bytes")), node);
        let state = CapsuleState {
            uid: 70_001,
            classid: 0x0001_0010,
            sctp: true,
            raw: [RawProtocol::Icmp, RawProtocol::Tcp].into_iter().collect(),
        };
        let entry = CapsuleEntry { state, index: 7, net_raw: true };
        let bytes: [u8; CapsuleEntry::SIZE] = entry.bytes().try_into().expect("24 bytes");
        assert_eq!(CapsuleEntry::from_bytes(bytes), entry);
        let copies: Vec<u8> =
            [1_u64, 2, 3, 4, 10, 20, 30, 40].into_iter().flat_map(u64::to_ne_bytes).collect();
        let sum = Traffic { packets_out: 11, bytes_out: 22, packets_in: 33, bytes_in: 44 };
        assert_eq!(Traffic::sum(&copies), sum);
    }

    #[test]
    fn ports_of_protocols_do_not_meet() {
        assert_eq!(port_index(Transport::Tcp, 80), 80);
        assert_eq!(port_index(Transport::UdpLite, 65_535), (4 << 16) - 1);
    }
}
