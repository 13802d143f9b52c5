//! Socket families that a capsule with CAP_NET_RAW may have, whatever its profile says.
//!
//! The network's BPF programs are not asked about a packet socket or an XDP socket, and with the capability the kernel
//! makes one. The built-in profiles refuse those families; a site's own may have been written before anybody could get
//! that capability. So this filter stands beside every profile, and the kernel takes the stricter answer.

use std::io;

use seccompiler::sock_filter;

use super::install::install;
use super::instructions::{JUMP_IF_EQUAL, LOAD, RETURN, step};

/// `AUDIT_ARCH_X86_64`, see linux/audit.h.
const X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`: number, architecture, the low half of the first argument. (The kernel takes the
/// family as an `int`, so there is no more to it.)
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FAMILY: u32 = 16;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// Installs the filter for the calling thread and everything that it starts, for good.
///
/// # Errors
/// As [`install`].
pub fn fence_families() -> io::Result<()> {
    install(&program())
}

fn program() -> [sock_filter; 13] {
    [
        step(LOAD, 0, 0, ARCHITECTURE),
        step(JUMP_IF_EQUAL, 0, 10, X86_64),
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_IF_EQUAL, 2, 0, libc::SYS_socket as u32),
        step(JUMP_IF_EQUAL, 1, 0, libc::SYS_socketpair as u32),
        step(RETURN, 0, 0, ALLOW),
        step(LOAD, 0, 0, FAMILY),
        step(JUMP_IF_EQUAL, 3, 0, libc::AF_UNIX as u32),
        step(JUMP_IF_EQUAL, 2, 0, libc::AF_INET as u32),
        step(JUMP_IF_EQUAL, 1, 0, libc::AF_INET6 as u32),
        step(JUMP_IF_EQUAL, 0, 1, libc::AF_NETLINK as u32),
        step(RETURN, 0, 0, ALLOW),
        step(RETURN, 0, 0, REFUSE),
    ]
}
