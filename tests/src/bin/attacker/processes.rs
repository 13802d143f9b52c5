//! Attacks on processes: signals, tracing, memory, descriptors, limits of others; outliving one's capsule.

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int, words};

pub const PRIMITIVES: &[Primitive] = &[
    ("kill", |args| attempt(libc::SYS_kill, &mut [Arg::Int(int(args, 0)), Arg::Int(int(args, 1))])),
    ("tgkill", |args| {
        attempt(
            libc::SYS_tgkill,
            &mut [Arg::Int(int(args, 0)), Arg::Int(int(args, 0)), Arg::Int(int(args, 1))],
        )
    }),
    ("pidfd-signal", pidfd_signal),
    ("ptrace-attach", |args| trace(libc::PTRACE_ATTACH, args)),
    ("ptrace-seize", |args| trace(libc::PTRACE_SEIZE, args)),
    ("vm-read", |args| remote_memory(libc::SYS_process_vm_readv, args)),
    ("vm-write", |args| remote_memory(libc::SYS_process_vm_writev, args)),
    ("pidfd-getfd", pidfd_getfd),
    ("kcmp", |args| {
        let own = std::process::id().into();
        attempt(
            libc::SYS_kcmp,
            &mut [Arg::Int(int(args, 0)), Arg::Int(own), Arg::Int(1), Arg::Int(0), Arg::Int(0)],
        )
    }),
    ("move-pages", move_pages),
    ("prlimit", prlimit),
    ("daemon", daemon),
    ("children", children),
];

fn pidfd_signal(args: &[String]) -> Attempt {
    let pidfd = call(libc::SYS_pidfd_open, &mut [Arg::Int(int(args, 0)), Arg::Int(0)])?;
    attempt(
        libc::SYS_pidfd_send_signal,
        &mut [Arg::Int(pidfd), Arg::Int(int(args, 1)), Arg::Null, Arg::Int(0)],
    )
}

/// Attaches, and lets the traced process go on as it was.
fn trace(request: u32, args: &[String]) -> Attempt {
    let pid = int(args, 0);
    let result =
        attempt(libc::SYS_ptrace, &mut [Arg::Int(request.into()), Arg::Int(pid), Arg::Null, Arg::Null])?;
    if request == libc::PTRACE_ATTACH {
        crate::sys::wait_for(pid as i32)?;
        call(
            libc::SYS_ptrace,
            &mut [Arg::Int(libc::PTRACE_DETACH.into()), Arg::Int(pid), Arg::Null, Arg::Null],
        )?;
    }
    Ok(result)
}

/// `vm-read PID`: eight bytes from where nothing need be; to be refused by the address is to be let in.
fn remote_memory(number: i64, args: &[String]) -> Attempt {
    let buffer = [0_u8; 8];
    let (here, there) = (words(&[buffer.as_ptr() as u64, 8]), words(&[0x1000, 8]));
    attempt(
        number,
        &mut [Arg::Int(int(args, 0)), Arg::In(&here), Arg::Int(1), Arg::In(&there), Arg::Int(1), Arg::Int(0)],
    )
}

/// `pidfd-getfd PID FD`: takes a copy of another's descriptor.
fn pidfd_getfd(args: &[String]) -> Attempt {
    let pidfd = call(libc::SYS_pidfd_open, &mut [Arg::Int(int(args, 0)), Arg::Int(0)])?;
    attempt(libc::SYS_pidfd_getfd, &mut [Arg::Int(pidfd), Arg::Int(int(args, 1)), Arg::Int(0)])
}

/// Asks on which node pages of another lie.
fn move_pages(args: &[String]) -> Attempt {
    let (page, mut status) = (words(&[0x40_0000]), [0; 8]);
    attempt(
        libc::SYS_move_pages,
        &mut [
            Arg::Int(int(args, 0)),
            Arg::Int(1),
            Arg::In(&page),
            Arg::Null,
            Arg::Out(&mut status),
            Arg::Int(0),
        ],
    )
}

/// `prlimit PID RESOURCE VALUE`: sets a limit of another process.
fn prlimit(args: &[String]) -> Attempt {
    let value = int(args, 2) as u64;
    let limit = words(&[value, value]);
    attempt(
        libc::SYS_prlimit64,
        &mut [Arg::Int(int(args, 0)), Arg::Int(int(args, 1)), Arg::In(&limit), Arg::Null],
    )
}

/// `daemon PIDFILE SECONDS`: a process that has left session, group and parent and heeds no signal it can refuse.
fn daemon(args: &[String]) -> Attempt {
    let code = crate::sys::in_child(|| {
        let _ = call(libc::SYS_setsid, &mut []);
        // SAFETY: this program has one thread, so the child may do everything.
        if unsafe { libc::fork() } != 0 {
            return 0;
        }
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT] {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        for fd in 0..3 {
            let _ = call(libc::SYS_close, &mut [Arg::Int(fd)]);
        }
        if std::fs::write(arg(args, 0), std::process::id().to_string()).is_err() {
            return 1;
        }
        std::thread::sleep(std::time::Duration::from_secs(int(args, 1) as u64));
        0
    })?;
    Ok(format!("left with {code}"))
}

/// `children SECONDS`: children that make children, never more than eight at a time, until the time is over.
fn children(args: &[String]) -> Attempt {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(int(args, 0) as u64);
    let mut born = 0;
    while std::time::Instant::now() < until {
        let mut alive = Vec::new();
        for _ in 0..8 {
            // SAFETY: this program has one thread, so the child may do everything.
            match unsafe { libc::fork() } {
                0 => {
                    let _ = call(libc::SYS_setsid, &mut []);
                    std::process::exit(0);
                }
                child if child > 0 => alive.push(child),
                _ => {}
            }
        }
        born += alive.len();
        for child in alive {
            let _ = crate::sys::wait_for(child);
        }
    }
    Ok(format!("{born} born"))
}
