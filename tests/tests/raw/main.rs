//! Raw sockets: stock tools work in a capsule that was granted them, and only there; what was not its own is not
//! heard; everything else that CAP_NET_RAW opens stays shut. What is one attempt and its refusal is in the table of `attacks`. Each refusal has the same beside it as root outside, where it
//! works: a refusal that everybody gets would say nothing.

mod firewall;
mod handed;
mod ping;
mod ports;

use plab_tests::raw::{Actor, FarHost, dismiss, equip, inside, outside};
use plab_tests::{TestNode, binary, eventually};

const BOTH: &str = "[network]\nraw = [\"icmp\", \"icmpv6\"]\n";

fn slice(node: &TestNode, name: &str, body: &str) {
    node.define(name, body);
    equip(node, name);
}

/// Ends a test: first who acted in it.
fn finish(node: TestNode) {
    dismiss();
    node.finish();
}

#[test]
fn who_was_granted_has_the_capability_and_nobody_else() {
    let node = TestNode::start("raw-granted");
    slice(&node, "site_raw", "[network]\nraw = [\"icmp\"]\n");
    slice(&node, "site_none", "");
    // CAP_NET_RAW alone is bit 13; inheritable, permitted, effective, bounding, ambient.
    assert_eq!(inside(&node, "site_raw", "caps"), "ok 2000 2000 2000 2000 2000");
    assert_eq!(inside(&node, "site_none", "caps"), "ok 0 0 0 0 0");
    for (words, granted) in [
        ("make 2 3 1", "ok made"),
        // A header of one's own, which is looked at.
        ("make 2 3 255", "ok made"),
        // What was not granted: ICMP for IPv6, UDP, TCP, IGMP, the wildcard.
        ("make 10 3 58", "EPERM"),
        ("make 2 3 17", "EPERM"),
        ("make 2 3 6", "EPERM"),
        ("make 10 3 17", "EPERM"),
        ("make 10 3 6", "EPERM"),
        ("make 2 3 2", "EPERM"),
        ("make 10 3 1", "EPERM"),
        ("make 10 3 255", "EPERM"),
        // Packet sockets, and by the old name; XDP is not in every kernel.
        ("make 17 3 768", "EPERM"),
        ("make 17 2 768", "EPERM"),
        ("make 2 10 768", "EPERM"),
    ] {
        assert_eq!(inside(&node, "site_raw", words), granted, "{words}");
        assert_eq!(inside(&node, "site_none", words), "EPERM", "{words}");
        assert_eq!(outside(words), "ok made", "{words}: the control");
    }
    assert_eq!(inside(&node, "site_raw", "make 44 3 0"), "EPERM", "AF_XDP");
    // It is read back, and shown.
    let shown = node.plab(&["status", "site_raw", "--verify", "--json"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let rows = shown["slices"][0]["verify"].as_array().expect("rows");
    assert!(rows.iter().all(|row| row["ok"] == true), "{rows:?}");
    let ambient = rows.iter().find(|row| row["what"] == "capabilities ambient").expect("a row");
    assert_eq!(ambient["in_force"], "2000");
    // Withdrawn it is gone, by a capsule made anew.
    node.define("site_raw", "");
    node.await_event("site_raw", "restart-needed", "raw sockets changed");
    plab_tests::eventually("the capsule without it", || {
        (inside(&node, "site_raw", "caps") == "ok 0 0 0 0 0").then_some(())
    });
    assert_eq!(inside(&node, "site_raw", "make 2 3 1"), "EPERM");
    finish(node);
}

#[test]
fn a_plabd_that_has_not_the_capability_gives_it_to_nobody_and_says_so() {
    let node = TestNode::start_by("raw-without", "", |_| {
        let mut without = std::process::Command::new("setpriv");
        without.args(["--inh-caps", "-net_raw", "--bounding-set", "-net_raw"]).arg(binary("plabd"));
        without
    });
    let asked = TestNode::definition("site_raw", "[network]\nraw = [\"icmp\"]\n");
    let said = node.plab_with_input(&["apply", "-"], asked.as_bytes());
    assert_ne!(said.code, 0, "{said:?}");
    for words in ["could not grant CAP_NET_RAW", "CapabilityBoundingSet= in `systemctl cat plabd`"] {
        assert!(said.stderr.contains(words), "{said:?}");
    }
    slice(&node, "site_none", "");
    finish(node);
}

#[test]
fn what_is_withdrawn_is_gone_before_the_capsule_is() {
    let node = TestNode::start_with("raw-withdrawn", "[defaults]\nstop_grace = \"60s\"\n");
    let stop = "#!/bin/sh\nuntil [ -e $HOME/go ]; do sleep 0.1; done\nkill -TERM -1\n";
    slice(&node, "site_raw", "[network]\nraw = [\"udp\"]\nports = [\"udp/8656\"]\n");
    node.put("site_raw", "PlanetLab-control/stop", stop.as_bytes(), 0o755);
    let mut actor = Actor::inside(&node, "site_raw").listen("udp 127.0.0.1");
    for words in ["raw udp 127.0.0.1 8656 9", "from_kept 127.0.0.1 8656 9"] {
        assert_eq!(actor.ask(words), "ok sent", "{words}");
    }
    let without = TestNode::definition("site_raw", "[network]\nports = [\"udp/8656\"]\n");
    std::fs::write(node.definition_path("site_raw"), without).expect("write");
    node.await_event("site_raw", "hook-started", "stop");
    for words in ["raw udp 127.0.0.1 8656 9", "from_kept 127.0.0.1 8656 9"] {
        assert_eq!(actor.ask(words), "EPERM", "{words}");
    }
    assert_eq!(actor.ask("caps"), "ok 2000 2000 2000 2000 2000", "it is the former capsule");
    std::fs::write(node.home("site_raw").join("go"), "").expect("write");
    node.await_event("site_raw", "capsule-stopped", "definition changed");
    finish(node);
}

#[test]
fn a_profile_of_the_sites_own_opens_no_packet_socket() {
    let node = TestNode::start("raw-profile");
    let text = include_str!("../../../config/profiles/seccomp/default.toml");
    // Without the rules on sockets' arguments: they are what a site's own may have forgotten.
    let mut wide = String::new();
    let text = text.replacen("\"default\"", "\"wide\"", 1);
    for block in text.split_inclusive("\n\n") {
        if !(block.contains("calls = [\"socket\"]") && block.contains("[[deny]]")) {
            wide.push_str(block);
        }
    }
    let directory = node.root().join("etc/planetlab/seccomp");
    std::fs::create_dir_all(&directory).expect("make the directory of profiles");
    std::fs::write(directory.join("wide.toml"), wide).expect("write");
    slice(&node, "site_raw", &format!("{BOTH}[seccomp]\nprofile = \"wide\"\n"));
    slice(&node, "site_none", "[seccomp]\nprofile = \"wide\"\n");
    assert_eq!(inside(&node, "site_raw", "make 17 3 768"), "EPERM");
    assert_eq!(inside(&node, "site_raw", "make 2 3 1"), "ok made");
    assert_eq!(outside("make 17 3 768"), "ok made", "the control");
    // SOCK_PACKET, by which AF_INET becomes AF_PACKET.
    assert_eq!(inside(&node, "site_raw", "make 2 10 768"), "EPERM");
    assert_eq!(outside("make 2 10 768"), "ok made", "the control");
    // The profile is as wide as meant: what the default one refuses of sockets beside families can be made.
    for slice in ["site_raw", "site_none"] {
        assert_eq!(inside(&node, slice, "make 16 3 4"), "ok made", "{slice}: NETLINK_SOCK_DIAG");
    }
    finish(node);
}

#[test]
fn a_capsule_has_so_many_raw_sockets_and_no_more() {
    let node = TestNode::start("raw-several");
    slice(&node, "site_raw", "[network]\nraw = [\"icmp\", \"icmpv6\", \"udp\", \"tcp\"]\n");
    slice(&node, "site_other", "[network]\nraw = [\"icmp\"]\n");
    assert_eq!(outside("several 2 6 100"), "ok 100", "the control");
    // Those that were closed do not count, of whatever family.
    for words in ["2 6 100", "10 58 100", "2 1 100"] {
        assert_eq!(inside(&node, "site_raw", &format!("several {words}")), "ok 64 EPERM", "{words}");
    }
    assert_eq!(inside(&node, "site_other", "several 2 1 64"), "ok 64", "another slice's are its own");
    // What one has is missing for all of its processes.
    let hears = Actor::inside(&node, "site_raw").listen("tcp 127.0.0.1");
    assert_eq!(inside(&node, "site_raw", "several 2 6 100"), "ok 63 EPERM");
    drop(hears);
    eventually("its end is seen", || {
        (inside(&node, "site_raw", "several 2 6 100") == "ok 64 EPERM").then_some(())
    });
    finish(node);
}

#[test]
fn stock_ping_and_python_reach_a_far_host_and_the_node() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-tools");
    slice(&node, "site_raw", BOTH);
    slice(&node, "site_none", "");
    for address in [far.v4(), far.v6(), "127.0.0.1", "::1"] {
        let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "20", address];
        let said = node.exec("site_raw", &ping);
        assert!(said.code == 0 && said.stdout.contains("2 received"), "{address}: {said:?}");
        assert_ne!(node.exec("site_none", &ping).code, 0, "{address}: without raw");
        assert_eq!(inside(&node, "site_raw", &format!("echo {address} 4711")), "ok True 4711 plab");
    }
    // More than fits one packet: the kernel cuts it into fragments after it was looked at.
    let large = node.exec("site_raw", &["ping", "-n", "-c", "1", "-s", "4000", "-W", "20", far.v4()]);
    assert!(large.code == 0, "{large:?}");
    // The classic traceroute: datagrams from an ordinary socket, errors by a raw one.
    for (address, said) in [(far.v4(), "ok type 3 code 3 own True"), (far.v6(), "ok type 1 code 4 own True")]
    {
        assert_eq!(inside(&node, "site_raw", &format!("error {address} 33434")), said, "{address}");
    }
    finish(node);
}

