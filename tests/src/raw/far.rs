//! A host that is not the node: a network namespace at the other end of a pair of devices, with addresses of its own.

use std::fs::File;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time, of this program's and of those beside it: they have the same addresses.
static ONE: Mutex<()> = Mutex::new(());
const ONE_OF_ALL: &str = "plab-far-host.lock";

const V4: &str = "198.51.100.130";
/// Of the host behind it.
const BEHIND: &str = "198.51.100.134";
const V6: &str = "fd51:100::2";
const NODE_V4: &str = "198.51.100.129";
const NODE_V6: &str = "fd51:100::1";

/// The host; gone when dropped.
#[derive(Debug)]
pub struct FarHost {
    namespace: String,
    device: String,
    behind: Option<String>,
    _one: MutexGuard<'static, ()>,
    _one_of_all: File,
}

impl FarHost {
    /// Makes it.
    ///
    /// # Panics
    /// A step fails.
    pub fn set_up() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let one_of_all = File::create(std::env::temp_dir().join(ONE_OF_ALL)).expect("make a file to lock");
        one_of_all.lock().expect("lock");
        let id = std::process::id();
        let far = Self {
            namespace: format!("plabraw{id}"),
            device: format!("pr{id}"),
            behind: None,
            _one: one,
            _one_of_all: one_of_all,
        };
        let (namespace, device) = (&far.namespace, &far.device);
        let peer = format!("{device}p");
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {device} type veth peer name {peer} netns {namespace}"));
        ip(&format!("addr add {NODE_V4}/30 dev {device}"));
        ip(&format!("addr add {NODE_V6}/64 dev {device} nodad"));
        ip(&format!("link set {device} up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} addr add {V4}/30 dev {peer}"));
        ip(&format!("-n {namespace} addr add {V6}/64 dev {peer} nodad"));
        ip(&format!("-n {namespace} link set {peer} up"));
        far
    }

    /// A host behind this one, which forwards to it; returns its address. It goes with this one.
    ///
    /// # Panics
    /// A step fails.
    pub fn with_another_behind(&mut self) -> &'static str {
        let behind = format!("{}b", self.namespace);
        let Self { namespace, device, .. } = &*self;
        ip(&format!("netns add {behind}"));
        ip(&format!("-n {namespace} link add {device}q type veth peer name {device}r netns {behind}"));
        ip(&format!("-n {namespace} addr add 198.51.100.133/30 dev {device}q"));
        ip(&format!("-n {namespace} link set {device}q up"));
        ip(&format!("netns exec {namespace} sh -c echo${{IFS}}1>/proc/sys/net/ipv4/ip_forward"));
        ip(&format!("-n {behind} link set lo up"));
        ip(&format!("-n {behind} addr add {BEHIND}/30 dev {device}r"));
        ip(&format!("-n {behind} link set {device}r up"));
        ip(&format!("-n {behind} route add default via 198.51.100.133"));
        ip(&format!("route add 198.51.100.132/30 via {V4} dev {device}"));
        self.behind = Some(behind);
        BEHIND
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> &'static str {
        V4
    }

    /// The same as it is in a packet, in hexadecimal.
    pub fn v4_hex(&self) -> String {
        let address: std::net::Ipv4Addr = V4.parse().expect("an address");
        address.octets().iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> &'static str {
        V6
    }

    /// The node's end of the link.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The node's addresses on the link.
    pub fn here(&self) -> [&'static str; 2] {
        [NODE_V4, NODE_V6]
    }

    /// Gives the node's end of the link another address, or takes it away.
    ///
    /// # Panics
    /// It cannot be.
    pub fn address_here(&self, verb: &str, address: &str) {
        ip(&format!("addr {verb} {address}/32 dev {}", self.device));
    }

    /// Sends an echo request from there to the node, from the address of the same version as `own`.
    ///
    /// # Panics
    /// There is no answer.
    pub fn ping_back(&self, own: &str) {
        let node = if own == V4 { NODE_V4 } else { NODE_V6 };
        ip(&format!("netns exec {} ping -n -c 1 -W 20 {node}", self.namespace));
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        let behind = self.behind.iter().map(|behind| format!("netns del {behind}"));
        let own = [format!("link del {}", self.device), format!("netns del {}", self.namespace)];
        for words in own.into_iter().chain(behind) {
            Command::new("ip").args(words.split(' ')).output().ok();
        }
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("start ip");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}
