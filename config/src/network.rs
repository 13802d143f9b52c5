//! What of the network a slice may have, and what a node keeps for itself.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;
use crate::bandwidth::read_rate;
use crate::reader::{Item, Section};
use crate::units::{BitRate, IpPrefix, PortRange, Transport, serde_as_text};

/// What a raw protocol looks like, for error messages.
pub(crate) const RAW_EXPECTED: &str = "one of icmp, icmpv6, udp, tcp";

/// The most ranges that one list may have: what a kernel table and a person can go through.
const MOST_RANGES: usize = 256;

/// The most prefixes that an opt-out list may have.
const MOST_PREFIXES: usize = 4096;

/// A protocol for which a slice may ask for raw sockets (3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RawProtocol {
    /// ICMP over IPv4.
    Icmp,
    /// ICMP over IPv6.
    Icmpv6,
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl RawProtocol {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Icmp, Self::Icmpv6, Self::Udp, Self::Tcp];

    /// The name in `raw`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl FromStr for RawProtocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == text)
            .ok_or_else(|| ValueError::expected(RAW_EXPECTED))
    }
}

impl fmt::Display for RawProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

serde_as_text!(RawProtocol);

/// What a slice has of the network (4.11): nothing but ports from the ephemeral range unless said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Network {
    /// The ports that are its property. No two of them overlap.
    pub ports: Vec<PortRange>,
    /// The raw sockets it may open.
    pub raw: Vec<RawProtocol>,
    /// The most that it sends, as long as others leave it that much; the node's cap if `None`.
    pub rate: Option<BitRate>,
}

/// What a node keeps for itself of the network, and what it keeps its slices from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeNetwork {
    /// Ports that no slice can be given; ssh and DHCP unless said.
    pub own_ports: Vec<PortRange>,
    /// Services of the node that capsules may reach at the node's own addresses; none unless said.
    pub open_loopback: Vec<PortRange>,
    /// Where no capsule may send anything; nowhere unless said.
    pub opt_out: Vec<IpPrefix>,
}

impl Default for NodeNetwork {
    fn default() -> Self {
        const fn port(transport: Transport, number: u16) -> PortRange {
            match std::num::NonZeroU16::new(number) {
                Some(number) => PortRange::one(transport, number),
                None => panic!("no port"),
            }
        }
        const OWN: [PortRange; 3] =
            [port(Transport::Tcp, 22), port(Transport::Udp, 68), port(Transport::Udp, 546)];
        Self { own_ports: OWN.to_vec(), open_loopback: Vec::new(), opt_out: Vec::new() }
    }
}

impl Network {
    /// Reads the table of a definition.
    pub(crate) fn read(network: &mut Section<'_, '_>) -> Self {
        let ports = network.take("ports").map(|list| read_ports(&list)).unwrap_or_default();
        let raw = network.take("raw").map(|list| read_raw(&list)).unwrap_or_default();
        let rate = network.take("rate").as_ref().and_then(read_rate);
        Self { ports, raw, rate }
    }
}

impl NodeNetwork {
    /// Reads the table of a node file.
    pub(crate) fn read(network: &mut Section<'_, '_>) -> Self {
        let base = Self::default();
        let own_ports = network.take("own_ports").map(|list| read_ports(&list));
        let open_loopback = network.take("open_loopback").map(|list| read_ports(&list));
        let opt_out = network.take("opt_out").map(|list| read_prefixes(&list));
        Self {
            own_ports: own_ports.unwrap_or(base.own_ports),
            open_loopback: open_loopback.unwrap_or(base.open_loopback),
            opt_out: opt_out.unwrap_or(base.opt_out),
        }
    }
}

fn read_ports(list: &Item<'_, '_>) -> Vec<PortRange> {
    let Some(items) = bounded(list, "a list of ports such as \"tcp/8080\"", MOST_RANGES) else {
        return Vec::new();
    };
    let mut ports: Vec<PortRange> = Vec::new();
    for item in &items {
        let Some(range) = item.read::<PortRange>() else { continue };
        match ports.iter().find_map(|above| Some((above.overlap(range)?, above))) {
            None => ports.push(range),
            Some((both, above)) => {
                let reason = format!("\"{above}\" stands above and has {both}, too");
                item.reject(&ValueError::because("each port once", reason));
            }
        }
    }
    ports
}

fn read_raw(list: &Item<'_, '_>) -> Vec<RawProtocol> {
    let Some(items) = bounded(list, "a list of protocols such as \"icmp\"", RawProtocol::ALL.len()) else {
        return Vec::new();
    };
    items.iter().filter_map(Item::read).collect()
}

fn read_prefixes(list: &Item<'_, '_>) -> Vec<IpPrefix> {
    let Some(items) = bounded(list, "a list of prefixes such as \"192.0.2.0/24\"", MOST_PREFIXES) else {
        return Vec::new();
    };
    items.iter().filter_map(Item::read).collect()
}

/// The elements of a list that is not too long.
fn bounded<'d, 't>(list: &Item<'d, 't>, expected: &'static str, most: usize) -> Option<Vec<Item<'d, 't>>> {
    let items = list.elements(expected)?;
    if items.len() > most {
        list.reject_reading(
            &format!("{} entries", items.len()),
            &ValueError::expected(format!("at most {most}; ranges such as \"tcp/8000-8099\" take one")),
        );
        return None;
    }
    Some(items)
}
