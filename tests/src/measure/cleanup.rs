//! An end that leaves nothing, also when a measurement is interrupted or panics: a release build aborts on a panic, so
//! no destructor runs then.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use crate::{binary, leftovers};

/// A drain of a thousand capsules, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lines of a node's log that a panic shows.
const LOG_LINES: usize = 40;

/// Where the handler writes to.
static TOLD: OnceLock<OwnedFd> = OnceLock::new();

static ROOTS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Goes on unless the program was interrupted: then the node is being taken down under the caller, what it would measure
/// or say now is worth nothing, and this does not return.
pub fn check() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Directories of the program's own.
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on this directory is removed when the program is interrupted.
pub fn remember_scratch(directory: &Path) {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).push(directory.to_owned());
}

/// From now on the node at this root is ended with the program.
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
        show_logs();
        end_all(true);
    }));
    let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC) else { return };
    if TOLD.set(write).is_err() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        catch(signal);
    }
    std::thread::spawn(move || {
        let mut told = [0; 2];
        if File::from(read).read_exact(&mut told).is_ok() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted; taking the node down");
            // What a terminal sends, it sends to plabd as well, and plabd takes a second signal as impatience.
            end_all(told[1] == 0);
            std::process::exit(128 + i32::from(told[0]));
        }
    });
}

/// What the nodes said last, which goes with them and may tell why there was a panic.
fn show_logs() {
    for root in ROOTS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let log = std::fs::read_to_string(root.join("plabd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("plabd's log ends:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
    }
}

/// With a handler, not by blocking: programs that are started inherit a blocked signal, and plabd ends by one.
fn catch(signal: libc::c_int) {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = tell;
    // SAFETY: sigaction is plain data, for which zeroes are a value: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the action is initialised, and its handler does nothing that a handler may not.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// The handler: passes on which signal it was and whether the terminal sent it.
extern "C" fn tell(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler of this kind a valid pointer.
    let from_terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    if let (Some(pipe), Ok(signal)) = (TOLD.get(), u8::try_from(signal)) {
        // write(2) may be called here. A pipe that is full has told already.
        rustix::io::write(pipe, &[signal, u8::from(from_terminal)]).ok();
    }
}

fn end_all(tell: bool) {
    for directory in std::mem::take(&mut *SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)) {
        std::fs::remove_dir_all(directory).ok();
    }
    let roots = std::mem::take(&mut *ROOTS.lock().unwrap_or_else(PoisonError::into_inner));
    for root in roots {
        end(&root, tell);
        // A node that has capsules and no plabd: a last plabd puts things in order.
        if !leftovers::of_node(&root, 0..=0).iter().all(|left| left.starts_with("process")) {
            let log = || {
                File::options()
                    .append(true)
                    .open(root.join("plabd.log"))
                    .map_or_else(|_| Stdio::null(), Stdio::from)
            };
            let last = Command::new(binary("plabd"))
                .args(["--drain-on-exit", "--root"])
                .arg(&root)
                .stderr(log())
                .spawn();
            if last.is_ok() {
                wait_until(|| {
                    std::os::unix::net::UnixStream::connect(root.join("run/planetlab/control.sock")).is_ok()
                });
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
        .filter(|pid| {
            std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| of_root(&line))
        })
        .collect()
}
