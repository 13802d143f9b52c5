//! What the next plabd must know of open sessions: a file each in the run directory, which goes with the boot as the
//! sessions do.
//!
//! A file names the client by PID and start time. The two together are one process of this boot (proc_pid_stat(5)), so
//! a PID that is another's by now is seen.

use std::fs;
use std::path::PathBuf;

use plab_protocol::control::SessionStatus;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::peer::Process;

/// The directory of the files; only root enters it.
pub struct Kept(PathBuf);

#[derive(Serialize, Deserialize)]
struct File {
    /// When the client's process started, in clock ticks since boot.
    started: u64,
    session: SessionStatus,
}

impl Kept {
    /// Files in this directory, which is there.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Remembers a session. One that cannot be written is unknown to the next plabd, which then ends it with the next
    /// key that is removed; that is told in the log.
    pub fn write(&self, session: &SessionStatus, client: &Process) {
        let Some(started) = started(client.pid) else { return };
        let written = serde_json::to_vec(&File { started, session: session.clone() })
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(self.path(session.id), bytes));
        if let Err(error) = written {
            tracing::warn!(%error, id = session.id, "could not keep a session for the next plabd");
        }
    }

    /// It has ended.
    pub fn forget(&self, id: u64) {
        fs::remove_file(self.path(id)).ok();
    }

    /// What a former plabd wrote; with the client, if it is still there. A file that plabd did not finish is removed.
    pub fn read(&self) -> Vec<(SessionStatus, Option<Process>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let file =
                fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
            let Some(File { started, session }) = file else {
                fs::remove_file(entry.path()).ok();
                continue;
            };
            let client = session.pid.and_then(|pid| find(i32::try_from(pid).ok()?, started));
            found.push((session, client));
        }
        found.sort_by_key(|(session, _)| session.id);
        found
    }
}

/// The process that has this PID and start time.
fn find(pid: i32, at: u64) -> Option<Process> {
    // First the descriptor: if the start time is right after that, the descriptor is of that process.
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    (started(pid)? == at).then_some(Process { pidfd, pid })
}

/// When a process started, in clock ticks since boot.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, also blanks and brackets.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: u64, pid: u32) -> SessionStatus {
        SessionStatus {
            id,
            slice: "site_a".into(),
            by: "site_a".into(),
            login: None,
            key_comment: None,
            tty: false,
            command: vec!["ls".into()],
            since: "2026-01-01T00:00:00Z".into(),
            pid: Some(pid),
        }
    }

    #[test]
    fn a_session_is_found_again_while_its_client_lives() {
        let directory = std::env::temp_dir().join(format!("plab-kept-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("mkdir");
        let kept = Kept::new(directory.clone());
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("spawn");
        let pid = child.id();
        let client = find(pid.cast_signed(), started(pid.cast_signed()).expect("it runs")).expect("it runs");
        kept.write(&session(7, pid), &client);
        fs::write(directory.join("8.json"), "{").expect("write");
        let again = kept.read();
        assert_eq!(again.len(), 1, "what is no file of a session is passed over");
        assert!(again[0].0 == session(7, pid) && again[0].1.is_some());
        assert!(find(pid.cast_signed(), 1).is_none(), "another process of the same PID");
        child.kill().expect("kill");
        child.wait().expect("wait");
        let gone = kept.read();
        assert!(gone.len() == 1 && gone[0].1.is_none(), "{gone:?}");
        kept.forget(7);
        let left = kept.read();
        fs::remove_dir_all(&directory).expect("clean up");
        assert!(left.is_empty());
    }
}
