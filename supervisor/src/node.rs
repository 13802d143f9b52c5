//! The node: its slices' tasks, and how definitions reach them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plab_config::{ConfigError, Definition, DefinitionSet, ErrorKind, SliceName};
use plab_protocol::control::{Severity, SliceState};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::admission;
use crate::boots::Boot;
use crate::capsule::task::Task;
use crate::clock::Clock;
use crate::events::Events;
use crate::flows::Flows;
use crate::ledger::{Ledger, SliceRow};
use crate::machine::Machine;
use crate::power::Power;
use crate::sessions::Sessions;
use crate::slice::{Command, Desired, Handle, Slice};

/// How long a slice is waited for that has a socket on a port of another's: longer than most grace periods.
const LETTING_GO: Duration = Duration::from_secs(15);

/// Everything plabd knows; one thread owns it.
pub struct Node {
    /// What capsules are made of.
    pub machine: Arc<Machine>,
    /// What was done.
    pub ledger: Ledger,
    /// What happens.
    pub events: Events,
    /// Who is in.
    pub sessions: Sessions,
    /// Definitions by file, good and bad.
    pub set: RefCell<DefinitionSet>,
    /// The slices' tasks.
    pub slices: RefCell<BTreeMap<String, Handle>>,
    /// No capsule is to run until plabd starts anew.
    drained: Cell<bool>,
    /// What time it is.
    pub clock: Clock,
    /// The machine's present boot.
    pub boot: Boot,
    /// Who sent what to whom.
    pub flows: Flows,
    /// The reboot that is to come.
    pub power: Power,
    /// Why no capsule is made now, if so.
    births_held: RefCell<Option<String>>,
    /// Told when something changes that every slice is judged by: the clock, or whether capsules may be made.
    world: watch::Sender<()>,
    /// A slice has let go of a port that another may have been refused for.
    ports_let_go: Cell<bool>,
    adopting: Cell<usize>,
    change: Notify,
}

impl Node {
    /// A node without slices.
    pub fn new(
        machine: Arc<Machine>,
        ledger: Ledger,
        events: Events,
        clock: Clock,
        boot: Boot,
        sessions: Sessions,
        flows: Flows,
    ) -> Self {
        Self {
            machine,
            ledger,
            events,
            sessions,
            set: RefCell::new(DefinitionSet::new()),
            slices: RefCell::new(BTreeMap::new()),
            drained: Cell::new(false),
            clock,
            boot,
            flows,
            power: Power::new(),
            births_held: RefCell::new(None),
            world: watch::Sender::new(()),
            ports_let_go: Cell::new(false),
            adopting: Cell::new(0),
            change: Notify::new(),
        }
    }

    /// A task has found out what a former plabd left of its capsule.
    pub fn adopted(&self) {
        self.adopting.set(self.adopting.get().saturating_sub(1));
        self.changed();
    }

    /// How many tasks have not.
    pub fn still_adopting(&self) -> usize {
        self.adopting.get()
    }

    /// Keeps capsules from being made, and says why; or lets them be made again.
    pub fn hold_births(&self, why: Option<String>) {
        *self.births_held.borrow_mut() = why;
        self.world_changed();
    }

    /// Why no capsule is made now, if so.
    pub fn births_held(&self) -> Option<String> {
        self.births_held.borrow().clone()
    }

    /// Something has changed that every slice is judged by.
    pub fn world_changed(&self) {
        self.world.send_replace(());
    }

    /// Tells when [`Self::world_changed`] is called.
    pub fn world(&self) -> watch::Receiver<()> {
        self.world.subscribe()
    }

    /// Something that [`Self::wait_until`] may wait for has changed.
    pub fn changed(&self) {
        self.change.notify_waiters();
    }

    /// Waits until `done` holds; it is asked again at each change.
    pub async fn wait_until(&self, done: impl Fn() -> bool) {
        loop {
            let change = self.change.notified();
            if done() {
                return;
            }
            change.await;
        }
    }

