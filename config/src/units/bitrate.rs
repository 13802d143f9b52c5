//! Network rates.

use std::fmt;
use std::str::FromStr;

use super::{serde_as_text, split_digits};
use crate::ValueError;

/// What a rate looks like, for error messages.
pub(crate) const EXPECTED: &str = "a rate such as \"10Mbit\"";

/// What can be a limit: below the first a packet takes seconds, above the second no interface goes.
const LEAST: BitRate = BitRate(8_000);
const MOST: BitRate = BitRate(1_000_000_000_000);

/// Units in bits per second, largest first. Decimal, as everywhere in networking.
const UNITS: [(&str, u64); 4] = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("Kbit", 1_000), ("bit", 1)];

/// A network rate in bits per second (6.1 and 6.4: outgoing bandwidth limits).
///
/// Written `"500Kbit"`, `"10Mbit"`, `"1Gbit"` with powers of 1000, or `"9600bit"`; never without its unit and
/// never zero, because a rate of nothing is the absence of a grant and is said that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(u64);

impl BitRate {
    /// A rate in bits per second.
    ///
    /// # Errors
    /// Zero.
    pub fn from_bits_per_second(bits: u64) -> Result<Self, ValueError> {
        if bits == 0 { Err(ValueError::because(EXPECTED, "a rate is not zero")) } else { Ok(Self(bits)) }
    }

    /// The rate, if something can be limited to it.
    ///
    /// # Errors
    /// It is below `8Kbit` or above `1000Gbit`.
    pub fn as_limit(self) -> Result<Self, ValueError> {
        if (LEAST..=MOST).contains(&self) {
            Ok(self)
        } else {
            Err(ValueError::expected(format!("a rate from \"{LEAST}\" to \"{MOST}\"")))
        }
    }

    /// The rate in bits per second.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for BitRate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (digits, unit) = split_digits(text);
        if digits.is_empty() {
            return Err(ValueError::expected(EXPECTED));
        }
        let (_, scale) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| ValueError::because(EXPECTED, "the units are bit, Kbit, Mbit and Gbit"))?;
        digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(*scale))
            .ok_or_else(|| ValueError::because(EXPECTED, "more bits than 64 bits can count"))
            .and_then(Self::from_bits_per_second)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) =
            UNITS.iter().find(|(_, scale)| self.0.is_multiple_of(*scale)).copied().unwrap_or(("bit", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

serde_as_text!(BitRate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1000() {
        for (text, bits) in
            [("9600bit", 9_600), ("500Kbit", 500_000), ("10Mbit", 10_000_000), ("1Gbit", 1_000_000_000)]
        {
            let rate = BitRate(bits);
            assert_eq!(text.parse(), Ok(rate), "{text}");
            assert_eq!(rate.bits_per_second(), bits);
        }
        assert_eq!(BitRate(1_500_000).to_string(), "1500Kbit");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in
            ["", "10", "10M", "10Mbps", "10MBit", "10mbit", "0Mbit", "1.5Mbit", "-1bit", "18446744074Gbit"]
        {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }
}
