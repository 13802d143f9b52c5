//! Down: `stop`, grace, kill; a capsule that ended by itself; a slice that goes for good.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plab_config::RestartPolicy;
use plab_control_scripts::Hook;
use plab_protocol::control::{Severity, SliceState};
use plab_sandbox::message::FromInit;
use tokio::time::{Instant, timeout_at};

use super::configured::Configured;
use super::{Hold, STEADY, Task};
use crate::capsule::{birth, death, wishes};

/// A capsule-init answers in milliseconds, unless its slice starves it.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// More messages than a capsule-init sends before plabd's loop comes round to it.
const REST: usize = 64;

impl Task {
    /// `stop`, grace, kill; afterwards nothing of the capsule is left.
    pub(super) async fn stop(&mut self, why: &str) {
        let Some(up) = &self.up else {
            if let Err(error) = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await {
                self.tell("clear-failed", Severity::Error, error.to_string());
            }
            return;
        };
        let frozen = up.frozen;
        self.slice.set(SliceState::Stopping, Some(why.to_owned()));
        self.tell("capsule-stopping", Severity::Info, why);
        let removing = self.row.as_ref().is_none_or(|row| row.removing);
        // While it ends it is held to what its slice may do now.
        let definition = Rc::clone(&self.slice.definition.borrow());
        if !removing && let Err(error) = self.set_network(&definition).await {
            self.tell("change-failed", Severity::Error, error.to_string());
        }
        if frozen && let Err(error) = self.set_frozen(false).await {
            self.tell("thaw-failed", Severity::Warning, error.to_string());
        }
        self.first_word().await;
        self.hear_rest().await;
        let grace: Duration = definition.control.stop_grace.into();
        let deadline = Instant::now() + grace;
        let present =
            self.slice.said.borrow().as_ref().is_some_and(|said| said.present.contains(&Hook::Stop));
        if present
            && !grace.is_zero()
            && let Some(id) = self.run_hook(Hook::Stop, Some(grace))
            && timeout_at(deadline, self.stopped(id)).await.is_err()
            && !self.has_ended(Hook::Stop, id)
        {
            // The kill follows either way; that it was not the script's own end is worth a line.
            self.tell("hook-ended", Severity::Warning, "stop: timed out");
        }
        // Until it is recorded capsule-init knows it, and tells it to the next plabd if this one is killed.
        self.hear_rest().await;
        if !removing {
            self.settle_configured().await;
        }
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await {
            self.tell("clear-failed", Severity::Error, error.to_string());
        }
        self.hear_rest().await;
        self.forget_capsule();
        self.tell("capsule-stopped", Severity::Info, why);
    }

