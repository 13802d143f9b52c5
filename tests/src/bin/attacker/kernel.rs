//! Attacks on the kernel's wider surface: what only root may do, and what has too long a record of holes.

use crate::Primitive;
use crate::sys::{Arg, Attempt, attempt, call, halves, int, text, words};

pub const PRIMITIVES: &[Primitive] = &[
    ("keyctl", |_| attempt(libc::SYS_keyctl, &mut [Arg::Int(0), Arg::Int(-3), Arg::Int(1)])),
    ("add-key", add_key),
    ("request-key", request_key),
    ("bpf-map", bpf_map),
    ("bpf-program", bpf_program),
    ("perf", perf),
    ("userfaultfd", |_| attempt(libc::SYS_userfaultfd, &mut [Arg::Int(1)])),
    ("io-uring", io_uring),
    ("io-setup", io_setup),
    ("kexec-load", |_| attempt(libc::SYS_kexec_load, &mut [Arg::Null, Arg::Null, Arg::Null, Arg::Null])),
    ("init-module", |_| attempt(libc::SYS_init_module, &mut [Arg::In(&[0; 8]), Arg::Int(8), Arg::Text(c"")])),
    // No descriptor at all: what a kernel says of one that is no file differs.
    ("finit-module", |_| attempt(libc::SYS_finit_module, &mut [Arg::Int(-1), Arg::Text(c""), Arg::Int(0)])),
    ("delete-module", |_| attempt(libc::SYS_delete_module, &mut [Arg::Text(c"no-such"), Arg::Int(0)])),
    ("iopl", |_| attempt(libc::SYS_iopl, &mut [Arg::Int(3)])),
    ("ioperm", |_| attempt(libc::SYS_ioperm, &mut [Arg::Int(0x80), Arg::Int(1), Arg::Int(1)])),
    ("modify-ldt", modify_ldt),
    ("reboot", reboot),
    ("swapon", |_| attempt(libc::SYS_swapon, &mut [Arg::Text(c"/no-such-file"), Arg::Int(0)])),
    ("swapoff", |_| attempt(libc::SYS_swapoff, &mut [Arg::Text(c"/no-such-file")])),
    ("sethostname", sethostname),
    ("setdomainname", setdomainname),
    ("settimeofday", |_| attempt(libc::SYS_settimeofday, &mut [Arg::In(&now(1_000)), Arg::Null])),
    ("clock-settime", |_| attempt(libc::SYS_clock_settime, &mut [Arg::Int(0), Arg::In(&now(1))])),
    ("adjtimex", |_| adjust(&mut [], libc::SYS_adjtimex)),
    ("clock-adjtime", |_| adjust(&mut [Arg::Int(0)], libc::SYS_clock_adjtime)),
    ("syslog", |_| attempt(libc::SYS_syslog, &mut [Arg::Int(3), Arg::Out(&mut [0; 4096]), Arg::Int(4096)])),
    ("quotactl", quotactl),
    ("acct", |_| attempt(libc::SYS_acct, &mut [Arg::Null])),
    ("fanotify", |_| attempt(libc::SYS_fanotify_init, &mut [Arg::Int(0), Arg::Int(0)])),
    ("vhangup", vhangup),
];

fn add_key(_: &[String]) -> Attempt {
    attempt(
        libc::SYS_add_key,
        &mut [Arg::Text(c"user"), Arg::Text(c"plab-attack"), Arg::In(b"x"), Arg::Int(1), Arg::Int(-2)],
    )
}

fn request_key(_: &[String]) -> Attempt {
    attempt(libc::SYS_request_key, &mut [Arg::Text(c"user"), Arg::Text(c"plab-none"), Arg::Null, Arg::Int(0)])
}

fn bpf_map(_: &[String]) -> Attempt {
    let mut request = halves(&[2, 4, 4, 1]); // an array: key and value of 4 bytes, one entry
    request.resize(128, 0);
    attempt(libc::SYS_bpf, &mut [Arg::Int(0), Arg::In(&request), Arg::Int(request.len() as i64)])
}

