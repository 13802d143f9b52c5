//! Opening `PlanetLab-control` and looking at the hooks in it.
//!
//! Runs as the slice, in the slice's view, inside its sandbox: what is guarded against here is not
//! an escape (the sandbox does that) but PID 1 of the capsule being made to wait, or to report a
//! thing that is not so. So nothing here opens a file whose kind is not known first.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::hook::Hook;
use crate::outcome::{HookOutcome, errno_name};

/// The well-known name of the directory, in the slice's home (PDN-02-002, 4.7).
pub const CONTROL_DIR: &str = "PlanetLab-control";

/// How much of a script is read to explain why it could not be executed: the kernel looks at no
/// more than this for the `#!` line.
const FIRST_LINE_MAX: usize = 256;

/// Why there is no control directory to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlDirProblem {
    /// There is none. Not a fault: a slice need not have one.
    #[error("there is no {CONTROL_DIR} directory in the home directory")]
    Absent,
    /// A symbolic link, wherever it leads. What it leads to could be exchanged under a watch, and
    /// `resources` would be written there.
    #[error("{CONTROL_DIR} is a symbolic link (to {target:?}); it must be a directory itself")]
    Symlink {
        /// What the link holds, cut to a sensible length.
        target: String,
    },
    /// Something that is not a directory: its kind, with an article.
    #[error("{CONTROL_DIR} is {0}, not a directory")]
    NotADirectory(&'static str),
    /// It is there and cannot be opened.
    #[error("{CONTROL_DIR} cannot be opened: {}{}", errno_name(.0.raw_os_error()), permission_hint(*.0))]
    Unreadable(Errno),
    /// It was absent and could not be made.
    #[error("{CONTROL_DIR} cannot be created: {}", errno_name(.0.raw_os_error()))]
    NotCreated(Errno),
}

fn permission_hint(errno: Errno) -> &'static str {
    if errno == Errno::ACCESS { " (its owner needs read and search permission: chmod u+rx)" } else { "" }
}

/// What stands where a hook would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookFile {
    /// Nothing: the hook is skipped.
    Absent,
    /// A regular file that the slice may execute, possibly by way of a symbolic link.
    Runnable,
    /// A regular file without execute permission, or on storage mounted without it.
    NotExecutable,
    /// A directory, FIFO, socket or device: its kind, with an article.
    NotAFile(&'static str),
    /// A symbolic link to nothing.
    DanglingSymlink,
    /// It cannot even be looked at.
    Unreadable(Errno),
}

impl HookFile {
    /// The outcome to record for a hook that is not run because of what stands in its place; `None`
    /// for one that can be run.
    #[must_use]
    pub fn refusal(self) -> Option<HookOutcome> {
        let reason = match self {
            HookFile::Runnable => return None,
            HookFile::Absent => return Some(HookOutcome::Skipped),
            HookFile::NotExecutable => "is not executable (chmod +x)".to_owned(),
            HookFile::NotAFile(kind) => format!("is {kind}, not a regular file"),
            HookFile::DanglingSymlink => "is a symbolic link to nothing".to_owned(),
            HookFile::Unreadable(errno) => {
                format!("cannot be examined: {}", errno_name(errno.raw_os_error()))
            }
        };
        Some(HookOutcome::Refused(reason))
    }
}

/// The opened `PlanetLab-control` directory of a slice.
///
/// Held open, it stays the directory that was checked, whatever happens to its name.
#[derive(Debug)]
pub struct ControlDir {
    fd: OwnedFd,
}

