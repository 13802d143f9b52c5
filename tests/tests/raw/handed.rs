//! Sockets that are handed on: they stay their maker's, and who has them gains nothing by it but what the maker may.

use plab_tests::raw::{Actor, FarHost, outside};
use plab_tests::{TestNode, eventually};

use super::{BOTH, finish, slice};

#[test]
fn a_raw_socket_that_is_handed_on_stays_its_makers() {
    let far = FarHost::set_up();
    let node = TestNode::start("raw-handed");
    slice(&node, "site_raw", BOTH);
    let mut giver = Actor::inside(&node, "site_raw");
    assert_eq!(giver.ask("offer passing"), "ok offered");
    assert!(giver.tell("hand_over"));
    // Outside, in root's hands, who could otherwise send anything.
    let path = node.home("site_raw").join("passing");
    let said = outside(&format!("taken {} {} 950", path.display(), far.v4()));
    assert_eq!(said, "ok forged EPERM, heard plab");
    assert_eq!(giver.answer(), "ok handed over");
    assert_eq!(outside(&format!("send {} 3 1", far.v4())), "ok sent", "the control");
    finish(node);
}

/// A slice with a port and another with another; what the first makes and the second has then.
struct Pair {
    node: TestNode,
    taker: Actor,
}

impl Pair {
    fn with(name: &str, handed: &str) -> Self {
        let node = TestNode::start(name);
        slice(&node, "site_maker", "[network]\nports = [\"udp/8651\"]\n");
        slice(&node, "site_taker", "[network]\nports = [\"udp/8652\"]\n");
        let mut maker = Actor::inside(&node, "site_maker");
        let mut taker = Actor::inside(&node, "site_taker");
        assert_eq!(maker.ask("offer passing"), "ok offered");
        assert_eq!(taker.ask("await_socket passing"), "ok waits");
        assert!(maker.tell(&format!("hand_over {handed}")) && taker.tell("given"));
        let path = |slice: &str| node.home(slice).join("passing").display().to_string();
        // Slices see nothing of each other where they could meet: root carries it.
        let carried = outside(&format!("carry {} {}", path("site_maker"), path("site_taker")));
        assert_eq!(carried, "ok carried");
        assert_eq!((maker.answer(), taker.answer()), ("ok handed over".into(), "ok given".into()));
        Self { node, taker }
    }
}

#[test]
fn what_is_sent_by_a_socket_that_was_handed_on_is_its_makers() {
    let mut pair = Pair::with("raw-handed-bound", "udp 8651");
    assert_eq!(pair.taker.ask("given_send 127.0.0.1 9"), "ok sent");
    eventually("it is on record as the maker's", || {
        pair.node.plab(&["flows", "site_maker", "--json"]).ok().contains("8651").then_some(())
    });
    assert!(!pair.node.plab(&["flows", "site_taker", "--json"]).ok().contains("8651"));
    drop(pair.taker);
    finish(pair.node);
}

#[test]
fn a_socket_that_was_handed_on_gets_nobodys_port() {
    let mut pair = Pair::with("raw-handed-free", "udp");
    // The maker's: it is not the maker who asks.
    assert_eq!(pair.taker.ask("given_bind 8651"), "EPERM");
    // Its own: that is its to bind, but not the socket's to send from.
    assert_eq!(pair.taker.ask("given_bind 8652"), "ok bound");
    assert_eq!(pair.taker.ask("given_send 127.0.0.1 9"), "EPERM");
    drop(pair.taker);
    finish(pair.node);
}
