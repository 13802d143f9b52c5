//! Ports as property: what a slice may bind, what it may reach, and what becomes of it when plabd ends or a port changes
//! hands. Every refusal has something beside it that is not refused.

mod actor;
mod streams;

use std::process::Command;

use actor::{Server, equip, inside, outside};
use plab_tests::raw::FarHost;
use plab_tests::{TestNode, binary, eventually};

/// The protocols, each with what a definition calls its ports.
const PROTOCOLS: [(&str, &str); 4] =
    [("tcp", "tcp"), ("mptcp", "tcp"), ("udp", "udp"), ("udplite", "udplite")];

const ADDRESSES: [&str; 5] = ["0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"];

fn ports(list: &[&str]) -> String {
    let quoted: Vec<String> = list.iter().map(|range| format!("\"{range}\"")).collect();
    format!("[network]\nports = [{}]\n", quoted.join(", "))
}

fn slice(node: &TestNode, name: &str, list: &[&str]) {
    node.define(name, &ports(list));
    equip(node, name);
}

/// Whether the kernel has the protocol at all: as root, outside.
fn kernel_has(protocol: &str) -> bool {
    outside(&format!("bind {protocol} 127.0.0.1 0")).starts_with("ok")
}

#[test]
fn a_slice_binds_its_ports_and_no_others() {
    let node = TestNode::start("ports-bind");
    slice(
        &node,
        "site_a",
        &["tcp/82", "tcp/8701-8709", "udp/82", "udp/8701-8709", "udplite/82", "udplite/8701-8709"],
    );
    slice(&node, "site_b", &["tcp/8801", "udp/8801", "udplite/8801"]);
    slice(&node, "site_none", &[]);
    let mut tried = 0;
    for (protocol, _) in PROTOCOLS.into_iter().filter(|(protocol, _)| kernel_has(protocol)) {
        for address in ADDRESSES {
            let bind = |slice, port: u16| inside(&node, slice, &format!("bind {protocol} {address} {port}"));
            let what = format!("{protocol} {address}");
            for port in [82, 8701, 8709] {
                assert_eq!(bind("site_a", port), format!("ok {port}"), "{what}: its own");
            }
            for port in [22, 83, 8700, 8710, 8801] {
                assert_eq!(bind("site_a", port), "EPERM", "{what} {port}");
            }
            assert_eq!(bind("site_b", 8801), "ok 8801", "{what}: the port can be bound");
            assert_eq!(bind("site_none", 8801), "EPERM", "{what}: the empty list means none");
            assert!(bind("site_none", 0).starts_with("ok"), "{what}: a port of the kernel's choice");
            tried += 1;
        }
    }
    assert!(tried >= 3 * ADDRESSES.len(), "only {tried} tried");
    for option in ["SO_REUSEADDR", "SO_REUSEPORT"] {
        let server = Server::inside(&node, "site_b", "tcp 127.0.0.1 8801 b");
        assert_eq!(inside(&node, "site_a", &format!("bind tcp 0.0.0.0 8801 {option}")), "EPERM");
        assert_eq!(inside(&node, "site_b", "connect tcp 127.0.0.1 8801"), "ok b");
        drop(server);
    }
    node.finish();
}

