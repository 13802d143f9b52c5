//! Whether the machine's firewall tracks connections: then what raw sockets send is seen, and remembered, by netfilter
//! before the programs can refuse it, so no capsule with `raw` starts unless the node file's `degrade` says so.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plab_config::Feature;
use plab_protocol::control::Severity;
use plab_sandbox::net::Tracking;

use crate::node::Node;

/// A firewall can be changed at any time, and the kernel tells nobody.
const LOOK: Duration = Duration::from_secs(10);

/// What was last seen of it.
#[derive(Debug, Default)]
pub struct Firewall(Mutex<Option<String>>);

impl Firewall {
    /// Why connections count as tracked, if they do: they are, or it cannot be told. Asks the kernel, and remembers.
    pub fn look(&self) -> Option<String> {
        let tracks = match Tracking::look() {
            Ok(None) => None,
            Ok(Some(how)) => Some(format!("the firewall tracks connections: {how}")),
            Err(error) => Some(error.to_string()),
        };
        // A poisoned one holds a whole value all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&tracks);
        tracks
    }

    /// As [`Self::look`] saw it last.
    pub fn seen(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Follows it for as long as plabd runs.
pub async fn follow(node: Rc<Node>) {
    let mut told = false;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let machine = Arc::clone(&node.machine);
        // A thread that panicked has said so.
        let Ok(seen) = tokio::task::spawn_blocking(move || machine.firewall.look()).await else { continue };
        if seen.is_some() != told {
            told = seen.is_some();
            tell(&node, seen);
        }
    }
}

fn tell(node: &Node, seen: Option<String>) {
    let Some(why) = seen else {
        let message =
            "the firewall tracks no connections any more: definitions with `raw` can be given again";
        return node.events.report(None, "firewall", Severity::Info, message.to_owned());
    };
    let (severity, message) = match problem(node, |_| true) {
        Some(problem) => (Severity::Error, problem),
        None if node.machine.node.may_lack(Feature::NetworkUntracked) => (
            Severity::Warning,
            format!("{why}; what raw sockets send is in its table before it can be refused"),
        ),
        None => (Severity::Info, format!("{why}; definitions with `raw` are refused")),
    };
    node.events.report(None, "firewall", severity, message);
}

/// The capsules that should not run as they do, of those that who asks may see: they were begun before the firewall tracked
/// connections.
pub fn problem(node: &Node, may_see: impl Fn(&str) -> bool) -> Option<String> {
    let why = node.machine.firewall.seen()?;
    if node.machine.node.may_lack(Feature::NetworkUntracked) {
        return None;
    }
    let slices = node.slices.borrow();
    let running = slices.values().filter(|handle| {
        handle.slice.pid.get().is_some() && !handle.slice.definition.borrow().network.raw.is_empty()
    });
    let names: Vec<&str> =
        running.map(|handle| handle.slice.name.as_str()).filter(|name| may_see(name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{why}, and there are raw sockets in {}: what they send is in its table before it can be refused; take `raw` \
             from them, or connection tracking from the firewall",
            names.join(", ")
        )
    })
}
