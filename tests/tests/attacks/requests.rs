//! Against plabd, by its control socket, as one who has a slice's UID outside; and by what lies around it.

use serde_json::{Value, json};

use crate::case::Expect::{Either, Errno, Reply, Works};
use crate::case::{Attack, Case, Expect, Place, Seen, Tried, attack};
use crate::stage::{ATTACKER, HOG, Held, NEIGHBOUR, Stage};

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let mut cases = others(stage);
    cases.extend(roots(stage));
    cases.extend(names(stage));
    cases.extend(malformed(stage));
    cases.extend(around(stage));
    cases.extend([
        sees_only_itself("status"),
        sees_only_itself("usage"),
        sees_only_itself("events"),
        no_oracle(),
        descriptors_are_closed(),
        many_connections(),
        many_sessions(),
        deaf_followers(),
        noise_on_a_session(),
        directory_by_protocol(),
        arguments("long-arguments", 2000, 1000),
        arguments("many-arguments", 100_000, 1),
        escapes_in_events(),
    ]);
    cases
}

/// An attack that is one request as the slice's user, with a control that is another as root.
fn asked(stage: &Stage, name: &str, against: &'static str, request: &Value, expect: Expect) -> Attack {
    attack(name, against, "ask", expect)
        .at(Place::SliceUser)
        .with(&[&stage.socket(), &request.to_string()])
        .control_with(&["ask", &stage.socket(), &json!({ "v": 1, "request": "status" }).to_string()])
        .control_is(Reply("status"))
        .judge(Stage::all_alive)
}

/// What is another slice's is refused, whether it is there or not.
fn others(stage: &Stage) -> Vec<Case> {
    let socket = stage.socket();
    let exec = json!({ "v": 1, "request": "exec", "slice": NEIGHBOUR, "argv": ["true"], "tty": null });
    let mut cases: Vec<Case> = vec![
        attack("exec-in-neighbour", "a neighbour's capsule", "ask-with", Reply("denied"))
            .at(Place::SliceUser)
            .with(&[&socket, "4", &exec.to_string()])
            // Root is let in, and told that /dev/null is no session socket, or started.
            .control_is(Either(vec![Reply("started"), Reply("malformed"), Reply("failed")]))
            .into(),
        attack("read-below-neighbour", "a neighbour's capsule", "exec-with", Reply("denied"))
            .at(Place::SliceUser)
            .with(&[&socket, NEIGHBOUR, "/dev/null", "cat", "secret"])
            .control_is(Works)
            .into(),
    ];
    for (name, request) in [
        ("status-of-neighbour", json!({ "v": 1, "request": "status", "slice": NEIGHBOUR })),
        ("verify-neighbour", json!({ "v": 1, "request": "status", "slice": NEIGHBOUR, "verify": true })),
        ("events-of-neighbour", json!({ "v": 1, "request": "events", "slice": NEIGHBOUR })),
        ("follow-neighbour", json!({ "v": 1, "request": "events", "slice": NEIGHBOUR, "follow": true })),
        ("sessions-of-neighbour", json!({ "v": 1, "request": "sessions", "slice": NEIGHBOUR })),
        ("restart-neighbour", json!({ "v": 1, "request": "restart", "slice": NEIGHBOUR })),
    ] {
        cases.push(asked(stage, name, "a neighbour's capsule", &request, Reply("denied")).into());
    }
    cases
}

/// What is root's is refused, also on one's own slice.
fn roots(stage: &Stage) -> Vec<Case> {
    let text =
        format!("name = \"{ATTACKER}\"\ncontact = \"pi@example.org\"\nnodes = [\"node1.example.org\"]\n");
    let mut cases: Vec<Case> = vec![
        asked(
            stage,
            "apply",
            "all slices",
            &json!({ "v": 1, "request": "apply", "text": text, "origin": "-" }),
            Reply("denied"),
        )
        .into(),
        asked(stage, "drain", "all slices", &json!({ "v": 1, "request": "drain" }), Reply("denied")).into(),
    ];
    for request in ["remove", "freeze", "thaw"] {
        for (whose, slice) in [("own", ATTACKER), ("neighbours", NEIGHBOUR)] {
            let line = json!({ "v": 1, "request": request, "slice": slice });
            cases.push(
                asked(
                    stage,
                    &format!("{request}-{whose}"),
                    "all slices",
                    &line,
                    Either(vec![Reply("denied"), Reply("no-such-slice")]),
                )
                .into(),
            );
        }
    }
    cases
}