    /// Takes in what a file says now, and brings the slices it changes. A definition that is well-formed and that
    /// the node can hold comes into effect; anything else is noted against the file, and what was in effect stays.
    pub fn file_read(self: &Rc<Self>, path: &Path, read: Result<Definition, Vec<ConfigError>>) {
        self.note(path, read).iter().for_each(|name| self.bring(name));
        if self.ports_let_go.take() {
            self.retry_conflicts();
        }
    }

    /// As [`Self::file_read`], and brings nothing. Returns the slices whose definition in effect has changed.
    pub fn note(&self, path: &Path, read: Result<Definition, Vec<ConfigError>>) -> Vec<SliceName> {
        // A file that takes another name brings its ports along.
        let former = self.set.borrow().defined_by(path).cloned();
        let former = former.as_ref().map(SliceName::as_str);
        let read = read
            .and_then(|definition| admission::admit(definition, former, &self.machine))
            .and_then(|definition| self.claim_ports(path, definition, former));
        let mut set = self.set.borrow_mut();
        let changed = set.upsert(path, read).changed;
        for error in set.errors_of(path) {
            self.events.report(None, "definition-refused", Severity::Error, error.to_string());
        }
        changed
    }

    /// Claims the ports of a definition that is about to come into effect; one that waits for its name claims nothing.
    fn claim_ports(
        &self,
        path: &Path,
        definition: Definition,
        former: Option<&str>,
    ) -> Result<Definition, Vec<ConfigError>> {
        let waits = self.set.borrow().source(&definition.name).is_some_and(|holder| holder != path);
        if waits {
            return Ok(definition);
        }
        match self.machine.ports.claim(definition.name.as_str(), former, &definition.network.ports) {
            Ok(let_go) => {
                self.ports_let_go.set(self.ports_let_go.get() || let_go);
                Ok(definition)
            }
            Err(taken) => Err(vec![admission::conflict(&definition, &taken)]),
        }
    }

    /// Reads those files again that were refused for a port which another slice had.
    pub fn retry_conflicts(self: &Rc<Self>) {
        let errors = self.set.borrow().errors();
        for (file, errors) in errors {
            if errors.iter().any(|error| error.kind == ErrorKind::Conflict && error.key == admission::PORTS) {
                self.file_read(&file, Definition::load(&file, &self.machine.node));
            }
        }
    }

    /// Ends what a slice has of ports that are another's now: its capsule is stopped and started, because a socket that
    /// was bound by name keeps its port for as long as its process has it. Returns when that is done, or at the latest
    /// after a while: two slices may wait for each other.
    pub async fn take_ports_from(&self, holder: &str, owner: &str) {
        let (answer, done) = oneshot::channel();
        if let Some(handle) = self.slices.borrow().get(holder) {
            let message = format!("it has a socket on a port that is {owner}'s now: stop, then start");
            self.events.report(Some(holder), "restart-needed", Severity::Notice, message);
            handle.commands.send(Command::Restart(answer)).ok();
        }
        // Whether it started again is its own task's to say.
        tokio::time::timeout(LETTING_GO, done).await.ok();
    }

    /// Takes in that a file is gone.
    pub fn file_gone(self: &Rc<Self>, path: &Path) {
        let changed = self.set.borrow_mut().remove(path).changed;
        changed.iter().for_each(|name| self.bring(name));
    }

    /// Tells a slice's task what is desired now, starting one if there is none.
    fn bring(self: &Rc<Self>, name: &SliceName) {
        let desired = match self.set.borrow().get(name) {
            None => Desired::Gone,
            Some(definition) if self.drained.get() => Desired::Drained(Rc::new(definition.clone())),
            Some(definition) => Desired::Run(Rc::new(definition.clone())),
        };
        let handle = self.slices.borrow().get(name.as_str()).cloned();
        match (handle, desired) {
            (Some(handle), desired) => {
                handle.desired.send_replace(desired);
            }
            (None, Desired::Gone) => {}
            (None, desired) => self.start_task(desired, None),
        }
    }

