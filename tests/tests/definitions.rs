//! Definitions as they come and go: good beside bad, changed live, saved by editors, a thousand at once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plab_tests::{COUNTING, Neighbour, TestNode, eventually, eventually_or, patience, rounds};
use serde_json::Value;

fn slices(node: &TestNode) -> PathBuf {
    node.root().join("etc/planetlab/slices.d")
}

/// Puts a definition into the directory at once, as a package manager does.
fn put(node: &TestNode, file: &str, text: &str) -> PathBuf {
    let path = slices(node).join(file);
    let new = slices(node).join(format!(".{file}.new"));
    std::fs::write(&new, text).expect("write");
    std::fs::rename(&new, &path).expect("rename");
    path
}

/// Whether memory is held by cgroup v2, which alone has `memory.high`: cgroups(7), each hierarchy of v1 has a line of its
/// own with its controllers.
fn memory_is_on_v2() -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("/proc/self/cgroup");
    !own.lines()
        .filter_map(|line| line.split(':').nth(1))
        .any(|controllers| controllers.split(',').any(|is| is == "memory"))
}

/// What the node says is wrong with a file; empty if nothing is.
fn refused(node: &TestNode, file: &str) -> String {
    let status = node.node_status();
    let of = status["refused"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["file"].as_str().is_some_and(|path| path.ends_with(&format!("/{file}"))));
    of.and_then(|entry| entry["errors"].as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join("\n")
}

fn await_refused(node: &TestNode, file: &str, saying: &str) -> String {
    eventually_or(
        || Some(refused(node, file)).filter(|errors| errors.contains(saying)),
        || format!("{file} is refused saying {saying:?}; the node says {:#}", node.node_status()["refused"]),
    )
}

/// What the kernel has in force, in bytes or whatever the row says.
fn in_force(node: &TestNode, slice: &str, what: &str) -> String {
    let row = node.verified(slice, what);
    assert_eq!(row["ok"], true, "{row}");
    row["in_force"].as_str().expect("text").to_owned()
}

/// Waits until that is this.
fn await_in_force(node: &TestNode, slice: &str, what: &str, value: &str) {
    eventually_or(
        || (node.verified(slice, what)["in_force"] == value).then_some(()),
        || format!("{what} of {slice} is {value}; the row is {}", node.verified(slice, what)),
    );
}

/// A time so many seconds from now, as definitions write it.
fn in_seconds(seconds: i64) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("{seconds} seconds"), "+%FT%TZ"])
        .output()
        .expect("date");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn define_refused(node: &TestNode, slice: &str, more: &str) -> String {
    let output = node.plab_with_input(&["apply", "-"], TestNode::definition(slice, more).as_bytes());
    assert_eq!(output.code, 1, "{output:?}");
    assert!(!node.definition_path(slice).exists(), "nothing is stored that was refused");
    output.stderr
}

