//! Who sent what to whom: the store of flow records, kept up to date with whose capsules are whose and what time it is.
//!
//! The store may be unusable, on a full disk or after a downgrade; the node then goes on without it and says so. Questions
//! are asked on threads of their own, so few at a time that they are no burden: plabd's one thread waits for none.

mod drain;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use plab_flows::{
    ClockReading, Filter, FlowError, FlowReader, FlowRow, FlowSink, Kept, Owner, Senders, Store, StoreLimits,
};
use plab_protocol::control::{ErrorCode, ErrorReply, Severity};
use plab_protocol::flows::PAGE;
use plab_sandbox::KernelError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use self::drain::Drain;
use crate::clock::Clock;
use crate::machine::Machine;
use crate::node::Node;
use crate::slice::{Slice, refused};

/// Questions at the same time, of root and, apart from these, of all slices together.
const AT_ONCE: usize = 2;

/// Pages that wait for a client: with more, one that reads slowly would fill the memory.
const PAGES: usize = 2;

/// The longest time that the end of plabd waits for the store's.
const CLOSING: Duration = Duration::from_secs(5);

/// Between two looks at whether records were lost.
const LOOK: Duration = Duration::from_secs(60);

/// A clock that differs by less is the same: two readings are never made at one instant. Milliseconds.
const SAME: i64 = 100;

/// The flow store of the node.
pub struct Flows {
    store: RefCell<Option<Store>>,
    drain: RefCell<Option<Drain>>,
    /// Where the kernel's records go, and what answers; or why there is neither.
    ways: Result<(FlowSink, FlowReader), String>,
    clock: Cell<ClockReading>,
    of_root: Semaphore,
    of_slices: Semaphore,
    /// One of a slice at a time, by its UID: it does not take the turns of the others.
    of_each: RefCell<BTreeMap<u32, Rc<Semaphore>>>,
}

impl Flows {
    /// Opens the store of this boot.
    pub fn open(machine: &Machine, boot: &str, clock: &Clock) -> Self {
        let keep = machine.node.flows;
        let limits = StoreLimits { keep: keep.keep.get(), max: keep.max.get() };
        let clock = reading(clock);
        let (store, ways) = match Store::open(&machine.paths.flows, boot, clock, limits) {
            Ok(store) => {
                let ways = (store.sink(), store.reader());
                (Some(store), Ok(ways))
            }
            Err(error) => (None, Err(error.to_string())),
        };
        Self {
            store: RefCell::new(store),
            drain: RefCell::new(None),
            ways,
            clock: Cell::new(clock),
            of_root: Semaphore::new(AT_ONCE),
            of_slices: Semaphore::new(AT_ONCE),
            of_each: RefCell::default(),
        }
    }

    /// Begins to take the kernel's records, once it is known whose they are.
    ///
    /// # Errors
    /// The kernel refuses, or no thread can be started.
    pub fn begin(&self, machine: &Machine) -> Result<(), KernelError> {
        // Without either there is nothing to be taken, or nowhere to go; both are told where the node's state is.
        let (Some(guard), Ok((sink, _))) = (machine.guard(), &self.ways) else { return Ok(()) };
        let drain = Drain::start(guard.flows()?, sink.clone())
            .map_err(|error| KernelError::new("start", "the thread that takes flow records", error))?;
        *self.drain.borrow_mut() = Some(drain);
        Ok(())
    }

    /// Says whose the flows of a slice's capsule are from now on.
    pub fn tell_owner(&self, machine: &Machine, slice: &Slice) {
        // A cgroup that is gone sends nothing more.
        if let Ok(Some(cgroup)) = machine.tree.capsule_id(&slice.name) {
            self.teller(slice)(cgroup);
        }
    }

