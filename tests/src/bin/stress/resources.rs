//! What the whole machine has left meanwhile: what a slice could use up although no limit of its own names it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plab_tests::measure::Failure;
use serde::Serialize;

use crate::kmsg::{Kmsg, Said};

/// Between two looks.
const PACE: Duration = Duration::from_millis(500);

/// The least and the most that was seen of one thing.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Extremes {
    /// At the first look.
    pub first: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// By name; see [`now`].
pub type Resources = BTreeMap<&'static str, Extremes>;

/// Looks again and again until `stop`, and hears what the kernel says meanwhile.
pub fn watch(storage: &Path, kmsg: &mut Kmsg, stop: &AtomicBool) -> Result<(Resources, Said), Failure> {
    let mut seen = Resources::new();
    let mut said = Said::default();
    loop {
        for (name, value) in now(storage)? {
            let entry = seen.entry(name).or_insert(Extremes { first: value, least: value, most: value });
            entry.least = entry.least.min(value);
            entry.most = entry.most.max(value);
        }
        kmsg.hear(&mut said);
        if stop.load(Ordering::Relaxed) {
            return Ok((seen, said));
        }
        std::thread::sleep(PACE);
    }
}

/// Memory in MiB, all others as counts.
fn now(storage: &Path) -> Result<Vec<(&'static str, f64)>, Failure> {
    let meminfo = read("/proc/meminfo")?;
    let sockstat = read("/proc/net/sockstat")?;
    let mebibytes = |name: &str| Ok::<_, Failure>(field(&meminfo, name, 0)? / 1024.0);
    let disk = rustix::fs::statvfs(storage)?;
    let (free, block) = (disk.f_bavail, disk.f_frsize);
    let free = u32::try_from((free * block) >> 20).map_or(f64::INFINITY, f64::from);
    Ok(vec![
        ("memory available, MiB", mebibytes("MemAvailable:")?),
        ("kernel slab, MiB", mebibytes("Slab:")?),
        ("shared memory, MiB", mebibytes("Shmem:")?),
        ("disk of the storage free, MiB", free),
        ("disk of the storage, free inodes", u32::try_from(disk.f_favail).map_or(f64::INFINITY, f64::from)),
        ("open files", word(&read("/proc/sys/fs/file-nr")?, 0)?),
        ("inodes", word(&read("/proc/sys/fs/inode-nr")?, 0)?),
        ("dentries", word(&read("/proc/sys/fs/dentry-state")?, 0)?),
        ("terminals", word(&read("/proc/sys/kernel/pty/nr")?, 0)?),
        ("TCP sockets", field(&sockstat, "TCP:", 1)?),
        ("TCP in TIME-WAIT", field(&sockstat, "TCP:", 5)?),
        ("processes and threads", tasks(&read("/proc/loadavg")?)?),
        ("load", word(&read("/proc/loadavg")?, 0)?),
    ])
}

fn read(file: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| format!("could not read {file}: {error}").into())
}

fn word(text: &str, index: usize) -> Result<f64, Failure> {
    let word = text.split_whitespace().nth(index).ok_or_else(|| format!("too short: {text}"))?;
    word.parse().map_err(|error| format!("{word}: {error}").into())
}

/// A number of the line that begins with `name`.
fn field(text: &str, name: &str, index: usize) -> Result<f64, Failure> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    word(line.ok_or_else(|| format!("no {name} in {text}"))?, index)
}

/// The total in `2/345` of loadavg.
fn tasks(loadavg: &str) -> Result<f64, Failure> {
    let total = loadavg.split_whitespace().nth(3).and_then(|pair| pair.split_once('/'));
    word(total.ok_or("no count of tasks in loadavg")?.1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernel_s_tables() {
        assert_eq!(field("MemTotal: 5 kB\nSlab:   2048 kB\n", "Slab:", 0).ok(), Some(2048.0));
        assert_eq!(field("TCP: inuse 9 orphan 0 tw 3 alloc 5 mem 1\n", "TCP:", 5).ok(), Some(3.0));
        assert_eq!(tasks("0.5 0.4 0.3 2/345 999\n").ok(), Some(345.0));
        assert!(field("a", "Slab:", 0).is_err());
    }

    #[test]
    fn this_machine_tells_all_of_it() {
        assert!(now(Path::new("/")).expect("readable").iter().all(|(_, value)| *value >= 0.0));
    }
}