    /// Waits until the `stop` of this number has ended and nothing but capsule-init is left, or it is gone.
    pub(super) async fn stopped(&mut self, id: u64) {
        loop {
            if self.has_ended(Hook::Stop, id) && self.is_idle_after_stop() {
                return;
            }
            let Some(up) = &self.up else { return };
            let Some(link) = up.link.clone() else { return };
            tokio::select! {
                _ = up.pidfd.readable() => return,
                said = link.receive() => match said {
                    Ok(Some(FromInit::State(state))) => self.heard(*state).await,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    /// Takes in what the capsule has said before its end, which came first: the success of `configure`, for one.
    async fn hear_rest(&mut self) {
        for _ in 0..REST {
            let Some(link) = self.up.as_ref().and_then(|up| up.link.clone()) else { return };
            match link.waiting() {
                Some(FromInit::State(state)) => self.heard(*state).await,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Waits a moment for what a capsule that was just adopted has to say: whether it has a `stop`, to begin with.
    async fn first_word(&mut self) {
        let known = self.slice.said.borrow().is_some();
        let Some(link) = self.up.as_ref().and_then(|up| up.link.clone()).filter(|_| !known) else { return };
        if let Ok(Ok(Some(FromInit::State(state)))) =
            timeout_at(Instant::now() + FIRST_WORD, link.receive()).await
        {
            self.heard(*state).await;
        }
    }

    fn has_ended(&self, hook: Hook, id: u64) -> bool {
        let said = self.slice.said.borrow();
        let state = said.as_ref().and_then(|said| said.hooks.get(&hook));
        state.is_some_and(|state| state.run_id == id && state.outcome.is_some())
    }

    /// Whether there is nothing more to wait for: nothing is left running, or `stop` did not run at all and so has
    /// asked nobody to end.
    fn is_idle_after_stop(&self) -> bool {
        let said = self.slice.said.borrow();
        said.as_ref().is_some_and(|said| {
            let outcome = said.hooks.get(&Hook::Stop).and_then(|stop| stop.outcome.as_ref());
            said.idle || outcome.is_some_and(|outcome| !outcome.has_run())
        })
    }

    pub(super) async fn keep_down(&mut self, state: SliceState, why: &str) {
        if self.up.is_some() {
            self.stop(why).await;
        }
        if self.slice.state.get() != state {
            self.slice.set(state, Some(why.to_owned()));
            self.tell("capsule-kept-down", Severity::Notice, why);
        }
        self.hold = None;
        self.slice.settle();
    }

    pub(super) fn forget_capsule(&mut self) {
        if let Some(up) = self.up.take() {
            death::reap(up.pidfd.get_ref());
        }
        self.slice.pid.set(None);
        self.slice.since.set(None);
        *self.slice.link.borrow_mut() = None;
    }

    pub(super) async fn died(&mut self) {
        self.hear_rest().await;
        let usage = self
            .node
            .machine
            .tree
            .capsule_cgroup(&self.slice.name)
            .ok()
            .flatten()
            .map(|cgroup| cgroup.usage());
        let told = self.up.as_ref().is_some_and(|up| up.out_of_memory);
        let oom = told || usage.is_some_and(|usage| usage.oom_kills > 0);
        let lasted = self.up.as_ref().is_some_and(|up| up.since.elapsed() > STEADY);
        let why = if oom {
            format!(
                "out of memory: it needed more than its limit of {}, and was killed as a whole",
                self.slice.definition.borrow().memory.max
            )
        } else {
            "every process was killed from outside plabd".to_owned()
        };
        self.forget_capsule();
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await {
            return self.failed("clear-failed", &error, SliceState::Failed);
        }
        self.tell(if oom { "capsule-out-of-memory" } else { "capsule-died" }, Severity::Warning, why.clone());
        if lasted {
            self.failures = 0;
        }
        if self.slice.definition.borrow().restart == RestartPolicy::OnFailure {
            self.failed("capsule-restart-due", &why, SliceState::Failed);
        } else {
            // The specification imposes no restart policy (4.7); `plab restart` or a new definition starts it.
            self.hold = Some(Hold::Indefinitely);
            self.slice.set(
                SliceState::Failed,
                Some(format!("{why}; `plab restart {}` starts it", self.slice.name)),
            );
            self.slice.settle();
        }
    }

    /// v1's killer takes one process; the whole capsule is to go. v2's does it by itself.
    pub(super) fn out_of_memory(&mut self) {
        match self.node.machine.tree.kill(&self.slice.name) {
            Ok(()) => {
                if let Some(up) = &mut self.up {
                    // Its death is seen by the pidfd.
                    up.oom = None;
                    up.out_of_memory = true;
                }
            }
            Err(error) => self.tell("kill-failed", Severity::Error, error.to_string()),
        }
    }

    /// The definition is gone: stop, kill, storage, ledger. True when nothing is left.
    pub(super) async fn remove(&mut self) -> bool {
        match self.try_remove().await {
            Ok(()) => true,
            Err(error) => {
                self.failed("remove-failed", &error, SliceState::Removing);
                false
            }
        }
    }

    pub(super) async fn try_remove(&mut self) -> Result<(), String> {
        if let Some(row) = &mut self.row
            && !row.removing
        {
            self.node.ledger.set_removing(row.name.clone()).await.map_err(|error| error.to_string())?;
            row.removing = true;
        }
        // Nobody comes in any more, and whoever is in goes: first from outside, then with the capsule.
        self.node.machine.accounts.close(&self.slice.name).map_err(|error| error.to_string())?;
        self.stop("its definition is gone").await;
        self.end_outsiders(&BTreeSet::new()).await.map_err(|error| error.to_string())?;
        self.slice.set(SliceState::Removing, None);
        let Some(row) = &self.row else { return Ok(()) };
        let (machine, name, uid) = (Arc::clone(&self.node.machine), row.name.clone(), row.uid);
        let limits = wishes::limits(&self.slice.definition.borrow(), &machine.offered);
        let wiped = tokio::task::spawn_blocking(move || birth::wipe(&machine, &name, uid, &limits)).await;
        // Whatever became of it, its helper's cgroup goes.
        let cleared = death::clear(&self.node.machine, &self.slice.name, Some(self.uid())).await;
        wiped.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        cleared.map_err(|error| error.to_string())?;
        // Once more: sshd may have been in the middle of a login. Then the UID is nobody's.
        let accounts = &self.node.machine.accounts;
        accounts.withdraw(&self.slice.name, self.uid()).map_err(|error| error.to_string())?;
        self.end_outsiders(&BTreeSet::new()).await.map_err(|error| error.to_string())?;
        self.account = None;
        let (machine, name, uid) = (Arc::clone(&self.node.machine), self.slice.name.clone(), self.uid());
        let release = move || {
            machine.ports.release(machine.guard(), &name)?;
            machine.bandwidth.release(uid)
        };
        let released = tokio::task::spawn_blocking(release).await;
        released.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.node.ledger.forget(self.slice.name.clone()).await.map_err(|error| error.to_string())?;
        self.row = None;
        self.configured = Configured::default();
        self.accepted = None;
        // Who was refused for a port of it may have that now.
        self.node.retry_conflicts();
        self.failures = 0;
        self.tell("slice-removed", Severity::Info, "capsule and storage are gone");
        Ok(())
    }
}
