//! Emptying a slice's storage: as the slice, so that a name it left behind can mislead only itself.
//!
//! No recursion and no path: descriptors only, each directory entered without following links. A tree deeper than
//! there are descriptors is flattened as it goes: what lies deep is moved up to the top and emptied from there.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::error::{KernelError, Tried};
use crate::privileges::{Kept, ProcessLimits, drop_to, limit_process};

/// Directories kept open on the way down.
const DEPTH: usize = 64;

pub(super) fn run(uid: u32, landlock_abi: i32, targets: &[OwnedFd]) -> Result<u64, KernelError> {
    limit_process(ProcessLimits { open_files: 256, pending_signals: 64 })?;
    drop_to(uid, Kept::Nothing)?;
    restrict_to(targets, landlock_abi)?;
    let mut removed = 0;
    for target in targets {
        let top = open_top(target).tried("open", "a directory of the slice's storage")?;
        empty(&top, &mut removed).tried("empty", "a directory of the slice's storage")?;
    }
    Ok(removed)
}

/// Nothing but these directories: a bug below could then still reach no other file of the slice's UID.
fn restrict_to(targets: &[OwnedFd], abi: i32) -> Result<(), KernelError> {
    use landlock::{
        ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    };
    let failed = |error: landlock::RulesetError| {
        KernelError::new("restrict", "landlock", std::io::Error::other(error.to_string()))
    };
    let all = AccessFs::from_all(ABI::from(abi.min(crate::landlock_rules::NEWEST_KNOWN)));
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for target in targets {
        ruleset = ruleset.add_rule(PathBeneath::new(target, all)).map_err(failed)?;
    }
    ruleset.restrict_self().map(drop).map_err(failed)
}

/// Opens one of the directories that came, whose owner may have taken its own rights to it away. Without them not even
/// its "." can be looked up, and fchmod(2) takes no `O_PATH` descriptor; so it is named by the descriptor, proc(5).
fn open_top(target: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", target.as_raw_fd()), Mode::RWXU)?;
    openat(target, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory of the slice's for listing, giving it back the rights its owner took away.
fn open_directory(parent: impl AsFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            openat(&parent, name, flags, Mode::empty())
        }
        other => {
            let fd = other?;
            rustix::fs::fchmod(&fd, Mode::RWXU)?;
            Ok(fd)
        }
    }
}

/// Empties `top`.
fn empty(top: &OwnedFd, removed: &mut u64) -> Result<(), Errno> {
    let mut moved = 0_u64;
    // Directories entered, and the name of each in the one before.
    let mut stack: Vec<(OwnedFd, CString)> = Vec::new();
    loop {
        let here = stack.last().map_or(top.as_fd(), |(fd, _)| fd.as_fd());
        match next_directory(here, removed)? {
            Some(name) if stack.len() < DEPTH => {
                let fd = open_directory(here, &name)?;
                stack.push((fd, name));
            }
            Some(name) => {
                // Too deep: up to the top with it, under a name of ours, and start over from there.
                loop {
                    moved += 1;
                    match rustix::fs::renameat_with(
                        here,
                        &name,
                        top,
                        format!(".wipe-{moved}"),
                        rustix::fs::RenameFlags::NOREPLACE,
                    ) {
                        Err(Errno::EXIST) => {}
                        other => break other?,
                    }
                }
            }
            None => match stack.pop() {
                None => return Ok(()),
                Some((fd, name)) => {
                    drop(fd);
                    let parent = stack.last().map_or(top.as_fd(), |(fd, _)| fd.as_fd());
                    unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
                    *removed += 1;
                }
            },
        }
    }
}

/// Removes every file of a directory up to its first subdirectory, whose name is returned; none when it is empty.
fn next_directory(here: std::os::fd::BorrowedFd<'_>, removed: &mut u64) -> Result<Option<CString>, Errno> {
    loop {
        let mut found = false;
        for entry in Dir::read_from(here)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                return Ok(Some(name.to_owned()));
            }
            match unlinkat(here, name, AtFlags::empty()) {
                Ok(()) => *removed += 1,
                // A file system that does not tell types in its listing.
                Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
            found = true;
        }
        if !found {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn empties_what_is_deep_shut_and_strange() {
        let dir = std::env::temp_dir().join(format!("plab-wipe-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let top = openat(CWD, &dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let mut at = top.try_clone().expect("dup");
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("mkdir");
            at = openat(&at, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        }
        std::os::unix::fs::symlink("/etc", dir.join("link")).expect("symlink");
        rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("fifo");
        std::fs::create_dir(dir.join("shut")).expect("mkdir");
        std::fs::write(dir.join("shut/file"), "x").expect("write");
        rustix::fs::chmod(dir.join("shut"), Mode::empty()).expect("chmod");
        let mut removed = 0;
        empty(&top, &mut removed).expect("empty");
        assert_eq!(removed, 1004);
        assert!(std::path::Path::new("/etc/passwd").exists());
        std::fs::remove_dir(&dir).expect("empty now");
    }
}
