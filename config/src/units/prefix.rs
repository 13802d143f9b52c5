//! Prefixes of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::serde_as_text;
use crate::ValueError;

/// What a prefix looks like, for error messages.
pub(crate) const EXPECTED: &str = "a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"";

/// Addresses that begin with the same bits: `192.0.2.0/24`. A single address may stand without its length.
///
/// A v6 prefix of v4-mapped addresses is refused: the packets that it would mean are v4's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// The first address of it.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of the address count: 0 to 32 for v4, to 128 for v6.
    pub const fn length(self) -> u8 {
        self.length
    }
}

fn first_of(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for IpPrefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::expected(EXPECTED);
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(digits) => {
                let plain =
                    digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
                digits.parse::<u8>().ok().filter(|length| plain && *length <= longest).ok_or_else(wrong)?
            }
        };
        let first = first_of(address, length);
        if first != address {
            return Err(ValueError::because(
                EXPECTED,
                format!("with a length of {length} it is \"{first}/{length}\""),
            ));
        }
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(ValueError::because(EXPECTED, "such packets are v4's: write the v4 prefix"));
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

serde_as_text!(IpPrefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0", "192.0.2.7/32"] {
            assert_eq!(text.parse::<IpPrefix>().map(|prefix| prefix.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            "192.0.2.7".parse::<IpPrefix>().map(|prefix| prefix.to_string()),
            Ok("192.0.2.7/32".to_owned())
        );
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "/24",
            "192.0.2.0/33",
            "192.0.2.1/24",
            "192.0.2/24",
            "::1/129",
            "2001:db8::1/32",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "::ffff:192.0.2.1/128",
            "1.0.0.0/08",
        ] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
        let error = "192.0.2.1/24".parse::<IpPrefix>().expect_err("host bits");
        assert!(error.to_string().contains("\"192.0.2.0/24\""), "{error}");
    }
}