#[test]
fn nothing_is_heard_that_is_not_the_slices_own() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-sniff");
    slice(&node, "site_raw", BOTH);
    slice(&node, "site_other", BOTH);
    for (protocol, address, local) in [("icmp", far.v4(), "127.0.0.1"), ("icmpv6", far.v6(), "::1")] {
        let words = format!("{protocol} {address}");
        let control = Actor::outside().listen(&words);
        let listener = Actor::inside(&node, "site_raw").listen(&words);
        // Another slice's echo and error, root's echo and error, an echo request from outside and on loopback.
        for to in [address, local] {
            assert_eq!(inside(&node, "site_other", &format!("echo {to} 815")), "ok True 815 plab");
            assert_eq!(outside(&format!("answered {to} 816")), "ok 816");
        }
        assert!(inside(&node, "site_other", &format!("error {address} 33434")).contains("own True"));
        assert!(outside(&format!("error {address} 33434")).contains("own True"));
        far.ping_back(address);
        assert_eq!(listener.heard(), 0, "{address}");
        let heard = control.heard();
        assert!(heard >= 7, "the control heard {heard}");
    }
    finish(node);
}

#[test]
fn an_echo_id_is_its_first_users() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-ids");
    slice(&node, "site_raw", BOTH);
    slice(&node, "site_other", BOTH);
    for address in [far.v4(), far.v6()] {
        assert_eq!(inside(&node, "site_raw", &format!("echo {address} 900 1")), "ok True 900 plab");
        // To the same host or another, it is not to be had; the next is, and its owner goes on.
        assert_eq!(inside(&node, "site_other", &format!("echo {address} 900 1")), "EPERM");
        assert_eq!(inside(&node, "site_other", &format!("echo {address} 901 1")), "ok True 901 plab");
        assert_eq!(inside(&node, "site_raw", &format!("echo {address} 900 2")), "ok True 900 plab");
    }
    // Nobody takes them all: at most 1,024 in a minute; two times that, should one begin meanwhile.
    let said = inside(&node, "site_other", &format!("ids {} 10000 2100", far.v4()));
    let sent = said.strip_prefix("ok ").and_then(|said| said.strip_suffix(" then EPERM"));
    let sent: u32 = sent.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(sent <= 2048, "{said}");
    assert_eq!(inside(&node, "site_raw", &format!("echo {} 903 1", far.v4())), "ok True 903 plab");
    finish(node);
}

