//! One client: a request line with descriptors in, reply lines out, all of it bounded.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use plab_protocol::control::{Envelope, Reply};
use plab_protocol::{MAX_LINE, channel};
use rustix::io::Errno;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::peer::Process;

/// A client that does not read its answer is gone or hostile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes taken from a client at once.
const PIECE: usize = 16 << 10;

/// One client.
pub struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// An accepted connection.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The process that connected.
    ///
    /// # Errors
    /// It has ended.
    pub fn client(&self) -> Result<Process, Errno> {
        Process::connected(&self.stream)
    }

    /// Reads one request line and the descriptors that came with it.
    ///
    /// # Errors
    /// The client closed, or what it sent is no request, or too long.
    pub async fn request(&mut self) -> io::Result<(Envelope, Vec<OwnedFd>)> {
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
