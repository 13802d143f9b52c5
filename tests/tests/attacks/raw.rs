//! Of raw sockets, in a slice that was granted every kind: another's address, port or connection, packets that others would
//! believe, and what is not for it to hear. The control is root outside, who can do all of it.

use std::cell::RefCell;
use std::rc::Rc;

use plab_tests::raw::{Actor, FarHost, equip};

use crate::case::Expect::Errno;
use crate::case::{Case, Expect, Seen, Tried};
use crate::stage::{NEIGHBOUR_PORT, Stage};

const SLICE: &str = "site_raw";
const PORT: u16 = 8794;
/// An address that no interface of the node has (RFC 5737).
const NOBODYS: &str = "203.0.113.77";
const BLAMED: &str = "whoever is blamed for packets";
const READ: &str = "what others send and get";

/// Who acts, and the host at the other end.
struct Scene {
    far: FarHost,
    slice: RefCell<Actor>,
    root: RefCell<Actor>,
    /// Of a socket of root's, on loopback.
    service: u16,
    _holder: Actor,
}

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let ports = format!("ports = [\"tcp/{PORT}\", \"udp/{PORT}\"]");
    stage
        .node
        .define(SLICE, &format!("[network]\n{ports}\nraw = [\"icmp\", \"icmpv6\", \"udp\", \"tcp\"]\n"));
    equip(&stage.node, SLICE);
    let mut holder = Actor::outside();
    let (_, service) = holder.hold("udp 127.0.0.1");
    let scene = Rc::new(Scene {
        far: FarHost::set_up(),
        slice: RefCell::new(Actor::inside(&stage.node, SLICE)),
        root: RefCell::new(Actor::outside()),
        service,
        _holder: holder,
    });
    let mut rows = sockets();
    rows.extend(sources(&scene));
    rows.extend(headers(&scene));
    rows.extend(messages(&scene));
    rows.extend(options(&scene));
    let mut cases: Vec<Case> =
        rows.into_iter().map(|(name, against, words)| attempt(&scene, name, against, words)).collect();
    cases.extend(sniffing(&scene));
    cases
}

