//! What the owner of a slice can do when nothing can be started in its capsule, with the numbers that say why.

use std::path::Path;

use plab_protocol::control::{Reply, Request, SliceStatus};

use crate::client;
use crate::units;

/// After a command that found no room: what is used up, and what to do.
pub fn nothing_starts(socket: &Path, slice: &str, node: &str) -> String {
    let used = used(socket, slice).map(|used| format!("{used}\n")).unwrap_or_default();
    format!(
        "{used}End some of its processes by a session that is still open, or start the capsule anew, which ends all of \
         them: ssh {slice}@{node} plab restart"
    )
}

/// After a refusal because of the capsule's state: what works all the same.
pub fn from_outside(slice: &str, node: &str) -> String {
    format!(
        "`ssh {slice}@{node} plab status` tells more, `ssh {slice}@{node} plab restart` stops and starts the capsule"
    )
}

/// What the slice uses of what it may use, as the kernel says. None when plabd does not tell: then the advice has to do.
fn used(socket: &Path, slice: &str) -> Option<String> {
    let request = Request::Status { slice: Some(slice.to_owned()), verify: true };
    let Reply::Status(node) = client::ask(socket, request).ok()?.reply else { return None };
    let own = node.slices.into_iter().next()?;
    let limit = |what: &str| Some(own.verify.iter().find(|row| row.what == what)?.in_force.trim().to_owned());
    Some(sentence(&own, limit("pids.max")?, limit("memory.max")))
}

fn sentence(own: &SliceStatus, tasks_max: String, memory_max: Option<String>) -> String {
    let tasks = own.tasks.map_or_else(|| "?".to_owned(), |tasks| tasks.to_string());
    let memory = own.memory.map_or_else(|| "?".to_owned(), units::bytes);
    let most = memory_max
        .map(|max| max.parse().map_or(max, units::bytes))
        .map(|max| format!(" of {max}"))
        .unwrap_or_default();
    format!("{} has {tasks} of {tasks_max} tasks and {memory}{most} of memory in use.", own.name)
}
