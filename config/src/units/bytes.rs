//! Sizes of memory and storage.

use std::fmt;
use std::str::FromStr;

use super::{serde_as_text, split_digits};
use crate::ValueError;

/// What a size looks like, for error messages.
pub(crate) const EXPECTED: &str = "a size such as \"256M\"";

/// Unit letters with the power of 1024 each stands for, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A number of bytes, as in the memory and storage limits of a capsule (4.5).
///
/// Written `"512K"`, `"256M"`, `"1G"`, `"1T"` with powers of 1024 (`"256MiB"` means the same), or as a plain
/// number of bytes. Decimal spellings such as `MB` are refused, because half of their users mean 1024.
/// Printed in the largest unit that is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

impl Bytes {
    /// A size in bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size in units of 1024 × 1024 bytes. No count overflows.
    pub const fn mebi(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (digits, unit) = split_digits(text);
        if digits.is_empty() {
            return Err(ValueError::expected(EXPECTED));
        }
        let shift = match unit {
            "" => 0,
            _ => UNITS
                .iter()
                .find(|(letter, _)| unit.strip_prefix(*letter).is_some_and(|rest| matches!(rest, "" | "iB")))
                .map(|(_, shift)| *shift)
                .ok_or_else(|| {
                    ValueError::because(EXPECTED, "the units are K, M, G and T, or KiB, MiB, GiB and TiB")
                })?,
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| ValueError::because(EXPECTED, "more bytes than 64 bits can count"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{letter}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

serde_as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("512K", 512 << 10),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("1G", 1 << 30),
            ("1T", 1 << 40),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in
            ["", "M", "-1", "+1", "1.5G", "256 M", "256m", "256MB", "256B", "1P", "16777216T", "1MM", "٣"]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_the_largest_exact_unit() {
        for (bytes, text) in
            [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1K"), (1536, "1536"), (3 << 29, "1536M")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
