//! The files a limit is written to, on v1 and v2, and how what they say compares with what was written.
//!
//! Not with `cgroups-rs`: it drops the error of several setters, maps weights with v1's formula on v2, and
//! resolves the hierarchy by path at every call; reading each file back would have been ours anyway.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::limits::{InForce, Limits};
use super::tree::{Controller, ControllerVersion};
use crate::error::{KernelError, Tried};

/// cgroup v1's and v2's default period of CPU bandwidth control, in microseconds.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// One file to write and what to write into it.
pub(super) struct Knob {
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// The limit's name in cgroup v2's terms.
    what: &'static str,
    compare: Compare,
    /// A file that some kernels lack; the caller decides beforehand whether it must be there.
    optional: bool,
}

enum Compare {
    Exact,
    /// The kernel rounds bytes down to whole pages.
    Pages(u64),
    /// `oom_kill_disable` and the like: only this line of the file counts.
    Line(&'static str),
}

impl Knob {
    fn exact(controller: Controller, what: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self { controller, file, value: value.to_string(), what, compare: Compare::Exact, optional: false }
    }

    fn bytes(controller: Controller, what: &'static str, file: &'static str, bytes: u64) -> Self {
        Self {
            controller,
            file,
            value: bytes.to_string(),
            what,
            compare: Compare::Pages(bytes),
            optional: false,
        }
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) fn write(&self, dir: BorrowedFd<'_>, place: &str) -> Result<(), KernelError> {
        let tried = || format!("set {} to {}", self.what, self.value.trim());
        let on = || format!("{place}/{}", self.file);
        let fd = match openat(dir, self.file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) if self.optional => return Ok(()),
            other => other.map_err(|error| {
                KernelError::new(tried(), on(), error)
                    .hint("`plab check` names the controllers this kernel has")
            })?,
        };
        // One write(2): cgroup files take a value whole or not at all.
        match rustix::io::write(&fd, self.value.as_bytes()) {
            Ok(n) if n == self.value.len() => Ok(()),
            Ok(_) => Err(KernelError::new(tried(), on(), std::io::Error::other("short write"))),
            Err(rustix::io::Errno::BUSY) => Err(KernelError::new(tried(), on(), rustix::io::Errno::BUSY)
                .hint("the capsule uses more than the new limit and the kernel could not reclaim the rest")),
            Err(error) => Err(KernelError::new(tried(), on(), error)),
        }
    }

    pub(super) fn read_back(&self, dir: BorrowedFd<'_>, place: &str) -> Result<Option<InForce>, KernelError> {
        let source = format!("{place}/{}", self.file);
        let text = match read_small(dir, self.file) {
            Err(rustix::io::Errno::NOENT) if self.optional => return Ok(None),
            other => other.tried("read back", &source)?,
        };
        let text = text.trim();
        let in_force = match self.compare {
            Compare::Line(key) => text
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map_or_else(String::new, |value| value.trim().to_owned()),
            _ => text.to_owned(),
        };
        let ok = match self.compare {
            Compare::Pages(asked) => {
                let page = rustix::param::page_size() as u64;
                in_force.parse::<u64>().is_ok_and(|bytes| bytes == asked / page * page)
            }
            Compare::Exact | Compare::Line(_) => in_force == self.value.trim(),
        };
        Ok(Some(InForce { what: self.what, asked: self.value.clone(), in_force, ok, source }))
    }
}

/// Reads a cgroup file, at most one page of it.
pub(super) fn read_small(dir: BorrowedFd<'_>, file: &str) -> Result<String, rustix::io::Errno> {
    let fd = openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0; 4096];
    let n = rustix::io::read(&fd, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

pub(super) fn write_small(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), rustix::io::Errno> {
    let fd = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&fd, value.as_bytes()).map(drop)
}

