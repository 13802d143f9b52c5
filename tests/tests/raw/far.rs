//! A host that is not the node: a network namespace at the other end of a pair of devices, with addresses of its own.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time: they have the same addresses.
static ONE: Mutex<()> = Mutex::new(());

const V4: &str = "198.51.100.130";
const V6: &str = "fd51:100::2";
const NODE_V4: &str = "198.51.100.129";
const NODE_V6: &str = "fd51:100::1";

/// The host; gone when dropped.
pub struct FarHost {
    namespace: String,
    device: String,
    _one: MutexGuard<'static, ()>,
}

impl FarHost {
    /// Makes it.
    ///
    /// # Panics
    /// A step fails.
    pub fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let id = std::process::id();
        let far = Self { namespace: format!("plabraw{id}"), device: format!("pr{id}"), _one: one };
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
        for words in [format!("link del {}", self.device), format!("netns del {}", self.namespace)] {
            Command::new("ip").args(words.split(' ')).output().ok();
        }
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("start ip");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}
