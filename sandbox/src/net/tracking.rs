//! Whether netfilter tracks connections (conntrack).
//!
//! Against: who sends by a raw socket. Netfilter sees such a packet, and its table of connections has it, before the
//! program at the cgroup's egress refuses it: something seems to have left from another's port, and a firewall lets in
//! what seems to be the answer. No program that all kernels here have is asked earlier.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst, set_socket_linger};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with};

use crate::error::KernelError;

/// Connections in the table of the caller's network namespace. Not there: nothing that could track any is loaded.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// How it is known that connections are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// The table has so many.
    Table(u64),
    /// One that was begun to find out is in the table.
    Connection(IpAddr),
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(count) => write!(f, "netfilter's table of connections has {count}"),
            Self::Connection(address) => write!(f, "netfilter's table of connections has one of {address}"),
        }
    }
}

impl Tracking {
    /// Asks the kernel about the caller's network namespace: for the table's length, and, if it is empty, for a connection
    /// over loopback that is begun for it. Takes a fraction of a millisecond.
    ///
    /// # Errors
    /// It cannot be told: no such connection can be begun.
    pub fn look() -> Result<Option<Self>, KernelError> {
        let count = match std::fs::read_to_string(COUNT) {
            Ok(text) => text.trim().parse().map_err(|_| {
                KernelError::new("read", COUNT, std::io::Error::other(format!("no number: {text:?}")))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(KernelError::new("read", COUNT, error)),
        };
        if count > 0 {
            return Ok(Some(Self::Table(count)));
        }
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let tracked = is_tracked(address).map_err(|error| {
                KernelError::new("begin a connection", address, error)
                    .hint("whether the firewall tracks connections is seen by one over loopback")
            })?;
            if tracked {
                return Ok(Some(Self::Connection(address)));
            }
        }
        Ok(None)
    }
}

/// Whether the table has a TCP connection of this address with itself, by `SO_ORIGINAL_DST`, which looks there. Its first
/// packet is enough, also if it is refused after netfilter: plabd's unit lets plabd reach no address.
fn is_tracked(address: IpAddr) -> rustix::io::Result<bool> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let make = || socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    let listener =
        match make().and_then(|socket| bind(&socket, &SocketAddr::new(address, 0)).map(|()| socket)) {
            Ok(listener) => listener,
            // A machine without IPv6, or without it on loopback, as where it is turned off.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if address.is_ipv6() => return Ok(false),
            Err(error) => return Err(error),
        };
    listen(&listener, 1)?;
    let socket = make()?;
    // Broken off when it is closed: forgotten soonest, here and in the table.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    match connect(&socket, &getsockname(&listener)?) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let found = if address.is_ipv4() {
        ip_original_dst(&socket).map(drop)
    } else {
        ipv6_original_dst(&socket).map(drop)
    };
    match found {
        Ok(()) => Ok(true),
        // It is not there; or nothing that could look is loaded.
        Err(Errno::NOENT | Errno::NOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}
