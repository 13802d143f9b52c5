//! The node's addresses, kept true for those who may send with a header of their own: from no other address.

use std::rc::Rc;
use std::sync::Arc;

use plab_protocol::control::Severity;

use crate::network::Changes;
use crate::node::Node;

/// Multicast groups of rtnetlink(7): addresses.
const GROUPS: i32 = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// Follows the node's addresses for as long as plabd runs. When they cannot be followed, none counts as the node's.
pub async fn follow(node: Rc<Node>) {
    if node.machine.guard().is_none() {
        return;
    }
    let given_up = |error: std::io::Error| {
        if let Some(guard) = node.machine.guard() {
            guard.forget_addresses().ok();
        }
        tell(&node, &format!("the node's addresses are not followed: {error}"));
    };
    let changes = match Changes::open(GROUPS) {
        Ok(changes) => changes,
        Err(error) => return given_up(error),
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
            return given_up(error);
        }
    }
}

fn tell(node: &Node, problem: &str) {
    let message =
        format!("{problem}; raw sockets send nothing with an IPv4 header until plabd is started again");
    node.events.report(None, "addresses-failed", Severity::Error, message);
}