/// Names that a careless node would take for a path or a prefix.
fn names(stage: &Stage) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (what, name) in [
        ("climbing", format!("../{NEIGHBOUR}")),
        ("climbing-within", format!("{ATTACKER}/../{NEIGHBOUR}")),
        ("absolute", format!("/{NEIGHBOUR}")),
        ("nul", format!("{ATTACKER}\0")),
        ("neighbour-nul", format!("{NEIGHBOUR}\0{ATTACKER}")),
        ("slash", format!("{ATTACKER}/")),
        ("empty", String::new()),
        ("dot", ".".to_owned()),
        ("prefix", "site_sl".to_owned()),
        ("longer", format!("{ATTACKER}00")),
        ("upper-case", ATTACKER.to_uppercase()),
        ("newline", format!("{ATTACKER}\n")),
        ("huge", "a".repeat(100_000)),
    ] {
        for request in ["status", "restart"] {
            let line = json!({ "v": 1, "request": request, "slice": name });
            // Root is told that there is none, and not given what a path or a prefix would lead to.
            cases.push(
                asked(
                    stage,
                    &format!("name-{what}-{request}"),
                    "the names of slices",
                    &line,
                    Reply("denied"),
                )
                .control_with(&["ask", &stage.socket(), &line.to_string()])
                .control_is(Reply("no-such-slice"))
                .into(),
            );
        }
    }
    cases
}

/// What is no request.
fn malformed(stage: &Stage) -> Vec<Case> {
    let socket = stage.socket();
    let mut cases: Vec<Case> = Vec::new();
    for (name, line) in [
        ("no-json", "hello".to_owned()),
        ("empty-line", String::new()),
        ("cut-json", "{\"v\":1,\"request\":".to_owned()),
        ("wrong-type", "{\"v\":1,\"request\":\"status\",\"slice\":7}".to_owned()),
        ("unknown-request", "{\"v\":1,\"request\":\"own-the-node\"}".to_owned()),
        ("negative-version", "{\"v\":-1,\"request\":\"status\"}".to_owned()),
        (
            "wide-terminal",
            format!(
                "{{\"v\":1,\"request\":\"exec\",\"slice\":\"{ATTACKER}\",\"argv\":[],\"tty\":{{\"rows\":70000,\"cols\":1}}}}"
            ),
        ),
        ("two-requests", "{\"v\":1,\"request\":\"status\",\"request\":\"drain\"}".to_owned()),
    ] {
        cases.push(
            attack(name, "plabd's parser", "ask", Reply("malformed"))
                .at(Place::SliceUser)
                .with(&[&socket, &line])
                .control_with(&["ask", &socket, "{\"v\":1,\"request\":\"status\"}"])
                .control_is(Reply("status"))
                .judge(Stage::all_alive)
                .into(),
        );
    }
    let other = |name: &str, args: &[&str], expect| -> Case {
        attack(name, "plabd", args[0], expect)
            .at(Place::SliceUser)
            .with(&[&[socket.as_str()], &args[1..]].concat())
            .control_with(&["ask", &socket, "{\"v\":1,\"request\":\"status\"}"])
            .control_is(Reply("status"))
            .judge(Stage::all_alive)
            .into()
    };
    let status = "{\"v\":1,\"request\":\"status\"}";
    cases.push(other("other-version", &["ask", "{\"v\":99,\"request\":\"status\"}"], Reply("version")));
    cases.push(other(
        "line-of-10-mb",
        &["ask-long", "10000000"],
        Either(vec![Reply("malformed"), Expect::Gives("closed")]),
    ));
    cases.push(other("nested-values", &["ask-nested", "500000"], Reply("malformed")));
    cases.push(other("bytes-that-are-no-text", &["ask-bytes", "fffe00c0af"], Reply("malformed")));
    cases.push(other(
        "too-many-descriptors",
        &["ask-with", "200", status],
        Either(vec![Reply("malformed"), Expect::Gives("closed")]),
    ));
    let exec =
        json!({ "v": 1, "request": "exec", "slice": ATTACKER, "argv": ["true"], "tty": null }).to_string();
    cases.push(other("exec-without-descriptors", &["ask", &exec], Reply("malformed")));
    cases.push(other("exec-with-too-few", &["ask-with", "3", &exec], Reply("malformed")));
    cases.push(other("exec-with-too-many", &["ask-with", "5", &exec], Reply("malformed")));
    cases
}

