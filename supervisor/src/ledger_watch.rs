//! A ledger that cannot be written, on a full disk most often: the node goes on with what was accepted, says so loudly,
//! and finds out by itself when there is space again.

use std::rc::Rc;
use std::time::Duration;

use plab_protocol::control::Severity;

use crate::ledger::Trouble;
use crate::node::Node;

/// Between two attempts to write: the kernel has no event for space that was made.
const RETRY: Duration = Duration::from_secs(5);

/// What is wrong, and what it means, for people.
pub fn describe(trouble: &Trouble, path: &str) -> String {
    let (what, cure) = if trouble.full {
        ("the disk is full", "free space on it")
    } else {
        ("it cannot be written", "see the kernel's log for its disk")
    };
    format!(
        "ledger {path}: {what} ({}); what was accepted goes on, nothing new is accepted, and events are only in the \
         system log; {cure}",
        trouble.message
    )
}

/// Follows the ledger's trouble for as long as plabd runs.
pub async fn follow(node: Rc<Node>) {
    let mut trouble = node.ledger.trouble();
    loop {
        let now = trouble.borrow_and_update().clone();
        if let Some(now) = now {
            let kind = if now.full { "disk-full" } else { "ledger-failed" };
            node.events.report(None, kind, Severity::Error, describe(&now, node.ledger.path()));
            recover(&node).await;
            let message = "the ledger can be written again";
            node.events.report(None, "disk-recovered", Severity::Notice, message);
            trouble.mark_unchanged();
            continue;
        }
        if trouble.changed().await.is_err() {
            return;
        }
    }
}

/// Tries until the start of this plabd is on record and writing works.
async fn recover(node: &Rc<Node>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let works = node.boot.record(&node.ledger).await.is_ok()
            && node.ledger.set_meta(crate::clock::LAST_SEEN, node.clock.now().to_string()).await.is_ok();
        if works {
            return;
        }
    }
}
