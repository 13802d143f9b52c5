//! A thousand capsules on one node: made, left alone, one of them changed, and found again by a new plabd.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plab_protocol::control::SliceState;
use plab_tests::binary;

use crate::client::{Events, status};
use crate::clock;
use crate::contenders::Contenders;
use crate::nodes::Node;
use crate::progress::Progress;
use crate::report::{Report, millis};
use crate::stats::Samples;
use crate::{Failure, Wishes};

/// Seconds for all of them.
const CREATED: f64 = 15.0;
/// Milliseconds from a changed file to the kernel's new limit, p99.
const CHANGED: f64 = 20.0;
/// MiB of plabd.
const RESIDENT: f64 = 32.0;
/// Percent of a core.
const IDLE: f64 = 0.2;
/// KiB of each capsule-init.
const PRIVATE: f64 = 400.0;
/// Milliseconds until a new plabd has them all.
const ADOPTED: f64 = 500.0;

/// Measures and reports.
pub fn measure(
    wishes: &Wishes,
    _: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    let count = wishes.count(1000, 50);
    progress.step(&format!("{count} capsules: starting a node"));
    let mut node = Node::start("thousand")?;
    let mut part = Part { wishes, progress, report, count };
    let measured = part.all(&mut node);
    progress.step(&format!("{count} capsules: taking the node down"));
    let begun = Instant::now();
    node.finish();
    if measured.is_ok() {
        report.value("thousand_drained_seconds", begun.elapsed().as_secs_f64());
    }
    measured
}

struct Part<'a> {
    wishes: &'a Wishes,
    progress: &'a Progress,
    report: &'a mut Report,
    count: usize,
}

impl Part<'_> {
    fn all(&mut self, node: &mut Node) -> Result<(), Failure> {
        self.create(node)?;
        self.rest(node)?;
        self.change(node)?;
        self.restart(node)
    }

    /// A row with a target that holds for a thousand; in a smoke run it is shown only.
    fn row(&mut self, what: &str, ours: String, target: &str, used: f64) {
        let row = self.report.row(what).ours(ours);
        if self.wishes.quick { row.add() } else { row.at_most(target.to_owned(), used).add() }
    }

    fn create(&mut self, node: &Node) -> Result<(), Failure> {
        let slices: Vec<String> = (0..self.count).map(name).collect();
        for slice in &slices {
            node.stage(slice, "")?;
        }
        let mut events = Events::follow(&node.socket())?;
        let begun = clock::now();
        for slice in &slices {
            node.define(slice)?;
        }
        let mut seconds = 0.0;
        for number in 0..self.count {
            self.progress.at("capsules made", number, self.count);
            let event = events.next_of("capsule-started")?;
            let at = clock::parse(&event.time).ok_or_else(|| format!("{} is no time", event.time))?;
            seconds = clock::millis_between(begun, at) / 1e3;
        }
        self.row(
            &format!("{} capsules made at once", self.count),
            format!("{seconds:.1} s"),
            "15 s",
            seconds / CREATED,
        );
        self.report.value("thousand_created_seconds", seconds);
        Ok(())
    }

    /// Memory and CPU time while nothing happens.
    fn rest(&mut self, node: &Node) -> Result<(), Failure> {
        self.progress.step(&format!("{} capsules left alone", self.count));
        let pids: Vec<u32> = status(&node.socket())?.slices.iter().filter_map(|slice| slice.pid).collect();
        std::thread::sleep(Duration::from_secs(3));
        let daemon = node.test.daemon_pid();
        let quiet = Duration::from_secs(if self.wishes.quick { 2 } else { 10 });
        let (before, begun) = (cpu_time(daemon)?, Instant::now());
        std::thread::sleep(quiet);
        let used = cpu_time(daemon)?.saturating_sub(before);
        let percent = used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
        let resident = kib_of(&format!("/proc/{daemon}/status"), &["VmRSS:"])? / 1024.0;
        let private: Samples = pids
            .iter()
            .map(|pid| kib_of(&format!("/proc/{pid}/smaps_rollup"), &["Private_Clean:", "Private_Dirty:"]))
            .collect::<Result<_, _>>()?;
        self.row("  plabd: resident memory", format!("{resident:.1} MiB"), "32 MiB", resident / RESIDENT);
        self.row("  plabd: CPU when idle", format!("{percent:.3} %"), "0.2 %", percent / IDLE);
        self.row(
            "  capsule-init: private, each",
            format!("{:.0} KiB", private.median()),
            "400 KiB",
            private.median() / PRIVATE,
        );
        self.report.value("thousand_plabd_resident_mib", resident);
        self.report.value("thousand_plabd_idle_cpu_percent", percent);
        self.report.samples("thousand_init_private_kib", &private);
        Ok(())
    }

    /// One definition changed, to the kernel's word that it is in force.
    fn change(&mut self, node: &Node) -> Result<(), Failure> {
        let changes = self.wishes.count(200, 20);
        let mut samples = Samples::default();
        for number in 0..changes {
            self.progress.at("one definition changed", number, changes);
            // All over the node, and never the limit that the last run left.
            let slice = name(number * 37 % self.count);
            let mebibytes = 100 + number as u64 % 100;
            node.stage(&slice, &format!("[memory]\nmax = \"{mebibytes}M\""))?;
            let limit = File::open(node.memory_max(&slice)?)?;
            let begun = Instant::now();
            node.define(&slice)?;
            await_value(&limit, mebibytes << 20)?;
            samples.push(begun.elapsed().as_secs_f64() * 1e3);
            // What plabd does about it afterwards is no part of the next change.
            std::thread::sleep(Duration::from_millis(10));
        }
        let p99 = samples.percentile(99.0);
        self.row("  one definition changed, p99", millis(p99), "20 ms", p99 / CHANGED);
        self.report.row("    p50").ours(millis(samples.median())).add();
        self.report.samples("thousand_change_ms", &samples);
        Ok(())
    }

    /// plabd killed, and a new one started: until it has every capsule again, and answers.
    fn restart(&mut self, node: &mut Node) -> Result<(), Failure> {
        node.test.kill_daemon();
        let mut adopted = Samples::default();
        let mut answered = Samples::default();
        let runs = self.wishes.count(7, 2);
        for number in 0..runs {
            self.progress.at("plabd killed and started", number, runs);
            let (ready, running) = restarted(node, self.count)?;
            adopted.push(ready);
            answered.push(running);
        }
        // The harness has its own again, to end it.
        node.test.start_daemon();
        self.row(
            "  plabd restarted, all adopted",
            millis(adopted.median()),
            "500 ms",
            adopted.median() / ADOPTED,
        );
        self.report.row("    and the status answered").ours(millis(answered.median())).add();
        self.report.samples("thousand_adopted_ms", &adopted);
        self.report.samples("thousand_restart_to_status_ms", &answered);
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("site{}_sl{}", number % 10, number / 10)
}

