//! Raw sockets of UDP and TCP, and headers of one's own: from the slice's own ports and the node's addresses, and heard is what
//! is for the slice's ports.

use plab_tests::raw::{Actor, FarHost, inside, outside};
use plab_tests::{TestNode, binary, eventually};

use crate::{finish, slice};

const ALL: &str =
    "[network]\nports = [\"tcp/8651\", \"udp/8651\"]\nraw = [\"icmp\", \"icmpv6\", \"udp\", \"tcp\"]\n";
const OTHER: &str = "[network]\nports = [\"tcp/8652\", \"udp/8652\"]\nraw = [\"icmp\", \"udp\", \"tcp\"]\n";
/// An address that no interface of the node has (RFC 5737).
const NOBODYS: &str = "203.0.113.77";

#[test]
fn stock_tools_run_and_say_what_they_found() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-trace");
    slice(&node, "site_raw", ALL);
    slice(&node, "site_none", "");
    for (address, tool) in [
        (far.v4(), "traceroute -n -q 1 -w 20"),
        (far.v6(), "traceroute -n -q 1 -w 20"),
        (far.v4(), "traceroute -n -q 1 -w 20 -I"),
        (far.v4(), "traceroute -n -q 1 -w 20 -T -p 9"),
        (far.v6(), "traceroute -n -q 1 -w 20 -T -p 9"),
        (far.v4(), "mtr -n --report -c 2"),
        (far.v6(), "mtr -n --report -c 2"),
    ] {
        let mut argv: Vec<&str> = tool.split(' ').collect();
        argv.push(address);
        let said = node.exec("site_raw", &argv);
        let hop = said.stdout.lines().skip(1).any(|line| line.contains(address) && !line.contains("100.0%"));
        assert!(said.code == 0 && hop, "{tool} {address}: {said:?}");
    }
    // Without `raw`, what needs a raw socket does not run.
    assert_ne!(node.exec("site_none", &["traceroute", "-n", "-T", far.v4()]).code, 0);
    finish(node);
}

#[test]
fn hping_sends_as_it_does_and_listens_by_raw_sockets() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-hping");
    let library = std::fs::read(binary("libplab_pcap.so")).expect("read the library");
    slice(&node, "site_raw", ALL);
    slice(&node, "site_none", "");
    for name in ["site_raw", "site_none"] {
        node.put(name, "libplab_pcap.so", &library, 0o755);
    }
    let hping = |slice: &str, preload: &str, words: &str| {
        let command = format!("{preload} exec /usr/sbin/hping3 {words} {}", far.v4());
        node.exec(slice, &["sh", "-c", &command])
    };
    let preload = "LD_PRELOAD=./libplab_pcap.so";
    for (words, said) in [
        ("-c 2 -i u200000 -1", "icmp_seq=1"),
        ("-c 1 -S -k -s 8651 -p 9", "flags=RA"),
        ("-c 1 -2 -k -s 8651 -p 33434", "ICMP Port Unreachable"),
    ] {
        let heard = hping("site_raw", preload, words);
        assert!(heard.code == 0 && heard.stdout.contains(said), "{words}: {heard:?}");
    }
    // From ports that are not its own it sends nothing.
    let refused = hping("site_raw", preload, "-c 1 -S -k -s 8652 -p 9");
    assert!(refused.stderr.contains("Operation not permitted"), "{refused:?}");
    // Why it takes the library, and that the library opens nothing.
    let packet_socket = hping("site_raw", "", "-c 1 -1");
    assert!(packet_socket.stdout.contains("open_pcap failed"), "{packet_socket:?}");
    let without = hping("site_none", preload, "-c 1 -1");
    assert!(without.code != 0 && without.stdout.contains("can't open raw socket"), "{without:?}");
    finish(node);
}

#[test]
fn the_hops_on_the_way_are_found() {
    let mut far = FarHost::set_up();
    let behind = far.with_another_behind();
    let node = TestNode::start("raw-hops");
    slice(&node, "site_raw", ALL);
    for tool in ["traceroute -n -q 1 -w 20", "mtr -n --report -c 2"] {
        let argv: Vec<&str> = tool.split(' ').chain([behind]).collect();
        let said = node.exec("site_raw", &argv);
        let seen = |address: &str| {
            said.stdout.lines().skip(1).any(|line| line.contains(address) && !line.contains("100.0%"))
        };
        assert!(said.code == 0 && seen(far.v4()) && seen(behind), "{tool}: {said:?}");
    }
    // By TCP mtr sends from ports of its own choice, which have to be the slice's.
    slice(&node, "site_mtr", "[network]\nports = [\"tcp/33000-33099\"]\nraw = [\"icmp\"]\n");
    let argv = ["mtr", "-n", "--report", "-c", "2", "-T", behind];
    let said = node.exec("site_mtr", &argv);
    assert!(said.code == 0 && said.stdout.contains(behind), "{said:?}");
    assert_ne!(node.exec("site_raw", &argv).code, 0, "without these ports");
    // Errors that the kernel would put into the queue of a raw socket may be about others' packets: they are not to be had.
    for tool in ["traceroute -n -q 1 -w 2 -I", "traceroute -n -q 1 -w 2 -T -p 9"] {
        let argv: Vec<&str> = tool.split(' ').chain([behind]).collect();
        let said = node.exec("site_raw", &argv).ok();
        let hops: Vec<&str> = said.lines().skip(1).collect();
        assert!(hops.len() == 2 && hops[0].ends_with('*') && hops[1].contains(behind), "{tool}: {said}");
    }
    finish(node);
}