#[test]
fn a_bad_definition_never_takes_down_good_ones() {
    let mut node = TestNode::start("definitions-bad");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    put(&node, "good.toml", &TestNode::definition("site_good", "[memory]\nmax = \"32M\""));
    node.await_state("site_good", "running");
    let pid = node.pid("site_good");
    put(&node, "syntax.toml", "name = \n");
    put(&node, "missing.toml", "name = \"site_missing\"\n");
    put(
        &node,
        "elsewhere.toml",
        "name = \"site_else\"\ncontact = \"a@example.org\"\nnodes = [\"node9.example.org\"]\n",
    );
    std::fs::write(slices(&node).join("binary.toml"), [0xff, 0xfe, 0]).expect("write");
    std::fs::write(slices(&node).join("huge.toml"), vec![b'#'; 300 << 10]).expect("write");
    // Not announced by a close: moved in.
    let aside = node.root().join("aside");
    assert!(Command::new("mkfifo").arg(&aside).status().expect("mkfifo").success());
    std::fs::rename(&aside, slices(&node).join("fifo.toml")).expect("rename");
    std::fs::create_dir(&aside).expect("mkdir");
    std::fs::rename(&aside, slices(&node).join("directory.toml")).expect("rename");
    std::os::unix::fs::symlink("/dev/zero", &aside).expect("link");
    std::fs::rename(&aside, slices(&node).join("device.toml")).expect("rename");
    let all = [
        ("syntax.toml", "not valid TOML"),
        ("missing.toml", "contact: missing"),
        ("elsewhere.toml", "expected this node, \"node1.example.org\", among them"),
        ("binary.toml", "not UTF-8 text"),
        ("huge.toml", "larger than 262144 bytes"),
        ("fifo.toml", "not a regular file"),
        ("directory.toml", "not a regular file"),
        ("device.toml", "not a regular file"),
    ];
    for (file, saying) in all {
        await_refused(&node, file, saying);
    }
    assert_eq!(node.status("site_good")["state"], "running");
    neighbour.check(&node);
    // The same from the start.
    node.kill_daemon();
    node.start_daemon();
    for (file, saying) in all {
        await_refused(&node, file, saying);
    }
    assert_eq!(node.pid("site_good"), pid);
    // What is put right comes into effect.
    put(&node, "syntax.toml", &TestNode::definition("site_syntax", ""));
    node.await_state("site_syntax", "running");
    assert_eq!(refused(&node, "syntax.toml"), "");
    // What is taken away is not spoken of any more.
    std::fs::remove_file(slices(&node).join("missing.toml")).expect("remove");
    eventually("it is forgotten", || refused(&node, "missing.toml").is_empty().then_some(()));
    node.finish();
}