impl ControlDir {
    /// Opens `PlanetLab-control` in the opened home directory.
    ///
    /// # Errors
    /// Says what is there instead of a directory that can be opened.
    pub fn open(home: BorrowedFd<'_>) -> Result<ControlDir, ControlDirProblem> {
        // O_DIRECTORY: a FIFO or a device of this name fails with ENOTDIR before it is opened, so
        // nothing waits for a writer and no driver runs.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let opened = match rustix::fs::openat2(home, CONTROL_DIR, flags, Mode::empty(), resolve) {
            // A slice's own seccomp profile may leave openat2 out, and it holds for capsule-init too.
            // Nothing is lost: the path is one component, for which O_NOFOLLOW says the same.
            Err(Errno::NOSYS) => rustix::fs::openat(home, CONTROL_DIR, flags, Mode::empty()),
            other => other,
        };
        opened.map(|fd| ControlDir { fd }).map_err(|errno| problem(home, errno))
    }

    /// Opens `PlanetLab-control`, making it first (mode 0755) if there is nothing of that name.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ControlDirProblem::NotCreated`].
    pub fn create_and_open(home: BorrowedFd<'_>) -> Result<ControlDir, ControlDirProblem> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(home, CONTROL_DIR, mode) {
            Ok(()) => {
                let dir = Self::open(home)?;
                // mkdir is subject to the umask, which is the slice's affair.
                rustix::fs::fchmod(&dir.fd, mode).map_err(ControlDirProblem::NotCreated)?;
                Ok(dir)
            }
            Err(Errno::EXIST) => Self::open(home),
            // One that is there already needs no room and no permission to be made.
            Err(errno) => match Self::open(home) {
                Err(ControlDirProblem::Absent) => Err(ControlDirProblem::NotCreated(errno)),
                other => other,
            },
        }
    }

    /// Looks at what stands where `hook` would be. Opens nothing: a FIFO would hold up an open.
    ///
    /// The answer can be out of date when it arrives; the exec that follows meets what is there by
    /// then, and fails without waiting if that is not a regular file.
    #[must_use]
    pub fn inspect(&self, hook: Hook) -> HookFile {
        let name = hook.name();
        let mut kind = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return HookFile::Absent,
            Err(errno) => return HookFile::Unreadable(errno),
        };
        if kind == FileType::Symlink {
            // A link to a file that can be run is a hook like any other. This is not the danger it
            // would be in a supervisor: it is followed as the slice and in the slice's view, to
            // where the slice could go anyway, so following it gains nothing.
            kind = match rustix::fs::statat(&self.fd, name, AtFlags::empty()) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => return HookFile::DanglingSymlink,
                Err(errno) => return HookFile::Unreadable(errno),
            };
        }
        if kind != FileType::RegularFile {
            return HookFile::NotAFile(kind_name(kind));
        }
        // The kernel's own answer rather than a reading of mode bits: it knows about ACLs, groups
        // and storage mounted noexec. capsule-init's real and effective IDs are the same.
        match rustix::fs::accessat(&self.fd, name, Access::EXEC_OK, AtFlags::empty()) {
            Ok(()) => HookFile::Runnable,
            Err(Errno::ACCESS) => HookFile::NotExecutable,
            Err(Errno::NOENT) => HookFile::Absent,
            Err(errno) => HookFile::Unreadable(errno),
        }
    }

    /// The outcome to record for a hook whose exec failed, with a hint taken from its first line.
    #[must_use]
    pub fn exec_failed(&self, hook: Hook, errno: i32) -> HookOutcome {
        HookOutcome::exec_failed(errno, self.first_line(hook).as_deref())
    }

    /// The start of a script's first line; `None` if that cannot be had at once.
    fn first_line(&self, hook: Hook) -> Option<Vec<u8>> {
        let regular = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        // Looked at before it is opened, and again after, because it can change in between. Should
        // it, O_NONBLOCK keeps the open from waiting for a FIFO's writer; or for the holder of a
        // lease on a regular file, which the slice could take out to stall PID 1.
        let before = rustix::fs::statat(&self.fd, hook.name(), AtFlags::empty()).ok()?;
        if !regular(before.st_mode) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, hook.name(), flags, Mode::empty()).ok()?;
        if !regular(rustix::fs::fstat(&fd).ok()?.st_mode) {
            return None;
        }
        let mut buffer = [0; FIRST_LINE_MAX];
        let read = rustix::io::read(&fd, &mut buffer).ok()?;
        let head = &buffer[..read];
        Some(head.split(|&byte| byte == b'\n').next().unwrap_or(head).to_vec())
    }
}

impl AsFd for ControlDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is wrong with the name that could not be opened as a directory.
fn problem(home: BorrowedFd<'_>, errno: Errno) -> ControlDirProblem {
    if errno == Errno::NOENT {
        return ControlDirProblem::Absent;
    }
    if matches!(errno, Errno::LOOP | Errno::NOTDIR)
        && let Ok(stat) = rustix::fs::statat(home, CONTROL_DIR, AtFlags::SYMLINK_NOFOLLOW)
    {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => return ControlDirProblem::Symlink { target: link_target(home) },
            // Exchanged since: then the error number is all there is to say.
            FileType::Directory => {}
            kind => return ControlDirProblem::NotADirectory(kind_name(kind)),
        }
    }
    ControlDirProblem::Unreadable(errno)
}