#[test]
fn a_slice_sends_from_its_own_port_and_from_one_that_it_holds() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-ports-own");
    slice(&node, "site_raw", ALL);
    for to in [far.v4(), far.v6(), "127.0.0.1", "::1"] {
        assert_eq!(inside(&node, "site_raw", &format!("syn {to} own 8651")), "ok reset True", "{to}");
        assert_eq!(inside(&node, "site_raw", &format!("syn {to} held")), "ok reset True", "{to}");
        assert_eq!(inside(&node, "site_raw", &format!("syn {to} gone")), "EPERM", "{to}");
        assert_eq!(inside(&node, "site_raw", &format!("raw udp {to} 8651 9")), "ok sent", "{to}");
    }
    for protocol in ["udp", "tcp"] {
        for address in ["127.0.0.1", "::1"] {
            assert_eq!(inside(&node, "site_raw", &format!("chat {protocol} {address}")), "ok chatted True");
        }
        let words = format!("forge {protocol} own {} 8651 9", far.v4());
        assert_eq!(inside(&node, "site_raw", &words), "ok sent", "{words}");
    }
    assert_eq!(inside(&node, "site_raw", &format!("forge icmp own {} 77 0", far.v4())), "ok sent");
    // What was sent is on record as the slice's.
    plab_tests::eventually("the raw packet in the flows", || {
        let said = node.plab(&["flows", "site_raw", "--json"]).ok();
        said.contains("8651").then_some(())
    });
    finish(node);
}

/// Slices of which the first two have raw sockets.
fn holders(node: &TestNode) {
    for name in ["site_raw", "site_other"] {
        slice(node, name, "[network]\nraw = [\"udp\", \"tcp\"]\n");
    }
    slice(node, "site_none", "");
}

/// The first port that an answer names.
fn port(said: &str) -> u16 {
    said.split(' ').nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port: {said}"))
}

/// Binds a socket to a port of the kernel's choice, from which there is only this one to choose unless it is 0.
fn bind(node: &TestNode, slice: &str, address: &str, wanted: u16) -> u16 {
    port(&inside(node, slice, &format!("bind_to {address} {wanted}")))
}

/// What sending from the port by a raw socket comes to, for each slice that has some.
fn sending(node: &TestNode, from: u16) -> [String; 2] {
    ["site_raw", "site_other"].map(|slice| inside(node, slice, &format!("raw tcp 127.0.0.1 {from} 9")))
}

#[test]
fn a_port_that_two_slices_were_given_is_held_by_none() {
    let node = TestNode::start("raw-ports-two");
    holders(&node);
    // Two sockets may be on one port at two addresses. Then it is nobody's until both are closed, whoever has `raw`.
    for other in ["site_other", "site_none"] {
        let held = bind(&node, "site_raw", "127.0.0.2", 0);
        assert_eq!(sending(&node, held), ["ok sent", "EPERM"]);
        for _ in 0..2 {
            assert_eq!(bind(&node, other, "127.0.0.3", held), held);
            assert_eq!(sending(&node, held), ["EPERM", "EPERM"]);
            assert_eq!(inside(&node, other, "let_go"), "ok let go");
            assert_eq!(sending(&node, held), ["EPERM", "EPERM"]);
        }
        assert_eq!(inside(&node, "site_raw", "let_go"), "ok let go");
        assert_eq!(bind(&node, "site_raw", "127.0.0.2", held), held);
        assert_eq!(sending(&node, held), ["ok sent", "EPERM"], "begun anew");
        assert_eq!(inside(&node, "site_raw", "let_go"), "ok let go");
    }
    // IPv6 is another matter.
    let held = bind(&node, "site_raw", "127.0.0.2", 0);
    for _ in 0..2 {
        assert_eq!(bind(&node, "site_other", "::1", held), held);
        assert_eq!(sending(&node, held), ["ok sent", "EPERM"]);
        assert_eq!(inside(&node, "site_other", "let_go"), "ok let go");
    }
    finish(node);
}

