//! Limits on what is sent and received, measured: iperf3 from a capsule over a link that the test makes. Rates are those on
//! the link, with its headers.
//!
//! Elsewhere no timing decides a test; here a rate is what is promised.

mod link;
mod rate;

use link::{Link, NODE_END, PEER4, Traffic, arriving, bandwidth, rates, sent};
use plab_tests::{TestNode, binary, eventually};
use rate::{Rate, fair, within};
use serde_json::Value;

const MBIT: f64 = 1e6;

fn on_the_link(more: &str) -> String {
    format!("[bandwidth]\ninterfaces = [\"{NODE_END}\"]\n{more}")
}

#[test]
fn a_slice_sends_no_more_than_its_rate_and_changes_it_live() {
    let link = Link::new();
    let node = link.node("bandwidth-rate", &on_the_link(""));
    node.define("site_free", "");
    assert!(!link.queue().contains("htb"), "without a limit there is nothing of ours: {}", link.queue());
    node.define("site_a", "[network]\nrate = \"20Mbit\"\n");
    assert!(link.queue().contains("htb"), "{}", link.queue());
    for traffic in Traffic::ALL {
        link.expect(&node, "site_a", traffic, false, 20.0 * MBIT);
    }
    let free = link.measure(&node, "site_free", Traffic::Free, false);
    assert!(free > 1.5 * 20.0 * MBIT, "a slice without a rate has {free:.0} bit/s");
    assert!(node.home_file("site_a", "PlanetLab-control/resources").contains("rate = 20000000\n"));
    // In mid-stream, under the same capsule.
    let pid = node.pid("site_a");
    let flood = link.flood(&node, "site_a", Traffic::Udp);
    for mbit in [10.0, 30.0] {
        node.define("site_a", &format!("[network]\nrate = \"{mbit}Mbit\"\n"));
        within(&format!("live at {mbit}"), mbit * MBIT, || arriving(&link));
    }
    assert_eq!(node.pid("site_a"), pid);
    drop(flood);
    let verified = node.plab(&["status", "site_a", "--verify"]).ok();
    assert!(verified.contains("rate on plabt0") && verified.contains("30Mbit"), "{verified}");
    // With the last limit everything of ours goes.
    node.define("site_a", "");
    assert!(!link.queue().contains("htb"), "{}", link.queue());
    node.finish();
}

#[test]
fn the_cap_of_the_node_is_kept_without_plabd_and_over_its_restart() {
    let link = Link::new();
    let mut node = link.node("bandwidth-cap", &on_the_link("out = \"20Mbit\"\n"));
    node.define("site_a", "");
    let shown = bandwidth(&node);
    assert_eq!((&shown["out"]["rate"], &shown["out"]["origin"]), (&20_000_000.into(), &"node-file".into()));
    for traffic in Traffic::ALL {
        link.expect(&node, "site_a", traffic, false, 20.0 * MBIT);
    }
    node.plab(&["bandwidth", "--out", "10Mbit"]).ok();
    // One stream, while plabd is killed, is not there, and comes again.
    let flood = link.flood(&node, "site_a", Traffic::Udp);
    within("before the kill", 10.0 * MBIT, || arriving(&link));
    let before = link.arrived();
    node.kill_daemon();
    within("without plabd", 10.0 * MBIT, || arriving(&link));
    link.restart(&mut node);
    node.await_state("site_a", "running");
    within("under the next plabd", 10.0 * MBIT, || arriving(&link));
    let whole = Rate::between(before, link.arrived());
    assert!(!whole.exceeds(10.5 * MBIT), "there was a gap: {whole:.0?} bit/s");
    drop(flood);
    let shown = bandwidth(&node);
    assert_eq!((&shown["out"]["rate"], &shown["out"]["origin"]), (&10_000_000.into(), &"live".into()));
    node.plab(&["bandwidth", "--out", "none"]).ok();
    assert!(!link.queue().contains("htb"), "{}", link.queue());
    let free = link.measure(&node, "site_a", Traffic::Free, false);
    assert!(free > 1.5 * 20.0 * MBIT, "without a cap there are {free:.0} bit/s");
    node.plab(&["bandwidth", "--out", "node-file"]).ok();
    assert_eq!(bandwidth(&node)["out"]["rate"], 20_000_000);
    assert!(link.queue().contains("htb"), "{}", link.queue());
    // The end in order takes it away; the next start brings it back.
    node.stop_daemon();
    assert!(!link.queue().contains("htb"), "{}", link.queue());
    link.restart(&mut node);
    assert!(link.queue().contains("htb"), "{}", link.queue());
    node.finish();
    assert!(!link.queue().contains("htb"), "{}", link.queue());
}

