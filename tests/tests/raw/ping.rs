//! The kernel's own ping: sockets of type `SOCK_DGRAM`, for which nobody needs `raw` where the node's kernel lets slices have
//! them. The kernel knows whose an answer is by its ID only.

use plab_tests::raw::Actor;
use plab_tests::{Netns, TestNode, binary};

use super::{BOTH, slice};

#[test]
fn by_the_kernels_ping_nothing_is_heard_that_was_not_asked() {
    let namespace = Netns::new();
    namespace.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    let node = TestNode::start_by("raw-ping", "", |_| namespace.command(binary("plabd")));
    slice(&node, "site_raw", BOTH);
    slice(&node, "site_none", "");
    for address in ["127.0.0.1", "::1"] {
        let mut raw = Actor::inside(&node, "site_raw");
        let mut root = Actor::outside_in(&namespace);
        let mut control = Actor::outside_in(&namespace);
        let mut none = Actor::inside(&node, "site_none");

        // Of an ID that it has not sent with yet, so that another may.
        assert_eq!(none.ask(&format!("await_echoes {address} 870")), "ok listens");
        assert_eq!(raw.ask(&format!("echo {address} 870")), "ok True 870 plab");
        assert_eq!(none.heard(), 0, "{address}: another slice's answer");
        // Root outside hears what is of its ID, whoever has asked.
        assert_eq!(control.ask(&format!("await_echoes {address} 871")), "ok listens");
        assert_eq!(root.ask(&format!("answered {address} 871")), "ok 871");
        assert_eq!(control.heard(), 1, "{address}: the control");

        // Its own answer, and then nobody else may have the ID.
        let mut none = Actor::inside(&node, "site_none");
        assert_eq!(none.ask(&format!("pinging {address} 872")), "ok plab");
        assert_eq!(raw.ask(&format!("echo {address} 872")), "EPERM");
        // Neither by the kernel's ping may one have what is another's.
        let said = none.ask(&format!("pinging {address} 870 1"));
        // Of a ping by IPv6 the kernel does not say that it was refused.
        assert_eq!(said, if address == "::1" { "timeout" } else { "EPERM" });
    }
    node.finish();
}
