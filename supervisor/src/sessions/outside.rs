//! Processes of a slice's UID outside its capsule: what sshd made of a connection, and the login shell.
//!
//! None may outlive the right to be there: the key that opened the connection, or the slice. They are found in `/proc`,
//! held by a pidfd before they are judged, and asked to end before they are killed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use plab_sandbox::KernelError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

/// From the request to end to the kill.
const GRACE: Duration = Duration::from_secs(1);

/// A killed process is gone in milliseconds, unless it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks until nothing is found any more: sshd may have been about to start one.
const ROUNDS: usize = 5;

/// A process of the UID, outside.
struct Outsider {
    pid: i32,
    parent: i32,
    pidfd: OwnedFd,
}

/// Ends every process of `uid` that is not in a cgroup of this name (`TREE/SLICE`), but for those in `stay` and their
/// parents: a login shell's is sshd's process of that connection. Blocks up to some seconds; returns how many it ended.
///
/// # Errors
/// `/proc` cannot be read, or one is left.
pub fn end(uid: u32, cgroup: &str, stay: &BTreeSet<i32>) -> Result<usize, KernelError> {
    let failed = |error: io::Error| KernelError::new("look for processes of", format!("UID {uid}"), error);
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let found = outsiders(uid, cgroup).map_err(failed)?;
        let parents: BTreeSet<i32> =
            found.iter().filter(|one| stay.contains(&one.pid)).map(|one| one.parent).collect();
        let victims: Vec<Outsider> =
            found.into_iter().filter(|one| !stay.contains(&one.pid) && !parents.contains(&one.pid)).collect();
        if victims.is_empty() {
            return Ok(ended);
        }
        ended += victims.len();
        for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, KILL_TIMEOUT)] {
            for victim in &victims {
                // One that has ended by itself needs no signal.
                pidfd_send_signal(&victim.pidfd, signal).ok();
            }
            if wait(&victims, patience).map_err(failed)? {
                break;
            }
        }
    }
    let left: Vec<String> =
        outsiders(uid, cgroup).map_err(failed)?.iter().map(|one| one.pid.to_string()).collect();
    let what = format!("the processes of UID {uid} outside its capsule (PID {})", left.join(", "));
    Err(KernelError::new("end", what, rustix::io::Errno::TIMEDOUT)
        .hint("something goes on starting them, or they are stuck in the kernel (state D in ps)"))
}

/// Waits until all have ended; false when time is up.
fn wait(processes: &[Outsider], patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    for process in processes {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [PollFd::new(&process.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn outsiders(uid: u32, cgroup: &str) -> io::Result<Vec<Outsider>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(typed) = Pid::from_raw(pid) else { continue };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        if !has_uid(&status, uid) {
            continue;
        }
        // Held first, then looked at again: what is read while the process lives is about it and no other.
        let Ok(pidfd) = pidfd_open(typed, PidfdFlags::empty()) else { continue };
        let (Ok(status), Ok(groups)) = (
            fs::read_to_string(format!("/proc/{pid}/status")),
            fs::read_to_string(format!("/proc/{pid}/cgroup")),
        ) else {
            continue;
        };
        let dead = field(&status, "State:").is_some_and(|state| state.starts_with('Z'));
        if dead || !has_uid(&status, uid) || test_kill_process(typed).is_err() || is_in(&groups, cgroup) {
            continue;
        }
        let parent = field(&status, "PPid:").and_then(|parent| parent.parse().ok()).unwrap_or(0);
        found.push(Outsider { pid, parent, pidfd });
    }
    Ok(found)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether any of its four UIDs is this one.
fn has_uid(status: &str, uid: u32) -> bool {
    field(status, "Uid:").is_some_and(|uids| uids.split_whitespace().any(|one| one.parse() == Ok(uid)))
}

/// Whether the v2 cgroup is this one. Only root moves a process into or out of a capsule's.
fn is_in(groups: &str, cgroup: &str) -> bool {
    groups.lines().filter_map(|line| line.strip_prefix("0::")).any(|path| {
        path.strip_suffix(cgroup).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capsules_cgroup_is_told_from_others() {
        let own = "planetlab/site_a";
        assert!(is_in("0::/planetlab/site_a\n", own));
        assert!(is_in("1:cpu:/x\n0::/system.slice/plabd.service/planetlab/site_a\n", own));
        for other in
            ["0::/planetlab/site_ab", "0::/notplanetlab/site_a", "0::/system.slice/ssh.service", "0::/"]
        {
            assert!(!is_in(other, own), "{other}");
        }
    }

    #[test]
    fn all_four_uids_count() {
        assert!(has_uid("Name:\tx\nUid:\t0\t70001\t0\t0\n", 70001));
        assert!(!has_uid("Name:\tx\nUid:\t700012\t7000\t0\t0\n", 70001));
    }
}
