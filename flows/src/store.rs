//! The store below a directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::catalog::Catalog;
use crate::error::FlowError;
use crate::query::FlowReader;
use crate::sink::FlowSink;
use crate::writer::{ClockReading, Job, Shared, Writer};

/// Records that wait for the store's thread.
const QUEUE: usize = 32_768;

/// The longest wait for [`Store::flush`].
const FLUSH: Duration = Duration::from_secs(10);

/// What is kept; whichever bound is reached first counts. The oldest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// How long.
    pub keep: Duration,
    /// Bytes on disk; at least 16 MiB are of use.
    pub max: u64,
}

/// The store. Its thread ends with [`Store::close`], or when this and every [`FlowSink`] is dropped.
pub struct Store {
    sink: FlowSink,
    thread: JoinHandle<()>,
}

impl Store {
    /// Opens the store below `directory`, making it if missing, for root only. `boot` is the kernel's name of this boot.
    ///
    /// # Errors
    /// The directory cannot be made or read, or has segments of a newer release. A disk that takes no more is no error:
    /// see [`Store::trouble`].
    pub fn open(
        directory: &Path,
        boot: &str,
        clock: ClockReading,
        limits: StoreLimits,
    ) -> Result<Self, FlowError> {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(FlowError::io("make", directory)(error));
            }
            _ => {}
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .map_err(FlowError::io("close to others", directory))?;
        let shared = Arc::new(Shared::new(directory, Catalog::load(directory)?, clock));
        let (jobs, inbox) = mpsc::sync_channel(QUEUE);
        let writer = Writer::new(Arc::clone(&shared), boot.to_owned(), limits);
        let thread = std::thread::Builder::new()
            .name("flows".into())
            .spawn(move || writer.serve(&inbox))
            .map_err(FlowError::io("start the thread for", directory))?;
        Ok(Self { sink: FlowSink { jobs, shared }, thread })
    }

    /// Where records are delivered to.
    pub fn sink(&self) -> FlowSink {
        self.sink.clone()
    }

    /// What answers questions.
    pub fn reader(&self) -> FlowReader {
        FlowReader::new(Arc::clone(&self.sink.shared))
    }

    /// Waits until what was delivered before can be found by a question. Blocks.
    ///
    /// # Errors
    /// The store cannot write.
    pub fn flush(&self) -> Result<(), FlowError> {
        flush(&self.sink.jobs, || false)
    }

    /// Writes what was delivered, says on disk that nothing is missing, and ends. Blocks; does not wait for a disk that
    /// takes no more.
    pub fn close(self) {
        let Self { sink, thread } = self;
        sink.shared.closing.store(true, Ordering::Relaxed);
        // A full queue wakes the thread as well.
        sink.jobs.try_send(Job::Close).ok();
        thread.thread().unpark();
        // It panicked: that is told on standard error, and there is nothing to be done about it here.
        thread.join().ok();
    }
}

/// A full queue is tried again after so long, and so often is asked whether to give up.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn flush(jobs: &SyncSender<Job>, give_up: impl Fn() -> bool) -> Result<(), FlowError> {
    let begun = Instant::now();
    let over = || begun.elapsed() > FLUSH || give_up();
    let (answer, answered) = mpsc::sync_channel(1);
    // Not with `send`: a writer that waits for a full disk reads no jobs.
    let mut job = Job::Flush(answer);
    while let Err(refused) = jobs.try_send(job) {
        match refused {
            TrySendError::Full(same) if !over() => job = same,
            TrySendError::Full(_) => return Err(FlowError::NotWritten),
            TrySendError::Disconnected(_) => return Err(FlowError::Closed),
        }
        std::thread::sleep(LOOK);
    }
    loop {
        match answered.recv_timeout(LOOK) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if !over() => {}
            // Not in time; or the writer could not, and has dropped the question.
            Err(_) => return Err(FlowError::NotWritten),
        }
    }
}
