//! The state machine of one slice: brings what runs to what is desired, and keeps it there.
//!
//! Level-triggered: each turn looks at what is desired and what is, and takes one step. A step that plabd did
//! not finish is found by the next plabd in the ledger, the cgroup or the capsule-init's own word, and finished.

mod account;
mod configured;
mod fall;
mod freezer;
mod rise;
mod talk;

use std::rc::Rc;
use std::time::Duration;

use plab_config::Definition;
use plab_protocol::control::{ErrorCode, Severity, SliceState};
use plab_sandbox::message::FromInit;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::configured::Configured;
use super::link::Link;
use crate::ledger::SliceRow;
use crate::node::Node;
use crate::slice::{Command, Desired, Slice, refused};

/// Between attempts at something that failed: doubled up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What ran this long had started well: the next failure counts as a first one.
const STEADY: Duration = Duration::from_secs(60);

/// The longest sleep towards a lease's end: the clock may be set meanwhile.
const LEASE_LOOK: Duration = Duration::from_secs(3600);

/// A capsule that is up.
struct Up {
    pid: i32,
    pidfd: AsyncFd<std::os::fd::OwnedFd>,
    oom: Option<AsyncFd<std::os::fd::OwnedFd>>,
    /// The kernel has said that memory ran out.
    out_of_memory: bool,
    link: Option<Rc<Link>>,
    /// When to look for it again, while it is lost.
    relink: Option<Instant>,
    /// The last request number used; see [`ToInit::Run`].
    run_id: u64,
    frozen: bool,
    since: Instant,
    next_status: Option<Instant>,
    /// When a `start` that failed is run again, and when it was last begun.
    next_start: Option<Instant>,
    started: Instant,
    /// It was made by a former plabd.
    adopted: bool,
    /// Since when there is this link.
    linked: Instant,
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
    /// What the account is of, and whether keys may log in.
    account: Option<(Rc<Definition>, bool)>,
    /// Set when nothing is to be tried before this time or a change.
    hold: Option<Hold>,
    failures: u32,
    configured: Configured,
    /// Told when the clock was set, or capsules may be made.
    world: watch::Receiver<()>,
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
    LinkDue,
    StatusDue,
    StartDue,
    Synced(Result<(), String>),
    RecordDue,
    Time,
    World,
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
        let world = node.world();
        Self {
            node,
            slice,
            desired,
            commands,
            row,
            accepted: None,
            account: None,
            up: None,
            hold: None,
            failures: 0,
            configured: Configured::default(),
            world,
        }
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
                *self.slice.definition.borrow_mut() = Rc::clone(&definition);
                let open = !self.expired(&definition);
                self.keep_account(&definition, open).await;
                self.keep_down(SliceState::Stopped, "the node is drained").await;
            }
            Desired::Run(definition) => {
                if let Err(error) = self.accept(&definition).await {
                    self.failed("accept-failed", &error, self.slice.state.get());
                } else if self.expired(&definition) {
                    let why = "the lease has ended; storage is kept until the definition goes";
                    self.keep_account(&definition, false).await;
                    self.keep_down(SliceState::Expired, why).await;
                } else {
                    self.keep_account(&definition, true).await;
                    if self.up.is_some() {
                        self.apply(&definition).await;
                    } else if let Some(why) = self.node.births_held() {
                        self.slice.set(SliceState::Starting, Some(why));
                        self.slice.settle();
                    } else {
                        self.start(&definition).await;
                    }
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
        let pause = backoff(self.failures);
        self.failures += 1;
        self.hold = Some(Hold::Until(Instant::now() + pause));
        let said = format!("{message}; next attempt in {} s", pause.as_secs());
        self.tell(kind, Severity::Error, said.clone());
        self.slice.set(state, Some(said));
        self.slice.settle_failed();
    }

    /// Whether the lease has ended, by the time that the node believes.
    fn expired(&self, definition: &Definition) -> bool {
        definition.expires.is_some_and(|expires| expires.as_second() <= self.node.clock.now().as_second())
    }

    fn uid(&self) -> u32 {
        self.slice.uid.get()
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
                if due || self.expired(&self.slice.definition.borrow()) {
                    self.hold = None;
                }
            }
            Wake::World => {
                if self.expired(&self.slice.definition.borrow()) {
                    self.hold = None;
                }
            }
            Wake::Died => self.died().await,
            Wake::Said(Ok(Some(FromInit::State(state)))) => self.heard(*state).await,
            Wake::Said(Ok(Some(_))) => {}
            Wake::Said(Ok(None) | Err(_)) => self.lose_link(),
            Wake::LinkDue => self.reconnect(),
            Wake::OutOfMemory => self.out_of_memory(),
            Wake::StatusDue => self.ask_status(),
            Wake::StartDue => self.start_again(),
            Wake::Synced(synced) => self.configured_synced(synced).await,
            Wake::RecordDue => self.record_configured(),
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
        let record = self.configured.again();
        tokio::select! {
            biased;
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // plabd is ending; the capsule stays.
                    std::future::pending::<()>().await;
                }
                Wake::Desired
            }
            Ok(()) = self.world.changed() => Wake::World,
            _ = maybe(up.map(|up| &up.pidfd)) => Wake::Died,
            _ = maybe(up.and_then(|up| up.oom.as_ref())) => Wake::OutOfMemory,
            said = hear(up.and_then(|up| up.link.as_deref())) => Wake::Said(said),
            Some(command) = self.commands.recv() => Wake::Command(command),
            () = until(up.and_then(|up| up.relink)) => Wake::LinkDue,
            () = until(up.and_then(|up| up.next_status)) => Wake::StatusDue,
            () = until(up.and_then(|up| up.next_start)) => Wake::StartDue,
            synced = self.configured.synced() => Wake::Synced(synced),
            () = until(record) => Wake::RecordDue,
            () = until(time) => Wake::Time,
        }
    }

    fn lease_look(&self) -> Option<Instant> {
        let expires = self.slice.definition.borrow().expires?.as_second();
        let left = expires - self.node.clock.now().as_second();
        let left = Duration::from_secs(u64::try_from(left).ok()?.saturating_add(1));
        Some(Instant::now() + left.min(LEASE_LOOK))
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
                if self.expired(&definition) {
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
}

/// How long to wait after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << failures.min(6)).min(BACKOFF.1)
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
