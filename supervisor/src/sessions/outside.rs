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

/// Ends every process of `uid` that is outside its capsule, but for those in `stay` and their parents: a login shell's
/// is sshd's process of that connection. Blocks up to some seconds; returns how many it ended.
///
/// # Errors
/// `/proc` cannot be read, or one is left.
pub fn end(uid: u32, stay: &BTreeSet<i32>) -> Result<usize, KernelError> {
    let failed = |error: io::Error| KernelError::new("look for processes of", format!("UID {uid}"), error);
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let found = outsiders(uid).map_err(failed)?;
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
    let left: Vec<String> = outsiders(uid).map_err(failed)?.iter().map(|one| one.pid.to_string()).collect();
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

fn outsiders(uid: u32) -> io::Result<Vec<Outsider>> {
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
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let dead = field(&status, "State:").is_some_and(|state| state.starts_with(['Z', 'X']));
        if dead || !has_uid(&status, uid) || test_kill_process(typed).is_err() || is_in_capsule(&status) {
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

/// Whether it is in a PID namespace below this one, as everything in a capsule is from birth, and nothing else that has
/// a slice's UID: it has a PID in each (proc_pid_status(5)).
fn is_in_capsule(status: &str) -> bool {
    field(status, "NSpid:").is_some_and(|pids| pids.split_whitespace().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capsules_process_has_a_pid_in_each_namespace() {
        assert!(is_in_capsule("Name:\tx\nNSpid:\t4711\t7\n"));
        assert!(!is_in_capsule("Name:\tx\nNSpid:\t4711\n"));
    }

    #[test]
    fn all_four_uids_count() {
        assert!(has_uid("Name:\tx\nUid:\t0\t70001\t0\t0\n", 70001));
        assert!(!has_uid("Name:\tx\nUid:\t700012\t7000\t0\t0\n", 70001));
    }
}
