//! After a boot, capsules are started when the network is up (4.7), or when waiting for it was enough.
//!
//! The kernel tells when an interface, an address or a route changes; nothing is sent and nothing of what arrives is
//! parsed: each message is only a reason to look again.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use plab_config::TimeSpan;
use plab_protocol::control::Severity;
use plab_protocol::machine::Network;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::node::Node;
use crate::routes;
use crate::watched::watched;

/// The wait of a node whose file does not say one, on a machine of its own.
const DEFAULT_WAIT: TimeSpan = TimeSpan::from_secs(120);

/// Multicast groups of rtnetlink(7): interfaces, IPv4 addresses, IPv4 routes.
const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV4_ROUTE;

/// How long capsules wait for the network after a boot. A node below another root is a guest on a machine that runs
/// already: it waits only if its node file says so.
pub fn longest_wait(node: &Node) -> Duration {
    let own_machine = node.machine.paths.root == std::path::Path::new("/");
    let default = if own_machine { DEFAULT_WAIT } else { TimeSpan::default() };
    node.machine.node.network_wait.unwrap_or(default).get()
}

/// Holds the births of capsules until the network is up, if this boot's wait is not over yet. Returns at once; a task
/// goes on. `settled` is what an earlier plabd of this boot concluded.
pub async fn begin(node: &Rc<Node>, settled: Option<Network>) {
    let wait = longest_wait(node);
    if settled.is_some() {
        return;
    }
    if wait.is_zero() {
        return record(node, Network::NotAwaited).await;
    }
    let address = node.machine.node.address;
    // Before the look: what changes in between is then told.
    let looked = Changes::open(GROUPS).and_then(|changes| Ok((is_up(address)?, changes)));
    match looked {
        Ok((true, _)) => record(node, Network::Up).await,
        Ok((false, changes)) => {
            let shown = TimeSpan::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let message = format!("waiting for the network, at most {shown}: {}", what(address));
            node.hold_births(Some(message.clone()));
            node.events.report(None, "network-waiting", Severity::Notice, message);
            let deadline = Instant::now() + wait;
            tokio::task::spawn_local(follow(Rc::clone(node), changes, deadline));
        }
        Err(error) => {
            node.events.report(None, "network-unknown", Severity::Error, unknown(&error));
            record(node, Network::Absent).await;
        }
    }
}

async fn follow(node: Rc<Node>, changes: Changes, deadline: Instant) {
    let begun = Instant::now();
    let address = node.machine.node.address;
    let up = || {
        let seconds = begun.elapsed().as_secs();
        node.events.report(None, "network-up", Severity::Notice, format!("after {seconds} s"));
    };
    match timeout_at(deadline, changes.until_up(address)).await {
        Ok(Ok(())) => {
            up();
            return open(&node, Network::Up).await;
        }
        Ok(Err(error)) => {
            node.events.report(None, "network-unknown", Severity::Error, unknown(&error));
            return open(&node, Network::Absent).await;
        }
        Err(_) => {
            let message = format!("capsules are started without it; awaited: {}", what(address));
            node.events.report(None, "network-absent", Severity::Error, message);
            open(&node, Network::Absent).await;
        }
    }
    match changes.until_up(address).await {
        Ok(()) => up(),
        Err(error) => node.events.report(None, "network-unknown", Severity::Error, unknown(&error)),
    }
}

async fn open(node: &Rc<Node>, network: Network) {
    node.hold_births(None);
    record(node, network).await;
}

async fn record(node: &Rc<Node>, network: Network) {
    // A failure is the ledger's trouble, and told as such.
    node.boot.set_network(&node.ledger, network).await.ok();
}

fn what(address: Option<Ipv4Addr>) -> String {
    match address {
        Some(address) => format!("{address} is to be on an interface that is up"),
        None => {
            "an interface that is up is to have an address, and there is to be a default route".to_owned()
        }
    }
}

fn unknown(error: &std::io::Error) -> String {
    format!(
        "could not ask the kernel about the network ({error}); capsules are started without waiting for it"
    )
}

/// What the kernel says about interfaces, addresses, routes and queues.
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Listens to these multicast groups of rtnetlink(7).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(groups: i32) -> std::io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
        Ok(Self(watched(socket, Interest::READABLE)?))
    }

    /// Waits until the network is up.
    async fn until_up(&self, address: Option<Ipv4Addr>) -> std::io::Result<()> {
        while !is_up(address)? {
            self.changed().await?;
        }
        Ok(())
    }

    /// Waits until something has changed.
    ///
    /// # Errors
    /// The kernel cannot be listened to any more.
    pub async fn changed(&self) -> std::io::Result<()> {
        let mut ready = self.0.readable().await?;
        // Only that something came counts. ENOBUFS says that more came than there was room for.
        let mut scrap = [0_u8; 8192];
        while !matches!(rustix::io::read(&self.0, &mut scrap), Err(rustix::io::Errno::AGAIN)) {}
        ready.clear_ready();
        Ok(())
    }
}

/// Whether the network is up: the node's address is on an interface that is up; if it has none, any address that is
/// more than local, and a default route.
fn is_up(address: Option<Ipv4Addr>) -> std::io::Result<bool> {
    let needed = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let mut addresses = getifaddrs()?.filter(|entry| entry.flags.contains(needed)).filter_map(|entry| {
        let address = entry.address?;
        Some(address.as_sockaddr_in()?.ip())
    });
    Ok(match address {
        Some(address) => addresses.any(|have| have == address),
        None => {
            addresses.any(|have| !have.is_loopback() && !have.is_link_local())
                && !routes::ipv4_defaults()?.is_empty()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_documentation_is_on_no_interface() {
        assert!(!is_up(Some(Ipv4Addr::new(203, 0, 113, 77))).expect("look"));
    }
}
