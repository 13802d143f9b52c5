//! Sockets that a capsule with CAP_NET_RAW may have, whatever its profile says.
//!
//! The network's BPF programs are not asked about a packet socket or an XDP socket, and with the capability the kernel
//! makes one: by its family, by the old type SOCK_PACKET of AF_INET, by io_uring, which no filter sees. The built-in
//! profiles refuse all of these; a site's own may have been written before anybody could get that capability. So this
//! filter stands beside every profile, and the kernel takes the stricter answer.

use std::io;

use seccompiler::sock_filter;

use super::install::install;
use super::instructions::{JUMP_IF_EQUAL, JUMP_IF_NOT_BELOW, LOAD, RETURN, step};

/// `AUDIT_ARCH_X86_64`, see linux/audit.h.
const X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`: number, architecture, the low halves of the first two arguments. (The kernel takes
/// family and type as `int`, so there is no more to them.)
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FAMILY: u32 = 16;
const TYPE: u32 = 24;
/// `SOCK_TYPE_MASK`, and the type that AF_INET turns into AF_PACKET.
const TYPE_MASK: u32 = 0xf;
const SOCK_PACKET: u32 = 10;
/// `BPF_ALU | BPF_AND | BPF_K`, see `linux/bpf_common.h`.
const AND: u16 = 0x54;
/// `__X32_SYSCALL_BIT`: the numbers of another calling convention.
const X32: u32 = 0x4000_0000;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Installs the filter for the calling thread and everything that it starts, for good.
///
/// # Errors
/// As [`install`].
pub fn fence_families() -> io::Result<()> {
    install(&program())
}

fn program() -> [sock_filter; 18] {
    [
        step(LOAD, 0, 0, ARCHITECTURE),
        step(JUMP_IF_EQUAL, 0, 15, X86_64),
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_IF_NOT_BELOW, 13, 0, X32),
        step(JUMP_IF_EQUAL, 12, 0, libc::SYS_io_uring_setup as u32),
        step(JUMP_IF_EQUAL, 2, 0, libc::SYS_socket as u32),
        step(JUMP_IF_EQUAL, 1, 0, libc::SYS_socketpair as u32),
        step(RETURN, 0, 0, ALLOW),
        step(LOAD, 0, 0, FAMILY),
        step(JUMP_IF_EQUAL, 6, 0, libc::AF_UNIX as u32),
        step(JUMP_IF_EQUAL, 5, 0, libc::AF_INET6 as u32),
        step(JUMP_IF_EQUAL, 4, 0, libc::AF_NETLINK as u32),
        step(JUMP_IF_EQUAL, 0, 4, libc::AF_INET as u32),
        step(LOAD, 0, 0, TYPE),
        step(AND, 0, 0, TYPE_MASK),
        step(JUMP_IF_EQUAL, 1, 0, SOCK_PACKET),
        step(RETURN, 0, 0, ALLOW),
        step(RETURN, 0, 0, REFUSE),
    ]
}
