//! The process that keeps a systemd unit alive, and with it the cgroup in which capsules live.
//!
//! A unit without a process loses its cgroup, and a process of plabd's own would tie the cgroup to plabd. So one small
//! process stands in a leaf of it, for as long as the machine runs, and does nothing until it is told to end.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::io::Errno;

use super::mounts::{mounts, offered, unified};
use super::place::{delegated, enable, marked, read, write};
use crate::error::{KernelError, Tried};

/// The leaf in which the holder stands.
const LEAF: &str = "holder";

/// A cgroup that was delegated to this process.
#[derive(Debug)]
pub struct Held {
    place: PathBuf,
}

impl Held {
    /// Moves this process from its own cgroup, which must be delegated, into a leaf of it, and hands the controllers
    /// on to what will be beside that leaf.
    ///
    /// # Errors
    /// The cgroup is not delegated, has other processes, or the kernel refuses.
    pub fn own() -> Result<Self, KernelError> {
        let mounts = mounts()?;
        let unified = unified(&mounts)?;
        let own = read(Path::new("/proc/self/cgroup"))?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let place = marked(&unified.at, Path::new(own))?;
        let leaf = place.join(LEAF);
        match mkdir(&leaf, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(KernelError::new("make", leaf.display(), error)),
        }
        write(&leaf.join("cgroup.procs"), "0")?;
        delegated(&unified.at, Path::new(own))?;
        enable(&place, &offered(&unified.at)?)?;
        Ok(Self { place })
    }

    /// Kills everything beside the holder and waits until the kernel says that it is gone.
    ///
    /// # Errors
    /// The kernel refused, or something is still there after `patience`: a process stuck in the kernel.
    pub fn end_all(&self, patience: Duration) -> Result<(), KernelError> {
        let deadline = Instant::now() + patience;
        let beside = self.beside()?;
        for cgroup in &beside {
            write(&cgroup.join("cgroup.kill"), "1")?;
        }
        beside.iter().try_for_each(|cgroup| wait_empty(cgroup, deadline))
    }

    fn beside(&self) -> Result<Vec<PathBuf>, KernelError> {
        let entries = std::fs::read_dir(&self.place).tried("list", self.place.display())?;
        let mut beside = Vec::new();
        for entry in entries {
            let path = entry.tried("list", self.place.display())?.path();
            if path.is_dir() && !path.ends_with(LEAF) {
                beside.push(path);
            }
        }
        Ok(beside)
    }
}

fn wait_empty(cgroup: &Path, deadline: Instant) -> Result<(), KernelError> {
    let file = cgroup.join("cgroup.events");
    let events =
        open(&file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).tried("open", file.display())?;
    loop {
        // Read first: the kernel tells of changes after the last look.
        let mut text = [0; 128];
        let n = rustix::io::pread(&events, &mut text, 0).tried("read", file.display())?;
        if text[..n].starts_with(b"populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL).tried("wait on", file.display())?;
        match poll(&mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)], Some(&timeout)) {
            Ok(0) => {
                return Err(KernelError::new("end every process of", cgroup.display(), Errno::TIMEDOUT)
                    .hint("it is stuck in the kernel (state D in `ps`)"));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(KernelError::new("wait on", file.display(), error)),
        }
    }
}
