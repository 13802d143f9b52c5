//! The node's own addresses, as the kernel has them now.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rtnetlink::{Rtnetlink, attribute};
use crate::error::{KernelError, Tried};

/// `RTM_GETADDR`, rtnetlink(7).
const GET: u16 = 22;
/// Bytes of `struct ifaddrmsg`, whose first is the family.
const FIXED: usize = 8;
const IFA_ADDRESS: u16 = 1;
/// With a peer, `IFA_ADDRESS` is the peer's.
const IFA_LOCAL: u16 = 2;

/// Every address of every interface but those of loopback (127.0.0.0/8, `::1`), IPv4 in IPv6 clothes.
///
/// # Errors
/// The kernel refuses.
pub(super) fn own() -> Result<BTreeSet<[u8; 16]>, KernelError> {
    let found = Rtnetlink::open()?
        .dump(GET, &[0; FIXED], |body| Some(address(body)))
        .tried("list", "the node's addresses")?;
    Ok(found.into_iter().flatten().filter(|address| !address.is_loopback()).map(clothed).collect())
}

fn address(body: &[u8]) -> Option<IpAddr> {
    let attributes = body.get(FIXED..)?;
    let value = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    match i32::from(*body.first()?) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

fn clothed(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_side_of_a_link_is_the_nodes() {
        // A link of two: family, and the rest of the fixed part; IFA_ADDRESS is the peer's, IFA_LOCAL the node's.
        let mut body = vec![2, 32, 0, 0, 1, 0, 0, 0];
        body.extend([8, 0, 1, 0, 192, 0, 2, 2]);
        assert_eq!(address(&body), Some(IpAddr::from([192, 0, 2, 2])));
        body.extend([8, 0, 2, 0, 192, 0, 2, 1]);
        assert_eq!(address(&body), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(clothed(IpAddr::from([192, 0, 2, 1]))[10..], [255, 255, 192, 0, 2, 1]);
        // Cut, or of another family.
        assert_eq!(address(&body[..10]), None);
        body[0] = 17;
        assert_eq!(address(&body), None);
    }

    #[test]
    fn loopbacks_are_not_among_them() {
        let own = own().expect("the kernel says");
        assert!(!own.contains(&Ipv6Addr::LOCALHOST.octets()));
        assert!(own.iter().all(|address| address[10..13] != [255, 255, 127]), "{own:?}");
    }
}
