//! Against the kernel: what belongs to root, and what has too long a record of holes.

use crate::case::Expect::{Either, Errno, Works};
use crate::case::{Case, Place, attack};

/// Calls that root may make: the control works.
const ROOTS: [(&str, &str); 14] = [
    ("keyctl", "others' keys"),
    ("add-key", "others' keys"),
    ("bpf-map", "the kernel"),
    ("bpf-program", "the kernel"),
    ("fanotify", "others' files"),
    ("reboot", "the host"),
    ("sethostname", "the host's name"),
    ("setdomainname", "the host's name"),
    ("settimeofday", "the host's clock"),
    ("clock-settime", "the host's clock"),
    ("adjtimex", "the host's clock"),
    ("clock-adjtime", "the host's clock"),
    ("syslog", "the host's kernel log"),
    ("acct", "the host's accounts"),
];

/// Calls that ordinary users may make where nothing forbids it.
const EVERYBODYS: [(&str, &str); 4] = [
    ("perf", "the kernel; others' secrets by timing"),
    ("userfaultfd", "the kernel"),
    ("io-uring", "the filter: its calls go past it"),
    ("modify-ldt", "the kernel"),
];

/// Calls that get further outside and fail there for another reason, which is the control's outcome; not
/// every kernel has them.
const FURTHER: [(&str, &str, i32); 10] = [
    ("request-key", "others' keys", libc::ENOKEY),
    ("swapon", "the host's memory", libc::ENOENT),
    ("swapoff", "the host's memory", libc::ENOENT),
    ("quotactl", "the host's quotas", libc::ENOENT),
    ("kexec-load", "the kernel", libc::EINVAL),
    ("init-module", "the kernel", libc::ENOEXEC),
    ("finit-module", "the kernel", libc::EBADF),
    ("delete-module", "the kernel", libc::ENOENT),
    ("iopl", "the host's devices", libc::EINVAL),
    ("ioperm", "the host's devices", libc::EINVAL),
];

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (name, against) in ROOTS {
        cases.push(attack(name, against, name, Errno(libc::EPERM)).into());
    }
    for (name, against) in EVERYBODYS {
        // Root's knobs may close these to users; what counts is that the kernel has them.
        let place = if name == "modify-ldt" { Place::Nobody } else { Place::Root };
        cases.push(attack(name, against, name, Errno(libc::EPERM)).control_at(place).into());
    }
    for (name, against, error) in FURTHER {
        cases.push(
            attack(name, against, name, Errno(libc::EPERM))
                .control_is(Either(vec![Works, Errno(error), Errno(libc::ENOSYS), Errno(libc::EFAULT)]))
                .into(),
        );
    }
    cases.push(attack("vhangup", "the session's terminal", "vhangup", Errno(libc::EPERM)).into());
    cases
}