#[test]
fn of_two_files_with_one_name_the_first_has_it_until_it_goes() {
    let node = TestNode::start("definitions-conflict");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    let first = put(&node, "b_first.toml", &TestNode::definition("site_a", "[memory]\nmax = \"32M\""));
    node.await_state("site_a", "running");
    node.sh("site_a", "echo mine > data").ok();
    let pid = node.pid("site_a");
    put(&node, "a_second.toml", &TestNode::definition("site_a", "[memory]\nmax = \"48M\""));
    let said = await_refused(&node, "a_second.toml", "conflict");
    assert!(said.contains(&first.display().to_string()) && said.contains("site_a"), "both are named: {said}");
    assert_eq!(in_force(&node, "site_a", "memory.max"), (32 << 20).to_string());
    std::fs::remove_file(&first).expect("remove");
    eventually("the second is promoted", || {
        (refused(&node, "a_second.toml").is_empty() && !first.exists()).then_some(())
    });
    await_in_force(&node, "site_a", "memory.max", &(48 << 20).to_string());
    assert_eq!(node.pid("site_a"), pid, "the slice goes on");
    assert_eq!(node.exec("site_a", &["cat", "data"]).ok(), "mine\n");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_bad_edit_keeps_the_last_good_word() {
    let mut node = TestNode::start("definitions-edit");
    node.define("site_a", "[memory]\nmax = \"32M\"");
    let pid = node.pid("site_a");
    put(&node, "site_a.toml", &TestNode::definition("site_a", "[memory]\nmaxx = \"48M\""));
    let said = await_refused(&node, "site_a.toml", "memory.maxx");
    assert!(
        said.contains("site_a.toml:5:1: memory.maxx: unknown key; nearest known key is memory.max"),
        "{said}"
    );
    let holds = |node: &TestNode| {
        let status = node.status("site_a");
        assert_eq!(status["state"], "running", "{status}");
        assert!(
            status["pending_errors"][0].as_str().is_some_and(|error| error.contains("memory.maxx")),
            "{status}"
        );
        assert_eq!(node.pid("site_a"), pid);
        assert_eq!(in_force(node, "site_a", "memory.max"), (32 << 20).to_string());
    };
    holds(&node);
    let shown = node.plab(&["status", "site_a"]).ok();
    assert!(shown.contains("memory.maxx"), "{shown}");
    node.kill_daemon();
    node.start_daemon();
    await_refused(&node, "site_a.toml", "memory.maxx");
    eventually("it was adopted", || {
        (node.status("site_a")["hooks"]["start"] == "skipped: not there").then_some(())
    });
    holds(&node);
    // And when the capsule is made anew from it.
    node.plab(&["restart", "site_a"]).ok();
    assert_eq!(in_force(&node, "site_a", "memory.max"), (32 << 20).to_string());
    // What the node cannot hold is no better than what it cannot read.
    let (more, refused, why) = if memory_is_on_v2() {
        ("[memory]\nmax = \"48M\"\n[disk]\nspace = \"1G\"", "disk", "not enforced")
    } else {
        ("[memory]\nhigh = \"16M\"\nmax = \"48M\"", "memory.high", "degrade")
    };
    put(&node, "site_a.toml", &TestNode::definition("site_a", more));
    let said = await_refused(&node, "site_a.toml", refused);
    assert!(said.contains(why), "{said}");
    let pending = node.status("site_a")["pending_errors"].to_string();
    assert!(pending.contains(refused) && !pending.contains("maxx"), "of the file as it is now: {pending}");
    assert_eq!(in_force(&node, "site_a", "memory.max"), (32 << 20).to_string());
    put(&node, "site_a.toml", &TestNode::definition("site_a", "[memory]\nmax = \"48M\""));
    await_in_force(&node, "site_a", "memory.max", &(48 << 20).to_string());
    assert_eq!(node.status("site_a")["pending_errors"], serde_json::json!([]));
    node.finish();
}

#[test]
fn what_a_definition_may_not_say_is_refused_with_the_reason() {
    let node = TestNode::start("definitions-refused");
    for (more, saying) in [
        ("[disk]\nspace = \"1G\"", "disk: refused; not enforced by this node yet"),
        ("[software]\narchive = \"a\"", "software: refused; not enforced by this node yet"),
        ("[memroy]\nmax = \"1G\"", "nearest known key is memory"),
        ("[memory]\nmax = \"1X\"", "\"1X\""),
        ("[memory]\nhigh = \"2G\"\nmax = \"1G\"", "at most memory.max"),
        ("[view]\npaths = [\"ro:/etc/ssl\"]", "a path within /opt"),
        ("[view]\npaths = [\"rw:/opt/x\"]", "the home directory is the only writable storage"),
        ("[seccomp]\nprofile = \"none\"", "none"),
        ("restart = \"always\"", "\"no\" or \"on-failure\""),
    ] {
        let said = define_refused(&node, "site_a", more);
        assert!(said.contains(saying), "{more}: {said}");
        assert_eq!(node.status("site_a"), Value::Null);
    }
    // With cgroup v2 there is nothing of a definition that a node's kernel could lack: v2.rs has that half.
    if !memory_is_on_v2() {
        let said = define_refused(&node, "site_a", "[memory]\nhigh = \"64M\"");
        assert!(said.contains("this node cannot enforce memory.high"), "{said}");
        assert_eq!(node.status("site_a"), Value::Null);
    }
    for name in ["root", "../x", "site a", "Site_a", "site__a", "a/b", ""] {
        let said = define_refused(&node, name, "");
        assert!(said.contains("a slice name such as"), "{name}: {said}");
    }
    node.finish();
}

#[test]
fn what_the_node_may_lack_runs_and_says_so() {
    let mut node = TestNode::start("definitions-degrade");
    node.kill_daemon();
    let file = node.root().join("etc/planetlab/node.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, text.replace("degrade = [", "degrade = [\"memory.high\", ")).expect("write");
    node.start_daemon();
    node.define("site_a", "[memory]\nhigh = \"32M\"\nmax = \"64M\"");
    let degraded = node.node_status()["degraded"].clone();
    let row = node.verified("site_a", "memory.high");
    let output = node.plab(&["status", "site_a", "--verify"]);
    if degraded.as_array().is_some_and(|names| names.iter().any(|name| name == "memory.high")) {
        assert_eq!(row["ok"], false, "{row}");
        assert_eq!(output.code, 1, "what is not in force does not pass: {output:?}");
        assert!(node.plab(&["status"]).ok().contains("DEGRADED"));
    } else {
        // A kernel that can after all.
        assert_eq!((&row["ok"], &row["in_force"]), (&true.into(), &(32 << 20).to_string().into()), "{row}");
    }
    assert_eq!(in_force(&node, "site_a", "memory.max"), (64 << 20).to_string());
    node.finish();
}

#[test]
fn limits_change_live_and_what_cannot_is_announced() {
    let node = TestNode::start("definitions-live");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", "[cpu]\nweight = 100\n[memory]\nmax = \"32M\"\n[tasks]\nmax = 40");
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\nexec sleep 1000\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 1);
    let pid = node.pid("site_a");
    let forced = |what: &str| in_force(&node, "site_a", what);
    assert_eq!([forced("memory.max"), forced("pids.max")], [(32 << 20).to_string(), "40".into()]);
    let (weight, max) = (forced("cpu.weight"), forced("cpu.max"));
    node.define("site_a", "[cpu]\nweight = 400\nmax = \"150%\"\n[memory]\nmax = \"48M\"\n[tasks]\nmax = 50");
    assert_eq!([forced("memory.max"), forced("pids.max")], [(48 << 20).to_string(), "50".into()]);
    assert_ne!(forced("cpu.weight"), weight);
    assert_ne!(forced("cpu.max"), max);
    node.await_event("site_a", "limits-changed", "");
    // By the file, and downwards.
    put(
        &node,
        "site_a.toml",
        &TestNode::definition("site_a", "[cpu]\nweight = 100\n[memory]\nmax = \"24M\"\n[tasks]\nmax = 30"),
    );
    await_in_force(&node, "site_a", "pids.max", "30");
    assert_eq!(
        [forced("memory.max"), forced("cpu.weight"), forced("cpu.max")],
        [(24 << 20).to_string(), weight, max]
    );
    assert_eq!(node.pid("site_a"), pid, "nothing was restarted");
    assert_eq!(node.lines("site_a", "started"), 1);
    assert!(node.event_messages("site_a", "restart-needed").is_empty());
    // What a running capsule cannot change.
    node.define("site_a", "[seccomp]\nprofile = \"strict\"");
    assert_ne!(node.pid("site_a"), pid);
    node.await_event("site_a", "restart-needed", "view, seccomp profile or raw sockets changed");
    node.await_lines("site_a", "started", 2);
    assert_eq!(node.verified("site_a", "profile strict")["ok"], true);
    let pid = node.pid("site_a");
    // Written anew without a change, it is none.
    put(
        &node,
        "site_a.toml",
        &(TestNode::definition("site_a", "[seccomp]\nprofile = \"strict\"") + "# the same\n"),
    );
    node.define("site_b", "");
    assert_eq!(node.pid("site_a"), pid);
    neighbour.check(&node);
    node.finish();
}

