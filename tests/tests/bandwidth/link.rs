//! A node behind a link of its own: plabd and its capsules in one network namespace, a peer at the other end in another.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use plab_tests::{Netns, TestNode, binary, eventually};
use serde_json::Value;

use crate::rate::{Count, Rate, SECONDS, growing, within};

/// The node's end of the link. No interface of the machine has that name: what the node file says of it concerns none.
pub const NODE_END: &str = "plabt0";
/// The peer's addresses.
pub const PEER4: &str = "10.77.0.2";
pub const PEER6: &str = "fd77::2";

/// Bytes on the link for one of payload: Ethernet, IP and transport headers around a full packet.
const TCP4: f64 = 1514.0 / 1448.0;
const TCP6: f64 = 1514.0 / 1428.0;
const UDP4: f64 = (1400.0 + 42.0) / 1400.0;

/// What iperf3 is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    Tcp,
    Tcp6,
    Udp,
    /// More than any limit here, and not as much as a machine can do.
    Free,
}

impl Traffic {
    /// What every limit holds.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Tcp6, Self::Udp];

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &["-c", PEER4],
            Self::Tcp6 => &["-c", PEER6],
            // As fast as the socket takes it, which is more than any limit here.
            Self::Udp => &["-c", PEER4, "-u", "-b", "100M", "-l", "1400"],
            Self::Free => &["-c", PEER4, "-u", "-b", "50M", "-l", "1400"],
        }
    }

    fn on_the_link(self) -> f64 {
        match self {
            Self::Tcp => TCP4,
            Self::Tcp6 => TCP6,
            Self::Udp | Self::Free => UDP4,
        }
    }
}

/// Ports on which peers listen, each once.
static PORT: AtomicU16 = AtomicU16::new(5300);

pub struct Link {
    pub node_side: Netns,
    pub peer: Netns,
}

/// A program of the test's, ended with it.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Link {
    pub fn new() -> Self {
        let (node_side, peer) = (Netns::new(), Netns::new());
        node_side.sh(&format!(
            "ip link add {NODE_END} type veth peer name plabt1 netns {}
             ip link set {NODE_END} up
             ip address add 10.77.0.1/24 dev {NODE_END}
             ip -6 address add fd77::1/64 dev {NODE_END} nodad",
            peer.pid()
        ));
        peer.sh("ip link set plabt1 up
             ip address add 10.77.0.2/24 dev plabt1
             ip -6 address add fd77::2/64 dev plabt1 nodad");
        node_side.sh("ip route add default via 10.77.0.2");
        Self { node_side, peer }
    }

    /// A node on this side of the link.
    pub fn node(&self, name: &str, node_file: &str) -> TestNode {
        TestNode::start_by(name, node_file, |_| self.node_side.command(binary("plabd")))
    }

    /// Starts plabd again where it was.
    pub fn restart(&self, node: &mut TestNode) {
        node.start_daemon_by(self.node_side.command(binary("plabd")));
    }

    /// An iperf3 server for one client, listening.
    fn server(&self) -> (u16, Running) {
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let server = self
            .peer
            .command("iperf3")
            .args(["-s", "-1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start iperf3");
        let server = Running(server);
        eventually("iperf3 listens", || {
            let listening = self.peer.sh(&format!("ss -Hltn 'sport = {port}'"));
            (!listening.is_empty()).then_some(())
        });
        (port, server)
    }

    /// Traffic between a slice and the peer for so long, after one second that does not count, from the slice unless
    /// `to_slice`: what came, in bits a second on the link.
    pub fn measure(&self, node: &TestNode, slice: &str, traffic: Traffic, to_slice: bool) -> f64 {
        let (port, _server) = self.server();
        let (port, seconds) = (port.to_string(), SECONDS.to_string());
        let mut argv = vec!["iperf3", "-J", "-O", "1", "-t", &seconds, "-p", &port];
        argv.extend(traffic.arguments());
        if to_slice {
            argv.push("-R");
        }
        let output = node.exec(slice, &argv);
        let said: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let payload = said["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap_or_else(|| panic!("{traffic:?}: {output:?}"));
        payload * traffic.on_the_link()
    }

    /// [`Self::measure`] until it is what it should be.
    pub fn expect(&self, node: &TestNode, slice: &str, traffic: Traffic, to_slice: bool, rate: f64) {
        within(&format!("{traffic:?} of {slice}, to it: {to_slice}"), rate, || {
            Rate::of(self.measure(node, slice, traffic, to_slice))
        });
    }

    /// Traffic that goes on until it is dropped: iperf3's client in the slice, and its server.
    pub fn flood(&self, node: &TestNode, slice: &str, traffic: Traffic) -> (Running, Running) {
        let (port, server) = self.server();
        let client = std::process::Command::new(binary("plab"))
            .arg("--root")
            .arg(node.root())
            .args(["exec", slice, "--", "iperf3", "-t", "3600", "-p", &port.to_string()])
            .args(traffic.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start plab");
        (Running(client), server)
    }

    /// Bytes that have come to the peer.
    pub fn arrived(&self) -> Count {
        let counts = Count::all(|| {
            let said = self.peer.sh("ip -j -s link show plabt1");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            vec![said[0]["stats64"]["rx"]["bytes"].as_f64().expect("a number")]
        });
        counts[0]
    }

    /// What tc(8) says about the node's end.
    pub fn queue(&self) -> String {
        self.node_side.sh(&format!("tc qdisc show dev {NODE_END}"))
    }
}

/// The rate of each of these slices, and last of what is no capsule's, while the test waits.
pub fn rates(node: &TestNode, names: &[String]) -> Vec<Rate> {
    growing(|| {
        Count::all(|| {
            let now = bandwidth(node);
            let slices = names.iter().map(|name| sent(&now, Some(name)));
            slices.chain([sent(&now, None)]).collect()
        })
    })
}

/// What came to the peer while the test waited.
pub fn arriving(link: &Link) -> Rate {
    growing(|| vec![link.arrived()])[0]
}

/// plabd's answer about limits.
pub fn bandwidth(node: &TestNode) -> Value {
    serde_json::from_str(&node.plab(&["bandwidth", "--json"]).ok()).expect("JSON")
}

/// Bytes that a slice has sent by its class's count; what is no capsule's, without a slice.
pub fn sent(bandwidth: &Value, slice: Option<&str>) -> f64 {
    let classes = bandwidth["classes"].as_array().expect("classes");
    let class = classes.iter().find(|class| class["slice"].as_str() == slice).expect("a class");
    class["sent"]["bytes"].as_f64().unwrap_or_else(|| panic!("{class}"))
}
