//! Against the node by what a slice leaves where the node looks: `PlanetLab-control/`, and its storage at the end.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use plab_tests::eventually;

use crate::case::Expect::Works;
use crate::case::{Case, Place, Tried};
use crate::stage::{ATTACKER, Stage};

/// Puts the trap in the place of the control directory at once, since the node writes there whenever it sees a
/// change; what was there keeps another name.
const SWAP: &str =
    "./attacker swap trap PlanetLab-control; chmod 700 trap 2>/dev/null; mv trap \"was.$$.$RANDOM\"";

/// A slice whose control directory is the attack.
const TRICKSTER: &str = "trickster";

/// The cases.
pub fn cases(_: &Stage) -> Vec<Case> {
    let mut cases = vec![begin()];
    // What takes the place of the control directory: the name `trap` becomes it.
    for (name, script) in [
        ("resources-to-host-file", "mkdir trap; ln -s \"$OUTSIDE/wide\" trap/resources"),
        ("resources-to-shared-file", "mkdir trap; ln -s \"$SHARED/wide\" trap/resources"),
        ("resources-to-neighbours-file", "mkdir trap; ln -s \"$SECRET\" trap/resources"),
        ("resources-to-system-file", "mkdir trap; ln -s /usr/bin/true trap/resources"),
        ("resources-a-directory", "mkdir -p trap/resources/x"),
        ("resources-a-fifo", "mkdir trap; mkfifo trap/resources"),
        ("control-directory-to-host", "ln -s \"$OUTSIDE\" trap"),
        ("control-directory-to-shared", "ln -s \"$SHARED\" trap"),
        ("control-directory-to-etc", "ln -s /etc trap"),
        ("control-directory-to-itself", "ln -s PlanetLab-control trap"),
        ("control-directory-a-file", "echo > trap"),
        ("control-directory-a-fifo", "mkfifo trap"),
        ("control-directory-shut", "mkdir -m 0 trap"),
    ] {
        cases.push(rewritten(name, script));
    }
    cases.extend([
        hook_of_roots(),
        status_with_escapes(),
        status_without_end(),
        storm_in_control_directory(),
        end_in_the_deep(),
    ]);
    cases
}

/// Where the host's files are that must not change.
fn environment(stage: &Stage) -> String {
    format!(
        "OUTSIDE='{}' SHARED='{}' SECRET='{}'",
        stage.outside.display(),
        stage.shared.display(),
        stage.home(crate::stage::NEIGHBOUR).join("secret").display()
    )
}

/// The trickster comes up like any other; the control of the cases after it.
fn begin() -> Case {
    Case::of("resources-as-it-should-be", "(the control of the next)", |stage| {
        let mut tried = Tried::default();
        stage.node.define(TRICKSTER, "[memory]\nmax = \"64M\"");
        let actor = std::fs::read(stage.actor()).expect("read the actor");
        stage.node.put(TRICKSTER, "attacker", &actor, 0o755);
        let text = stage.node.sh(TRICKSTER, "cat PlanetLab-control/resources").stdout;
        tried.check(text.contains("memory_max = 67108864"), format!("resources: {text}"));
        (tried.inside, tried.control) = ("written".into(), "written".into());
        tried
    })
}

/// The control directory made into something else, then both ways in which the node writes there: a changed
/// limit, and a new start. What it points to must stay as it is, and the node must go on.
fn rewritten(name: &'static str, script: &'static str) -> Case {
    Case::of(name, "files that the node could be made to write", move |stage| {
        let mut tried = Tried::default();
        let begun = std::time::Instant::now();
        let before = listing(stage);
        let set = stage.node.sh(TRICKSTER, &format!("{}; {script}; {SWAP}", environment(stage)));
        tried.check(
            set.stdout.contains("\"ok\""),
            format!("it could not be set up: {} {}", set.stdout, set.stderr),
        );
        for limit in ["80M", "64M"] {
            let definition =
                plab_tests::TestNode::definition(TRICKSTER, &format!("[memory]\nmax = \"{limit}\""));
            stage.node.plab_with_input(&["apply", "-"], definition.as_bytes());
        }
        stage.node.plab(&["restart", TRICKSTER]);
        if let Err(why) = stage.files_unchanged() {
            tried.wrong.push(why);
        }
        if let Err(why) = stage.all_alive() {
            tried.wrong.push(why);
        }
        tried.check(listing(stage) == before, "something was made outside");
        tried.check(!std::path::Path::new("/etc/resources").exists(), "/etc/resources was made");
        tried.check(stage.node.exec(ATTACKER, &["true"]).code == 0, "others run no commands");
        tried.check(begun.elapsed().as_secs() < 15, format!("it took {:?}", begun.elapsed()));
        // The control: put right, the node writes again.
        stage.revive(TRICKSTER);
        let back = stage.node.sh(TRICKSTER, &format!("mkdir trap; {SWAP}"));
        tried
            .check(back.stdout.contains("\"ok\""), format!("the slice cannot put it right: {}", back.stdout));
        stage.node.plab(&["restart", TRICKSTER]).ok();
        let text = stage.node.sh(TRICKSTER, "cat PlanetLab-control/resources").stdout;
        tried.check(text.contains("memory_max"), format!("the control: resources is {text:?} afterwards"));
        let detail = stage.node.status(TRICKSTER)["state"].as_str().unwrap_or_default().to_owned();
        (tried.inside, tried.control) =
            (format!("nothing changed ({detail})"), "written when put right".into());
        tried
    })
}

