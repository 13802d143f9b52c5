//! The three slices: the one that stresses, a neighbour that answers, a neighbour that computes.

use std::time::{Duration, Instant};

use plab_sandbox::cgroup::tree_name;
use plab_tests::leftovers::processes;
use plab_tests::measure::Failure;
use plab_tests::{TestNode, eventually};
use serde_json::Value;

/// Runs stress-ng.
pub const STRESS: &str = "site_stress";
/// Answers on loopback.
pub const WEB: &str = "site_web";
/// Computes on every processor.
pub const BUSY: &str = "site_busy";

/// Their neighbours, who must not notice.
const NEIGHBOURS: [&str; 2] = [WEB, BUSY];

/// As many loops as there are processors, so that there is no idle one for the stressing slice to take.
const COMPUTE: &str = "#!/bin/sh\nfor cpu in $(seq \"$(nproc)\"); do (while :; do :; done) & done\nwait\n";

/// How long a capsule may take to be up again.
const PATIENCE: Duration = Duration::from_secs(120);

/// The slices on their node.
pub struct Capsules<'a> {
    /// The node.
    pub node: &'a TestNode,
    /// Where the answering neighbour listens on 127.0.0.1.
    pub port: u16,
    uid: u32,
}

/// What the neighbours were at one time, so that what happens to them is told of one class and not of all later ones.
pub struct Known {
    pids: [Option<u64>; 2],
    events: Option<u64>,
}

impl<'a> Capsules<'a> {
    /// Defines all three with the node's default limits and waits until the services run.
    pub fn start(node: &'a TestNode) -> Result<Self, Failure> {
        for slice in [STRESS, WEB, BUSY] {
            node.define(slice, "");
        }
        node.put(WEB, "web.py", include_bytes!("web.py"), 0o644);
        node.put_hook(WEB, "start", "#!/bin/sh\nexec python3 web.py\n");
        node.put_hook(BUSY, "start", COMPUTE);
        for slice in NEIGHBOURS {
            node.plab(&["restart", slice]).ok();
            node.await_hook(slice, "start", "running");
        }
        let port = eventually("the neighbour listens", || node.home_file(WEB, "port").parse().ok());
        let uid = node.status(STRESS)["uid"].as_u64().and_then(|uid| uid.try_into().ok());
        let uid = uid.ok_or("plabd does not say the stressing slice's UID")?;
        Ok(Self { node, port, uid })
    }

    /// The definition's limits, as plabd reads them back from the kernel.
    pub fn limits(&self) -> Vec<String> {
        let said = self.node.plab(&["status", STRESS, "--verify", "--json"]);
        let status: Value = serde_json::from_str(&said.stdout).unwrap_or(Value::Null);
        let rows = status["slices"][0]["verify"].as_array().cloned().unwrap_or_default();
        let of = |what: &str| {
            let row = rows.iter().find(|row| row["what"] == what)?;
            Some(format!("{what} = {}", row["in_force"].as_str()?))
        };
        ["cpu.weight", "cpu.max", "memory.max", "pids.max"].iter().filter_map(|what| of(what)).collect()
    }

    /// Microseconds of CPU time that a slice's capsule has used; none if it does not run.
    pub fn cpu_micros(&self, slice: &str) -> Option<u64> {
        self.node.status(slice)["cpu_micros"].as_u64()
    }

    /// Why the stressing capsule is not running; none if it is.
    pub fn down(&self) -> Option<String> {
        let status = self.node.status(STRESS);
        let detail = status["detail"].as_str().unwrap_or("it does not say why");
        (status["state"] != "running")
            .then(|| format!("{}: {detail}", status["state"].as_str().unwrap_or("gone")))
    }

    /// Starts the stressing capsule anew, and throws away what killed stressors left in its storage.
    pub fn renew(&self) -> Result<(), Failure> {
        self.node.plab(&["restart", STRESS]).ok();
        let begun = Instant::now();
        loop {
            let swept = self.node.exec(STRESS, &["sh", "-c", "rm -rf /tmp/* /var/tmp/* /tmp/.[!.]*"]);
            if swept.code == 0 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{STRESS} does not come up again: {}", swept.stderr.trim()).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the neighbours are now.
    pub fn known(&self) -> Known {
        Known {
            pids: NEIGHBOURS.map(|slice| self.node.status(slice)["pid"].as_u64()),
            events: self.node.events(None).iter().filter_map(|event| event["seq"].as_u64()).max(),
        }
    }

    /// What has since gone wrong with the neighbours, with plabd, or outside the stressing capsule; empty if all is well.
    pub fn complaints(&self, known: &Known, daemon: u32) -> Vec<String> {
        let mut found = Vec::new();
        for (slice, pid) in NEIGHBOURS.into_iter().zip(known.pids) {
            let status = self.node.status(slice);
            if status["pid"].as_u64() != pid || status["state"] != "running" {
                found.push(format!(
                    "{slice} was restarted or ended: {}, {}",
                    status["state"], status["detail"]
                ));
            }
            if status["hooks"]["start"] != "running" {
                found.push(format!("the service of {slice} ended: {}", status["hooks"]["start"]));
            }
            let told = self.node.events(Some(slice));
            let bad = told.iter().filter(|event| {
                event["seq"].as_u64() > known.events
                    && matches!(event["severity"].as_str(), Some("warning" | "error"))
            });
            found.extend(bad.map(|event| format!("{slice}: {} {}", event["kind"], event["message"])));
        }
        if self.node.daemon_pid() != daemon || !alive(daemon) {
            found.push("plabd ended or is another process".to_owned());
        }
        found.extend(self.escaped());
        found
    }

    /// Whether these are cgroups of another test's node on this machine, which may use the same UIDs: the names that keep
    /// them apart are only as good as the network namespace they are in. No slice could get there.
    fn of_another_node(&self, cgroups: &str) -> bool {
        let own = tree_name(self.node.root());
        cgroups.split(['/', '\n']).any(|name| name.starts_with("planetlab-") && name != own)
    }

    /// Processes of the stressing slice that are not in its cgroups.
    fn escaped(&self) -> Vec<String> {
        let cgroups = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        let home = self.node.status(STRESS)["pid"].as_u64().and_then(|pid| cgroups(&pid.to_string()));
        let outside = |found: &String| {
            let pid = found.split(' ').nth(1).unwrap_or_default();
            // One that has ended since it was seen is nowhere.
            cgroups(pid).is_some_and(|at| !self.of_another_node(&at) && Some(at) != home)
        };
        processes(self.uid..=self.uid)
            .into_iter()
            .filter(outside)
            .map(|found| format!("outside its cgroup: {found}"))
            .collect()
    }
}

/// Whether this process runs, and is not only waited for.
fn alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}
