//! What rests on control groups, judged by their own files: the same on cgroup v2 and on a hybrid machine, and where
//! the two differ, each as it is said to be. The v2 half runs on the node of `tests/vm`.

use std::path::PathBuf;

use plab_tests::leftovers::processes;
use plab_tests::{COUNTING, Neighbour, TestNode, eventually, eventually_or};
use serde_json::Value;

/// A slice's directory for one controller, found by the kernel's word on its capsule-init.
struct Place {
    directory: PathBuf,
    v2: bool,
}

/// Mounted cgroup hierarchies: where, whether of v2, and their options.
fn hierarchies() -> Vec<(PathBuf, bool, Vec<String>)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let right: Vec<&str> = right.split(' ').collect();
            let at = left.split(' ').nth(4)?;
            right[0]
                .starts_with("cgroup")
                .then(|| (at.into(), right[0] == "cgroup2", right[2].split(',').map(str::to_owned).collect()))
        })
        .collect()
}

/// Where the tree of v2 is mounted.
fn unified() -> PathBuf {
    hierarchies().into_iter().find_map(|(at, v2, _)| v2.then_some(at)).expect("a cgroup2 mount")
}

/// Whether the memory controller is on v2.
fn all_v2() -> bool {
    let text = std::fs::read_to_string(unified().join("cgroup.controllers")).expect("cgroup.controllers");
    text.split_whitespace().any(|name| name == "memory")
}

fn place(pid: u64, controller: &str) -> Place {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the capsule runs");
    let on_v1 =
        hierarchies().into_iter().find(|(_, v2, options)| !v2 && options.iter().any(|is| is == controller));
    let path_of = |wanted: &str| {
        let found = text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|is| is == wanted).then(|| path.trim_start_matches('/').to_owned())
        });
        found.unwrap_or_else(|| panic!("no {wanted:?} in {text}"))
    };
    match on_v1 {
        Some((at, ..)) => Place { directory: at.join(path_of(controller)), v2: false },
        None => Place { directory: unified().join(path_of("")), v2: true },
    }
}

