//! Connections: accepting them, bounding their number, and the way of one from its request to its answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use plab_protocol::VERSION;
use plab_protocol::control::{ErrorCode, Reply};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

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

/// How long a connection of a UID that is not root's counts after it is done: with [`MAX_OF_ONE`], a slice gets a few
/// hundred requests a second, and cannot fill the audit trail faster than that.
const PACE: Duration = Duration::from_millis(50);

/// Serves the control socket for as long as plabd runs; returns why it cannot.
///
/// The pulse beats in here and nowhere else: should this loop not turn any more, systemd hears nothing, and starts
/// plabd anew.
pub async fn serve(node: Rc<Node>, listener: UnixListener, pulse: Pulse) -> PulseError {
    let open: Rc<RefCell<BTreeMap<u32, usize>>> = Rc::default();
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
        let busy = {
            let open = open.borrow();
            let all: usize = open.values().sum();
            let of_one = open.get(&uid).copied().unwrap_or(0);
            let of_root = open.get(&0).copied().unwrap_or(0);
            all >= MAX_CONNECTIONS || uid != 0 && (of_one >= MAX_OF_ONE || all - of_root >= MAX_OF_OTHERS)
        };
        let node = Rc::clone(&node);
        if busy {
            let reply = Reply::Error(refused(ErrorCode::Busy, "too many connections; try again later"));
            tokio::task::spawn_local(async move {
                Connection::new(stream).send(&reply).await.ok();
            });
            continue;
        }
        *open.borrow_mut().entry(uid).or_default() += 1;
        let open = Rc::clone(&open);
        tokio::task::spawn_local(async move {
            handle(&node, stream, uid).await;
            if uid != 0 {
                tokio::time::sleep(PACE).await;
            }
            let mut open = open.borrow_mut();
            if let Some(count) = open.get_mut(&uid) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&uid);
                }
            }
        });
    }
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
