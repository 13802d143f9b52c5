//! A virtual machine that is a node: its node file, its slices, and what it says of them.

use std::ops::Deref;

use plab_tests::Machine;
use serde_json::Value;

/// The machine's memory in MiB.
const MEMORY: u32 = 2048;

/// The node's address; it is on no interface until [`Machine::network`] says so.
const NODE_FILE: &str = "name = \"node1.example.org\"\naddress = \"192.0.2.1\"\n";

/// What a slice's home begins with: hooks that leave a line, on disk before they go on.
const SKELETON: &str = r#"
control=/etc/planetlab/skel/PlanetLab-control
mkdir -p $control
for hook in configure start stop; do
    printf '#!/bin/sh\necho x >> $HOME/%s-ran; sync $HOME/%s-ran\n' $hook $hook > $control/$hook
done
echo 'exec sleep infinity' >> $control/start
chmod 755 $control/*
"#;

/// A flag file decides whether the node's address is there after a boot.
const NETWORK: &str = r#"
cat > /etc/systemd/system/test-address.service <<'END'
[Unit]
ConditionPathExists=/etc/test-network
[Service]
Type=oneshot
ExecStart=/usr/sbin/ip address add 192.0.2.1/32 dev lo
[Install]
WantedBy=multi-user.target
END
systemctl enable --quiet test-address
"#;

/// The node, with the package that the image was made with.
pub struct Node(Machine);

impl Deref for Node {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl Node {
    /// A new one, running, with further lines in its node file.
    pub fn new(name: &str, node_file: &str, qemu: &[&str]) -> Self {
        // One processor: two such machines boot in less time beside each other than one after the other with two.
        let node = Self(Machine::new(&format!("reboots-{name}"), 1, MEMORY, qemu));
        node.run("systemctl stop plabd");
        for part in [SKELETON, NETWORK] {
            node.run(part);
        }
        node.write("/etc/planetlab/node.toml", &format!("{NODE_FILE}{node_file}"));
        node.run(
            "touch /etc/test-network; systemctl daemon-reload; systemctl start test-address plabd; sync",
        );
        node.await_plabd();
        node
    }

    /// Runs `plab … --json` and parses what it prints.
    pub fn json(&self, command: &str) -> Value {
        let text = self.run(&format!("plab {command} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Waits until plabd answers.
    pub fn await_plabd(&self) {
        self.eventually("plabd answers", || self.try_run("plab status").ok.then_some(()));
    }

    /// Does something that makes it boot anew by itself, and waits for that.
    pub fn rebooted_by(&self, script: &str) {
        const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
        let before = self.run(BOOT_ID);
        // The connection may go with the machine.
        self.try_run(script);
        self.eventually("it has booted anew", || {
            let now = self.try_run(BOOT_ID);
            (now.ok && now.text.trim() != before).then_some(())
        });
        self.await_plabd();
    }

    /// Defines a slice; further lines at its end.
    pub fn define(&self, slice: &str, more: &str) {
        self.run(&format!("plab apply - <<'END'\n{}\nEND", definition(slice, more)));
    }

    /// A slice's state.
    pub fn state(&self, slice: &str) -> String {
        let status = self.json("status");
        let slices = status["slices"].as_array().expect("slices").clone();
        let found = slices.iter().find(|entry| entry["name"] == slice);
        found.and_then(|entry| entry["state"].as_str()).unwrap_or("none").to_owned()
    }

    /// Waits for a slice's state.
    pub fn await_state(&self, slice: &str, state: &str) {
        self.eventually(&format!("{slice} is {state}"), || (self.state(slice) == state).then_some(()));
    }

    /// How often a hook of a slice has run.
    pub fn ran(&self, slice: &str, hook: &str) -> usize {
        let file = format!("/var/lib/planetlab/slices/{slice}/home/{slice}/{hook}-ran");
        self.run(&format!("cat {file} 2> /dev/null | wc -l")).parse().expect("a number")
    }

    /// Waits until a hook has run so often.
    pub fn await_ran(&self, slice: &str, hook: &str, times: usize) {
        self.eventually(&format!("{hook} of {slice} has run {times} times"), || {
            (self.ran(slice, hook) >= times).then_some(())
        });
        assert_eq!(self.ran(slice, hook), times, "{hook} of {slice}");
    }

    /// The boots, newest first.
    pub fn boots(&self) -> Vec<Value> {
        self.json("boots")["boots"].as_array().expect("boots").clone()
    }

    /// Waits for an event of this boot's plabd.
    pub fn await_event(&self, kind: &str) -> String {
        self.eventually(&format!("an event {kind}"), || {
            let events = self.json("events");
            let events = events["events"].as_array().expect("events").clone();
            let started = events.iter().rposition(|event| event["kind"] == "plabd-started").unwrap_or(0);
            let found = events[started..].iter().find(|event| event["kind"] == kind);
            found.map(|event| event["message"].as_str().expect("message").to_owned())
        })
    }
}

/// A definition's text.
fn definition(slice: &str, more: &str) -> String {
    format!("name = \"{slice}\"\ncontact = \"pi@example.org\"\nnodes = [\"node1.example.org\"]\n{more}")
}
