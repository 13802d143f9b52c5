//! What plabd tells systemd: that it is ready, that it still works, and in a line how the node stands; sd_notify(3).
//!
//! A pulse must not beat for a plabd that hangs. So it beats only while the loop that serves requests is turning
//! (which polls it), and each beat has been to the ledger's thread and back.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use plab_protocol::control::SliceState;
use sd_notify::NotifyState;

use crate::ledger::LedgerError;
use crate::node::Node;

/// Between two beats when systemd asks for none: only the line in `systemctl status` grows older.
const LEISURE: Duration = Duration::from_secs(30);

/// Why there is no pulse any more.
#[derive(Debug, thiserror::Error)]
pub enum PulseError {
    /// systemd would wait for it, and end plabd when it has not come in time.
    #[error("could not tell systemd that plabd is ready: {0}; is NOTIFY_SOCKET in its environment right?")]
    Ready(std::io::Error),
    /// Nothing can be accepted or recorded any more.
    #[error("{0}: plabd cannot go on, and its capsules can without it")]
    Ledger(LedgerError),
}

/// Tells systemd about this node.
pub struct Pulse {
    node: Rc<Node>,
    every: Duration,
}

impl Pulse {
    /// The pulse of a node, at half the time after which systemd takes plabd for dead, if it does at all.
    pub fn of(node: Rc<Node>) -> Self {
        let mut micros = 0;
        let watched = sd_notify::watchdog_enabled(false, &mut micros);
        Self { node, every: if watched { Duration::from_micros(micros) / 2 } else { LEISURE } }
    }

    /// Beats for as long as it is polled; returns when it cannot.
    pub async fn beat(self) -> PulseError {
        let node = &self.node;
        node.wait_until(|| node.still_adopting() == 0).await;
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ready = false;
        loop {
            ticks.tick().await;
            // That the disk is full is said elsewhere, and the ledger's thread lives to say it; that it is gone, or
            // never answers, is the end.
            if let Err(error @ LedgerError::Closed) = node.ledger.meta("pulse").await {
                return PulseError::Ledger(error);
            }
            let status = self.status();
            let word = if ready { NotifyState::Watchdog } else { NotifyState::Ready };
            match sd_notify::notify(false, &[word, NotifyState::Status(&status)]) {
                Ok(()) => ready = true,
                Err(error) if !ready => return PulseError::Ready(error),
                // A full socket of a busy systemd: one of two beats may be lost.
                Err(error) => tracing::warn!(%error, "could not tell systemd that plabd works"),
            }
        }
    }

    /// The node in one line.
    fn status(&self) -> String {
        let states = self.node.slices.borrow().values().map(|handle| handle.slice.state.get()).collect();
        line(states, self.node.set.borrow().errors().len())
    }
}

/// Tells systemd that plabd ends on purpose. Nothing depends on it: systemd also sees the process go.
pub fn stopping() {
    if let Err(error) = sd_notify::notify(false, &[NotifyState::Stopping]) {
        tracing::warn!(%error, "could not tell systemd that plabd stops");
    }
}

fn line(states: Vec<SliceState>, refused: usize) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in &states {
        *counts.entry(state.name()).or_default() += 1;
    }
    let mut text = format!("{} slices", states.len());
    for (at, (name, count)) in counts.into_iter().enumerate() {
        text += &format!("{} {count} {name}", if at == 0 { ":" } else { "," });
    }
    if refused > 0 {
        text += &format!("; {refused} definitions refused");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts() {
        use SliceState::{Failed, Running};
        assert_eq!(line(vec![], 0), "0 slices");
        assert_eq!(line(vec![Running, Failed, Running], 0), "3 slices: 1 failed, 2 running");
        assert_eq!(line(vec![Running], 2), "1 slices: 1 running; 2 definitions refused");
    }
}
