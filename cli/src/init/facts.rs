//! What this machine is, as far as it tells by itself. No name server is asked.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use plab_config::{Feature, NodeName, UidRange};
use plab_sandbox::probe::{ProbeRow, ProbeState, report};

use super::uids;

/// What goes into the node file.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) name: NodeName,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) uids: UidRange,
    /// What `degrade` could name.
    pub(super) lacks: Vec<Lack>,
    pub(super) syslog: &'static str,
    /// What an administrator should look at; the file has its own comments.
    pub(super) notes: Vec<String>,
}

/// A feature that a node file may do without, and this machine has to.
#[derive(Debug)]
pub(super) struct Lack {
    pub(super) feature: Feature,
    pub(super) needed_for: String,
    pub(super) advice: Option<String>,
}

/// Sockets on which a system log may listen, in the order of preference.
const LOGS: [&str; 2] = ["/dev/log", "/run/systemd/journal/dev-log"];

/// Of the documentation's own addresses (RFC 5737), so nobody's: only the way there is asked for.
const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Looks around. `name` is used instead of the machine's own.
///
/// # Errors
/// There is no name a node could have, or no free user IDs.
pub(super) fn gather(name: Option<&str>) -> Result<Facts, String> {
    let mut notes = Vec::new();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = node_name(name, &host, &read("/etc/hosts")?, &mut notes)?;
    let address = source_address();
    match address {
        None => {
            notes.push("there is no default route, so no address: add `address` to the node file".to_owned())
        }
        Some(address) if address.is_private() => {
            notes.push(format!(
                "{address} is a private address: if the node is known by another, change `address`"
            ));
        }
        Some(_) => {}
    }
    let mut taken: Vec<uids::Taken> = Vec::new();
    for file in ["/etc/passwd", "/etc/group"] {
        taken.extend(uids::accounts(&read(file)?, file));
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        taken.extend(uids::subordinate(&read(file)?, file));
    }
    taken.extend(uids::login_defs(&read("/etc/login.defs")?));
    let (uids, in_the_way) = uids::choose(&taken)?;
    if !in_the_way.is_empty() {
        notes.push(format!("`uids` is {uids}, because {}", in_the_way.join("; ")));
    }
    let syslog = LOGS.into_iter().find(|path| Path::new(path).exists()).unwrap_or(LOGS[0]);
    let tree = format!("planetlab-init-{}", std::process::id());
    let lacks = lacking(&report(&tree), &mut notes);
    Ok(Facts { name, address, uids, lacks, syslog, notes })
}

/// A file of the system's; one that is not there says nothing.
fn read(path: &str) -> Result<String, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("cannot read {path}: {error}")),
    }
}

fn node_name(
    asked: Option<&str>,
    host: &str,
    hosts: &str,
    notes: &mut Vec<String>,
) -> Result<NodeName, String> {
    let parse = |name: &str| -> Result<NodeName, String> {
        name.parse()
            .map_err(|error| format!("{name:?} cannot be the node's name: {error}; say it with --name"))
    };
    if let Some(asked) = asked {
        return parse(asked);
    }
    let full = full_name(host, hosts);
    if full == "localhost" || full.starts_with("localhost.") {
        return Err(format!(
            "this machine is called {full:?}, as any may be; say the node's DNS name with --name"
        ));
    }
    if !full.contains('.') {
        notes.push(format!(
            "{full:?} is no full DNS name: definitions name this node by its full one; change `name`, or the machine's \
             with hostnamectl(1)"
        ));
    }
    parse(&full)
}

/// The host name with its domain: as it is, or as `/etc/hosts` has it (hosts(5): the first name of a line is the
/// canonical one).
fn full_name(host: &str, hosts: &str) -> String {
    if host.contains('.') {
        return host.to_owned();
    }
    let canonical = hosts.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut names = line.split_whitespace().skip(1).peekable();
        let first = *names.peek()?;
        let ours = first.split('.').next() == Some(host) && names.any(|name| name == host);
        (ours && first.contains('.')).then(|| first.to_owned())
    });
    canonical.unwrap_or_else(|| host.to_owned())
}

/// The source address of the default route. Connecting a datagram socket sends nothing: the kernel chooses a route,
/// and with it the address.
fn source_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ANYWHERE).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// What `degrade` could name; what it could not is noted.
fn lacking(rows: &[ProbeRow], notes: &mut Vec<String>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for row in rows.iter().filter(|row| row.state != ProbeState::Present) {
        match row.feature.parse() {
            Ok(feature) if row.state == ProbeState::Degraded => {
                lacks.push(Lack { feature, needed_for: row.needed_for.clone(), advice: row.advice.clone() })
            }
            Ok(feature) if row.state == ProbeState::Restricted => notes.push(format!(
                "definitions that ask for this are refused unless `degrade` names \"{feature}\": {}; {}",
                row.needed_for, row.found
            )),
            _ => {
                let advice = row.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
                notes.push(format!("no capsule starts here without {}: {}{advice}", row.feature, row.found));
            }
        }
    }
    if !lacks.is_empty() {
        let names: Vec<String> = lacks.iter().map(|lack| format!("\"{}\"", lack.feature)).collect();
        notes.push(format!(
            "this machine lacks {}: capsules start once that is mended, or once `degrade` in the node file names it",
            names.join(", ")
        ));
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str =
        "127.0.0.1 localhost\n127.0.1.1\tnode7.site.example node7 # ours\n::1 ip6-localhost\n";

    fn name_of(host: &str, hosts: &str) -> (Result<String, String>, usize) {
        let mut notes = Vec::new();
        let name = node_name(None, host, hosts, &mut notes).map(|name| name.to_string());
        (name, notes.len())
    }

    #[test]
    fn the_name_is_the_full_one_if_there_is_one() {
        assert_eq!(name_of("node7", HOSTS), (Ok("node7.site.example".into()), 0));
        assert_eq!(name_of("node7.elsewhere.example", HOSTS), (Ok("node7.elsewhere.example".into()), 0));
        // Not ours, only similar; and one that is no full name earns a note.
        assert_eq!(name_of("node", HOSTS), (Ok("node".into()), 1));
        assert_eq!(name_of("node7", "127.0.1.1 other.site.example node7\n"), (Ok("node7".into()), 1));
        assert_eq!(name_of("node7", ""), (Ok("node7".into()), 1));
    }

    #[test]
    fn a_name_that_says_nothing_is_asked_for() {
        for host in ["localhost", "localhost.localdomain", "my_node", ""] {
            let error = name_of(host, HOSTS).0.expect_err(host);
            assert!(error.contains("--name"), "{host}: {error}");
        }
        let mut notes = Vec::new();
        let name = node_name(Some("n.example"), "localhost", "", &mut notes).expect("it was said");
        assert_eq!((name.as_str(), notes.len()), ("n.example", 0));
    }

    #[test]
    fn what_degrade_cannot_name_is_a_note() {
        let row = |feature: &str, state| ProbeRow {
            feature: feature.into(),
            needed_for: "x".into(),
            state,
            found: "y".into(),
            advice: None,
        };
        let rows = [
            row("memory.high", ProbeState::Degraded),
            row("cgroups", ProbeState::Missing),
            row("audit", ProbeState::Present),
        ];
        let mut notes = Vec::new();
        let lacks = lacking(&rows, &mut notes);
        assert_eq!(lacks.iter().map(|lack| lack.feature).collect::<Vec<_>>(), [Feature::MemoryHigh]);
        assert!(notes[0].contains("without cgroups") && notes[1].contains("\"memory.high\""), "{notes:?}");
    }
}
