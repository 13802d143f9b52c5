//! A new slice's first files: a copy of the node's skeleton directory, as useradd(8) does from `/etc/skel`.
//!
//! Made as the slice, before its own rules shut the skeleton out: what the slice's UID may not read is not copied,
//! and what is copied counts as the slice's.
//!
//! The slice is set up once, and a power cut can leave files without their bytes. So a mark stands in the home from before
//! the first file until all of them are on disk; where it is found, what is missing or empty is copied again. A disk that
//! is busy with others' writes holds up no birth: when the time for it is over, the mark stays for the next one.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{KernelError, Tried};

/// Directories within directories.
const DEPTH: usize = 16;

/// Stands in a home that is being filled. A slice that makes one itself gets what it lacks of the skeleton.
const UNFINISHED: &CStr = c".skel-unfinished";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How long a birth waits for the disk: a part of the time that plabd gives it.
const SYNC: Duration = Duration::from_secs(3);

/// Copies `skel`, if there is one, into `home` if that is empty, or if a copy was begun and not finished: a slice that
/// has its files keeps them as they are.
pub(super) fn populate(skel: Option<&OwnedFd>, home: &OwnedFd) -> Result<(), KernelError> {
    let home = home.as_fd();
    let unfinished = is_unfinished(home).tried("list", "the slice's home")?;
    let Some(skel) = skel.map(AsFd::as_fd) else {
        // What is missing will not come; a skeleton of later is for other slices.
        return if unfinished { remove(home, UNFINISHED).tried("tidy", "the slice's home") } else { Ok(()) };
    };
    if unfinished || is_empty(home).tried("list", "the slice's home")? {
        copy(skel, home).tried("copy the node's skeleton to", "the slice's home")?;
    }
    Ok(())
}

fn copy(skel: BorrowedFd<'_>, home: BorrowedFd<'_>) -> io::Result<()> {
    if is_empty(skel)? {
        return Ok(remove(home, UNFINISHED)?);
    }
    // Not opened if it is there: it may be a FIFO.
    match mknodat(home, UNFINISHED, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    copy_directory(skel, home, DEPTH)?;
    let until = Instant::now() + SYNC;
    if sync_directory(skel, home, DEPTH, until)? {
        remove(home, UNFINISHED)?;
    }
    Ok(())
}

fn is_unfinished(home: BorrowedFd<'_>) -> Result<bool, Errno> {
    match statat(home, UNFINISHED, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
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

/// An entry of a slice's own in the place of one of the skeleton's is passed over, as is what its UID may not read.
fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_self_or_parent(name) {
            continue;
        }
        match copy_entry(from, to, name, depth) {
            Err(error) if is_in_the_way(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_in_the_way(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::ACCESS | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR | Errno::LOOP))
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if depth > 0 => {
            match mkdirat(to, name, mode | Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let inner = openat(from, name, DIRECTORY, Mode::empty())?;
            let made = openat(to, name, DIRECTORY, Mode::empty())?;
            copy_directory(inner.as_fd(), made.as_fd(), depth - 1)
        }
        FileType::RegularFile => {
            let source =
                openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&source)?.st_mode) != FileType::RegularFile || is_whole(to, name)
            {
                return Ok(());
            }
            remove(to, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = openat(to, name, flags, mode | Mode::WUSR | Mode::RUSR)?;
            io::copy(&mut File::from(source), &mut File::from(copy)).map(drop)
        }
        FileType::Symlink => Ok(symlinkat(readlinkat(from, name, Vec::new())?, to, name)?),
        // Nothing else belongs into a skeleton.
        _ => Ok(()),
    }
}

/// Whether there is something that a power cut would not have left.
fn is_whole(to: BorrowedFd<'_>, name: &CStr) -> bool {
    statat(to, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size > 0)
}

/// Writes out what was copied. False if the time was over before.
fn sync_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    depth: usize,
    until: Instant,
) -> io::Result<bool> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_self_or_parent(name) {
            continue;
        }
        if Instant::now() > until {
            return Ok(false);
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth > 0 => {
                let inner = openat(from, name, DIRECTORY, Mode::empty());
                let made = openat(to, name, DIRECTORY, Mode::empty());
                if let (Ok(inner), Ok(made)) = (inner, made)
                    && !sync_directory(inner.as_fd(), made.as_fd(), depth - 1, until)?
                {
                    return Ok(false);
                }
            }
            FileType::RegularFile => {
                // Without waiting for a writer, if it is a FIFO of the slice's by now.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                if let Ok(file) = openat(to, name, flags, Mode::empty())
                    && FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile
                {
                    fsync(&file)?;
                }
            }
            _ => {}
        }
    }
    fsync(to)?;
    Ok(true)
}

/// What an earlier copy left under this name goes.
fn remove(from: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlinkat(from, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, read, read_dir, write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    struct Top(PathBuf);

    impl Top {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("plab-skel-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Top {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn open(path: &Path) -> OwnedFd {
        fs::create_dir_all(path).expect("mkdir");
        File::open(path).expect("open").into()
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = read_dir(path).expect("read").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_copy_that_was_cut_short_is_made_again_and_a_finished_one_is_not() {
        let top = Top::new("cut");
        let (skel, home) = (top.0.join("skel"), top.0.join("home"));
        let (skel_fd, home_fd) = (open(&skel), open(&home));
        fs::create_dir(skel.join("control")).expect("mkdir");
        write(skel.join("control/start"), "#!/bin/sh\n").expect("write");
        fs::set_permissions(skel.join("control/start"), fs::Permissions::from_mode(0o755)).expect("chmod");
        std::os::unix::fs::symlink("control/start", skel.join("link")).expect("symlink");

        // What a power cut can leave: the mark, a link, a file whose bytes never came.
        write(home.join(".skel-unfinished"), "").expect("write");
        fs::create_dir(home.join("control")).expect("mkdir");
        write(home.join("control/start"), "").expect("write");
        std::os::unix::fs::symlink("control/start", home.join("link")).expect("symlink");
        populate(Some(&skel_fd), &home_fd).expect("populate");
        assert_eq!(names(&home), ["control", "link"]);
        assert_eq!(read(home.join("link")).expect("read"), b"#!/bin/sh\n");
        let mode = fs::metadata(home.join("control/start")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);

        // Without the mark it is the slice's own.
        write(home.join("control/start"), "mine").expect("write");
        fs::remove_file(home.join("link")).expect("rm");
        populate(Some(&skel_fd), &home_fd).expect("populate");
        assert_eq!(
            (names(&home), read(home.join("control/start")).expect("read")),
            (vec!["control".to_owned()], b"mine".to_vec())
        );
    }

    #[test]
    fn an_empty_home_stays_empty_without_a_skeleton() {
        let top = Top::new("empty");
        let home = top.0.join("home");
        populate(Some(&open(&top.0.join("skel"))), &open(&home)).expect("populate");
        assert_eq!(names(&home), Vec::<String>::new());
    }
}
