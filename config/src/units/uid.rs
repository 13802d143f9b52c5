//! User IDs of slices.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{serde_as_text, split_digits};
use crate::ValueError;

/// What a range looks like, for error messages.
pub(crate) const EXPECTED: &str = "a range of user ids such as \"70000-99999\"";

/// The user ID of one slice, equal to its group ID (4.4: a capsule runs without privilege).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Uid(u32);

impl Uid {
    /// A user ID. Whether a slice may have it is decided by [`UidRange`].
    pub const fn new(uid: u32) -> Self {
        Self(uid)
    }

    /// The number the kernel knows.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Uid {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // `u32::from_str` takes a leading plus sign; the kernel's tools do not.
        match split_digits(text) {
            (digits, "") => digits.parse().map(Self).map_err(|_| ValueError::expected("a user id")),
            _ => Err(ValueError::expected("a user id")),
        }
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who else uses which user IDs on a Debian system with systemd. A slice that shared one with any of these
/// could signal its processes and read its files.
const TAKEN: [(RangeInclusive<u32>, &str); 5] = [
    (0..=999, "0-999 are root's and the system users'"),
    (1_000..=60_513, "1000-60513 are login users'"),
    (61_184..=65_519, "61184-65519 are systemd's dynamic users'"),
    (65_534..=65_535, "65534 is nobody's and 65535 stands for no user"),
    (100_000..=u32::MAX, "100000 and above are subordinate ids of users and containers"),
];

/// The user IDs that a node gives to its slices, one each; both ends belong to it.
///
/// Written `"70000-99999"`. Ranges that meet IDs which Debian or systemd give to someone else are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UidRange {
    first: Uid,
    last: Uid,
}

impl UidRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    /// Backwards, or meeting IDs that are not the node's to give.
    pub fn new(first: Uid, last: Uid) -> Result<Self, ValueError> {
        if first > last {
            return Err(ValueError::because(EXPECTED, "the first is larger than the last"));
        }
        match TAKEN.iter().find(|(taken, _)| first.0 <= *taken.end() && *taken.start() <= last.0) {
            Some((_, whose)) => Err(ValueError::because(EXPECTED, *whose)),
            None => Ok(Self { first, last }),
        }
    }

    /// The first user ID of the range.
    pub const fn first(self) -> Uid {
        self.first
    }

    /// The last user ID of the range.
    pub const fn last(self) -> Uid {
        self.last
    }

    /// Whether `uid` is one of the range.
    pub fn contains(self, uid: Uid) -> bool {
        self.first <= uid && uid <= self.last
    }

    /// How many slices the range has room for; at least 1.
    pub const fn count(self) -> u32 {
        self.last.0 - self.first.0 + 1
    }

    /// The user IDs of the range in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Uid> {
        (self.first.0..=self.last.0).map(Uid)
    }
}

impl Default for UidRange {
    fn default() -> Self {
        Self { first: Uid(70_000), last: Uid(99_999) }
    }
}

impl FromStr for UidRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::expected(EXPECTED);
        let (first, last) = text.split_once('-').ok_or_else(error)?;
        Self::new(first.parse().map_err(|_| error())?, last.parse().map_err(|_| error())?)
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

serde_as_text!(UidRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_is_free() {
        let default = UidRange::default();
        assert_eq!(UidRange::new(default.first(), default.last()), Ok(default));
        assert_eq!(default.to_string().parse(), Ok(default));
        assert_eq!(default.count(), 30_000);
        assert_eq!(default.iter().count(), 30_000);
        assert!(default.contains(Uid(70_000)) && default.contains(Uid(99_999)));
        assert!(!default.contains(Uid(69_999)) && !default.contains(Uid(100_000)));
    }

    #[test]
    fn ranges_of_others_are_refused() {
        for text in [
            "0-99999",
            "999-70000",
            "1000-2000",
            "61000-61184",
            "65519-65533",
            "65530-65534",
            "70000-100000",
            "200000-300000",
            "80000-70000",
            "70000",
            "70000-",
            "-70000",
            "+70000-80000",
            "70000 - 80000",
            "70000-4294967296",
        ] {
            assert!(text.parse::<UidRange>().is_err(), "{text}");
        }
        assert!("65536-99999".parse::<UidRange>().is_ok());
    }
}
