//! Connections: accepting them, bounding their number, and the way of one from its request to its answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use plab_protocol::VERSION;
use plab_protocol::control::{ErrorCode, Reply};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::authority::{self, Caller};
use super::connection::Connection;
use super::requests;
use crate::node::Node;
use crate::pulse::{Pulse, PulseError};
use crate::slice::refused;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 512;

/// Of these, what all UIDs but root may have together: slices that conspire leave root its share.
const MAX_OF_OTHERS: usize = 384;

/// And one UID that is not root's.
const MAX_OF_ONE: usize = 16;

/// A client that has connected has its request ready.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a UID that is not root's may run ahead of its pace; what comes faster waits. A slice gets 320 requests a second,
/// and cannot fill the audit trail faster than that.
const AHEAD: Duration = Duration::from_millis(50);

/// Its pace: one connection in so long.
const PACE: Duration = Duration::from_micros(3125);

/// What one UID has of the connections.
struct Share {
    /// Open now.
    open: usize,
    /// When its next one would come if it kept its pace.
    due: Instant,
}

/// Serves the control socket for as long as plabd runs; returns why it cannot.
///
/// The pulse beats in here and nowhere else: should this loop not turn any more, systemd hears nothing, and starts
/// plabd anew.
pub async fn serve(node: Rc<Node>, listener: UnixListener, pulse: Pulse) -> PulseError {
    let shares: Rc<RefCell<BTreeMap<u32, Share>>> = Rc::default();
    let mut beating = std::pin::pin!(pulse.beat());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            error = &mut beating => return error,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: connections that end make room.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
        let node = Rc::clone(&node);
        let Some(turn) = enter(&mut shares.borrow_mut(), uid, Instant::now()) else {
            let reply = Reply::Error(refused(ErrorCode::Busy, "too many connections; try again later"));
            tokio::task::spawn_local(async move {
                Connection::new(stream).send(&reply).await.ok();
            });
            continue;
        };
        let shares = Rc::clone(&shares);
        tokio::task::spawn_local(async move {
            if uid != 0 {
                sleep_until(turn).await;
            }
            handle(&node, stream, uid).await;
            if let Some(share) = shares.borrow_mut().get_mut(&uid) {
                share.open -= 1;
            }
        });
    }
}

/// Counts a connection that begins `now`, unless there are too many; when its turn is.
fn enter(shares: &mut BTreeMap<u32, Share>, uid: u32, now: Instant) -> Option<Instant> {
    shares.retain(|_, share| share.open > 0 || share.due > now);
    let all: usize = shares.values().map(|share| share.open).sum();
    let of_root = shares.get(&0).map_or(0, |share| share.open);
    let of_one = shares.get(&uid).map_or(0, |share| share.open);
    if all >= MAX_CONNECTIONS || uid != 0 && (of_one >= MAX_OF_ONE || all - of_root >= MAX_OF_OTHERS) {
        return None;
    }
    let share = shares.entry(uid).or_insert(Share { open: 0, due: now });
    share.open += 1;
    share.due = share.due.max(now) + PACE;
    Some(share.due - AHEAD)
}

async fn handle(node: &Rc<Node>, stream: UnixStream, uid: u32) {
    let mut connection = Connection::new(stream);
    let (envelope, fds) = match timeout(REQUEST_TIMEOUT, connection.request()).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => {
            let reply =
                Reply::Error(refused(ErrorCode::Malformed, format!("request not understood: {error}")));
            connection.send(&reply).await.ok();
            return;
        }
        Err(_) => return,
    };
    if envelope.v != VERSION {
        let message = format!(
            "this plabd speaks version {VERSION}, the request {}; use the plab of the same release",
            envelope.v
        );
        connection.send(&Reply::Error(refused(ErrorCode::Version, message))).await.ok();
        return;
    }
    let caller = Caller::of(uid, node);
    if let Err(error) = authority::check(&caller, &envelope.request) {
        node.events.report(
            caller.slice(),
            "request-denied",
            plab_protocol::control::Severity::Notice,
            format!("{} (UID {uid}): {}", caller.describe(), requests::describe(&envelope.request)),
        );
        connection.send(&Reply::Error(error)).await.ok();
        return;
    }
    requests::serve(node, &caller, envelope.request, fds, &mut connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(shares: &mut BTreeMap<u32, Share>, uid: u32) {
        shares.get_mut(&uid).expect("it has entered").open -= 1;
    }

    #[tokio::test]
    async fn who_asks_fast_waits_and_who_holds_on_is_refused() {
        let mut shares = BTreeMap::new();
        let now = Instant::now();
        for n in 1..=100 {
            let turn = enter(&mut shares, 70_000, now).expect("one at a time");
            assert_eq!(turn > now, n > 16, "{n}");
            leave(&mut shares, 70_000);
        }
        let later = now + Duration::from_secs(1);
        assert!(enter(&mut shares, 70_000, later).expect("it has waited") <= later);
        for _ in 1..MAX_OF_ONE {
            assert!(enter(&mut shares, 70_000, later).is_some());
        }
        assert!(enter(&mut shares, 70_000, later).is_none());
        // Others are not concerned, until they are too many together; root never is.
        for uid in 0..MAX_OF_OTHERS - MAX_OF_ONE {
            assert!(
                enter(&mut shares, 80_000 + u32::try_from(uid).expect("small"), later).is_some(),
                "{uid}"
            );
        }
        assert!(enter(&mut shares, 90_000, later).is_none());
        assert!(enter(&mut shares, 0, later).is_some());
        leave(&mut shares, 0);
        leave(&mut shares, 80_000);
        assert!(enter(&mut shares, 90_000, later).is_some());
        leave(&mut shares, 90_000);
        assert!(enter(&mut shares, 90_001, later + AHEAD).is_some());
        assert_eq!(shares.len(), 1 + (MAX_OF_OTHERS - MAX_OF_ONE - 1) + 1, "what is over is forgotten");
    }
}