/// Name, against what, and the words that the actor is told.
type Row = (String, &'static str, String);

fn row(name: impl Into<String>, against: &'static str, words: impl Into<String>) -> Row {
    (name.into(), against, words.into())
}

/// Kinds of sockets that nobody is granted.
fn sockets() -> Vec<Row> {
    [
        ("packet-socket", "17 3 768"),
        ("packet-socket-datagrams", "17 2 768"),
        ("packet-socket-by-its-old-name", "2 10 768"),
        ("raw-igmp", "2 3 2"),
        ("raw-any-protocol-6", "10 3 255"),
    ]
    .map(|(name, words)| row(name, READ, format!("make {words}")))
    .into()
}

/// From what is not its own.
fn sources(scene: &Scene) -> Vec<Row> {
    let (v4, v6) = (scene.far.v4(), scene.far.v6());
    let mut rows = Vec::new();
    for (at, to) in [("far", v4), ("loopback", "127.0.0.1")] {
        for protocol in ["udp", "tcp", "icmp"] {
            let words = format!("forge {protocol} {NOBODYS} {to} {PORT} 9");
            rows.push(row(format!("raw-spoof-{protocol}-{at}"), BLAMED, words));
        }
        for protocol in ["udp", "tcp"] {
            let words = format!("forge {protocol} own {to} {NEIGHBOUR_PORT} 9");
            rows.push(row(format!("raw-others-port-{protocol}-{at}"), "a neighbour's name", words));
        }
    }
    // Loopback's address on another interface, and the other way round: the route is chosen by what sendto(2) is told.
    rows.push(row("raw-spoof-loopback-far", BLAMED, format!("forge udp 127.0.0.1 {v4} {PORT} 9")));
    for (name, to, route) in [("far", "127.0.0.1", v4), ("loopback", v4, "127.0.0.1")] {
        let words = format!("routed {to} {route} {PORT} 9");
        rows.push(row(format!("raw-routed-{name}"), "the neighbours on the link", words));
    }
    for (at, to) in [("4", v4), ("6", v6), ("loopback-4", "127.0.0.1"), ("loopback-6", "::1")] {
        for (whose, port) in [("nodes", 22), ("nobodys", 9), ("ephemeral", 45_678)] {
            for protocol in ["udp", "tcp"] {
                let words = format!("raw {protocol} {to} {port} 9");
                rows.push(row(format!("raw-{whose}-port-{protocol}-{at}"), "the node's connections", words));
            }
        }
    }
    let words = format!("raw udp 127.0.0.1 {PORT} {}", scene.service);
    rows.push(row("raw-nodes-service-udp", "the node's services", words));
    rows
}

/// What hides the ports, or makes the packet end elsewhere.
fn headers(scene: &Scene) -> Vec<Row> {
    let (v4, v6) = (scene.far.v4(), scene.far.v6());
    let mut rows = vec![
        row("raw-fragment-first", BLAMED, format!("forge udp own {v4} {PORT} 9 2000")),
        row("raw-fragment-later", BLAMED, format!("forge udp own {v4} {PORT} 9 0001")),
        row("raw-options-4", BLAMED, format!("forge udp own {v4} {PORT} 9 0 01010100")),
        row("raw-igmp-by-own-header", BLAMED, format!("forge igmp own {v4} 0 0")),
        row("raw-retopts-4", BLAMED, format!("ancillary {v4} 0 7 07070400000000")),
    ];
    for (name, kind) in [("hop-by-hop", 54), ("destination", 59)] {
        for (of, protocol) in [("icmp", 58), ("tcp", 6), ("udp", 17)] {
            let words = format!("ancillary {v6} 41 {kind} 3a00010400000000 {protocol}");
            rows.push(row(format!("raw-{name}-options-6-{of}"), BLAMED, words));
        }
    }
    rows
}

/// ICMP that others would believe: replies, unreachables, redirects, time exceeded, timestamps, advertisements; an echo
/// with a code.
fn messages(scene: &Scene) -> Vec<Row> {
    let (v4, v6) = (scene.far.v4(), scene.far.v6());
    let four = ["0 0", "3 1", "4 0", "5 1", "9 0", "11 0", "12 0", "13 0", "8 1"].map(|kind| (v4, kind));
    let six =
        ["129 0", "1 0", "2 0", "3 0", "134 0", "135 0", "136 0", "137 0", "128 1"].map(|kind| (v6, kind));
    let both = four.into_iter().map(|what| ("icmp", what)).chain(six.map(|what| ("icmpv6", what)));
    both.map(|(protocol, (to, kind))| {
        let name = format!("raw-{protocol}-type-{}", kind.replace(' ', "-code-"));
        row(name, "routes and connections of others", format!("send {to} {kind}"))
    })
    .collect()
}

/// By family, protocol, level and name.
fn options(scene: &Scene) -> Vec<Row> {
    let (v4, v6) = (scene.far.v4(), scene.far.v6());
    [
        ("transparent-4", "option 2 1 0 19".to_owned()),
        ("transparent-6", "option 10 58 41 75".to_owned()),
        ("mark-4", "option 2 1 1 36".to_owned()),
        ("mark-6", "option 10 58 1 36".to_owned()),
        ("own-header-6", "option 10 58 41 36".to_owned()),
        ("own-header-6-tcp", "option 10 6 41 36".to_owned()),
        ("own-header-6-by-sol-raw", "option 10 58 255 36".to_owned()),
        ("mark-ancillary-4", format!("ancillary {v4} 1 36 07000000")),
        ("mark-ancillary-6", format!("ancillary {v6} 1 36 07000000")),
    ]
    .map(|(name, words)| row(format!("raw-option-{name}"), "the node's routes", words))
    .into()
}

fn attempt(scene: &Rc<Scene>, name: String, against: &'static str, words: String) -> Case {
    let scene = Rc::clone(scene);
    Case::of(name, against, move |_| {
        let mut tried = Tried::default();
        let said = seen(&scene.slice.borrow_mut().ask(&words));
        tried
            .check(Errno(libc::EPERM).is(&said), format!("{words}: the attack came to {said}, not to EPERM"));
        let shown = seen(&scene.root.borrow_mut().ask(&words));
        tried.check(Expect::Works.is(&shown), format!("{words}: the control came to {shown}, and must work"));
        (tried.inside, tried.control) = (said.to_string(), shown.to_string());
        tried
    })
}

/// What the actor says.
fn seen(said: &str) -> Seen {
    match said.strip_prefix("ok ") {
        Some(detail) => Seen::Worked(detail.to_owned()),
        None if said == "EPERM" => Seen::Errno(libc::EPERM),
        None => Seen::Nothing(said.to_owned()),
    }
}

/// Root's traffic, by each protocol that a raw socket can have; root's own raw socket hears it.
fn sniffing(scene: &Rc<Scene>) -> Vec<Case> {
    let (v4, v6) = (scene.far.v4(), scene.far.v6());
    [
        ("icmp", v4, "answered"),
        ("icmp", "127.0.0.1", "answered"),
        ("icmpv6", v6, "answered"),
        ("icmpv6", "::1", "answered"),
        ("udp", "127.0.0.1", "chat udp"),
        ("udp", "::1", "chat udp"),
        ("tcp", "127.0.0.1", "chat tcp"),
        ("tcp", "::1", "chat tcp"),
    ]
    .map(|(protocol, address, traffic)| {
        let scene = Rc::clone(scene);
        let name = format!("raw-sniff-{protocol}-{address}");
        Case::of(name, READ, move |stage| {
            let mut tried = Tried::default();
            let words = format!("{protocol} {address}");
            let slice = Actor::inside(&stage.node, SLICE).listen(&words);
            let root = Actor::outside().listen(&words);
            let number = if traffic == "answered" { " 816" } else { "" };
            let said = scene.root.borrow_mut().ask(&format!("{traffic} {address}{number}"));
            tried.check(said.starts_with("ok"), format!("there was nothing to hear: {said}"));
            let (inside, control) = (slice.heard(), root.heard());
            tried.check(inside == 0, format!("the slice heard {inside} packets"));
            tried.check(control > 0, "the control heard nothing");
            (tried.inside, tried.control) = (format!("hears {inside}"), format!("hears {control}"));
            tried
        })
    })
    .into()
}