/// What lies in the directories outside, and when it was last changed.
fn listing(stage: &Stage) -> Vec<(std::path::PathBuf, i64, u64)> {
    let mut found: Vec<_> = [&stage.outside, &stage.shared]
        .into_iter()
        .flat_map(|dir| std::fs::read_dir(dir).expect("list").flatten())
        .map(|entry| {
            let meta = entry.metadata().expect("stat");
            (entry.path(), meta.mtime(), meta.len())
        })
        .collect();
    found.sort();
    found
}

/// A hook that is a link to a program of root's, which root would run outside to another effect.
fn hook_of_roots() -> Case {
    Case::of("hook-to-roots-program", "the host, as root", |stage| {
        let mut tried = Tried::default();
        let (program, mark) = (stage.shared.join("program"), stage.outside.join("ran-outside"));
        std::fs::write(&program, format!("#!/bin/sh\nid -u > ran\nid -u > '{}'\n", mark.display()))
            .expect("write");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let script = format!("rm -f ran; ln -sfn '{}' PlanetLab-control/start", program.display());
        // The trickster does not see the directory; the attacker does.
        stage.node.sh(ATTACKER, &script).ok();
        stage.node.plab(&["restart", ATTACKER]).ok();
        let home = stage.home(ATTACKER).join("ran");
        let uid = eventually("the hook ran inside", || {
            std::fs::read_to_string(&home).ok().filter(|text| !text.is_empty())
        });
        tried.check(uid.trim() == stage.uid(ATTACKER).to_string(), format!("it ran as {uid}"));
        tried.check(!mark.exists(), "it ran where it sees the host");
        let shown = std::process::Command::new(&program).current_dir(&stage.outside).status().expect("run");
        tried.check(shown.success() && mark.exists(), "the control left no mark");
        stage.node.sh(ATTACKER, "rm PlanetLab-control/start").ok();
        (tried.inside, tried.control) = (format!("runs as {}", uid.trim()), "leaves its mark outside".into());
        tried
    })
}

/// A status line that would clear an administrator's screen and forge a row.
fn status_with_escapes() -> Case {
    Case::of("escapes-in-status", "the administrator's terminal", |stage| {
        let mut tried = Tried::default();
        let hook = b"#!/bin/sh\nprintf '\\033]0;pwned\\007\\033[2J\\302\\2332J \\342\\200\\256 site_sl10 (running)\\rforged\\nsecond\\n'\n";
        stage.node.put(TRICKSTER, "PlanetLab-control/status", hook, 0o755);
        let line = eventually("a status line came", || {
            stage.node.status(TRICKSTER)["status_line"].as_str().map(str::to_owned)
        });
        tried.check(
            line.contains('\u{1b}') || line.contains("\\u{1b}"),
            format!("the control: nothing reached plabd: {line:?}"),
        );
        for args in [vec!["status"], vec!["status", TRICKSTER], vec!["events"], vec!["top", "--once"]] {
            let shown = stage.node.plab(&args).stdout;
            let bad: Vec<char> =
                shown.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
            tried.check(bad.is_empty(), format!("plab {args:?} passes on {bad:?}"));
            tried.check(!shown.contains("second"), format!("plab {args:?} shows a second line"));
        }
        (tried.inside, tried.control) = ("shown as escapes".into(), "reached plabd".into());
        tried
    })
}

