//! Boots and what comes with them: crashes are told from ends in order, `start` runs once and when the network is up, a
//! full disk stops nothing that runs, reboots are planned, announced and done in order.
//!
//! What needs a machine of its own to be switched off (power cuts, panics, wrong clocks) is in `tests/tests/machines/reboots`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use plab_tests::{Pty, TestNode, binary, eventually};
use serde_json::Value;

fn boots(node: &TestNode) -> Vec<Value> {
    let reply: Value = serde_json::from_str(&node.plab(&["boots", "--json"]).ok()).expect("JSON");
    assert_eq!((reply["reply"].as_str(), reply["version"].as_u64()), (Some("boots"), Some(1)), "{reply}");
    assert_eq!(reply["node"], "node1.example.org");
    reply["boots"].as_array().expect("boots").clone()
}

/// The one boot that a test sees.
fn boot(node: &TestNode) -> Value {
    let boots = boots(node);
    assert_eq!(boots.len(), 1, "this machine is not rebooted by tests: {boots:?}");
    boots[0].clone()
}

fn kinds(node: &TestNode) -> Vec<String> {
    node.events(None).iter().map(|event| event["kind"].as_str().expect("kind").to_owned()).collect()
}

fn count(node: &TestNode, kind: &str) -> usize {
    kinds(node).iter().filter(|have| *have == kind).count()
}

fn await_event(node: &TestNode, kind: &str) -> String {
    eventually(&format!("an event {kind}"), || {
        node.events(None)
            .iter()
            .find(|event| event["kind"] == kind)
            .map(|event| event["message"].as_str().expect("message").to_owned())
    })
}

/// A slice whose hooks say that they ran.
fn define_counting(node: &TestNode, slice: &str) {
    node.define(slice, "");
    node.put_hook(slice, "configure", "#!/bin/sh\necho >> configured\n");
    node.put_hook(slice, "start", "#!/bin/sh\necho >> started\nexec sleep 1000\n");
    node.put_hook(slice, "stop", "#!/bin/sh\necho >> stopped\n");
    node.await_lines(slice, "started", 1);
    node.await_stop_known(slice);
}

#[test]
fn a_crash_is_told_from_a_stop_and_start_runs_once_each_time_the_capsule_comes_up() {
    let mut node = TestNode::start("boots");
    define_counting(&node, "site_a");
    let first = boot(&node);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("kernel");
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot_id");
    assert_eq!((first["kernel"].as_str(), first["boot_id"].as_str()), (Some(kernel.trim()), Some(id.trim())));
    assert_eq!((first["ended"].clone(), first["starts"].as_u64()), (Value::Null, Some(1)), "{first}");

    // A crash in the same boot: nothing runs again.
    node.kill_daemon();
    node.start_daemon();
    let crashed = boot(&node);
    assert_eq!((crashed["starts"].as_u64(), crashed["crashes"].as_u64()), (Some(2), Some(1)), "{crashed}");
    assert_eq!(crashed["runs"][0]["ended"], Value::Null);
    assert_eq!(crashed["runs"][1]["ended"], "crashed");
    assert!(await_event(&node, "plabd-crashed").contains("without an order"));
    node.await_hook("site_a", "start", "running");
    assert_eq!((node.lines("site_a", "configured"), node.lines("site_a", "started")), (1, 1));

    // An end in order, with every capsule, as in a reboot: `start` once more, `configure` not.
    node.stop_daemon();
    node.start_daemon();
    node.await_lines("site_a", "started", 2);
    assert_eq!((node.lines("site_a", "configured"), node.lines("site_a", "stopped")), (1, 1));
    let stopped = boot(&node);
    assert_eq!((stopped["starts"].as_u64(), stopped["crashes"].as_u64()), (Some(3), Some(1)), "{stopped}");
    assert_eq!(stopped["runs"][1]["ended"], "stopped");
    assert_eq!(count(&node, "plabd-crashed"), 1);
    let table = node.plab(&["boots"]).ok();
    assert!(table.starts_with("BEGAN") && table.contains("3, crashed 1"), "{table}");
    node.finish();
}