#[test]
fn who_comes_second_is_refused_by_name_and_gets_the_port_when_it_is_free() {
    let mut node = TestNode::start("ports-conflict");
    slice(&node, "site_first", &["tcp/8720-8729"]);
    let second = TestNode::definition("site_second", &ports(&["udp/8725", "tcp/8725"]));
    let refused = node.plab_with_input(&["apply", "-"], second.as_bytes());
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("tcp/8725 is site_first's"), "{refused:?}");
    let own = node
        .plab_with_input(&["apply", "-"], TestNode::definition("site_third", &ports(&["tcp/22"])).as_bytes());
    assert!(own.code != 0 && own.stderr.contains("the node's own"), "{own:?}");
    // Written into the directory it is refused as well, by this plabd and by the next, whatever the files' order.
    std::fs::write(node.root().join("etc/planetlab/slices.d/aaa.toml"), &second).expect("write");
    let is_refused = |node: &TestNode| {
        eventually("the second is refused", || {
            node.node_status()["refused"].to_string().contains("tcp/8725 is site_first's").then_some(())
        });
        assert_eq!(
            inside(node, "site_first", "bind tcp 0.0.0.0 8725"),
            "ok 8725",
            "the first is undisturbed"
        );
    };
    is_refused(&node);
    node.kill_daemon();
    node.start_daemon();
    is_refused(&node);
    // The first lets go of it: nobody has to touch the second's file.
    node.define("site_first", &ports(&["tcp/8720-8724"]));
    node.await_state("site_second", "running");
    equip(&node, "site_second");
    assert_eq!(inside(&node, "site_second", "bind tcp 0.0.0.0 8725"), "ok 8725");
    assert_eq!(inside(&node, "site_first", "bind tcp 0.0.0.0 8725"), "EPERM");
    assert_eq!(inside(&node, "site_first", "bind tcp 0.0.0.0 8724"), "ok 8724");
    // And when a slice goes, its ports are free.
    node.plab(&["rm", "--yes", "site_second"]).ok();
    node.define("site_first", &ports(&["tcp/8720-8725"]));
    assert_eq!(inside(&node, "site_first", "bind tcp 0.0.0.0 8725"), "ok 8725");
    node.finish();
}

#[test]
fn a_file_that_takes_another_name_brings_its_ports_along() {
    let node = TestNode::start("ports-rename");
    let file = node.root().join("etc/planetlab/slices.d/one.toml");
    let says =
        |name: &str| std::fs::write(&file, TestNode::definition(name, &ports(&["tcp/8735"]))).expect("write");
    says("site_before");
    node.await_state("site_before", "running");
    equip(&node, "site_before");
    assert_eq!(inside(&node, "site_before", "bind tcp 0.0.0.0 8735"), "ok 8735");
    says("site_after");
    node.await_state("site_after", "running");
    equip(&node, "site_after");
    assert_eq!(inside(&node, "site_after", "bind tcp 0.0.0.0 8735"), "ok 8735");
    assert_eq!(node.node_status()["refused"].as_array().map(Vec::len), Some(0));
    node.finish();
}

#[test]
fn ports_change_under_a_running_capsule() {
    let node = TestNode::start("ports-live");
    slice(&node, "site_a", &["tcp/8731", "udp/8731"]);
    let pid = node.pid("site_a");
    assert_eq!(inside(&node, "site_a", "bind tcp 0.0.0.0 8732"), "EPERM");
    let tcp = Server::inside(&node, "site_a", "tcp 127.0.0.1 8731 a");
    let udp = Server::inside(&node, "site_a", "udp 127.0.0.1 8731 a");
    node.define("site_a", &ports(&["tcp/8731", "udp/8731", "tcp/8732"]));
    let kept = Server::inside(&node, "site_a", "tcp 127.0.0.1 8732 kept");
    for words in ["tcp 127.0.0.1 8731", "udp 127.0.0.1 8731"] {
        assert_eq!(inside(&node, "site_a", &format!("connect {words}")), "ok a", "{words}");
    }
    // Withdrawn, its sockets are closed, the listening one and the other; those on other ports are not.
    node.define("site_a", &ports(&["tcp/8732"]));
    assert!(tcp.ended().starts_with("ok ended E"), "closed under accept");
    assert_eq!(udp.ended(), "ok ended ECONNABORTED");
    assert_eq!(inside(&node, "site_a", "connect tcp 127.0.0.1 8732"), "ok kept");
    assert_eq!(inside(&node, "site_a", "bind tcp 0.0.0.0 8731"), "EPERM");
    node.await_event("site_a", "sockets-closed", "2 sockets");
    assert_eq!(node.pid("site_a"), pid, "the capsule is the same");
    drop(kept);
    assert!(node.home_file("site_a", "PlanetLab-control/resources").contains("ports = [\"tcp/8732\"]"));
    node.finish();
}