/// The knobs for `limits`, in an order in which each can be written.
///
/// `memory_now` is the v1 limit in force: memory plus swap may never be below memory, so a rising limit
/// raises memory plus swap first, and a falling one lowers it last.
pub(super) fn for_limits(
    limits: &Limits,
    version: impl Fn(Controller) -> ControllerVersion,
    memory_now: Option<u64>,
) -> Vec<Knob> {
    let mut knobs = Vec::with_capacity(8);
    match version(Controller::Cpu) {
        ControllerVersion::V2 => {
            knobs.push(Knob::exact(Controller::Cpu, "cpu.weight", "cpu.weight", limits.cpu_weight));
            let quota = limits.cpu_max_micros.map_or_else(|| "max".to_owned(), |micros| micros.to_string());
            knobs.push(Knob::exact(
                Controller::Cpu,
                "cpu.max",
                "cpu.max",
                format!("{quota} {CPU_PERIOD_MICROS}"),
            ));
        }
        ControllerVersion::V1 => {
            knobs.push(Knob::exact(
                Controller::Cpu,
                "cpu.weight",
                "cpu.shares",
                v1_shares(limits.cpu_weight),
            ));
            knobs.push(Knob::exact(
                Controller::Cpu,
                "cpu.max period",
                "cpu.cfs_period_us",
                CPU_PERIOD_MICROS,
            ));
            let quota = limits.cpu_max_micros.map_or_else(|| "-1".to_owned(), |micros| micros.to_string());
            knobs.push(Knob::exact(Controller::Cpu, "cpu.max", "cpu.cfs_quota_us", quota));
        }
    }
    match version(Controller::Memory) {
        ControllerVersion::V2 => {
            let swap = Knob::exact(Controller::Memory, "memory.swap.max", "memory.swap.max", 0).optional();
            knobs.push(swap);
            knobs.push(Knob::exact(Controller::Memory, "memory.oom.group", "memory.oom.group", 1));
            knobs.push(match limits.memory_high {
                Some(bytes) => Knob::bytes(Controller::Memory, "memory.high", "memory.high", bytes),
                None => Knob::exact(Controller::Memory, "memory.high", "memory.high", "max"),
            });
            knobs.push(Knob::bytes(Controller::Memory, "memory.max", "memory.max", limits.memory_max));
        }
        ControllerVersion::V1 => {
            let memory =
                Knob::bytes(Controller::Memory, "memory.max", "memory.limit_in_bytes", limits.memory_max);
            // The same number for memory plus swap leaves no swap at all.
            let total = Knob::bytes(
                Controller::Memory,
                "memory.swap.max",
                "memory.memsw.limit_in_bytes",
                limits.memory_max,
            )
            .optional();
            if memory_now.is_none_or(|now| limits.memory_max >= now) {
                knobs.extend([total, memory]);
            } else {
                knobs.extend([memory, total]);
            }
            // Without this v1 charges no socket buffers to anybody: they would be a way round the limit.
            let sockets = Knob::bytes(
                Controller::Memory,
                "memory of sockets",
                "memory.kmem.tcp.limit_in_bytes",
                limits.memory_max,
            );
            knobs.push(sockets.optional());
            knobs.push(Knob::exact(Controller::Memory, "memory.swappiness", "memory.swappiness", 0));
            let mut killer = Knob::exact(Controller::Memory, "memory.oom killer", "memory.oom_control", 0);
            killer.compare = Compare::Line("oom_kill_disable");
            knobs.push(killer);
        }
    }
    knobs.push(Knob::exact(Controller::Pids, "pids.max", "pids.max", limits.tasks_max));
    knobs
}

/// v1's `cpu.shares` for a v2 weight: 100 is 1,024, as systemd maps them.
fn v1_shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory_max: u64) -> Limits {
        Limits { cpu_weight: 100, cpu_max_micros: Some(50_000), memory_high: None, memory_max, tasks_max: 64 }
    }

    fn order(memory_max: u64, now: Option<u64>) -> Vec<&'static str> {
        for_limits(&limits(memory_max), |_| ControllerVersion::V1, now)
            .iter()
            .map(|knob| knob.file)
            .filter(|file| matches!(*file, "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes"))
            .collect()
    }

    #[test]
    fn memory_plus_swap_moves_first_when_rising_and_last_when_falling() {
        assert_eq!(order(200, Some(100)), ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]);
        assert_eq!(order(100, Some(200)), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]);
    }

    #[test]
    fn no_limit_is_written_too() {
        let free = Limits { cpu_max_micros: None, ..limits(1 << 20) };
        let v1 = for_limits(&free, |_| ControllerVersion::V1, None);
        assert!(v1.iter().any(|knob| knob.file == "cpu.cfs_quota_us" && knob.value == "-1"));
        let v2 = for_limits(&free, |_| ControllerVersion::V2, None);
        assert!(v2.iter().any(|knob| knob.file == "cpu.max" && knob.value == "max 100000"));
        assert!(v2.iter().any(|knob| knob.file == "memory.high" && knob.value == "max"));
        assert!(v2.iter().any(|knob| knob.file == "memory.swap.max" && knob.value == "0"));
    }

    #[test]
    fn weights_map_onto_shares() {
        assert_eq!([1, 100, 200, 10_000].map(v1_shares), [10, 1024, 2048, 102_400]);
    }
}