/// Files and sockets around plabd, for the slice's UID outside.
fn around(stage: &Stage) -> Vec<Case> {
    let root = stage.node.root().display();
    let what = "the node's files";
    let slices = format!("{root}/var/lib/planetlab/slices");
    let capsules = format!("{root}/run/planetlab/capsules");
    let mut cases: Vec<Case> = Vec::new();
    for (name, line) in [
        ("ledger-outside", format!("read {root}/var/lib/planetlab/ledger.sqlite")),
        ("ledger-journal-outside", format!("read {root}/var/lib/planetlab/ledger.sqlite-wal")),
        ("neighbours-definition-outside", format!("read {root}/etc/planetlab/slices.d/{NEIGHBOUR}.toml")),
        ("list-capsule-sockets", format!("list {capsules}")),
        ("capsule-socket-of-neighbour", format!("unix-connect-seqpacket {capsules}/{NEIGHBOUR}.sock")),
        ("own-capsule-socket", format!("unix-connect-seqpacket {capsules}/{ATTACKER}.sock")),
        ("list-slices-storage", format!("list {slices}")),
        ("list-neighbours-home-outside", format!("list {slices}/{NEIGHBOUR}/home/{NEIGHBOUR}")),
        ("read-neighbours-file-outside", format!("read {slices}/{NEIGHBOUR}/home/{NEIGHBOUR}/secret")),
    ] {
        let control = if line.starts_with("unix-connect") {
            format!("unix-connect-seqpacket {}/seqpacket", stage.outside.display())
        } else {
            line.clone()
        };
        cases
            .push(attack(name, what, line, Errno(libc::EACCES)).at(Place::SliceUser).control(control).into());
    }
    for (name, line) in [
        ("replace-control-socket", format!("unlink {root}/run/planetlab/control.sock")),
        ("drop-a-definition", format!("create {root}/etc/planetlab/slices.d/evil.toml")),
        ("write-own-identity", format!("open-write {slices}/{ATTACKER}/identity/passwd")),
        ("swap-own-home", format!("rename {slices}/{ATTACKER}/home/{ATTACKER} {slices}/{ATTACKER}/home/x")),
    ] {
        let outside = stage.outside.display();
        let control = format!(
            "{} {outside}/victim-of-control {outside}/moved-too",
            line.split(' ').next().unwrap_or_default()
        );
        cases.push(Case::of(name, what, move |stage| {
            let mut tried = Tried::default();
            let seen = stage.act(Place::SliceUser, &crate::case::words(&line));
            tried.check(Errno(libc::EACCES).is(&seen), format!("the attack came to {seen}, not to EACCES"));
            let target = stage.outside.join("victim-of-control");
            if line.starts_with("create") {
                std::fs::remove_file(&target).ok();
            } else {
                std::fs::write(&target, "").expect("write");
            }
            let shown = stage.act(Place::Root, &crate::case::words(&control));
            tried.check(Works.is(&shown), format!("the control came to {shown}"));
            (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
            tried
        }));
    }
    cases
}

/// The whole reply to a request, and as whom it was asked.
fn reply(stage: &Stage, place: Place, request: &str) -> String {
    let line = json!({ "v": 1, "request": request }).to_string();
    let output = stage.command(place, &["ask".into(), stage.socket(), line]).output().expect("run an actor");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asked about all, plabd tells a slice of itself.
fn sees_only_itself(request: &'static str) -> Case {
    Case::of(format!("all-by-{request}"), "what neighbours do", move |stage| {
        let mut tried = Tried::default();
        let (seen, shown) = (reply(stage, Place::SliceUser, request), reply(stage, Place::Root, request));
        let named = |text: &str, slice: &str| text.contains(&format!("\\\"{slice}\\\""));
        tried.check(!named(&seen, NEIGHBOUR) && !named(&seen, HOG), "neighbours are named");
        let refused = seen.contains("denied");
        tried.check(refused || named(&seen, ATTACKER), format!("its own is not there: {seen}"));
        tried
            .check(named(&shown, NEIGHBOUR) && named(&shown, ATTACKER), "the control: root does not see all");
        (tried.inside, tried.control) = (if refused { "denied" } else { "only itself" }.into(), "all".into());
        tried
    })
}

/// That a slice exists cannot be told from how its name is refused.
fn no_oracle() -> Case {
    Case::of("which-slices-exist", "the names of slices", |stage| {
        let mut tried = Tried::default();
        let ask = |slice: &str| {
            let line = json!({ "v": 1, "request": "status", "slice": slice }).to_string();
            let output = stage
                .command(Place::SliceUser, &["ask".into(), stage.socket(), line])
                .output()
                .expect("run an actor");
            String::from_utf8_lossy(&output.stdout).replace(slice, "NAME")
        };
        let (real, none) = (ask(NEIGHBOUR), ask("site_none"));
        tried.check(real == none, format!("{real} is not {none}"));
        tried.check(real.contains("denied"), real.clone());
        let own = ask(ATTACKER);
        tried.check(own.contains("running"), format!("the control: {own}"));
        (tried.inside, tried.control) = ("the same answer".into(), "its own is shown".into());
        tried
    })
}

/// plabd's open descriptors: what each is.
fn open_descriptors(stage: &Stage) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", stage.node.daemon_pid()));
    let links = entries.into_iter().flatten().flatten().map(|entry| std::fs::read_link(entry.path()));
    let mut names: Vec<String> = links.flatten().map(|link| link.display().to_string()).collect();
    names.sort();
    names
}

/// plabd's memory in KiB.
fn resident(stage: &Stage) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", stage.node.daemon_pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Root and the neighbour still get answers, soon.
fn others_are_served(stage: &Stage) -> Result<(), String> {
    let begun = std::time::Instant::now();
    let status = stage.node.plab(&["status", "--json"]);
    if status.code != 0 {
        return Err(format!("root gets no status: {}", status.stderr.trim()));
    }
    let output = stage.node.exec(NEIGHBOUR, &["true"]);
    if output.code != 0 {
        return Err(format!("the neighbour runs no commands: {}", output.stderr.trim()));
    }
    if begun.elapsed().as_secs() >= 5 { Err(format!("it took {:?}", begun.elapsed())) } else { Ok(()) }
}

/// What plabd may open meanwhile for itself: a connection, the segment of its flow store with its two logs.
const ITS_OWN: usize = 8;

/// Descriptors sent along, hundreds of times, are not kept.
fn descriptors_are_closed() -> Case {
    Case::of("descriptors-piling-up", "plabd's descriptors", |stage| {
        let mut tried = Tried::default();
        let before = open_descriptors(stage);
        let line = json!({ "v": 1, "request": "status" }).to_string();
        let args = ["ask-with".to_owned(), stage.socket(), "16".into(), line, "200".into()];
        let seen = stage.act(Place::SliceUser, &args);
        let settled = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            open_descriptors(stage).len() <= before.len() + ITS_OWN
        });
        tried.check(settled, format!("{before:?} became {:?}", open_descriptors(stage)));
        if let Err(why) = others_are_served(stage) {
            tried.wrong.push(why);
        }
        (tried.inside, tried.control) = (format!("{seen}; none kept"), format!("{} before", before.len()));
        tried
    })
}