/// A status that prints without end on one line.
fn status_without_end() -> Case {
    Case::of("status-without-end", "plabd's memory", |stage| {
        let mut tried = Tried::default();
        let resident = || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", stage.node.daemon_pid()))
                .unwrap_or_default();
            text.lines()
                .find_map(|line| {
                    line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse::<u64>().ok()
                })
                .unwrap_or_default()
        };
        let before = resident();
        let hook = b"#!/bin/sh\nhead -c 50000000 /dev/zero | tr '\\0' 'A'; touch ran-to-the-end\n";
        stage.node.put(TRICKSTER, "PlanetLab-control/status", hook, 0o755);
        let line = eventually("a status line came", || {
            stage.node.status(TRICKSTER)["status_line"]
                .as_str()
                .filter(|line| line.starts_with("AAA"))
                .map(str::to_owned)
        });
        tried.check(line.len() <= 4096, format!("{} bytes of it were kept", line.len()));
        let grown = resident().saturating_sub(before);
        tried.check(grown < 16 << 10, format!("plabd grew by {grown} KiB"));
        stage.node.sh(TRICKSTER, "rm -f PlanetLab-control/status").ok();
        (tried.inside, tried.control) =
            (format!("{} bytes kept", line.len()), format!("plabd grew by {grown} KiB"));
        tried
    })
}

/// The control directory changed thousands of times in a second.
fn storm_in_control_directory() -> Case {
    Case::of("storm-in-control-directory", "plabd's time and ledger", |stage| {
        let mut tried = Tried::default();
        let before = stage.node.events(None).len();
        let storm = "cd PlanetLab-control; for i in $(seq 400); do : > start.$i; : > stop; mv stop configure; done; \
                     rm -f start.* configure stop";
        let begun = std::time::Instant::now();
        let ended = stage.node.sh(TRICKSTER, storm);
        tried.check(ended.code == 0, ended.stderr.clone());
        let took = begun.elapsed();
        let begun = std::time::Instant::now();
        tried.check(stage.node.plab(&["status"]).code == 0, "root gets no status");
        tried.check(begun.elapsed().as_secs() < 2, format!("root waited {:?}", begun.elapsed()));
        let more = stage.node.events(None).len().saturating_sub(before);
        tried.check(more < 200, format!("it made {more} events"));
        stage.revive(TRICKSTER);
        (tried.inside, tried.control) = (format!("{more} events"), format!("1200 changes in {took:.1?}"));
        tried
    })
}

/// Storage that fights its own removal: names that are no text, shut directories, links out, and a depth that no
/// path and no recursion reaches.
fn end_in_the_deep() -> Case {
    Case::of("storage-that-resists-removal", "the node's disk, and what links point to", |stage| {
        let mut tried = Tried::default();
        let script = format!(
            "{}; ln -s \"$OUTSIDE\" out; ln -s \"$SHARED\" shared; ln -s / root; mkdir -p shut/inner; touch shut/x; \
             chmod 0 shut; touch $'bad\\xff\\nname'; mkfifo fifo; mkdir deep; ./attacker deep deep 3000",
            environment(stage)
        );
        let made = stage.node.sh(TRICKSTER, &script);
        tried.check(
            made.stdout.contains("3000 levels"),
            format!("the control: {} {}", made.stdout, made.stderr),
        );
        let storage = stage.node.root().join("var/lib/planetlab/slices").join(TRICKSTER);
        let before = listing(stage);
        let begun = std::time::Instant::now();
        let removed = stage.node.plab(&["rm", "--yes", TRICKSTER]);
        let took = begun.elapsed();
        tried.check(removed.code == 0, format!("rm: {}", removed.stderr.trim()));
        if let Err(why) = stage.all_alive() {
            tried.wrong.push(why);
        }
        tried.check(!storage.exists(), "its storage is still there");
        tried.check(listing(stage) == before, "something outside changed");
        let shown = stage.act(Place::Root, &["list".into(), stage.outside.display().to_string()]);
        tried.check(Works.is(&shown), format!("the directory outside: {shown}"));
        if storage.exists() {
            // So that the test leaves nothing: rm(1) goes down without recursion.
            let _ = std::process::Command::new("rm").arg("-rf").arg(&storage).status();
        }
        (tried.inside, tried.control) = (format!("removed in {took:.1?}"), "3000 levels were made".into());
        tried
    })
}
