//! What tests do with a node's slices: give them hooks, read what is said of them, count what they did.

use std::path::PathBuf;

use serde_json::Value;

use crate::node::TestNode;
use crate::wait::{eventually, eventually_or};

impl TestNode {
    /// Where a slice's home is on the host. Only to look: whatever a slice writes there is its own affair.
    pub fn home(&self, slice: &str) -> PathBuf {
        self.root().join(format!("var/lib/planetlab/slices/{slice}/home/{slice}"))
    }

    /// A file of a slice's home, as text; empty if there is none.
    pub fn home_file(&self, slice: &str, path: &str) -> String {
        std::fs::read(self.home(slice).join(path))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How many lines a file of a slice's home has: what hooks append to is how their runs are counted.
    pub fn lines(&self, slice: &str, path: &str) -> usize {
        self.home_file(slice, path).lines().count()
    }

    /// Waits until a file of a slice's home has so many lines, and no more.
    ///
    /// # Panics
    /// It never has, or it has more.
    pub fn await_lines(&self, slice: &str, path: &str, count: usize) {
        eventually_or(
            || (self.lines(slice, path) >= count).then_some(()),
            || format!("{path} of {slice} has {count} lines; it is {:?}", self.home_file(slice, path)),
        );
        assert_eq!(self.lines(slice, path), count, "{path} of {slice}: {}", self.home_file(slice, path));
    }

    /// Puts a script into a slice's control directory, executable.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn put_hook(&self, slice: &str, hook: &str, script: &str) {
        self.put(slice, &format!("PlanetLab-control/{hook}"), script.as_bytes(), 0o755);
    }

    /// What `plab status` says of a hook; none if it says nothing.
    ///
    /// # Panics
    /// plabd does not answer.
    pub fn hook(&self, slice: &str, hook: &str) -> Option<String> {
        self.status(slice)["hooks"][hook].as_str().map(str::to_owned)
    }

    /// Waits until `plab status` says this of a hook.
    ///
    /// # Panics
    /// It never does.
    pub fn await_hook(&self, slice: &str, hook: &str, said: &str) {
        eventually_or(
            || (self.hook(slice, hook).as_deref() == Some(said)).then_some(()),
            || format!("{hook} of {slice} says {said:?}; its status is {:#}", self.status(slice)),
        );
    }

    /// Waits until the node has seen that the slice has a `stop` by now: the control directory must have settled.
    ///
    /// # Panics
    /// It never does.
    pub fn await_stop_known(&self, slice: &str) {
        // A `status` placed last has settled together with what was placed before it.
        self.put_hook(slice, "status", "#!/bin/sh\necho settled\n");
        eventually(&format!("the control directory of {slice} has settled"), || {
            (self.status(slice)["status_line"] == "settled").then_some(())
        });
    }

    /// Messages of a slice's events of one kind, oldest first.
    ///
    /// # Panics
    /// plabd does not answer.
    pub fn event_messages(&self, slice: &str, kind: &str) -> Vec<String> {
        let told = self.events(Some(slice));
        told.iter()
            .filter(|event| event["kind"] == kind)
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits for an event of this slice and kind whose message holds this; returns the message.
    ///
    /// # Panics
    /// It never comes.
    pub fn await_event(&self, slice: &str, kind: &str, holding: &str) -> String {
        eventually_or(
            || self.event_messages(slice, kind).into_iter().find(|message| message.contains(holding)),
            || format!("an event {kind} of {slice} with {holding:?}; there are\n{}", self.told(slice)),
        )
    }

    /// All of a slice's events, one a line, to show in a failure.
    ///
    /// # Panics
    /// plabd does not answer.
    pub fn told(&self, slice: &str) -> String {
        let told = self.events(Some(slice));
        told.iter()
            .map(|event| {
                format!("{} {} {}: {}\n", event["time"], event["severity"], event["kind"], event["message"])
            })
            .collect()
    }

    /// PID of a slice's capsule-init.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self, slice: &str) -> u64 {
        let status = self.status(slice);
        status["pid"].as_u64().unwrap_or_else(|| panic!("{slice} does not run: {status}"))
    }

    /// One row of `plab status SLICE --verify`.
    ///
    /// # Panics
    /// There is none of that name.
    pub fn verified(&self, slice: &str, what: &str) -> Value {
        let output = self.plab(&["status", slice, "--verify", "--json"]);
        let status: Value =
            serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let rows = status["slices"][0]["verify"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .find(|row| row["what"] == what)
            .cloned()
            .unwrap_or_else(|| panic!("no row {what} in {rows:#?}"))
    }
}

/// A `start` that adds a line to `ticks` twenty times a second. No process is started for a pause: that is what would cost
/// most of all on an emulated machine.
pub const COUNTING: &str =
    "#!/bin/bash\nexec 9<> <(:)\nwhile :; do echo >> ticks; read -rt 0.05 -u 9; done\n";

/// A slice that does its work beside whatever a test does to another one, to tell whether it noticed.
pub struct Neighbour {
    name: String,
    pid: u64,
    daemon: u32,
}

impl Neighbour {
    /// Starts one whose service counts.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(node: &TestNode, name: &str) -> Self {
        node.define(name, "[memory]\nmax = \"64M\"\n[tasks]\nmax = 32");
        node.put_hook(name, "start", COUNTING);
        node.plab(&["restart", name]).ok();
        eventually("the neighbour counts", || (node.lines(name, "ticks") > 2).then_some(()));
        Self { name: name.to_owned(), pid: node.pid(name), daemon: node.daemon_pid() }
    }

    /// Makes sure that it still does, undisturbed, and that plabd is the same process.
    ///
    /// # Panics
    /// Something happened to it.
    pub fn check(&self, node: &TestNode) {
        assert_eq!(node.daemon_pid(), self.daemon, "plabd was restarted");
        assert_eq!(node.pid(&self.name), self.pid, "the neighbour was restarted");
        let status = node.status(&self.name);
        assert_eq!(status["state"], "running", "{status}");
        assert_eq!(status["hooks"]["start"], "running", "{status}");
        let before = node.lines(&self.name, "ticks");
        eventually("the neighbour goes on", || (node.lines(&self.name, "ticks") > before).then_some(()));
        let told = node.events(Some(&self.name));
        let bad: Vec<_> = told
            .iter()
            .filter(|event| event["severity"] == "warning" || event["severity"] == "error")
            .collect();
        assert!(bad.is_empty(), "the neighbour noticed: {bad:#?}");
    }
}