/// Half a request on each of a thousand connections.
fn many_connections() -> Case {
    Case::of("a-thousand-connections", "plabd's answers to others", |stage| {
        let mut tried = Tried::default();
        let mut command =
            stage.command(Place::SliceUser, &["connections".into(), stage.socket(), "1000".into()]);
        command.stderr(std::process::Stdio::null());
        let held = Held::start(command).expect("an actor");
        if let Err(why) = others_are_served(stage) {
            tried.wrong.push(why);
        }
        let seen = held.release();
        let kept = match &seen {
            Seen::Worked(count) => count.parse().unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        tried.check(kept <= 128, format!("{kept} of 1000 were kept"));
        tried.check(kept >= 1, "the control: not one was kept");
        (tried.inside, tried.control) =
            (format!("{kept} of 1000 kept"), "root and the neighbour are served".into());
        tried
    })
}

/// More sessions than the slice has tasks.
fn many_sessions() -> Case {
    Case::of("three-hundred-sessions", "plabd's answers to others", |stage| {
        let mut tried = Tried::default();
        let args = ["sessions".to_owned(), stage.socket(), ATTACKER.into(), "300".into()];
        match Held::start({
            let mut command = stage.command(Place::SliceUser, &args);
            command.stderr(std::process::Stdio::null());
            command
        }) {
            Ok(held) => {
                if let Err(why) = others_are_served(stage) {
                    tried.wrong.push(why);
                }
                let seen = held.release();
                let running: usize = match &seen {
                    Seen::Worked(text) => {
                        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(usize::MAX)
                    }
                    _ => usize::MAX,
                };
                tried.check((1..=64).contains(&running), format!("{seen}"));
                tried.inside = seen.to_string();
            }
            Err(seen) => tried.wrong.push(format!("it came to {seen}")),
        }
        let pid = stage.init_pid(ATTACKER);
        let again = (0..400).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            stage.node.exec(ATTACKER, &["true"]).code == 0
        });
        tried.check(again, format!("the slice itself does not recover (PID 1 is {pid})"));
        tried.control = "others served; it recovers".into();
        tried
    })
}