#[test]
fn many_slices_share_what_the_node_has() {
    const SLICES: usize = 8;
    let link = Link::new();
    let node = link.node("bandwidth-shares", &on_the_link("out = \"20Mbit\"\n"));
    let names: Vec<String> = (0..SLICES).map(|number| format!("site_{number}")).collect();
    for name in &names {
        node.define(name, "");
    }
    // First who keeps to the rules of TCP, then who does not; then one half each.
    let mixes: [fn(usize) -> Traffic; 3] = [
        |_| Traffic::Tcp,
        |_| Traffic::Udp,
        |number| if number % 2 == 0 { Traffic::Tcp } else { Traffic::Udp },
    ];
    for (mix, traffic) in mixes.into_iter().enumerate() {
        let floods: Vec<_> =
            names.iter().enumerate().map(|(number, name)| link.flood(&node, name, traffic(number))).collect();
        eventually("all send", || {
            let now = bandwidth(&node);
            names.iter().all(|name| sent(&now, Some(name)) > 1e5).then_some(())
        });
        let mut shares = Vec::new();
        within(&format!("sum of mix {mix}"), 20.0 * MBIT, || {
            shares = rates(&node, &names);
            shares.iter().copied().sum()
        });
        shares.pop();
        fair(&format!("mix {mix}"), shares, || rates(&node, &names)[..SLICES].to_vec());
        if mix == 1 {
            within("what the peer counts", 20.0 * MBIT, || arriving(&link));
        }
        drop(floods);
    }
    // One with a rate of its own below its share: the others have the rest.
    node.define(&names[0], "[network]\nrate = \"4Mbit\"\n");
    let floods: Vec<_> = names[..3].iter().map(|name| link.flood(&node, name, Traffic::Tcp)).collect();
    let mut shares = Vec::new();
    within("one with a rate", 4.0 * MBIT, || {
        shares = rates(&node, &names[..3]);
        shares[0]
    });
    fair("the rest", shares[1..3].to_vec(), || rates(&node, &names[..3])[1..3].to_vec());
    drop(floods);
    node.finish();
}

#[test]
fn what_is_received_is_limited_too() {
    let link = Link::new();
    let mut node = link.node("bandwidth-in", &on_the_link("in = \"20Mbit\"\n"));
    node.define("site_a", "");
    for traffic in Traffic::ALL {
        link.expect(&node, "site_a", traffic, true, 20.0 * MBIT);
    }
    assert!(bandwidth(&node)["received"]["bytes"].as_f64().expect("a count") > 1e7);
    let free = link.measure(&node, "site_a", Traffic::Free, false);
    assert!(free > 1.5 * 20.0 * MBIT, "what is sent is not limited: {free:.0} bit/s");
    node.plab(&["bandwidth", "--in", "10Mbit"]).ok();
    node.kill_daemon();
    link.restart(&mut node);
    link.expect(&node, "site_a", Traffic::Tcp, true, 10.0 * MBIT);
    node.plab(&["bandwidth", "--in", "none"]).ok();
    assert!(!link.queue().contains("ingress"), "{}", link.queue());
    let links = link.node_side.sh("ip -br link");
    assert_eq!(links.lines().count(), 2, "loopback and the link: {links}");
    node.finish();
}

