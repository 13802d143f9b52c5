//! Talking with capsule-init: what it says, what it is asked, and finding it again when the link is lost.

use std::rc::Rc;
use std::time::Duration;

use plab_config::RestartPolicy;
use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::Severity;
use plab_sandbox::message::{State, ToInit};
use tokio::time::Instant;

use super::{STEADY, Task, backoff};
use crate::capsule::adopt::{Found, find};
use crate::capsule::link::Link;
use crate::capsule::report;

/// Before a lost link is looked for again: a capsule-init that is dying shows by its pidfd meanwhile.
const RELINK: Duration = Duration::from_millis(50);

/// Between further attempts.
const RELINK_AGAIN: Duration = Duration::from_secs(5);

/// From the first sight of a `status` script to its first run.
const FIRST_STATUS: Duration = Duration::from_secs(1);

impl Task {
    pub(super) fn send(&mut self, message: &ToInit) {
        if let Some(up) = &mut self.up
            && let Some(link) = &up.link
            && link.send(message, &[]).is_err()
        {
            self.lose_link();
        }
    }

    pub(super) fn lose_link(&mut self) {
        if let Some(up) = &mut self.up {
            up.link = None;
            up.applied = None;
            // One that does not hold is not worth a busy loop.
            let held = up.linked.elapsed() > RELINK_AGAIN;
            up.relink = Some(Instant::now() + if held { RELINK } else { RELINK_AGAIN });
        }
        *self.slice.link.borrow_mut() = None;
    }

    /// The link was lost and capsule-init was not: finds it again.
    pub(super) fn reconnect(&mut self) {
        let found = find(&self.node.machine, &self.slice.name, self.uid());
        let Some(up) = &mut self.up else { return };
        up.relink = None;
        let problem = match found {
            Ok(Found::Running { capsule, .. }) if up.pid == capsule.pid => match Link::new(capsule.link) {
                Ok(link) => {
                    let link = Rc::new(link);
                    up.link = Some(Rc::clone(&link));
                    up.linked = Instant::now();
                    *self.slice.link.borrow_mut() = Some(link);
                    return;
                }
                Err(error) => error.to_string(),
            },
            Ok(Found::Running { .. }) => "another process answers for it".to_owned(),
            Ok(Found::Remains(what)) => what,
            Ok(Found::Nothing) => "its cgroup is gone".to_owned(),
            Err(error) => error.to_string(),
        };
        up.relink = Some(Instant::now() + RELINK_AGAIN);
        self.tell("link-lost", Severity::Warning, problem);
    }

    pub(super) async fn heard(&mut self, state: State) {
        let first = self.slice.said.borrow().is_none();
        let adopted = self.up.as_ref().is_some_and(|up| up.adopted);
        let news = if first && adopted {
            report::found(&state)
        } else {
            report::news(self.slice.said.borrow().as_ref(), &state)
        };
        for (kind, severity, message) in news {
            self.tell(kind, severity, message);
        }
        self.see_configured(&state);
        let status = state.present.contains(&Hook::Status);
        self.start_again_if_asked(&state);
        // While it runs again, its last verdict stands.
        let verdict = state.hooks.get(&Hook::Status).map(|status| status.outcome.as_ref());
        if verdict != Some(None) {
            let ran = verdict.flatten().filter(|outcome| **outcome != HookOutcome::Skipped);
            self.slice.status_ok.set(ran.map(HookOutcome::is_success));
        }
        *self.slice.born.borrow_mut() = Some(state.birthmark.clone());
        *self.slice.said.borrow_mut() = Some(state);
        if let Some(up) = &mut self.up {
            up.next_status = match (status, up.next_status) {
                (false, _) => None,
                (true, Some(at)) => Some(at),
                // Soon after the script is there, then at the interval.
                (true, None) => Some(Instant::now() + FIRST_STATUS),
            };
        }
    }

    /// A `start` that failed is run again only for a slice that asks for it: the specification imposes no restart
    /// policy (4.7).
    fn start_again_if_asked(&mut self, state: &State) {
        let asked = self.slice.definition.borrow().restart == RestartPolicy::OnFailure;
        let outcome =
            |state: &State| state.hooks.get(&Hook::Start).map(|start| (start.runs, start.outcome.clone()));
        let now = outcome(state);
        if !asked || self.slice.said.borrow().as_ref().and_then(outcome) == now {
            return;
        }
        let Some(up) = &mut self.up else { return };
        match now {
            Some((_, Some(outcome))) if outcome.has_run() && !outcome.is_success() => {
                if up.started.elapsed() > STEADY {
                    self.failures = 0;
                }
                up.next_start = Some(Instant::now() + backoff(self.failures));
                self.failures += 1;
            }
            _ => up.next_start = None,
        }
    }

    /// Runs `start` again.
    pub(super) fn start_again(&mut self) {
        if let Some(up) = &mut self.up {
            up.next_start = None;
            up.started = Instant::now();
        }
        self.run_hook(Hook::Start, None);
    }

    /// Asks for a hook; without a limit it may stay.
    pub(super) fn run_hook(&mut self, hook: Hook, limit: Option<Duration>) -> Option<u64> {
        let last = self.slice.said.borrow().as_ref().map_or(0, |said| said.last_run_id);
        let up = self.up.as_mut()?;
        up.run_id = up.run_id.max(last) + 1;
        let id = up.run_id;
        let limit_ms = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self.send(&ToInit::Run { id, hook, limit_ms });
        Some(id)
    }

    pub(super) fn ask_status(&mut self) {
        let (interval, limit): (Duration, Duration) = {
            let definition = self.slice.definition.borrow();
            (definition.control.status_interval.into(), definition.control.status_limit.into())
        };
        if self.up.as_ref().is_some_and(|up| !up.frozen) {
            self.run_hook(Hook::Status, Some(limit));
        }
        if let Some(up) = &mut self.up {
            up.next_status = Some(Instant::now() + interval);
        }
    }
}
