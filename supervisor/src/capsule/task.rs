//! The state machine of one slice: brings what runs to what is desired, and keeps it there.
//!
//! Level-triggered: each turn looks at what is desired and what is, and takes one step. A step that plabd did
//! not finish is found by the next plabd in the ledger, the cgroup or the capsule-init's own word, and finished.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use plab_config::{Definition, RestartPolicy};
use plab_control_scripts::{Hook, HookOutcome};
use plab_protocol::control::{ErrorCode, Severity, SliceState};
use plab_sandbox::KernelError;
use plab_sandbox::message::{FromInit, State, ToInit};
use plab_sandbox::readback;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::adopt::{Found, find};
use super::link::Link;
use super::{Capsule, birth, death, report, wishes};
use crate::ledger::SliceRow;
use crate::node::Node;
use crate::slice::{Command, Desired, Slice, refused};
use crate::watched::watched;

/// Between attempts at something that failed: doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A capsule that ran this long had started well: the next failure counts as a first one.
const STEADY: Duration = Duration::from_secs(60);

/// A freeze takes as long as the longest uninterruptible system call inside.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest sleep towards a lease's end: the clock may be set meanwhile.
const LEASE_LOOK: Duration = Duration::from_secs(3600);

/// A capsule that is up.
struct Up {
    pid: i32,
    pidfd: AsyncFd<std::os::fd::OwnedFd>,
    oom: Option<AsyncFd<std::os::fd::OwnedFd>>,
    link: Option<Rc<Link>>,
    /// The last request number used; see [`ToInit::Run`].
    run_id: u64,
    frozen: bool,
    since: Instant,
    next_status: Option<Instant>,
    /// What of the definition has been applied to it.
    applied: Option<Rc<Definition>>,
}

/// One slice's task.
pub struct Task {
    node: Rc<Node>,
    slice: Rc<Slice>,
    desired: watch::Receiver<Desired>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// The ledger's row, as of the last acceptance.
    row: Option<SliceRow>,
    /// The definition that row is of.
    accepted: Option<Rc<Definition>>,
    up: Option<Up>,
    /// Set when nothing is to be tried before this time or a change.
    hold: Option<Hold>,
    failures: u32,
}

/// Why nothing is tried now.
enum Hold {
    /// Until somebody asks, or the definition changes.
    Indefinitely,
    /// Or until this time.
    Until(Instant),
}

enum Wake {
    Desired,
    Command(Command),
    Died,
    Said(std::io::Result<Option<FromInit>>),
    OutOfMemory,
    StatusDue,
    Time,
}

impl Task {
    /// A task for the slice; `row` is what the ledger has, if it has heard of it before.
    pub fn new(
        node: Rc<Node>,
        slice: Rc<Slice>,
        desired: watch::Receiver<Desired>,
        commands: mpsc::UnboundedReceiver<Command>,
        row: Option<SliceRow>,
    ) -> Self {
        Self { node, slice, desired, commands, row, accepted: None, up: None, hold: None, failures: 0 }
    }