/// A directory of the host's below `/opt`, gone with the test.
struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_path_that_was_asked_for_is_seen_and_only_read() {
    let made_opt = !Path::new("/opt").exists();
    let shown = Shown(PathBuf::from(format!("/opt/plab-test-{}", std::process::id())));
    let other = Shown(PathBuf::from(format!("/opt/plab-test-{}-other", std::process::id())));
    for directory in [&shown, &other] {
        std::fs::create_dir_all(&directory.0).expect("make");
        std::fs::write(directory.0.join("file"), "the host's").expect("write");
        std::fs::set_permissions(
            directory.0.join("file"),
            std::os::unix::fs::PermissionsExt::from_mode(0o666),
        )
        .expect("chmod");
    }
    let at = shown.0.display().to_string();
    let node = TestNode::start("definitions-view");
    node.define("site_without", "");
    node.define("site_with", "");
    let pid = node.pid("site_with");
    node.define("site_with", &format!("[view]\npaths = [\"ro:{at}\"]"));
    assert_ne!(node.pid("site_with"), pid);
    node.await_event("site_with", "restart-needed", "view");
    assert_eq!(node.exec("site_with", &["cat", &format!("{at}/file")]).ok(), "the host's");
    let write = node.exec("site_with", &["bash", "-c", &format!("echo x > {at}/file")]);
    assert!(
        write.code != 0 && write.stderr.contains("Read-only file system")
            || write.stderr.contains("Permission denied"),
        "{write:?}"
    );
    assert_eq!(node.exec("site_with", &["ls", "/opt"]).ok(), format!("plab-test-{}\n", std::process::id()));
    assert_eq!(node.exec("site_without", &["ls", "-A", "/opt"]).ok(), "");
    assert_eq!(node.verified("site_with", "profile default")["ok"], true);
    // A path that is not there: the slice does not run, says why, and the others do.
    let output = node.plab_with_input(
        &["apply", "-"],
        TestNode::definition("site_none", &format!("[view]\npaths = [\"ro:{at}/none\"]")).as_bytes(),
    );
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains(&format!("{at}/none")), "{output:?}");
    assert_eq!(node.status("site_none")["state"], "failed");
    node.plab(&["rm", "--yes", "site_none"]).ok();
    assert_eq!(std::fs::read_to_string(shown.0.join("file")).expect("read"), "the host's");
    node.finish();
    drop((shown, other));
    if made_opt {
        std::fs::remove_dir("/opt").ok();
    }
}

