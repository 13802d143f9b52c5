//! What each type of value accepts of TOML's own types.

use std::net::{IpAddr, Ipv4Addr};

use toml::de::DeValue;

use crate::ValueError;
use crate::bandwidth::{self, InterfaceName};
use crate::contact::{self, Contact};
use crate::definition::{RESTART_EXPECTED, RestartPolicy};
use crate::etc::{self, EtcEntry};
use crate::feature::{self, Feature};
use crate::names::{self, NodeName, SliceName};
use crate::network::{self, RawProtocol};
use crate::paths::{self, AbsolutePath};
use crate::profile_name::{self, ProfileName};
use crate::ssh_keys::{self, SshKey};
use crate::units::{
    self, BitRate, Bytes, CpuQuota, CpuWeight, IpPrefix, PortRange, TaskCount, TimeSpan, Timestamp, UidRange,
};
use crate::view::{self, ViewPath};

/// A value that a configuration file can hold.
pub(crate) trait FromToml: Sized {
    /// What it looks like in a file, for error messages.
    const EXPECTED: &'static str;

    /// The value, if `read` is one.
    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError>;
}

/// Types that files hold as strings.
macro_rules! from_string {
    ($($type:ty: $expected:expr;)*) => {
        $(impl FromToml for $type {
            const EXPECTED: &'static str = $expected;

            fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
                read.as_str().ok_or_else(|| ValueError::expected(Self::EXPECTED))?.parse()
            }
        })*
    };
}

from_string! {
    AbsolutePath: paths::EXPECTED;
    BitRate: units::BIT_RATE_EXPECTED;
    Contact: contact::EXPECTED;
    CpuQuota: units::CPU_QUOTA_EXPECTED;
    EtcEntry: etc::EXPECTED;
    Feature: feature::EXPECTED;
    InterfaceName: bandwidth::INTERFACE_EXPECTED;
    IpPrefix: units::IP_PREFIX_EXPECTED;
    NodeName: names::NODE_EXPECTED;
    PortRange: units::PORT_RANGE_EXPECTED;
    ProfileName: profile_name::EXPECTED;
    RawProtocol: network::RAW_EXPECTED;
    RestartPolicy: RESTART_EXPECTED;
    SliceName: names::SLICE_EXPECTED;
    SshKey: ssh_keys::EXPECTED;
    TimeSpan: units::TIME_SPAN_EXPECTED;
    UidRange: units::UID_RANGE_EXPECTED;
    ViewPath: view::EXPECTED;
}

impl FromToml for Bytes {
    const EXPECTED: &'static str = units::BYTES_EXPECTED;

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        match read {
            DeValue::String(text) => text.parse(),
            _ => unsigned(read).map(Self::new).ok_or_else(|| ValueError::expected(Self::EXPECTED)),
        }
    }
}

impl FromToml for CpuWeight {
    const EXPECTED: &'static str = units::CPU_WEIGHT_EXPECTED;

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        small(read, Self::EXPECTED).and_then(Self::new)
    }
}

impl FromToml for TaskCount {
    const EXPECTED: &'static str = units::TASK_COUNT_EXPECTED;

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        small(read, Self::EXPECTED).and_then(Self::new)
    }
}

impl FromToml for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        small(read, Self::EXPECTED)
    }
}

impl FromToml for Timestamp {
    const EXPECTED: &'static str = units::TIMESTAMP_EXPECTED;

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        match read {
            DeValue::Datetime(datetime) => Self::try_from(datetime),
            DeValue::String(_) => Err(ValueError::because(Self::EXPECTED, "times stand without quotes")),
            _ => Err(ValueError::expected(Self::EXPECTED)),
        }
    }
}

impl FromToml for IpAddr {
    const EXPECTED: &'static str = "an address such as \"192.0.2.1\" or \"2001:db8::1\"";

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        read.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| ValueError::expected(Self::EXPECTED))
    }
}

impl FromToml for Ipv4Addr {
    const EXPECTED: &'static str = "an IPv4 address such as \"192.0.2.1\"";

    fn from_toml(read: &DeValue<'_>) -> Result<Self, ValueError> {
        read.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| ValueError::expected(Self::EXPECTED))
    }
}

/// The number an integer stands for in whatever radix it was written, if 64 bits hold it.
fn unsigned(read: &DeValue<'_>) -> Option<u64> {
    let integer = read.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The same for 32 bits.
fn small(read: &DeValue<'_>, expected: &'static str) -> Result<u32, ValueError> {
    unsigned(read).and_then(|number| number.try_into().ok()).ok_or_else(|| ValueError::expected(expected))
}