/// Followers of events who never read, while many things happen.
fn deaf_followers() -> Case {
    Case::of("followers-that-never-read", "plabd's memory and answers", |stage| {
        let mut tried = Tried::default();
        let mut command = stage.command(Place::SliceUser, &["deaf".into(), stage.socket(), "40".into()]);
        command.stderr(std::process::Stdio::null());
        let held = Held::start(command).expect("an actor");
        let before = resident(stage);
        let line = json!({ "v": 1, "request": "restart", "slice": format!("{NEIGHBOUR}-no") }).to_string();
        let args = ["floods".to_owned(), stage.socket(), "2000".into(), line];
        let flood = stage.act(Place::Root, &args);
        if let Err(why) = others_are_served(stage) {
            tried.wrong.push(why);
        }
        let grown = resident(stage).saturating_sub(before);
        tried.check(grown < 16 << 10, format!("plabd grew by {grown} KiB"));
        held.release();
        (tried.inside, tried.control) = (format!("grew by {grown} KiB"), flood.to_string());
        tried
    })
}

/// A session's socket used for all but its purpose.
fn noise_on_a_session() -> Case {
    Case::of("noise-on-a-session", "PID 1 of the capsule", |stage| {
        let mut tried = Tried::default();
        let pid = stage.init_pid(ATTACKER);
        let seen = stage.act(Place::SliceUser, &["session-noise".into(), stage.socket(), ATTACKER.into()]);
        tried.check(Works.is(&seen), format!("it came to {seen}"));
        if let Err(why) = stage.init_alive(ATTACKER, pid) {
            tried.wrong.push(why);
        }
        (tried.inside, tried.control) = (seen.to_string(), "the next command runs".into());
        tried
    })
}

