//! The sockets of the machine, and their end: sock_diag(7).
//!
//! The answers come from the kernel, not from the network, and are read with bounds all the same.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;

use plab_config::Transport;
use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::error::{KernelError, Tried};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
/// Bytes of `struct nlmsghdr`, `struct inet_diag_sockid` and `struct inet_diag_msg`.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const MESSAGE: usize = 72;
/// An answer is at most this long (`NLMSG_GOODSIZE` and what the kernel grows it to for a dump).
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; a second is for a machine under load.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// `TCP_LISTEN` of the kernel's states.
const LISTEN: u8 = 10;
/// `TCP_CLOSE`, in which the kernel shows datagram sockets that are not connected.
const CLOSE: u8 = 7;

/// A socket of an Internet protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetSocket {
    /// The protocol.
    pub transport: Transport,
    /// Its own address; unspecified for all.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// Who made it, by UID.
    pub uid: u32,
    /// The inode, by which `/proc/PID/fd` shows it; 0 if no process holds it any more.
    pub inode: u32,
    /// The cgroup in which it was made; none where it is only a rest (`TIME_WAIT`).
    pub cgroup: Option<u64>,
    state: u8,
    family: u8,
    id: [u8; SOCKET_ID],
}

impl InetSocket {
    /// Whether anybody can reach it: a listener, or a datagram socket that is connected to nobody.
    pub fn listens(&self) -> bool {
        match self.transport {
            Transport::Tcp | Transport::Sctp => self.state == LISTEN,
            Transport::Udp | Transport::UdpLite => self.state == CLOSE,
        }
    }
}

/// A conversation with the kernel about sockets.
#[derive(Debug)]
pub struct SocketTable {
    netlink: OwnedFd,
}

const ON: &str = "the kernel's table of sockets";