#[test]
fn a_shutdown_is_recorded_and_taken_back_if_the_boot_goes_on() {
    let mut node = TestNode::start("boots-shutdown");
    define_counting(&node, "site_a");
    node.plab(&["drain", "--for-shutdown"]).ok();
    assert_eq!(
        (node.lines("site_a", "stopped"), node.status("site_a")["state"].as_str()),
        (1, Some("stopped"))
    );
    // systemd, where there is one, knows that this machine is not going down.
    let systemd = Path::new("/run/systemd/system").is_dir();
    let ended = if systemd { Value::Null } else { "shutdown".into() };
    assert_eq!(boot(&node)["ended"], ended);
    node.stop_daemon();
    node.start_daemon();
    assert_eq!(boot(&node)["ended"], Value::Null);
    node.finish();
}

fn in_net_namespace_of(node: &TestNode, args: &[&str]) {
    let pid = node.daemon_pid().to_string();
    let done = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(args).status().expect("nsenter");
    assert!(done.success(), "{args:?}");
}

/// plabd in a network namespace of its own, in which nothing is up.
fn without_network() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(binary("plabd"));
    command
}

/// A node that has a slice before its first plabd starts, and no network.
fn start_without_network(name: &str, wait: &str) -> TestNode {
    TestNode::start_by(name, &format!("[boot]\nnetwork_wait = \"{wait}\"\n"), |root| {
        let control = root.join("etc/planetlab/skel/PlanetLab-control");
        std::fs::create_dir_all(&control).expect("mkdir");
        let start = control.join("start");
        std::fs::write(&start, "#!/bin/sh\necho >> started\nexec sleep 1000\n").expect("write");
        std::fs::set_permissions(&start, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        std::fs::write(root.join("etc/planetlab/slices.d/site_a.toml"), TestNode::definition("site_a", ""))
            .expect("write");
        without_network()
    })
}

#[test]
fn capsules_wait_for_the_network_once_a_boot() {
    let mut node = start_without_network("boots-net", "1h");
    assert_eq!(node.status("site_a")["state"], "starting");
    let detail = node.status("site_a")["detail"].as_str().expect("detail").to_owned();
    assert!(detail.contains("waiting for the network, at most 1h: 192.0.2.1"), "{detail}");
    assert!(node.plab(&["status"]).ok().contains("PROBLEM: waiting for the network"));
    await_event(&node, "network-waiting");
    assert_eq!(boot(&node)["network"], Value::Null);
    // A plabd that dies meanwhile takes nothing with it: the next one waits on.
    node.kill_daemon();
    node.start_daemon_by(without_network());
    assert_eq!(node.status("site_a")["state"], "starting");
    // The address alone is not the network: its interface has to be up.
    in_net_namespace_of(&node, &["address", "add", "192.0.2.1/32", "dev", "lo"]);
    assert_eq!((node.status("site_a")["state"].as_str(), count(&node, "network-up")), (Some("starting"), 0));
    in_net_namespace_of(&node, &["link", "set", "lo", "up"]);
    node.await_lines("site_a", "started", 1);
    node.await_state("site_a", "running");
    await_event(&node, "network-up");
    eventually("the wait's end is on record", || (boot(&node)["network"] == "up").then_some(()));
    // Later in the same boot nobody waits, and what runs is not started again.
    node.kill_daemon();
    node.start_daemon_by(without_network());
    node.define("site_b", "");
    assert_eq!(node.status("site_b")["state"], "running");
    assert_eq!(node.lines("site_a", "started"), 1);
    assert_eq!(count(&node, "network-waiting"), 2);
    node.finish();
}

#[test]
fn without_a_network_capsules_start_all_the_same() {
    let node = start_without_network("boots-nonet", "500ms");
    node.await_lines("site_a", "started", 1);
    assert!(await_event(&node, "network-absent").contains("192.0.2.1"));
    assert_eq!(boot(&node)["network"], "absent");
    assert_eq!(count(&node, "network-up"), 0);
    // One that comes late is told of.
    in_net_namespace_of(&node, &["address", "add", "192.0.2.1/32", "dev", "lo"]);
    in_net_namespace_of(&node, &["link", "set", "lo", "up"]);
    await_event(&node, "network-up");
    assert_eq!(node.lines("site_a", "started"), 1);
    node.finish();
}

/// A mount namespace with a small file system where a node keeps its state; it goes with the process that holds it.
struct SmallDisk(Child);

impl SmallDisk {
    fn new(root: &Path) -> Self {
        let state = root.join("var/lib/planetlab");
        std::fs::create_dir_all(&state).expect("mkdir");
        let script = "mount -t tmpfs -o size=2m,mode=700 none \"$1\" && echo mounted && exec sleep 100000";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&state)
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut said = String::new();
        let out = holder.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).expect("read");
        assert_eq!(said, "mounted\n");
        Self(holder)
    }

    /// A command that runs this program in the namespace, and becomes it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-m"]).arg(program);
        command
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn on_a_full_disk_the_node_comes_up_with_what_it_has_accepted() {
    let mut disk = None;
    let mut node = TestNode::start_by("boots-full", "", |root| {
        disk.insert(SmallDisk::new(root)).command(binary("plabd"))
    });
    let disk = disk.expect("made");
    let filler = node.root().join("var/lib/planetlab/filler");
    node.define("site_a", "");
    node.define("site_b", "");
    let fill = || {
        let mut fill = disk.command("sh");
        fill.args(["-c", "cat /dev/zero >> \"$1\" 2> /dev/null; test -s \"$1\"", "sh"]).arg(&filler);
        assert!(fill.status().expect("fill").success());
    };
    node.kill_daemon();
    fill();
    node.start_daemon_by(disk.command(binary("plabd")));
    // One capsule is adopted, the other made anew, as after a boot.
    let pid = node.pid("site_a");
    node.plab(&["restart", "site_b"]).ok();
    for slice in ["site_a", "site_b"] {
        assert_eq!(node.status(slice)["state"], "running");
        assert_eq!(node.sh(slice, "echo works").ok(), "works\n");
    }
    eventually("the status says it", || {
        node.node_status()["problems"][0].as_str().filter(|said| said.contains("the disk is full")).map(drop)
    });
    assert!(node.plab(&["status"]).ok().contains("PROBLEM: ledger"));
    assert!(node.log().contains("disk-full"), "{}", node.log());
    // What is new cannot be kept, so it is not accepted. (A capsule that writes its files anew frees a block at times.)
    fill();
    let refused = node.plab_with_input(&["apply", "-"], TestNode::definition("site_c", "").as_bytes());
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("disk is full"), "{}", refused.stderr);
    std::fs::remove_file(node.definition_path("site_c")).expect("remove");

    assert!(disk.command("rm").arg(&filler).status().expect("rm").success());
    await_event(&node, "disk-recovered");
    assert_eq!(node.node_status()["problems"], Value::Array(Vec::new()));
    // What happened meanwhile is on record.
    await_event(&node, "disk-full");
    let boot = boot(&node);
    assert_eq!((boot["starts"].as_u64(), boot["crashes"].as_u64()), (Some(2), Some(1)), "{boot}");
    assert_eq!(boot["network"], "not-awaited");
    node.define("site_d", "");
    assert_eq!(node.pid("site_a"), pid, "nobody's capsule was touched");
    node.stop_daemon();
    node.start_daemon_by(disk.command(binary("plabd")));
    node.await_state("site_d", "running");
    for slice in ["site_a", "site_b", "site_d"] {
        node.plab(&["rm", "--yes", slice]).ok();
    }
    node.finish();
}

