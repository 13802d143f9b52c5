//! What slices have written, made to last: one sync of their storage at a time, for all who wait for one.
//!
//! There is no call for less than a file system, and others may have written much, so it may take minutes. It has a thread
//! of its own: those that make and end capsules are few.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use plab_sandbox::KernelError;
use tokio::sync::oneshot;

/// How a sync ended; the error as text, for each who waited.
pub type Synced = oneshot::Receiver<Result<(), String>>;

/// The thread's inbox.
#[derive(Debug)]
pub struct Disk {
    asked: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

impl Disk {
    /// Starts the thread; it is not waited for at the end.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(storage: PathBuf) -> std::io::Result<Self> {
        let (asked, inbox) = mpsc::channel();
        std::thread::Builder::new().name("sync".into()).spawn(move || serve(&storage, &inbox))?;
        Ok(Self { asked })
    }

    /// Begins to write out all that slices have written until now.
    pub fn sync(&self) -> Synced {
        let (answer, synced) = oneshot::channel();
        // Without the thread the answer is dropped, which whoever waits takes for an error.
        self.asked.send(answer).ok();
        synced
    }
}

fn serve(storage: &Path, inbox: &mpsc::Receiver<oneshot::Sender<Result<(), String>>>) {
    while let Ok(first) = inbox.recv() {
        // Who asks while a sync runs may have written since it began, and gets the next one.
        let waiting: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).collect();
        let synced = sync(storage).map_err(|error| error.to_string());
        for answer in waiting {
            // Whoever asked may be gone.
            answer.send(synced.clone()).ok();
        }
    }
}

/// syncfs(2).
fn sync(storage: &Path) -> Result<(), KernelError> {
    let failed = |error| KernelError::new("write to disk", storage.display(), error);
    let directory = File::open(storage).map_err(failed)?;
    rustix::fs::syncfs(&directory).map_err(|errno| failed(errno.into()))
}
