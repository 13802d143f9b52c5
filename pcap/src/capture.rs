//! Listening by one raw socket of each protocol that this slice was granted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType, ipproto};
use rustix::time::Timespec;

/// More than an IP packet can be.
const LARGEST: usize = 65536;

/// What listens.
pub struct Capture {
    sockets: Vec<OwnedFd>,
    ready: OwnedFd,
    buffer: Vec<u8>,
    snaplen: usize,
    timeout: Timespec,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> String {
    move |error| format!("could not {what}: {error}")
}

/// A packet, from its IP header on.
pub struct Packet<'a> {
    pub data: &'a [u8],
    /// How much of it is there.
    pub caught: u32,
    /// How long it was.
    pub length: u32,
    /// When it was read, since 1970.
    pub seconds: i64,
    pub microseconds: i64,
}

impl Capture {
    /// Opens the sockets; `snaplen` and `to_ms` are as `pcap_open_live` has them.
    ///
    /// # Errors
    /// In words, if there is no raw socket for this slice.
    pub fn open(snaplen: i32, to_ms: i32) -> Result<Self, String> {
        let ready = epoll::create(CreateFlags::CLOEXEC).map_err(failed("wait for packets"))?;
        let mut sockets = Vec::new();
        for protocol in [ipproto::ICMP, ipproto::UDP, ipproto::TCP] {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match net::socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(protocol)) {
                Ok(socket) => {
                    let data = EventData::new_u64(sockets.len() as u64);
                    epoll::add(&ready, &socket, data, EventFlags::IN).map_err(failed("wait for packets"))?;
                    sockets.push(socket);
                }
                // Not granted.
                Err(Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(failed("make a raw socket")(error)),
            }
        }
        if sockets.is_empty() {
            return Err(
                "no raw socket may be made here; has the slice's definition `raw`, in [network]?".into()
            );
        }
        let snaplen = usize::try_from(snaplen).unwrap_or(0).clamp(1, LARGEST);
        // Not a whole one: as libpcap, with 0 it waits until something comes.
        let to_ms = i64::from(to_ms.max(0));
        let timeout = Timespec { tv_sec: to_ms / 1000, tv_nsec: to_ms % 1000 * 1_000_000 };
        Ok(Self { sockets, ready, buffer: vec![0; LARGEST], snaplen, timeout })
    }

    /// Readable when there is a packet.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// The next packet, if one comes in time.
    pub fn next(&mut self) -> Option<Packet<'_>> {
        let forever = self.timeout.tv_sec == 0 && self.timeout.tv_nsec == 0;
        let mut events = Vec::with_capacity(1);
        let wait = (!forever).then_some(&self.timeout);
        epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), wait).ok()?;
        let event: &Event = events.first()?;
        let socket = self.sockets.get(usize::try_from(event.data.u64()).ok()?)?;
        let (_, length) = net::recv(socket, &mut self.buffer[..], RecvFlags::TRUNC).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let caught = length.min(self.snaplen).min(self.buffer.len());
        Some(Packet {
            data: &self.buffer[..caught],
            caught: u32::try_from(caught).ok()?,
            length: u32::try_from(length).ok()?,
            seconds: i64::try_from(now.as_secs()).ok()?,
            microseconds: now.subsec_micros().into(),
        })
    }
}