#[test]
fn a_node_whose_limit_on_what_comes_is_taken_apart_still_hears_and_is_limited_again() {
    let link = Link::new();
    let node = link.node("bandwidth-deaf", &on_the_link("in = \"20Mbit\"\n"));
    let way_in = || link.node_side.sh("ip -o link show type ifb");
    let before = way_in();
    let name = before.split(": ").nth(1).expect("an interface").to_owned();
    link.node_side.sh(&format!("ip link del {name}"));
    eventually("there is another", || {
        let now = way_in();
        (!now.is_empty() && now != before).then_some(())
    });
    link.peer.sh("ping -n -c 1 -W 20 10.77.0.1");
    node.define("site_a", "");
    link.expect(&node, "site_a", Traffic::Udp, true, 20.0 * MBIT);
    node.finish();
}

#[test]
fn what_was_set_live_and_is_not_understood_is_not_passed_over() {
    let link = Link::new();
    let mut node = link.node("bandwidth-unread", &on_the_link(""));
    for (key, command) in
        [("bandwidth", ["bandwidth", "--out", "20Mbit"]), ("opt-outs", ["opt-out", "add", "10.77.0.0/24"])]
    {
        node.plab(&command).ok();
        node.stop_daemon();
        node.change_ledger(&format!("UPDATE meta SET value = 'of a later release' WHERE key = '{key}'"));
        let mut plabd = link.node_side.command(binary("plabd"));
        let refused = plabd.arg("--root").arg(node.root()).output().expect("run plabd");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{key}: {said}");
        assert!(said.contains(key) && said.contains("does not understand"), "{key}: {said}");
        node.change_ledger(&format!("DELETE FROM meta WHERE key = '{key}'"));
        link.restart(&mut node);
    }
    node.finish();
}

#[test]
fn no_slice_chooses_its_class() {
    let link = Link::new();
    let node = link.node("bandwidth-class", &on_the_link("out = \"100Mbit\"\n"));
    node.define("site_a", "");
    node.define("site_b", "");
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor p in range(7):\n \
         s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, p)\n \
         s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)\n \
         s.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, p)\n \
         [s.sendto(b'x' * 958, ('{PEER4}', 9)) for _ in range(100)]\n"
    );
    let before = bandwidth(&node);
    node.exec("site_a", &["python3", "-c", &script]).ok();
    eventually("all is on its way", || {
        let after = bandwidth(&node);
        let grown = sent(&after, Some("site_a")) - sent(&before, Some("site_a"));
        (grown >= 700.0 * 1000.0).then_some(())
    });
    let after = bandwidth(&node);
    assert!(sent(&after, Some("site_b")) < 1000.0, "{after}");
    let own = sent(&after, None) - sent(&before, None);
    assert!(own < 10_000.0, "the node's own class has grown by {own}");
    // The number of another's class cannot even be said.
    let other = after["classes"][2]["class"].as_str().expect("a class").replace(':', "");
    let say = format!(
        "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 0x{other})\n"
    );
    let refused = node.exec("site_a", &["python3", "-c", &say]);
    assert!(refused.stderr.contains("Operation not permitted"), "{refused:?}");
    node.finish();
}

