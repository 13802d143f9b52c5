//! Who sent what to whom, of what capsules really send: each kind of traffic, and more flows than there is room for.

use plab_tests::{TestNode, eventually, eventually_or, slowness};
use serde_json::Value;

fn json(node: &TestNode, args: &[&str]) -> Value {
    let output = node.plab(&[args, &["--json"]].concat());
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn python(node: &TestNode, slice: &str, script: &str) -> String {
    node.exec(slice, &["python3", "-c", script]).ok()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no count: {value}"))
}

/// The flows of a slice to an address and a port, once there are some of which `complete` holds.
fn flows(node: &TestNode, slice: &str, to: &str, complete: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut last = Vec::new();
    eventually_or(
        || {
            let all = json(node, &["flows", slice, "--to", to]);
            last = all["flows"].as_array().expect("flows").clone();
            (!last.is_empty() && complete(&last)).then(|| last.clone())
        },
        || format!("the flows of {slice} to {to}"),
    )
}

fn sum(flows: &[Value], what: &str) -> u64 {
    flows.iter().map(|flow| count(&flow[what])).sum()
}

#[test]
fn a_tcp_connection_has_its_bytes_and_its_end_on_record() {
    const PAYLOAD: u64 = 50_000;
    let node = TestNode::start("traffic-tcp");
    node.define("site_a", "");
    let port = python(
        &node,
        "site_a",
        &format!(
            "import socket\n\
             s = socket.create_server(('127.0.0.1', 0)); port = s.getsockname()[1]\n\
             c = socket.create_connection(('127.0.0.1', port)); a, _ = s.accept()\n\
             a.sendall(b'y' * 1000); c.sendall(b'x' * {PAYLOAD}); c.shutdown(socket.SHUT_WR)\n\
             got = 0\n\
             while n := len(a.recv(65536)): got += n\n\
             assert got == {PAYLOAD}, got\n\
             a.close()\n\
             while c.recv(65536): pass\n\
             c.close(); print(port)"
        ),
    );
    let to = format!("127.0.0.1:{}", port.trim());
    let ended = |flows: &[Value]| flows.iter().any(|flow| flow["ended"] == true);
    let found = flows(&node, "site_a", &to, ended);
    assert!(
        found.iter().all(|flow| flow["protocol"] == 6 && flow["first"] == found[0]["first"]),
        "{found:?}"
    );
    // How TCP cuts it into packets is its own matter; these have headers.
    let (packets, bytes) = (sum(&found, "packets_out"), sum(&found, "bytes_out"));
    assert!(packets >= 3 && bytes >= PAYLOAD + 40 * packets, "{found:?}");
    assert!(sum(&found, "bytes_in") >= 1000, "{found:?}");
    let table = node.plab(&["flows", "site_a", "--to", &to]).ok();
    assert!(table.contains("tcp") && table.contains(&to), "{table}");
    node.finish();
}

#[test]
fn of_what_two_processes_send_from_one_socket_to_two_ports_nothing_is_missing() {
    const EACH: u64 = 20_000;
    let node = TestNode::start("traffic-shared-socket");
    node.define("site_a", "");
    // Mostly the same flow again, now and then the other.
    python(
        &node,
        "site_a",
        &format!(
            "import os, socket\n\
             s = socket.socket(2, 2); s.bind(('127.0.0.1', 0))\n\
             child = os.fork()\n\
             for n in range({EACH}):\n\
             \x20s.sendto(b'four', ('127.202.0.7', 9 + (n % 50 == 0)))\n\
             if child: assert os.waitpid(child, 0)[1] == 0\n\
             else: os._exit(0)"
        ),
    );
    let found = flows(&node, "site_a", "127.202.0.7", |flows| sum(flows, "packets_out") >= 2 * EACH);
    assert_eq!(sum(&found, "packets_out"), 2 * EACH, "{found:?}");
    assert_eq!(sum(&found, "bytes_out"), 2 * EACH * (20 + 8 + 4), "{found:?}");
    let other = found.iter().filter(|flow| flow["remote_port"] == 10).map(|flow| count(&flow["packets_out"]));
    assert_eq!(other.sum::<u64>(), 2 * EACH / 50, "{found:?}");
    assert_eq!(node.status("site_a")["traffic"]["packets_out"], 2 * EACH);
    node.finish();
}

#[test]
fn an_echo_of_icmp_is_on_record_with_its_identifier() {
    let node = TestNode::start("traffic-icmp");
    node.define("site_a", "[network]\nraw = [\"icmp\"]\n");
    // Type 8, code 0, the checksum, identifier 4660, sequence 1, four bytes.
    python(
        &node,
        "site_a",
        "import socket, struct\n\
         head = struct.pack('!BBHHH4s', 8, 0, 0, 4660, 1, b'plab')\n\
         total = sum(struct.unpack('!6H', head)); total = (total & 0xffff) + (total >> 16)\n\
         packet = head[:2] + struct.pack('!H', ~total & 0xffff) + head[4:]\n\
         socket.socket(2, 3, 1).sendto(packet, ('127.9.9.9', 0))",
    );
    let found = flows(&node, "site_a", "127.9.9.9", |flows| sum(flows, "packets_out") > 0);
    assert_eq!((sum(&found, "packets_out"), sum(&found, "bytes_out")), (1, 20 + 12), "{found:?}");
    assert!(found.iter().all(|flow| flow["protocol"] == 1 && flow["local_port"] == 4660), "{found:?}");
    let sender = json(&node, &["who-sent", "--to", "127.9.9.9", "--proto", "icmp"])["senders"][0].clone();
    assert_eq!((&sender["slice"], &sender["packets_out"]), (&"site_a".into(), &1.into()));
    node.finish();
}

#[test]
fn what_was_refused_is_counted_and_shown() {
    let node = TestNode::start("traffic-refused");
    node.define("site_a", "");
    let refused = |node: &TestNode| node.plab(&["status", "site_a"]).ok();
    assert!(!refused(&node).contains("to opt-outs"), "nothing was refused yet");
    node.plab(&["opt-out", "add", "127.200.0.0/16"]).ok();
    let said = python(
        &node,
        "site_a",
        "import socket\n\
         s = socket.socket(2, 2); said = set()\n\
         for _ in range(3):\n\
         \x20try: s.sendto(b'x', ('127.200.0.7', 9)); said.add('sent')\n\
         \x20except PermissionError: said.add('EPERM')\n\
         s.sendto(b'x', ('127.201.0.7', 9)); print(*said)",
    );
    assert_eq!(said.trim(), "EPERM");
    assert_eq!(node.status("site_a")["network_refused"]["opt_out"], 3);
    let shown = refused(&node);
    assert!(shown.contains("3 to opt-outs, 0 by port, 0 to the node's services, 0 others"), "{shown}");
    // On record it is as refused, and not as sent.
    let found = flows(&node, "site_a", "127.200.0.7:9", |flows| sum(flows, "refused") >= 3);
    assert_eq!((sum(&found, "refused"), sum(&found, "packets_out")), (3, 0), "{found:?}");
    flows(&node, "site_a", "127.201.0.7:9", |flows| sum(flows, "packets_out") == 1);
    assert_eq!(node.status("site_a")["traffic"]["packets_out"], 1);
    node.finish();
}

/// What a directory takes of the disk, in bytes. Files may go while it is looked at.
fn size(directory: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).expect("read the store's directory");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|data| data.blocks() * 512).sum()
}