    /// Runs until the slice is gone.
    pub async fn run(mut self) {
        if let Some(row) = &self.row {
            self.slice.uid.set(row.uid);
            self.adopt().await;
        }
        self.node.adopted();
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if self.hold.is_none() && self.step(desired).await && self.leave() {
                return;
            }
            self.wait().await;
        }
    }

    /// Takes one step towards what is desired. True when nothing of the slice is left.
    async fn step(&mut self, desired: Desired) -> bool {
        let half_removed = self.row.as_ref().is_some_and(|row| row.removing);
        match desired {
            // A slice that comes back under its old name finds nothing of the old one: that goes first.
            Desired::Gone => return self.remove().await,
            Desired::Run(_) | Desired::Drained(_) if half_removed && !self.remove().await => {}
            Desired::Drained(definition) => {
                *self.slice.definition.borrow_mut() = definition;
                self.keep_down(SliceState::Stopped, "the node is drained").await;
            }
            Desired::Run(definition) => {
                if let Err(error) = self.accept(&definition).await {
                    self.failed("accept-failed", &error, self.slice.state.get());
                } else if expired(&definition) {
                    let why = "the lease has ended; storage is kept until the definition goes";
                    self.keep_down(SliceState::Expired, why).await;
                } else if self.up.is_some() {
                    self.apply(&definition).await;
                } else {
                    self.start(&definition).await;
                }
            }
        }
        false
    }

    /// Ends the task, unless the slice has come back meanwhile. No await between the look and the leaving.
    fn leave(&self) -> bool {
        let gone = matches!(*self.desired.borrow(), Desired::Gone);
        if gone {
            self.node.slices.borrow_mut().remove(&self.slice.name);
            self.node.changed();
        }
        gone
    }

    fn tell(&self, kind: &str, severity: Severity, message: impl Into<String>) {
        self.node.events.report(Some(&self.slice.name), kind, severity, message);
    }

    fn failed(&mut self, kind: &str, error: &dyn std::fmt::Display, state: SliceState) {
        let message = error.to_string();
        let pause = BACKOFF.0.saturating_mul(1 << self.failures.min(6)).min(BACKOFF.1);
        self.failures += 1;
        self.hold = Some(Hold::Until(Instant::now() + pause));
        let said = format!("{message}; next attempt in {} s", pause.as_secs());
        self.tell(kind, Severity::Error, said.clone());
        self.slice.set(state, Some(said));
        self.slice.settle();
    }

    /// Puts the definition on record and makes sure of the UID.
    async fn accept(&mut self, definition: &Rc<Definition>) -> Result<(), crate::ledger::LedgerError> {
        if self.accepted.as_ref().is_some_and(|accepted| Rc::ptr_eq(accepted, definition)) {
            return Ok(());
        }
        let text = definition.to_toml();
        let source = definition.origin.file.display().to_string();
        *self.slice.definition.borrow_mut() = Rc::clone(definition);
        if self
            .row
            .as_ref()
            .is_some_and(|row| row.definition == text && row.source == source && !row.removing)
        {
            self.accepted = Some(Rc::clone(definition));
            return Ok(());
        }
        let new = self.row.is_none();
        let row = self
            .node
            .ledger
            .accept(self.slice.name.clone(), text, source, self.node.machine.node.uids)
            .await?;
        self.slice.uid.set(row.uid);
        let kind = if new { "definition-accepted" } else { "definition-changed" };
        self.tell(
            kind,
            Severity::Info,
            format!("from {}; contact {}, UID {}", row.source, definition.contact, row.uid),
        );
        self.row = Some(row);
        self.accepted = Some(Rc::clone(definition));
        Ok(())
    }

    fn uid(&self) -> u32 {
        self.slice.uid.get()
    }

    /// Makes the capsule.
    async fn start(&mut self, definition: &Rc<Definition>) {
        self.slice.set(SliceState::Starting, None);
        let configured = self.row.as_ref().is_some_and(|row| row.configured);
        let (machine, wanted, uid) =
            (Arc::clone(&self.node.machine), Definition::clone(definition), self.uid());
        let born =
            tokio::task::spawn_blocking(move || birth::birth(&machine, &wanted, uid, configured)).await;
        let born = born.unwrap_or_else(|_| {
            Err(KernelError::new("make a capsule", &self.slice.name, std::io::Error::other("it panicked")))
        });
        match born.and_then(|capsule| self.take(capsule)) {
            Ok(()) => {
                if let Some(up) = &mut self.up {
                    up.applied = Some(Rc::clone(definition));
                }
                self.slice.since.set(Some(Timestamp::now()));
                self.slice.set(SliceState::Running, None);
                self.slice.settle();
                let pid = self.slice.pid.get().unwrap_or(0);
                self.tell(
                    "capsule-started",
                    Severity::Info,
                    format!("UID {}, capsule-init is PID {pid}", self.uid()),
                );
            }
            Err(error) => {
                // Whatever half of it there is goes: what cannot be enforced does not run.
                let cleared = death::clear(&self.node.machine, &self.slice.name).await;
                let message = match cleared {
                    Ok(()) => error.to_string(),
                    Err(left) => format!("{error}; and {left}"),
                };
                self.failed("start-failed", &message, SliceState::Failed);
            }
        }
    }

    fn take(&mut self, capsule: Capsule) -> Result<(), KernelError> {
        let failed =
            |error: std::io::Error| KernelError::new("watch the capsule of", &self.slice.name, error);
        let watch = |fd| watched(fd, Interest::READABLE).map_err(failed);
        let link = Rc::new(Link::new(capsule.link).map_err(failed)?);
        let up = Up {
            pid: capsule.pid,
            pidfd: watch(capsule.pidfd)?,
            oom: capsule.oom.map(watch).transpose()?,
            link: Some(Rc::clone(&link)),
            run_id: 0,
            frozen: false,
            since: Instant::now(),
            next_status: None,
            applied: None,
        };
        self.slice.pid.set(Some(capsule.pid));
        *self.slice.link.borrow_mut() = Some(link);
        *self.slice.said.borrow_mut() = None;
        self.up = Some(up);
        Ok(())
    }

    fn forget_capsule(&mut self) {
        if let Some(up) = self.up.take() {
            death::reap(up.pidfd.get_ref());
        }
        self.slice.pid.set(None);
        self.slice.since.set(None);
        *self.slice.link.borrow_mut() = None;
    }

    /// Takes over what a former plabd left, or clears it away.
    async fn adopt(&mut self) {
        let found = find(&self.node.machine, &self.slice.name, self.uid());
        let remains = match found {
            Ok(Found::Nothing) => return,
            Ok(Found::Running(capsule)) => {
                let pid = capsule.pid;
                match self.take(capsule) {
                    Ok(()) => {
                        self.adopted(pid);
                        return;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(Found::Remains(what)) => what,
            Err(error) => error.to_string(),
        };
        self.tell("remains-cleared", Severity::Notice, remains);
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name).await {
            self.failed("clear-failed", &error, SliceState::Failed);
        }
    }

    fn adopted(&mut self, pid: i32) {
        let frozen = self
            .node
            .machine
            .tree
            .capsule_cgroup(&self.slice.name)
            .ok()
            .flatten()
            .and_then(|cgroup| cgroup.frozen().ok())
            .is_some_and(|(asked, _)| asked);
        if let Some(up) = &mut self.up {
            up.frozen = frozen;
        }
        self.slice
            .since
            .set(readback::started_at(pid).and_then(|seconds| Timestamp::from_second(seconds).ok()));
        self.slice.set(if frozen { SliceState::Frozen } else { SliceState::Running }, None);
        self.tell("capsule-adopted", Severity::Info, format!("capsule-init is PID {pid}"));
    }

    /// Brings a running capsule to its definition: live where the kernel can, else by a new capsule.
    async fn apply(&mut self, definition: &Rc<Definition>) {
        let Some(up) = &mut self.up else { return };
        if up.applied.as_ref().is_some_and(|applied| Rc::ptr_eq(applied, definition)) {
            return;
        }
        // What capsule-init itself says it was made of, so that an adopted one is judged as well as our own.
        // Frozen, or just connected, it has not answered yet; its answer wakes this task again.
        let Some(said) = self.slice.said.borrow().clone() else { return };
        let mark = match self.node.machine.profile(definition.seccomp.profile.as_str()) {
            Ok(profile) => wishes::birthmark(definition, &profile.digest),
            Err(reason) => return self.failed("change-failed", &reason, self.slice.state.get()),
        };
        if said.birthmark != mark {
            self.tell(
                "restart-needed",
                Severity::Notice,
                "view or seccomp profile changed: stop, then start",
            );
            self.stop("its definition changed").await;
            self.hold = None;
            return self.start(definition).await;
        }
        let (machine, slice) = (Arc::clone(&self.node.machine), self.slice.name.clone());
        let limits = wishes::limits(definition, &machine.offered);
        // Lowering memory makes the kernel reclaim first, which can take its time.
        let set = tokio::task::spawn_blocking(move || match machine.tree.capsule_cgroup(&slice)? {
            Some(cgroup) => {
                if cgroup.verify(&limits)?.iter().any(|row| !row.ok) {
                    cgroup.set(&limits).map(|()| true)
                } else {
                    Ok(false)
                }
            }
            None => Ok(false),
        })
        .await;
        let changed = match set {
            Ok(Ok(changed)) => changed,
            Ok(Err(error)) => return self.failed("change-failed", &error, self.slice.state.get()),
            Err(error) => return self.failed("change-failed", &error, self.slice.state.get()),
        };
        let text = wishes::resources(definition, self.uid(), &self.node.machine.node);
        self.send(&ToInit::Times(wishes::times(definition)));
        self.send(&ToInit::Resources { text });
        if changed {
            self.tell(
                "limits-changed",
                Severity::Info,
                format!(
                    "cpu weight {}, max {}; memory max {}; tasks max {}",
                    definition.cpu.weight,
                    definition.cpu.max.map_or_else(|| "none".to_owned(), |max| max.to_string()),
                    definition.memory.max,
                    definition.tasks.max
                ),
            );
        }
        let state = if self.up.as_ref().is_some_and(|up| up.frozen) {
            SliceState::Frozen
        } else {
            SliceState::Running
        };
        if let Some(up) = &mut self.up {
            up.applied = Some(Rc::clone(definition));
        }
        self.failures = 0;
        self.hold = None;
        self.slice.set(state, None);
        self.slice.settle();
    }

    fn send(&mut self, message: &ToInit) {
        if let Some(up) = &mut self.up
            && let Some(link) = &up.link
            && link.send(message, &[]).is_err()
        {
            self.lose_link();
        }
    }

    fn lose_link(&mut self) {
        if let Some(up) = &mut self.up {
            up.link = None;
            up.applied = None;
        }
        *self.slice.link.borrow_mut() = None;
    }

    fn run_hook(&mut self, hook: Hook, limit: Duration) -> Option<u64> {
        let last = self.slice.said.borrow().as_ref().map_or(0, |said| said.last_run_id);
        let up = self.up.as_mut()?;
        up.run_id = up.run_id.max(last) + 1;
        let id = up.run_id;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.send(&ToInit::Run { id, hook, limit_ms });
        Some(id)
    }

    /// `stop`, grace, kill; afterwards nothing of the capsule is left.
    async fn stop(&mut self, why: &str) {
        let Some(up) = &self.up else {
            if let Err(error) = death::clear(&self.node.machine, &self.slice.name).await {
                self.tell("clear-failed", Severity::Error, error.to_string());
            }
            return;
        };
        let frozen = up.frozen;
        self.slice.set(SliceState::Stopping, Some(why.to_owned()));
        self.tell("capsule-stopping", Severity::Info, why);
        if frozen && let Err(error) = self.set_frozen(false).await {
            self.tell("thaw-failed", Severity::Warning, error.to_string());
        }
        let grace: Duration = self.slice.definition.borrow().control.stop_grace.into();
        let deadline = Instant::now() + grace;
        let present =
            self.slice.said.borrow().as_ref().is_some_and(|said| said.present.contains(&Hook::Stop));
        if present
            && !grace.is_zero()
            && let Some(id) = self.run_hook(Hook::Stop, grace)
        {
            // An elapsed grace is no error: the kill follows either way.
            timeout_at(deadline, self.stopped(id)).await.ok();
        }
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name).await {
            self.tell("clear-failed", Severity::Error, error.to_string());
        }
        self.forget_capsule();
        self.tell("capsule-stopped", Severity::Info, why);
    }

    /// Waits until the `stop` of this number has ended and nothing but capsule-init is left, or it is gone.
    async fn stopped(&mut self, id: u64) {
        loop {
            {
                let said = self.slice.said.borrow();
                let done = said.as_ref().is_some_and(|said| {
                    said.idle
                        && said
                            .hooks
                            .get(&Hook::Stop)
                            .is_some_and(|stop| stop.run_id == id && stop.outcome.is_some())
                });
                if done {
                    return;
                }
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

    async fn keep_down(&mut self, state: SliceState, why: &str) {
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

    /// The definition is gone: stop, kill, storage, ledger. True when nothing is left.
    async fn remove(&mut self) -> bool {
        match self.try_remove().await {
            Ok(()) => true,
            Err(error) => {
                self.failed("remove-failed", &error, SliceState::Removing);
                false
            }
        }
    }

    async fn try_remove(&mut self) -> Result<(), String> {
        if let Some(row) = &mut self.row
            && !row.removing
        {
            self.node.ledger.set_removing(row.name.clone()).await.map_err(|error| error.to_string())?;
            row.removing = true;
        }
        self.stop("its definition is gone").await;
        self.slice.set(SliceState::Removing, None);
        let Some(row) = &self.row else { return Ok(()) };
        let (machine, name, uid) = (Arc::clone(&self.node.machine), row.name.clone(), row.uid);
        let wiped = tokio::task::spawn_blocking(move || birth::wipe(&machine, &name, uid)).await;
        // Whatever became of it, its helper's cgroup goes.
        let cleared = death::clear(&self.node.machine, &self.slice.name).await;
        wiped.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        cleared.map_err(|error| error.to_string())?;
        self.node.ledger.forget(self.slice.name.clone()).await.map_err(|error| error.to_string())?;
        self.row = None;
        self.accepted = None;
        self.failures = 0;
        self.tell("slice-removed", Severity::Info, "capsule and storage are gone");
        Ok(())
    }

    /// Waits for one thing to happen and deals with it.
    async fn wait(&mut self) {
        match self.next().await {
            Wake::Desired => {
                // A new wish is a new chance.
                self.hold = None;
                self.failures = 0;
            }
            Wake::Time => {
                let due = matches!(self.hold, Some(Hold::Until(at)) if at <= Instant::now());
                if due || expired(&self.slice.definition.borrow()) {
                    self.hold = None;
                }
            }
            Wake::Died => self.died().await,
            Wake::Said(Ok(Some(FromInit::State(state)))) => self.heard(*state).await,
            Wake::Said(Ok(Some(_))) => {}
            Wake::Said(Ok(None) | Err(_)) => self.reconnect().await,
            Wake::OutOfMemory => self.out_of_memory(),
            Wake::StatusDue => self.ask_status(),
            Wake::Command(command) => self.obey(command).await,
        }
    }

    async fn next(&mut self) -> Wake {
        let lease = self.lease_look();
        let hold = match self.hold {
            Some(Hold::Until(at)) => Some(at),
            Some(Hold::Indefinitely) | None => None,
        };
        let time = [lease, hold].into_iter().flatten().min();
        let up = self.up.as_ref();
        tokio::select! {
            biased;
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // plabd is ending; the capsule stays.
                    std::future::pending::<()>().await;
                }
                Wake::Desired
            }
            _ = maybe(up.map(|up| &up.pidfd)) => Wake::Died,
            _ = maybe(up.and_then(|up| up.oom.as_ref())) => Wake::OutOfMemory,
            said = hear(up.and_then(|up| up.link.as_deref())) => Wake::Said(said),
            Some(command) = self.commands.recv() => Wake::Command(command),
            () = until(up.and_then(|up| up.next_status)) => Wake::StatusDue,
            () = until(time) => Wake::Time,
        }
    }

    fn lease_look(&self) -> Option<Instant> {
        let expires = self.slice.definition.borrow().expires?.as_second();
        let left = expires - Timestamp::now().as_second();
        let left = Duration::from_secs(u64::try_from(left).ok()?.saturating_add(1));
        Some(Instant::now() + left.min(LEASE_LOOK))
    }

    async fn died(&mut self) {
        let usage = self
            .node
            .machine
            .tree
            .capsule_cgroup(&self.slice.name)
            .ok()
            .flatten()
            .map(|cgroup| cgroup.usage());
        let oom = usage.is_some_and(|usage| usage.oom_kills > 0);
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
        if let Err(error) = death::clear(&self.node.machine, &self.slice.name).await {
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
    fn out_of_memory(&mut self) {
        match self.node.machine.tree.kill(&self.slice.name) {
            Ok(()) => {
                if let Some(up) = &mut self.up {
                    // Its death is seen by the pidfd.
                    up.oom = None;
                }
            }
            Err(error) => self.tell("kill-failed", Severity::Error, error.to_string()),
        }
    }

    async fn heard(&mut self, state: State) {
        let news = report::news(self.slice.said.borrow().as_ref(), &state);
        for (kind, severity, message) in news {
            self.tell(kind, severity, message);
        }
        let configured = state
            .hooks
            .get(&Hook::Configure)
            .is_some_and(|configure| configure.outcome.as_ref().is_some_and(HookOutcome::is_success));
        let status = state.present.contains(&Hook::Status);
        *self.slice.said.borrow_mut() = Some(state);
        if configured
            && let Some(row) = &mut self.row
            && !row.configured
        {
            match self.node.ledger.set_configured(row.name.clone()).await {
                Ok(()) => row.configured = true,
                Err(error) => self.tell("ledger-failed", Severity::Error, error.to_string()),
            }
        }
        if let Some(up) = &mut self.up {
            up.next_status = match (status, up.next_status) {
                (false, _) => None,
                (true, Some(at)) => Some(at),
                // Soon after the script is there, then at the interval.
                (true, None) => Some(Instant::now() + BACKOFF.0),
            };
        }
    }

    fn ask_status(&mut self) {
        let (interval, limit): (Duration, Duration) = {
            let definition = self.slice.definition.borrow();
            (definition.control.status_interval.into(), definition.control.status_limit.into())
        };
        if self.up.as_ref().is_some_and(|up| !up.frozen) {
            self.run_hook(Hook::Status, limit);
        }
        if let Some(up) = &mut self.up {
            up.next_status = Some(Instant::now() + interval);
        }
    }

    /// The link was lost and capsule-init was not: finds it again.
    async fn reconnect(&mut self) {
        self.lose_link();
        // It may be dying, which the pidfd is about to say.
        sleep(Duration::from_millis(50)).await;
        match find(&self.node.machine, &self.slice.name, self.uid()) {
            Ok(Found::Running(capsule)) if self.up.as_ref().is_some_and(|up| up.pid == capsule.pid) => {
                if let (Ok(link), Some(up)) = (Link::new(capsule.link), &mut self.up) {
                    let link = Rc::new(link);
                    up.link = Some(Rc::clone(&link));
                    *self.slice.link.borrow_mut() = Some(link);
                }
            }
            Ok(_) => {}
            Err(error) => self.tell("link-lost", Severity::Warning, error.to_string()),
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Restart(answer) => {
                let desired = self.desired.borrow().clone();
                let Desired::Run(definition) = desired else {
                    answer
                        .send(Err(refused(
                            ErrorCode::WrongState,
                            "it is not to run: the node is drained or the slice is going",
                        )))
                        .ok();
                    return;
                };
                if expired(&definition) {
                    answer.send(Err(refused(ErrorCode::WrongState, "its lease has ended"))).ok();
                    return;
                }
                self.stop("a restart was asked for").await;
                self.hold = None;
                self.failures = 0;
                self.start(&definition).await;
                let detail = self.slice.detail.borrow().clone();
                answer
                    .send(match self.slice.state.get() {
                        SliceState::Running => Ok(format!("{} runs", self.slice.name)),
                        _ => Err(refused(
                            ErrorCode::Failed,
                            detail.unwrap_or_else(|| "it did not start".into()),
                        )),
                    })
                    .ok();
            }
            Command::Freeze(answer) => self.freeze(true, answer).await,
            Command::Thaw(answer) => self.freeze(false, answer).await,
        }
    }

    async fn freeze(&mut self, frozen: bool, answer: crate::slice::Answer) {
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

    async fn set_frozen(&mut self, frozen: bool) -> Result<(), KernelError> {
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

fn expired(definition: &Definition) -> bool {
    definition.expires.is_some_and(|expires| expires.as_second() <= Timestamp::now().as_second())
}

/// Ready when the descriptor is; never without one.
async fn maybe(fd: Option<&AsyncFd<std::os::fd::OwnedFd>>) {
    match fd {
        Some(fd) => {
            // An error shows as readiness, too: whoever reads sees it.
            fd.readable().await.map(|mut guard| guard.clear_ready()).ok();
        }
        None => std::future::pending().await,
    }
}

async fn hear(link: Option<&Link>) -> std::io::Result<Option<FromInit>> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
