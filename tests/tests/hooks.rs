//! Hooks that misbehave, each in its way: `plab status` says what happened, and neither the neighbour nor plabd
//! notices. And when hooks run: `configure` once per installation, `start` after it and after each restart.

use std::time::{Duration, Instant};

use plab_tests::{Neighbour, TestNode, eventually};

/// Times that let a hanging hook be seen to hang and no honest one be killed.
const QUICK: &str = "[control]\nconfigure_limit = \"1s\"\nstatus_interval = \"300ms\"\nstatus_limit = \"1s\"\nstop_grace = \"1s\"";

/// What stands in a hook's place, how it comes there, and what `plab status` is to say of it.
const PLACED: [(&str, &str, &str); 14] = [
    ("absent", "true", "skipped: not there"),
    ("plain", "printf '#!/bin/sh\\nexit 0\\n' > H && chmod 644 H", "not run: is not executable (chmod +x)"),
    (
        "wrong_interpreter",
        "printf '#!/usr/bin/pyhton3\\n' > H && chmod 755 H",
        "could not be executed: ENOENT: interpreter in the first line not found: \"/usr/bin/pyhton3\"",
    ),
    (
        "bare",
        "echo 'echo hello' > H && chmod 755 H",
        "could not be executed: ENOEXEC: no #! line and not a program",
    ),
    (
        "empty",
        ": > H && chmod 755 H",
        "could not be executed: ENOEXEC: the file is empty, or begins with an empty line",
    ),
    (
        "dos",
        "printf '#!/bin/sh\\r\\nexit 0\\r\\n' > H && chmod 755 H",
        "could not be executed: ENOENT: the first line ends in CR LF; save the script with Unix line ends",
    ),
    ("directory", "mkdir H", "not run: is a directory, not a regular file"),
    ("fifo", "mkfifo H && chmod 755 H", "not run: is a FIFO, not a regular file"),
    (
        "linked",
        "printf '#!/bin/sh\\nexit 7\\n' > ~/program && chmod 755 ~/program && ln -s ../program H",
        "exited 7",
    ),
    ("dangling", "ln -s nowhere H", "not run: is a symbolic link to nothing"),
    ("shadow", "ln -s /etc/shadow H", "not run: is a symbolic link to nothing"),
    ("loop", "ln -s H H", "not run: cannot be examined: ELOOP"),
    ("device", "ln -s /dev/zero H", "not run: is a character device, not a regular file"),
    ("unreadable", "printf '#!/bin/sh\\nexit 0\\n' > H && chmod 111 H", "exited 126"),
];

/// Makes one slice for each of these, with the same in place of each of the hooks, and starts it anew.
fn place(node: &TestNode, hooks: &[&str]) {
    for (name, place, _) in PLACED {
        node.define(&slice_of(name), &format!("[memory]\nmax = \"32M\"\n[tasks]\nmax = 32\n{QUICK}"));
        for hook in hooks {
            node.sh(&slice_of(name), &format!("cd PlanetLab-control && {}", place.replace('H', hook))).ok();
        }
        node.plab(&["restart", &slice_of(name)]).ok();
    }
}

fn slice_of(name: &str) -> String {
    format!("site_{}", name.replace('_', ""))
}

#[test]
fn whatever_stands_in_the_place_of_configure_or_start_is_named() {
    let node = TestNode::start("hooks-placed");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    place(&node, &["configure", "start"]);
    for (name, _, said) in PLACED {
        let slice = slice_of(name);
        let said = if name == "unreadable" { unreadable(&node, &slice, "start") } else { said.to_owned() };
        node.await_hook(&slice, "configure", &said);
        node.await_hook(&slice, "start", &said);
        if name != "absent" {
            node.await_event(&slice, "hook-ended", &format!("configure: {said}"));
            node.await_event(&slice, "hook-ended", &format!("start: {said}"));
        }
        assert_eq!(node.status(&slice)["state"], "running", "{name}");
    }
    neighbour.check(&node);
    node.finish();
}