#[test]
fn large_packets_gain_nothing() {
    let link = Link::new();
    let node = link.node("bandwidth-large", &on_the_link("out = \"20Mbit\"\n"));
    node.define("site_a", "");
    node.define("site_b", "");
    // One packet of 40 to the queue, until the interface sends it (UDP_SEGMENT): as large as there are.
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.IPPROTO_UDP, 103, 1400)\ns.connect(('{PEER4}', 9))\nwhile True:\n \
         try: s.send(b'x' * 56000)\n except ConnectionRefusedError: pass\n"
    );
    node.put("site_a", "large.py", script.as_bytes(), 0o644);
    node.put_hook("site_a", "start", "#!/bin/sh\nexec python3 large.py\n");
    node.plab(&["restart", "site_a"]).ok();
    let flood = link.flood(&node, "site_b", Traffic::Udp);
    eventually("both send", || {
        let now = bandwidth(&node);
        ["site_a", "site_b"].iter().all(|name| sent(&now, Some(name)) > 1e6).then_some(())
    });
    let names = ["site_a".to_owned(), "site_b".to_owned()];
    let look = || rates(&node, &names)[..2].to_vec();
    fair("large packets, small ones", look(), look);
    drop(flood);
    node.finish();
}

#[test]
fn what_an_administrator_has_put_there_stays() {
    let link = Link::new();
    let node = link.node("bandwidth-foreign", &on_the_link(""));
    node.define("site_a", "");
    link.node_side
        .sh(&format!("tc qdisc add dev {NODE_END} root handle 7: tbf rate 1gbit burst 1m latency 1s"));
    let refused = node.plab(&["bandwidth", "--out", "20Mbit"]);
    assert!(refused.code == 1 && refused.stderr.contains("tbf 7: is there"), "{refused:?}");
    assert!(link.queue().contains("tbf 7:"), "{}", link.queue());
    assert_eq!(bandwidth(&node)["out"]["rate"], Value::Null, "neither stored nor in force");
    // Whose definition cannot be enforced does not run, and is in nobody's way.
    let definition = TestNode::definition("site_b", "[network]\nrate = \"1Mbit\"\n");
    let refused = node.plab_with_input(&["apply", "-"], definition.as_bytes());
    assert!(refused.code == 1 && refused.stderr.contains("tbf 7: is there"), "{refused:?}");
    node.define("site_c", "");
    link.node_side.sh(&format!("tc qdisc del dev {NODE_END} root"));
    node.await_state("site_b", "running");
    assert!(link.queue().contains("htb"), "{}", link.queue());
    // Ours is put back when somebody takes it away.
    link.node_side.sh(&format!("tc qdisc del dev {NODE_END} root"));
    eventually("it is back", || link.queue().contains("htb").then_some(()));
    for bad in ["10M", "1bit", "0Mbit", "fast"] {
        let refused = node.plab(&["bandwidth", "--out", bad]);
        assert!(refused.code == 1 && refused.stderr.contains("expected a rate"), "{refused:?}");
    }
    node.finish();
}

#[test]
fn a_cap_that_cannot_be_kept_keeps_capsules_from_starting() {
    let link = Link::new();
    link.node_side
        .sh(&format!("tc qdisc add dev {NODE_END} root handle 7: tbf rate 1gbit burst 1m latency 1s"));
    let node = link.node("bandwidth-closed", &on_the_link("out = \"20Mbit\"\n"));
    let refused = node.plab_with_input(&["apply", "-"], TestNode::definition("site_a", "").as_bytes());
    assert!(refused.code == 1 && refused.stderr.contains("tbf 7: is there"), "{refused:?}");
    let problems = || node.node_status()["problems"].to_string();
    assert!(
        problems().contains("not every limit is in force") && problems().contains("tbf 7:"),
        "{}",
        problems()
    );
    let told = |kind: &str| node.events(None).iter().any(|event| event["kind"] == kind);
    assert!(told("bandwidth-failed") && !told("bandwidth-recovered"));
    // As soon as it can be kept, all goes on by itself.
    link.node_side.sh(&format!("tc qdisc del dev {NODE_END} root"));
    node.await_state("site_a", "running");
    eventually("nothing is wrong any more", || told("bandwidth-recovered").then_some(()));
    assert_eq!(problems(), "[]");
    assert!(link.queue().contains("htb"), "{}", link.queue());
    node.finish();
}