    /// What says, also on another thread, that the flows of a cgroup are this slice's from now on.
    pub fn teller(&self, slice: &Slice) -> impl FnOnce(u64) + Send + 'static {
        let sink = self.ways.as_ref().ok().map(|(sink, _)| sink.clone());
        let owner = Owner {
            slice: slice.name.clone(),
            uid: slice.uid.get(),
            contact: slice.definition.borrow().contact.clone(),
        };
        move |cgroup| {
            if let Some(sink) = sink {
                sink.set_owner(cgroup, owner);
            }
        }
    }

    /// Says what time it is, after it was judged anew.
    pub fn tell_clock(&self, clock: &Clock) {
        let (now, before) = (reading(clock), self.clock.get());
        if let Ok((sink, _)) = &self.ways
            && (now.believed != before.believed || (now.zero - before.zero).abs() >= SAME)
        {
            self.clock.set(now);
            sink.set_clock(now);
        }
    }

    /// What is kept, and what was lost in the time that `filter` asks about.
    pub fn kept(&self, filter: &Filter) -> Kept {
        match &self.ways {
            Ok((_, reader)) => {
                let mut kept = reader.kept(filter);
                kept.trouble = kept.trouble.or_else(|| self.drain.borrow().as_ref().and_then(Drain::trouble));
                kept
            }
            Err(why) => Kept { trouble: Some(why.clone()), ..Kept::default() },
        }
    }

    fn reader(&self) -> Result<FlowReader, ErrorReply> {
        match &self.ways {
            Ok((_, reader)) => Ok(reader.clone()),
            Err(why) => Err(refused(ErrorCode::Failed, why.clone())),
        }
    }

    /// Who sent what `filter` says.
    ///
    /// # Errors
    /// It takes too long, or there is no store.
    pub async fn who_sent(&self, filter: Filter) -> Result<Senders, ErrorReply> {
        let reader = self.reader()?;
        let _turn = turn(&self.of_root).await?;
        let (answer, answered) = oneshot::channel();
        start(move || {
            // Whoever asked may have gone.
            answer.send(reader.who_sent(&filter)).ok();
        })?;
        let failed = |error: FlowError| refused(ErrorCode::Failed, error.to_string());
        answered.await.map_err(|_| failed(FlowError::Closed))?.map_err(failed)
    }

    /// Hands the flows that `filter` says to `send`, in pages, until it is false; with `newest` only so many. Returns what is kept.
    /// `slice` is the UID of the slice that asks; none for root.
    ///
    /// # Errors
    /// There is no store.
    pub async fn list(
        &self,
        filter: Filter,
        newest: Option<u32>,
        slice: Option<u32>,
        mut send: impl AsyncFnMut(Vec<FlowRow>) -> bool,
    ) -> Result<Kept, ErrorReply> {
        let reader = self.reader()?;
        let own = slice.map(|uid| self.own_turn(uid));
        let _own = match &own {
            Some(own) => Some(turn(own).await?),
            None => None,
        };
        let _turn = turn(if slice.is_none() { &self.of_root } else { &self.of_slices }).await?;
        let (pages, mut arriving) = mpsc::channel(PAGES);
        start(move || {
            let mut page = Vec::new();
            let damaged = reader.flows(&filter, newest, |row| {
                page.push(row);
                if page.len() < PAGE || pages.blocking_send(Ok(std::mem::take(&mut page))).is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            let mut kept = reader.kept(&filter);
            kept.damaged.extend(damaged);
            // Whoever asked may have gone.
            if pages.blocking_send(Ok(page)).is_ok() {
                pages.blocking_send(Err(kept)).ok();
            }
        })?;
        while let Some(arrived) = arriving.recv().await {
            match arrived {
                Ok(page) => {
                    if !page.is_empty() && !send(page).await {
                        break;
                    }
                }
                Err(kept) => return Ok(kept),
            }
        }
        Err(refused(ErrorCode::Failed, "the answer was not read to its end"))
    }

    fn own_turn(&self, uid: u32) -> Rc<Semaphore> {
        let mut of_each = self.of_each.borrow_mut();
        // Those of slices that do not ask now are nobody's.
        of_each.retain(|_, turn| Rc::strong_count(turn) > 1);
        Rc::clone(of_each.entry(uid).or_insert_with(|| Rc::new(Semaphore::new(1))))
    }

    /// Writes what was delivered and ends the store.
    pub async fn close(&self) {
        if let Some(store) = self.store.take() {
            let drain = self.drain.take();
            let (done, closed) = oneshot::channel::<()>();
            // Not on the pool, which may be busy, and not for ever: what was written is whole in any case.
            let begun = start(move || {
                if let Some(drain) = drain {
                    drain.stop();
                }
                store.close();
                drop(done);
            });
            if begun.is_ok() {
                tokio::time::timeout(CLOSING, closed).await.ok();
            }
        }
    }
}

async fn turn(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, ErrorReply> {
    semaphore.acquire().await.map_err(|_| refused(ErrorCode::Failed, "the flow store is closed"))
}

/// A thread beside the pool, in which capsules wait for their births.
fn start(work: impl FnOnce() + Send + 'static) -> Result<(), ErrorReply> {
    let started = std::thread::Builder::new().name("flows-ask".into()).spawn(work);
    started
        .map(drop)
        .map_err(|error| refused(ErrorCode::Failed, format!("could not start a thread: {error}")))
}

/// What time it is, as the node judges it.
fn reading(clock: &Clock) -> ClockReading {
    let boottime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let boottime = boottime.tv_sec * 1000 + boottime.tv_nsec / 1_000_000;
    ClockReading { zero: clock.now().as_millisecond() - boottime, believed: clock.state().is_believed() }
}

/// Reports what was lost and what cannot be read or written, for as long as plabd runs.
pub async fn follow(node: Rc<Node>) {
    let before = node.flows.kept(&Filter::default());
    let mut told = Kept { trouble: None, damaged: Vec::new(), ..before };
    loop {
        let now = node.flows.kept(&Filter::default());
        for damaged in now.damaged.iter().filter(|damaged| !told.damaged.contains(damaged)) {
            node.events.report(None, "flows-damaged", Severity::Error, damaged.clone());
        }
        match (&now.trouble, &told.trouble) {
            (Some(trouble), None) => {
                let message = format!("{trouble}; who sends what is not recorded until it can be written");
                node.events.report(None, "flows-failed", Severity::Error, message);
            }
            (None, Some(_)) => {
                let message = "the flow store can be written again";
                node.events.report(None, "flows-recovered", Severity::Notice, message);
            }
            _ => {}
        }
        let lost = |kept: &Kept| kept.lost_kernel + kept.lost_store + kept.unread;
        let more = lost(&now).saturating_sub(lost(&told));
        if more > 0 {
            let message = format!(
                "{more} flow records: {} were lost in the kernel, {} on the way to disk, {} were not understood, of all that are kept",
                now.lost_kernel, now.lost_store, now.unread
            );
            node.events.report(None, "flows-lost", Severity::Warning, message);
        }
        told = now;
        tokio::time::sleep(LOOK).await;
    }
}