#[test]
fn a_port_is_held_by_no_connection_and_from_none() {
    let node = TestNode::start("raw-ports-connected");
    holders(&node);
    // Who connects from it may lose it to anybody.
    let held = bind(&node, "site_raw", "127.0.0.2", 0);
    assert_eq!(inside(&node, "site_raw", "connect_from 127.0.0.1 9"), "ECONNREFUSED");
    assert_eq!(sending(&node, held), ["EPERM", "EPERM"]);
    // Who opens a connection from it has it.
    let held = bind(&node, "site_none", "127.0.0.3", 0);
    assert_eq!(bind(&node, "site_raw", "127.0.0.2", held), held);
    assert_eq!(sending(&node, held), ["ok sent", "EPERM"]);
    assert_eq!(inside(&node, "site_none", "connect_from 127.0.0.1 9"), "ECONNREFUSED");
    assert_eq!(sending(&node, held), ["EPERM", "EPERM"]);
    // Who holds the port of a connection that has ended holds nothing of that.
    let ended = inside(&node, "site_raw", "waiting 127.0.0.1");
    let (client, server) = (port(&ended), ended.rsplit(' ').next().expect("a port"));
    assert_eq!(bind(&node, "site_other", "127.0.0.2", client), client);
    assert_eq!(sending(&node, client), ["EPERM", "ok sent"], "the control");
    let words = format!("raw tcp 127.0.0.1 {client} {server} ack");
    assert_eq!(inside(&node, "site_other", &words), "EPERM");
    // A port of UDP is a socket's for as long as it is on it.
    let gone = inside(&node, "site_raw", "unbound");
    assert!(gone.ends_with(" then 0"), "{gone}");
    assert_eq!(inside(&node, "site_raw", &format!("raw udp 127.0.0.1 {} 9", port(&gone))), "EPERM");
    finish(node);
}

#[test]
fn nothing_is_sent_from_anybody_elses_port_or_address() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-ports-forge");
    slice(&node, "site_raw", ALL);
    slice(&node, "site_other", OTHER);
    slice(&node, "site_udp", "[network]\nports = [\"udp/8653\", \"tcp/8653\"]\nraw = [\"udp\"]\n");
    let v4 = far.v4();
    // Granted UDP only.
    assert_eq!(inside(&node, "site_udp", &format!("forge udp own {v4} 8653 9")), "ok sent");
    assert_eq!(inside(&node, "site_udp", &format!("forge tcp own {v4} 8653 9")), "EPERM");
    assert_eq!(inside(&node, "site_udp", &format!("forge icmp own {v4} 8653 9")), "EPERM");
    assert_eq!(inside(&node, "site_udp", "make 2 3 6"), "EPERM");
    assert_eq!(inside(&node, "site_udp", "make 2 3 1"), "EPERM");
    assert_eq!(inside(&node, "site_udp", "make 10 3 17"), "ok made");
    assert_eq!(inside(&node, "site_udp", "make 10 3 255"), "EPERM");
    // A connection of another slice's is not reset, nor a socket of UDP sent from.
    let mut other = Actor::inside(&node, "site_other");
    let (client, server) = other.hold("tcp 127.0.0.1");
    let reset = format!("raw tcp 127.0.0.1 {client} {server} rst");
    assert_eq!(inside(&node, "site_raw", &reset), "EPERM");
    assert_eq!(other.ask("kept"), "ok kept, 0 before");
    let (client, server) = other.hold("udp 127.0.0.1");
    let words = format!("raw udp 127.0.0.1 {client} {server}");
    assert_eq!(inside(&node, "site_raw", &words), "EPERM");
    assert_eq!(outside(&words), "ok sent", "the control");
    assert_eq!(other.ask("kept"), "ok kept, 1 before", "the control's");
    finish(node);
}

#[test]
fn the_nodes_services_and_connections_are_out_of_reach() {
    let node = TestNode::start("raw-ports-local");
    slice(&node, "site_raw", ALL);
    let mut root = Actor::outside();
    let (client, server) = root.hold("tcp 127.0.0.1");
    for to in [client, server] {
        for flags in ["rst", "ack", "none"] {
            // The listener is found by any packet, the connection's other side only by its own four numbers.
            let said = inside(&node, "site_raw", &format!("raw tcp 127.0.0.1 8651 {to} {flags}"));
            assert_eq!(said, if to == server { "EPERM" } else { "ok sent" }, "{to} {flags}");
        }
        assert_eq!(inside(&node, "site_raw", &format!("raw tcp 127.0.0.1 {client} {to} rst")), "EPERM");
    }
    assert_eq!(inside(&node, "site_raw", &format!("raw tcp 127.0.0.1 8651 {server} syn")), "EPERM");
    assert_eq!(outside(&format!("raw tcp 127.0.0.1 8651 {server} syn")), "ok sent", "the control");
    assert_eq!(root.ask("kept"), "ok kept, 0 before");
    let (_, server) = root.hold("udp 127.0.0.1");
    let words = format!("raw udp 127.0.0.1 8651 {server}");
    assert_eq!(inside(&node, "site_raw", &words), "EPERM");
    assert_eq!(outside(&words), "ok sent", "the control");
    assert_eq!(root.ask("kept"), "ok kept, 1 before", "the control's");
    finish(node);
}