impl SocketTable {
    /// Begins one.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub fn open() -> Result<Self, KernelError> {
        let netlink =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))
                .tried("open a netlink socket for", ON)?;
        sockopt::set_socket_timeout(&netlink, sockopt::Timeout::Recv, Some(PATIENCE))
            .tried("set the timeout of", ON)?;
        Ok(Self { netlink })
    }

    /// Every socket of a protocol, of both versions of IP; none where the kernel lacks SCTP or UDP-Lite.
    ///
    /// # Errors
    /// The kernel refuses, or cannot show sockets of TCP or UDP: then nobody knows who is on a port.
    pub fn of(&self, transport: Transport) -> Result<Vec<InetSocket>, KernelError> {
        let mut found = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let family = u8::try_from(family.as_raw()).unwrap_or_default();
            match self.dump(family, transport, &mut found) {
                Ok(()) => {}
                Err(Errno::NOENT) if matches!(transport, Transport::Sctp | Transport::UdpLite) => {}
                Err(error) => {
                    return Err(KernelError::new(format!("list {transport} sockets of"), ON, error));
                }
            }
        }
        Ok(found)
    }

    /// Closes a socket, whoever has it: whoever uses it gets ECONNABORTED. False if it is closed already.
    ///
    /// # Errors
    /// The kernel cannot (it is built without `CONFIG_INET_DIAG_DESTROY`, or the protocol lacks it), or refuses.
    pub fn destroy(&self, socket: &InetSocket) -> Result<bool, KernelError> {
        let request =
            request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, socket.family, socket.transport, &socket.id);
        let mut ended = Ok(false);
        let talked = self.talk(&request, |kind, body| {
            if kind == NLMSG_ERROR {
                ended = match error_of(body) {
                    0 => Ok(true),
                    libc::ENOENT | libc::ESRCH => Ok(false),
                    errno => Err(Errno::from_raw_os_error(errno)),
                };
            }
        });
        talked.and(ended).map_err(|error| {
            KernelError::new("close", format!("the socket of UID {} on {}/{}", socket.uid, socket.transport, socket.port), error)
                .hint("a kernel with CONFIG_INET_DIAG_DESTROY can; until its process ends, the socket keeps the port")
        })
    }

    fn dump(&self, family: u8, transport: Transport, found: &mut Vec<InetSocket>) -> Result<(), Errno> {
        let id = [0; SOCKET_ID];
        let request = request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, transport, &id);
        let mut failed = 0;
        self.talk(&request, |kind, body| match kind {
            SOCK_DIAG_BY_FAMILY => found.extend(parse(transport, body)),
            NLMSG_ERROR => failed = error_of(body),
            // What a dump ends with says whether it failed.
            NLMSG_DONE => failed = error_of(body),
            _ => {}
        })?;
        if failed == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(failed)) }
    }

    /// Sends a request and hands every message of the answer on, up to its end.
    fn talk(&self, request: &[u8], mut hear: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        send(&self.netlink, request, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = recv(&self.netlink, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                hear(kind, body);
                if kind == NLMSG_ERROR || kind == NLMSG_DONE {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

fn request(kind: u16, flags: u16, family: u8, transport: Transport, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + 8 + SOCKET_ID);
    request.extend(((HEADER + 8 + SOCKET_ID) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, transport.number(), 0, 0]);
    // Every state.
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(id);
    request
}

/// The first message of a buffer: its type, its body, and what follows it.
fn message(buffer: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*buffer.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*buffer.get(4..)?.first_chunk()?);
    let body = buffer.get(HEADER..length)?;
    Some((kind, body, buffer.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The error that a message ends with; 0 for none.
fn error_of(body: &[u8]) -> i32 {
    body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

/// `struct inet_diag_msg` and its attributes.
fn parse(transport: Transport, body: &[u8]) -> Option<InetSocket> {
    let fixed = body.first_chunk::<MESSAGE>()?;
    let id: [u8; SOCKET_ID] = fixed[4..4 + SOCKET_ID].try_into().ok()?;
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let source: [u8; 16] = id[4..20].try_into().ok()?;
    let address = if i32::from(fixed[0]) == libc::AF_INET {
        IpAddr::from([source[0], source[1], source[2], source[3]])
    } else {
        IpAddr::from(Ipv6Addr::from(source))
    };
    let mut cgroup = None;
    let mut attributes = &body[MESSAGE..];
    while let (Some(length), Some(kind)) =
        (attributes.first_chunk::<2>(), attributes.get(2..).and_then(|rest| rest.first_chunk::<2>()))
    {
        let length = usize::from(u16::from_ne_bytes(*length));
        if length < 4 {
            break;
        }
        if u16::from_ne_bytes(*kind) == CGROUP_ID {
            cgroup = attributes
                .get(4..12)
                .and_then(|bytes| bytes.first_chunk())
                .map(|bytes| u64::from_ne_bytes(*bytes));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(InetSocket {
        transport,
        address,
        port: u16::from_be_bytes([id[0], id[1]]),
        uid: word(64),
        inode: word(68),
        cgroup,
        state: fixed[1],
        family: fixed[0],
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn own_sockets_are_shown() {
        let table = SocketTable::open().expect("sock_diag");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let connected = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let tcp = table.of(Transport::Tcp).expect("list");
        let own: Vec<_> = tcp.iter().filter(|socket| socket.port == port).collect();
        assert_eq!(own.iter().filter(|socket| socket.listens()).count(), 1);
        assert!(own.iter().all(|socket| socket.cgroup.is_some() && socket.address.is_loopback()));
        drop(connected);
        let datagrams = UdpSocket::bind("[::1]:0").expect("bind");
        let port = datagrams.local_addr().expect("an address").port();
        let udp = table.of(Transport::Udp).expect("list");
        assert_eq!(udp.iter().filter(|socket| socket.port == port && socket.listens()).count(), 1);
    }

    #[test]
    fn what_is_cut_is_no_message() {
        assert!(message(&[]).is_none() && message(&[20, 0, 0, 0, 2, 0]).is_none());
        assert!(message(&[255; 16]).is_none());
        assert!(parse(Transport::Tcp, &[0; MESSAGE - 1]).is_none());
        let mut body = [0; MESSAGE + 4];
        // An attribute that claims no length at all ends the list.
        body[MESSAGE] = 0;
        assert!(parse(Transport::Tcp, &body).is_some_and(|socket| socket.cgroup.is_none()));
    }
}
