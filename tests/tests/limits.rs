//! What a capsule is held to, measured: memory, tasks, a share of the CPU and no more than so much of it.

use std::fmt::Write as _;

use plab_tests::{Neighbour, TestNode, eventually, eventually_or};
use serde_json::Value;

/// Takes more memory than there is, page by page.
const HOG: &str = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (1 << 20))\n";

fn usage(node: &TestNode) -> (u64, Vec<Value>) {
    let all: Value = serde_json::from_str(&node.plab(&["top", "--once", "--json"]).ok()).expect("JSON");
    (all["at_micros"].as_u64().expect("a time"), all["capsules"].as_array().cloned().expect("capsules"))
}

/// CPU time that a slice used, in microseconds.
fn cpu(capsules: &[Value], slice: &str) -> u64 {
    let capsule = capsules
        .iter()
        .find(|capsule| capsule["name"] == slice)
        .unwrap_or_else(|| panic!("{slice} in {capsules:?}"));
    capsule["cpu_micros"].as_u64().expect("a number")
}

#[test]
fn a_memory_hog_is_killed_as_a_whole_and_alone() {
    let node = TestNode::start("limits-memory");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_hog", "[memory]\nmax = \"48M\"");
    // Beside the hog there are processes that do nothing wrong: the capsule goes as a whole.
    node.put_hook("site_hog", "start", "#!/bin/sh\necho >> started\nsleep 1000 & sleep 1000 & while [ ! -e go ]; do sleep 0.2; done; rm go; exec python3 hog.py\n");
    node.put("site_hog", "hog.py", HOG.as_bytes(), 0o644);
    node.plab(&["restart", "site_hog"]).ok();
    node.await_hook("site_hog", "start", "running");
    let uid = u32::try_from(node.status("site_hog")["uid"].as_u64().expect("UID")).expect("UID");
    node.sh("site_hog", "touch go").ok();
    node.await_state("site_hog", "failed");
    let said = node.await_event("site_hog", "capsule-out-of-memory", "out of memory");
    assert!(said.contains("48M"), "{said}");
    let status = node.status("site_hog");
    assert!(
        status["detail"].as_str().is_some_and(
            |detail| detail.contains("out of memory") && detail.contains("plab restart site_hog")
        ),
        "{status}"
    );
    assert_eq!(plab_tests::leftovers::processes(uid..=uid), [""; 0], "nothing of it is left");
    // Nobody starts it again unasked; asked, it starts, with its files.
    assert_eq!(node.lines("site_hog", "started"), 1);
    node.plab(&["restart", "site_hog"]).ok();
    node.await_lines("site_hog", "started", 2);
    // The same of a command, a file in memory, and many processes.
    for hog in [
        "python3 hog.py",
        "head -c 200000000 /dev/zero | tail",
        "for i in $(seq 8); do python3 -c 'x = bytearray(b\"x\") * (20 << 20); input()' < <(sleep 1000) & done; wait",
    ] {
        let output = node.sh("site_hog", hog);
        assert_ne!(output.code, 0, "{hog}: {output:?}");
        node.await_state("site_hog", "failed");
        node.plab(&["restart", "site_hog"]).ok();
    }
    neighbour.check(&node);
    node.finish();
}

#[test]
fn shared_memory_counts_and_has_a_bound_of_its_own() {
    let node = TestNode::start("limits-shm");
    node.define("site_a", "[memory]\nmax = \"64M\"");
    let output = node.sh("site_a", "head -c 60000000 /dev/zero > /dev/shm/file");
    assert!(output.code != 0 && output.stderr.contains("No space left"), "{output:?}");
    assert_eq!(node.status("site_a")["state"], "running", "an honest program gets its error");
    let held = node.status("site_a")["memory"].as_u64().expect("bytes");
    assert!(held >= 30 << 20, "{held} bytes");
    node.finish();
}