#[test]
fn a_removed_definition_takes_everything_with_it_after_its_stop() {
    let node = TestNode::start("definitions-removed");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", "");
    node.put_hook("site_a", "start", "#!/bin/sh\nexec sleep 1000\n");
    node.put_hook("site_a", "stop", "#!/bin/sh\necho bye\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_stop_known("site_a");
    // Whatever may lie there: deep, odd, unreadable, not writable.
    node.sh(
        "site_a",
        "mkdir -p tree/$(printf 'd/%.0s' $(seq 200)) && mkdir $'odd\\n\\377name' shut && touch shut/file && mkfifo fifo && \
         ln -s / link && chmod 000 shut && mkdir tight && touch tight/file && chmod 555 tight && \
         touch $(seq 2000) /tmp/x /var/tmp/x && chmod 000 /tmp && chmod 300 /var/tmp && chmod 500 .",
    )
    .ok();
    std::fs::remove_file(node.definition_path("site_a")).expect("remove");
    eventually("it is gone", || (node.status("site_a") == Value::Null).then_some(()));
    assert!(!node.root().join("var/lib/planetlab/slices/site_a").exists());
    node.await_event("site_a", "hook-ended", "stop: exited 0");
    node.await_event("site_a", "slice-removed", "");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_lease_that_ends_stops_the_capsule_and_keeps_its_storage() {
    let mut node = TestNode::start("definitions-lease");
    node.define("site_neighbour", "");
    let other = node.pid("site_neighbour");
    node.define("site_a", "");
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\nexec sleep 1000\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 1);
    node.put_hook("site_a", "stop", "#!/bin/sh\necho >> stopped\nkill $(pgrep -x sleep)\n");
    node.await_stop_known("site_a");
    let pid = node.pid("site_a");
    node.define("site_a", &format!("expires = {}", in_seconds(4)));
    assert_eq!(node.status("site_a")["pid"].as_u64(), Some(pid), "a lease is changed live");
    node.await_state("site_a", "expired");
    node.await_lines("site_a", "stopped", 1);
    let status = node.status("site_a");
    assert_eq!(status["pid"], Value::Null);
    assert_eq!(status["tasks"].as_u64().unwrap_or(0), 0, "{status}");
    assert_eq!(node.lines("site_a", "started"), 1, "storage is there still");
    assert_eq!(node.exec("site_a", &["true"]).code, 125);
    let output = node.plab(&["restart", "site_a"]);
    assert!(output.code == 1 && output.stderr.contains("its lease has ended"), "{output:?}");
    // It stays so over a restart of plabd.
    node.kill_daemon();
    node.start_daemon();
    node.await_state("site_a", "expired");
    assert_eq!(node.lines("site_a", "started"), 1);
    node.define("site_a", &format!("expires = {}", in_seconds(3600)));
    assert_eq!(node.status("site_a")["state"], "running");
    node.await_lines("site_a", "started", 2);
    // A lease that is over from the beginning.
    let output = node.plab_with_input(
        &["apply", "-"],
        TestNode::definition("site_late", "expires = 2020-01-01T00:00:00Z").as_bytes(),
    );
    assert!(output.code == 0 && output.stdout.contains("the lease has ended"), "{output:?}");
    assert_eq!(node.status("site_late")["state"], "expired");
    assert_eq!(node.pid("site_neighbour"), other, "nobody else was concerned");
    node.finish();
}

#[test]
fn saving_as_editors_do_is_not_removing() {
    let node = TestNode::start("definitions-editor");
    node.define("site_a", "[tasks]\nmax = 40");
    node.sh("site_a", "echo mine > data").ok();
    let (pid, file) = (node.pid("site_a"), node.definition_path("site_a"));
    for tasks in 41..46 {
        std::fs::rename(&file, file.with_extension("toml~")).expect("rename");
        std::thread::sleep(Duration::from_millis(250));
        std::fs::write(&file, TestNode::definition("site_a", &format!("[tasks]\nmax = {tasks}")))
            .expect("write");
        await_in_force(&node, "site_a", "pids.max", &tasks.to_string());
        assert_eq!(node.pid("site_a"), pid);
    }
    // Deleted and written anew; emptied and written anew.
    std::fs::remove_file(&file).expect("remove");
    std::fs::write(&file, TestNode::definition("site_a", "[tasks]\nmax = 46")).expect("write");
    eventually("the save counts", || (node.verified("site_a", "pids.max")["in_force"] == "46").then_some(()));
    std::fs::write(&file, "").expect("write");
    await_refused(&node, "site_a.toml", "missing");
    std::fs::write(&file, TestNode::definition("site_a", "[tasks]\nmax = 47")).expect("write");
    eventually("the save counts", || (node.verified("site_a", "pids.max")["in_force"] == "47").then_some(()));
    // Backup and swap files of editors are none of the node's business.
    for name in ["site_a.toml~", ".site_a.toml.swp", "site_a.toml.dpkg-new", "#site_a.toml#", "README"] {
        std::fs::write(slices(&node).join(name), "junk").expect("write");
    }
    node.define("site_b", "");
    assert_eq!(node.node_status()["refused"], serde_json::json!([]));
    assert_eq!((node.pid("site_a"), node.exec("site_a", &["cat", "data"]).ok()), (pid, "mine\n".to_owned()));
    assert!(node.event_messages("site_a", "slice-removed").is_empty());
    node.finish();
}

#[test]
fn another_empty_directory_removes_nothing() {
    let mut node = TestNode::start("definitions-directory");
    for slice in ["site_a", "site_b"] {
        node.define(slice, "");
        node.sh(slice, "echo mine > data").ok();
    }
    let pids = [node.pid("site_a"), node.pid("site_b")];
    let hold = |node: &TestNode, pids| {
        assert_eq!([node.pid("site_a"), node.pid("site_b")], pids);
        assert_eq!(node.exec("site_b", &["cat", "data"]).ok(), "mine\n");
    };
    let (here, aside) = (slices(&node), node.root().join("aside"));
    // As a disk that is not mounted.
    node.kill_daemon();
    std::fs::rename(&here, &aside).expect("rename");
    std::fs::create_dir(&here).expect("make");
    node.start_daemon();
    let said = eventually("it is said", || {
        node.events(None).into_iter().find(|event| event["kind"] == "directory-suspicious")
    });
    assert!(
        said["message"].as_str().is_some_and(|message| message.contains("the 2 slices it had are kept")),
        "{said}"
    );
    hold(&node, pids);
    // The same once more, and then the disk is there again.
    node.kill_daemon();
    node.start_daemon();
    hold(&node, pids);
    node.kill_daemon();
    std::fs::remove_dir(&here).expect("remove");
    std::fs::rename(&aside, &here).expect("rename");
    node.start_daemon();
    hold(&node, pids);
    // Moved away while plabd runs, and back.
    std::fs::rename(&here, &aside).expect("rename");
    eventually("it is said", || {
        node.events(None).into_iter().find(|event| event["kind"] == "directory-lost")
    });
    std::thread::sleep(Duration::from_millis(1500));
    hold(&node, pids);
    std::fs::rename(&aside, &here).expect("rename");
    node.kill_daemon();
    // The same directory, with one file less: that is an administrator's wish.
    std::fs::remove_file(here.join("site_a.toml")).expect("remove");
    node.start_daemon();
    eventually("it is gone", || (node.status("site_a") == Value::Null).then_some(()));
    assert_eq!(node.pid("site_b"), pids[1]);
    // And so is the same directory, empty.
    node.kill_daemon();
    std::fs::remove_file(here.join("site_b.toml")).expect("remove");
    node.start_daemon();
    eventually("it is gone", || (node.status("site_b") == Value::Null).then_some(()));
    node.finish();
}

#[test]
fn slices_whose_names_begin_alike_share_nothing() {
    let node = TestNode::start("definitions-prefix");
    let named = ["site_sl", "site_sl1", "site_sl10", "site_sl100", "site1", "site10"];
    for name in named {
        node.define(name, "[tasks]\nmax = 40");
        node.put_hook(name, "start", COUNTING);
        node.plab(&["restart", name]).ok();
        node.sh(name, &format!("echo {name} > data")).ok();
    }
    let mut uids: Vec<_> = named.iter().map(|name| node.status(name)["uid"].as_u64()).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), named.len(), "each has a UID of its own");
    let pids: Vec<u64> = named.iter().map(|name| node.pid(name)).collect();
    let ticks = |name: &str| node.lines(name, "ticks");
    // Frozen, changed and restarted: of one only.
    node.plab(&["freeze", "site_sl1"]).ok();
    let before: Vec<usize> = named.iter().map(|name| ticks(name)).collect();
    for (name, before) in named.iter().zip(before).filter(|(name, _)| **name != "site_sl1") {
        eventually("the others go on", || (ticks(name) > before).then_some(()));
    }
    let frozen = ticks("site_sl1");
    node.plab(&["thaw", "site_sl1"]).ok();
    eventually("it goes on", || (ticks("site_sl1") > frozen).then_some(()));
    node.define("site_sl1", "[tasks]\nmax = 50");
    assert_eq!(
        [in_force(&node, "site_sl1", "pids.max"), in_force(&node, "site_sl10", "pids.max")],
        ["50", "40"]
    );
    node.plab(&["rm", "--yes", "site_sl1"]).ok();
    node.plab(&["rm", "--yes", "site1"]).ok();
    for (name, pid) in named.iter().zip(pids).filter(|(name, _)| !["site_sl1", "site1"].contains(name)) {
        assert_eq!(node.pid(name), pid, "{name}");
        assert_eq!(node.exec(name, &["cat", "data"]).ok(), format!("{name}\n"));
        assert_eq!(in_force(&node, name, "pids.max"), "40");
        let before = ticks(name);
        eventually("it goes on", || (ticks(name) > before).then_some(()));
    }
    for gone in ["site_sl1", "site1"] {
        assert!(!node.root().join(format!("var/lib/planetlab/slices/{gone}")).exists());
    }
    node.finish();
}

