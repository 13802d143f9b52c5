//! A flow record as the kernel's ring delivers it: one fixed layout that the BPF program and this crate share.
//!
//! A record is what one flow did **since its last record**: the counts are differences, so records of one flow are added up
//! and none has to be looked for. A flow has a record when it ends or is evicted, and a long one has some in between; the first
//! carries [`FIRST`], the last [`LAST`]. If the ring is full, the kernel's side keeps its counts for the next record
//! where it can, and counts the record as lost where it cannot.
//!
//! A flow is known by its cgroup, protocol, both addresses and ports, and the time at which it began.

use std::net::{IpAddr, Ipv6Addr};

/// The version of the layout.
pub const VERSION: u16 = 1;
/// Bytes of one record.
pub const SIZE: usize = 120;
/// In `flags`: no record of this flow came before.
pub const FIRST: u16 = 1;
/// In `flags`: the flow has ended.
pub const LAST: u16 = 2;

/// The layout, in the machine's byte order, without padding. 16 bytes, nine times 8 bytes, two addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFlow {
    /// [`VERSION`].
    pub version: u16,
    /// [`SIZE`].
    pub size: u16,
    /// [`FIRST`], [`LAST`].
    pub flags: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// The capsule's port in host byte order; for ICMP the echo's identifier; 0 where there is none.
    pub local_port: u16,
    /// The other's port in host byte order; for ICMP `type << 8 | code`; 0 where there is none.
    pub remote_port: u16,
    /// 0.
    pub reserved: u32,
    /// ID of the capsule's cgroup, as `bpf_skb_cgroup_id` has it.
    pub cgroup: u64,
    /// When the flow began, in nanoseconds of CLOCK_BOOTTIME.
    pub start: u64,
    /// When what this record tells began: `start`, or after the flow's last record.
    pub since: u64,
    /// The last packet's time.
    pub last: u64,
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
    /// The capsule's address; an IPv4 address in the first four bytes, then zeroes.
    pub local: [u8; 16],
    /// The other's.
    pub remote: [u8; 16],
}

const _: () = assert!(size_of::<RawFlow>() == SIZE);

/// What of packets and bytes a flow has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Packets that left.
    pub packets_out: u64,
    /// Bytes that left.
    pub bytes_out: u64,
    /// Packets that came.
    pub packets_in: u64,
    /// Bytes that came.
    pub bytes_in: u64,
    /// Packets that were not let out.
    pub refused: u64,
}

/// A record that was understood. Times are in milliseconds of CLOCK_BOOTTIME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The capsule's cgroup.
    pub cgroup: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The capsule's address.
    pub local: IpAddr,
    /// The capsule's port.
    pub local_port: u16,
    /// The other's address.
    pub remote: IpAddr,
    /// The other's port.
    pub remote_port: u16,
    /// The flow's first record.
    pub first: bool,
    /// The flow's last record.
    pub ended: bool,
    /// When the flow began.
    pub start: u64,
    /// When what the record tells began.
    pub since: u64,
    /// The last packet's time.
    pub last: u64,
    /// What was moved from then on.
    pub counts: Counts,
}

/// Why a record is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short, too long, or it says another size than it has.
    #[error("a flow record of {0} bytes; {SIZE} were expected")]
    Size(usize),
    /// Another layout.
    #[error("a flow record of version {0}; this release reads version {VERSION}")]
    Version(u16),
    /// A field has a value that it cannot have.
    #[error("a flow record with a wrong {0}")]
    Field(&'static str),
}

/// No counter of a flow reaches this; sums of many stay within 64 bits.
const MOST: u64 = 1 << 53;