/// A program for the node file that notes how it was called, and exits with what is in `status`.
fn power_program(directory: &Path) -> String {
    let path = directory.join("power");
    let text = "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/power-calls\"\nexit \"$(cat \"$(dirname \"$0\")/power-status\")\"\n";
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    std::fs::write(directory.join("power-status"), "0").expect("write");
    format!("[power]\nprogram = \"{}\"\n", path.display())
}

#[test]
fn a_planned_reboot_is_announced_outlives_plabd_and_can_be_cancelled() {
    let mut node = TestNode::start("boots-plan");
    let refused = node.plab(&["node", "reboot"]);
    assert!(refused.code == 1 && refused.stderr.contains("does not own the machine"), "{refused:?}");
    node.stop_daemon();
    node.write_node_file(&power_program(node.root()));
    node.start_daemon();
    define_counting(&node, "site_a");
    assert_eq!(node.plab(&["node"]).ok(), "nothing is planned\n");
    let past = node.plab(&["node", "reboot", "--at", "2020-01-01T00:00:00Z"]);
    assert!(past.code == 1 && past.stderr.contains("has passed"), "{past:?}");
    assert_eq!(node.plab(&["node", "cancel"]).code, 1);

    let mut terminal = Pty::start(&node, &["exec", "site_a", "bash", "--norc"], (24, 100));
    terminal.type_in("echo rea''dy\n");
    terminal.await_shown("ready");
    node.plab(&["node", "poweroff", "--at", "+61s", "--reason", "new kernel"]).ok();
    terminal.await_shown("*** node1.example.org is switched off in 1 min: new kernel ***");
    terminal.type_in("exit\n");
    terminal.wait();

    node.plab(&["node", "reboot", "--at", "+2h", "--reason", "new disk"]).ok();
    assert!(node.plab(&["node"]).ok().contains("the node reboots at "));
    node.kill_daemon();
    node.start_daemon();
    let planned: Value = serde_json::from_str(&node.plab(&["node", "--json"]).ok()).expect("JSON");
    assert_eq!(
        (planned["plan"]["action"].as_str(), planned["plan"]["reason"].as_str()),
        (Some("reboot"), Some("new disk"))
    );
    let status = node.plab(&["status"]).ok();
    assert!(status.contains("PLANNED: the node reboots at") && status.contains("new disk"), "{status}");
    node.plab(&["node", "cancel"]).ok();
    assert_eq!(node.node_status()["planned"], Value::Null);
    await_event(&node, "power-cancelled");

    // One whose time passes while nobody could carry it out is dropped.
    node.plab(&["node", "reboot", "--at", "+5s"]).ok();
    node.kill_daemon();
    std::thread::sleep(std::time::Duration::from_secs(7));
    node.start_daemon();
    assert!(await_event(&node, "power-dropped").contains("reboot"));
    assert_eq!(node.plab(&["node"]).ok(), "nothing is planned\n");
    assert!(!node.root().join("power-calls").exists(), "nothing was carried out");
    assert_eq!((node.lines("site_a", "started"), node.lines("site_a", "stopped")), (1, 0));
    node.finish();
}