/// Looks twice a second, for as long as a slow machine takes for a thousand of something.
fn in_the_long_run<T>(why: &str, mut what: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match what() {
            Ok(value) => return value,
            Err(so_far) => assert!(begun.elapsed() < 3 * patience(), "never: {why}; {so_far}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_thousand_come_at_once_and_go_at_once() {
    let count = rounds(1000) as usize;
    let node = TestNode::start("definitions-thousand");
    let name = |i: usize| format!("site_n{i}");
    for i in 0..count {
        std::fs::write(
            slices(&node).join(format!("{}.toml", name(i))),
            TestNode::definition(&name(i), "[memory]\nmax = \"16M\"\n[tasks]\nmax = 8"),
        )
        .expect("write");
    }
    let begun = Instant::now();
    let status = in_the_long_run("a thousand run", || {
        let status = node.node_status();
        let running = status["slices"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|slice| slice["state"] == "running")
            .count();
        if running == count { Ok(status) } else { Err(format!("{running} run; {}", status["refused"])) }
    });
    eprintln!("{count} run after {:?}", begun.elapsed());
    let slices_now = status["slices"].as_array().expect("slices");
    let mut uids: Vec<_> = slices_now.iter().map(|slice| slice["uid"].as_u64()).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), count, "each has a UID of its own");
    for i in [0, 1, 10, 100, count - 1] {
        assert_eq!(node.exec(&name(i), &["id", "-un"]).ok(), format!("{}\n", name(i)));
    }
    let begun = Instant::now();
    for i in 0..count {
        std::fs::remove_file(slices(&node).join(format!("{}.toml", name(i)))).expect("remove");
    }
    in_the_long_run("all are gone", || {
        let left = node.node_status()["slices"].as_array().map_or(0, Vec::len);
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    });
    eprintln!("{count} gone after {:?}", begun.elapsed());
    let storage = std::fs::read_dir(node.root().join("var/lib/planetlab/slices")).expect("list").count();
    assert_eq!(storage, 0, "storage");
    let sockets = std::fs::read_dir(node.root().join("run/planetlab/capsules")).map_or(0, Iterator::count);
    assert_eq!(sockets, 0, "sockets");
    assert_eq!(plab_tests::leftovers::processes(node.uids()), [""; 0]);
    node.finish();
}

