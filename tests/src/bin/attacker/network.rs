//! Attacks on the network that slices share: ports that are somebody else's, the node's services, forged addresses.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int};

pub const PRIMITIVES: &[Primitive] = &[
    ("net-bind", net_bind),
    ("net-connect", net_connect),
    ("net-send", net_send),
    ("net-option", net_option),
];

/// Protocols by name: type and number of socket(2).
fn protocol(name: &str) -> (i64, i64) {
    match name {
        "tcp" => (1, 0),
        "mptcp" => (1, 262),
        "udp" => (2, 0),
        "udplite" => (2, 136),
        other => panic!("no such protocol: {other}"),
    }
}

/// `4`, `6` or `mapped` (v4 in v6's clothes), with a port: a socket's address.
fn address(form: &str, last: &[u8], port: u16) -> (i64, Vec<u8>) {
    let mut bytes = Vec::new();
    let family = if form == "4" { libc::AF_INET } else { libc::AF_INET6 };
    bytes.extend((family as u16).to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    match form {
        "4" => {
            bytes.extend(last);
            bytes.extend([0; 8]);
        }
        "mapped" => {
            bytes.extend([0; 4 + 10]);
            bytes.extend([0xff, 0xff]);
            bytes.extend(last);
            bytes.extend([0; 4]);
        }
        _ => {
            bytes.extend([0; 4 + 15]);
            bytes.push(u8::from(last != [0; 4]));
            bytes.extend([0; 4]);
        }
    }
    (family.into(), bytes)
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

fn open(family: i64, name: &str) -> Result<OwnedFd, i32> {
    let (kind, number) = protocol(name);
    let fd = call(libc::SYS_socket, &mut [Arg::Int(family), Arg::Int(kind), Arg::Int(number)])?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn with_address(number: libc::c_long, socket: &OwnedFd, address: &[u8]) -> Attempt {
    let fd = Arg::Int(socket.as_raw_fd().into());
    attempt(number, &mut [fd, Arg::In(address), Arg::Int(address.len() as i64)])
}

/// `net-bind PROTOCOL FORM any|loopback PORT [OPTION]`, the option one of SOL_SOCKET's, by its number.
fn net_bind(args: &[String]) -> Attempt {
    let last = if arg(args, 2) == "any" { [0; 4] } else { LOOPBACK };
    let (family, to) = address(arg(args, 1), &last, int(args, 3) as u16);
    let socket = open(family, arg(args, 0))?;
    if args.len() > 4 {
        set(&socket, libc::SOL_SOCKET.into(), int(args, 4))?;
    }
    with_address(libc::SYS_bind, &socket, &to)
}

/// `net-connect PROTOCOL FORM PORT`, on loopback.
fn net_connect(args: &[String]) -> Attempt {
    let (family, to) = address(arg(args, 1), &LOOPBACK, int(args, 2) as u16);
    with_address(libc::SYS_connect, &open(family, arg(args, 0))?, &to)
}

/// `net-send PROTOCOL FORM PORT`: one datagram, without connect(2).
fn net_send(args: &[String]) -> Attempt {
    let (family, to) = address(arg(args, 1), &LOOPBACK, int(args, 2) as u16);
    let socket = open(family, arg(args, 0))?;
    let fd = Arg::Int(socket.as_raw_fd().into());
    let mut all = [fd, Arg::In(b"x"), Arg::Int(1), Arg::Int(0), Arg::In(&to), Arg::Int(to.len() as i64)];
    attempt(libc::SYS_sendto, &mut all)
}

/// `net-option FAMILY LEVEL NAME` on a UDP socket.
fn net_option(args: &[String]) -> Attempt {
    set(&open(int(args, 0), "udp")?, int(args, 1), int(args, 2))
}

fn set(socket: &OwnedFd, level: i64, name: i64) -> Attempt {
    let one = 1_i32.to_ne_bytes();
    let fd = Arg::Int(socket.as_raw_fd().into());
    attempt(libc::SYS_setsockopt, &mut [fd, Arg::Int(level), Arg::Int(name), Arg::In(&one), Arg::Int(4)])
}