#[test]
fn a_reboot_stops_every_capsule_first_and_one_that_fails_starts_them_again() {
    let mut node = TestNode::start("boots-power");
    node.stop_daemon();
    node.write_node_file(&power_program(node.root()));
    node.start_daemon();
    define_counting(&node, "site_a");
    let calls = || std::fs::read_to_string(node.root().join("power-calls")).unwrap_or_default();
    std::fs::write(node.root().join("power-status"), "7").expect("write");
    node.plab(&["node", "poweroff"]).ok();
    assert!(await_event(&node, "power-failed").contains("exit status: 7"));
    assert_eq!((calls().as_str(), node.lines("site_a", "stopped")), ("poweroff\n", 1));
    node.await_lines("site_a", "started", 2);
    node.await_state("site_a", "running");
    assert_eq!(boot(&node)["ended"], Value::Null);
    node.await_stop_known("site_a");

    std::fs::write(node.root().join("power-status"), "0").expect("write");
    node.plab(&["node", "reboot", "--reason", "again"]).ok();
    eventually("the program was called", || (calls() == "poweroff\nreboot\n").then_some(()));
    assert_eq!(
        (node.lines("site_a", "stopped"), node.status("site_a")["state"].as_str()),
        (2, Some("stopped"))
    );
    assert_eq!(boot(&node)["ended"], "reboot");
    node.finish();
}
