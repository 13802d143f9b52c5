//! Attacks by the older ways between processes, and the victim that offers each of them.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int, number, text};

pub const PRIMITIVES: &[Primitive] = &[
    ("shm", |args| attempt(libc::SYS_shmget, &mut [Arg::Int(int(args, 0)), Arg::Int(0), Arg::Int(0)])),
    ("sem", |args| attempt(libc::SYS_semget, &mut [Arg::Int(int(args, 0)), Arg::Int(0), Arg::Int(0)])),
    ("msg", |args| attempt(libc::SYS_msgget, &mut [Arg::Int(int(args, 0)), Arg::Int(0)])),
    ("mq", |args| {
        attempt(libc::SYS_mq_open, &mut [Arg::Text(&text(arg(args, 0))), Arg::Int(0), Arg::Int(0), Arg::Null])
    }),
    ("victim", victim),
];

/// `victim KEY NAME SECONDS`: one of each thing that neighbours must not reach, open to everybody as far as
/// modes go, until the time is over or standard input ends; then it takes all of it away again.
fn victim(args: &[String]) -> Attempt {
    let (key, name) = (int(args, 0), arg(args, 1));
    // A judge that is ended closes standard input; what lies in the kernel must go then too.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    let wide = i64::from(libc::IPC_CREAT | 0o666);
    let shm = call(libc::SYS_shmget, &mut [Arg::Int(key), Arg::Int(4096), Arg::Int(wide)])?;
    let sem = call(libc::SYS_semget, &mut [Arg::Int(key), Arg::Int(1), Arg::Int(wide)])?;
    let msg = call(libc::SYS_msgget, &mut [Arg::Int(key), Arg::Int(wide)])?;
    let queue = text(name);
    // Where Landlock holds, a capsule has no queues at all: those lie on no path that a rule could name.
    let has_queue = match call(
        libc::SYS_mq_open,
        &mut [Arg::Text(&queue), Arg::Int((libc::O_CREAT | libc::O_RDWR).into()), Arg::Int(0o666), Arg::Null],
    ) {
        Err(libc::EACCES) => false,
        other => other.map(|_| true)?,
    };
    let shared = format!("/dev/shm/{name}");
    std::fs::write(&shared, "shared").map_err(|e| number(&e))?;
    let address = SocketAddr::from_abstract_name(name).map_err(|e| number(&e))?;
    let _listener = UnixListener::bind_addr(&address).map_err(|e| number(&e))?;
    println!("ready");
    // Until the judge closes it, at most so long.
    rustix::event::poll(
        &mut [rustix::event::PollFd::new(&std::io::stdin(), rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: int(args, 2), tv_nsec: 0 }),
    )
    .map_err(rustix::io::Errno::raw_os_error)?;
    call(libc::SYS_shmctl, &mut [Arg::Int(shm), Arg::Int(0), Arg::Null])?;
    call(libc::SYS_semctl, &mut [Arg::Int(sem), Arg::Int(0), Arg::Int(0)])?;
    call(libc::SYS_msgctl, &mut [Arg::Int(msg), Arg::Int(0), Arg::Null])?;
    if has_queue {
        call(libc::SYS_mq_unlink, &mut [Arg::Text(&queue)])?;
    }
    std::fs::remove_file(shared).map_err(|e| number(&e))?;
    Ok("gone".into())
}