/// Loads a socket filter that returns 0.
fn bpf_program(_: &[String]) -> Attempt {
    let program = words(&[0xb7, 0x95]); // r0 = 0; exit
    let mut request = halves(&[1, 2]); // a socket filter of two instructions
    request.extend(words(&[program.as_ptr() as u64, c"GPL".as_ptr() as u64]));
    request.resize(128, 0);
    attempt(libc::SYS_bpf, &mut [Arg::Int(5), Arg::In(&request), Arg::Int(request.len() as i64)])
}

/// Counts one's own page faults in user mode, which the kernel allows ordinary users.
fn perf(_: &[String]) -> Attempt {
    let mut request = halves(&[1, 112]); // software event, size of the structure
    request.extend(words(&[2, 0, 0, 0, 1 << 5 | 1 << 6])); // page faults; exclude kernel and hypervisor
    request.resize(112, 0);
    attempt(
        libc::SYS_perf_event_open,
        &mut [Arg::In(&request), Arg::Int(0), Arg::Int(-1), Arg::Int(-1), Arg::Int(0)],
    )
}

fn io_uring(_: &[String]) -> Attempt {
    attempt(libc::SYS_io_uring_setup, &mut [Arg::Int(1), Arg::Out(&mut [0; 120])])
}

/// `io-setup EVENTS`: asynchronous I/O contexts come out of one pool for the whole machine.
fn io_setup(args: &[String]) -> Attempt {
    let mut context = words(&[0]);
    attempt(libc::SYS_io_setup, &mut [Arg::Int(int(args, 0)), Arg::Out(&mut context)])
}

fn modify_ldt(_: &[String]) -> Attempt {
    // struct user_desc: entry 0, base 0, limit 0, a data segment.
    let entry = halves(&[0, 0, 0, 0b0111_1001]);
    attempt(libc::SYS_modify_ldt, &mut [Arg::Int(1), Arg::In(&entry), Arg::Int(16)])
}

/// Sets what Ctrl-Alt-Del does to what it does, the one harmless thing that this call can.
fn reboot(_: &[String]) -> Attempt {
    let reboots =
        std::fs::read_to_string("/proc/sys/kernel/ctrl-alt-del").is_ok_and(|text| text.trim() == "1");
    let command = if reboots { libc::LINUX_REBOOT_CMD_CAD_ON } else { libc::LINUX_REBOOT_CMD_CAD_OFF };
    attempt(
        libc::SYS_reboot,
        &mut [Arg::Int(0xfee1_dead), Arg::Int(672_274_793), Arg::Int(i64::from(command as u32)), Arg::Null],
    )
}

fn sethostname(_: &[String]) -> Attempt {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "vm".into());
    let name = text(name.trim());
    attempt(libc::SYS_sethostname, &mut [Arg::Text(&name), Arg::Int(name.as_bytes().len() as i64)])
}

fn setdomainname(_: &[String]) -> Attempt {
    let name = std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap_or_else(|_| "(none)".into());
    let name = text(name.trim());
    attempt(libc::SYS_setdomainname, &mut [Arg::Text(&name), Arg::Int(name.as_bytes().len() as i64)])
}

/// The time that it is, as two words; the second counts nanoseconds divided by `unit`.
fn now(unit: u64) -> Vec<u8> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    words(&[since.as_secs(), u64::from(since.subsec_nanos()) / unit])
}

/// Sets the length of the clock's tick to what it is.
fn adjust(before: &mut [Arg<'_>], number: i64) -> Attempt {
    let mut state = vec![0_u8; 256];
    call(libc::SYS_adjtimex, &mut [Arg::Out(&mut state)])?;
    state[..4].copy_from_slice(&0x4000_u32.to_ne_bytes()); // ADJ_TICK, and its value as just read
    match before {
        [Arg::Int(clock)] => attempt(number, &mut [Arg::Int(*clock), Arg::Out(&mut state)]),
        _ => attempt(number, &mut [Arg::Out(&mut state)]),
    }
}

/// Asks to turn quotas on for a file system that is none.
fn quotactl(_: &[String]) -> Attempt {
    attempt(
        libc::SYS_quotactl,
        &mut [Arg::Int(0x0080_0002 << 8), Arg::Text(c"/no-such-file"), Arg::Int(0), Arg::Null],
    )
}

/// In a session of its own, so that no terminal is lost.
fn vhangup(_: &[String]) -> Attempt {
    let _ = call(libc::SYS_setsid, &mut []);
    attempt(libc::SYS_vhangup, &mut [])
}