fn link_target(home: BorrowedFd<'_>) -> String {
    const SHOWN: usize = 80;
    let Ok(target) = rustix::fs::readlinkat(home, CONTROL_DIR, Vec::new()) else { return String::new() };
    let target = target.to_string_lossy();
    let mut shown: String = target.chars().take(SHOWN).collect();
    if target.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "of an unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::testing::{Home, chmod, mkfifo};

    fn open(home: &Home) -> Result<(), ControlDirProblem> {
        ControlDir::open(home.fd()).map(drop)
    }

    #[test]
    fn says_that_there_is_none() {
        let home = Home::new();
        assert_eq!(open(&home), Err(ControlDirProblem::Absent));
    }

    #[test]
    fn makes_it_if_there_is_none_and_opens_it_if_there_is() {
        let home = Home::new();
        let made = ControlDir::create_and_open(home.fd()).unwrap();
        assert_eq!(fs::metadata(home.control("")).unwrap().permissions().mode() & 0o7777, 0o755);
        // A mode that the researcher has chosen stays.
        chmod(&home.control(""), 0o700);
        let found = ControlDir::create_and_open(home.fd()).unwrap();
        assert_eq!(fs::metadata(home.control("")).unwrap().permissions().mode() & 0o7777, 0o700);
        let inode = |dir: &ControlDir| rustix::fs::fstat(dir).unwrap().st_ino;
        assert_eq!(inode(&made), inode(&found));
    }

    #[test]
    fn refuses_a_symlink_wherever_it_leads_and_touches_nothing_there() {
        let home = Home::new();
        let inside = home.path().join("elsewhere");
        fs::create_dir(&inside).unwrap();
        for target in ["elsewhere", inside.to_str().unwrap(), "/etc", "nowhere", CONTROL_DIR] {
            let link = home.path().join(CONTROL_DIR);
            symlink(target, &link).unwrap();
            let expected = Err(ControlDirProblem::Symlink { target: target.to_owned() });
            assert_eq!(open(&home), expected);
            assert_eq!(ControlDir::create_and_open(home.fd()).map(drop), expected);
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
    }

    #[test]
    fn refuses_what_is_no_directory_and_says_what_it_is() {
        let home = Home::new();
        let path = home.path().join(CONTROL_DIR);
        let check = |kind| {
            assert_eq!(open(&home), Err(ControlDirProblem::NotADirectory(kind)));
            let created = ControlDir::create_and_open(home.fd()).map(drop);
            assert_eq!(created, Err(ControlDirProblem::NotADirectory(kind)));
            fs::remove_file(&path).unwrap();
        };
        fs::write(&path, "").unwrap();
        check("a regular file");
        mkfifo(&path); // and does not wait for somebody to write
        check("a FIFO");
        let _listener = UnixListener::bind(&path).unwrap();
        check("a socket");
    }

    #[test]
    fn says_what_permission_is_missing() {
        let home = Home::new();
        home.as_nobody(|| {
            fs::create_dir(home.control("")).unwrap();
            chmod(&home.control(""), 0);
            let problem = ControlDir::create_and_open(home.fd()).unwrap_err();
            assert_eq!(problem, ControlDirProblem::Unreadable(Errno::ACCESS));
            assert_eq!(
                problem.to_string(),
                "PlanetLab-control cannot be opened: EACCES \
                 (its owner needs read and search permission: chmod u+rx)"
            );
            // Read permission alone opens it, but shows nothing in it.
            chmod(&home.control(""), 0o400);
            let dir = ControlDir::open(home.fd()).unwrap();
            assert_eq!(dir.inspect(Hook::Start), HookFile::Unreadable(Errno::ACCESS));
            chmod(&home.control(""), 0o700);
            fs::remove_dir(home.control("")).unwrap();
            chmod(home.path(), 0o555);
            let problem = ControlDir::create_and_open(home.fd()).unwrap_err();
            assert_eq!(problem, ControlDirProblem::NotCreated(Errno::ACCESS));
            chmod(home.path(), 0o755);
        });
    }

    #[test]
    fn stays_with_the_directory_that_was_opened() {
        let (home, dir) = Home::with_control();
        home.script("start", "#!/bin/sh\n", 0o755);
        fs::rename(home.control(""), home.path().join("old")).unwrap();
        symlink("/etc", home.path().join(CONTROL_DIR)).unwrap();
        assert_eq!(dir.inspect(Hook::Start), HookFile::Runnable);
    }

    #[test]
    fn tells_what_stands_in_a_hooks_place() {
        let (home, dir) = Home::with_control();
        let is = |expected: HookFile| {
            assert_eq!(dir.inspect(Hook::Start), expected);
            let path = home.control("start");
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir(path).unwrap();
            } else {
                let _ = fs::remove_file(path);
            }
        };
        is(HookFile::Absent);
        home.script("start", "#!/bin/sh\n", 0o755);
        is(HookFile::Runnable);
        home.script("start", "#!/bin/sh\n", 0o644);
        is(HookFile::NotExecutable);
        fs::create_dir(home.control("start")).unwrap();
        is(HookFile::NotAFile("a directory"));
        mkfifo(&home.control("start"));
        is(HookFile::NotAFile("a FIFO"));
        let _listener = UnixListener::bind(home.control("start")).unwrap();
        is(HookFile::NotAFile("a socket"));
        symlink("nowhere", home.control("start")).unwrap();
        is(HookFile::DanglingSymlink);
        symlink("start", home.control("start")).unwrap();
        is(HookFile::Unreadable(Errno::LOOP));
        symlink("/dev/null", home.control("start")).unwrap();
        is(HookFile::NotAFile("a character device"));
        symlink("/", home.control("start")).unwrap();
        is(HookFile::NotAFile("a directory"));
        symlink("/bin/sh", home.control("start")).unwrap();
        is(HookFile::Runnable);
        home.script("program", "#!/bin/sh\n", 0o644);
        symlink("program", home.control("start")).unwrap();
        is(HookFile::NotExecutable);
        mkfifo(&home.control("fifo"));
        symlink("fifo", home.control("start")).unwrap();
        is(HookFile::NotAFile("a FIFO"));
    }

    #[test]
    fn executable_means_by_this_user() {
        let home = Home::new();
        home.as_nobody(|| {
            let dir = ControlDir::create_and_open(home.fd()).unwrap();
            // The owner's permissions count for the owner, whatever others may do.
            home.script("start", "#!/bin/sh\n", 0o077);
            assert_eq!(dir.inspect(Hook::Start), HookFile::NotExecutable);
            home.script("stop", "#!/bin/sh\n", 0o700);
            assert_eq!(dir.inspect(Hook::Stop), HookFile::Runnable);
        });
    }

    #[test]
    fn every_refusal_has_its_reason() {
        for (file, reason) in [
            (HookFile::NotExecutable, "not run: is not executable (chmod +x)"),
            (HookFile::NotAFile("a FIFO"), "not run: is a FIFO, not a regular file"),
            (HookFile::DanglingSymlink, "not run: is a symbolic link to nothing"),
            (HookFile::Unreadable(Errno::LOOP), "not run: cannot be examined: ELOOP"),
            (HookFile::Absent, "skipped: not there"),
        ] {
            assert_eq!(file.refusal().unwrap().to_string(), reason);
        }
        assert_eq!(HookFile::Runnable.refusal(), None);
    }

    #[test]
    fn explains_a_failed_exec_from_the_first_line() {
        let (home, dir) = Home::with_control();
        let enoent = Errno::NOENT.raw_os_error();
        let explain = || dir.exec_failed(Hook::Start, enoent).to_string();
        home.script("start", "#!/no/such/shell -e\necho\n", 0o755);
        assert!(explain().ends_with("not found: \"/no/such/shell\""), "{}", explain());
        home.script("start", "#!/bin/sh\r\necho\r\n", 0o755);
        assert!(explain().contains("CR LF"), "{}", explain());
        fs::remove_file(home.control("start")).unwrap();
        mkfifo(&home.control("start"));
        assert!(
            explain().ends_with("it or the interpreter in its first line was not found"),
            "{}",
            explain()
        );
    }

    /// The hints are only as good as the kernel's error numbers: this asks the kernel.
    #[test]
    fn the_kernel_gives_the_error_numbers_that_are_explained() {
        let (home, dir) = Home::with_control();
        for (text, hint) in [
            ("#!/no/such/shell\n", "interpreter in the first line not found"),
            ("#!/bin/sh\r\n", "CR LF"),
            ("#!\n", "the #! line names no interpreter"),
            ("#!/etc/passwd\n", "no executable file"),
            ("", "the file is empty"),
            ("echo hello\n", "no #! line and not a program"),
            ("\x7fELF nonsense", "a program for another machine"),
        ] {
            home.script("start", text, 0o755);
            assert_eq!(dir.inspect(Hook::Start), HookFile::Runnable);
            let errno = exec_errno(&home.control("start"));
            let outcome = dir.exec_failed(Hook::Start, errno).to_string();
            assert!(outcome.contains(hint), "{text:?}: {outcome}");
        }
        home.script("start", "#!/bin/sh\n", 0o755);
        let _writer = fs::OpenOptions::new().append(true).open(home.control("start")).unwrap();
        let errno = exec_errno(&home.control("start"));
        assert!(dir.exec_failed(Hook::Start, errno).to_string().contains("open for writing"));
    }

    fn exec_errno(path: &std::path::Path) -> i32 {
        // Another test's child may hold a script open for writing for a moment, between fork and exec.
        for _ in 0..100 {
            let error = std::process::Command::new(path).spawn().unwrap_err();
            let errno = error.raw_os_error().unwrap();
            if errno != Errno::TXTBSY.raw_os_error() {
                return errno;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Errno::TXTBSY.raw_os_error()
    }
}
