//! Births: a child in its cgroup and namespaces from its first instruction, straight into exec.
//!
//! `clone3` with `CLONE_VM | CLONE_VFORK` copies no page tables, so the cost does not grow with plabd's memory;
//! `CLONE_INTO_CGROUP` leaves no moment outside the v2 cgroup; `CLONE_PIDFD` no moment in which the PID could
//! be another's. See clone(2). The child runs on a stack of its own but in this process's memory, while the
//! calling thread is suspended: until exec it must not allocate, lock, or touch thread-local state.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("spawn.rs knows the system call convention of x86_64 Linux only");

use std::arch::asm;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::KernelError;

/// The descriptor under which a spawned program finds its socket to plabd.
pub const LINK_FD: i32 = 3;

/// Bytes of stack for the few system calls between clone and exec.
const STACK: usize = 64 << 10;

/// What to start and where.
pub struct Birth<'a> {
    /// The program, opened with `O_PATH`: no path is looked up at birth, so an upgrade in the middle of it
    /// cannot mix versions.
    pub program: BorrowedFd<'a>,
    /// `argv`.
    pub arguments: &'a [&'a CStr],
    /// The v2 cgroup.
    pub cgroup: BorrowedFd<'a>,
    /// `tasks` of v1 hierarchies; the child joins each before exec.
    pub join: &'a [OwnedFd],
    /// Becomes [`LINK_FD`].
    pub link: BorrowedFd<'a>,
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// Refers to the child for good, whatever becomes of its PID.
    pub pidfd: OwnedFd,
    /// In this process's PID namespace.
    pub pid: i32,
}

/// See clone(2), `struct clone_args`, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// All that the child needs, laid out before the clone.
struct Errand {
    program: i32,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    join: *const OwnedFd,
    join_count: usize,
    link: i32,
    /// Which step failed (index into [`STEPS`]) and the kernel's error number; 0 for none.
    failed_step: usize,
    failed_errno: i32,
}

const STEPS: [&str; 4] =
    ["start the child", "join its v1 cgroups", "place its socket", "execute its program"];

/// Runs between clone and exec, in the parent's memory, on its own stack.
///
/// # Safety
/// `errand` must be valid for the whole run, its arrays NULL-terminated where execve(2) wants that.
unsafe extern "C" fn child(errand: *mut Errand) -> ! {
    // SAFETY: the caller keeps the errand alive, and this thread is the only one that touches it.
    let errand = unsafe { &mut *errand };
    let fail = |errand: &mut Errand, step: usize| -> ! {
        // SAFETY: __errno_location has no preconditions. The thread-local errno is the suspended parent's, which
        // nobody reads before the parent goes on.
        let location = unsafe { libc::__errno_location() };
        // SAFETY: the location is valid for this thread.
        errand.failed_errno = unsafe { *location };
        errand.failed_step = step;
        // SAFETY: _exit runs no handlers of the parent's memory.
        unsafe { libc::_exit(127) }
    };
    for i in 0..errand.join_count {
        // SAFETY: i is below the count of the array the caller vouches for.
        let entry = unsafe { errand.join.add(i) };
        // SAFETY: as above, and nobody changes the array meanwhile.
        let fd = unsafe { &*entry }.as_raw_fd();
        // SAFETY: the buffer is one static byte.
        if unsafe { libc::write(fd, b"0".as_ptr().cast(), 1) } != 1 {
            fail(errand, 1);
        }
    }
    let placed = if errand.link == LINK_FD {
        // SAFETY: plain descriptor call on the child's own table.
        unsafe { libc::fcntl(LINK_FD, libc::F_SETFD, 0) }
    } else {
        // SAFETY: as above; dup2 clears close-on-exec.
        unsafe { libc::dup2(errand.link, LINK_FD) }
    };
    if placed < 0 {
        fail(errand, 2);
    }
    // The parent blocked every signal around the clone; the program starts with none blocked.
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to initialise.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: initialised above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: program is an open descriptor, argv and envp are NULL-terminated arrays of C strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            errand.program,
            c"".as_ptr(),
            errand.argv,
            errand.envp,
            libc::AT_EMPTY_PATH,
        )
    };
    fail(errand, 3)
}

/// Starts the child; returns once it executes its program.
///
/// # Errors
/// The clone, a join, or the exec failed; then there is no child.
pub fn spawn(birth: &Birth<'_>) -> Result<Child, KernelError> {
    let argv: Vec<*const libc::c_char> =
        birth.arguments.iter().map(|argument| argument.as_ptr()).chain([std::ptr::null()]).collect();
    let envp = [std::ptr::null()];
    let mut errand = Errand {
        program: birth.program.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        join: birth.join.as_ptr(),
        join_count: birth.join.len(),
        link: birth.link.as_raw_fd(),
        failed_step: 0,
        failed_errno: 0,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: libc::CLONE_VM as u64
            | libc::CLONE_VFORK as u64
            | libc::CLONE_PIDFD as u64
            | CLONE_CLEAR_SIGHAND
            | CLONE_INTO_CGROUP
            | birth.namespaces,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK as u64,
        cgroup: birth.cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // A signal handler of this process must not run in the child, on its small stack in shared memory.
    let blocked = block_signals();
    let result: i64;
    // SAFETY: the kernel suspends this thread until the child execs or exits, so everything the child is given
    // outlives its use. The child starts with rsp at the top of `stack` and calls `child`, which never returns;
    // rbx and rbp are not used across. The syscall clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") &raw mut errand,
            in("r13") child as *const (),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    restore_signals(&blocked);
    drop(stack);
    if result < 0 {
        let errno = Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL));
        return Err(KernelError::new(STEPS[0], "clone3", errno)
            .hint("`plab check` shows whether this kernel has CLONE_INTO_CGROUP and the namespaces"));
    }
    // SAFETY: clone3 stored a new descriptor there, and nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if errand.failed_errno != 0 {
        // The child is gone already; reap it, by its pidfd and not by a PID.
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        )
        .map_err(|error| KernelError::new("reap", "a child that could not start", error))?;
        let errno = Errno::from_raw_os_error(errand.failed_errno);
        return Err(KernelError::new(STEPS[errand.failed_step], "a new child", errno));
    }
    Ok(Child { pidfd, pid: i32::try_from(result).unwrap_or(-1) })
}

fn block_signals() -> libc::sigset_t {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to fill.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled above, `old` is written by the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
    // SAFETY: pthread_sigmask with valid arguments cannot fail and wrote it.
    unsafe { old.assume_init() }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` came from pthread_sigmask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}
