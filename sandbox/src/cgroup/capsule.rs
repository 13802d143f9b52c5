//! One capsule's control group.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::knobs::{self, read_small, write_small};
use super::limits::{InForce, Limits};
use super::tree::{CgroupTree, Controller, ControllerVersion};
use crate::error::{KernelError, Tried};

/// A capsule's directories, one in each hierarchy in use, open.
#[derive(Debug)]
pub struct CapsuleCgroup {
    name: String,
    unified: OwnedFd,
    v1: [Option<OwnedFd>; 3],
    /// Where each directory is, for messages.
    unified_path: String,
    v1_paths: [String; 3],
}

/// What a capsule uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Microseconds of CPU time.
    pub cpu_micros: u64,
    /// Bytes.
    pub memory: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Times that a process was killed for want of memory.
    pub oom_kills: u64,
}

impl CgroupTree {
    /// Makes the capsule's directories, or takes over what a crash left there.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn create(&self, name: &str) -> Result<CapsuleCgroup, KernelError> {
        let unified = self.unified.make_child(name)?;
        let mut v1 = [None, None, None];
        for (slot, base) in v1.iter_mut().zip(&self.v1) {
            if let Some(base) = base {
                *slot = Some(base.make_child(name)?);
            }
        }
        Ok(self.capsule(name, unified, v1))
    }

    /// Opens the capsule's directories; none if they are not all there.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn capsule_cgroup(&self, name: &str) -> Result<Option<CapsuleCgroup>, KernelError> {
        let Some(unified) = self.unified.child(name)? else { return Ok(None) };
        let mut v1 = [None, None, None];
        for (slot, base) in v1.iter_mut().zip(&self.v1) {
            if let Some(base) = base {
                let Some(fd) = base.child(name)? else { return Ok(None) };
                *slot = Some(fd);
            }
        }
        Ok(Some(self.capsule(name, unified, v1)))
    }

    fn capsule(&self, name: &str, unified: OwnedFd, v1: [Option<OwnedFd>; 3]) -> CapsuleCgroup {
        let path = |base: &super::tree::Base| base.path.join(name).display().to_string();
        CapsuleCgroup {
            name: name.to_owned(),
            unified,
            v1,
            unified_path: path(&self.unified),
            v1_paths: [0, 1, 2].map(|i| self.v1[i].as_ref().map(path).unwrap_or_default()),
        }
    }

    /// Kills whatever is in the capsule's directories, wherever it is; fine if there is nothing.
    ///
    /// # Errors
    /// The kernel refused the kill.
    pub fn kill(&self, name: &str) -> Result<(), KernelError> {
        match self.unified.child(name)? {
            Some(dir) => write_small(dir.as_fd(), "cgroup.kill", "1")
                .tried("kill every process", self.unified.path.join(name).display()),
            None => Ok(()),
        }
    }

    /// Removes the capsule's directories. `Ok(false)` while a process is still leaving.
    ///
    /// # Errors
    /// The kernel refused for another reason than that.
    pub fn remove_capsule(&self, name: &str) -> Result<bool, KernelError> {
        for base in self.bases() {
            match base.remove_child(name) {
                Ok(()) => {}
                Err(Errno::BUSY) => return Ok(false),
                Err(error) => return Err(KernelError::new("remove", base.path.join(name).display(), error)),
            }
        }
        Ok(true)
    }

    /// Opens the capsule's `cgroup.events`, which polls with `POLLPRI` when `populated` or `frozen` changes;
    /// none if the directory is gone.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn events_file(&self, name: &str) -> Result<Option<OwnedFd>, KernelError> {
        let Some(dir) = self.unified.child(name)? else { return Ok(None) };
        openat(&dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map(Some)
            .tried("open cgroup.events", self.unified.path.join(name).display())
    }

    /// The processes in the capsule's v2 directory; none if there is no such directory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn processes(&self, name: &str) -> Result<Vec<u32>, KernelError> {
        let path = self.unified.path.join(name).join("cgroup.procs");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(KernelError::new("read", path.display(), error)),
        }
    }

    /// Whether any process is in the capsule's v2 directory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn populated(&self, name: &str) -> Result<bool, KernelError> {
        let Some(dir) = self.unified.child(name)? else { return Ok(false) };
        let text = read_small(dir.as_fd(), "cgroup.events")
            .tried("read cgroup.events", self.unified.path.join(name).display())?;
        Ok(text.lines().any(|line| line == "populated 1"))
    }
}

