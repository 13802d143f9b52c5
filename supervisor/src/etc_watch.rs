//! Keeps the capsules' copy of `/etc` current: a new resolver, a new time zone, reach every capsule at once.

use std::rc::Rc;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use plab_protocol::control::Severity;
use tokio::io::Interest;

use crate::node::Node;
use crate::watched::watched;

/// Packages write many files in a row; one copy does for all.
const SETTLE: Duration = Duration::from_secs(1);

/// Follows `/etc` for as long as plabd runs.
pub async fn follow(node: Rc<Node>) {
    if let Err(error) = watch(&node).await {
        node.events.report(None, "etc-not-followed", Severity::Warning, error.to_string());
    }
}

async fn watch(node: &Rc<Node>) -> std::io::Result<()> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::DELETE;
    inotify.watches().add("/etc", mask)?;
    let mut inotify = watched(inotify, Interest::READABLE)?;
    loop {
        let mut ready = inotify.readable_mut().await?;
        drain(ready.get_inner_mut());
        ready.clear_ready();
        drop(ready);
        tokio::time::sleep(SETTLE).await;
        let machine = std::sync::Arc::clone(&node.machine);
        match tokio::task::spawn_blocking(move || machine.refresh_etc()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                node.events.report(None, "etc-not-copied", Severity::Warning, error.to_string())
            }
            Err(error) => node.events.report(None, "etc-not-copied", Severity::Warning, error.to_string()),
        }
    }
}

fn drain(inotify: &mut Inotify) {
    let mut buffer = [0; 4096];
    while inotify.read_events(&mut buffer).is_ok() {}
}
