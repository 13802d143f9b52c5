//! Starting a program in the capsule: posix_spawn(3), which is one vfork and exec.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// Where a program's standard descriptors come from.
pub(super) enum Standard<'a> {
    /// These.
    Fds([BorrowedFd<'a>; 3]),
    /// This terminal; it becomes the controlling terminal.
    Terminal(&'a CString),
}

/// A program to start as the leader of its own session, so that it can be signalled as a group and has no
/// terminal but the one it is given.
pub(super) struct Launch<'a> {
    pub(super) program: &'a CString,
    pub(super) argv: &'a [CString],
    pub(super) env: &'a [CString],
    pub(super) standard: Standard<'a>,
    /// Look `program` up in this process's `PATH` if it holds no slash.
    pub(super) search: bool,
}

impl Launch<'_> {
    /// Starts it. The error is the exec's own, if that is what failed.
    pub(super) fn start(&self) -> Result<Pid, Errno> {
        let mut actions = FileActions::new()?;
        match &self.standard {
            Standard::Fds(fds) => {
                for (target, fd) in (0..).zip(fds) {
                    actions.dup(fd.as_raw_fd(), target)?;
                }
            }
            Standard::Terminal(path) => actions.terminal(path)?,
        }
        let attributes = Attributes::new()?;
        let argv = pointers(self.argv);
        let env = pointers(self.env);
        let mut pid = 0;
        let spawn = if self.search { libc::posix_spawnp } else { libc::posix_spawn };
        // SAFETY: every pointer is to a live object: the arrays are NULL-terminated and borrow strings that
        // outlive the call, which returns only after the child's exec or failure.
        let error = unsafe {
            spawn(
                &raw mut pid,
                self.program.as_ptr(),
                actions.0.as_ptr(),
                attributes.0.as_ptr(),
                argv.as_ptr(),
                env.as_ptr(),
            )
        };
        match error {
            0 => Pid::from_raw(pid).ok_or(Errno::SRCH),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn check(error: libc::c_int) -> Result<(), Errno> {
    if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(error)) }
}

struct FileActions(MaybeUninit<libc::posix_spawn_file_actions_t>);

impl FileActions {
    fn new() -> Result<Self, Errno> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises what the pointer shows to.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        Ok(Self(actions))
    }

    fn dup(&mut self, from: i32, to: i32) -> Result<(), Errno> {
        // SAFETY: initialised in `new`.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), from, to) })
    }

    /// A session leader without a terminal that opens one gets it as its controlling terminal (tty_ioctl(4)).
    fn terminal(&mut self, path: &CString) -> Result<(), Errno> {
        // SAFETY: initialised in `new`; the path is a C string, which the call copies.
        check(unsafe {
            libc::posix_spawn_file_actions_addopen(self.0.as_mut_ptr(), 0, path.as_ptr(), libc::O_RDWR, 0)
        })?;
        self.dup(0, 1)?;
        self.dup(0, 2)
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new` and destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

struct Attributes(MaybeUninit<libc::posix_spawnattr_t>);

impl Attributes {
    /// A new session, no signal blocked or ignored: capsule-init blocks SIGCHLD and Rust ignores SIGPIPE, neither
    /// of which a program expects to inherit.
    fn new() -> Result<Self, Errno> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises what the pointer shows to.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        let mut attributes = Self(attributes);
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is ours to initialise.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: both were initialised above.
        check(unsafe { libc::posix_spawnattr_setsigmask(attributes.0.as_mut_ptr(), set.as_ptr()) })?;
        // SAFETY: the set is ours.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: both were initialised above.
        check(unsafe { libc::posix_spawnattr_setsigdefault(attributes.0.as_mut_ptr(), set.as_ptr()) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK as libc::c_short
            | libc::POSIX_SPAWN_SETSIGDEF as libc::c_short
            | libc::POSIX_SPAWN_SETSID;
        // SAFETY: initialised above.
        check(unsafe { libc::posix_spawnattr_setflags(attributes.0.as_mut_ptr(), flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new` and destroyed once.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}
