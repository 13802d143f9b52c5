//! Diagnostics on standard error; `PLABD_LOG` chooses what of them, as tracing-subscriber's `EnvFilter` reads it.

use std::os::unix::fs::MetadataExt;

use tracing_subscriber::EnvFilter;

/// Begins to write them.
pub fn start() {
    // Where systemd puts standard error into the journal, the audit trail brings every event there, too.
    let usual = if is_journal() { "info,plabd::events=off" } else { "info" };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("PLABD_LOG").unwrap_or_else(|_| usual.into()))
        .with_writer(std::io::stderr)
        // A log that takes no more (a full disk, a journal that went away) must not end plabd: told of it on the same
        // standard error, the library would panic.
        .log_internal_errors(false)
        .with_target(false)
        .init();
}

/// Whether standard error is the one that systemd gave, a stream to the journal (`JOURNAL_STREAM` of systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(told) = std::env::var("JOURNAL_STREAM") else { return false };
    // By the descriptor: standard error may be closed or anything.
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|fd| told == format!("{}:{}", fd.dev(), fd.ino()))
}
