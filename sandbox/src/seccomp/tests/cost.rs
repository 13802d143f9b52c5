//! What the built-in profiles cost a capsule.

use super::compiled;
use super::interpreter::costs_nothing;

#[test]
fn frequent_calls_cost_nothing() {
    let frequent = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_openat,
        libc::SYS_close,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_getppid,
        libc::SYS_futex,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_ctl,
        libc::SYS_poll,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_accept4,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_clock_gettime,
        libc::SYS_rt_sigprocmask,
        libc::SYS_vfork,
        libc::SYS_execve,
        libc::SYS_wait4,
    ];
    for name in ["default", "strict"] {
        let compiled = compiled(name);
        for nr in frequent {
            assert!(costs_nothing(&compiled, nr), "{name}: {nr}");
        }
        // A bound on what every capsule's start pays, with room for a few more rules.
        assert!(compiled.instructions() < 600, "{name}: {} instructions", compiled.instructions());
    }
}