impl Flow {
    /// Reads a record.
    ///
    /// # Errors
    /// It has another size or version, or is in contradiction with itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let raw = RawFlow::from_bytes(bytes)?;
        if raw.version != VERSION {
            return Err(RecordError::Version(raw.version));
        }
        if usize::from(raw.size) != SIZE {
            return Err(RecordError::Size(raw.size.into()));
        }
        let wrong = |field| Err(RecordError::Field(field));
        if raw.reserved != 0 {
            return wrong("reserved field");
        }
        if raw.flags & !(FIRST | LAST) != 0 {
            return wrong("flag");
        }
        if raw.since < raw.start || raw.last < raw.since {
            return wrong("order of times");
        }
        let counts = [raw.packets_out, raw.bytes_out, raw.packets_in, raw.bytes_in, raw.refused];
        if counts.iter().any(|&count| count > MOST) {
            return wrong("count");
        }
        let (local, remote) = (address(raw.family, raw.local)?, address(raw.family, raw.remote)?);
        Ok(Self {
            cgroup: raw.cgroup,
            protocol: raw.protocol,
            local,
            local_port: raw.local_port,
            remote,
            remote_port: raw.remote_port,
            first: raw.flags & FIRST != 0,
            ended: raw.flags & LAST != 0,
            start: raw.start / 1_000_000,
            since: raw.since / 1_000_000,
            last: raw.last / 1_000_000,
            counts: Counts {
                packets_out: raw.packets_out,
                bytes_out: raw.bytes_out,
                packets_in: raw.packets_in,
                bytes_in: raw.bytes_in,
                refused: raw.refused,
            },
        })
    }
}

/// A complaint about an IPv4 address is about its IPv4-mapped form as well, so there is one form only.
fn address(family: u8, bytes: [u8; 16]) -> Result<IpAddr, RecordError> {
    match family {
        4 if bytes[4..] == [0; 12] => Ok(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        4 => Err(RecordError::Field("IPv4 address")),
        6 => Ok(Ipv6Addr::from(bytes).to_canonical()),
        _ => Err(RecordError::Field("address family")),
    }
}

impl RawFlow {
    /// The record's fields, unchecked.
    fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; SIZE] = bytes.try_into().map_err(|_| RecordError::Size(bytes.len()))?;
        let mut rest = &bytes[..];
        Ok(Self {
            version: u16::from_ne_bytes(take(&mut rest)),
            size: u16::from_ne_bytes(take(&mut rest)),
            flags: u16::from_ne_bytes(take(&mut rest)),
            protocol: u8::from_ne_bytes(take(&mut rest)),
            family: u8::from_ne_bytes(take(&mut rest)),
            local_port: u16::from_ne_bytes(take(&mut rest)),
            remote_port: u16::from_ne_bytes(take(&mut rest)),
            reserved: u32::from_ne_bytes(take(&mut rest)),
            cgroup: u64::from_ne_bytes(take(&mut rest)),
            start: u64::from_ne_bytes(take(&mut rest)),
            since: u64::from_ne_bytes(take(&mut rest)),
            last: u64::from_ne_bytes(take(&mut rest)),
            packets_out: u64::from_ne_bytes(take(&mut rest)),
            bytes_out: u64::from_ne_bytes(take(&mut rest)),
            packets_in: u64::from_ne_bytes(take(&mut rest)),
            bytes_in: u64::from_ne_bytes(take(&mut rest)),
            refused: u64::from_ne_bytes(take(&mut rest)),
            local: take(&mut rest),
            remote: take(&mut rest),
        })
    }

    /// The record as the ring has it.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        for field in [self.version, self.size, self.flags] {
            put(&field.to_ne_bytes());
        }
        put(&[self.protocol, self.family]);
        for port in [self.local_port, self.remote_port] {
            put(&port.to_ne_bytes());
        }
        put(&self.reserved.to_ne_bytes());
        for field in [
            self.cgroup,
            self.start,
            self.since,
            self.last,
            self.packets_out,
            self.bytes_out,
            self.packets_in,
            self.bytes_in,
            self.refused,
        ] {
            put(&field.to_ne_bytes());
        }
        put(&self.local);
        put(&self.remote);
        bytes
    }
}