#[test]
fn a_raw_socket_hears_its_own_ports_and_no_neighbours() {
    let node = TestNode::start("raw-ports-sniff");
    // No ports: a test beside this one sends to those of ALL, of another node on this machine.
    slice(&node, "site_raw", "[network]\nraw = [\"udp\", \"tcp\"]\n");
    slice(&node, "site_other", OTHER);
    for address in ["127.0.0.1", "::1"] {
        for protocol in ["udp", "tcp"] {
            let words = format!("{protocol} {address}");
            let listener = Actor::inside(&node, "site_raw").listen(&words);
            let control = Actor::outside().listen(&words);
            assert_eq!(inside(&node, "site_other", &format!("chat {words}")), "ok chatted True");
            assert_eq!(outside(&format!("chat {words}")), "ok chatted True");
            assert_eq!(listener.heard(), 0, "{words}");
            assert_ne!(control.heard(), 0, "{words}: the control");
        }
    }
    finish(node);
}

#[test]
fn no_extension_header_and_no_routing_header_of_v6() {
    let node = TestNode::start("raw-ports-v6");
    slice(&node, "site_raw", ALL);
    for protocol in [6, 17] {
        for option in ["41 36", "255 36", "41 54", "41 55", "41 57", "41 59", "41 3", "41 4", "41 5", "41 6"]
        {
            let words = format!("option 10 {protocol} {option}");
            assert_eq!(inside(&node, "site_raw", &words), "EPERM", "{words}");
        }
        assert_eq!(outside(&format!("option 10 {protocol} 41 36")), "ok set", "the control");
    }
    finish(node);
}

#[test]
fn the_nodes_addresses_are_followed() {
    let far = FarHost::set_up();
    let mut node = TestNode::start("raw-ports-addresses");
    slice(&node, "site_raw", ALL);
    let words = format!("forge udp {NOBODYS} {} 8651 9", far.v4());
    let comes_to = |node: &TestNode, end: &str| {
        eventually(end, || (inside(node, "site_raw", &words) == end).then_some(()));
    };
    assert_eq!(inside(&node, "site_raw", &words), "EPERM");
    far.address_here("add", NOBODYS);
    comes_to(&node, "ok sent");
    // One that goes while there is no plabd is gone for the next.
    node.kill_daemon();
    far.address_here("del", NOBODYS);
    node.start_daemon();
    comes_to(&node, "EPERM");
    far.address_here("add", NOBODYS);
    comes_to(&node, "ok sent");
    far.address_here("del", NOBODYS);
    comes_to(&node, "EPERM");
    finish(node);
}

#[test]
fn who_has_opted_out_hears_nothing_raw_either() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-ports-opt-out");
    slice(&node, "site_raw", ALL);
    let packets = [
        format!("forge udp own {} 8651 9", far.v4()),
        format!("forge tcp own {} 8651 9", far.v4()),
        format!("forge icmp own {} 77 0", far.v4()),
        format!("raw udp {} 8651 9", far.v6()),
        format!("raw tcp {} 8651 9", far.v6()),
        format!("send {} 128 0", far.v6()),
    ];
    for words in &packets {
        assert_eq!(inside(&node, "site_raw", words), "ok sent", "{words}: the control");
    }
    for address in [far.v4(), far.v6()] {
        let bits = if address.contains(':') { 128 } else { 32 };
        node.plab(&["opt-out", "add", &format!("{address}/{bits}")]).ok();
    }
    for words in &packets {
        assert_eq!(inside(&node, "site_raw", words), "EPERM", "{words}");
    }
    finish(node);
}

#[test]
fn what_a_raw_socket_hears_beside_another_is_counted_once() {
    let node = TestNode::start("raw-ports-counted");
    slice(&node, "site_raw", "[network]\nports = [\"udp/8655\"]\nraw = [\"udp\"]\n");
    let listener = Actor::inside(&node, "site_raw").listen("udp 127.0.0.1");
    let before = node.status("site_raw")["traffic"]["packets_in"].clone();
    assert!(inside(&node, "site_raw", "served 8655 20").starts_with("ok "));
    assert_eq!(listener.heard(), 20);
    let after = node.status("site_raw")["traffic"]["packets_in"].clone();
    let count = |said: &serde_json::Value| said.as_u64().expect("a count");
    assert_eq!(count(&after) - count(&before), 20);
    finish(node);
}
