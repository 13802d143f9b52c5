//! `PlanetLab-control` and `resources` when they are not what they should be, and when they are: a clear word to
//! the slice's owner, nothing outside the slice touched, and a file that is correct whenever it is read.

use std::path::Path;

use plab_tests::{Neighbour, TestNode, eventually, eventually_or};
use toml::Table;

const LIMITS: &str = "[memory]\nmax = \"32M\"\n[tasks]\nmax = 32";

/// Removes the directory, also against a node that writes `resources` into it meanwhile.
const CLEAR: &str = "until rm -rf PlanetLab-control 2> /dev/null; do :; done";

/// Everything below a directory with what tells whether it was touched.
fn picture(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(directory).expect("list").flatten() {
        let meta = entry.path().symlink_metadata().expect("look at");
        let content = if meta.is_file() { std::fs::read(entry.path()).expect("read") } else { Vec::new() };
        seen.push(format!("{} {:o} {} {content:?}", entry.path().display(), meta.mode(), meta.uid()));
    }
    seen.sort();
    seen
}

/// Waits until the status of a slice has this detail (none: has none).
fn await_detail(node: &TestNode, slice: &str, detail: Option<&str>) {
    eventually_or(
        || (node.status(slice)["detail"].as_str() == detail).then_some(()),
        || format!("the detail of {slice} is {detail:?}; its status is {:#}", node.status(slice)),
    );
}

/// What a slice's `resources` says, if that is a file of the slice's own and not something else the test put there.
fn resources(node: &TestNode, slice: &str) -> Option<Table> {
    let path = node.home(slice).join("PlanetLab-control/resources");
    let regular = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    regular.then(|| std::fs::read_to_string(&path).ok()?.parse().ok()).flatten()
}

fn await_resources(node: &TestNode, slice: &str) -> Table {
    eventually_or(
        || resources(node, slice),
        || format!("resources of {slice} is written; status {:#}", node.status(slice)),
    )
}

#[test]
fn whatever_stands_in_the_place_of_the_directory_is_named_and_left_alone() {
    let node = TestNode::start("control-place");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    // A directory of the host's that everybody may write to, could they reach it.
    let host = node.root().join("host");
    std::fs::create_dir(&host).expect("make");
    std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    std::fs::write(host.join("file"), "the host's").expect("write");
    let before = picture(&host);
    let etc = picture(Path::new("/etc"));

    let link = |target: &str| {
        format!("PlanetLab-control is a symbolic link (to {target:?}); it must be a directory itself")
    };
    let host_name = host.display().to_string();
    let cases = [
        ("site_tohost", format!("ln -s {host_name} PlanetLab-control"), link(&host_name)),
        ("site_toetc", "ln -s /etc PlanetLab-control".into(), link("/etc")),
        ("site_toown", "mkdir own && ln -s own PlanetLab-control".into(), link("own")),
        ("site_totmp", "ln -s /tmp PlanetLab-control".into(), link("/tmp")),
        ("site_up", "ln -s ../../../../../.. PlanetLab-control".into(), link("../../../../../..")),
        ("site_dangling", "ln -s nowhere PlanetLab-control".into(), link("nowhere")),
        ("site_itself", "ln -s PlanetLab-control PlanetLab-control".into(), link("PlanetLab-control")),
        ("site_file", "echo mine > PlanetLab-control".into(), "PlanetLab-control is a regular file, not a directory".into()),
        ("site_fifo", "mkfifo PlanetLab-control".into(), "PlanetLab-control is a FIFO, not a directory".into()),
        (
            "site_shut",
            "mkdir -m 000 PlanetLab-control".into(),
            "PlanetLab-control cannot be opened: EACCES (its owner needs read and search permission: chmod u+rx)".to_owned(),
        ),
    ];
    for (slice, place, _) in &cases {
        node.define(slice, LIMITS);
        node.sh(slice, &format!("{CLEAR}; {place}")).ok();
    }
    for (slice, _, said) in &cases {
        node.plab(&["restart", slice]).ok();
        await_detail(&node, slice, Some(said));
        node.await_event(slice, "control-problem", said);
        assert_eq!(node.status(slice)["state"], "running");
        assert_eq!(node.exec(slice, &["echo", "here"]).ok(), "here\n");
        assert!(resources(&node, slice).is_none());
    }
    assert_eq!(picture(&host), before, "nothing outside the slice was touched");
    assert_eq!(picture(Path::new("/etc")), etc);
    assert_eq!(node.exec("site_toown", &["ls", "-A", "own"]).ok(), "");
    assert_eq!(node.exec("site_totmp", &["ls", "-A", "/tmp"]).ok(), "");
    assert_eq!(node.home_file("site_file", "PlanetLab-control"), "mine\n");

    // Put right while the capsule runs, all is well, and the hooks are found.
    for (slice, ..) in &cases {
        node.sh(slice, &format!("{CLEAR}; mkdir PlanetLab-control")).ok();
        await_detail(&node, slice, None);
        await_resources(&node, slice);
        node.put_hook(slice, "configure", "#!/bin/sh\necho >> configured\n");
    }
    for (slice, ..) in &cases {
        node.await_lines(slice, "configured", 1);
    }
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_directory_that_was_shut_is_seen_when_it_is_opened() {
    let node = TestNode::start("control-shut");
    node.define("site_a", LIMITS);
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\n");
    node.sh("site_a", "chmod 000 PlanetLab-control").ok();
    node.plab(&["restart", "site_a"]).ok();
    node.await_event("site_a", "control-problem", "EACCES");
    // What the message tells its reader to do.
    node.sh("site_a", "chmod u+rx PlanetLab-control").ok();
    await_detail(&node, "site_a", Some("cannot create a file in PlanetLab-control: EACCES"));
    node.sh("site_a", "chmod u+w PlanetLab-control").ok();
    await_detail(&node, "site_a", None);
    await_resources(&node, "site_a");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "started", 1);
    await_resources(&node, "site_a");
    node.finish();
}

