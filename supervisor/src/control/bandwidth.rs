//! `plab bandwidth`: what the node and its slices may send and receive.

use std::rc::Rc;
use std::sync::Arc;

use plab_config::BitRate;
use plab_protocol::bandwidth::{Bandwidth, ClassStatus, Counts, Limit, Origin};
use plab_protocol::control::{ErrorCode, ErrorReply, Reply};
use plab_sandbox::net::ClassCounts;

use super::authority::Caller;
use super::status::audit;
use crate::bandwidth::{self, Cap};
use crate::node::Node;
use crate::slice::refused;

/// What is limited, and what was sent.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn show(node: &Node) -> Result<Reply, ErrorReply> {
    let machine = Arc::clone(&node.machine);
    let counted = tokio::task::spawn_blocking(move || machine.bandwidth.counts()).await;
    let counts = counted
        .map_err(|error| refused(ErrorCode::Failed, error.to_string()))?
        .map_err(|error| refused(ErrorCode::Failed, error.to_string()))?;
    let books = &node.machine.bandwidth;
    let (live, (out, incoming)) = (books.live(), books.caps());
    let others = books.others();
    let mut classes = vec![ClassStatus {
        slice: None,
        class: others.to_string(),
        rate: None,
        sent: counts.out.get(&others).map(shown),
    }];
    for (name, handle) in node.slices.borrow().iter() {
        let Some(class) = books.class(handle.slice.uid.get()) else { continue };
        classes.push(ClassStatus {
            slice: Some(name.clone()),
            class: class.to_string(),
            rate: handle.slice.definition.borrow().network.rate.map(BitRate::bits_per_second),
            sent: counts.out.get(&class).map(shown),
        });
    }
    Ok(Reply::Bandwidth(Bandwidth {
        out: limit(out, live.out),
        incoming: limit(incoming, live.incoming),
        interfaces: counts.interfaces.into_iter().collect(),
        absent: books.absent().into_iter().collect(),
        problem: books.problem(),
        received: counts.incoming.as_ref().map(shown),
        classes,
    }))
}

fn limit(rate: Option<BitRate>, live: Cap) -> Limit {
    let origin = if live == Cap::NodeFile { Origin::NodeFile } else { Origin::Live };
    Limit { rate: rate.map(BitRate::bits_per_second), origin }
}

fn shown(counts: &ClassCounts) -> Counts {
    let ClassCounts { bytes, packets, drops, overlimits, backlog } = *counts;
    Counts { bytes, packets, drops, overlimits, backlog }
}

/// Sets what is not absent, for now and for later boots.
///
/// # Errors
/// It is no rate, or the node cannot be held to it.
pub async fn set(
    node: &Rc<Node>,
    caller: &Caller,
    out: Option<String>,
    incoming: Option<String>,
) -> Result<Reply, ErrorReply> {
    let parse = |text: Option<String>| -> Result<Option<Cap>, ErrorReply> {
        let Some(text) = text else { return Ok(None) };
        text.parse().map(Some).map_err(|error| {
            let message = format!("read {text:?}, {error}; or none, or node-file for what that says");
            refused(ErrorCode::Malformed, message)
        })
    };
    let (out, incoming) = (parse(out)?, parse(incoming)?);
    let words: Vec<String> = [("out", out), ("in", incoming)]
        .into_iter()
        .filter_map(|(name, cap)| Some(format!("--{name} {}", cap?)))
        .collect();
    if words.is_empty() {
        return Err(refused(ErrorCode::Malformed, "nothing was said to set"));
    }
    audit(node, None, caller, &format!("bandwidth {}", words.join(" ")));
    bandwidth::set(node, out, incoming).await.map_err(|error| refused(ErrorCode::Failed, error))?;
    let (out, incoming) = node.machine.bandwidth.caps();
    let show = |rate: Option<BitRate>| rate.map_or_else(|| "no limit".to_owned(), |rate| rate.to_string());
    let absent = node.machine.bandwidth.absent();
    let absent = match absent.is_empty() {
        true => String::new(),
        false => format!("; not there yet: {}", absent.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Ok(Reply::Done { message: format!("out: {}, in: {}{absent}", show(out), show(incoming)) })
}