#[test]
fn one_rewritten_a_thousand_times_ends_at_the_last_word() {
    let node = TestNode::start("definitions-rewritten");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", "[tasks]\nmax = 10");
    let pid = node.pid("site_a");
    let file = node.definition_path("site_a");
    for i in 0..1000_u32 {
        let text = TestNode::definition(
            "site_a",
            &format!("[memory]\nmax = \"{}M\"\n[tasks]\nmax = {}", 32 + i % 7, 20 + i % 60),
        );
        match i % 3 {
            // Sometimes in place, where a reader may meet half of it.
            0 => std::fs::write(&file, text).expect("write"),
            _ => drop(put(&node, "site_a.toml", &text)),
        }
        std::thread::sleep(Duration::from_millis(if i % 10 == 0 { 20 } else { 2 }));
    }
    let last = 999;
    await_in_force(&node, "site_a", "pids.max", &(20 + last % 60).to_string());
    assert_eq!(in_force(&node, "site_a", "memory.max"), ((32 + last % 7) << 20).to_string());
    eventually("and is what the slice is told", || {
        node.home_file("site_a", "PlanetLab-control/resources")
            .contains(&format!("\ntasks_max = {}\n", 20 + last % 60))
            .then_some(())
    });
    assert_eq!(node.status("site_a")["pending_errors"], serde_json::json!([]));
    assert_eq!(node.pid("site_a"), pid);
    neighbour.check(&node);
    node.finish();
}

