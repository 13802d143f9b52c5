//! Points in time.

use std::fmt;
use std::str::FromStr;

use super::serde_as_text;
use crate::ValueError;

/// What a point in time looks like, for error messages.
pub(crate) const EXPECTED: &str = "a date and time such as 2027-01-31T00:00:00Z";

/// A point in time, such as the end of a slice's lease: RFC 3339 with its offset, kept and printed as UTC.
///
/// A time without an offset is refused: nodes stand in many time zones, and a lease ends everywhere at once
/// (a slice spans nodes, 1.2). From 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The present, as the node's clock has it.
    pub fn now() -> Self {
        // A clock before 1970 or past 9999 is no clock; the nearest time there is serves as well.
        Self(jiff::Timestamp::now().max(jiff::Timestamp::UNIX_EPOCH))
    }

    /// A time as whole seconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// Before 1970 or after 9999.
    pub fn from_second(second: i64) -> Result<Self, ValueError> {
        jiff::Timestamp::from_second(second).map_err(|_| out_of_range()).and_then(Self::try_from)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// The time as jiff has it.
    pub const fn get(self) -> jiff::Timestamp {
        self.0
    }
}

fn out_of_range() -> ValueError {
    ValueError::because(EXPECTED, "outside of the years 1970 to 9999")
}

impl TryFrom<jiff::Timestamp> for Timestamp {
    type Error = ValueError;

    fn try_from(time: jiff::Timestamp) -> Result<Self, ValueError> {
        if time < jiff::Timestamp::UNIX_EPOCH { Err(out_of_range()) } else { Ok(Self(time)) }
    }
}

impl TryFrom<&toml::value::Datetime> for Timestamp {
    type Error = ValueError;

    fn try_from(read: &toml::value::Datetime) -> Result<Self, ValueError> {
        match (&read.date, &read.time, &read.offset) {
            (Some(_), Some(_), Some(_)) => read.to_string().parse(),
            (Some(_), Some(_), None) => {
                Err(ValueError::because(EXPECTED, "the offset is missing; add Z for utc"))
            }
            (Some(_), None, _) => Err(ValueError::because(EXPECTED, "the time of day is missing")),
            _ => Err(ValueError::because(EXPECTED, "the date is missing")),
        }
    }
}

impl FromStr for Timestamp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse::<jiff::Timestamp>().map_err(|_| ValueError::expected(EXPECTED)).and_then(Self::try_from)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_text!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_utc() {
        let time: Timestamp = "2027-01-31T02:00:00+02:00".parse().expect("has its offset");
        assert_eq!(time.to_string(), "2027-01-31T00:00:00Z");
        assert_eq!(Timestamp::from_second(time.as_second()), Ok(time));
    }

    #[test]
    fn times_out_of_range_are_refused() {
        assert!(Timestamp::from_second(-1).is_err());
        assert!(Timestamp::from_second(i64::MAX).is_err());
        assert!("2027-01-31T00:00:00".parse::<Timestamp>().is_err());
    }
}
