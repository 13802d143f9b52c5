//! From the kernel's slots to the store, once a second, on a thread of its own.
//!
//! The slots are emptied when the store has written what was in them, so neither a crash of plabd nor a full disk loses what
//! the kernel has room for. A plabd that is killed between the two leaves a second's records to be told again.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plab_flows::{FlowError, FlowSink, Took};
use plab_sandbox::net::FlowTap;

/// Between two turns.
const TURN: Duration = Duration::from_secs(1);
/// Between two looks, each a load from memory, at whether many flows have come.
const LOOK: Duration = Duration::from_millis(100);
/// Many.
const MANY: usize = FlowTap::MOST / 8;
/// Between two attempts to give the store what it has no room for.
const ROOM: Duration = Duration::from_millis(2);
/// Between two attempts to have written what it took.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end waits for a disk. What is not written by then stays in the kernel, for the next plabd.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// Why nothing is taken when nobody takes it.
const ENDED: &str = "the flow store's thread has ended; restart plabd";

/// The thread; ends with [`Self::stop`].
pub struct Drain {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Since when it is to end.
    stop: OnceLock<Instant>,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.get().is_some()
    }

    /// It was told to end, and has had its last chance.
    fn overdue(&self) -> bool {
        self.stop.get().is_some_and(|since| since.elapsed() > LAST_CHANCE)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    /// Begins, with what a former plabd left.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(tap: FlowTap, sink: FlowSink) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("flows-drain".into())
            .spawn(move || serve(tap, &sink, &theirs))?;
        Ok(Self { shared, thread })
    }

    /// Why the kernel's records cannot be had at present, if so.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble().clone()
    }

    /// Takes what there is a last time, and ends. Blocks.
    pub fn stop(self) {
        self.shared.stop.get_or_init(Instant::now);
        self.thread.thread().unpark();
        // It panicked: told on standard error.
        self.thread.join().ok();
    }
}

fn serve(mut tap: FlowTap, sink: &FlowSink, shared: &Shared) {
    loop {
        let last = shared.stopping();
        let done = turn(&mut tap, sink, shared);
        if let Err(error) = &done {
            tracing::error!("flow records: {error}");
        }
        *shared.trouble() = done.err().map(|error| format!("flow records: {error}"));
        if last {
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < TURN && tap.waiting() < MANY && !shared.stopping() {
            // Not slept through if `stop` came meanwhile: the thread is unparked already.
            std::thread::park_timeout(LOOK);
        }
    }
}

/// Moves one set of slots to the store.
fn turn(tap: &mut FlowTap, sink: &FlowSink, shared: &Shared) -> Result<(), String> {
    let failed = |error: plab_sandbox::KernelError| error.to_string();
    tap.turn_away().map_err(failed)?;
    let lost = tap.lost().map_err(failed)?;
    let mut none = lost == 0;
    let mut took = Took::Yes;
    tap.records(|record| {
        none = false;
        took = take(sink, record, shared);
        took == Took::Yes
    });
    if none {
        tap.told(0);
        return Ok(());
    }
    // What was not taken, or is not written, stays in the kernel, for the next plabd.
    match took {
        Took::Ended => return Err(ENDED.to_owned()),
        Took::NoRoom => return Ok(()),
        Took::Yes => sink.lost_in_kernel(lost),
    }
    if written(sink, shared)? {
        tap.told(lost);
    }
    Ok(())
}

/// Gives it to the store; waits for room until the end.
fn take(sink: &FlowSink, record: &[u8], shared: &Shared) -> Took {
    loop {
        match sink.try_deliver(record) {
            Ok(Took::NoRoom) if !shared.stopping() => std::thread::sleep(ROOM),
            Ok(took) => return took,
            // One that is not understood is counted.
            Err(_) => return Took::Yes,
        }
    }
}

/// Waits until what was taken is written; false if it is not before the end.
fn written(sink: &FlowSink, shared: &Shared) -> Result<bool, String> {
    loop {
        match sink.flush(|| shared.overdue()) {
            Ok(()) => return Ok(true),
            Err(FlowError::Closed) => return Err(ENDED.to_owned()),
            Err(_) if shared.stopping() => return Ok(false),
            // The store itself says why.
            Err(_) => std::thread::park_timeout(RETRY),
        }
    }
}
