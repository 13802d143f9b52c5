//! Programs that the kernel takes, what it then answers, and programs that it is not given.

use std::io;

use seccompiler::sock_filter;

use super::{ALLOW, compiled};
use crate::seccomp::install;
use crate::seccomp::instructions::{RETURN, step};

/// Calls with their answers, without a filter and under `default`. Their arguments are wrong in some
/// other way too, so that without a filter the kernel refuses them for another, certain reason:
/// without that, a machine that refuses everything would pass.
const CALLS: [(&str, libc::c_long, [u64; 6], i32, i32); 17] = [
    // CLONE_NEWUSER with a flag that unshare does not have (CLONE_VFORK).
    ("unshare", libc::SYS_unshare, [0x1000_4000, 0, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
    // CLONE_NEWUSER | CLONE_SIGHAND without CLONE_VM.
    ("clone", libc::SYS_clone, [0x1000_0800, 0, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
    // The same without a namespace still reaches the kernel.
    ("clone, no namespace", libc::SYS_clone, [0x800, 0, 0, 0, 0, 0], libc::EINVAL, libc::EINVAL),
    ("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0, 0], libc::EINVAL, libc::ENOSYS),
    // AF_ALG and AF_VSOCK with a flag that no socket has.
    ("AF_ALG", libc::SYS_socket, [38, 0x10_0005, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
    ("AF_VSOCK", libc::SYS_socket, [40, 0x10_0001, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
    ("AF_INET", libc::SYS_socket, [2, 0x10_0001, 0, 0, 0, 0], libc::EINVAL, libc::EINVAL),
    ("SCTP", libc::SYS_socket, [2, 0x10_0001, 132, 0, 0, 0], libc::EINVAL, libc::EPERM),
    ("SOCK_DIAG", libc::SYS_socket, [16, 0x10_0003, 4, 0, 0, 0], libc::EINVAL, libc::EPERM),
    ("keyctl", libc::SYS_keyctl, [0xffff, 0, 0, 0, 0, 0], libc::EOPNOTSUPP, libc::EPERM),
    ("TIOCSTI", libc::SYS_ioctl, [u64::MAX, 0x5412, 0, 0, 0, 0], libc::EBADF, libc::EPERM),
    ("TIOCSTI + 2^32", libc::SYS_ioctl, [u64::MAX, 0x1_0000_5412, 0, 0, 0, 0], libc::EBADF, libc::EPERM),
    ("TIOCGWINSZ", libc::SYS_ioctl, [u64::MAX, 0x5413, 0, 0, 0, 0], libc::EBADF, libc::EBADF),
    ("setns", libc::SYS_setns, [u64::MAX, 0, 0, 0, 0, 0], libc::EBADF, libc::EPERM),
    ("unknown call", 999, [0; 6], libc::ENOSYS, libc::ENOSYS),
    ("read", libc::SYS_read, [u64::MAX, 0, 0, 0, 0, 0], libc::EBADF, libc::EBADF),
    ("getppid through x32", 0x4000_0000 | libc::SYS_getppid, [0; 6], 0, libc::ENOSYS),
];

/// Calls that the node may refuse for reasons of its own, so that only the filter's answer is certain.
const ALSO_REFUSED: [(&str, libc::c_long, i32); 6] = [
    ("io_uring_setup", libc::SYS_io_uring_setup, libc::EPERM),
    ("bpf", libc::SYS_bpf, libc::EPERM),
    ("perf_event_open", libc::SYS_perf_event_open, libc::EPERM),
    ("userfaultfd", libc::SYS_userfaultfd, libc::EPERM),
    ("mount", libc::SYS_mount, libc::EPERM),
    ("io_setup", libc::SYS_io_setup, libc::ENOSYS),
];

const COUNT: usize = CALLS.len() + ALSO_REFUSED.len();

/// Makes a child that runs `body` and `_exit`s with its result; returns the wait status.
///
/// Other threads of the test may hold locks at the fork, so `body` must not allocate, lock or panic.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only runs `body`, which by contract is async-signal-safe, and _exits.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let status = body();
        // SAFETY: always sound; nothing of the parent's runs in the child.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: `pid` is a child of this process, `status` a valid pointer.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    status
}

fn errno_of(nr: libc::c_long, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every call in the tables is refused or fails before it looks at memory.
    let result = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// The errno of every call, under the programs or without any.
fn errnos(programs: Option<[&[sock_filter]; 2]>) -> [i32; COUNT] {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let status = in_child(|| {
        for program in programs.iter().flatten() {
            if install(program).is_err() {
                return 1;
            }
        }
        let mut results = [0_i32; COUNT];
        for (result, (_, nr, args, ..)) in results.iter_mut().zip(&CALLS) {
            *result = errno_of(*nr, *args);
        }
        if programs.is_some() {
            for (result, (_, nr, _)) in results[CALLS.len()..].iter_mut().zip(&ALSO_REFUSED) {
                *result = errno_of(*nr, [0; 6]);
            }
        }
        let size = size_of_val(&results);
        // SAFETY: `results` is `size` bytes long.
        let written = unsafe { libc::write(pipe[1], results.as_ptr().cast(), size) };
        i32::from(written != size as isize)
    });
    assert_eq!(status, 0, "the child could not install the filters");
    let mut results = [0_i32; COUNT];
    // SAFETY: `results` has room for that many bytes; the child wrote all of them.
    let read = unsafe { libc::read(pipe[0], results.as_mut_ptr().cast(), size_of_val(&results)) };
    assert_eq!(read, size_of_val(&results) as isize);
    for end in pipe {
        // SAFETY: both ends are this function's and not used again.
        unsafe { libc::close(end) };
    }
    results
}

#[test]
fn calls_get_the_errno_that_the_profile_says() {
    let (default, strict) = (compiled("default"), compiled("strict"));
    let without = errnos(None);
    for ((name, _, _, expected, _), found) in CALLS.iter().zip(without) {
        // x32 may be compiled into the kernel or not.
        assert!(found == *expected || name.contains("x32"), "without a filter: {name}: {found}");
    }
    for (profile, errnos) in
        [("default", errnos(Some(default.programs()))), ("strict", errnos(Some(strict.programs())))]
    {
        let expected = CALLS.map(|(name, .., inside)| (name, inside)).into_iter();
        let expected = expected.chain(ALSO_REFUSED.map(|(name, _, inside)| (name, inside)));
        for ((name, expected), found) in expected.zip(errnos) {
            // No call in the tables is one that the two profiles treat differently.
            assert_eq!(found, expected, "{profile}: {name}");
        }
    }
}

#[test]
fn the_other_abi_kills() {
    let compiled = compiled("default");
    let getpid_of_i386 = || {
        let result: u64;
        // SAFETY: getpid by way of int 0x80 touches no memory, and no registers but these.
        unsafe {
            std::arch::asm!(
                "int 0x80",
                inout("rax") 20_u64 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        i32::from(result == 0)
    };
    let no_core = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `none` is a valid rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) }
    };
    let status = in_child(|| {
        no_core();
        match compiled.install() {
            Ok(()) => getpid_of_i386(),
            Err(_) => 1,
        }
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "status {status:#x}");
}

#[test]
fn the_status_file_shows_both_filters() {
    let compiled = compiled("default");
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let mut buffer = [0_u8; 8192];
    let status = in_child(|| {
        if compiled.install().is_err() {
            return 1;
        }
        // SAFETY: a constant string; the descriptor ends with the child.
        let file = unsafe { libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY) };
        // SAFETY: `buffer` is 8192 bytes long.
        let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), 8192) };
        // SAFETY: `length` bytes were read into `buffer`; a pipe takes that many at once.
        let written = unsafe { libc::write(pipe[1], buffer.as_ptr().cast(), length.max(0) as usize) };
        i32::from(written <= 0)
    });
    assert_eq!(status, 0);
    // SAFETY: `buffer` is 8192 bytes long.
    let length = unsafe { libc::read(pipe[0], buffer.as_mut_ptr().cast(), 8192) };
    for end in pipe {
        // SAFETY: both ends are this function's and not used again.
        unsafe { libc::close(end) };
    }
    let text = String::from_utf8_lossy(&buffer[..length as usize]);
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
    assert_eq!(field("NoNewPrivs:").as_deref(), Some("1"));
    assert_eq!(field("Seccomp:").as_deref(), Some("2"));
    let before = std::fs::read_to_string("/proc/self/status").expect("status");
    let before: u32 = before
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"))
        .map_or(0, |count| count.trim().parse().expect("a number"));
    assert_eq!(field("Seccomp_filters:"), Some((before + 2).to_string()));
}

#[test]
fn programs_that_the_kernel_would_misread_are_not_installed() {
    let endless = vec![step(RETURN, 0, 0, ALLOW); 0x1_0001];
    for program in [&[][..], &endless, &endless[..4097]] {
        let error = install(program).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
