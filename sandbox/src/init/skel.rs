//! A new slice's first files: a copy of the node's skeleton directory, as useradd(8) does from `/etc/skel`.
//!
//! Made as the slice, before its own rules shut the skeleton out: what the slice's UID may not read is not copied,
//! and what is copied counts as the slice's.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::error::{KernelError, Tried};

/// Directories within directories.
const DEPTH: usize = 16;

/// Copies `skel` into `home` if that is empty: a slice that has its files keeps them as they are.
pub(super) fn populate(skel: &OwnedFd, home: &OwnedFd) -> Result<(), KernelError> {
    if is_empty(home.as_fd()).tried("list", "the slice's home")? {
        copy_directory(skel.as_fd(), home.as_fd(), DEPTH)
            .tried("copy the node's skeleton to", "the slice's home")?;
    }
    Ok(())
}

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        if !is_self_or_parent(entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_self_or_parent(name: &CStr) -> bool {
    name == c"." || name == c".."
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_self_or_parent(name) {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth > 0 => {
                mkdirat(to, name, mode | Mode::RWXU)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(from, name, flags, Mode::empty())?;
                let made = openat(to, name, flags, Mode::empty())?;
                copy_directory(inner.as_fd(), made.as_fd(), depth - 1)?;
            }
            FileType::RegularFile => {
                let source =
                    openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = openat(to, name, flags, mode | Mode::WUSR | Mode::RUSR)?;
                if FileType::from_raw_mode(fstat(&source)?.st_mode) == FileType::RegularFile {
                    io::copy(&mut File::from(source), &mut File::from(copy))?;
                }
            }
            FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
            // Nothing else belongs into a skeleton.
            _ => {}
        }
    }
    Ok(())
}
