//! Which flows are asked about, as it is typed; and what is said about those that were lost.

use std::net::{IpAddr, Ipv6Addr};

use jiff::{SignedDuration, Timestamp};
use plab_config::TimeSpan;
use plab_protocol::flows::{AddressRange, FlowFilter, FlowsKept};

use crate::args::FlowFilterArgs;
use crate::output::words;

/// `--at` means this much before and after: clocks differ, and mails tell minutes.
const AROUND: SignedDuration = SignedDuration::from_secs(60);

/// IP protocols by the names that people use, see /etc/protocols.
const PROTOCOLS: [(&str, u8); 8] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmp6", 58),
    ("sctp", 132),
    ("dccp", 33),
    ("udplite", 136),
    ("gre", 47),
];

/// An address or prefix, and a port if one is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The addresses.
    pub range: AddressRange,
    /// The port.
    pub port: Option<u16>,
}

/// `--to`.
///
/// # Errors
/// What was expected.
pub fn target(text: &str) -> Result<Target, String> {
    const EXPECTED: &str =
        "expected an address such as 192.0.2.7, 192.0.2.7:443, 192.0.2.0/24 or [2001:db8::7]:53";
    let wrong = || EXPECTED.to_owned();
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let (addresses, port) = match (text.strip_prefix('['), text.rsplit_once(':')) {
        (Some(rest), _) => match rest.split_once(']').ok_or_else(wrong)? {
            (address, "") => (address, None),
            (address, after) => (address, Some(after.strip_prefix(':').ok_or_else(wrong)?)),
        },
        (None, Some((address, port))) if !address.contains(':') => (address, Some(port)),
        _ => (text, None),
    };
    let (address, bits) = addresses.split_once('/').map_or((addresses, None), |(a, bits)| (a, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if text.starts_with('[') && address.is_ipv4() {
        return Err(wrong());
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => number(bits)
            .and_then(|bits| u8::try_from(bits).ok())
            .filter(|&bits| bits <= most)
            .ok_or_else(|| format!("a prefix of {address} has at most {most} bits"))?,
    };
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped && bits < 96 {
        return Err("an IPv4-mapped address has a prefix of at least 96 bits".to_owned());
    }
    let port = port
        .map(|port| number(port).ok_or_else(|| "expected a port from 0 to 65535".to_owned()))
        .transpose()?;
    Ok(Target { range: AddressRange { address, bits }, port })
}

/// `--proto`: a name, or a number.
///
/// # Errors
/// What was expected.
pub fn protocol(text: &str) -> Result<u8, String> {
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|&(_, number)| number);
    let number = || text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    known.or_else(number).ok_or_else(|| {
        let names: Vec<&str> = PROTOCOLS.iter().map(|&(name, _)| name).collect();
        format!("expected one of {}, or a number from 0 to 255", names.join(", "))
    })
}

/// A protocol's name, or its number.
pub fn protocol_name(number: u8) -> String {
    PROTOCOLS
        .iter()
        .find(|&&(_, known)| known == number)
        .map_or_else(|| number.to_string(), |&(name, _)| name.to_owned())
}

/// An address and its port; ICMP has none.
pub fn endpoint(protocol: u8, address: IpAddr, port: u16) -> String {
    match (address, has_ports(protocol)) {
        (address, false) => address.to_string(),
        (IpAddr::V4(v4), true) => format!("{v4}:{port}"),
        (IpAddr::V6(v6), true) => bracketed(v6, port),
    }
}

fn bracketed(v6: Ipv6Addr, port: u16) -> String {
    format!("[{v6}]:{port}")
}

/// Whether what stands for ports in a record of this protocol is ports.
pub fn has_ports(protocol: u8) -> bool {
    [6, 17, 33, 132, 136].contains(&protocol)
}

/// `--since`, `--until`, `--at`: RFC 3339, or `-` and a time back from now; a number alone is minutes.
///
/// # Errors
/// What was expected.
pub fn past(text: &str) -> Result<Timestamp, String> {
    const EXPECTED: &str = "expected a time such as 2036-03-01T04:00:00Z, or one back from now such as -2h";
    let wrong = || EXPECTED.to_owned();
    let Some(back) = text.strip_prefix('-') else { return text.parse().map_err(|_| wrong()) };
    let minutes = back.bytes().all(|byte| byte.is_ascii_digit());
    let span: TimeSpan =
        if minutes { format!("{back}m") } else { back.to_owned() }.parse().map_err(|_| wrong())?;
    Timestamp::now().checked_sub(span.get()).map_err(|_| wrong())
}

/// The question as it is sent.
///
/// # Errors
/// What makes no sense.
pub fn filter(
    slice: Option<&str>,
    to: Option<Target>,
    at: Option<Timestamp>,
    args: &FlowFilterArgs,
) -> Result<FlowFilter, String> {
    let around = |at: Timestamp, by| at.checked_add(by).map_err(|_| format!("{at} is no time of a node's"));
    let (since, until) = match at {
        Some(at) => (Some(around(at, -AROUND)?), Some(around(at, AROUND)?)),
        None => (args.since, args.until),
    };
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(format!("--since ({since:.0}) is after --until ({until:.0})"));
    }
    Ok(FlowFilter {
        slice: slice.map(str::to_owned),
        to: to.map(|to| to.range),
        to_port: to.and_then(|to| to.port),
        from_port: args.from_port,
        protocol: args.proto,
        since: since.map(|time| time.to_string()),
        until: until.map(|time| time.to_string()),
    })
}

