//! Ports of transport protocols, as definitions and node files write them.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::serde_as_text;
use crate::ValueError;

/// What a range looks like, for error messages.
pub(crate) const EXPECTED: &str = "a port or a range such as \"tcp/8080\" or \"udp/33434-33523\"";

/// A transport protocol whose ports are a property of slices.
///
/// MPTCP is TCP on the wire and has TCP's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP, and MPTCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// UDP-Lite (RFC 3828), whose ports are not UDP's.
    UdpLite,
}

impl Transport {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::UdpLite];

    /// The name before the slash.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::UdpLite => "udplite",
        }
    }

    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::UdpLite => 136,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Consecutive ports of one protocol, both ends included: `tcp/8080`, `udp/33434-33523`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    transport: Transport,
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// One port.
    pub const fn one(transport: Transport, port: NonZeroU16) -> Self {
        Self { transport, first: port, last: port }
    }

    /// The protocol.
    pub const fn transport(self) -> Transport {
        self.transport
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first.get()
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last.get()
    }

    /// Every port of it.
    pub fn ports(self) -> impl Iterator<Item = NonZeroU16> {
        (self.first()..=self.last()).filter_map(NonZeroU16::new)
    }

    /// What the two have in common.
    pub fn overlap(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.transport == other.transport && first <= last).then_some(Self {
            transport: self.transport,
            first,
            last,
        })
    }

    /// What of it is not in the other: nothing, or one or two ranges.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let rests = match self.overlap(other) {
            None => [Some((self.first(), self.last())), None],
            Some(both) => [
                (self.first < both.first).then(|| (self.first(), both.first() - 1)),
                (both.last < self.last).then(|| (both.last() + 1, self.last())),
            ],
        };
        rests.into_iter().flatten().filter_map(move |(first, last)| {
            let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
            Some(Self { transport: self.transport, first, last })
        })
    }
}

impl FromStr for PortRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason: &'static str| Err(ValueError::because(EXPECTED, reason));
        let Some((name, ports)) = text.split_once('/') else {
            return wrong("the protocol is missing");
        };
        let Some(transport) = Transport::ALL.into_iter().find(|transport| transport.name() == name) else {
            return wrong("the protocols are tcp (which MPTCP is, too), udp, sctp and udplite");
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            digits.parse::<NonZeroU16>().ok().filter(|_| plain)
        };
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return wrong("ports are from 1 to 65535");
        };
        if first > last {
            return wrong("the first is larger than the last");
        }
        Ok(Self { transport, first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}/{}", self.transport, self.first)
        } else {
            write!(f, "{}/{}-{}", self.transport, self.first, self.last)
        }
    }
}

serde_as_text!(PortRange);

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> PortRange {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["tcp/80", "udp/33434-33523", "sctp/9000", "udplite/1-65535"] {
            assert_eq!(range(text).to_string(), text);
        }
        assert_eq!(range("tcp/80-80").to_string(), "tcp/80");
        assert_eq!(range("udp/7-9").ports().map(NonZeroU16::get).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(range("tcp/65535").ports().count(), 1);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "80",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/+80",
            "tcp/080",
            "tcp/90-80",
            "tcp/80-",
            "tcp/-80",
            "tcp/80,81",
            "TCP/80",
            "dccp/80",
            "mptcp/80",
            "tcp/ 80",
            "tcp/1-2-3",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn overlaps_are_within_one_protocol() {
        let overlap = |a: &str, b: &str| range(a).overlap(range(b)).map(|both| both.to_string());
        assert_eq!(overlap("tcp/80-90", "tcp/85-95"), Some("tcp/85-90".to_owned()));
        assert_eq!(overlap("tcp/80", "tcp/80"), Some("tcp/80".to_owned()));
        assert_eq!(overlap("tcp/80", "udp/80"), None);
        assert_eq!(overlap("tcp/80-84", "tcp/85-95"), None);
    }
}
