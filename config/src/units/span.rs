//! Lengths of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{serde_as_text, split_digits};
use crate::ValueError;

/// What a length of time looks like, for error messages.
pub(crate) const EXPECTED: &str = "a time such as \"10s\" or \"1h30m\"";

/// Units in milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A length of time in whole milliseconds, as in the time limits of hooks (4.7).
///
/// Written `"500ms"`, `"10s"`, `"2m"`, `"1h30m"`: units `d`, `h`, `m`, `s`, `ms`, each at most once, the larger
/// before the smaller. A number without a unit is refused, because seconds and milliseconds look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan {
    millis: u64,
}

impl TimeSpan {
    /// A length of time in milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// A length of time in seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        Self { millis: seconds as u64 * 1_000 }
    }

    /// The length in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// The length as the standard library has it.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

impl From<TimeSpan> for Duration {
    fn from(span: TimeSpan) -> Duration {
        span.get()
    }
}

impl FromStr for TimeSpan {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::expected(EXPECTED));
        }
        let mut millis = 0_u64;
        let mut rest = text;
        let mut units = &UNITS[..];
        while !rest.is_empty() {
            let (digits, after) = split_digits(rest);
            let unit_end = after.bytes().position(|b| b.is_ascii_digit()).unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            if digits.is_empty() {
                return Err(ValueError::expected(EXPECTED));
            }
            if unit.is_empty() {
                return Err(ValueError::because(EXPECTED, "the unit is missing"));
            }
            let Some(index) = units.iter().position(|(name, _)| *name == unit) else {
                return Err(ValueError::because(
                    EXPECTED,
                    "the units are d, h, m, s and ms, each at most once, the larger first",
                ));
            };
            millis = digits
                .parse::<u64>()
                .ok()
                .and_then(|count| count.checked_mul(units[index].1)?.checked_add(millis))
                .ok_or_else(|| ValueError::because(EXPECTED, "too long to count"))?;
            units = &units[index + 1..];
            rest = next;
        }
        Ok(Self { millis })
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        let mut left = self.millis;
        for (name, scale) in UNITS {
            if left >= scale {
                write!(f, "{}{name}", left / scale)?;
                left %= scale;
            }
        }
        Ok(())
    }
}

serde_as_text!(TimeSpan);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1d1ms", 86_400_001),
            ("90m", 5_400_000),
        ] {
            assert_eq!(text.parse(), Ok(TimeSpan { millis }), "{text}");
        }
        assert_eq!(TimeSpan::from_secs(5_400).to_string(), "1h30m");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "1m1h",
            "1s1s",
            "1.5s",
            "-1s",
            "1w",
            "99999999999999999999s",
            "213503982335d",
        ] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }
}
