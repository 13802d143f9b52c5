//! rtnetlink(7): messages to the kernel about interfaces and their queues, and its answers.
//!
//! The answers come from the kernel, not from the network, and are read with bounds all the same.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::error::{KernelError, Tried};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// A piece of a dump is at most this long (`netlink_dump` in the kernel), with room.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once, but a message may wait for a device of another's.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// A dump that changes under the reader is read again this often.
const DUMPS: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// An attribute that holds attributes; the kernel sets it or not, and asks for it in some places.
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

const ON: &str = "the kernel's table of interfaces and queues";

/// Attributes of one message, one after another.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// One more attribute with these bytes.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        // Every value is one of ours and short; what did not fit would be refused by the kernel.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// One more attribute with a word.
    #[must_use]
    pub(super) fn with_word(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// One more attribute with a text.
    #[must_use]
    pub(super) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// One more attribute with attributes in it.
    #[must_use]
    pub(super) fn with_nested(self, kind: u16, inner: Attributes) -> Self {
        self.with(kind | NLA_F_NESTED, &inner.0)
    }
}

/// The value of the first attribute of this kind among these.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The word at this place, if there is one.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

/// The double word at this place, if there is one.
pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|eight| u64::from_ne_bytes(*eight))
}

/// A text that ends with a zero.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A conversation with the kernel.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: OwnedFd,
    /// The number of the last request: an answer to one that was given up is no answer to the next.
    last: Cell<u32>,
}

impl Rtnetlink {
    /// Begins one, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn open() -> Result<Self, KernelError> {
        // Without a protocol: NETLINK_ROUTE is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .tried("open a netlink socket for", ON)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))
            .tried("set the timeout of", ON)?;
        Ok(Self { socket, last: Cell::new(0) })
    }

    /// Asks for a change and waits for the kernel's word.
    pub(super) fn change(
        &self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        let mut answer = Ok(());
        self.talk(kind, flags | NLM_F_ACK, fixed, attributes, |kind, _, body| {
            if kind == NLMSG_ERROR {
                answer = error_of(body);
            }
        })?;
        answer
    }

    /// Asks for a whole table; `read` sees the body of each entry, and gives what it makes of it.
    pub(super) fn dump<T>(
        &self,
        kind: u16,
        fixed: &[u8],
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        for _ in 0..DUMPS {
            let (mut found, mut answer, mut torn) = (Vec::new(), Ok(()), false);
            self.talk(kind, NLM_F_DUMP, fixed, &Attributes::default(), |kind, flags, body| {
                torn |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => answer = error_of(body),
                    _ => found.extend(read(body)),
                }
            })?;
            answer?;
            if !torn {
                return Ok(found);
            }
        }
        Err(Errno::AGAIN)
    }

    /// Sends a request and hands every message of the answer on, up to its end.
    fn talk(
        &self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: &Attributes,
        mut hear: impl FnMut(u16, u16, &[u8]),
    ) -> Result<(), Errno> {
        let length = HEADER + fixed.len() + attributes.0.len();
        let mut request = Vec::with_capacity(length);
        request.extend(u32::try_from(length).map_err(|_| Errno::MSGSIZE)?.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        let number = self.last.get().wrapping_add(1);
        self.last.set(number);
        request.extend(number.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(fixed);
        request.extend(&attributes.0);
        send(&self.socket, &request, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some(message) = message(rest) {
                rest = message.next;
                if message.number != number {
                    continue;
                }
                hear(message.kind, message.flags, message.body);
                if message.kind == NLMSG_ERROR || message.kind == NLMSG_DONE {
                    return Ok(());
                }
            }
        }
    }
}

/// A message of the kernel's.
struct Message<'a> {
    kind: u16,
    flags: u16,
    /// That of the request which it answers.
    number: u32,
    body: &'a [u8],
    /// What follows it in the buffer.
    next: &'a [u8],
}

/// The first message of a buffer.
fn message(buffer: &[u8]) -> Option<Message<'_>> {
    let length = usize::try_from(word(buffer, 0)?).ok()?;
    let half = |at: usize| Some(u16::from_ne_bytes(*buffer.get(at..)?.first_chunk()?));
    Some(Message {
        kind: half(4)?,
        flags: half(6)?,
        number: word(buffer, 8)?,
        body: buffer.get(HEADER..length)?,
        next: buffer.get(length.next_multiple_of(4)..).unwrap_or_default(),
    })
}

/// What a message says that ends an answer.
fn error_of(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)) {
        0 => Ok(()),
        negative => Err(Errno::from_raw_os_error(negative.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let written = Attributes::default()
            .with_text(3, "eth0")
            .with_word(13, 1000)
            .with_nested(18, Attributes::default().with_text(1, "ifb"));
        assert_eq!(attribute(&written.0, 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(attribute(&written.0, 13).and_then(|value| word(value, 0)), Some(1000));
        let inner = attribute(&written.0, 18).expect("nested");
        assert_eq!(attribute(inner, 1).map(text).as_deref(), Some("ifb"));
        assert!(attribute(&written.0, 4).is_none());
    }

    #[test]
    fn what_is_cut_is_no_message() {
        assert!(message(&[]).is_none() && message(&[20, 0, 0, 0, 2, 0]).is_none());
        assert!(message(&[255; 16]).is_none());
        // An attribute that claims no length at all ends the list.
        assert!(attribute(&[0; 8], 0).is_none() && attribute(&[200, 0, 1, 0], 1).is_none());
    }

    #[test]
    fn the_kernel_shows_loopback() {
        let found = Rtnetlink::open()
            .expect("rtnetlink")
            .dump(18, &[0; 16], |body| attribute(body.get(16..)?, 3).map(text));
        assert!(found.expect("a dump").contains(&"lo".to_owned()));
    }
}