/// A line of /proc/PID/status, in KiB.
fn memory(pid: u32, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let value = text.lines().find_map(|have| have.strip_prefix(line)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line} in {text}"))
}

/// Flows of the flood: each to another of these addresses.
const FLOOD: u64 = 1_000_000;
const FLOODED: &str = "127.64.0.0/12";
/// plabd may have at most this much more memory at its peak than before, in KiB.
const MORE_KIB: u64 = 64 << 10;
/// What the store may take: enough for all of it, so that every packet can be accounted for.
const STORE: u64 = 160 << 20;

/// Sends a datagram to each of so many addresses from site_flood, and some to 127.7.7.7:9 from site_calm meanwhile, the last
/// one afterwards. The largest size of the store that was seen, and how many the latter were.
fn flooded(node: &TestNode, flood: u64) -> (u64, u64) {
    let store = node.root().join("var/lib/planetlab/flows");
    // Ports on which nobody listens.
    let script = format!(
        "import socket; send = socket.socket(2, 2).sendto\n\
         for n in range({flood}): send(b'x', (f'127.{{64 + (n >> 16)}}.{{n >> 8 & 255}}.{{n & 255}}', 1 + n % 6))"
    );
    let mut largest = 0;
    let mut calm = 0;
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| node.exec("site_flood", &["python3", "-c", &script]));
        // At least once after the flood, too.
        let mut over = false;
        while !over {
            over = flooding.is_finished();
            python(node, "site_calm", "import socket; socket.socket(2, 2).sendto(b'x', ('127.7.7.7', 9))");
            calm += 1;
            largest = largest.max(size(&store));
        }
        flooding.join().expect("the flood's thread").ok();
    });
    (largest, calm)
}

