//! On the network that slices share: another's port by each protocol and form of address, the node's services, forged
//! addresses. Where a port is the neighbour's, the neighbour itself is the control: it can.

use std::net::{TcpListener, UdpSocket};

use crate::case::Expect::Errno;
use crate::case::{Case, Place, Tried, attack, words};
use crate::stage::NEIGHBOUR_PORT;

const PROTOCOLS: [&str; 4] = ["tcp", "mptcp", "udp", "udplite"];

const FORMS: [&str; 3] = ["4", "6", "mapped"];

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = others_ports();
    cases.extend(the_nodes());
    cases.extend(services());
    // The address is another's only after a filter of its own was asked.
    let behind = format!("bind-notified {NEIGHBOUR_PORT}");
    cases.push(
        attack("others-port-behind-a-filter", "a neighbour's clients", behind, Errno(libc::EPERM))
            .control_at(Place::Neighbour)
            .into(),
    );
    for (name, line) in [
        ("foreign-source-4", format!("net-option 2 {} {}", libc::SOL_IP, libc::IP_FREEBIND)),
        ("foreign-source-6", format!("net-option 10 {} {}", libc::SOL_IPV6, libc::IPV6_FREEBIND)),
    ] {
        cases.push(attack(name, "whoever is blamed for packets", line, Errno(libc::EPERM)).into());
    }
    cases
}

/// The neighbour's port; bound to all addresses or to loopback; shared, as far as socket options go.
fn others_ports() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in PROTOCOLS {
        for form in FORMS {
            for at in ["any", "loopback"] {
                let line = format!("net-bind {protocol} {form} {at} {NEIGHBOUR_PORT}");
                for (sharing, option) in [("", None), ("-reuseaddr", Some(2)), ("-reuseport", Some(15))] {
                    let line = option.map_or(line.clone(), |option| format!("{line} {option}"));
                    let name = format!("others-port-{protocol}-{form}-{at}{sharing}");
                    let what = "a neighbour's clients";
                    cases.push(
                        attack(&name, what, line, Errno(libc::EPERM)).control_at(Place::Neighbour).into(),
                    );
                }
            }
        }
    }
    cases
}

/// A port that is nobody's, and one of the node's; the control binds the neighbour's.
fn the_nodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, port) in [("nobodys-port", 8790), ("nodes-port", 22)] {
        for protocol in ["tcp", "udp"] {
            cases.push(
                attack(
                    &format!("{name}-{protocol}"),
                    "the node's services",
                    format!("net-bind {protocol} 4 loopback {port}"),
                    Errno(libc::EPERM),
                )
                .control_at(Place::Neighbour)
                .control(format!("net-bind {protocol} 4 loopback {NEIGHBOUR_PORT}"))
                .into(),
            );
        }
    }
    cases
}

/// A service of the node's on loopback, on a port that is nobody's; the control is an ordinary user outside.
fn services() -> Vec<Case> {
    let case = |name: &'static str, act: &'static str, protocol: &'static str, form: &'static str| {
        Case::of(name, "the node's services", move |stage| {
            let mut tried = Tried::default();
            let address = if form == "6" { "[::1]:0" } else { "127.0.0.1:0" };
            // Outside the ephemeral range: with TCP the kernel's choice would time out instead.
            let low = |port: u16| address.replace(":0", &format!(":{port}"));
            let tcp = (8780..8790).find_map(|port| TcpListener::bind(low(port)).ok()).expect("a port");
            let udp = UdpSocket::bind(address).expect("bind");
            udp.set_nonblocking(true).expect("nonblocking");
            tcp.set_nonblocking(true).expect("nonblocking");
            let port = match protocol {
                "udp" => udp.local_addr(),
                _ => tcp.local_addr(),
            };
            let line = words(&format!("{act} {protocol} {form} {}", port.expect("an address").port()));
            let arrived =
                || if protocol == "udp" { udp.recv(&mut [0; 8]).is_ok() } else { tcp.accept().is_ok() };
            let seen = stage.act(Place::Capsule, &line);
            tried.check(Errno(libc::EPERM).is(&seen), format!("the attack came to {seen}, not to EPERM"));
            tried.check(!arrived(), "something arrived");
            let shown = stage.act(Place::Nobody, &line);
            tried.check(arrived(), format!("of the control ({shown}) nothing arrived"));
            (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
            tried
        })
    };
    vec![
        case("nodes-service-tcp", "net-connect", "tcp", "4"),
        case("nodes-service-tcp-6", "net-connect", "tcp", "6"),
        case("nodes-service-tcp-mapped", "net-connect", "tcp", "mapped"),
        case("nodes-service-mptcp", "net-connect", "mptcp", "4"),
        case("nodes-service-udp", "net-send", "udp", "4"),
        case("nodes-service-udp-6", "net-send", "udp", "6"),
        case("nodes-service-udp-mapped", "net-send", "udp", "mapped"),
    ]
}