/// Milliseconds from the start of a plabd to its word that it has everything, and to a status that shows it.
/// It is killed afterwards.
fn restarted(node: &Node, count: usize) -> Result<(f64, f64), Failure> {
    let log = File::options().append(true).create(true).open(node.test.root().join("plabd.log"))?;
    let begun = Instant::now();
    let mut daemon = Command::new(binary("plabd"))
        .args(["--drain-on-exit", "--root"])
        .arg(node.test.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let measured = until_adopted(&node.socket(), count, begun);
    // Killed, not ended: it would take the capsules along.
    kill(&mut daemon)?;
    measured
}

fn kill(daemon: &mut Child) -> Result<(), Failure> {
    daemon.kill()?;
    daemon.wait()?;
    Ok(())
}

fn until_adopted(socket: &Path, count: usize, begun: Instant) -> Result<(f64, f64), Failure> {
    let elapsed = || begun.elapsed().as_secs_f64() * 1e3;
    let patience = Duration::from_secs(60);
    // The killed plabd's socket is still there, and refuses.
    let (mut events, kept) = loop {
        match Events::follow_from(socket, 0) {
            Ok(following) => break following,
            Err(error) if begun.elapsed() > patience => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let last_start = kept.iter().rposition(|event| event.kind == "plabd-started").unwrap_or(0);
    if !kept[last_start..].iter().any(|event| event.kind == "plabd-ready") {
        events.next_of("plabd-ready")?;
    }
    let ready = elapsed();
    loop {
        let running =
            status(socket)?.slices.iter().filter(|slice| slice.state == SliceState::Running).count();
        if running == count {
            return Ok((ready, elapsed()));
        }
        if begun.elapsed() > patience {
            return Err(format!("{running} of {count} capsules run after the restart").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks often enough to be exact to a fraction of what is measured, and leaves the CPU to plabd in between.
fn await_value(file: &File, wanted: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut buffer = [0; 64];
    loop {
        let n = file.read_at(&mut buffer, 0)?;
        let now: Option<u64> = std::str::from_utf8(&buffer[..n])?.trim().parse().ok();
        if now == Some(wanted) {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(format!("a changed memory.max never took effect: {now:?} and not {wanted}").into());
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// CPU time of a process by its own clock: to the nanosecond, and with its threads that have ended.
fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let mut clock = 0;
    // SAFETY: the clock's number is ours to write to.
    let error = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid)?, &raw mut clock) };
    if error != 0 {
        return Err(std::io::Error::from_raw_os_error(error).into());
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is ours to write to.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// The sum of these lines of a file of /proc that counts in KiB.
fn kib_of(file: &str, keys: &[&str]) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let value = |line: &str| -> Option<f64> {
        let key = keys.iter().find(|key| line.starts_with(**key))?;
        line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
    };
    Ok(text.lines().filter_map(value).sum())
}
