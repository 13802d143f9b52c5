//! Requests about the machine itself: its boots, its clock, its reboots.

use std::rc::Rc;

use jiff::Timestamp;
use plab_protocol::control::{ErrorCode, ErrorReply, Reply, Request};
use plab_protocol::machine::{BOOTS_VERSION, BootEnd, Boots};

use super::authority::Caller;
use super::status::audit;
use crate::ledger::boots::KEPT;
use crate::node::Node;
use crate::power::{self, GoingDown};
use crate::slice::refused;
use crate::{clock, ledger::LedgerError};

/// Does what was asked; the caller may ask it.
///
/// # Errors
/// Why not.
pub async fn serve(node: &Rc<Node>, caller: &Caller, request: Request) -> Result<Reply, ErrorReply> {
    let failed = |error: LedgerError| refused(ErrorCode::Failed, error.to_string());
    let done = |message: String| Ok(Reply::Done { message });
    match request {
        Request::Drain { for_shutdown } => {
            audit(node, None, caller, if for_shutdown { "drain for shutdown" } else { "drain" });
            node.drain().await;
            let noted = if for_shutdown { note_shutdown(node).await.map_err(failed)? } else { "" };
            done(format!("every capsule is stopped, and stays so until plabd starts anew{noted}"))
        }
        Request::Boots { last } => {
            let boots = node.ledger.boots(last.min(KEPT)).await.map_err(failed)?;
            let name = node.machine.node.name.to_string();
            Ok(Reply::Boots(Boots { version: BOOTS_VERSION, node: name, boots }))
        }
        Request::Planned => Ok(Reply::Planned { plan: node.power.plan() }),
        Request::Power { action, at, reason } => {
            audit(node, None, caller, &format!("node {}", action.name()));
            let plan = power::plan(node, action, at.as_deref(), reason).await?;
            let when = if at.is_some() { format!("at {}", plan.at) } else { "now".to_owned() };
            done(format!("{} {} {when}", node.machine.node.name, action.verb()))
        }
        Request::CancelPower => {
            audit(node, None, caller, "node cancel");
            let plan = power::cancel(node).await?;
            done(format!("{} at {} does not take place", plan.action.name(), plan.at))
        }
        Request::TrustClock => {
            audit(node, None, caller, "node trust-clock");
            node.clock.trust();
            clock::judge_anew(node).await;
            done(format!("it is {:.0}; leases are judged by that", Timestamp::now()))
        }
        _ => Err(refused(ErrorCode::Malformed, "no request about the machine")),
    }
}

/// Every capsule is down because the machine goes down: records that this boot ends in order. The unit that drains may
/// also have been stopped by hand; then the machine goes on, and nothing is recorded.
async fn note_shutdown(node: &Node) -> Result<&'static str, LedgerError> {
    let end = match power::going_down().await {
        GoingDown::Yes(end) => end,
        GoingDown::Unknown => BootEnd::Shutdown,
        GoingDown::No => return Ok("; the machine is not going down, as far as systemd knows"),
    };
    node.boot.end(&node.ledger, Some(end)).await?;
    Ok("; the boot ends in order")
}