impl CapsuleCgroup {
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub fn unified(&self) -> BorrowedFd<'_> {
        self.unified.as_fd()
    }

    /// The kernel's ID of the v2 cgroup.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub fn id(&self) -> Result<u64, KernelError> {
        super::tree::id(&self.unified, std::path::Path::new(&self.unified_path))
    }

    /// Opens `tasks` of every v1 hierarchy in use; a thread that writes `0` joins.
    ///
    /// Not `cgroup.procs`: that moves a whole process, for which the kernel stops every fork on the machine and
    /// waits for an RCU grace period (some 7 ms for three hierarchies, against 0.07 ms). A child that has not
    /// executed yet has one thread, and moving oneself alone takes no such lock.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn v1_tasks(&self) -> Result<Vec<OwnedFd>, KernelError> {
        let mut files = Vec::with_capacity(3);
        for (dir, path) in self.v1.iter().zip(&self.v1_paths) {
            if let Some(dir) = dir {
                files.push(
                    openat(dir, "tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                        .tried("open tasks", path)?,
                );
            }
        }
        Ok(files)
    }

    pub(super) fn dir(&self, controller: Controller) -> (BorrowedFd<'_>, &str) {
        match &self.v1[controller as usize] {
            Some(dir) => (dir.as_fd(), &self.v1_paths[controller as usize]),
            None => (self.unified.as_fd(), &self.unified_path),
        }
    }

    pub(super) fn version(&self, controller: Controller) -> ControllerVersion {
        match self.v1[controller as usize] {
            Some(_) => ControllerVersion::V1,
            None => ControllerVersion::V2,
        }
    }

    fn knobs(&self, limits: &Limits) -> Vec<knobs::Knob> {
        let memory_now = match self.version(Controller::Memory) {
            ControllerVersion::V2 => None,
            ControllerVersion::V1 => self.number(Controller::Memory, "memory.limit_in_bytes"),
        };
        knobs::for_limits(limits, |controller| self.version(controller), memory_now)
    }

    /// Writes every limit and reads each back.
    ///
    /// # Errors
    /// A limit that the kernel refused, or that it does not show as asked.
    pub fn set(&self, limits: &Limits) -> Result<(), KernelError> {
        self.make_room(limits.memory_max)?;
        let knobs = self.knobs(limits);
        for knob in &knobs {
            let (dir, path) = self.dir(knob.controller);
            knob.write(dir, path)?;
        }
        for knob in &knobs {
            let (dir, path) = self.dir(knob.controller);
            if let Some(row) = knob.read_back(dir, path)?
                && !row.ok
            {
                let message = format!("asked {}, in force {}", row.asked, row.in_force);
                return Err(KernelError::new(
                    format!("set {}", row.what),
                    row.source,
                    std::io::Error::other(message),
                ));
            }
        }
        Ok(())
    }

    /// Reads every limit back.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn verify(&self, limits: &Limits) -> Result<Vec<InForce>, KernelError> {
        let mut rows = Vec::new();
        for knob in self.knobs(limits) {
            let (dir, path) = self.dir(knob.controller);
            rows.extend(knob.read_back(dir, path)?);
        }
        Ok(rows)
    }

    /// Kills every process here at once; no process can escape it by forking.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&self) -> Result<(), KernelError> {
        write_small(self.unified.as_fd(), "cgroup.kill", "1").tried("kill every process", &self.unified_path)
    }

    /// Asks the kernel to freeze or thaw every process here. It is done when `cgroup.events` says so.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn freeze(&self, frozen: bool) -> Result<(), KernelError> {
        write_small(self.unified.as_fd(), "cgroup.freeze", if frozen { "1" } else { "0" })
            .tried(if frozen { "freeze" } else { "thaw" }, &self.unified_path)
    }

    /// Whether a freeze was asked for (`cgroup.freeze`) and whether it is complete (`cgroup.events`).
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn frozen(&self) -> Result<(bool, bool), KernelError> {
        let asked = read_small(self.unified.as_fd(), "cgroup.freeze")
            .tried("read cgroup.freeze", &self.unified_path)?;
        let events = read_small(self.unified.as_fd(), "cgroup.events")
            .tried("read cgroup.events", &self.unified_path)?;
        Ok((asked.trim() == "1", events.lines().any(|line| line == "frozen 1")))
    }

    /// Whether any process is here.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn populated(&self) -> Result<bool, KernelError> {
        let events = read_small(self.unified.as_fd(), "cgroup.events")
            .tried("read cgroup.events", &self.unified_path)?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }

    /// What the capsule uses now; what cannot be read counts as 0.
    pub fn usage(&self) -> Usage {
        let stat = read_small(self.unified.as_fd(), "cpu.stat").unwrap_or_default();
        let (memory, oom) = match self.version(Controller::Memory) {
            ControllerVersion::V1 => ("memory.usage_in_bytes", "memory.oom_control"),
            ControllerVersion::V2 => ("memory.current", "memory.events"),
        };
        let (dir, _) = self.dir(Controller::Memory);
        let oom = read_small(dir, oom).unwrap_or_default();
        Usage {
            cpu_micros: line_value(&stat, "usage_usec").unwrap_or(0),
            memory: self.number(Controller::Memory, memory).unwrap_or(0),
            tasks: self.number(Controller::Pids, "pids.current").unwrap_or(0),
            oom_kills: line_value(&oom, "oom_kill").unwrap_or(0),
        }
    }

    /// On v1, an eventfd that becomes readable when the capsule is out of memory: v1's killer ends one process
    /// at a time, so the rest of the group is ended by whoever holds this. None on v2, where the kernel does it
    /// (`memory.oom.group`).
    ///
    /// # Errors
    /// The kernel refused the registration.
    pub fn oom_event(&self) -> Result<Option<OwnedFd>, KernelError> {
        let Some(dir) = &self.v1[Controller::Memory as usize] else { return Ok(None) };
        let on = format!("{}/memory.oom_control", self.v1_paths[Controller::Memory as usize]);
        let event = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .tried("make an eventfd for", &on)?;
        let control = openat(dir, "memory.oom_control", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .tried("open", &on)?;
        let line = format!("{} {}", raw(&event), raw(&control));
        write_small(dir.as_fd(), "cgroup.event_control", &line)
            .tried("register for out-of-memory events", &on)?;
        Ok(Some(event))
    }

    /// The capsule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn number(&self, controller: Controller, file: &str) -> Option<u64> {
        read_small(self.dir(controller).0, file).ok()?.trim().parse().ok()
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn line_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::line_value;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom 3\noom_kill_disable 0\noom_kill 7\n";
        assert_eq!(line_value(text, "oom_kill"), Some(7));
        assert_eq!(line_value(text, "oom_k"), None);
    }
}