#[test]
fn one_that_is_missing_is_made_at_the_next_start() {
    let node = TestNode::start("control-missing");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    node.define("site_a", LIMITS);
    await_resources(&node, "site_a");
    let pid = node.pid("site_a");
    // Deleted while the capsule runs: it is optional, so that is nobody's fault.
    node.put_hook("site_a", "status", "#!/bin/sh\necho fine\n");
    eventually("status is asked", || (node.status("site_a")["status_line"] == "fine").then_some(()));
    node.sh("site_a", CLEAR).ok();
    assert_eq!(node.status("site_a")["state"], "running");
    // Made again by its owner, it is taken for the one it is now.
    node.put_hook("site_a", "configure", "#!/bin/sh\necho >> configured\n");
    node.await_lines("site_a", "configured", 1);
    await_resources(&node, "site_a");
    // Renamed away and back.
    node.sh("site_a", "mv PlanetLab-control aside && rm aside/resources && mv aside PlanetLab-control").ok();
    await_resources(&node, "site_a");
    // Replaced by a link while it is in use: that is a fault, and said.
    node.sh("site_a", "mv PlanetLab-control aside && rm aside/resources && ln -s aside PlanetLab-control")
        .ok();
    node.await_event("site_a", "control-problem", "is a symbolic link (to \"aside\")");
    assert!(!node.home("site_a").join("aside/resources").exists());
    node.sh("site_a", "rm PlanetLab-control").ok();
    await_detail(&node, "site_a", None);
    assert_eq!(node.pid("site_a"), pid, "all of it in one capsule");
    node.plab(&["restart", "site_a"]).ok();
    let path = node.home("site_a").join("PlanetLab-control");
    eventually("it is made", || path.is_dir().then_some(()));
    await_resources(&node, "site_a");
    neighbour.check(&node);
    node.finish();
}

#[test]
fn its_owner_may_remove_it_at_any_time() {
    let node = TestNode::start("control-removed");
    node.define("site_a", LIMITS);
    for round in 0..50 {
        await_resources(&node, "site_a");
        let output = node
            .sh("site_a", "rm -rf PlanetLab-control; status=$?; mkdir -p PlanetLab-control; exit $status");
        assert_eq!(output.code, 0, "round {round}: {output:?}");
    }
    node.finish();
}