    /// Starts the tasks of all slices that the ledger knows, so that what a former plabd left is adopted, ended, or
    /// cleared away: those with a definition to run, the others to go.
    pub fn resume(self: &Rc<Self>, rows: Vec<SliceRow>, last_good: &BTreeMap<String, Definition>) {
        for row in rows {
            let desired =
                match row.name.parse().ok().and_then(|name: SliceName| self.set.borrow().get(&name).cloned())
                {
                    Some(definition) => Some((Rc::new(definition), true)),
                    None => last_good.get(&row.name).map(|definition| (Rc::new(definition.clone()), false)),
                };
            let Some((definition, wanted)) = desired else {
                let message = format!(
                    "its last definition in the ledger cannot be read any more; its capsule is left as it is: {}",
                    row.definition
                );
                self.events.report(Some(&row.name), "ledger-unreadable", Severity::Error, message);
                continue;
            };
            let desired = Desired::Run(Rc::clone(&definition));
            self.start_task(desired, Some(row.clone()));
            if !wanted && let Some(handle) = self.slices.borrow().get(&row.name) {
                handle.desired.send_replace(Desired::Gone);
            }
        }
    }

    /// Brings every slice of the set that has no task yet.
    pub fn bring_all(self: &Rc<Self>) {
        let new: Vec<SliceName> = {
            let slices = self.slices.borrow();
            self.set
                .borrow()
                .iter()
                .map(|definition| definition.name.clone())
                .filter(|name| !slices.contains_key(name.as_str()))
                .collect()
        };
        new.iter().for_each(|name| self.bring(name));
    }

    fn start_task(self: &Rc<Self>, desired: Desired, row: Option<SliceRow>) {
        let definition = match &desired {
            Desired::Run(definition) | Desired::Drained(definition) => Rc::clone(definition),
            Desired::Gone => return,
        };
        let slice = Rc::new(Slice::new(definition));
        let (desired, wishes) = watch::channel(desired);
        let (commands, inbox) = mpsc::unbounded_channel();
        let handle = Handle { slice: Rc::clone(&slice), desired: Rc::new(desired), commands };
        self.slices.borrow_mut().insert(slice.name.clone(), handle);
        self.adopting.set(self.adopting.get() + 1);
        tokio::task::spawn_local(Task::new(Rc::clone(self), slice, wishes, inbox, row).run());
    }

    /// Takes a drain back: every slice is to run again.
    pub fn undrain(self: &Rc<Self>) {
        self.drained.set(false);
        for handle in self.slices.borrow().values() {
            handle.desired.send_if_modified(|desired| match desired {
                Desired::Drained(definition) => {
                    *desired = Desired::Run(Rc::clone(definition));
                    true
                }
                Desired::Run(_) | Desired::Gone => false,
            });
        }
    }

    /// Whether a drain has come to its end: no capsule runs, and none is to.
    pub fn is_empty(&self) -> bool {
        let slices = self.slices.borrow();
        self.drained.get() && slices.values().all(|handle| handle.slice.state.get() == SliceState::Stopped)
    }

    /// Stops every capsule and keeps them stopped; returns when the last is down.
    pub async fn drain(self: &Rc<Self>) {
        self.drained.set(true);
        self.events.report(
            None,
            "node-drained",
            Severity::Notice,
            "every capsule is stopped and kept stopped",
        );
        let handles: Vec<Handle> = self.slices.borrow().values().cloned().collect();
        let mut waits = Vec::new();
        for handle in handles {
            let definition = match &*handle.desired.borrow() {
                Desired::Run(definition) | Desired::Drained(definition) => Rc::clone(definition),
                Desired::Gone => continue,
            };
            handle.desired.send_replace(Desired::Drained(definition));
            waits.push((handle.slice.settled.subscribe(), handle));
        }
        for (mut settled, handle) in waits {
            while handle.slice.state.get() != SliceState::Stopped
                && self.slices.borrow().contains_key(&handle.slice.name)
            {
                if settled.changed().await.is_err() {
                    break;
                }
            }
        }
    }
}