#[test]
fn a_slice_that_asks_for_it_comes_back_after_it_ran_out_of_memory() {
    let node = TestNode::start("limits-comeback");
    node.define("site_hog", "restart = \"on-failure\"\n[memory]\nmax = \"48M\"");
    node.put("site_hog", "hog.py", HOG.as_bytes(), 0o644);
    // Twice a hog, then a good service.
    node.put_hook(
        "site_hog",
        "start",
        "#!/bin/sh\necho >> started\n[ $(wc -l < started) -gt 2 ] && exec sleep 1000\nexec python3 hog.py\n",
    );
    node.plab(&["restart", "site_hog"]).ok();
    node.await_lines("site_hog", "started", 3);
    node.await_hook("site_hog", "start", "running");
    assert_eq!(node.status("site_hog")["state"], "running");
    assert_eq!(node.event_messages("site_hog", "capsule-out-of-memory").len(), 2);
    node.finish();
}

#[test]
fn a_fork_bomb_fills_its_own_capsule_only() {
    let node = TestNode::start("limits-tasks");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_bomb", "[cpu]\nmax = \"50%\"\n[memory]\nmax = \"128M\"\n[tasks]\nmax = 40");
    node.put_hook("site_bomb", "start", "#!/bin/bash\nbomb() { bomb | bomb & }\nbomb\nsleep 1000\n");
    node.plab(&["restart", "site_bomb"]).ok();
    let mut most = 0;
    eventually_or(
        || {
            most = most.max(node.status("site_bomb")["tasks"].as_u64().unwrap_or(0));
            assert!(most <= 40, "{most} tasks of 40");
            (most >= 38).then_some(())
        },
        || "the bomb goes off".to_owned(),
    );
    // Others fork as they like, in their capsules and outside.
    assert_eq!(node.sh("site_neighbour", "for i in $(seq 50); do /bin/echo $i; done | wc -l").ok(), "50\n");
    neighbour.check(&node);
    assert!(node.status("site_bomb")["tasks"].as_u64().is_some_and(|tasks| tasks <= 40));
    node.plab(&["rm", "--yes", "site_bomb"]).ok();
    // A program that asks in order is told in order.
    node.define("site_full", "[tasks]\nmax = 20");
    let counting = "import subprocess\nn = 0\ntry:\n    while n < 100:\n        subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n        n += 1\nexcept BlockingIOError as e:\n    print(n, e.errno)\n";
    let shown = node.exec("site_full", &["python3", "-c", counting]).ok();
    let count: u32 = shown.split(' ').next().and_then(|count| count.parse().ok()).expect("a count");
    assert!((15..20).contains(&count) && shown.ends_with(" 11\n"), "{shown}");
    // plab says why a command cannot start when there is no room for it.
    let output = node.sh("site_full", "for i in $(seq 30); do sleep 1000 > /dev/null 2>&1 & done; wait");
    assert_ne!(output.code, 0);
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_higher_limit_on_tasks_is_of_use_at_once() {
    let node = TestNode::start("limits-tasks-raised");
    node.define("site_a", "[tasks]\nmax = 20");
    let pid = node.pid("site_a");
    node.define("site_a", "[tasks]\nmax = 400");
    assert_eq!(node.pid("site_a"), pid, "live");
    let script = "for i in $(seq 350); do sleep 1000 > /dev/null 2>&1 & done; jobs -p | wc -l";
    assert_eq!(node.sh("site_a", script).ok().trim(), "350");
    node.finish();
}

#[test]
fn half_a_cpu_is_half_a_cpu() {
    let node = TestNode::start("limits-cpumax");
    node.define("site_half", "[cpu]\nmax = \"50%\"");
    node.put_hook("site_half", "start", "#!/bin/sh\nwhile :; do :; done & while :; do :; done\n");
    node.plab(&["restart", "site_half"]).ok();
    let (begun, before) = usage(&node);
    // Against the kernel's own clock, read with the counters: a busy machine lengthens both.
    let share = eventually("three seconds of it", || {
        let (now, after) = usage(&node);
        let (time, used) = (now - begun, cpu(&after, "site_half") - cpu(&before, "site_half"));
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
        (time > 3_000_000).then(|| used as f64 / time as f64)
    });
    // Never more; less if others want the processors, too.
    assert!((0.1..0.6).contains(&share), "{share}");
    // Lifted while it runs.
    node.define("site_half", "");
    let (begun, before) = usage(&node);
    let share = eventually("three seconds of it", || {
        let (now, after) = usage(&node);
        let (time, used) = (now - begun, cpu(&after, "site_half") - cpu(&before, "site_half"));
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
        (time > 3_000_000).then(|| used as f64 / time as f64)
    });
    assert!(share > 0.1, "{share}");
    node.finish();
}