#[test]
fn whatever_has_the_name_resources_is_replaced_and_not_followed() {
    let node = TestNode::start("resources-place");
    let neighbour = Neighbour::start(&node, "site_neighbour");
    let host = node.root().join("host");
    std::fs::write(&host, "the host's").expect("write");
    std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod");
    let passwd = std::fs::read("/etc/passwd").expect("read");
    let cases = [
        ("site_ownfile", "echo mine > ~/mine; ln -s ../mine r".to_owned()),
        ("site_hardlink", "echo mine > ~/mine; ln ~/mine r".to_owned()),
        ("site_rootfile", "ln -s /etc/passwd r".to_owned()),
        ("site_hostfile", format!("ln -s {} r", host.display())),
        ("site_fifo", "mkfifo r".to_owned()),
        ("site_plain", "echo 'memory_max = 1' > r; chmod 000 r".to_owned()),
    ];
    for (slice, place) in &cases {
        node.define(slice, LIMITS);
        await_resources(&node, slice);
        node.sh(slice, &format!("cd PlanetLab-control; {place}; mv -fT r resources")).ok();
    }
    for (slice, _) in &cases {
        // At a live change, and at a start.
        node.define(slice, "[memory]\nmax = \"48M\"");
        eventually_or(
            || resources(&node, slice).filter(|is| is["memory_max"].as_integer() == Some(48 << 20)),
            || format!("resources of {slice} is kept correct; status {:#}", node.status(slice)),
        );
        assert!(node.event_messages(slice, "resources-problem").is_empty());
    }
    for slice in ["site_ownfile", "site_hardlink"] {
        assert_eq!(node.home_file(slice, "mine"), "mine\n");
    }
    for (slice, place) in &cases {
        node.sh(slice, &format!("cd PlanetLab-control; {place}; mv -fT r resources")).ok();
        node.plab(&["restart", slice]).ok();
        await_resources(&node, slice);
    }
    for slice in ["site_ownfile", "site_hardlink"] {
        assert_eq!(node.home_file(slice, "mine"), "mine\n");
    }
    assert_eq!(std::fs::read_to_string(&host).expect("read"), "the host's");
    assert_eq!(std::fs::read("/etc/passwd").expect("read"), passwd);
    neighbour.check(&node);
    node.finish();
}

#[test]
fn a_directory_called_resources_is_left_alone_and_said() {
    let node = TestNode::start("resources-directory");
    let said = "PlanetLab-control/resources is a directory; remove it, and the node will write the file";
    node.define("site_a", LIMITS);
    node.sh("site_a", "cd PlanetLab-control; until rm -f resources; mkdir resources 2> /dev/null; do :; done; echo mine > resources/file").ok();
    node.define("site_a", "[memory]\nmax = \"48M\"");
    await_detail(&node, "site_a", Some(said));
    node.await_event("site_a", "resources-problem", said);
    node.plab(&["restart", "site_a"]).ok();
    await_detail(&node, "site_a", Some(said));
    assert_eq!(node.exec("site_a", &["cat", "PlanetLab-control/resources/file"]).ok(), "mine\n");
    assert_eq!(
        node.exec("site_a", &["ls", "-A", "PlanetLab-control"]).ok(),
        "resources\n",
        "no half-written file stays"
    );
    // What the message promises.
    node.sh("site_a", "rm -r PlanetLab-control/resources").ok();
    let is = await_resources(&node, "site_a");
    assert_eq!(is["memory_max"].as_integer(), Some(48 << 20));
    await_detail(&node, "site_a", None);
    node.finish();
}

#[test]
fn a_directory_that_may_not_be_written_is_said() {
    let node = TestNode::start("resources-readonly");
    node.define("site_a", LIMITS);
    node.put_hook("site_a", "start", "#!/bin/sh\necho >> started\n");
    node.sh("site_a", "chmod 555 PlanetLab-control").ok();
    node.plab(&["restart", "site_a"]).ok();
    node.await_event("site_a", "resources-problem", "cannot create a file in PlanetLab-control: EACCES");
    node.await_lines("site_a", "started", 1);
    assert_eq!(node.status("site_a")["state"], "running");
    node.finish();
}