#[test]
fn the_default_routes_interface_is_limited_when_it_comes() {
    let link = Link::new();
    link.node_side.sh("ip route del default");
    let node = link.node("bandwidth-routes", "");
    node.define("site_a", "");
    let said = node.plab(&["bandwidth", "--out", "20Mbit"]).ok();
    assert!(said.contains("out: 20Mbit"), "{said}");
    assert!(!link.queue().contains("htb"), "{}", link.queue());
    link.node_side.sh("ip route add default via 10.77.0.2");
    eventually("the link is limited", || link.queue().contains("htb").then_some(()));
    link.expect(&node, "site_a", Traffic::Tcp, false, 20.0 * MBIT);
    // The route of the other version of IP, over another interface.
    link.node_side.sh("ip link add plabt2 type veth peer name plabt3
         ip link set plabt3 up
         ip link set plabt2 up
         ip -6 address add fd78::1/64 dev plabt2 nodad
         ip -6 route add default via fd78::2");
    eventually("the other one, too", || {
        link.node_side.sh("tc qdisc show dev plabt2").contains("htb").then_some(())
    });
    // A route that goes takes no limit with it.
    link.node_side.sh("ip route del default");
    node.plab(&["bandwidth", "--in", "20Mbit"]).ok();
    assert!(link.queue().contains("htb"), "{}", link.queue());
    let shown = bandwidth(&node);
    assert_eq!(shown["interfaces"], serde_json::json!(["plabt0", "plabt2"]));
    node.finish();
    assert!(!link.queue().contains("htb") && !link.queue().contains("ingress"), "{}", link.queue());
}

#[test]
fn opt_outs_are_added_live_counted_and_kept() {
    let link = Link::new();
    let mut node = link.node("bandwidth-opt-out", "[network]\nopt_out = [\"198.51.100.0/24\"]\n");
    node.define("site_a", "");
    let send = |node: &TestNode| {
        let script = format!(
            "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('{PEER4}', 9))\n"
        );
        node.exec("site_a", &["python3", "-c", &script]).code == 0
    };
    let list = |node: &TestNode| -> Value {
        serde_json::from_str(&node.plab(&["opt-out", "--json"]).ok()).expect("JSON")
    };
    assert!(send(&node));
    assert_eq!(list(&node)["refused"], serde_json::json!([]));
    node.plab(&["opt-out", "add", "10.77.0.0/24"]).ok();
    assert!(!send(&node), "it is refused");
    let expected = serde_json::json!([
        { "prefix": "10.77.0.0/24", "origin": "live" },
        { "prefix": "198.51.100.0/24", "origin": "node-file" },
    ]);
    assert_eq!(list(&node)["prefixes"], expected);
    let refused = list(&node)["refused"].clone();
    assert!(refused[0]["slice"] == "site_a" && refused[0]["count"].as_u64() >= Some(1), "{refused}");
    // Without plabd, and under the next.
    node.kill_daemon();
    link.restart(&mut node);
    node.await_state("site_a", "running");
    assert!(!send(&node));
    assert_eq!(list(&node)["prefixes"], expected);
    let fixed = node.plab(&["opt-out", "remove", "198.51.100.0/24"]);
    assert!(fixed.code == 1 && fixed.stderr.contains("stands in the node file"), "{fixed:?}");
    let wrong = node.plab(&["opt-out", "add", "10.77.0.1/24"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("\"10.77.0.0/24\""), "{wrong:?}");
    let absent = node.plab(&["opt-out", "remove", "192.0.2.0/24"]);
    assert!(absent.code == 1 && absent.stderr.contains("is no opt-out"), "{absent:?}");
    node.plab(&["opt-out", "remove", "10.77.0.0/24"]).ok();
    assert!(send(&node));
    let asked = node.events(None);
    let told =
        |words: &str| asked.iter().any(|event| event["message"].as_str().is_some_and(|m| m.contains(words)));
    assert!(told("root: opt-out add 10.77.0.0/24") && told("root: opt-out remove 10.77.0.0/24"));
    node.finish();
}