#[test]
fn a_million_flows_exhaust_nothing_and_another_slice_is_still_found() {
    let node = TestNode::start_with("traffic-flood", &format!("[flows]\nmax = \"{}M\"\n", STORE >> 20));
    node.define("site_flood", "");
    node.define("site_calm", "");
    let store = node.root().join("var/lib/planetlab/flows");
    let pid = node.daemon_pid();
    let flood = FLOOD / u64::from(slowness());
    // The first question is no part of the flood.
    json(&node, &["who-sent", "--to", FLOODED]);
    let before = memory(pid, "VmRSS:");
    let (mut largest, calm) = flooded(&node, flood);
    assert_eq!(node.status("site_flood")["traffic"]["packets_out"], flood);
    // What is on record and what is said to be lost are what was sent, to the packet.
    let mut found = Value::Null;
    let accounted =
        |found: &Value| count(&found["senders"][0]["packets_out"]) + count(&found["kept"]["lost_kernel"]);
    eventually_or(
        || {
            found = json(&node, &["who-sent", "--to", FLOODED, "--proto", "udp"]);
            (accounted(&found) >= flood).then_some(())
        },
        || format!("{flood} packets are on record or lost"),
    );
    assert_eq!(accounted(&found), flood, "{found}");
    let senders = found["senders"].as_array().expect("senders");
    assert_eq!((senders.len(), &senders[0]["slice"]), (1, &"site_flood".into()));
    // A capsule may have half of the slots that are free: not all was lost.
    assert!(count(&senders[0]["flows"]) >= 16_384.min(flood), "{found}");
    assert_eq!(
        (&found["kept"]["lost_store"], &found["kept"]["problems"]),
        (&0.into(), &Value::Array(vec![]))
    );
    // Who sends little has lost nothing by it.
    let found = eventually("the calm slice's packets", || {
        let found = json(&node, &["who-sent", "--to", "127.7.7.7:9"])["senders"].clone();
        (count(&found[0]["packets_out"]) >= calm).then_some(found)
    });
    assert_eq!(
        (&found[0]["slice"], &found[0]["packets_out"]),
        (&"site_calm".into(), &calm.into()),
        "{found}"
    );
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let more = memory(pid, "VmHWM:") - before;
    largest = largest.max(size(&store));
    println!("plabd took {more} KiB more, the store {} KiB; {calm} calm packets", largest >> 10);
    assert!(more <= MORE_KIB, "plabd took {more} KiB more");
    assert!(largest <= STORE, "the store took {largest} bytes");
    node.finish();
}

/// Of 16 MiB a part is the segments that are being written or sealed, which are not removed: at most this much beyond it.
const BEYOND: u64 = 8 << 20;

#[test]
fn a_flood_pushes_old_records_out_of_a_small_store_and_takes_no_more_of_the_disk() {
    let node = TestNode::start_with("traffic-small", "[flows]\nmax = \"16M\"\n");
    node.define("site_flood", "");
    node.define("site_calm", "");
    let flood = FLOOD / u64::from(slowness());
    let (largest, _) = flooded(&node, flood);
    println!("the store took at most {} KiB", largest >> 10);
    assert!(largest <= (16 << 20) + BEYOND, "the store took {largest} bytes");
    // The last datagram was sent after the flood.
    let found = eventually("the calm slice's last packet", || {
        let found = json(&node, &["who-sent", "--to", "127.7.7.7:9"])["senders"][0].clone();
        found.is_object().then_some(found)
    });
    assert_eq!(found["slice"], "site_calm");
    node.finish();
}
