//! Which interfaces lead to everywhere: those of the default routes, as the kernel's tables show them (proc_net(5)).

use std::collections::BTreeSet;
use std::io;

/// `RTF_UP` and `RTF_REJECT` of `linux/route.h`, for both versions of IP.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// The interfaces of the default routes, of both versions of IP.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn default_interfaces() -> io::Result<BTreeSet<String>> {
    let mut found = ipv4_defaults()?;
    match std::fs::read_to_string("/proc/self/net/ipv6_route") {
        Ok(table) => found.extend(defaults6(&table)),
        // A kernel without IPv6 has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// The interfaces of IPv4's default routes.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn ipv4_defaults() -> io::Result<BTreeSet<String>> {
    Ok(defaults4(&std::fs::read_to_string("/proc/self/net/route")?))
}

fn usable(flags: Option<&&str>) -> bool {
    flags
        .and_then(|flags| u32::from_str_radix(flags, 16).ok())
        .is_some_and(|flags| flags & UP != 0 && flags & REJECT == 0)
}

fn defaults4(table: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let everywhere = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        (everywhere && usable(fields.get(3))).then(|| fields[0].to_owned())
    };
    table.lines().skip(1).filter_map(interface).collect()
}

fn defaults6(table: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let everywhere =
            fields.first().is_some_and(|to| to.bytes().all(|b| b == b'0')) && fields.get(1) == Some(&"00");
        let name = fields.get(9).filter(|name| **name != "lo")?;
        (everywhere && usable(fields.get(8))).then(|| (*name).to_owned())
    };
    table.lines().filter_map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";

    #[test]
    fn a_default_route_is_one_to_everywhere_that_is_up() {
        let has = |line: &str| !defaults4(&format!("{HEAD}{line}\n")).is_empty();
        assert!(has("eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0"));
        assert!(!has("eth0\t00000000\t010011AC\t0002\t0\t0\t0\t00000000\t0\t0\t0"), "not up");
        assert!(!has("*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0"), "unreachable");
        assert!(!has("eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0"), "a network");
        assert!(!has("eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000080\t0\t0\t0"), "half the world");
        assert!(defaults4("").is_empty());
    }

    #[test]
    fn ipv6_has_routes_that_lead_nowhere() {
        let zero = "00000000000000000000000000000000";
        let line = |to: &str, length: &str, flags: &str, name: &str| {
            format!("{to} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {name}\n")
        };
        let table = line(zero, "00", "00000003", "eth0")
            + &line(zero, "00", "00200200", "lo")
            + &line("20010db8000000000000000000000000", "20", "00000001", "eth1")
            + &line(zero, "00", "00000201", "eth2");
        assert_eq!(defaults6(&table), BTreeSet::from(["eth0".to_owned()]));
    }
}