#[test]
fn the_kernel_chooses_no_port_that_is_somebodys() {
    let node = TestNode::start("ports-ephemeral");
    // Most of what the kernel chooses from: without the reservation a few tries would hit it.
    let (first, last) = (33_000, 58_000);
    slice(&node, "site_owner", &[&format!("tcp/{first}-{last}"), &format!("udp/{first}-{last}")]);
    slice(&node, "site_a", &[]);
    for protocol in ["tcp", "udp"] {
        for address in ["127.0.0.1", "::"] {
            let said = inside(&node, "site_a", &format!("ephemeral {protocol} {address} 300 {first} {last}"));
            assert_eq!(said, "ok 300 sockets, 0 within", "{protocol} {address}");
        }
    }
    assert_eq!(inside(&node, "site_a", &format!("implicit 100 {first} {last}")), "ok 300 sockets, 0 within");
    assert_eq!(inside(&node, "site_owner", &format!("bind tcp 0.0.0.0 {first}")), format!("ok {first}"));
    node.plab(&["rm", "--yes", "site_owner"]).ok();
    // The control: now the kernel does choose from there.
    let said = inside(&node, "site_a", &format!("ephemeral tcp 127.0.0.1 300 {first} {last}"));
    assert_ne!(said, "ok 300 sockets, 0 within");
    node.finish();
}

#[test]
fn enforcement_outlives_plabd() {
    let mut node = TestNode::start("ports-restart");
    slice(&node, "site_a", &["tcp/8741"]);
    slice(&node, "site_b", &["tcp/8742"]);
    // It tries both by itself, also while there is no plabd to carry a command.
    let script = "import errno, os, socket, time\n\
                  def tried(port):\n\
                  \x20   try:\n        with socket.socket() as s: s.bind(('127.0.0.1', port))\n        return 'ok'\n\
                  \x20   except OSError as e: return errno.errorcode[e.errno]\n\
                  while True:\n\
                  \x20   line = tried(8741) + ' ' + tried(8742)\n\
                  \x20   with open('tried', 'a') as f: f.write(line + chr(10))\n\
                  \x20   time.sleep(0.001)\n";
    node.put("site_a", "try.py", script.as_bytes(), 0o644);
    node.sh("site_a", "setsid python3 try.py > /dev/null 2>&1 < /dev/null &").ok();
    let goes_on = |node: &TestNode| {
        let lines = || std::fs::read(node.home("site_a").join("tried")).map_or(0, |text| text.len() / 9);
        let enough = lines() + 50;
        eventually("it goes on trying", || (lines() >= enough).then_some(()));
    };
    goes_on(&node);
    for _ in 0..3 {
        node.kill_daemon();
        goes_on(&node);
        node.start_daemon();
        let shown = node.plab(&["status", "site_a", "--verify", "--json"]).stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let rows = shown["slices"][0]["verify"].as_array().expect("rows");
        let network: Vec<_> = rows.iter().filter(|row| row["layer"] == "network").collect();
        assert!(network.len() > 9 && network.iter().all(|row| row["ok"] == true), "{network:?}");
    }
    goes_on(&node);
    let tried = node.home_file("site_a", "tried");
    // The last line may be half written.
    let lines: Vec<&str> = tried.lines().collect();
    let wrong = lines[..lines.len() - 1].iter().find(|line| **line != "ok EPERM");
    assert_eq!(wrong, None, "of {} lines", lines.len());
    node.finish();
}

