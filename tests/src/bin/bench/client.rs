//! The bench's own client of the control socket: the protocol spoken in this process, so that what is measured
//! is the node and not the start of a client program.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use plab_protocol::control::{Envelope, Event, NodeStatus, Reply, Request};
use plab_protocol::{VERSION, channel};

use crate::Failure;

/// Nothing asked here takes longer, a thousand capsules included.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection on which one request was asked.
pub struct Client {
    replies: BufReader<UnixStream>,
}

impl Client {
    /// Connects and asks.
    pub fn ask(socket: &Path, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Self, Failure> {
        let mut line = serde_json::to_vec(&Envelope { v: VERSION, request })?;
        line.push(b'\n');
        let stream = UnixStream::connect(socket)?;
        let mut sent = channel::send(&stream, &line, fds)?;
        while sent < line.len() {
            sent += channel::send(&stream, &line[sent..], &[])?;
        }
        Ok(Self { replies: BufReader::new(stream) })
    }

    /// The next reply; a refusal is a failure.
    pub fn reply(&mut self) -> Result<Reply, Failure> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Err("plabd closed the connection".into());
        }
        match serde_json::from_str(&line)? {
            Reply::Error(error) => Err(format!("plabd: {}", error.message).into()),
            reply => Ok(reply),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.replies.get_ref().as_fd()
    }
}

/// The whole status.
pub fn status(socket: &Path) -> Result<NodeStatus, Failure> {
    match Client::ask(socket, Request::Status { slice: None, verify: false }, &[])?.reply()? {
        Reply::Status(status) => Ok(*status),
        other => Err(format!("plabd answered a status with {other:?}").into()),
    }
}

/// Every event from now on, one after the other.
pub struct Events {
    client: Client,
}

impl Events {
    /// Follows the node's events. When this returns, none that happens later is missed.
    pub fn follow(socket: &Path) -> Result<Self, Failure> {
        let (events, _) = Self::follow_from(socket, 0)?;
        Ok(events)
    }

    /// The same, with those that were numbered above `since` before.
    pub fn follow_from(socket: &Path, since: u64) -> Result<(Self, Vec<Event>), Failure> {
        let mut client = Client::ask(socket, Request::Events { since, slice: None, follow: true }, &[])?;
        client.replies.get_ref().set_read_timeout(Some(PATIENCE))?;
        match client.reply()? {
            Reply::Events { events } => Ok((Self { client }, events)),
            other => Err(format!("plabd answered with {other:?}").into()),
        }
    }

    /// Waits for the next event.
    pub fn next(&mut self) -> Result<Event, Failure> {
        match self.client.reply()? {
            Reply::Event(event) => Ok(event),
            other => Err(format!("plabd sent {other:?} among the events").into()),
        }
    }

    /// Waits for the next event of this kind. An event that tells of a failed capsule meanwhile is a failure.
    pub fn next_of(&mut self, kind: &str) -> Result<Event, Failure> {
        loop {
            let event = self.next()?;
            if event.kind == kind {
                return Ok(event);
            }
            if event.kind.ends_with("-failed") || event.kind.ends_with("-refused") {
                return Err(
                    format!("{} {}: {}", event.kind, event.slice.unwrap_or_default(), event.message).into()
                );
            }
        }
    }
}