#[test]
fn options_and_addresses_that_reach_further_are_not_to_be_had() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-forge");
    slice(&node, "site_raw", BOTH);
    // Options that would reach further, by family, protocol, level, name.
    for words in [
        "2 1 0 4",     // IP_OPTIONS
        "2 1 0 5",     // IP_ROUTER_ALERT
        "2 1 0 15",    // IP_FREEBIND
        "10 58 41 78", // IPV6_FREEBIND
    ] {
        assert_eq!(inside(&node, "site_raw", &format!("option {words}")), "EPERM", "{words}");
    }
    assert_eq!(inside(&node, "site_raw", "option 2 1 0 3"), "ok set", "IP_HDRINCL, which is looked at");
    // To be the node's multicast router; root would become it, so what is not refused is its control.
    assert_eq!(inside(&node, "site_raw", "option 10 58 41 200"), "EPERM", "MRT6_INIT");
    assert_eq!(inside(&node, "site_raw", "option 2 1 0 2"), "ok set", "IP_TTL");
    assert_eq!(inside(&node, "site_raw", "option 10 58 41 16"), "ok set", "IPV6_UNICAST_HOPS");
    // IP_RECVERR and IPV6_RECVERR, by which the kernel queues others' errors past every filter. ping wants to set them,
    // so it may; they are not set.
    for words in ["recverr 2 1 0 11", "recverr 2 1 0 26", "recverr 10 58 41 25", "recverr 10 58 41 31"] {
        assert_eq!(inside(&node, "site_raw", words), "ok is 0", "{words}");
        assert_eq!(outside(words), "ok is 1", "{words}: the control");
    }
    // An address that is not the node's: by bind, and by IP_PKTINFO.
    assert_eq!(inside(&node, "site_raw", &format!("bound {}", far.v4())), "EADDRNOTAVAIL");
    assert_eq!(inside(&node, "site_raw", &format!("bound {}", far.v6())), "EADDRNOTAVAIL");
    assert_eq!(inside(&node, "site_raw", "bound 127.0.0.1"), "ok bound");
    let spoofed = format!("ancillary {} 0 8 00000000{}00000000", far.v4(), far.v4_hex());
    // Which of the two is the kernel's release.
    let said = inside(&node, "site_raw", &spoofed);
    assert!(["EINVAL", "ENETUNREACH"].contains(&said.as_str()), "{said}");
    let honest = format!("ancillary {} 0 8 000000000000000000000000", far.v4());
    assert_eq!(inside(&node, "site_raw", &honest), "ok sent");
    finish(node);
}