#[test]
fn resources_says_what_the_slice_has_at_creation_and_after_a_change() {
    let node = TestNode::start("resources-content");
    let first = "expires = 2099-01-31T12:00:00+01:00\n[cpu]\nweight = 300\nmax = \"12.5%\"\n[memory]\nmax = \"32M\"\n[tasks]\nmax = 40";
    node.define("site_a", first);
    node.put_hook("site_a", "start", "#!/bin/sh\ncp PlanetLab-control/resources at-start\nsed -n 's/^memory_max = //p' PlanetLab-control/resources >> seen\n");
    node.plab(&["restart", "site_a"]).ok();
    node.await_lines("site_a", "seen", 1);
    assert_eq!(
        node.home_file("site_a", "seen"),
        format!("{}\n", 32 << 20),
        "complete before the first hook runs"
    );
    let uid = node.status("site_a")["uid"].as_u64().expect("UID");
    let expected: Table = format!(
        "version = 1\nslice = \"site_a\"\nnode = \"node1.example.org\"\naddress = \"192.0.2.1\"\nuid = {uid}\n\
         contact = \"pi@example.org\"\nexpires = 2099-01-31T11:00:00Z\ncpu_weight = 300\ncpu_max = 12.5\n\
         memory_max = {}\ntasks_max = 40\nports = []\nraw = []\nwindows = []\n\
         node_names = [\"node1.example.org\"]\nnode_addresses = [\"\"]\nseccomp = \"default\"\n",
        32 << 20
    )
    .parse()
    .expect("TOML");
    assert_eq!(node.home_file("site_a", "at-start").parse::<Table>().expect("TOML"), expected);

    // The owner's other nodes, and other limits, without a restart.
    let pid = node.pid("site_a");
    let second = "name = \"site_a\"\ncontact = \"other@example.org\"\n\
        nodes = [{ name = \"node2.example.org\", address = \"192.0.2.2\" }, \"node1.example.org\", \"node3.example.org\"]\n\
        [cpu]\nmax = \"200%\"\n[memory]\nmax = \"64M\"\n";
    node.plab_with_input(&["apply", "-"], second.as_bytes()).ok();
    eventually("resources follows", || {
        resources(&node, "site_a").filter(|is| is["memory_max"].as_integer() == Some(64 << 20))
    });
    let expected: Table = format!(
        "version = 1\nslice = \"site_a\"\nnode = \"node1.example.org\"\naddress = \"192.0.2.1\"\nuid = {uid}\n\
         contact = \"other@example.org\"\ncpu_weight = 100\ncpu_max = 200\nmemory_max = {}\ntasks_max = 128\n\
         ports = []\nraw = []\nwindows = []\n\
         node_names = [\"node2.example.org\", \"node1.example.org\", \"node3.example.org\"]\n\
         node_addresses = [\"192.0.2.2\", \"\", \"\"]\nseccomp = \"default\"\n",
        64 << 20
    )
    .parse()
    .expect("TOML");
    assert_eq!(resources(&node, "site_a").expect("a file"), expected);
    assert_eq!(node.pid("site_a"), pid);

    // The shell's way, as the documentation has it, from inside.
    let documented = "cd ~/PlanetLab-control\n\
        sed -n 's/^memory_max = //p' resources\n\
        sed -n 's/^node = \"\\(.*\\)\"$/\\1/p' resources\n\
        sed -n 's/^node_addresses = \\[\\(.*\\)\\]$/\\1/p' resources | tr -d '\" ' | tr , '\\n' | grep .\n";
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/resources.md"))
        .expect("the manual");
    assert!(manual.contains(&format!("```sh\n{documented}```")), "the manual has another way by now");
    let shown = node.sh("site_a", documented).ok();
    assert_eq!(shown, format!("{}\nnode1.example.org\n192.0.2.2\n", 64 << 20));
    let every_line_is_one_value = "grep -v '^#' ~/PlanetLab-control/resources | grep -vcE '^[a-z_]+ = .+$'";
    assert_eq!(node.sh("site_a", every_line_is_one_value).stdout, "0\n");
    node.finish();
}

#[test]
fn a_reader_of_resources_never_sees_half_of_it() {
    let node = TestNode::start("resources-torn");
    node.define("site_a", "[memory]\nmax = \"64M\"");
    let reader = r##"
import pathlib, tomllib
path, seen, reads = pathlib.Path("PlanetLab-control/resources"), set(), 0
while not pathlib.Path("go").exists():
    text = path.read_text()
    have = tomllib.loads(text)
    assert text.startswith("# ") and text.endswith('seccomp = "default"\n'), text
    assert have["slice"] == "site_a" and have["tasks_max"] * 2**20 == have["memory_max"], text
    seen.add(have["memory_max"])
    reads += 1
print(len(seen), reads)
"##;
    node.define("site_a", "[memory]\nmax = \"64M\"\n[tasks]\nmax = 64");
    eventually("the second definition shows", || {
        resources(&node, "site_a").filter(|is| is["tasks_max"].as_integer() == Some(64))
    });
    let output = std::thread::scope(|scope| {
        let reading = scope.spawn(|| node.exec("site_a", &["python3", "-c", reader]));
        for size in (40..140).chain(40..140) {
            node.define("site_a", &format!("[memory]\nmax = \"{size}M\"\n[tasks]\nmax = {size}"));
        }
        node.exec("site_a", &["touch", "go"]).ok();
        reading.join().expect("reader")
    });
    let shown = output.ok();
    let counts: Vec<usize> = shown.split_whitespace().map(|count| count.parse().expect("a count")).collect();
    assert!(counts[0] > 20 && counts[1] > 200, "the reader read while it changed: {shown}");
    node.finish();
}
