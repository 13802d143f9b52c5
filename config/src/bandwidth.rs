//! How much of a link a node and its slices may use.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;
use crate::reader::{Item, Section};
use crate::units::{BitRate, serde_as_text};

/// What an interface's name looks like, for error messages.
pub(crate) const INTERFACE_EXPECTED: &str = "the name of a network interface such as \"eth0\"";

/// The most interfaces that a node can name.
const MOST_INTERFACES: usize = 16;

/// The name of a network interface: up to 15 bytes, as the kernel has them. Not `lo`: what stays on the machine is not
/// limited.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
        if text == "lo" {
            return Err(ValueError::because(INTERFACE_EXPECTED, "what stays on the machine is not limited"));
        }
        if !(1..=15).contains(&text.len()) || !text.bytes().all(plain) || text == "." || text == ".." {
            return Err(ValueError::expected(INTERFACE_EXPECTED));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(InterfaceName);

/// What the site lets its node use of the link, all slices and the node's own traffic together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NodeBandwidth {
    /// The most that it sends; no limit if `None`.
    pub out: Option<BitRate>,
    /// The most that it receives; no limit if `None`.
    pub incoming: Option<BitRate>,
    /// On each of these interfaces; on those of the default routes if there are none.
    pub interfaces: BTreeSet<InterfaceName>,
}

impl NodeBandwidth {
    /// Reads the table of a node file.
    pub(crate) fn read(bandwidth: &mut Section<'_, '_>) -> Self {
        let out = bandwidth.take("out").as_ref().and_then(read_rate);
        let incoming = bandwidth.take("in").as_ref().and_then(read_rate);
        let interfaces = bandwidth.take("interfaces").map(|list| read_interfaces(&list)).unwrap_or_default();
        Self { out, incoming, interfaces }
    }
}

/// A rate that something can be limited to.
pub(crate) fn read_rate(item: &Item<'_, '_>) -> Option<BitRate> {
    let rate: BitRate = item.read()?;
    match rate.as_limit() {
        Ok(rate) => Some(rate),
        Err(error) => {
            item.reject(&error);
            None
        }
    }
}

fn read_interfaces(list: &Item<'_, '_>) -> BTreeSet<InterfaceName> {
    let Some(items) = list.elements("a list of network interfaces such as \"eth0\"") else {
        return BTreeSet::new();
    };
    if items.len() > MOST_INTERFACES {
        let expected = ValueError::expected(format!("at most {MOST_INTERFACES}"));
        list.reject_reading(&format!("{} entries", items.len()), &expected);
    }
    items.iter().filter_map(Item::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for text in ["eth0", "enp0s31f6", "br-0123456789ab", "wg0.7"] {
            assert_eq!(text.parse::<InterfaceName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "lo", ".", "..", "a/b", "eth0:1", "a b", "0123456789abcdef", "eth\u{1b}"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text}");
        }
    }
}
