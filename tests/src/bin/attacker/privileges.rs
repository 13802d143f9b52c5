//! Attacks on identity: becoming root, gaining capabilities, getting around the system call filter.

use crate::Primitive;
use crate::sys::{Arg, Attempt, attempt, call, halves, int, last, words};

pub const PRIMITIVES: &[Primitive] = &[
    ("setuid", |args| attempt(libc::SYS_setuid, &mut [Arg::Int(int(args, 0))])),
    ("setgid", |args| attempt(libc::SYS_setgid, &mut [Arg::Int(int(args, 0))])),
    ("setgroups", |_| attempt(libc::SYS_setgroups, &mut [Arg::Int(1), Arg::In(&halves(&[0]))])),
    ("capset", capset),
    ("ambient", ambient),
    ("securebits", |_| {
        attempt(libc::SYS_prctl, &mut [Arg::Int(libc::PR_SET_SECUREBITS.into()), Arg::Int(0)])
    }),
    ("effective", effective),
    ("raise-limit", raise_limit),
    ("personality", |args| attempt(libc::SYS_personality, &mut [Arg::Int(int(args, 0))])),
    ("x32", |_| attempt(0x4000_0000 | libc::SYS_getpid, &mut [])),
    ("int80", int80),
    ("rewrite-call", rewrite_call),
    ("priority", |args| {
        attempt(libc::SYS_setpriority, &mut [Arg::Int(0), Arg::Int(0), Arg::Int(int(args, 0))])
    }),
    ("real-time", |_| {
        attempt(
            libc::SYS_sched_setscheduler,
            &mut [Arg::Int(0), Arg::Int(libc::SCHED_FIFO.into()), Arg::In(&halves(&[1]))],
        )
    }),
    ("io-priority", |_| attempt(libc::SYS_ioprio_set, &mut [Arg::Int(1), Arg::Int(0), Arg::Int(1 << 13)])),
];

/// Takes CAP_SYS_ADMIN, as if it had been left within reach.
fn capset(_: &[String]) -> Attempt {
    let header = halves(&[0x2008_0522, 0]);
    let data = halves(&[1 << 21, 1 << 21, 0, 0, 0, 0]);
    attempt(libc::SYS_capset, &mut [Arg::In(&header), Arg::In(&data)])
}

/// Raises CAP_NET_RAW into the ambient set; makes it inheritable first where that is allowed.
fn ambient(_: &[String]) -> Attempt {
    let raw = 1 << 13;
    let _ = call(
        libc::SYS_capset,
        &mut [Arg::In(&halves(&[0x2008_0522, 0])), Arg::In(&halves(&[raw, raw, raw, 0, 0, 0]))],
    );
    attempt(
        libc::SYS_prctl,
        &mut [
            Arg::Int(libc::PR_CAP_AMBIENT.into()),
            Arg::Int(libc::PR_CAP_AMBIENT_RAISE.into()),
            Arg::Int(13),
            Arg::Int(0),
            Arg::Int(0),
        ],
    )
}

/// Whether the file that this was started from gave it anything: EPERM if it did not.
fn effective(_: &[String]) -> Attempt {
    // SAFETY: takes and changes nothing.
    let uid = unsafe { libc::geteuid() };
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| crate::sys::number(&e))?;
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap_or("?");
    if uid == 0 || caps != "0000000000000000" { Ok(format!("uid {uid}, {caps}")) } else { Err(libc::EPERM) }
}

/// `raise-limit RESOURCE VALUE`: both the soft and the hard limit, of this process.
fn raise_limit(args: &[String]) -> Attempt {
    let value = int(args, 1) as u64;
    let limit = words(&[value, value]);
    attempt(libc::SYS_prlimit64, &mut [Arg::Int(0), Arg::Int(int(args, 0)), Arg::In(&limit), Arg::Null])
}

/// getpid by the 32-bit entry, where system calls have other numbers.
#[cfg(target_arch = "x86_64")]
fn int80(_: &[String]) -> Attempt {
    let result: i64;
    // SAFETY: 20 is getpid of the 32-bit table, which takes no argument; the kernel keeps all registers but
    // rax and, on older versions, r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result < 0 { Err(-result as i32) } else { Ok(result.to_string()) }
}

/// No such entry on other machines.
#[cfg(not(target_arch = "x86_64"))]
fn int80(_: &[String]) -> Attempt {
    Err(libc::ENOSYS)
}

/// `rewrite-call NUMBER ARGUMENT`: traces a child that calls getpid, and turns the call into another one
/// after its entry: a filter that looked only at what was entered would let it pass.
#[cfg(target_arch = "x86_64")]
fn rewrite_call(args: &[String]) -> Attempt {
    // SAFETY: this program has one thread, so the child may do everything.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = call(libc::SYS_ptrace, &mut [Arg::Int(libc::PTRACE_TRACEME.into())]);
        let _ =
            call(libc::SYS_kill, &mut [Arg::Int(std::process::id().into()), Arg::Int(libc::SIGSTOP.into())]);
        let code = call(libc::SYS_getppid, &mut []).err().unwrap_or(0);
        std::process::exit(code);
    }
    if child < 0 {
        return Err(last());
    }
    let result = rewrite_in(child, int(args, 0) as u64, int(args, 1) as u64);
    if result.is_err() {
        let _ = call(libc::SYS_kill, &mut [Arg::Int(child.into()), Arg::Int(libc::SIGKILL.into())]);
    }
    let code = crate::sys::wait_for(child)?;
    result?;
    if code == 0 { Ok("the other call was made".into()) } else { Err(code) }
}

/// Steps the stopped child to the entry of getppid and changes it there.
#[cfg(target_arch = "x86_64")]
fn rewrite_in(child: i32, number: u64, argument: u64) -> Result<(), i32> {
    const ORIG_RAX: u64 = 15 * 8;
    const RDI: u64 = 14 * 8;
    let ptrace = |request: u32, at: u64, value: u64| {
        call(
            libc::SYS_ptrace,
            &mut [
                Arg::Int(request.into()),
                Arg::Int(child.into()),
                Arg::Int(at as i64),
                Arg::Int(value as i64),
            ],
        )
    };
    let mut status = 0;
    // Bounded: between the stop and getppid lie only a few calls of the C library.
    for _ in 0..50 {
        // SAFETY: `status` lives on this stack.
        if unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) } < 0 {
            return Err(last());
        }
        if !libc::WIFSTOPPED(status) {
            return Err(libc::ECHILD);
        }
        let mut value = words(&[0]);
        call(
            libc::SYS_ptrace,
            &mut [
                Arg::Int(libc::PTRACE_PEEKUSER.into()),
                Arg::Int(child.into()),
                Arg::Int(ORIG_RAX as i64),
                Arg::Out(&mut value),
            ],
        )?;
        if value == words(&[libc::SYS_getppid as u64]) {
            ptrace(libc::PTRACE_POKEUSER, ORIG_RAX, number)?;
            ptrace(libc::PTRACE_POKEUSER, RDI, argument)?;
            ptrace(libc::PTRACE_CONT, 0, 0)?;
            return Ok(());
        }
        ptrace(libc::PTRACE_SYSCALL, 0, 0)?;
    }
    Err(libc::ETIMEDOUT)
}

/// Registers have other places on other machines.
#[cfg(not(target_arch = "x86_64"))]
fn rewrite_call(_: &[String]) -> Attempt {
    let _ = last();
    Err(libc::ENOSYS)
}
