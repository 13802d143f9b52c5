//! Attacks by sockets: families with raw access, others' abstract sockets, forged credentials, set-up of the net.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int, number};

pub const PRIMITIVES: &[Primitive] = &[
    ("socket", |args| {
        attempt(
            libc::SYS_socket,
            &mut [Arg::Int(int(args, 0)), Arg::Int(int(args, 1)), Arg::Int(int(args, 2))],
        )
    }),
    ("bind-tcp", |args| {
        std::net::TcpListener::bind(("127.0.0.1", int(args, 0) as u16))
            .map(|_| "bound".into())
            .map_err(|e| number(&e))
    }),
    ("sockopt", sockopt),
    ("interface-flags", interface_flags),
    ("set-link", set_link),
    ("uevents", uevents),
    ("abstract-connect", abstract_connect),
    ("abstract-send", abstract_send),
    ("unix-connect", |args| {
        UnixStream::connect(arg(args, 0)).map(|_| "connected".into()).map_err(|e| number(&e))
    }),
    ("unix-connect-seqpacket", unix_connect_seqpacket),
    ("connect-below", connect_below),
    ("forge-credentials", forge_credentials),
    ("udp-memory", udp_memory),
];

fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, i32> {
    let fd = call(
        libc::SYS_socket,
        &mut [Arg::Int(family.into()), Arg::Int(kind.into()), Arg::Int(protocol.into())],
    )?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `sockopt LEVEL NAME VALUE` on a TCP socket.
fn sockopt(args: &[String]) -> Attempt {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let value = (int(args, 2) as u32).to_ne_bytes();
    attempt(
        libc::SYS_setsockopt,
        &mut [
            Arg::Int(socket.as_raw_fd().into()),
            Arg::Int(int(args, 0)),
            Arg::Int(int(args, 1)),
            Arg::In(&value),
            Arg::Int(4),
        ],
    )
}

/// Sets the loopback interface's flags to what they are.
fn interface_flags(_: &[String]) -> Attempt {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = [0; 40];
    request[..2].copy_from_slice(b"lo");
    let mut ioctl = |command: u64| {
        attempt(
            libc::SYS_ioctl,
            &mut [Arg::Int(socket.as_raw_fd().into()), Arg::Int(command as i64), Arg::Out(&mut request)],
        )
    };
    ioctl(libc::SIOCGIFFLAGS)?;
    ioctl(libc::SIOCSIFFLAGS)
}

/// The same through netlink: `RTM_SETLINK` on interface 1 with nothing to change; the answer is the kernel's.
fn set_link(_: &[String]) -> Attempt {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes()); // length
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend(5_u16.to_ne_bytes()); // a request that wants an answer
    message.extend([0; 8]); // sequence, port
    message.extend([0, 0, 0, 0]); // family, device type
    message.extend(1_i32.to_ne_bytes()); // interface
    message.extend([0; 8]); // flags, mask: no change
    let fd = || Arg::Int(socket.as_raw_fd().into());
    call(
        libc::SYS_sendto,
        &mut [fd(), Arg::In(&message), Arg::Int(32), Arg::Int(0), Arg::Null, Arg::Int(0)],
    )?;
    let mut answer = [0; 512];
    call(
        libc::SYS_recvfrom,
        &mut [fd(), Arg::Out(&mut answer), Arg::Int(512), Arg::Int(0), Arg::Null, Arg::Null],
    )?;
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if code == 0 { Ok("set".into()) } else { Err(-code) }
}

/// Listens to the kernel's device events.
fn uevents(_: &[String]) -> Attempt {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)?;
    let mut address = [0; 12];
    address[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    address[8] = 1; // the kernel's group
    attempt(libc::SYS_bind, &mut [Arg::Int(socket.as_raw_fd().into()), Arg::In(&address), Arg::Int(12)])
}

fn abstract_address(args: &[String]) -> Result<SocketAddr, i32> {
    SocketAddr::from_abstract_name(arg(args, 0)).map_err(|e| number(&e))
}

fn abstract_connect(args: &[String]) -> Attempt {
    UnixStream::connect_addr(&abstract_address(args)?).map(|_| "connected".into()).map_err(|e| number(&e))
}

fn abstract_send(args: &[String]) -> Attempt {
    let socket = UnixDatagram::unbound().map_err(|e| number(&e))?;
    socket.send_to_addr(b"x", &abstract_address(args)?).map(|_| "sent".into()).map_err(|e| number(&e))
}

/// `unix-connect-seqpacket PATH`: the kind of socket that a capsule has.
fn unix_connect_seqpacket(args: &[String]) -> Attempt {
    let socket = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0)?;
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend(arg(args, 0).as_bytes());
    address.push(0);
    attempt(
        libc::SYS_connect,
        &mut [Arg::Int(socket.as_raw_fd().into()), Arg::In(&address), Arg::Int(address.len() as i64)],
    )
}

/// `connect-below FD PATH`: enters a directory that came along as a descriptor, and from there a socket.
fn connect_below(args: &[String]) -> Attempt {
    call(libc::SYS_fchdir, &mut [Arg::Int(int(args, 0))])?;
    UnixStream::connect(arg(args, 1)).map(|_| "connected".into()).map_err(|e| number(&e))
}

/// Sends credentials that say root.
fn forge_credentials(_: &[String]) -> Attempt {
    let (near, _far) = UnixStream::pair().map_err(|e| number(&e))?;
    let creds = rustix::net::UCred {
        pid: rustix::process::getpid(),
        uid: rustix::process::Uid::ROOT,
        gid: rustix::process::Gid::ROOT,
    };
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    control.push(rustix::net::SendAncillaryMessage::ScmCredentials(creds));
    let bytes = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(&near, &bytes, &mut control, rustix::net::SendFlags::empty())
        .map(|_| "believed".into())
        .map_err(rustix::io::Errno::raw_os_error)
}

/// `udp-memory MIB`: leaves datagrams unread in loopback sockets until so much lies in the kernel: memory that is
/// nobody's unless sockets are charged. What could not be queued in 8000 sockets is ENOBUFS.
fn udp_memory(args: &[String]) -> Attempt {
    let wanted = int(args, 0) as usize * (1 << 20);
    let datagram = vec![0; 32 << 10];
    let (mut held, mut queued) = (Vec::new(), 0);
    while queued < wanted && held.len() < 8000 {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|e| number(&e))?;
        let address = receiver.local_addr().map_err(|e| number(&e))?;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|e| number(&e))?;
        for _ in 0..3 {
            sender.send_to(&datagram, address).map_err(|e| number(&e))?;
        }
        // What lies there is what counts: full queues drop without a word.
        receiver.set_nonblocking(true).map_err(|e| number(&e))?;
        let mut waiting = [0; 8];
        call(
            libc::SYS_ioctl,
            &mut [
                Arg::Int(receiver.as_raw_fd().into()),
                Arg::Int(libc::FIONREAD as i64),
                Arg::Out(&mut waiting),
            ],
        )?;
        if waiting[..4] == [0; 4] {
            return Err(libc::ENOBUFS);
        }
        queued += 3 * datagram.len();
        held.push(receiver);
    }
    if queued < wanted { Err(libc::ENOBUFS) } else { Ok(format!("{} MiB", queued >> 20)) }
}
