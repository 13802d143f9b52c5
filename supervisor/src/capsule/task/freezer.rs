//! Freezing and thawing, by cgroup v2's freezer.

use std::time::Duration;

use plab_protocol::control::{ErrorCode, Severity, SliceState};
use plab_sandbox::KernelError;
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::Task;
use crate::slice::refused;
use crate::watched::watched;

/// A freeze takes as long as the longest uninterruptible system call inside.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

impl Task {
    pub(super) async fn freeze(&mut self, frozen: bool, answer: crate::slice::Answer) {
        let done = if self.up.is_none() {
            Err(refused(ErrorCode::WrongState, format!("{} is not running", self.slice.name)))
        } else {
            self.set_frozen(frozen).await.map_err(|error| refused(ErrorCode::Failed, error.to_string()))
        };
        let word = if frozen { "frozen" } else { "thawed" };
        if done.is_ok() {
            self.slice.set(if frozen { SliceState::Frozen } else { SliceState::Running }, None);
            self.tell(
                if frozen { "capsule-frozen" } else { "capsule-thawed" },
                Severity::Notice,
                "asked for",
            );
        }
        answer.send(done.map(|()| format!("{} is {word}", self.slice.name))).ok();
    }

    pub(super) async fn set_frozen(&mut self, frozen: bool) -> Result<(), KernelError> {
        let name = &self.slice.name;
        let gone = || {
            KernelError::new("find the cgroup of", name, std::io::Error::from(std::io::ErrorKind::NotFound))
        };
        let cgroup = self.node.machine.tree.capsule_cgroup(name)?.ok_or_else(gone)?;
        let events = self.node.machine.tree.events_file(name)?.ok_or_else(gone)?;
        let events = watched(events, Interest::PRIORITY)
            .map_err(|error| KernelError::new("watch the cgroup of", name, error))?;
        cgroup.freeze(frozen)?;
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        while cgroup.frozen()?.1 != frozen {
            let Ok(ready) = timeout_at(deadline, events.ready(Interest::PRIORITY)).await else {
                return Err(KernelError::new(if frozen { "freeze" } else { "thaw" }, name, rustix::io::Errno::TIMEDOUT)
                    .hint("a process is in a system call that cannot be interrupted; `plab status --verify` shows the state"));
            };
            if let Ok(mut ready) = ready {
                ready.clear_ready();
            }
        }
        if let Some(up) = &mut self.up {
            up.frozen = frozen;
        }
        Ok(())
    }
}