#[test]
fn the_nodes_services_are_out_of_reach_and_slices_are_not() {
    let node =
        TestNode::start_with("ports-local", "[network]\nopen_loopback = [\"tcp/8752\", \"udp/8752\"]\n");
    slice(&node, "site_a", &[]);
    slice(&node, "site_b", &["tcp/8753", "udp/8753"]);
    for (address, mapped) in [("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")] {
        for protocol in ["tcp", "udp"] {
            let closed = Server::outside(&format!("{protocol} {address} 8751 node"));
            let open = Server::outside(&format!("{protocol} {address} 8752 open"));
            let high = Server::outside(&format!("{protocol} {address} 0 high"));
            let slices = Server::inside(&node, "site_b", &format!("{protocol} {address} 8753 b"));
            let own = Server::inside(&node, "site_b", &format!("{protocol} {address} 0 free"));
            for to in [address, mapped] {
                let connect = |port: u16| inside(&node, "site_a", &format!("connect {protocol} {to} {port}"));
                let what = format!("{protocol} {to}");
                assert_eq!(
                    outside(&format!("connect {protocol} {to} 8751")),
                    "ok node",
                    "{what}: the control"
                );
                assert_eq!(connect(8751), "EPERM", "{what}: a service of the node's");
                assert_eq!(connect(8752), "ok open", "{what}: one that is open");
                assert_eq!(connect(8753), "ok b", "{what}: another slice's port");
                assert_eq!(connect(own.port), "ok free", "{what}: another slice's, of the kernel's choice");
                // On a port that could be a capsule's, TCP finds out by its packets.
                let refused = if protocol == "tcp" { "timeout" } else { "EPERM" };
                if protocol == "udp" {
                    assert_eq!(connect(high.port), refused, "{what}: the node's, of the kernel's choice");
                }
                // And the node itself reaches the slice, and hears its answer.
                assert_eq!(outside(&format!("connect {protocol} {to} 8753")), "ok b", "{what}");
            }
            drop((closed, open, high, slices, own));
        }
    }
    assert_eq!(inside(&node, "site_a", "connect tcp 127.0.0.1 8759"), "ECONNREFUSED", "nobody listens");
    node.finish();
}

#[test]
fn a_service_on_the_nodes_own_addresses_is_refused_at_once() {
    let far = FarHost::set_up();
    let node = TestNode::start("ports-own-address");
    slice(&node, "site_a", &[]);
    slice(&node, "site_b", &["tcp/8755-8756", "udp/8755-8756"]);
    for address in far.here() {
        for protocol in ["tcp", "udp"] {
            let what = format!("{protocol} {address}");
            // One that is bound to a device is found by the kernel and not by a program that looks for it.
            let services = [
                Server::outside(&format!("{what} 8754 node")),
                Server::outside(&format!("{what} 8757 node {}", far.device())),
            ];
            let slices = Server::inside(&node, "site_b", &format!("{what} 8755 b"));
            let high = Server::inside(&node, "site_b", &format!("{what} 0 free"));
            let connect = |port: u16| inside(&node, "site_a", &format!("connect {what} {port}"));
            for port in [8754, 8757] {
                assert_eq!(outside(&format!("connect {what} {port}")), "ok node", "{what}: the control");
                assert_eq!(connect(port), "EPERM", "{what}: a service of the node's");
            }
            assert_eq!(connect(8755), "ok b", "{what}: another slice's port");
            assert_eq!(connect(high.port), "ok free", "{what}: another slice's, of the kernel's choice");
            assert_eq!(connect(8756), "ECONNREFUSED", "{what}: another slice's, on which nobody listens");
            assert_eq!(connect(8758), "EPERM", "{what}: nobody listens that could be looked up");
            drop((services, slices, high));
        }
    }
    node.finish();
}