/// Past `plab`: a directory of the host as standard input, by the protocol itself.
fn directory_by_protocol() -> Case {
    Case::of("directory-by-protocol", "the host's files", |stage| {
        let mut tried = Tried::default();
        let outside = stage.outside.display().to_string();
        let run = |path: &str, command: &[&str]| {
            let mut args = vec!["exec-with".to_owned(), stage.socket(), ATTACKER.into(), path.to_owned()];
            args.extend(command.iter().map(|word| (*word).to_owned()));
            match stage.act(Place::SliceUser, &args) {
                Seen::Worked(said) => said,
                other => other.to_string(),
            }
        };
        let seen = run(&outside, &["./attacker", "open-at", "0", "wide"]);
        tried.check(!seen.contains("\"ok\""), format!("a file was read: {seen}"));
        let root = stage.node.root().display().to_string();
        let socket = run(&root, &["./attacker", "connect-below", "0", "run/planetlab/control.sock"]);
        tried.check(!socket.contains("\"ok\""), format!("plabd's socket was reached from inside: {socket}"));
        let shown = run("/dev/null", &["./attacker", "read", "attacker"]);
        tried.check(
            shown.contains("bytes") || shown.contains("running"),
            format!("the control came to {shown}"),
        );
        (tried.inside, tried.control) = (seen, shown);
        tried
    })
}

/// More arguments than a program takes, or than a message holds.
fn arguments(name: &str, count: u32, length: u32) -> Case {
    Case::of(name, "PID 1 of the capsule", move |stage| {
        let mut tried = Tried::default();
        let pid = stage.init_pid(ATTACKER);
        let run = |count: u32, length: u32| {
            let args = [
                "ask-arguments".to_owned(),
                stage.socket(),
                ATTACKER.into(),
                count.to_string(),
                length.to_string(),
            ];
            stage.act(Place::SliceUser, &args)
        };
        let seen = run(count, length);
        let refused = Either(vec![Reply("failed"), Reply("malformed")]);
        tried.check(refused.is(&seen), format!("it came to {seen}"));
        if let Err(why) = stage.init_alive(ATTACKER, pid) {
            tried.wrong.push(why);
        }
        let shown = run(10, 10);
        tried.check(
            Either(vec![Reply("running"), Reply("exited")]).is(&shown),
            format!("the control came to {shown}"),
        );
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// A command's name reaches the events, and from there an administrator's terminal and log.
fn escapes_in_events() -> Case {
    Case::of("escapes-in-a-commands-name", "the administrator's terminal and log", |stage| {
        let mut tried = Tried::default();
        let name = "\u{1b}]0;pwned\u{7}\n2026-01-01T00:00:00Z FORGED line\r\u{9b}2J";
        let args =
            ["exec-with".to_owned(), stage.socket(), ATTACKER.into(), "/dev/null".into(), name.to_owned()];
        let seen = stage.act(Place::SliceUser, &args);
        let shown = stage.node.plab(&["events"]).stdout;
        let bad = |text: &str| {
            text.contains('\u{1b}')
                || text.contains('\u{9b}')
                || text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z FORGED"))
        };
        tried.check(!bad(&shown), "plab events passes a slice's control characters on");
        tried.check(!bad(&stage.node.log()), "plabd's log takes a slice's control characters");
        let raw = stage.node.events(Some(ATTACKER));
        let reached =
            raw.iter().any(|event| event["message"].as_str().is_some_and(|text| text.contains("pwned")));
        (tried.inside, tried.control) =
            (seen.to_string(), if reached { "it reached the events" } else { "it reached no event" }.into());
        tried
    })
}
