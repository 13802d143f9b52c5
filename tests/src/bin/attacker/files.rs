//! Attacks on files: by path, by link, by handle, by a descriptor that came along.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int, number, text, words};

pub const PRIMITIVES: &[Primitive] = &[
    ("read", read),
    ("find-in", find_in),
    ("open-write", open_write),
    ("overwrite", overwrite),
    ("create", create),
    ("list", list),
    ("readlink", |args| {
        std::fs::read_link(arg(args, 0)).map(|path| path.display().to_string()).map_err(|e| number(&e))
    }),
    ("mkdir", |args| std::fs::create_dir(arg(args, 0)).map(|()| "made".into()).map_err(|e| number(&e))),
    ("link", |args| {
        std::fs::hard_link(arg(args, 0), arg(args, 1)).map(|()| "linked".into()).map_err(|e| number(&e))
    }),
    ("rename", |args| {
        std::fs::rename(arg(args, 0), arg(args, 1)).map(|()| "moved".into()).map_err(|e| number(&e))
    }),
    ("swap", swap),
    ("unlink", |args| std::fs::remove_file(arg(args, 0)).map(|()| "removed".into()).map_err(|e| number(&e))),
    ("mknod", mknod),
    ("chown", chown),
    ("by-handle", by_handle),
    ("setxattr", setxattr),
    ("immutable", immutable),
    ("bmap", bmap),
    ("lease", lease),
    ("open-at", open_at),
    ("create-at", create_at),
    ("exec-at", exec_at),
    ("reopen", reopen),
    ("inherited", inherited),
    ("deep", deep),
];

fn read(args: &[String]) -> Attempt {
    let mut file = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    let mut content = vec![0; 4096];
    let length = file.read(&mut content).map_err(|e| number(&e))?;
    Ok(format!("{length} bytes"))
}

/// `find-in PATH TEXT`: whether a file of the kernel's tells of something; ENODATA if it does not.
fn find_in(args: &[String]) -> Attempt {
    let content = std::fs::read_to_string(arg(args, 0)).map_err(|e| number(&e))?;
    let line = content.lines().find(|line| line.contains(arg(args, 1)));
    line.map(|line| line.split_whitespace().next_back().unwrap_or_default().to_owned()).ok_or(libc::ENODATA)
}

/// Opens for writing and changes nothing: enough to know, and harmless as a control.
fn open_write(args: &[String]) -> Attempt {
    std::fs::File::options().write(true).open(arg(args, 0)).map(|_| "open".into()).map_err(|e| number(&e))
}

fn overwrite(args: &[String]) -> Attempt {
    let mut file = std::fs::File::options().write(true).open(arg(args, 0)).map_err(|e| number(&e))?;
    file.write_all(arg(args, 1).as_bytes()).map_err(|e| number(&e))?;
    Ok("written".into())
}

fn create(args: &[String]) -> Attempt {
    std::fs::File::create_new(arg(args, 0)).map(|_| "created".into()).map_err(|e| number(&e))
}

fn list(args: &[String]) -> Attempt {
    let entries = std::fs::read_dir(arg(args, 0)).map_err(|e| number(&e))?;
    Ok(format!("{} entries", entries.count()))
}

/// `swap ONE OTHER`: each takes the other's name at once; nobody sees a time between.
fn swap(args: &[String]) -> Attempt {
    let (one, other) = (text(arg(args, 0)), text(arg(args, 1)));
    let cwd = || Arg::Int(libc::AT_FDCWD.into());
    let exchange = Arg::Int(libc::RENAME_EXCHANGE.into());
    attempt(libc::SYS_renameat2, &mut [cwd(), Arg::Text(&one), cwd(), Arg::Text(&other), exchange])
}

/// `mknod PATH b|c MAJOR MINOR`.
fn mknod(args: &[String]) -> Attempt {
    let kind = if arg(args, 1) == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    let device = libc::makedev(int(args, 2) as u32, int(args, 3) as u32);
    let path = text(arg(args, 0));
    attempt(
        libc::SYS_mknod,
        &mut [Arg::Text(&path), Arg::Int(i64::from(kind | 0o600)), Arg::Int(device as i64)],
    )
}

/// `chown PATH UID`.
fn chown(args: &[String]) -> Attempt {
    let path = text(arg(args, 0));
    attempt(libc::SYS_chown, &mut [Arg::Text(&path), Arg::Int(int(args, 1)), Arg::Int(-1)])
}

/// Opens a file by its handle, which needs no path and heeds no directory's permissions.
fn by_handle(args: &[String]) -> Attempt {
    let path = text(arg(args, 0));
    // struct file_handle: bytes, type, and room for the handle itself.
    let mut handle = vec![0_u8; 8 + 128];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = [0; 4];
    call(
        libc::SYS_name_to_handle_at,
        &mut [
            Arg::Int(libc::AT_FDCWD.into()),
            Arg::Text(&path),
            Arg::Out(&mut handle),
            Arg::Out(&mut mount),
            Arg::Int(0),
        ],
    )?;
    let near = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    attempt(
        libc::SYS_open_by_handle_at,
        &mut [Arg::Int(near.as_raw_fd().into()), Arg::Out(&mut handle), Arg::Int(libc::O_RDONLY.into())],
    )
}

