//! Attacks on the view: new namespaces, other ones' namespaces, mounts, another root.

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, in_child, int, number, text, words};
use std::os::fd::AsRawFd;

pub const PRIMITIVES: &[Primitive] = &[
    ("unshare", |args| attempt(libc::SYS_unshare, &mut [Arg::Int(int(args, 0))])),
    ("clone", clone),
    ("clone3", clone3),
    ("setns", setns),
    ("setns-pidfd", setns_pidfd),
    ("mount", mount),
    ("umount", umount),
    ("chroot", |args| attempt(libc::SYS_chroot, &mut [Arg::Text(&text(arg(args, 0)))])),
    ("pivot-root", pivot_root),
    ("fsopen", |args| attempt(libc::SYS_fsopen, &mut [Arg::Text(&text(arg(args, 0))), Arg::Int(0)])),
    ("fspick", fspick),
    ("open-tree", open_tree),
    ("move-mount", move_mount),
    ("mount-setattr", mount_setattr),
];

/// `clone FLAGS`: a child in new namespaces, the way around unshare(2).
fn clone(args: &[String]) -> Attempt {
    let flags = int(args, 0) | i64::from(libc::SIGCHLD);
    match call(libc::SYS_clone, &mut [Arg::Int(flags), Arg::Null, Arg::Null, Arg::Null, Arg::Null])? {
        0 => std::process::exit(0),
        child => crate::sys::wait_for(child as i32).map(|_| "a child".into()),
    }
}

/// `clone3 FLAGS`: the flags lie in memory, where no filter can look.
fn clone3(args: &[String]) -> Attempt {
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let request = words(&[int(args, 0) as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0]);
    match call(libc::SYS_clone3, &mut [Arg::In(&request), Arg::Int(request.len() as i64)])? {
        0 => std::process::exit(0),
        child => crate::sys::wait_for(child as i32).map(|_| "a child".into()),
    }
}

/// `setns PATH`: joins the namespace of this file; the kind is whichever it is.
fn setns(args: &[String]) -> Attempt {
    let file = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    attempt(libc::SYS_setns, &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(0)])
}

/// `setns-pidfd PID FLAGS`: joins namespaces of a process without touching its `/proc` files.
fn setns_pidfd(args: &[String]) -> Attempt {
    let pidfd = call(libc::SYS_pidfd_open, &mut [Arg::Int(int(args, 0)), Arg::Int(0)])?;
    attempt(libc::SYS_setns, &mut [Arg::Int(pidfd), Arg::Int(int(args, 1))])
}

/// `mount SOURCE TARGET TYPE FLAGS`.
fn mount(args: &[String]) -> Attempt {
    let (source, target, kind) = (text(arg(args, 0)), text(arg(args, 1)), text(arg(args, 2)));
    attempt(
        libc::SYS_mount,
        &mut [Arg::Text(&source), Arg::Text(&target), Arg::Text(&kind), Arg::Int(int(args, 3)), Arg::Null],
    )
}

fn umount(args: &[String]) -> Attempt {
    attempt(libc::SYS_umount2, &mut [Arg::Text(&text(arg(args, 0))), Arg::Int(libc::MNT_DETACH.into())])
}

/// `pivot-root DIR`: in a child, the directory mounted on itself first where that is allowed.
fn pivot_root(args: &[String]) -> Attempt {
    let dir = text(arg(args, 0));
    let code = in_child(|| {
        let bind = Arg::Int((libc::MS_BIND | libc::MS_REC) as i64);
        // Fails inside; what counts there is the next call's own answer.
        let _ = call(libc::SYS_mount, &mut [Arg::Text(&dir), Arg::Text(&dir), Arg::Null, bind, Arg::Null]);
        let _ = std::env::set_current_dir(arg(args, 0));
        call(libc::SYS_pivot_root, &mut [Arg::Text(c"."), Arg::Text(c".")]).err().unwrap_or(0)
    })?;
    if code == 0 { Ok("a new root".into()) } else { Err(code) }
}

fn fspick(args: &[String]) -> Attempt {
    let at = Arg::Int(libc::AT_FDCWD.into());
    attempt(libc::SYS_fspick, &mut [at, Arg::Text(&text(arg(args, 0))), Arg::Int(0)])
}

/// A detached copy of a mount.
fn open_tree(args: &[String]) -> Attempt {
    let at = Arg::Int(libc::AT_FDCWD.into());
    attempt(libc::SYS_open_tree, &mut [at, Arg::Text(&text(arg(args, 0))), Arg::Int(1)])
}

/// `move-mount FROM TO`: bind-mounts `FROM` over itself first where that is allowed.
fn move_mount(args: &[String]) -> Attempt {
    let (from, to) = (text(arg(args, 0)), text(arg(args, 1)));
    let bind = Arg::Int(libc::MS_BIND as i64);
    let _ = call(libc::SYS_mount, &mut [Arg::Text(&from), Arg::Text(&from), Arg::Null, bind, Arg::Null]);
    let cwd = || Arg::Int(libc::AT_FDCWD.into());
    attempt(libc::SYS_move_mount, &mut [cwd(), Arg::Text(&from), cwd(), Arg::Text(&to), Arg::Int(0)])
}

/// `mount-setattr PATH`: takes read-only off a mount.
fn mount_setattr(args: &[String]) -> Attempt {
    // struct mount_attr: set, clear (MOUNT_ATTR_RDONLY), propagation, user namespace.
    let request = words(&[0, 1, 0, 0]);
    attempt(
        libc::SYS_mount_setattr,
        &mut [
            Arg::Int(libc::AT_FDCWD.into()),
            Arg::Text(&text(arg(args, 0))),
            Arg::Int(0),
            Arg::In(&request),
            Arg::Int(request.len() as i64),
        ],
    )
}
