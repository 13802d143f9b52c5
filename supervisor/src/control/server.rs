//! Connections: accepting, bounding, reading and writing lines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use plab_protocol::control::{Envelope, ErrorCode, Reply};
use plab_protocol::{MAX_LINE, VERSION, channel};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::authority::{self, Caller};
use super::requests;
use crate::node::Node;
use crate::slice::refused;

/// Connections at the same time; and of one UID that is not root's.
const MAX_CONNECTIONS: usize = 512;
const MAX_OF_ONE: usize = 16;

/// A client that has connected has its request ready.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that does not read its answer is gone or hostile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection of a UID that is not root's counts after it is done: with [`MAX_OF_ONE`], a slice gets a few
/// hundred requests a second, and cannot fill the audit trail faster than that.
const PACE: Duration = Duration::from_millis(50);

/// Bytes taken from a client at once.
const PIECE: usize = 16 << 10;

/// Serves the control socket for as long as plabd runs.
pub async fn serve(node: Rc<Node>, listener: UnixListener) {
    let open: Rc<RefCell<BTreeMap<u32, usize>>> = Rc::default();
    loop {
        let stream = match listener.accept().await {
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
            let of_one = open.get(&uid).copied().unwrap_or(0);
            open.values().sum::<usize>() >= MAX_CONNECTIONS || uid != 0 && of_one >= MAX_OF_ONE
        };
        let node = Rc::clone(&node);
        if busy {
            let reply = Reply::Error(refused(ErrorCode::Busy, "too many connections; try again later"));
            tokio::task::spawn_local(async move {
                Connection { stream }.send(&reply).await.ok();
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
    let mut connection = Connection { stream };
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

/// One client.
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Reads one request line and the descriptors that came with it.
    async fn request(&mut self) -> io::Result<(Envelope, Vec<OwnedFd>)> {
        let mut line = Vec::new();
        let mut fds = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let (n, more) = self
                .stream
                .async_io(Interest::READABLE, || channel::receive(&self.stream, &mut piece))
                .await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            fds.extend(more);
            line.extend_from_slice(&piece[..n]);
            if fds.len() > channel::MAX_FDS || line.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than the protocol allows"));
            }
            if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
                return Ok((serde_json::from_slice(&line[..end])?, fds));
            }
        }
    }

    /// Sends one reply line.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        timeout(WRITE_TIMEOUT, self.stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Returns when the client has closed the connection.
    pub async fn closed(&self) {
        let mut byte = [0];
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    }
}
