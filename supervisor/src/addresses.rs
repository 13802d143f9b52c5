//! The node's addresses, kept true for those who may send with a header of their own: from no other address.

use std::rc::Rc;
use std::sync::Arc;

use plab_protocol::control::Severity;

use crate::network::Changes;
use crate::node::Node;

/// Multicast groups of rtnetlink(7): addresses.
const GROUPS: i32 = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// Follows the node's addresses for as long as plabd runs. What is not followed any more stays as it was; it is told.
pub async fn follow(node: Rc<Node>) {
    if node.machine.guard().is_none() {
        return;
    }
    let changes = match Changes::open(GROUPS) {
        Ok(changes) => changes,
        Err(error) => return tell(&node, &format!("the node's addresses cannot be followed: {error}")),
    };
    let mut told = None;
    loop {
        let machine = Arc::clone(&node.machine);
        let look = move || machine.guard().map_or(Ok(()), |guard| guard.follow_addresses());
        let looked = tokio::task::spawn_blocking(look).await;
        let problem = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem
            && told.as_ref() != Some(problem)
        {
            tell(&node, problem);
        }
        told = problem;
        if let Err(error) = changes.changed().await {
            return tell(&node, &format!("the node's addresses are not followed any more: {error}"));
        }
    }
}

fn tell(node: &Node, problem: &str) {
    let message = format!("{problem}; raw sockets send from the addresses that were there before");
    node.events.report(None, "addresses-failed", Severity::Error, message);
}
