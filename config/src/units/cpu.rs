//! Shares and ceilings of processor time.

use std::fmt;
use std::str::FromStr;

use super::{serde_as_text, split_digits};
use crate::ValueError;

/// What a quota looks like, for error messages.
pub(crate) const QUOTA_EXPECTED: &str = "a share of one cpu from \"1%\" to \"6400%\"";
/// What a weight looks like, for error messages.
pub(crate) const WEIGHT_EXPECTED: &str = "a whole number from 1 to 10000";

/// The most processor time a capsule may use, as a percentage of one CPU: `"50%"` is half of one, `"150%"`
/// one and a half (4.3; cgroup v2's `cpu.max`).
///
/// From 1 % to 6400 %, with at most three decimals, since the kernel counts whole microseconds and one
/// thousandth of a percent of the period is one. Below 1 % the kernel's own rounding would decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuQuota {
    micros: u32,
}

impl CpuQuota {
    /// The period over which the quota is counted, in microseconds; the kernel's own default.
    pub const PERIOD_MICROS: u32 = 100_000;

    const MIN_MICROS: u32 = Self::PERIOD_MICROS / 100;
    const MAX_MICROS: u32 = Self::PERIOD_MICROS * 64;
    const MICROS_PER_PERCENT: u32 = Self::PERIOD_MICROS / 100;

    /// A quota of so many microseconds of processor time in each period.
    ///
    /// # Errors
    /// Below 1 % or above 6400 % of one CPU.
    pub fn from_micros_per_period(micros: u32) -> Result<Self, ValueError> {
        if (Self::MIN_MICROS..=Self::MAX_MICROS).contains(&micros) {
            Ok(Self { micros })
        } else {
            Err(ValueError::expected(QUOTA_EXPECTED))
        }
    }

    /// Microseconds of processor time that may be used in each period of [`Self::PERIOD_MICROS`].
    pub const fn micros_per_period(self) -> u32 {
        self.micros
    }
}

impl FromStr for CpuQuota {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::expected(QUOTA_EXPECTED);
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let (whole, rest) = split_digits(number);
        let thousandths = match rest.strip_prefix('.') {
            None if rest.is_empty() => 0,
            Some(digits) if (1..=3).contains(&digits.len()) && split_digits(digits).1.is_empty() => {
                // "5" means 500 thousandths, "05" means 50.
                let scale = 10_u32.pow(3 - digits.len() as u32);
                digits.parse::<u32>().map_err(|_| error())? * scale
            }
            Some(digits) if digits.len() > 3 && split_digits(digits).1.is_empty() => {
                return Err(ValueError::because(QUOTA_EXPECTED, "no more than three decimals"));
            }
            _ => return Err(error()),
        };
        whole
            .parse::<u32>()
            .ok()
            .and_then(|percent| percent.checked_mul(Self::MICROS_PER_PERCENT)?.checked_add(thousandths))
            .ok_or_else(error)
            .and_then(Self::from_micros_per_period)
    }
}

impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, thousandths) =
            (self.micros / Self::MICROS_PER_PERCENT, self.micros % Self::MICROS_PER_PERCENT);
        if thousandths == 0 {
            return write!(f, "{percent}%");
        }
        let decimals = format!("{thousandths:03}");
        write!(f, "{percent}.{}%", decimals.trim_end_matches('0'))
    }
}

serde_as_text!(CpuQuota);

/// How much processor time a capsule gets when several want it, relative to the others (4.3; cgroup v2's
/// `cpu.weight`): from 1 to 10000, 100 unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct CpuWeight(u16);

impl CpuWeight {
    /// A weight.
    ///
    /// # Errors
    /// Not from 1 to 10000.
    pub fn new(weight: u32) -> Result<Self, ValueError> {
        match u16::try_from(weight) {
            Ok(weight @ 1..=10_000) => Ok(Self(weight)),
            _ => Err(ValueError::expected(WEIGHT_EXPECTED)),
        }
    }

    /// The weight as cgroup v2 counts it.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

impl Default for CpuWeight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u32> for CpuWeight {
    type Error = ValueError;

    fn try_from(weight: u32) -> Result<Self, ValueError> {
        Self::new(weight)
    }
}

impl From<CpuWeight> for u32 {
    fn from(weight: CpuWeight) -> u32 {
        weight.get()
    }
}

impl FromStr for CpuWeight {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError::expected(WEIGHT_EXPECTED)).and_then(Self::new)
    }
}

impl fmt::Display for CpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_of_one_cpu() {
        for (text, micros) in [
            ("1%", 1_000),
            ("50%", 50_000),
            ("150%", 150_000),
            ("12.5%", 12_500),
            ("1.05%", 1_050),
            ("6400%", 6_400_000),
        ] {
            assert_eq!(text.parse::<CpuQuota>().map(CpuQuota::micros_per_period), Ok(micros), "{text}");
            assert_eq!(text.parse::<CpuQuota>().map(|q| q.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn quotas_out_of_range_or_form_are_refused() {
        for text in [
            "",
            "%",
            "50",
            "0%",
            "0.999%",
            "6400.001%",
            "4294967296%",
            "-5%",
            ".5%",
            "5.%",
            "5.1234%",
            "5,5%",
            "50 %",
            "+5%",
        ] {
            assert!(text.parse::<CpuQuota>().is_err(), "{text}");
        }
    }

    #[test]
    fn weights_have_the_kernels_range() {
        assert_eq!(CpuWeight::default().get(), 100);
        assert!(CpuWeight::new(0).is_err());
        assert!(CpuWeight::new(1).is_ok());
        assert!(CpuWeight::new(10_000).is_ok());
        assert!(CpuWeight::new(10_001).is_err());
        assert!(CpuWeight::new(65_536 + 5).is_err());
    }
}
