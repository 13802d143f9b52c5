//! Limits while plabd runs: set by an administrator, and upheld when interfaces, routes or queues change.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plab_protocol::control::Severity;

use super::{Cap, LIVE};
use crate::network::Changes;
use crate::node::Node;

/// Multicast groups of rtnetlink(7): interfaces, routes, and queues that somebody else has changed.
const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE | libc::RTMGRP_TC;

/// A change is seldom alone: so long the next are waited for.
const TOGETHER: Duration = Duration::from_millis(50);

/// Sets live, and puts it on record. Both or neither.
///
/// # Errors
/// Why not, in words.
pub async fn set(node: &Rc<Node>, out: Option<Cap>, incoming: Option<Cap>) -> Result<(), String> {
    let machine = Arc::clone(&node.machine);
    let set = tokio::task::spawn_blocking(move || machine.bandwidth.set(out, incoming)).await;
    let before = set.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    // What counts now: somebody else may have set something at the same time.
    let Err(error) = node.ledger.set_meta(LIVE, node.machine.bandwidth.live().to_string()).await else {
        return Ok(());
    };
    let machine = Arc::clone(&node.machine);
    let back = move || machine.bandwidth.set(Some(before.out), Some(before.incoming));
    tokio::task::spawn_blocking(back).await.ok();
    Err(error.to_string())
}

/// Follows interfaces, routes and queues for as long as plabd runs: whatever comes, or is changed by somebody else, is
/// brought to the limits.
pub async fn follow(node: Rc<Node>) {
    let changes = match Changes::open(GROUPS) {
        Ok(changes) => changes,
        Err(error) => return tell(&node, Some(format!("interfaces cannot be followed: {error}"))),
    };
    let mut told = node.machine.bandwidth.problem();
    loop {
        let machine = Arc::clone(&node.machine);
        tokio::task::spawn_blocking(move || machine.bandwidth.enforce(true)).await.ok();
        let problem = node.machine.bandwidth.problem();
        if problem != told {
            told.clone_from(&problem);
            tell(&node, problem);
        }
        if let Err(error) = changes.changed().await {
            return tell(&node, Some(format!("interfaces are not followed any more: {error}")));
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

/// Tells that something is not in force, or that everything is again.
pub fn tell(node: &Node, problem: Option<String>) {
    match problem {
        Some(problem) => node.events.report(None, "bandwidth-failed", Severity::Error, problem),
        None => {
            let message = "every limit is in force again";
            node.events.report(None, "bandwidth-recovered", Severity::Notice, message);
        }
    }
}
