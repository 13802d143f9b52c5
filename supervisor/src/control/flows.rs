//! Requests about flows: who sent, and which flows there were.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plab_flows::{Counts, Filter, FlowRow, Kept, Owner, Prefix};
use plab_protocol::control::{ErrorCode, ErrorReply, MAX_NEWEST, Reply};
use plab_protocol::flows::{
    FlowFilter, FlowPage, FlowRecord, FlowsKept, MAX_SENDERS, Sender, Traffic, WhoSent,
};

use super::authority::Caller;
use super::connection::Connection;
use super::status::audit;
use crate::node::Node;
use crate::slice::refused;

/// The longest time for a slice's own flows: slices share a few turns.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers "who sent"; only root asks it.
///
/// # Errors
/// The filter makes no sense, or it takes too long.
pub async fn who_sent(node: &Rc<Node>, caller: &Caller, filter: FlowFilter) -> Result<Reply, ErrorReply> {
    audit(node, None, caller, "who-sent");
    let answer = node.flows.who_sent(understood(filter)?).await?;
    let more = answer.senders.len().saturating_sub(MAX_SENDERS) as u64;
    let senders = answer.senders.into_iter().take(MAX_SENDERS).map(|sender| {
        let present = sender.owner.as_ref().is_some_and(|owner| is_present(node, owner));
        let (slice, uid, contact) = parts(sender.owner);
        Sender {
            slice,
            uid,
            contact,
            present,
            flows: sender.flows,
            traffic: traffic(sender.counts),
            first: time(sender.first),
            last: time(sender.last),
        }
    });
    Ok(Reply::WhoSent(WhoSent { senders: senders.collect(), more, kept: kept(answer.kept) }))
}

/// Sends flows in pages, then what is kept; a slice gets its own.
pub async fn list(
    node: &Rc<Node>,
    caller: &Caller,
    filter: FlowFilter,
    last: Option<u32>,
    connection: &mut Connection,
) {
    let ended = match understood(filter) {
        Ok(mut filter) => {
            if let Some(own) = caller.slice() {
                filter.slice = Some(own.to_owned());
                // Another slice may have had the name before.
                filter.uid = node.slices.borrow().get(own).map(|handle| handle.slice.uid.get());
            }
            let (for_root, begun) = (*caller == Caller::Root, Instant::now());
            let asking = caller.slice().map(|_| filter.uid.unwrap_or_default());
            let send = async |page: Vec<FlowRow>| {
                let flows = page.into_iter().map(record).collect();
                let in_time = for_root || begun.elapsed() < PATIENCE;
                in_time && connection.send(&Reply::Flows(FlowPage { flows })).await.is_ok()
            };
            let newest = last.map(|last| last.min(MAX_NEWEST));
            let all = node.flows.list(filter, newest, asking, send).await.map(kept);
            all.map(|all| Reply::FlowsKept(if for_root { all } else { without_others(all) }))
        }
        Err(error) => Err(error),
    };
    // A client that has gone does not want the answer.
    connection.send(&ended.unwrap_or_else(Reply::Error)).await.ok();
}

fn understood(filter: FlowFilter) -> Result<Filter, ErrorReply> {
    let malformed = |message: String| refused(ErrorCode::Malformed, message);
    let instant = |text: Option<String>| {
        let parsed = text.map(|text| text.parse::<Timestamp>().map(Timestamp::as_millisecond));
        parsed.transpose().map_err(|error| malformed(format!("no time of RFC 3339: {error}")))
    };
    let to =
        match filter.to {
            Some(range) => Some(Prefix::new(range.address, range.bits).ok_or_else(|| {
                malformed(format!("{} has no prefix of {} bits", range.address, range.bits))
            })?),
            None => None,
        };
    Ok(Filter {
        slice: filter.slice,
        uid: None,
        to,
        to_port: filter.to_port,
        from_port: filter.from_port,
        protocol: filter.protocol,
        since: instant(filter.since)?,
        until: instant(filter.until)?,
    })
}

fn is_present(node: &Node, owner: &Owner) -> bool {
    node.slices.borrow().get(&owner.slice).is_some_and(|handle| handle.slice.uid.get() == owner.uid)
}

fn parts(owner: Option<Owner>) -> (Option<String>, Option<u32>, Option<String>) {
    owner.map_or((None, None, None), |owner| (Some(owner.slice), Some(owner.uid), Some(owner.contact)))
}

fn traffic(counts: Counts) -> Traffic {
    let Counts { packets_out, bytes_out, packets_in, bytes_in, refused } = counts;
    Traffic { packets_out, bytes_out, packets_in, bytes_in, refused }
}

fn time(millis: i64) -> String {
    Timestamp::from_millisecond(millis).unwrap_or_default().to_string()
}

fn record(row: FlowRow) -> FlowRecord {
    let (slice, uid, contact) = parts(row.owner);
    FlowRecord {
        slice,
        uid,
        contact,
        cgroup: row.cgroup,
        protocol: row.protocol,
        local: row.local,
        local_port: row.local_port,
        remote: row.remote,
        remote_port: row.remote_port,
        first: time(row.first),
        since: time(row.since),
        last: time(row.last),
        ended: row.ended,
        traffic: traffic(row.counts),
    }
}

/// A slice learns from it what its answer lacks, and not how much others send.
fn without_others(kept: FlowsKept) -> FlowsKept {
    FlowsKept { records: 0, bytes: 0, problems: Vec::new(), ..kept }
}

/// What is kept, as it is shown.
pub fn kept(kept: Kept) -> FlowsKept {
    FlowsKept {
        first: kept.first.map(time),
        last: kept.last.map(time),
        records: kept.records,
        bytes: kept.bytes,
        lost_kernel: kept.lost_kernel,
        lost_store: kept.lost_store,
        unread: kept.unread,
        torn: kept.torn,
        clock_doubted: kept.clock_doubted,
        problems: kept.trouble.into_iter().chain(kept.damaged).collect(),
    }
}