#[test]
fn who_has_opted_out_hears_nothing() {
    let mut node =
        TestNode::start_with("ports-opt-out", "[network]\nopt_out = [\"127.9.0.0/16\", \"2001:db8::/32\"]\n");
    slice(&node, "site_a", &["tcp/8761", "udp/8761"]);
    let servers = [
        Server::inside(&node, "site_a", "tcp 0.0.0.0 8761 a"),
        Server::inside(&node, "site_a", "udp 0.0.0.0 8761 a"),
    ];
    let tried = |node: &TestNode, words: &str| inside(node, "site_a", words);
    for protocol in ["tcp", "udp"] {
        for address in ["127.9.1.1", "::ffff:127.9.1.1"] {
            assert_eq!(tried(&node, &format!("connect {protocol} {address} 8761")), "EPERM", "{address}");
        }
        for address in ["127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(tried(&node, &format!("connect {protocol} {address} 8761")), "ok a", "{address}");
        }
    }
    assert_eq!(tried(&node, "send udp 127.9.1.1 8761"), "EPERM");
    assert_eq!(tried(&node, "connect udp 2001:db8::1 8761"), "EPERM");
    // What looks at the machine beside plabd loads the same programs, and changes nothing.
    node.plab(&["check"]);
    assert_eq!(tried(&node, "send udp 127.9.1.1 8761"), "EPERM");
    // Without the line, they are as others.
    node.kill_daemon();
    node.write_node_file("");
    node.start_daemon();
    node.await_state("site_a", "running");
    assert_eq!(tried(&node, "send udp 127.9.1.1 8761"), "ok sent");
    drop(servers);
    node.finish();
}

#[test]
fn options_that_forge_addresses_are_refused() {
    let node = TestNode::start("ports-options");
    slice(&node, "site_a", &[]);
    // IP_FREEBIND, IPV6_FREEBIND, which need no privilege; and IP_TTL, which nobody minds.
    for (words, refused) in [("2 0 15", true), ("10 41 78", true), ("2 0 2", false)] {
        assert_eq!(outside(&format!("option {words}")), "ok set", "{words}");
        let expected = if refused { "EPERM" } else { "ok set" };
        assert_eq!(inside(&node, "site_a", &format!("option {words}")), expected, "{words}");
    }
    node.finish();
}

#[test]
fn the_ports_are_shown() {
    let node = TestNode::start("ports-shown");
    slice(&node, "site_a", &["tcp/8771", "udp/8772-8779"]);
    let server = Server::inside(&node, "site_a", "tcp 127.0.0.1 8771 a");
    let all: serde_json::Value = serde_json::from_str(&node.plab(&["ports", "--json"]).ok()).expect("JSON");
    let rows = all["ports"].as_array().expect("rows");
    let row = |ports: &str| {
        rows.iter().find(|row| row["ports"] == ports).unwrap_or_else(|| panic!("{ports}: {all}"))
    };
    assert_eq!(row("tcp/22")["slice"], serde_json::Value::Null);
    assert_eq!(row("udp/8772-8779")["listeners"], serde_json::json!([]));
    let listener = &row("tcp/8771")["listeners"][0];
    assert_eq!((listener["address"].as_str(), listener["port"].as_u64()), (Some("127.0.0.1"), Some(8771)));
    assert_eq!(listener["command"], "python3");
    let table = node.plab(&["ports", "site_a"]).ok();
    assert!(table.contains("127.0.0.1:8771 by python3") && !table.contains("(node)"), "{table}");
    assert!(node.plab(&["status", "site_a"]).ok().contains("tcp/8771, udp/8772-8779"));
    drop(server);
    node.finish();
}

/// Refuses bpf(2), as a kernel without it does, and becomes the program that is named.
const WITHOUT_BPF: &str = "import ctypes, os, struct, sys\n\
    ins = lambda *a: struct.pack('HBBI', *a)\n\
    prog = ins(0x20, 0, 0, 0) + ins(0x15, 0, 1, 321) + ins(0x06, 0, 0, 0x50001) + ins(0x06, 0, 0, 0x7fff0000)\n\
    held = ctypes.create_string_buffer(prog, len(prog))\n\
    fprog = struct.pack('HxxxxxxQ', 4, ctypes.addressof(held))\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    assert libc.prctl(22, 2, ctypes.c_char_p(fprog), 0, 0) == 0, ctypes.get_errno()\n\
    os.execv(sys.argv[1], sys.argv[1:])\n";

