//! The audit trail: every event to the system's log, on a thread of its own.
//!
//! A system log that is slow or gone must neither stop the node nor lose lines silently: lines wait in a
//! bounded queue, and what did not fit is counted and said in the first line that gets through again.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, TrySendError};
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
use std::time::Duration;

use plab_protocol::control::{Event, Severity};
use plab_protocol::escape::for_terminal;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

/// Lines that wait while the log is gone.
const QUEUE: usize = 10_000;

/// Between two attempts to reach the log.
const RETRY: Duration = Duration::from_secs(2);

/// Where events go.
pub struct Audit {
    queue: mpsc::SyncSender<Event>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// Starts the thread. Whether the log can be reached now is [`reachable`]'s to say.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(socket: PathBuf) -> std::io::Result<Self> {
        let (queue, inbox) = mpsc::sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("audit".into()).spawn(move || serve(&socket, &inbox, &counter))?;
        Ok(Self { queue, lost })
    }

    /// Queues an event for the log.
    pub fn send(&self, event: &Event) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(event.clone()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether a system log listens on `socket`.
pub fn reachable(socket: &Path) -> bool {
    connect(socket).is_some()
}

type Log = Logger<LoggerBackend, Formatter3164>;

fn connect(socket: &Path) -> Option<Log> {
    let formatter = Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: "plabd".into(),
        pid: std::process::id(),
    };
    syslog::unix_custom(formatter, socket).ok()
}

fn serve(socket: &Path, inbox: &mpsc::Receiver<Event>, lost: &AtomicU64) {
    let mut log = connect(socket);
    let mut waiting: Option<Event> = None;
    loop {
        let event = match waiting.take() {
            Some(event) => event,
            None => match inbox.recv_timeout(Duration::from_secs(3600)) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            },
        };
        if log.is_none() {
            log = connect(socket);
        }
        let written = log.as_mut().is_some_and(|log| {
            let gap = lost.load(Ordering::Relaxed);
            if gap > 0 && log.warning(format!("audit trail has a gap: {gap} events were not logged")).is_ok()
            {
                lost.fetch_sub(gap, Ordering::Relaxed);
            }
            write(log, &event)
        });
        if !written {
            log = None;
            waiting = Some(event);
            std::thread::sleep(RETRY);
        }
    }
}

fn write(log: &mut Log, event: &Event) -> bool {
    let slice = event.slice.as_deref().map(|slice| format!(" slice={slice}")).unwrap_or_default();
    // One line an event, whatever a slice put into it.
    let message = for_terminal(&event.message, 800);
    let line = format!("seq={} event={}{slice}: {message}", event.seq, event.kind);
    match event.severity {
        Severity::Info => log.info(line),
        Severity::Notice => log.notice(line),
        Severity::Warning => log.warning(line),
        Severity::Error => log.err(line),
    }
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn events_become_one_line_each_and_wait_for_the_log() {
        let path = std::env::temp_dir().join(format!("plab-syslog-{}", std::process::id()));
        std::fs::remove_file(&path).ok();
        assert!(!reachable(&path));
        let audit = Audit::start(path.clone()).expect("start");
        let event = |seq| Event {
            seq,
            time: "t".into(),
            slice: Some("a".into()),
            kind: "exec".into(),
            severity: Severity::Notice,
            message: "ran\nforged=yes".into(),
        };
        audit.send(&event(1));
        std::thread::sleep(Duration::from_millis(100));
        let log = UnixDatagram::bind(&path).expect("bind");
        log.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        audit.send(&event(2));
        let mut buffer = [0; 2048];
        for seq in 1..=2 {
            let n = log.recv(&mut buffer).expect("a line");
            let line = String::from_utf8_lossy(&buffer[..n]);
            assert!(line.contains(&format!("seq={seq} event=exec slice=a: ran\\u{{a}}forged=yes")), "{line}");
        }
        std::fs::remove_file(&path).expect("clean up");
    }
}