#[test]
fn whatever_stands_in_the_place_of_status_is_named() {
    let node = TestNode::start("hooks-placed-status");
    place(&node, &["status"]);
    for (name, _, said) in PLACED {
        let slice = slice_of(name);
        if name == "absent" {
            assert_eq!(node.status(&slice)["status_ok"], serde_json::Value::Null);
        } else {
            let said =
                if name == "unreadable" { unreadable(&node, &slice, "status") } else { said.to_owned() };
            node.await_hook(&slice, "status", &said);
            assert_eq!(node.status(&slice)["status_ok"], false, "{name}");
            node.await_event(&slice, "hook-ended", &format!("status: {said}"));
        }
    }
    node.finish();
}

#[test]
fn whatever_stands_in_the_place_of_stop_is_named() {
    let node = TestNode::start("hooks-placed-stop");
    place(&node, &["stop"]);
    for (name, _, said) in PLACED {
        let slice = slice_of(name);
        node.plab(&["restart", &slice]).ok();
        if name != "absent" && name != "unreadable" {
            node.await_event(&slice, "hook-ended", &format!("stop: {said}"));
        }
        assert_eq!(node.status(&slice)["state"], "running", "{name}");
    }
    node.finish();
}

/// A script that may be executed and not read: what becomes of it is the interpreter's word, not the node's.
fn unreadable(node: &TestNode, slice: &str, hook: &str) -> String {
    format!("exited {}", node.exec(slice, &[&format!("PlanetLab-control/{hook}")]).code)
}