#[test]
fn a_socket_that_keeps_its_port_is_of_no_use_and_ends_when_another_gets_it() {
    let node = TestNode::start("ports-kept");
    slice(&node, "site_a", &["udp/8791-8792"]);
    slice(&node, "site_b", &[]);
    let listener = Server::inside(&node, "site_a", "udp 127.0.0.1 8792 a");
    node.put("site_a", "holder.py", include_bytes!("holder.py"), 0o644);
    let mut holder = Command::new(binary("plab"));
    holder.arg("--root").arg(node.root());
    holder.args(["exec", "site_a", "--", "python3", "holder.py", "8791", "8792"]);
    let mut holder = holder.stdin(std::process::Stdio::null()).spawn().expect("start plab");
    let said = |file: &str| {
        eventually(&format!("it says {file}"), || {
            let path = node.home("site_a").join(file);
            std::fs::read_to_string(path).ok().filter(|text| !text.is_empty())
        })
    };
    assert_eq!(said("before"), "sent");
    let pid = node.pid("site_a");
    node.define("site_a", &ports(&["udp/8792"]));
    node.put("site_a", "withdrawn", b"", 0o644);
    assert_eq!(said("after"), "ECONNABORTED EPERM");
    assert_eq!(node.pid("site_a"), pid, "nobody needs the port yet");
    // It would share the port with the next, who lets others do so, too.
    node.define("site_b", &ports(&["udp/8791"]));
    node.await_event("site_a", "restart-needed", "site_b's now");
    node.await_state("site_a", "running");
    assert_ne!(node.pid("site_a"), pid);
    assert_eq!(inside(&node, "site_b", "bind udp 127.0.0.1 8791"), "ok 8791");
    holder.wait().expect("wait for plab");
    drop(listener);
    node.finish();
}

#[test]
fn a_slice_of_the_ledger_does_not_start_without_bpf_either() {
    let mut node = TestNode::start("ports-ledger");
    slice(&node, "site_a", &["tcp/8795"]);
    assert_eq!(inside(&node, "site_a", "bind tcp 127.0.0.1 8795"), "ok 8795");
    node.kill_daemon();
    node.start_daemon_by(without_bpf());
    node.await_state("site_a", "failed");
    let detail = node.status("site_a")["detail"].to_string();
    assert!(detail.contains("hold to its network"), "{detail}");
    assert_eq!(node.status("site_a")["pid"], serde_json::Value::Null);
    node.kill_daemon();
    node.start_daemon();
    node.await_state("site_a", "running");
    node.finish();
}

fn without_bpf() -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_BPF]).arg(binary("plabd"));
    command
}

#[test]
fn without_bpf_nothing_starts_or_landlock_holds_tcp() {
    let mut node = TestNode::start_by("ports-degraded", "", |_| without_bpf());
    let list = ports(&["tcp/8781"]);
    let refused = node.plab_with_input(&["apply", "-"], TestNode::definition("site_a", &list).as_bytes());
    assert!(refused.code != 0 && refused.stderr.contains("cannot enforce network.bpf"), "{refused:?}");
    node.kill_daemon();
    let file = node.root().join("etc/planetlab/node.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, text.replace("degrade = [", "degrade = [\"network.bpf\", ")).expect("write");
    node.start_daemon_by(without_bpf());
    assert!(node.node_status()["degraded"].to_string().contains("network.bpf"));
    slice(&node, "site_a", &["tcp/8781"]);
    let bind = |node: &TestNode, port: u16| inside(node, "site_a", &format!("bind tcp 127.0.0.1 {port}"));
    assert_eq!(bind(&node, 8781), "ok 8781");
    assert_eq!(bind(&node, 8782), "EACCES");
    assert!(bind(&node, 0).starts_with("ok"));
    // Landlock cannot be loosened, so here a change takes a new capsule.
    let pid = node.pid("site_a");
    slice(&node, "site_a", &["tcp/8781-8782"]);
    assert_eq!(bind(&node, 8782), "ok 8782");
    assert_ne!(node.pid("site_a"), pid);
    node.finish();
}
