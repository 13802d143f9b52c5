//! An end that leaves nothing, also when the bench is interrupted or panics: a release build aborts on a panic, so
//! no destructor runs then.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use plab_tests::{binary, leftovers};
use rustix::process::{Pid, Signal, kill_process};

/// A drain of a thousand capsules, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

static ROOTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on the node at this root is ended with the bench.
pub fn remember(root: &Path) {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner).push(root.to_owned());
}

/// The node at this root was ended in order.
pub fn forget(root: &Path) {
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| kept != root);
}

/// Catches panics and the signals that end a program.
pub fn arm() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        shown(info);
        end_all(true);
    }));
    let signals = ending_signals();
    // SAFETY: the set was initialised; no other thread runs yet, so all threads to come block the signals. Programs
    // that the standard library starts do not inherit that.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
    std::thread::spawn(move || {
        // SAFETY: siginfo_t is plain data, for which zeroes are a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let mut signal = -1;
        // Also interrupted by what is none of these signals.
        while signal < 0 {
            // SAFETY: set and info are ours and live through the call.
            signal = unsafe { libc::sigwaitinfo(&raw const signals, &raw mut info) };
        }
        eprintln!("\nbench: interrupted; taking the node down");
        // What a terminal sends, it sends to plabd as well, and plabd takes a second signal as impatience.
        end_all(info.si_code != libc::SI_KERNEL);
        std::process::exit(128 + signal);
    });
}

fn ending_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is ours to initialise.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: initialised above; the numbers are signals.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}

fn end_all(tell: bool) {
    let roots = std::mem::take(&mut *ROOTS.lock().unwrap_or_else(PoisonError::into_inner));
    for root in roots {
        end(&root, tell);
        // A node that has capsules and no plabd: a last plabd puts things in order.
        if !leftovers::of_node(&root, 0..=0).iter().all(|left| left.starts_with("process")) {
            let log = || std::fs::File::options().append(true).open(root.join("plabd.log")).map_or_else(|_| Stdio::null(), Stdio::from);
            let last = Command::new(binary("plabd")).args(["--drain-on-exit", "--root"]).arg(&root).stderr(log()).spawn();
            if last.is_ok() {
                wait_until(|| std::os::unix::net::UnixStream::connect(root.join("run/planetlab/control.sock")).is_ok());
                end(&root, true);
            }
        }
        std::fs::remove_dir_all(&root).ok();
    }
}

fn end(root: &Path, tell: bool) {
    if tell {
        for pid in daemons(root) {
            // One that has ended meanwhile is what is wanted.
            kill_process(pid, Signal::TERM).ok();
        }
    }
    wait_until(|| daemons(root).is_empty());
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The plabds of this root. One that has ended and was not waited for shows no command line any more.
fn daemons(root: &Path) -> Vec<Pid> {
    let root = root.to_string_lossy().into_owned();
    let of_root = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        words.first().is_some_and(|program| program.ends_with(b"/plabd")) && words.contains(&root.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| of_root(&line)))
        .collect()
}
