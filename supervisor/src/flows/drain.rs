//! From the kernel's slots to the store, once a second, on a thread of its own.
//!
//! The slots are emptied when the store has written what was in them, so neither a crash of plabd nor a full disk loses what
//! the kernel has room for. A plabd that is killed between the two leaves a second's records to be told again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plab_flows::FlowSink;
use plab_sandbox::KernelError;
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

/// The thread; ends with [`Self::stop`].
pub struct Drain {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    stop: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), trouble: Mutex::default() });
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
        self.shared.stop.store(true, Ordering::Relaxed);
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
fn turn(tap: &mut FlowTap, sink: &FlowSink, shared: &Shared) -> Result<(), KernelError> {
    tap.turn_away()?;
    let lost = tap.lost()?;
    let mut none = lost == 0;
    let all = tap.records(|record| {
        none = false;
        take(sink, record, shared)
    });
    if none {
        tap.told(0);
        return Ok(());
    }
    sink.lost_in_kernel(lost);
    // What was not taken, or is not written, stays in the kernel, for the next plabd.
    if all && written(sink, shared) {
        tap.told(lost);
    }
    Ok(())
}

/// False if the store had no room before the end.
fn take(sink: &FlowSink, record: &[u8], shared: &Shared) -> bool {
    loop {
        match sink.try_deliver(record) {
            // One that is not understood is counted.
            Ok(true) | Err(_) => return true,
            Ok(false) if shared.stopping() => return false,
            Ok(false) => std::thread::sleep(ROOM),
        }
    }
}

/// Waits until what was taken is written; false if it is not before the end.
fn written(sink: &FlowSink, shared: &Shared) -> bool {
    loop {
        if sink.flush().is_ok() {
            return true;
        }
        if shared.stopping() {
            return false;
        }
        std::thread::park_timeout(RETRY);
    }
}