#[test]
fn weights_divide_a_cpu_that_both_want() {
    let node = TestNode::start("limits-weight");
    for (slice, weight) in [("site_light", 100), ("site_heavy", 300)] {
        node.define(slice, &format!("[cpu]\nweight = {weight}"));
        // Both on one processor, wanting all of it.
        node.put_hook(slice, "start", "#!/bin/bash\nfirst=$(taskset -cp $$ | sed 's/.*: *//; s/[-,].*//')\nexec taskset -c $first bash -c 'echo > ready; while :; do :; done'\n");
        node.plab(&["restart", slice]).ok();
        eventually("it spins", || (node.lines(slice, "ready") == 1).then_some(()));
    }
    let (_, before) = usage(&node);
    let used = |capsules: &[Value], slice: &str| cpu(capsules, slice) - cpu(&before, slice);
    // So much CPU time, however long it takes.
    let capsules = eventually("two seconds of CPU time", || {
        let (_, after) = usage(&node);
        (used(&after, "site_light") + used(&after, "site_heavy") > 2_000_000).then_some(after)
    });
    let (light, heavy) = (used(&capsules, "site_light"), used(&capsules, "site_heavy"));
    assert!(heavy >= 2 * light && 2 * heavy <= 9 * light, "3 to 1 was asked, {heavy} to {light} it is");
    node.finish();
}

#[test]
fn every_limit_is_read_back() {
    let node = TestNode::start("limits-verify");
    let mut told = String::new();
    for (slice, definition, expected) in [
        (
            "site_least",
            "[cpu]\nweight = 1\nmax = \"1%\"\n[memory]\nmax = \"16M\"\n[tasks]\nmax = 8",
            [("memory.max", 16 << 20), ("pids.max", 8)],
        ),
        ("site_plain", "", [("memory.max", 256 << 20), ("pids.max", 128)]),
        (
            "site_most",
            "[cpu]\nweight = 10000\nmax = \"200%\"\n[memory]\nmax = \"4G\"\n[tasks]\nmax = 4096",
            [("memory.max", 4_u64 << 30), ("pids.max", 4096)],
        ),
    ] {
        node.define(slice, definition);
        let output = node.plab(&["status", slice, "--verify", "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let status: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let rows = status["slices"][0]["verify"].as_array().expect("rows");
        for layer in ["cgroup", "namespaces", "view", "privileges", "landlock", "seccomp"] {
            assert!(rows.iter().any(|row| row["layer"] == layer), "{layer} in {rows:#?}");
        }
        for row in rows {
            assert_eq!(row["ok"], true, "{row}");
            writeln!(told, "{slice} {} {} {}", row["what"], row["in_force"], row["source"])
                .expect("a string takes it");
        }
        for what in ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max"] {
            assert!(rows.iter().any(|row| row["what"] == what), "{what} in {rows:#?}");
        }
        for (what, number) in expected {
            assert_eq!(node.verified(slice, what)["in_force"], number.to_string(), "{slice}");
        }
    }
    // Read from the kernel, not from memory: each row names its file, and that says the same.
    for what in ["memory.max", "pids.max"] {
        let row = node.verified("site_most", what);
        let content = std::fs::read_to_string(row["source"].as_str().expect("a file")).expect("read");
        assert_eq!(row["in_force"], content.trim(), "{told}");
    }
    // And the slice sees that it cannot change them.
    assert_ne!(node.sh("site_least", "cat /proc/self/cgroup; echo 1000 > /sys/fs/cgroup/pids.max").code, 0);
    node.finish();
}
