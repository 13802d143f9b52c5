//! What is seen on the terminal while something is measured; on standard error, so that the table stays clean.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two rewritings of the line: often enough to live, too rarely to be measured.
const PACE: Duration = Duration::from_millis(250);

/// The progress of one part.
pub struct Progress {
    part: String,
    terminal: bool,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// Part `number` of `of`.
    pub fn new(number: usize, of: usize) -> Self {
        Self {
            part: format!("[{number}/{of}]"),
            terminal: std::io::stderr().is_terminal(),
            last: Mutex::new(None),
        }
    }

    /// A new step begins.
    pub fn step(&self, what: &str) {
        self.show(what, true);
    }

    /// The step has come so far.
    pub fn at(&self, what: &str, done: usize, of: usize) {
        if self.terminal && self.last().is_none_or(|last| last.elapsed() >= PACE) {
            self.show(&format!("{what}: {done} of {of}"), false);
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, what: &str, line: bool) {
        *self.last() = Some(Instant::now());
        let mut out = std::io::stderr().lock();
        // A terminal that is gone does not stop a measurement.
        if self.terminal {
            write!(out, "\r\x1b[K{} {what}", self.part).ok();
        } else if line {
            writeln!(out, "{} {what}", self.part).ok();
        }
        out.flush().ok();
    }

    /// The part has ended: its line goes.
    pub fn done(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