#[test]
fn a_hook_replaced_while_it_runs_changes_with_the_next_run() {
    let node = TestNode::start("hooks-replaced");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", QUICK);
    node.put_hook(
        "site_a",
        "start",
        "#!/bin/sh\necho first >> runs\nwhile [ ! -e go ]; do sleep 0.2; done\nexit 3\n",
    );
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "runs", 1);
    // Renamed over: the running shell keeps the old file.
    node.put_hook("site_a", "start", "#!/bin/sh\necho second >> runs\nexit 4\n");
    node.await_hook("site_a", "start", "running");
    node.sh("site_a", "touch go").ok();
    node.await_hook("site_a", "start", "exited 3");
    assert_eq!(node.home_file("site_a", "runs"), "first\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_hook("site_a", "start", "exited 4");
    assert_eq!(node.home_file("site_a", "runs"), "first\nsecond\n");
    // Replaced again and again, by all sorts of things, while `status` is run at its interval.
    let churn = "cd PlanetLab-control; for i in $(seq 100); do \
        printf '#!/bin/sh\\necho %s\\n' $i > s.new; chmod 755 s.new; mv -fT s.new status; \
        rm -f status; mkdir status; rmdir status; mkfifo status; rm status; ln -s /etc/shadow status; rm status; sleep 0.01; done; \
        printf '#!/bin/sh\\necho settled\\n' > s.new; chmod 755 s.new; mv -fT s.new status";
    node.sh("site_a", churn).ok();
    eventually("the last status counts", || {
        (node.status("site_a")["status_line"] == "settled").then_some(())
    });
    assert_eq!(node.status("site_a")["state"], "running");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_configure_that_hangs_is_ended_and_start_follows() {
    let node = TestNode::start("hooks-configure-hangs");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", QUICK);
    node.put_hook(
        "site_a",
        "configure",
        "#!/bin/sh\ntrap '' TERM HUP INT\necho >> configured\nwhile :; do sleep 1; done\n",
    );
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\n");
    node.await_hook("site_a", "configure", "timed out");
    node.await_event("site_a", "hook-ended", "configure: timed out");
    node.await_lines("site_a", "configured", 1);
    node.await_hook("site_a", "start", "exited 0");
    node.await_lines("site_a", "started", 1);
    let left = node.sh("site_a", "pgrep -c -f PlanetLab-control/configure").stdout;
    assert_eq!(left, "0\n", "it was killed with its children");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_status_that_hangs_or_prints_without_end_is_ended() {
    let node = TestNode::start("hooks-status");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    let cases = [
        ("site_hangs", "echo begun; exec sleep 1000", "timed out", "begun"),
        ("site_prints", "exec yes line", "killed by signal 13 (SIGPIPE)", "line"),
        ("site_stubborn", "trap '' PIPE TERM\nwhile :; do echo line; done", "timed out", "line"),
        ("site_noend", "exec tr '\\0' x < /dev/zero", "killed by signal 13 (SIGPIPE)", &"x".repeat(256)),
        // One only: one at each run would have no room to fork in by the time a slow machine comes to look.
        ("site_leaves", "echo left; pgrep -x sleep > /dev/null || sleep 1000 &\nexit 0", "exited 0", "left"),
        ("site_fails", "echo no disk; exit 5", "exited 5", "no disk"),
        ("site_silent", "exit 0", "exited 0", ""),
        ("site_binary", "printf 'a\\377\\033[2Jb\\n'", "exited 0", "a\u{fffd}\u{1b}[2Jb"),
    ];
    for (slice, script, ..) in cases {
        node.define(slice, &format!("[cpu]\nmax = \"20%\"\n[memory]\nmax = \"32M\"\n{QUICK}"));
        node.put_hook(slice, "status", &format!("#!/bin/sh\n{script}\n"));
    }
    for (slice, _, said, line) in cases {
        node.await_hook(slice, "status", said);
        let status = node.status(slice);
        assert_eq!(status["status_line"], line, "{status}");
        assert_eq!(status["state"], "running", "{status}");
        // `running` has no verdict.
        if status["hooks"]["status"] == said {
            assert_eq!(status["status_ok"], said == "exited 0", "{status}");
        }
        if said != "exited 0" {
            node.await_event(slice, "hook-ended", &format!("status: {said}"));
        }
    }
    // What the slice says reaches no terminal as it is.
    let shown = node.plab(&["status", "site_binary"]).ok() + &node.plab(&["status"]).ok();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_start_that_prints_forks_dies_or_ends_late_is_told_as_it_was() {
    let node = TestNode::start("hooks-start");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    let cases = [
        ("site_forks", "setsid sleep 1000 &\nexit 0", "exited 0"),
        ("site_prints", "yes | head -c 100000000; yes | head -c 100000000 >&2; exit 2", "exited 2"),
        ("site_late", "while [ ! -e go ]; do sleep 0.2; done; exit 3", "exited 3"),
        ("site_killsitself", "kill -KILL $$", "killed by signal 9 (SIGKILL)"),
        ("site_crashes", "kill -SEGV $$", "killed by signal 11 (SIGSEGV)"),
        ("site_killsall", "kill -KILL -1; exit 4", "exited 4"),
        ("site_killsinit", "kill -KILL 1; kill -STOP 1; kill -TERM 1; exit 5", "exited 5"),
        ("site_stays", "exec sleep 1000", "running"),
    ];
    for (slice, script, _) in cases {
        node.define(slice, &format!("[memory]\nmax = \"32M\"\n{QUICK}"));
        node.put_hook(slice, "start", &format!("#!/bin/bash\n{script}\n"));
    }
    for (slice, ..) in cases {
        node.plab(&["restart", slice]).ok();
    }
    node.await_hook("site_late", "start", "running");
    node.sh("site_late", "touch go").ok();
    for (slice, _, said) in cases {
        node.await_hook(slice, "start", said);
        assert_eq!(node.status(slice)["state"], "running", "{slice}");
        let told = node.event_messages(slice, "hook-started");
        assert_eq!(told.iter().filter(|hook| *hook == "start").count(), 1, "{slice}: {told:?}");
        if said != "running" {
            node.await_event(slice, "hook-ended", &format!("start: {said}"));
        }
        // PID 1 serves as before.
        assert_eq!(node.exec(slice, &["echo", "here"]).ok(), "here\n");
    }
    // What forked away is the capsule's still.
    assert_eq!(node.exec("site_forks", &["pgrep", "-c", "-x", "sleep"]).ok(), "1\n");
    node.plab(&["rm", "--yes", "site_forks"]).ok();
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_stop_that_hangs_gets_its_grace_and_no_more() {
    let node = TestNode::start("hooks-stop-hangs");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", QUICK);
    node.put_hook(
        "site_a",
        "stop",
        "#!/bin/sh\ntrap '' TERM HUP INT\necho >> stopped\nwhile :; do sleep 1; done\n",
    );
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\nexec sleep 1000\n");
    node.await_stop_known("site_a");
    let pid = node.pid("site_a");
    node.plab(&["restart", "site_a"]).ok();
    assert_ne!(node.pid("site_a"), pid);
    node.await_lines("site_a", "stopped", 1);
    node.await_lines("site_a", "started", 1);
    node.await_event("site_a", "hook-started", "stop");
    node.await_event("site_a", "hook-ended", "stop: timed out");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_stop_that_ends_the_service_is_not_waited_for_longer() {
    let node = TestNode::start("hooks-stop-clean");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", "[control]\nstop_grace = \"30m\"");
    node.put_hook("site_a", "start", "#!/bin/bash\ntrap 'echo written >> data; exit 0' TERM\necho $$ > pid\nwhile :; do sleep 0.05; done\n");
    node.plab(&["restart", "site_a"]).ok();
    eventually("the service runs", || (!node.home_file("site_a", "pid").is_empty()).then_some(()));
    node.put_hook("site_a", "stop", "#!/bin/sh\nkill $(cat pid)\necho >> stopped\n");
    node.await_stop_known("site_a");
    let begun = Instant::now();
    node.plab(&["restart", "site_a"]).ok();
    // Far below the grace, whatever else the machine does.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    node.await_lines("site_a", "stopped", 1);
    assert_eq!(node.home_file("site_a", "data"), "written\n", "the service had its time to write");
    node.await_event("site_a", "hook-ended", "stop: exited 0");
    neighbour.check(&node);
    eventually("the service runs again", || {
        (node.hook("site_a", "start").as_deref() == Some("running")).then_some(())
    });
    node.plab(&["rm", "--yes", "site_a"]).ok();
    let told = node.event_messages("site_a", "hook-ended");
    assert_eq!(
        told.iter().filter(|message| message.starts_with("stop:")).count(),
        2,
        "at the restart and at the end: {told:?}"
    );
    node.finish();
}

#[test]
fn configure_runs_once_per_installation_and_start_each_time() {
    let mut node = TestNode::start("hooks-once");
    node.define("site_a", "");
    node.put_hook(
        "site_a",
        "start",
        "#!/bin/sh\necho >> order-start\nwc -l < order-configure >> started\nexec sleep 1000\n",
    );
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> order-configure\n");
    node.await_hook("site_a", "configure", "exited 0");
    node.await_lines("site_a", "started", 1);
    for restarts in 1..=3 {
        node.plab(&["restart", "site_a"]).ok();
        node.await_lines("site_a", "started", 1 + restarts);
        assert_eq!(node.lines("site_a", "order-configure"), 1);
    }
    // Over plabd's own restarts nothing is run at all.
    let pid = node.pid("site_a");
    for _ in 0..3 {
        node.kill_daemon();
        node.start_daemon();
        node.await_hook("site_a", "start", "running");
        assert_eq!(node.pid("site_a"), pid);
    }
    // That it has succeeded is on record, whatever becomes of the script: changed or new, it is not run again.
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> order-configure\nexit 1\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 5);
    // Killed while the node was up, and started by a plabd that remembers.
    node.plab(&["drain"]).ok();
    node.kill_daemon();
    node.start_daemon();
    node.await_lines("site_a", "started", 6);
    assert_eq!(node.lines("site_a", "order-configure"), 1);
    assert_eq!(node.home_file("site_a", "started"), "1\n".repeat(6), "always after configure");
    // Another installation, under the same name, begins anew.
    node.plab(&["rm", "--yes", "site_a"]).ok();
    node.define("site_a", "");
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> order-configure\n");
    node.await_hook("site_a", "configure", "exited 0");
    assert_eq!(node.lines("site_a", "order-configure"), 1);
    node.finish();
}

/// What it made is first put on disk, which may take long, and plabd may die meanwhile.
#[test]
fn a_success_of_configure_that_did_not_reach_the_ledger_is_known_to_the_capsule() {
    let mut node = TestNode::start("hooks-unrecorded");
    node.define("site_a", "");
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> configured\n");
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\n");
    node.await_lines("site_a", "started", 1);
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 2);
    for starts in 3..=4 {
        node.kill_daemon();
        node.change_ledger("UPDATE slices SET configured = 0");
        node.start_daemon();
        node.plab(&["restart", "site_a"]).ok();
        node.await_lines("site_a", "started", starts);
        assert_eq!(node.lines("site_a", "configured"), 1);
    }
    node.finish();
}

#[test]
fn a_configure_that_plabds_death_interrupts_is_neither_lost_nor_run_twice() {
    let mut node = TestNode::start("hooks-configure-killed");
    // Still running when the next plabd comes; ended while there was none.
    let wait = "#!/bin/sh\necho >> configured\nwhile [ ! -e go ]; do sleep 0.2; done\n";
    for slice in ["site_over", "site_between"] {
        node.define(slice, "");
        node.put_hook(slice, "configure", wait);
        node.put_hook(slice, "start", "#!/bin/sh\necho >> started\n");
        node.await_lines(slice, "configured", 1);
    }
    node.kill_daemon();
    // As the slice's owner would, whose sessions do not need plabd.
    std::fs::write(node.home("site_between").join("go"), "").expect("touch");
    node.await_lines("site_between", "started", 1);
    node.start_daemon();
    node.await_hook("site_between", "configure", "exited 0");
    node.await_hook("site_over", "configure", "running");
    assert_eq!(node.lines("site_over", "started"), 0, "start waits for configure");
    node.sh("site_over", "touch go").ok();
    node.await_hook("site_over", "configure", "exited 0");
    for slice in ["site_over", "site_between"] {
        node.await_lines(slice, "started", 1);
        node.plab(&["restart", slice]).ok();
        node.await_lines(slice, "started", 2);
        assert_eq!(node.lines(slice, "configured"), 1, "{slice}");
    }
    node.finish();
}

#[test]
fn a_configure_that_failed_is_tried_again_when_it_changes() {
    let node = TestNode::start("hooks-configure-fails");
    node.define("site_a", "");
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\n");
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> configured\nexit 9\n");
    node.await_hook("site_a", "configure", "exited 9");
    node.await_event("site_a", "hook-ended", "configure: exited 9");
    node.await_lines("site_a", "configured", 1);
    node.await_lines("site_a", "started", 1);
    // Another file of the directory is no reason; what follows it has settled when the next has.
    node.put_hook("site_a", "data", "x");
    node.put_hook("site_a", "status", "#!/bin/sh\necho fine\n");
    eventually("status has been seen", || (node.status("site_a")["status_line"] == "fine").then_some(()));
    assert_eq!(node.lines("site_a", "configured"), 1);
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> configured\n");
    node.await_hook("site_a", "configure", "exited 0");
    node.await_lines("site_a", "configured", 2);
    node.await_lines("site_a", "started", 2);
    // Once it has succeeded a change is none.
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> configured\nexit 1\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 3);
    assert_eq!(node.lines("site_a", "configured"), 2);
    node.finish();
}

#[test]
fn a_configure_made_executable_at_last_runs() {
    let node = TestNode::start("hooks-configure-chmod");
    node.define("site_a", "");
    node.put("site_a", "PlanetLab-control/configure", b"#!/bin/sh\necho >> configured\n", 0o644);
    node.await_hook("site_a", "configure", "not run: is not executable (chmod +x)");
    node.sh("site_a", "chmod +x PlanetLab-control/configure").ok();
    node.await_hook("site_a", "configure", "exited 0");
    node.await_lines("site_a", "configured", 1);
    node.finish();
}

#[test]
fn a_start_that_stays_is_the_service_and_nobody_restarts_it_unasked() {
    let node = TestNode::start("hooks-service");
    node.define("site_a", QUICK);
    node.put_hook(
        "site_a",
        "start",
        "#!/bin/sh\necho >> started\nwhile [ ! -e go ]; do sleep 0.2; done\nexit 1\n",
    );
    node.put_hook("site_a", "status", "#!/bin/sh\necho >> asked\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_hook("site_a", "start", "running");
    node.sh("site_a", "touch go").ok();
    node.await_hook("site_a", "start", "exited 1");
    // Several rounds of `status` later it has not been run again: the specification imposes no restart policy.
    let asked = node.lines("site_a", "asked");
    eventually("status is asked again", || (node.lines("site_a", "asked") >= asked + 3).then_some(()));
    assert_eq!(node.lines("site_a", "started"), 1);
    assert_eq!(node.status("site_a")["state"], "running");
    node.finish();
}

#[test]
fn a_start_that_fails_is_run_again_for_a_slice_that_asked_for_it() {
    let node = TestNode::start("hooks-on-failure");
    node.define("site_a", "restart = \"on-failure\"");
    node.put_hook(
        "site_a",
        "start",
        "#!/bin/sh\necho >> started\n[ $(wc -l < started) -ge 3 ] && exec sleep 1000\nexit 1\n",
    );
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 3);
    node.await_hook("site_a", "start", "running");
    node.finish();
}
