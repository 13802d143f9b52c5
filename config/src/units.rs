//! Quantities as definitions write them: each has one unit notation with one meaning.
//!
//! PlanetLab's own code had one limit in bytes, blocks and KiB in three places; here a quantity is a type,
//! and its text form says its unit. Every type parses what it prints.

mod bitrate;
mod bytes;
mod cpu;
mod port;
mod prefix;
mod span;
mod tasks;
mod timestamp;
mod uid;

pub(crate) use bitrate::EXPECTED as BIT_RATE_EXPECTED;
pub(crate) use bytes::EXPECTED as BYTES_EXPECTED;
pub(crate) use cpu::{QUOTA_EXPECTED as CPU_QUOTA_EXPECTED, WEIGHT_EXPECTED as CPU_WEIGHT_EXPECTED};
pub(crate) use port::EXPECTED as PORT_RANGE_EXPECTED;
pub(crate) use prefix::EXPECTED as IP_PREFIX_EXPECTED;
pub(crate) use span::EXPECTED as TIME_SPAN_EXPECTED;
pub(crate) use tasks::EXPECTED as TASK_COUNT_EXPECTED;
pub(crate) use timestamp::EXPECTED as TIMESTAMP_EXPECTED;
pub(crate) use uid::EXPECTED as UID_RANGE_EXPECTED;

pub use bitrate::BitRate;
pub use bytes::Bytes;
pub use cpu::{CpuQuota, CpuWeight};
pub use port::{PortRange, Transport};
pub use prefix::IpPrefix;
pub use span::TimeSpan;
pub use tasks::TaskCount;
pub use timestamp::Timestamp;
pub use uid::{Uid, UidRange};

/// Gives a type with `Display` and `FromStr` its text as serialised form, both ways.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// Splits `text` into its leading ASCII digits and what follows them.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}