/// A mount in a slice's storage, which nobody but root can make: what keeps the slice's files from being removed.
struct Obstacle(PathBuf);

impl Drop for Obstacle {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).stderr(std::process::Stdio::null()).status().ok();
    }
}

#[test]
fn a_uid_is_not_given_away_while_its_storage_remains() {
    let mut node = TestNode::start("definitions-uid");
    node.define("site_a", "");
    let uid = node.status("site_a")["uid"].as_u64().expect("UID");
    node.sh("site_a", "mkdir stuck").ok();
    let obstacle = Obstacle(node.home("site_a").join("stuck"));
    assert!(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&obstacle.0)
            .status()
            .expect("mount")
            .success()
    );
    std::fs::remove_file(node.definition_path("site_a")).expect("remove");
    let said = node.await_event("site_a", "remove-failed", "");
    assert!(said.contains("site_a"), "{said}");
    assert_eq!(node.status("site_a")["state"], "removing");
    node.define("site_b", "");
    assert_ne!(node.status("site_b")["uid"].as_u64(), Some(uid));
    // Also not by a plabd that only remembers.
    node.kill_daemon();
    node.start_daemon();
    node.define("site_c", "");
    assert_ne!(node.status("site_c")["uid"].as_u64(), Some(uid));
    drop(obstacle);
    eventually("it is tried again", || (node.status("site_a") == Value::Null).then_some(()));
    assert!(!node.root().join("var/lib/planetlab/slices/site_a").exists());
    node.finish();
}
