//! `kill -9` of plabd at random moments: nothing is orphaned, nothing runs twice, no service notices.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use plab_tests::leftovers::processes;
use plab_tests::{TestNode, binary, eventually, rounds, slowness};

/// As many kills as the project promises to survive.
const KILLS: u32 = 200;

/// Slices that are only there to not notice anything.
const KEEPERS: [&str; 3] = ["site_keep", "site_keep1", "site_keep10"];

/// A small generator: the same moments at every run, told by its seed when one fails.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The hooks of every slice: each writes which capsule (which PID namespace) it ran in.
fn install_skeleton(node: &TestNode) {
    use std::os::unix::fs::PermissionsExt;
    let control = node.root().join("etc/planetlab/skel/PlanetLab-control");
    std::fs::create_dir_all(&control).expect("mkdir");
    for (name, text) in [
        (
            "configure",
            "#!/bin/sh\necho $(readlink /proc/self/ns/pid) $(cut -d' ' -f22 /proc/1/stat) >> $HOME/configured\n",
        ),
        (
            "start",
            "#!/bin/sh\necho $(readlink /proc/self/ns/pid) $(cut -d' ' -f22 /proc/1/stat) >> $HOME/started\nexec sleep 1000\n",
        ),
        (
            "stop",
            "#!/bin/sh\necho $(readlink /proc/self/ns/pid) $(cut -d' ' -f22 /proc/1/stat) >> $HOME/stopped\nkill -TERM -1\n",
        ),
    ] {
        let path = control.join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}

fn write(node: &TestNode, slice: &str, more: &str) {
    let path = node.definition_path(slice);
    let temporary = path.with_extension("part");
    std::fs::write(&temporary, TestNode::definition(slice, more)).expect("write");
    std::fs::rename(&temporary, &path).expect("rename");
}

fn lines(node: &TestNode, slice: &str, file: &str) -> Vec<String> {
    let path = node.root().join(format!("var/lib/planetlab/slices/{slice}/home/{slice}/{file}"));
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn two_hundred_kills_of_plabd_leave_no_trace() {
    let seed = 0x9e37_79b9_7f4a_7c15;
    let mut random = Random(seed);
    let mut node = TestNode::start_with("faults", "[defaults]\nstop_grace = \"2s\"\n");
    install_skeleton(&node);
    for keeper in KEEPERS {
        node.define(keeper, "");
        eventually("the keeper's service is up", || {
            (lines(&node, keeper, "started").len() == 1).then_some(())
        });
    }
    let pids: Vec<_> = KEEPERS.iter().map(|keeper| node.status(keeper)["pid"].clone()).collect();

    let mut defined: BTreeMap<String, u64> = BTreeMap::new();
    for kill in 0..rounds(KILLS) {
        for _ in 0..=random.next(2) {
            let slice = format!("churn_{}", random.next(12));
            match random.next(4) {
                0 if defined.remove(&slice).is_some() => {
                    std::fs::remove_file(node.definition_path(&slice)).expect("remove");
                }
                1 if defined.contains_key(&slice) => {
                    // A change that takes a new capsule.
                    write(&node, &slice, "[seccomp]\nprofile = \"strict\"");
                    defined.insert(slice, 0);
                }
                _ => {
                    let tasks = 32 + random.next(64);
                    write(&node, &slice, &format!("[tasks]\nmax = {tasks}"));
                    defined.insert(slice, tasks);
                }
            }
        }
        // A removal is believed after a second; now and then, let it be.
        let longest = if random.next(12) == 0 { 1_300_000 } else { 40_000 };
        std::thread::sleep(Duration::from_micros(random.next(longest)));
        node.kill_daemon();
        if random.next(3) == 0 {
            // plabd may be away for a while, and killed while it starts.
            node.start_daemon();
            std::thread::sleep(Duration::from_micros(random.next(10_000)));
            node.kill_daemon();
        }
        node.start_daemon();
        for (keeper, pid) in KEEPERS.iter().zip(&pids) {
            let now = node.status(keeper);
            assert_eq!((&now["pid"], &now["state"]), (pid, &"running".into()), "kill {kill}, seed {seed:#x}");
        }
    }

    // Everything desired is so, and nothing else is.
    let wanted: BTreeSet<String> =
        KEEPERS.iter().map(|name| (*name).to_owned()).chain(defined.keys().cloned()).collect();
    eventually("what runs is what is defined", || {
        let status = node.node_status();
        let slices = status["slices"].as_array()?;
        let names: BTreeSet<String> =
            slices.iter().filter_map(|slice| slice["name"].as_str().map(str::to_owned)).collect();
        (names == wanted && slices.iter().all(|slice| slice["state"] == "running")).then_some(())
    });
    for (slice, tasks) in &defined {
        if *tasks > 0 {
            eventually("the last definition is in effect", || {
                let shown = node.plab(&["status", slice, "--verify", "--json"]);
                shown.stdout.contains(&format!("\"asked\":\"{tasks}\"")).then_some(())
            });
        }
    }
    for slice in &wanted {
        eventually("start has run", || (!lines(&node, slice, "started").is_empty()).then_some(()));
        assert_eq!(
            lines(&node, slice, "configured").len(),
            1,
            "{slice}: configure runs once an installation"
        );
        for file in ["started", "stopped"] {
            let all = lines(&node, slice, file);
            let distinct: BTreeSet<&String> = all.iter().collect();
            // The namespace, whose number may be given again, with the start of its first process.
            assert_eq!(all.len(), distinct.len(), "{slice}: {file} twice in one capsule: {all:?}");
        }
    }
    for keeper in KEEPERS {
        assert_eq!(lines(&node, keeper, "started").len(), 1, "{keeper} was started again");
        assert_eq!(lines(&node, keeper, "stopped").len(), 0, "{keeper} was stopped");
    }

    // No storage, socket or process of a slice that is not there.
    let storage: BTreeSet<String> = names(&node.root().join("var/lib/planetlab/slices"));
    assert_eq!(storage, wanted);
    let uids: BTreeSet<String> = wanted.iter().map(|slice| node.status(slice)["uid"].to_string()).collect();
    let sockets: BTreeSet<String> = names(&node.root().join("run/planetlab/capsules"))
        .iter()
        .map(|name| name.replace(".sock", ""))
        .collect();
    assert_eq!(sockets, uids);
    for process in processes(node.uids()) {
        assert!(uids.iter().any(|uid| process.contains(&format!("UID {uid} "))), "orphan: {process}");
    }
    // One capsule-init and one service each.
    assert_eq!(processes(node.uids()).len(), wanted.len() * 2);
    node.finish();
}

fn names(directory: &std::path::Path) -> BTreeSet<String> {
    std::fs::read_dir(directory)
        .expect("list")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn what_is_configured_stays_so_if_plabd_dies_while_the_disk_is_written() {
    // The success is on record when all that `configure` wrote is on disk, which takes long for so much. Meanwhile the
    // capsule is exchanged for another one, and plabd killed when the one is gone and the other has not begun.
    let mut node = TestNode::start_with("configured", "[defaults]\nstop_grace = \"2s\"\n");
    install_skeleton(&node);
    let skeleton = node.root().join("etc/planetlab/skel/PlanetLab-control/configure");
    let text = std::fs::read_to_string(&skeleton).expect("read");
    std::fs::write(&skeleton, format!("{text}head -c 100000000 /dev/zero > $HOME/much\n")).expect("write");
    for turn in 0..3 {
        let slice = format!("site_much{turn}");
        write(&node, &slice, "");
        eventually("start has run", || (!lines(&node, &slice, "started").is_empty()).then_some(()));
        let former = std::path::PathBuf::from(format!("/proc/{}", node.pid(&slice)));
        write(&node, &slice, "[seccomp]\nprofile = \"strict\"");
        eventually("the capsule is gone", || (!former.exists()).then_some(()));
        node.kill_daemon();
        node.start_daemon();
        eventually("another one is there", || (lines(&node, &slice, "started").len() == 2).then_some(()));
        assert_eq!(lines(&node, &slice, "configured").len(), 1, "turn {turn}");
        std::fs::remove_file(node.definition_path(&slice)).expect("remove");
        eventually("it is gone", || node.status(&slice).is_null().then_some(()));
    }
    node.finish();
}

#[test]
fn a_capsule_whose_plabd_dies_before_it_says_go_ends() {
    // plabd is killed at once after a definition appears, each time a little later: whatever was half made is gone or whole.
    let mut node = TestNode::start("unborn");
    for turn in 0..u64::from(rounds(50)) {
        write(&node, "unborn", &format!("[tasks]\nmax = {}", 32 + turn));
        std::thread::sleep(Duration::from_micros(turn * 150 * u64::from(slowness())));
        node.kill_daemon();
        std::fs::remove_file(node.definition_path("unborn")).expect("remove");
        node.start_daemon();
        eventually("nothing is left of it", || {
            (node.status("unborn").is_null() && processes(node.uids()).is_empty()).then_some(())
        });
    }
    node.finish();
}

/// Its log may be a file on a full disk, or a journal that is being started anew.
#[test]
fn a_log_that_takes_no_more_does_not_end_plabd() {
    let mut node = TestNode::start("faults-log");
    node.define("site_a", "");
    let pid = node.pid("site_a");
    node.kill_daemon();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>/dev/full"]).arg(binary("plabd"));
    node.start_daemon_by(command);
    assert_eq!(node.pid("site_a"), pid);
    node.plab(&["restart", "site_a"]).ok();
    assert_eq!(node.status("site_a")["state"], "running");
    node.finish();
}
