//! What the kernel says meanwhile.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use serde::Serialize;

/// Longer than any record of `/dev/kmsg`; see `Documentation/ABI/testing/dev-kmsg` of Linux.
const RECORD: usize = 8192;

/// As many lines of a kind are kept.
const KEPT: usize = 10;

/// The kernel's log from now on; none where it cannot be read.
pub struct Kmsg(Option<File>);

/// What it said that matters.
#[derive(Debug, Default, Serialize)]
pub struct Said {
    /// The kernel found a mistake of its own, or was out of memory as a whole.
    pub broken: Vec<String>,
    /// Something did not get on for long; on a slow machine that need not be a mistake.
    pub stuck: Vec<String>,
    /// Processes killed at their own cgroup's memory limit.
    pub kills: usize,
    /// That of those, which were not in the stressing slice's cgroup.
    pub kills_elsewhere: Vec<String>,
    /// Records that the kernel had overwritten before they were read.
    pub lost: usize,
}

impl Kmsg {
    /// Opens it at its end.
    pub fn open() -> Self {
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        Self(opened.and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok())
    }

    /// Whether it can be read.
    pub fn readable(&self) -> bool {
        self.0.is_some()
    }

    /// Reads all that was said since.
    pub fn hear(&mut self, said: &mut Said) {
        let Some(file) = &mut self.0 else { return };
        let mut record = [0; RECORD];
        loop {
            match file.read(&mut record) {
                Ok(length) => said.add(&String::from_utf8_lossy(&record[..length])),
                // Overwritten: the next read goes on with the oldest that is left.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => said.lost += 1,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Said {
    fn add(&mut self, record: &str) {
        // "PRIORITY,SEQUENCE,TIME,FLAGS;TEXT", and further lines that begin with a space.
        let Some((_, text)) = record.split_once(';') else { return };
        let text = text.lines().next().unwrap_or_default();
        let begins = |with: &[&str]| with.iter().any(|with| text.starts_with(with));
        if let Some(kill) = text.strip_prefix("oom-kill:") {
            self.kill(kill);
        } else if begins(&["BUG:", "WARNING:", "kernel BUG at", "Oops", "Kernel panic", "Out of memory:"]) {
            keep(&mut self.broken, text);
        } else if begins(&["INFO: task", "watchdog:", "rcu: INFO:", "INFO: rcu"]) {
            keep(&mut self.stuck, text);
        }
    }

    /// A line of `dump_oom_summary` in Linux: `constraint=C,…,oom_memcg=P,task_memcg=P,task=COMM,pid=N,uid=N`.
    fn kill(&mut self, kill: &str) {
        self.kills += 1;
        let of = |key: &str| kill.split(',').find_map(|pair| pair.strip_prefix(key)).unwrap_or_default();
        let at_a_limit = of("constraint=") == "CONSTRAINT_MEMCG";
        let at = of("oom_memcg=").rsplit('/').next().unwrap_or_default();
        if !at_a_limit || at != crate::capsules::STRESS {
            keep(&mut self.kills_elsewhere, kill);
        }
    }
}

fn keep(lines: &mut Vec<String>, text: &str) {
    if lines.len() < KEPT {
        lines.push(text.chars().take(200).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        said.add(&format!("6,1,2,-;{text}\n SUBSYSTEM=x\n"));
        said
    }

    #[test]
    fn a_kill_at_the_slice_s_limit_is_expected_and_no_other() {
        let kill = |constraint: &str, at: &str| {
            said(&format!(
                "oom-kill:constraint={constraint},nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={at},task_memcg={at},task=x,pid=1,uid=2"
            ))
        };
        let own = kill("CONSTRAINT_MEMCG", "/plab-x/site_stress");
        assert_eq!((own.kills, own.kills_elsewhere.len()), (1, 0));
        assert_eq!(kill("CONSTRAINT_MEMCG", "/plab-x/site_web").kills_elsewhere.len(), 1);
        assert_eq!(kill("CONSTRAINT_NONE", "/plab-x/site_stress").kills_elsewhere.len(), 1);
    }

    #[test]
    fn mistakes_of_the_kernel_differ_from_mistakes_of_programs() {
        assert_eq!(said("WARNING: CPU: 1 PID: 5 at mm/x.c:1").broken.len(), 1);
        assert_eq!(said("BUG: kernel NULL pointer dereference").broken.len(), 1);
        assert_eq!(said("INFO: task kworker blocked for more than 120 seconds").stuck.len(), 1);
        assert!(said("traps: stress-ng[5] general protection fault").broken.is_empty());
    }
}
