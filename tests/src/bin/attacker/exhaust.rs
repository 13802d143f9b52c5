//! Attacks by use: taking more than one's share. Each has a bound of its own, and gives back what it took.

use std::io::Write;
use std::os::fd::OwnedFd;

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, call, int, last, number};

pub const PRIMITIVES: &[Primitive] = &[
    ("forks", forks),
    ("memory", memory),
    ("descriptors", descriptors),
    ("fill", fill),
    ("files", files),
    ("terminals", terminals),
    ("inotify", inotify),
    ("signals", signals),
    ("lock-memory", lock_memory),
    ("aio", aio),
];

/// `forks COUNT`: so many children at once.
fn forks(args: &[String]) -> Attempt {
    let mut children = Vec::new();
    let mut result = Ok(format!("{} children", int(args, 0)));
    for _ in 0..int(args, 0) {
        // SAFETY: this program has one thread, so the child may do everything.
        match unsafe { libc::fork() } {
            -1 => {
                result = Err(last());
                break;
            }
            0 => {
                std::thread::sleep(std::time::Duration::from_secs(20));
                std::process::exit(0);
            }
            child => children.push(child),
        }
    }
    for child in children {
        let _ = call(libc::SYS_kill, &mut [Arg::Int(child.into()), Arg::Int(libc::SIGKILL.into())]);
        let _ = crate::sys::wait_for(child);
    }
    result
}

/// `memory MIB`: so much, every page of it touched.
fn memory(args: &[String]) -> Attempt {
    let mut held = Vec::new();
    for _ in 0..int(args, 0) {
        let mut piece = vec![0_u8; 1 << 20];
        piece.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        held.push(std::hint::black_box(piece));
    }
    Ok(format!("{} MiB", held.len()))
}

/// `descriptors COUNT`: so many open at once, the soft limit raised to the hard one first.
fn descriptors(args: &[String]) -> Attempt {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .map_err(rustix::io::Errno::raw_os_error)?;
    let open: Result<Vec<_>, _> = (0..int(args, 0)).map(|_| std::fs::File::open("/dev/null")).collect();
    open.map(|all| format!("{} open", all.len())).map_err(|e| number(&e))
}

/// `fill PATH MIB`: a file of this size, removed again.
fn fill(args: &[String]) -> Attempt {
    let mut file = std::fs::File::create(arg(args, 0)).map_err(|e| number(&e))?;
    let piece = vec![1_u8; 1 << 20];
    let written = (0..int(args, 1)).try_for_each(|_| file.write_all(&piece));
    std::fs::remove_file(arg(args, 0)).map_err(|e| number(&e))?;
    written.map(|()| format!("{} MiB", int(args, 1))).map_err(|e| number(&e))
}

/// `files DIR COUNT`: so many empty files, removed again.
fn files(args: &[String]) -> Attempt {
    let dir = format!("{}/plab-many", arg(args, 0));
    std::fs::create_dir(&dir).map_err(|e| number(&e))?;
    let made = (0..int(args, 1)).try_for_each(|n| std::fs::File::create(format!("{dir}/{n}")).map(|_| ()));
    std::fs::remove_dir_all(&dir).map_err(|e| number(&e))?;
    made.map(|()| format!("{} files", int(args, 1))).map_err(|e| number(&e))
}

/// `terminals COUNT [ANNOUNCE]`: so many pseudo-terminals at once; they come out of one pool for the machine.
fn terminals(args: &[String]) -> Attempt {
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut result = Ok(format!("{} terminals", int(args, 0)));
    for _ in 0..int(args, 0) {
        match rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY) {
            Ok(master) => held.push(master),
            Err(error) => {
                result = Err(error.raw_os_error());
                break;
            }
        }
    }
    if args.len() > 1 {
        announce_and_wait();
    }
    result
}

/// `inotify COUNT [ANNOUNCE]`: so many instances at once.
fn inotify(args: &[String]) -> Attempt {
    let made: Result<Vec<_>, i32> =
        (0..int(args, 0)).map(|_| call(libc::SYS_inotify_init1, &mut [Arg::Int(0)])).collect();
    if args.len() > 1 {
        announce_and_wait();
    }
    made.map(|all| format!("{} instances", all.len()))
}

/// `signals COUNT`: so many signals queued to oneself and not taken.
fn signals(args: &[String]) -> Attempt {
    let signal = libc::SIGRTMIN();
    let mask = (1_u64 << (signal - 1)).to_ne_bytes();
    call(libc::SYS_rt_sigprocmask, &mut [Arg::Int(0), Arg::In(&mask), Arg::Null, Arg::Int(8)])?;
    let mut info = vec![0_u8; 128];
    info[8..12].copy_from_slice(&(-1_i32).to_ne_bytes()); // SI_QUEUE
    let own = std::process::id();
    for _ in 0..int(args, 0) {
        call(
            libc::SYS_rt_sigqueueinfo,
            &mut [Arg::Int(own.into()), Arg::Int(signal.into()), Arg::In(&info)],
        )?;
    }
    Ok(format!("{} signals", int(args, 0)))
}

/// `lock-memory MIB`: memory that cannot be paged out.
fn lock_memory(args: &[String]) -> Attempt {
    let memory = vec![1_u8; int(args, 0) as usize * (1 << 20)];
    crate::sys::attempt(libc::SYS_mlock, &mut [Arg::In(&memory), Arg::Int(memory.len() as i64)])
}

/// `aio EVENTS [ANNOUNCE]`: asynchronous I/O contexts until so many events are reserved of the machine's pool.
fn aio(args: &[String]) -> Attempt {
    let mut reserved = 0;
    let mut result = Ok(format!("{} events", int(args, 0)));
    while reserved < int(args, 0) {
        let mut context = [0; 8];
        let piece = (int(args, 0) - reserved).min(4096);
        if let Err(error) = call(libc::SYS_io_setup, &mut [Arg::Int(piece), Arg::Out(&mut context)]) {
            result = Err(error);
            break;
        }
        reserved += piece;
    }
    if args.len() > 1 {
        announce_and_wait();
    }
    result
}

/// Says `ready` and keeps what it holds until standard input ends, 30 seconds at most.
fn announce_and_wait() {
    println!("ready");
    let _ = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&std::io::stdin(), rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 }),
    );
}