/// A time of plabd's in whole seconds; another text as it is, made safe.
pub fn seconds(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(|_| words(time), |time| format!("{time:.0}"))
}

/// How far back the node's memory goes.
pub fn reach(kept: &FlowsKept) -> String {
    match (&kept.first, &kept.last) {
        (Some(first), Some(last)) => {
            let doubt = if kept.clock_doubted { "; the clock was doubted, times may be wrong" } else { "" };
            format!("{} records, from {} to {}{doubt}", kept.records, seconds(first), seconds(last))
        }
        _ => "no records at all".to_owned(),
    }
}

/// What may be missing; none if nothing is.
pub fn lost(kept: &FlowsKept) -> Option<String> {
    let mut parts = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    say(kept.lost_kernel, "records were lost in the kernel");
    say(kept.lost_store, "on the way to disk");
    say(kept.unread, "were not understood");
    say(kept.torn, "times writing broke off, each with the last seconds");
    (!parts.is_empty()).then(|| format!("may be incomplete: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_prefixes_and_ports() {
        let of = |text: &str| target(text).map(|t| (t.range.address.to_string(), t.range.bits, t.port));
        let is = |address: &str, bits, port| Ok((address.to_owned(), bits, port));
        assert_eq!(of("192.0.2.7"), is("192.0.2.7", 32, None));
        assert_eq!(of("192.0.2.7:443"), is("192.0.2.7", 32, Some(443)));
        assert_eq!(of("192.0.2.0/24"), is("192.0.2.0", 24, None));
        assert_eq!(of("192.0.2.0/24:53"), is("192.0.2.0", 24, Some(53)));
        assert_eq!(of("2001:db8::7"), is("2001:db8::7", 128, None));
        assert_eq!(of("2001:db8::/32"), is("2001:db8::", 32, None));
        assert_eq!(of("[2001:db8::7]:53"), is("2001:db8::7", 128, Some(53)));
        assert_eq!(of("[2001:db8::/32]:53"), is("2001:db8::", 32, Some(53)));
        assert_eq!(of("[::1]"), is("::1", 128, None));
        for bad in [
            "",
            ":",
            "192.0.2",
            "192.0.2.7:",
            "192.0.2.7:65536",
            "192.0.2.7:+1",
            "192.0.2.7/33",
            "192.0.2.7/",
            "host",
            "[192.0.2.7]:1",
            "[::1",
            "[::1]53",
            "::1/129",
            "::ffff:192.0.2.7/95",
            "192.0.2.7/+8",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        for (text, number) in [("tcp", 6), ("UDP", 17), ("47", 47), ("0", 0), ("icmp6", 58)] {
            assert_eq!(protocol(text), Ok(number));
        }
        for bad in ["", "256", "+6", "ip"] {
            assert!(protocol(bad).is_err(), "{bad}");
        }
        assert_eq!((protocol_name(6), protocol_name(99)), ("tcp".to_owned(), "99".to_owned()));
        assert_eq!(endpoint(6, IpAddr::from([192, 0, 2, 7]), 443), "192.0.2.7:443");
        assert_eq!(endpoint(17, IpAddr::from(Ipv6Addr::LOCALHOST), 53), "[::1]:53");
        assert_eq!(endpoint(1, IpAddr::from([192, 0, 2, 7]), 2048), "192.0.2.7");
    }

    #[test]
    fn times_are_absolute_or_back_from_now() {
        assert_eq!(past("2036-03-01T04:00:00Z").expect("time").to_string(), "2036-03-01T04:00:00Z");
        for (text, seconds) in [("-10", 600), ("-2h", 7200), ("-1h30m", 5400)] {
            let back = Timestamp::now().as_second() - past(text).expect(text).as_second();
            assert!((seconds..=seconds + 1).contains(&back), "{text}: {back}");
        }
        for bad in ["", "-", "2h", "yesterday", "--5m", "2036-03-01"] {
            assert!(past(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_lost_is_said() {
        assert_eq!(lost(&FlowsKept { records: 7, ..FlowsKept::default() }), None);
        let kept = FlowsKept { lost_kernel: 3, torn: 1, ..FlowsKept::default() };
        let text = lost(&kept).expect("lost");
        assert!(text.contains("3 records were lost in the kernel") && text.contains("1 times"), "{text}");
    }
}
