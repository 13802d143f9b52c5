//! A bind(2) whose address is changed while a filter of the attacker's own holds the call up: who looked at the address
//! before that would have seen another. See seccomp_unotify(2).

use std::sync::atomic::{AtomicI32, Ordering};

use crate::Primitive;
use crate::sys::{Arg, Attempt, call, int, last, wait_for};

pub const PRIMITIVES: &[Primitive] = &[("bind-notified", bind_notified)];

/// What is not the attempt itself failed.
const NO_ATTEMPT: i32 = libc::ENOTRECOVERABLE;

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND`, with the sizes of what they take.
const RECEIVE: i64 = 0xc050_2100;
const RECEIVED: usize = 80;
const SEND: i64 = 0xc018_2101;

const SET_MODE_FILTER: i64 = 1;
const NEW_LISTENER: i64 = 8;
const USER_NOTIF: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

/// What both processes see.
struct Shared {
    address: libc::sockaddr_in,
    /// 0 until it is there; then the descriptor and one, or less than 0.
    listener: AtomicI32,
}

/// `bind-notified PORT`: of UDP, on loopback; what is entered is port 0.
fn bind_notified(args: &[String]) -> Attempt {
    let port = int(args, 0) as u16;
    let socket = call(libc::SYS_socket, &mut [Arg::Int(2), Arg::Int(2), Arg::Int(0)])?;
    let (protection, flags) =
        (i64::from(libc::PROT_READ | libc::PROT_WRITE), i64::from(libc::MAP_SHARED | libc::MAP_ANONYMOUS));
    let mut map =
        [Arg::Null, Arg::Int(4096), Arg::Int(protection), Arg::Int(flags), Arg::Int(-1), Arg::Int(0)];
    let shared = call(libc::SYS_mmap, &mut map)? as *mut Shared;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    // SAFETY: a page of our own, large enough and aligned.
    unsafe { shared.write(Shared { address, listener: AtomicI32::new(0) }) };
    // As fork(2), but with one table of descriptors.
    let flags = i64::from(libc::CLONE_FILES | libc::SIGCHLD);
    let mut clone = [Arg::Int(flags), Arg::Null, Arg::Null, Arg::Null, Arg::Null];
    let child = call(libc::SYS_clone, &mut clone)?;
    if child == 0 {
        std::process::exit(held_up(socket, shared));
    }
    // SAFETY: the page stays, and the child touches this word as atomic, too.
    let listener = unsafe { &(*shared).listener };
    let changed = change(listener, || {
        // SAFETY: the child waits in the kernel, which reads it only after it was told to go on.
        unsafe { (*shared).address.sin_port = port.to_be() };
    });
    if changed.is_err() {
        let _ = call(libc::SYS_kill, &mut [Arg::Int(child), Arg::Int(libc::SIGKILL.into())]);
    }
    match (changed, wait_for(child as i32)?) {
        (Ok(()), 0) => Ok("bound".into()),
        (Ok(()), code) => Err(code),
        (Err(_), _) => Err(NO_ATTEMPT),
    }
}

/// The child: sets up the filter, tells the listener, and binds; its exit status.
fn held_up(socket: i64, shared: *mut Shared) -> i32 {
    let ins = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        ins(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        ins(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_bind as u32),
        ins(libc::BPF_RET | libc::BPF_K, 0, 0, USER_NOTIF),
        ins(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mut install =
        [Arg::Int(SET_MODE_FILTER), Arg::Int(NEW_LISTENER), Arg::Int((&raw const program) as i64)];
    let said = call(libc::SYS_seccomp, &mut install);
    // SAFETY: the page stays, and the parent touches this word as atomic, too.
    let listener = unsafe { &(*shared).listener };
    listener.store(said.map_or(-1, |fd| fd as i32 + 1), Ordering::SeqCst);
    if said.is_err() {
        return NO_ATTEMPT;
    }
    let size = size_of::<libc::sockaddr_in>() as i64;
    call(libc::SYS_bind, &mut [Arg::Int(socket), Arg::Int(shared as i64), Arg::Int(size)]).err().unwrap_or(0)
}

/// The parent: waits for the call, changes what it is about, and lets it go on.
fn change(listener: &AtomicI32, change: impl FnOnce()) -> Result<(), i32> {
    let fd = (0..20_000)
        .find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Some(listener.load(Ordering::SeqCst)).filter(|fd| *fd != 0)
        })
        .filter(|fd| *fd > 0)
        .ok_or(NO_ATTEMPT)?
        - 1;
    let mut waits = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, on this stack.
    if unsafe { libc::poll(&raw mut waits, 1, 20_000) } < 1 {
        return Err(last());
    }
    let mut held = [0; RECEIVED];
    call(libc::SYS_ioctl, &mut [Arg::Int(fd.into()), Arg::Int(RECEIVE), Arg::Out(&mut held)])?;
    change();
    // The call's ID; no value, no error, and SECCOMP_USER_NOTIF_FLAG_CONTINUE.
    let mut answer = [held.first_chunk::<8>().ok_or(NO_ATTEMPT)?.as_slice(), &[0; 12]].concat();
    answer.extend(1_u32.to_ne_bytes());
    call(libc::SYS_ioctl, &mut [Arg::Int(fd.into()), Arg::Int(SEND), Arg::In(&answer)]).map(drop)
}