/// `setxattr PATH NAME`: a value shaped like a file capability set.
fn setxattr(args: &[String]) -> Attempt {
    let (path, name) = (text(arg(args, 0)), text(arg(args, 1)));
    // struct vfs_cap_data, revision 2: effective, CAP_NET_RAW permitted.
    let value = crate::sys::halves(&[0x0200_0001, 1 << 13, 0, 0, 0]);
    attempt(
        libc::SYS_setxattr,
        &mut [Arg::Text(&path), Arg::Text(&name), Arg::In(&value), Arg::Int(value.len() as i64), Arg::Int(0)],
    )
}

/// A file that not even root removes without thinking; set, and taken back when it worked.
fn immutable(args: &[String]) -> Attempt {
    const SET_FLAGS: i64 = 0x4008_6602;
    let file = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    let (on, off) = (words(&[0x10]), words(&[0]));
    let result = attempt(
        libc::SYS_ioctl,
        &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(SET_FLAGS), Arg::In(&on)],
    )?;
    call(libc::SYS_ioctl, &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(SET_FLAGS), Arg::In(&off)])?;
    Ok(result)
}

/// Asks where on the disk a file lies (`FIBMAP`), which is for those with raw I/O.
fn bmap(args: &[String]) -> Attempt {
    let file = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    let mut block = words(&[0]);
    attempt(libc::SYS_ioctl, &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(1), Arg::Out(&mut block)])
}

/// A lease on a file makes the next one who opens it wait for the holder.
fn lease(args: &[String]) -> Attempt {
    let file = std::fs::File::open(arg(args, 0)).map_err(|e| number(&e))?;
    let (set, kind) = (i64::from(libc::F_SETLEASE), i64::from(libc::F_RDLCK));
    attempt(libc::SYS_fcntl, &mut [Arg::Int(file.as_raw_fd().into()), Arg::Int(set), Arg::Int(kind)])
}

/// `open-at FD NAME`: reads below a directory that came along as a descriptor.
fn open_at(args: &[String]) -> Attempt {
    let name = text(arg(args, 1));
    attempt(libc::SYS_openat, &mut [Arg::Int(int(args, 0)), Arg::Text(&name), Arg::Int(0), Arg::Int(0)])
}

/// `create-at FD NAME`: makes a file below such a directory.
fn create_at(args: &[String]) -> Attempt {
    let name = text(arg(args, 1));
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    attempt(
        libc::SYS_openat,
        &mut [Arg::Int(int(args, 0)), Arg::Text(&name), Arg::Int(flags.into()), Arg::Int(0o600)],
    )
}

/// `exec-at FD NAME`: runs a program below such a directory, in a child.
fn exec_at(args: &[String]) -> Attempt {
    let name = text(arg(args, 1));
    let dir = int(args, 0);
    let null = words(&[0]);
    let code = crate::sys::in_child(|| {
        call(
            libc::SYS_execveat,
            &mut [Arg::Int(dir), Arg::Text(&name), Arg::In(&null), Arg::In(&null), Arg::Int(0)],
        )
        .err()
        .unwrap_or(0)
    })?;
    if code == 0 { Ok("ran".into()) } else { Err(code) }
}

/// `reopen FD [TEXT]`: opens anew, for writing and cut to nothing, what a descriptor refers to, writes the text, and
/// says which device it was.
fn reopen(args: &[String]) -> Attempt {
    let path = format!("/proc/self/fd/{}", int(args, 0));
    let mut options = std::fs::File::options();
    options.write(true).truncate(true).custom_flags(libc::O_NOCTTY);
    let mut file = options.open(path).map_err(|e| number(&e))?;
    if let Some(text) = args.get(1) {
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| number(&e))?;
    }
    let device = file.metadata().map_err(|e| number(&e))?.rdev();
    Ok(if device == 0 {
        "no device".into()
    } else {
        format!("device {}:{}", libc::major(device), libc::minor(device))
    })
}

/// Looks for descriptors beyond the three that a command is given.
fn inherited(_: &[String]) -> Attempt {
    let open: Vec<i64> = (3..20_000)
        .filter(|fd| call(libc::SYS_fcntl, &mut [Arg::Int(*fd), Arg::Int(libc::F_GETFD.into())]).is_ok())
        .collect();
    if open.is_empty() { Err(libc::EBADF) } else { Ok(format!("{open:?}")) }
}

/// `deep PATH LEVELS`: directories within directories, far beyond what a path can name.
fn deep(args: &[String]) -> Attempt {
    std::env::set_current_dir(arg(args, 0)).map_err(|e| number(&e))?;
    for _ in 0..int(args, 1) {
        std::fs::create_dir("d").map_err(|e| number(&e))?;
        std::env::set_current_dir("d").map_err(|e| number(&e))?;
    }
    Ok(format!("{} levels", arg(args, 1)))
}
