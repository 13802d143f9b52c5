//! `plab opt-out`: where no capsule may send anything.

use plab_config::IpPrefix;
use plab_protocol::bandwidth::{OptOut, OptOutRefusals, OptOuts, Origin};
use plab_protocol::control::{ErrorCode, ErrorReply, Reply};
use plab_sandbox::net::NetworkGuard;

use super::authority::Caller;
use super::status::audit;
use crate::node::Node;
use crate::opt_outs::MOST_LIVE;
use crate::slice::refused;

/// Each prefix, and who has tried to send there.
///
/// # Errors
/// The kernel cannot be asked, or nothing enforces opt-outs here.
pub fn show(node: &Node) -> Result<Reply, ErrorReply> {
    let guard = guard(node)?;
    let opt_outs = &node.machine.opt_outs;
    let mut prefixes: Vec<(IpPrefix, Origin)> =
        opt_outs.of_file().iter().map(|prefix| (*prefix, Origin::NodeFile)).collect();
    let added = opt_outs.live().into_iter().filter(|prefix| !opt_outs.of_file().contains(prefix));
    prefixes.extend(added.map(|prefix| (prefix, Origin::Live)));
    prefixes.sort_by_key(|(prefix, _)| *prefix);
    let mut refusals = Vec::new();
    for (name, handle) in node.slices.borrow().iter() {
        let count = guard
            .refusals(handle.slice.uid.get())
            .map_err(|error| refused(ErrorCode::Failed, error.to_string()))?
            .opt_out;
        if count > 0 {
            refusals.push(OptOutRefusals { slice: name.clone(), count });
        }
    }
    Ok(Reply::OptOuts(OptOuts {
        prefixes: prefixes
            .into_iter()
            .map(|(prefix, origin)| OptOut { prefix: prefix.to_string(), origin })
            .collect(),
        refused: refusals,
    }))
}

/// Adds a prefix, or takes one away that was added, for now and for later boots.
///
/// # Errors
/// It is no prefix, or is not there, or the kernel or the ledger refuses.
pub async fn change(node: &Node, caller: &Caller, prefix: &str, add: bool) -> Result<Reply, ErrorReply> {
    let guard = guard(node)?;
    let prefix: IpPrefix =
        prefix.parse().map_err(|error| refused(ErrorCode::Malformed, format!("read {prefix:?}, {error}")))?;
    audit(node, None, caller, &format!("opt-out {} {prefix}", if add { "add" } else { "remove" }));
    let opt_outs = &node.machine.opt_outs;
    let _turn = opt_outs.turn().await;
    let mut live = opt_outs.live();
    let changed = if add { live.insert(prefix) } else { live.remove(&prefix) };
    let of_file = opt_outs.of_file().contains(&prefix);
    if !add && !changed {
        let message = match of_file {
            true => format!("{prefix} stands in the node file, and is taken away there"),
            false => format!("{prefix} is no opt-out; `plab opt-out` lists them"),
        };
        return Err(refused(ErrorCode::Failed, message));
    }
    if live.len() > MOST_LIVE {
        let message = format!("{MOST_LIVE} prefixes were added, which is the limit; put some together");
        return Err(refused(ErrorCode::Failed, message));
    }
    if changed {
        opt_outs
            .set_live(live, guard, &node.ledger)
            .await
            .map_err(|error| refused(ErrorCode::Failed, error))?;
    }
    Ok(Reply::Done {
        message: match (add, of_file) {
            (true, _) => format!("no capsule sends to {prefix}"),
            (false, true) => format!("{prefix} stays an opt-out: it stands in the node file, too"),
            (false, false) => format!("capsules may send to {prefix}"),
        },
    })
}

fn guard(node: &Node) -> Result<&NetworkGuard, ErrorReply> {
    node.machine.guard.as_ref().map_err(|reason| {
        refused(
            ErrorCode::Failed,
            format!("this node enforces no opt-outs (network.bpf is missing): {reason}"),
        )
    })
}
