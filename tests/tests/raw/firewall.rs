//! A firewall that tracks connections: it sees what raw sockets send before the programs can refuse it.

use std::os::unix::process::CommandExt;

use plab_tests::raw::inside;
use plab_tests::{Netns, TestNode, binary, eventually};
use serde_json::Value;

use super::{finish, slice};

const RAW: &str = "[network]\nraw = [\"udp\"]\n";

/// The smallest that tracks connections.
const TRACKING: &str =
    "nft 'add table inet plab; add chain inet plab out { type filter hook output priority 0; };
          add rule inet plab out ct state new accept'";

/// Empties the table, which forgets by itself within minutes: `IPCTNL_MSG_CT_DELETE` for all.
const FLUSH: &str = "python3 -c '
import socket, struct
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
kernel.send(struct.pack(\"=IHHIIBBH\", 20, 1 << 8 | 2, 5, 1, 0, 0, 0, 0))
error, = struct.unpack_from(\"=i\", kernel.recv(4096), 16)
assert error == 0, error
'";

/// A node in this network namespace.
fn node(name: &str, node_file: &str, namespace: &Netns) -> TestNode {
    TestNode::start_by(name, node_file, |_| namespace.command(binary("plabd")))
}

/// The connections in the table.
fn tracked(namespace: &Netns) -> u64 {
    namespace.sh("cat /proc/sys/net/netfilter/nf_conntrack_count").trim().parse().expect("a number")
}

fn problems(node: &TestNode) -> String {
    node.node_status()["problems"].to_string()
}

/// The node's problems, as a slice is told of them.
fn asked_by(node: &TestNode, slice: &str) -> String {
    let uid = u32::try_from(node.status(slice)["uid"].as_u64().expect("a UID")).expect("a UID");
    let mut plab = std::process::Command::new(binary("plab"));
    let asked = plab.arg("--root").arg(node.root()).args(["status", "--json"]).uid(uid).gid(uid).output();
    let told: Value = serde_json::from_slice(&asked.expect("start plab").stdout).expect("JSON");
    told["problems"].to_string()
}

#[test]
fn where_connections_are_tracked_raw_sockets_are_refused() {
    let namespace = Netns::new();
    let node = node("raw-tracked", "", &namespace);
    slice(&node, "site_raw", RAW);
    assert_eq!(problems(&node), "[]");
    // It comes while one is running: that is told, and what to do.
    namespace.sh(TRACKING);
    eventually("it is told", || problems(&node).contains("raw sockets in site_raw").then_some(()));
    eventually("and kept", || {
        node.events(None)
            .iter()
            .any(|event| event["kind"] == "firewall" && event["severity"] == "error")
            .then_some(())
    });
    // A new one is refused, by name; one without is none of its business.
    let refused = node.plab_with_input(&["apply", "-"], TestNode::definition("site_new", RAW).as_bytes());
    assert!(refused.code != 0 && refused.stderr.contains("network.untracked"), "{refused:?}");
    assert!(refused.stderr.contains("the firewall tracks connections"), "{refused:?}");
    slice(&node, "site_plain", "");
    assert!(!asked_by(&node, "site_plain").contains("site_raw"), "whose they are is nothing to others");
    assert!(asked_by(&node, "site_raw").contains("site_raw"));
    // And the one that was there does not begin again.
    assert_ne!(node.plab(&["restart", "site_raw"]).code, 0);
    let reason = eventually("it says why", || {
        let status = node.status("site_raw");
        let reason = status["detail"].as_str().unwrap_or_default().to_owned();
        (status["pid"].is_null() && reason.contains("network.untracked")).then_some(reason)
    });
    assert!(reason.contains("the firewall tracks connections"), "{reason}");
    assert_eq!(problems(&node), "[]", "no raw sockets are there any more");

    namespace.sh("nft delete table inet plab");
    namespace.sh(FLUSH);
    node.plab(&["restart", "site_raw"]).ok();
    assert_eq!(inside(&node, "site_raw", "raw udp 127.0.0.1 30001 9"), "EPERM");
    finish(node);
}

#[test]
fn where_the_node_file_lets_them_what_is_refused_is_tracked_all_the_same() {
    let namespace = Netns::new();
    namespace.sh(TRACKING);
    assert!(tracked(&namespace) < 20);
    let mut node = node("raw-tracked", "", &namespace);
    let lax = "degrade = [\"memory.oom-group\", \"audit\", \"network.untracked\"]";
    node.stop_daemon();
    let text = std::fs::read_to_string(node.root().join("etc/planetlab/node.toml")).expect("read");
    let text = text.replace("degrade = [\"memory.oom-group\", \"audit\"]", lax);
    std::fs::write(node.root().join("etc/planetlab/node.toml"), text).expect("write");
    node.start_daemon_by(namespace.command(binary("plabd")));
    slice(&node, "site_raw", RAW);
    assert!(node.node_status()["degraded"].to_string().contains("network.untracked"));
    // What it is refused for: others' ports, and nobody here that it could send to.
    namespace.sh("echo 3600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout");
    for port in 30_001..30_021 {
        assert_eq!(inside(&node, "site_raw", &format!("raw udp 127.0.0.1 {port} 9")), "EPERM");
    }
    assert!(tracked(&namespace) >= 20, "they are in the table: why `raw` wants to be allowed here");
    finish(node);
}