impl Place {
    fn read(&self, file: &str) -> String {
        let path = self.directory.join(file);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// The number on this line of a file, such as `max` of `pids.events`.
    fn count(&self, file: &str, line: &str) -> u64 {
        let text = self.read(file);
        let found = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in {file}: {text}"))
    }
}

/// Every row of the cgroup's layer that `plab status --verify` has, and that each is as asked.
fn verified(node: &TestNode, slice: &str) -> Vec<(String, String)> {
    let output = node.plab(&["status", slice, "--verify", "--json"]);
    let status: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let rows = status["slices"][0]["verify"].as_array().cloned().unwrap_or_default();
    let bad: Vec<_> = rows.iter().filter(|row| row["ok"] != true).collect();
    assert!(bad.is_empty(), "not in force: {bad:#?}");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let own = rows.iter().filter(|row| row["layer"] == "cgroup");
    own.map(|row| (text(row, "what"), text(row, "in_force"))).collect()
}

/// What the files say, by controller, for limits of weight, percent of a CPU, MiB and tasks.
fn expect_limits(
    node: &TestNode,
    slice: &str,
    weight: u64,
    percent: u64,
    high: Option<u64>,
    max: u64,
    tasks: u64,
) {
    let pid = node.pid(slice);
    let (cpu, memory, pids) = (place(pid, "cpu"), place(pid, "memory"), place(pid, "pids"));
    let (quota, bytes) = (percent * 1000, max << 20);
    let mut told = vec![("pids.max", tasks.to_string())];
    assert_eq!(pids.read("pids.max"), tasks.to_string());
    if cpu.v2 {
        assert_eq!(cpu.read("cpu.weight"), weight.to_string());
        assert_eq!(cpu.read("cpu.max"), format!("{quota} 100000"));
        told.extend([("cpu.weight", weight.to_string()), ("cpu.max", format!("{quota} 100000"))]);
    } else {
        let shares = weight * 1024 / 100;
        assert_eq!(cpu.read("cpu.shares"), shares.to_string());
        assert_eq!(cpu.read("cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(cpu.read("cpu.cfs_period_us"), "100000");
        told.extend([("cpu.weight", shares.to_string()), ("cpu.max", quota.to_string())]);
    }
    told.push(("memory.max", bytes.to_string()));
    if memory.v2 {
        let high = high.map_or_else(|| "max".to_owned(), |high| (high << 20).to_string());
        assert_eq!(memory.read("memory.max"), bytes.to_string());
        assert_eq!(memory.read("memory.high"), high);
        assert_eq!(memory.read("memory.swap.max"), "0");
        assert_eq!(memory.read("memory.oom.group"), "1");
        told.extend([
            ("memory.high", high),
            ("memory.swap.max", "0".into()),
            ("memory.oom.group", "1".into()),
        ]);
    } else {
        assert_eq!(high, None, "v1 has no memory.high");
        assert_eq!(memory.read("memory.limit_in_bytes"), bytes.to_string());
        assert_eq!(memory.read("memory.memsw.limit_in_bytes"), bytes.to_string(), "memory and swap together");
    }
    let rows = verified(node, slice);
    for (what, value) in told {
        assert!(
            rows.contains(&(what.to_owned(), value.clone())),
            "status --verify has no {what} = {value}: {rows:?}"
        );
    }
}

#[test]
fn limits_asked_are_limits_in_force_and_change_live() {
    let node = TestNode::start("v2-limits");
    node.define("site_a", "[cpu]\nweight = 150\nmax = \"50%\"\n[memory]\nmax = \"64M\"\n[tasks]\nmax = 40");
    expect_limits(&node, "site_a", 150, 50, None, 64, 40);
    let pid = node.pid("site_a");

    node.define("site_a", "[cpu]\nweight = 700\nmax = \"120%\"\n[memory]\nmax = \"96M\"\n[tasks]\nmax = 64");
    node.await_event("site_a", "limits-changed", "memory max 96M");
    expect_limits(&node, "site_a", 700, 120, None, 96, 64);
    node.define("site_a", "[cpu]\nweight = 1\nmax = \"5%\"\n[memory]\nmax = \"48M\"\n[tasks]\nmax = 24");
    node.await_event("site_a", "limits-changed", "memory max 48M");
    expect_limits(&node, "site_a", 1, 5, None, 48, 24);
    assert_eq!(node.pid("site_a"), pid, "limits change live");

    if all_v2() {
        node.define(
            "site_a",
            "[cpu]\nmax = \"50%\"\n[memory]\nhigh = \"32M\"\nmax = \"48M\"\n[tasks]\nmax = 24",
        );
        eventually("memory.high is in force", || {
            (place(pid, "memory").read("memory.high") != "max").then_some(())
        });
        expect_limits(&node, "site_a", 100, 50, Some(32), 48, 24);
        assert_eq!(node.pid("site_a"), pid, "limits change live");
    }
    node.finish();
}

#[test]
fn a_memory_limit_below_what_is_held_is_met_without_a_kill() {
    let node = TestNode::start("v2-shrink");
    node.define("site_a", "[memory]\nmax = \"96M\"");
    // From when there is a file `big` it holds memory that nothing can reclaim.
    let start = "#!/usr/bin/python3\nimport os, time\nopen('starts', 'a').write('x\\n')\n\
                 while not os.path.exists('big'): time.sleep(0.05)\nheld = b'x' * (48 << 20)\n\
                 open('holds', 'a').write('x\\n')\nwhile True: time.sleep(1)\n";
    node.put_hook("site_a", "start", start);
    node.put_hook("site_a", "stop", "#!/bin/sh\nrm -f big; echo >> stops; pkill -x start\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "starts", 1);
    let pid = node.pid("site_a");

    // Files that were read make room.
    node.sh("site_a", "head -c 40000000 /dev/zero > file; sync; cat file > /dev/null").ok();
    node.define("site_a", "[memory]\nmax = \"40M\"");
    node.await_event("site_a", "limits-changed", "memory max 40M");
    assert_eq!(node.pid("site_a"), pid, "live");

    // What a process holds does not. The slice gets its `stop`, and nothing is killed for memory.
    node.define("site_a", "[memory]\nmax = \"96M\"");
    node.sh("site_a", "touch big").ok();
    node.await_lines("site_a", "holds", 1);
    let (pid, stops) = (node.pid("site_a"), node.lines("site_a", "stops"));
    node.define("site_a", "[memory]\nmax = \"40M\"");
    node.await_event("site_a", "restart-needed", "more memory than its new limit");
    eventually("a new capsule", || (node.pid("site_a") != pid).then_some(()));
    node.await_lines("site_a", "starts", 2);
    assert_eq!(node.lines("site_a", "stops"), stops + 1);
    assert!(node.event_messages("site_a", "capsule-out-of-memory").is_empty());
    let row = node.verified("site_a", "memory.max");
    assert_eq!((&row["ok"], &row["in_force"]), (&true.into(), &(40 << 20).to_string().into()), "{row}");
    node.finish();
}

#[test]
fn memory_high_slows_and_does_not_kill_or_is_refused() {
    let node = TestNode::start("v2-high");
    let high = "[memory]\nhigh = \"24M\"\nmax = \"96M\"";
    if !all_v2() {
        let refused = node.plab_with_input(&["apply", "-"], TestNode::definition("site_a", high).as_bytes());
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("this node cannot enforce memory.high"), "{refused:?}");
        assert!(node.status("site_a").is_null());
        return node.finish();
    }
    node.define("site_a", high);
    let memory = place(node.pid("site_a"), "memory");
    // There is no swap: nothing of it can be reclaimed, only slowed.
    node.sh("site_a", "python3 -c \"b = bytearray(40 << 20); print(len(b))\"").ok();
    assert!(memory.count("memory.events", "high") > 0, "the kernel did not slow it");
    assert_eq!(memory.count("memory.events", "oom_kill"), 0);
    assert_eq!(node.status("site_a")["state"], "running");
    node.finish();
}

/// A service of two processes, of which one takes memory without end as soon as there is a file `go`.
const GLUTTON: &str = "#!/bin/sh\nsleep 10000 &\nsleep 10000 &\necho up >> starts\n\
    while [ ! -e go ]; do sleep 0.2; done\nrm go\nexec tail /dev/zero\n";

fn glutton(node: &TestNode, slice: &str) {
    node.define(slice, "[memory]\nmax = \"32M\"\n[tasks]\nmax = 32");
    node.put_hook(slice, "start", GLUTTON);
    node.plab(&["restart", slice]).ok();
    node.await_lines(slice, "starts", 1);
}

fn of_slice(node: &TestNode, slice: &str) -> Vec<String> {
    let uid = u32::try_from(node.status(slice)["uid"].as_u64().expect("a UID")).expect("a UID");
    processes(uid..=uid)
}

#[test]
fn a_slice_out_of_memory_dies_as_a_whole_and_alone() {
    let node = TestNode::start("v2-oom");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    glutton(&node, "site_a");
    assert!(of_slice(&node, "site_a").len() >= 4, "capsule-init, the service, two that sleep");
    std::fs::write(node.home("site_a").join("go"), "").expect("write");
    let said = node.await_event("site_a", "capsule-out-of-memory", "out of memory");
    assert!(said.contains("32M"), "{said}");
    node.await_state("site_a", "failed");
    assert_eq!(of_slice(&node, "site_a"), [""; 0]);
    neighbour.check(&node);
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "starts", 2);
    node.finish();
}

/// On v1 the kernel ends one process at a time and plabd the rest; on v2 the kernel needs nobody.
#[test]
fn what_the_kernel_kills_while_plabd_is_away() {
    let mut node = TestNode::start("v2-oom-alone");
    glutton(&node, "site_a");
    let memory = place(node.pid("site_a"), "memory");
    let uid = u32::try_from(node.status("site_a")["uid"].as_u64().expect("a UID")).expect("a UID");
    let left = || processes(uid..=uid);
    node.kill_daemon();
    std::fs::write(node.home("site_a").join("go"), "").expect("write");
    if !memory.v2 {
        eventually_or(
            || (memory.count("memory.oom_control", "oom_kill") > 0).then_some(()),
            || format!("left: {:?}", left()),
        );
        assert!(left().iter().any(|process| process.contains("capsule-init")), "{:?}", left());
        assert_eq!(memory.count("memory.oom_control", "under_oom"), 0);
        node.start_daemon();
        assert_eq!(node.event_messages("site_a", "capsule-adopted").len(), 1);
        return node.finish();
    }
    eventually_or(|| left().is_empty().then_some(()), || format!("left: {:?}", left()));
    assert_eq!(memory.count("memory.events", "oom_group_kill"), 1);
    assert!(memory.count("memory.events", "oom_kill") >= 4, "{}", memory.read("memory.events"));
    node.start_daemon();
    // Found dead by a new plabd: cleared away, said, and made again, as after any death that nobody saw.
    node.await_event("site_a", "remains-cleared", "");
    node.await_state("site_a", "running");
    node.await_lines("site_a", "starts", 2);
    node.finish();
}

/// Every process forks as fast as it can, and goes on when it may not; the kernel's answers are kept.
const BOMB: &str = "#!/usr/bin/python3\nimport os\nwhile True:\n    try:\n        os.fork()\n    \
    except OSError as error:\n        with open('refused', 'w') as told: told.write(str(error.errno))\n";

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    let node = TestNode::start("v2-bomb");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", "[cpu]\nweight = 1\n[memory]\nmax = \"128M\"\n[tasks]\nmax = 20");
    node.put_hook("site_a", "start", BOMB);
    node.plab(&["restart", "site_a"]).ok();
    let pids = place(node.pid("site_a"), "pids");
    let now = || pids.read("pids.current").parse::<u64>().expect("a number");
    eventually("the bomb fills its slice", || (now() == 20).then_some(()));
    eventually("a fork was refused", || {
        (node.home_file("site_a", "refused") == libc::EAGAIN.to_string()).then_some(())
    });
    for _ in 0..50 {
        let tasks = now();
        assert!(tasks <= 20, "{tasks} tasks");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    neighbour.check(&node);
    node.plab(&["rm", "--yes", "site_a"]).ok();
    eventually("the slice is gone", || node.status("site_a").is_null().then_some(()));
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_frozen_slice_stands_still_also_over_plabds_death() {
    let mut node = TestNode::start("v2-freeze");
    node.define("site_a", "");
    node.put_hook("site_a", "start", COUNTING);
    node.plab(&["restart", "site_a"]).ok();
    eventually("it counts", || (node.lines("site_a", "ticks") > 2).then_some(()));
    let pid = node.pid("site_a");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a v2 cgroup");
    let tree = Place { directory: unified().join(own), v2: true };

    node.plab(&["freeze", "site_a"]).ok();
    assert_eq!(tree.count("cgroup.events", "frozen"), 1);
    let still = node.lines("site_a", "ticks");
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(node.status("site_a")["state"], "frozen");
    assert_eq!(node.status("site_a")["pid"], pid);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(node.lines("site_a", "ticks"), still, "frozen, and counting");

    node.plab(&["thaw", "site_a"]).ok();
    assert_eq!(tree.count("cgroup.events", "frozen"), 0);
    eventually("it goes on", || (node.lines("site_a", "ticks") > still).then_some(()));
    // Frozen processes go, too.
    node.plab(&["freeze", "site_a"]).ok();
    node.plab(&["rm", "--yes", "site_a"]).ok();
    eventually("the slice is gone", || node.status("site_a").is_null().then_some(()));
    assert!(!tree.directory.exists());
    node.finish();
}

#[test]
fn capsules_outlive_plabd_with_their_limits() {
    let mut node = TestNode::start("v2-adopt");
    node.define("site_a", "[cpu]\nweight = 150\nmax = \"50%\"\n[memory]\nmax = \"64M\"\n[tasks]\nmax = 40");
    node.put_hook("site_a", "start", &COUNTING.replacen('\n', "\necho >> starts\n", 1));
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "starts", 1);
    let pid = node.pid("site_a");
    for _ in 0..3 {
        node.kill_daemon();
        let before = node.lines("site_a", "ticks");
        eventually("it goes on without plabd", || (node.lines("site_a", "ticks") > before).then_some(()));
        node.start_daemon();
        assert_eq!(node.pid("site_a"), pid);
        assert_eq!(
            node.sh("site_a", "cat /proc/self/cgroup").ok().lines().last(),
            Some("0::/"),
            "a cgroup root of its own"
        );
        expect_limits(&node, "site_a", 150, 50, None, 64, 40);
    }
    assert_eq!(node.event_messages("site_a", "capsule-adopted").len(), 3);
    // What an adopted one is asked afterwards, it is held to as well.
    node.define("site_a", "[cpu]\nmax = \"50%\"\n[memory]\nmax = \"32M\"\n[tasks]\nmax = 30");
    node.await_event("site_a", "limits-changed", "memory max 32M");
    expect_limits(&node, "site_a", 100, 50, None, 32, 30);
    assert_eq!((node.pid("site_a"), node.lines("site_a", "starts")), (pid, 1));
    node.finish();
}

#[test]
fn a_removed_slice_leaves_no_cgroup_anywhere() {
    let node = TestNode::start("v2-removed");
    node.define("site_a", "");
    node.define("site_a1", "");
    node.sh("site_a", "setsid sleep 1000 >/dev/null 2>&1 & touch mine").ok();
    let directories: Vec<PathBuf> =
        ["cpu", "memory", "pids"].map(|controller| place(node.pid("site_a"), controller).directory).into();
    assert!(directories.iter().all(|directory| directory.is_dir()));
    let uid = u32::try_from(node.status("site_a")["uid"].as_u64().expect("a UID")).expect("a UID");
    node.plab(&["rm", "--yes", "site_a"]).ok();
    eventually("the slice is gone", || node.status("site_a").is_null().then_some(()));
    let left: Vec<_> = directories.iter().filter(|directory| directory.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes(uid..=uid), [""; 0]);
    assert!(!node.root().join("var/lib/planetlab/slices/site_a").exists());
    assert_eq!(node.status("site_a1")["state"], "running");
    node.finish();
}

/// The least that a definition may ask for. On v2 the kernel's own memory for a capsule counts, too.
#[test]
fn the_least_memory_is_enough_for_a_shell() {
    let node = TestNode::start("v2-least");
    node.define("site_a", "[memory]\nmax = \"8M\"");
    assert_eq!(node.sh("site_a", "for i in 1 2 3; do /bin/echo $i; done").ok(), "1\n2\n3\n");
    assert_eq!(node.event_messages("site_a", "capsule-out-of-memory"), [""; 0]);
    node.finish();
}

#[test]
fn check_tells_how_cgroups_are_arranged() {
    let node = TestNode::start("v2-check");
    let rows =
        |output: plab_tests::Output| -> Vec<Value> { serde_json::from_str(&output.stdout).expect("JSON") };
    let found = rows(node.plab(&["check", "--json"]));
    let row = |feature: &str| found.iter().find(|row| row["feature"] == feature).expect("a row").clone();
    let (arrangement, state) = if all_v2() {
        ("v2", "present")
    } else {
        ("hybrid: limits on v1, kill and freeze on v2", "degraded")
    };
    assert_eq!(
        (&row("cgroups")["found"], &row("cgroups")["state"]),
        (&arrangement.into(), &"present".into())
    );
    for feature in ["memory.high", "memory.oom-group"] {
        assert_eq!(row(feature)["state"], state, "{feature}");
    }
    assert_eq!(row("memory.swap")["state"], "present");
    // A look beside a node without capsules takes nothing from it.
    node.define("site_a", "");
    assert_eq!(node.status("site_a")["state"], "running");
    node.finish();
}

/// With all that v2 has, nothing needs to be let pass; a hybrid machine refuses every definition then, and says why.
#[test]
fn a_node_that_may_lack_nothing() {
    let mut node = TestNode::start("v2-strict");
    let log = node.root().join("syslog");
    let _syslog = std::os::unix::net::UnixDatagram::bind(&log).expect("a system log");
    let uids = node.uids();
    let text = format!(
        "name = \"node1.example.org\"\nuids = \"{}-{}\"\n[audit]\nsyslog = \"{}\"\n",
        uids.start(),
        uids.end(),
        log.display()
    );
    node.kill_daemon();
    std::fs::write(node.root().join("etc/planetlab/node.toml"), text).expect("write");
    node.start_daemon();
    let applied = node.plab_with_input(&["apply", "-"], TestNode::definition("site_a", "").as_bytes());
    if all_v2() {
        applied.ok();
        assert!(
            node.events(None).iter().all(|event| event["kind"] != "degraded"),
            "{:#?}",
            node.events(None)
        );
        node.sh("site_a", "true").ok();
    } else {
        assert_eq!(applied.code, 1, "{applied:?}");
        assert!(applied.stderr.contains("this node cannot enforce memory.oom-group"), "{applied:?}");
    }
    node.finish();
}
