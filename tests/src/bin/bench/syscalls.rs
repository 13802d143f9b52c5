//! What the sandbox costs a system call: one program, on one CPU, inside a capsule and outside, by turns.
//!
//! And outside behind the smallest seccomp filter there can be, which allows everything in one instruction: what
//! that adds is the price of having any filter on this machine, and no content of ours makes it less.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::contenders::Contenders;
use crate::inside::{Inside, Outside, Place};
use crate::nodes::Node;
use crate::progress::Progress;
use crate::report::Report;
use crate::stats::{Samples, as_f64};
use crate::{Failure, Wishes};

/// The mode in which this program is the actor, in a capsule or outside.
pub const ACTOR: &str = "syscalls";

/// Percent that the sandbox may add to getppid and read.
const ADDED: f64 = 5.0;

/// The file that is opened: at the same place inside and outside, on every Debian system.
const FILE: &str = "/usr/lib/os-release";

/// Runs of one call in a row, timed together; and how many such rows a run has.
const CALLS: u32 = 5_000;
const ROWS: u32 = 60;

/// The actor's wish for the smallest filter.
const FILTERED: &str = "filtered";

/// Nanoseconds a call.
#[derive(Debug, Serialize, Deserialize)]
struct Costs {
    pinned: bool,
    getppid: f64,
    read: f64,
    open_read_close: f64,
    stat: f64,
}

/// One of the costs.
type Of = fn(&Costs) -> f64;

