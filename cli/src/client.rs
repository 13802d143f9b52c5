//! One connection to `plabd`: a request out, reply lines in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plab_protocol::control::{Envelope, Reply, Request};
use plab_protocol::{MAX_LINE, VERSION, channel};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

use crate::error::{ClientError, Error};
use crate::output::words;

/// Bytes asked of the kernel first; most replies fit. More would only be cleared and thrown away.
const FIRST_CHUNK: usize = 4 << 10;
/// Bytes asked of the kernel when there are more.
const CHUNK: usize = 64 << 10;

/// Where `plabd` listens; `root` as given with `--root`.
pub fn control_socket(root: Option<&Path>) -> PathBuf {
    root.map_or_else(|| PathBuf::from("/run/planetlab"), |root| root.join("run/planetlab"))
        .join("control.sock")
}

/// A connection on which one request is asked.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// Received and not yet taken.
    buffer: Vec<u8>,
    /// How much of `buffer` is known to hold no end of a line, so that a long line is not searched again
    /// from its start each time more of it comes.
    searched: usize,
}

/// A reply as it came and as it was understood.
#[derive(Debug)]
pub struct Received {
    /// The line without its end: what `--json` prints, with fields that this build does not know.
    pub line: String,
    /// The same, parsed.
    pub reply: Reply,
}

impl Client {
    /// Connects to `plabd` and sends `request`; `fds` go with its first byte.
    ///
    /// # Errors
    /// When nobody listens at `path`, the request is too long, or it cannot be sent.
    pub fn ask(path: &Path, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Client, ClientError> {
        let mut line = serde_json::to_vec(&Envelope { v: VERSION, request })
            .map_err(|e| ClientError::Send(io::Error::other(e)))?;
        if line.len() > MAX_LINE {
            return Err(ClientError::RequestTooLong { size: line.len(), limit: MAX_LINE });
        }
        line.push(b'\n');
        let socket =
            open(path).map_err(|source| ClientError::Connect { path: path.to_path_buf(), source })?;
        let client = Client { socket, buffer: Vec::new(), searched: 0 };
        client.send(&line, fds)?;
        Ok(client)
    }

    fn send(&self, line: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut sent = 0;
        let mut fds = fds;
        while sent < line.len() {
            match channel::send(&self.socket, &line[sent..], fds) {
                Ok(n) => sent += n,
                // A server that refuses early (busy, denied) answers and closes without reading on; its reply
                // is worth more than our broken pipe.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(e) => return Err(ClientError::Send(e)),
            }
            // They went with the first byte; sending them again would hand over a second set.
            fds = &[];
        }
        Ok(())
    }

    /// Waits for the next reply; none when the connection ended after a whole line.
    ///
    /// # Errors
    /// When the connection fails or what comes is not the protocol.
    pub fn receive(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            if let Some(received) = self.take()? {
                return Ok(Some(received));
            }
            if !self.fill()? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ClientError::Closed) };
            }
        }
    }

    /// Waits for the one reply that ends most requests.
    ///
    /// # Errors
    /// As [`Client::receive`]; a connection that ends without a reply is [`ClientError::Closed`].
    pub fn reply(&mut self) -> Result<Received, ClientError> {
        self.receive()?.ok_or(ClientError::Closed)
    }

    /// Receives once into the buffer; false at the end of the connection.
    ///
    /// # Errors
    /// As recv(2).
    pub fn fill(&mut self) -> Result<bool, ClientError> {
        let start = self.buffer.len();
        self.buffer.resize(start + if start == 0 { FIRST_CHUNK } else { CHUNK }, 0);
        let got = loop {
            match recv(&self.socket, &mut self.buffer[start..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                // The peer closed with a part of our request unread. What it sent before that is still queued.
                Err(rustix::io::Errno::CONNRESET) => {}
                other => break other,
            }
        };
        let n = *got.as_ref().map_or(&0, |(n, _)| n);
        self.buffer.truncate(start + n);
        got.map_err(|e| ClientError::Receive(e.into()))?;
        Ok(n > 0)
    }

    /// Takes a whole reply out of the buffer, if there is one.
    ///
    /// # Errors
    /// A line that is longer than the protocol allows, or that is no reply.
    pub fn take(&mut self) -> Result<Option<Received>, ClientError> {
        let Some(at) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') else {
            self.searched = self.buffer.len();
            // Without this bound a peer that never ends its line would fill our memory.
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::TooLong { limit: MAX_LINE });
            }
            return Ok(None);
        };
        let end = self.searched + at;
        if end > MAX_LINE {
            return Err(ClientError::TooLong { limit: MAX_LINE });
        }
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        let line = String::from_utf8(line).map_err(|_| ClientError::Malformed("not UTF-8".into()))?;
        // The error may quote the line, and so a slice.
        let reply = serde_json::from_str(&line).map_err(|e| ClientError::Malformed(words(&e.to_string())))?;
        Ok(Some(Received { line, reply }))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to a Unix stream socket at a path of any length.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&socket, &address)?,
        // An address holds 107 bytes. A deep --root is longer; through a descriptor of the directory it fits.
        Err(rustix::io::Errno::NAMETOOLONG) => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let directory = rustix::fs::open(
                directory,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            connect(&socket, &SocketAddrUnix::new(&short)?)?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(socket)
}

/// Asks and waits for the answer; a refusal is [`Error::Refused`].
///
/// # Errors
/// As [`Client::ask`] and [`Client::reply`], and a refusal.
pub fn ask(path: &Path, request: Request) -> Result<Received, Error> {
    let received = Client::ask(path, request, &[])?.reply()?;
    match received.reply {
        Reply::Error(error) => Err(Error::Refused(error)),
        _ => Ok(received),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_moves_the_socket() {
        assert_eq!(control_socket(None), Path::new("/run/planetlab/control.sock"));
        assert_eq!(control_socket(Some(Path::new("/srv/t"))), Path::new("/srv/t/run/planetlab/control.sock"));
    }

    #[test]
    fn a_path_of_any_length_connects() {
        let mut directory = std::env::temp_dir();
        directory.push(format!("plab-client-{}", std::process::id()));
        let top = directory.clone();
        directory.push("d".repeat(120));
        std::fs::create_dir_all(&directory).expect("mkdir");
        // A server has the same limit and the same way around it.
        let handle = std::fs::File::open(&directory).expect("open");
        let short = format!("/proc/self/fd/{}/control.sock", handle.as_raw_fd());
        let _listener = std::os::unix::net::UnixListener::bind(short).expect("bind");
        let opened = open(&directory.join("control.sock"));
        std::fs::remove_dir_all(top).expect("clean up");
        assert!(opened.is_ok(), "{opened:?}");
    }
}