/// Takes the next `N` bytes; the caller has seen to it that they are there.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_at(N);
    *rest = tail;
    let mut field = [0; N];
    field.copy_from_slice(head);
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;

    fn example() -> RawFlow {
        RawFlow {
            version: VERSION,
            size: u16::try_from(SIZE).expect("small"),
            flags: FIRST | LAST,
            protocol: 17,
            family: 4,
            local_port: 40_000,
            remote_port: 53,
            reserved: 0,
            cgroup: 4711,
            start: 5_000_000,
            since: 5_000_000,
            last: 9_000_000,
            packets_out: 1,
            bytes_out: 60,
            packets_in: 2,
            bytes_in: 120,
            refused: 3,
            local: std::array::from_fn(|i| if i < 4 { 10 } else { 0 }),
            remote: std::array::from_fn(|i| if i < 4 { 192 } else { 0 }),
        }
    }

    /// What the C program has to have as well.
    #[test]
    fn the_layout_has_no_holes() {
        assert_eq!(offset_of!(RawFlow, flags), 4);
        assert_eq!((offset_of!(RawFlow, protocol), offset_of!(RawFlow, family)), (6, 7));
        assert_eq!((offset_of!(RawFlow, local_port), offset_of!(RawFlow, remote_port)), (8, 10));
        assert_eq!((offset_of!(RawFlow, reserved), offset_of!(RawFlow, cgroup)), (12, 16));
        assert_eq!((offset_of!(RawFlow, start), offset_of!(RawFlow, packets_out)), (24, 48));
        assert_eq!((offset_of!(RawFlow, refused), offset_of!(RawFlow, local)), (80, 88));
        assert_eq!(offset_of!(RawFlow, remote), 104);
        assert_eq!(align_of::<RawFlow>(), 8);
    }

    #[test]
    fn what_is_in_contradiction_with_itself_is_refused() {
        let parse = |change: fn(&mut RawFlow)| {
            let mut raw = example();
            change(&mut raw);
            Flow::parse(&raw.to_bytes())
        };
        assert!(parse(|_| ()).is_ok());
        for (wrong, change) in [
            (RecordError::Version(2), (|raw| raw.version = 2) as fn(&mut RawFlow)),
            (RecordError::Size(64), |raw| raw.size = 64),
            (RecordError::Field("reserved field"), |raw| raw.reserved = 1),
            (RecordError::Field("flag"), |raw| raw.flags = 4),
            (RecordError::Field("order of times"), |raw| raw.last = 1),
            (RecordError::Field("order of times"), |raw| raw.since = 1),
            (RecordError::Field("count"), |raw| raw.bytes_in = u64::MAX),
            (RecordError::Field("address family"), |raw| raw.family = 5),
            (RecordError::Field("IPv4 address"), |raw| raw.remote[15] = 1),
        ] {
            assert_eq!(parse(change), Err(wrong));
        }
        let bytes = example().to_bytes();
        for len in 0..SIZE {
            assert_eq!(Flow::parse(&bytes[..len]), Err(RecordError::Size(len)));
        }
        assert!(Flow::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mapped = "::ffff:192.0.2.7".parse::<Ipv6Addr>().expect("address").octets();
        let raw = RawFlow { family: 6, remote: mapped, local: mapped, ..example() };
        assert_eq!(Flow::parse(&raw.to_bytes()).expect("flow").remote, IpAddr::from([192, 0, 2, 7]));
    }

    proptest! {
        #[test]
        fn bytes_are_read_without_a_panic_and_written_as_they_were(bytes: [u8; 60], more: [u8; 60]) {
            let bytes = [bytes, more].concat();
            let raw = RawFlow::from_bytes(&bytes).expect("of the right size");
            prop_assert_eq!(&raw.to_bytes()[..], &bytes[..]);
            // Whatever is in it.
            Flow::parse(&bytes).ok();
        }
    }
}