/// The actor: prints what each call costs here.
pub fn act(mut args: impl Iterator<Item = String>) -> ExitCode {
    let file = args.next().unwrap_or_else(|| FILE.to_owned());
    let calls = args.next().and_then(|calls| calls.parse().ok()).unwrap_or(CALLS);
    let filtered = args.next().is_none_or(|mode| mode != FILTERED || allow_everything().is_ok());
    if !filtered {
        eprintln!("{ACTOR}: no seccomp filter here: {}", std::io::Error::last_os_error());
        return ExitCode::FAILURE;
    }
    match costs(&file, calls).and_then(|costs| Ok(serde_json::to_string(&costs)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{ACTOR}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn costs(file: &str, calls: u32) -> Result<Costs, Failure> {
    let pinned = pin_to_last_cpu();
    let path = CString::new(file)?;
    let opened = File::open(file)?;
    let mut buffer = [0_u8; 4096];
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: getppid has no preconditions.
    let getppid = cost(calls, || unsafe { libc::syscall(libc::SYS_getppid) } > 0)?;
    // SAFETY: the buffer is ours and as long as is said.
    let read =
        cost(calls, || unsafe { libc::pread(opened.as_raw_fd(), buffer.as_mut_ptr().cast(), 64, 0) } == 64)?;
    // SAFETY: the path is a C string, the structure ours.
    let stat = cost(calls, || unsafe { libc::stat(path.as_ptr(), stat.as_mut_ptr()) } == 0)?;
    let open_read_close = cost(calls / 2, || {
        // SAFETY: the path is a C string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        // SAFETY: the buffer is ours and as long as is said; a descriptor that is none is an error.
        let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        // SAFETY: the descriptor was opened above and is nobody else's.
        read > 0 && unsafe { libc::close(fd) } == 0
    })?;
    Ok(Costs { pinned, getppid, read, open_read_close, stat })
}

/// The median row: one that was interrupted does not count.
fn cost(calls: u32, mut call: impl FnMut() -> bool) -> Result<f64, Failure> {
    let mut rows = Samples::default();
    for _ in 0..ROWS {
        let begun = Instant::now();
        let mut good = true;
        for _ in 0..calls {
            good &= call();
        }
        let took = begun.elapsed();
        if !good {
            return Err(std::io::Error::last_os_error().into());
        }
        rows.push(took.as_secs_f64() * 1e9 / f64::from(calls));
    }
    Ok(rows.median())
}

/// See seccomp(2).
fn allow_everything() -> std::io::Result<()> {
    // BPF_RET | BPF_K
    let mut filter = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: the program is valid, and the kernel copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn pin_to_last_cpu() -> bool {
    let mut set = rustix::thread::CpuSet::new();
    set.set(std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1));
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

/// Measures and reports.
pub fn measure(
    wishes: &Wishes,
    _: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    progress.step("system calls inside and outside: starting a node");
    let node = Node::start("syscalls")?;
    let measured = compare(&node, wishes, progress, report);
    node.finish();
    measured
}

fn compare(node: &Node, wishes: &Wishes, progress: &Progress, report: &mut Report) -> Result<(), Failure> {
    node.test.define("bench_calls", "");
    let mut inside = Inside::install(node, "bench_calls")?;
    let mut outside = Outside::install(node)?;
    let calls = wishes.count(5_000, 500).to_string();
    let words = [ACTOR, FILE, &calls];
    let rounds = wishes.count(16, 4);
    let mut pairs = Vec::with_capacity(rounds);
    let mut filtered = Vec::with_capacity(rounds);
    for round in 0..rounds {
        progress.at("system calls inside and outside, by turns", round, rounds);
        // Neither always comes after the other.
        pairs.push(if round.is_multiple_of(2) {
            let first = run(&mut inside, &words)?;
            (first, run(&mut outside, &words)?)
        } else {
            let first = run(&mut outside, &words)?;
            (run(&mut inside, &words)?, first)
        });
        filtered.push(run(&mut outside, &[ACTOR, FILE, &calls, FILTERED])?);
    }
    let calls: [(&str, Of, bool); 4] = [
        ("getppid", |costs| costs.getppid, true),
        ("read", |costs| costs.read, true),
        ("open, read, close", |costs| costs.open_read_close, false),
        ("stat", |costs| costs.stat, false),
    ];
    for (what, of, judged) in calls {
        let within: Samples = pairs.iter().map(|(inside, _)| of(inside)).collect();
        let without: Samples = pairs.iter().map(|(_, outside)| of(outside)).collect();
        let smallest: Samples = filtered.iter().map(of).collect();
        // Round by round: a machine that slows down for a while slows both of a pair.
        let percent = |ours: f64, theirs: f64| (ours / theirs - 1.0) * 100.0;
        let added: Samples = pairs.iter().map(|(inside, outside)| percent(of(inside), of(outside))).collect();
        let over: Samples = pairs
            .iter()
            .zip(&filtered)
            .map(|((inside, _), smallest)| percent(of(inside), of(smallest)))
            .collect();
        let row = report
            .row(&format!("{what} in a capsule"))
            .ours(format!("{:.0} ns", within.median()))
            .peer(format!("outside {:.0} ns", without.median()))
            .percent(added.median());
        if judged {
            row.at_most("5 %".to_owned(), (added.median() / ADDED).max(0.0)).add();
            report
                .row("  over a filter of one \"allow\"")
                .ours(format!("{:.0} ns", within.median()))
                .peer(format!("filter {:.0} ns", smallest.median()))
                .percent(over.median())
                .add();
        } else {
            row.add();
        }
        let key = what.replace(", ", "_");
        report.samples(&format!("syscall_{key}_inside_ns"), &within);
        report.samples(&format!("syscall_{key}_outside_ns"), &without);
        report.samples(&format!("syscall_{key}_smallest_filter_ns"), &smallest);
        report.samples(&format!("syscall_{key}_added_percent"), &added);
    }
    let pinned = pairs.iter().filter(|(inside, outside)| inside.pinned && outside.pinned).count();
    report.value("syscall_rounds_pinned_share", as_f64(pinned) / as_f64(pairs.len()));
    Ok(())
}

fn run(place: &mut impl Place, words: &[&str]) -> Result<Costs, Failure> {
    let actor = place.actor();
    let argv: Vec<&str> = [actor.as_str()].into_iter().chain(words.iter().copied()).collect();
    Ok(serde_json::from_str(&place.run(&argv)?)?)
}
