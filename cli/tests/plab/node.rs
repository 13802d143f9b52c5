//! Everything of `plab` that asks and shows, against a node that is made up: also one that means harm.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::fake_node::{self, Node, Person, finish};
use plab_protocol::MAX_LINE;
use plab_protocol::control::{ErrorCode, ErrorReply, Reply, Request};

/// A status with a field that this build does not know, and words of a slice that mean harm.
const STATUS: &str = r#"{"reply":"status","node":"node1","version":"0.1.0","degraded":[],"refused":[{"file":"bad.toml","errors":["bad.toml:3: memory.max: read \"12Q\""]}],"slices":[{"name":"web","uid":70001,"state":"running","detail":null,"status_line":"\u001b[2Jgone\u0007 RTL","status_ok":true,"hooks":{"start":"running\u001b[H"},"pid":7,"since":"2020-01-01T00:00:00Z","expires":null,"contact":"pi@x.org","memory":1048576,"tasks":3,"cpu_micros":1500000,"pending_errors":[],"colour":"blue"}]}"#;

/// With a character that turns the direction of what follows, which no source file may hold.
fn status() -> String {
    STATUS.replace("RTL", "\u{202e}")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("utf-8")
}

fn error(code: ErrorCode, message: &str) -> Node {
    let reply = Reply::Error(ErrorReply { code, message: message.into() });
    Node::saying(serde_json::to_string(&reply).expect("reply"))
}

/// Nothing that was printed can move a terminal.
fn assert_harmless(output: &Output) {
    for bytes in [&output.stdout, &output.stderr] {
        let bad = text(bytes).chars().find(|&c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert_eq!(bad, None, "{:?}", text(bytes));
    }
}

#[test]
fn status_is_a_table() {
    let output = Node::saying(status()).output(&["status"]);
    assert_harmless(&output);
    let text = text(&output.stdout);
    assert!(text.starts_with("NAME  STATE      UID    CPU      MEM  TASKS"), "{text}");
    for part in [
        "web   running  70001  1.50s  1.0 MiB",
        "\\u{1b}[2Jgone",
        "1 slice on node1",
        "bad.toml: refused:\n  bad",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn json_is_the_answer_itself() {
    let output = Node::saying(status()).output(&["status", "--json"]);
    assert_harmless(&output);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(
        printed,
        serde_json::from_str::<serde_json::Value>(&status()).expect("json"),
        "unknown fields too"
    );
    assert_eq!(text(&output.stdout).lines().count(), 1);
}

#[test]
fn one_slice_has_its_hooks() {
    let output = Node::saying(status()).output(&["status", "web"]);
    assert_harmless(&output);
    assert!(text(&output.stdout).contains("  hooks\n    start  running\\u{1b}[H\n"));
}

#[test]
fn verify_fails_when_nothing_was_read_back() {
    let output = Node::saying(status()).output(&["status", "web", "--verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("Nothing was read back"));
}

#[test]
fn a_refusal_is_said_and_counted() {
    let node = error(ErrorCode::NoSuchSlice, "no slice \u{1b}[31mx\nplab status lists them");
    let output = node.output(&["restart", "x"]);
    assert_harmless(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "plab: no slice \\u{1b}[31mx\nplab status lists them\n");
    assert!(output.stdout.is_empty());
    let output = node.output(&["restart", "x", "--json"]);
    let reply: Reply = serde_json::from_slice(&output.stdout).expect("json");
    assert!(matches!(reply, Reply::Error(e) if e.code == ErrorCode::NoSuchSlice));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_plabd_that_is_not_there_is_explained() {
    let node = Node::dead();
    for args in [&["status"][..], &["events"], &["top", "--once"], &["drain"], &["thaw", "x"]] {
        let output = node.output(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let text = text(&output.stderr);
        for part in ["control.sock", "No such file or directory", "systemctl status plabd", "--root"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
    assert_eq!(node.output(&["exec", "x", "--", "true"]).status.code(), Some(125));
}

#[test]
fn a_line_without_end_is_not_read_without_end() {
    let node = Node::start(|mut asked| {
        let chunk = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < 4 * MAX_LINE && asked.stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        assert!(sent < 4 * MAX_LINE, "plab took all of it");
    });
    let output = node.output(&["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("longer than"), "{}", text(&output.stderr));
    assert_eq!(node.output(&["exec", "x", "--", "true"]).status.code(), Some(125));
}

#[test]
fn an_early_end_is_an_error() {
    let silent = Node::start(|_| {});
    let half = Node::start(|mut asked| {
        asked.stream.write_all(b"{\"reply\":\"done\"").expect("write");
    });
    for node in [silent, half] {
        for args in [&["status"][..], &["events", "-f"], &["apply", "/dev/null"], &["top", "--json"]] {
            let output = node.output(args);
            assert_eq!(output.status.code(), Some(3), "{args:?}");
            assert!(text(&output.stderr).contains("closed the connection"), "{}", text(&output.stderr));
            assert!(output.stdout.is_empty());
        }
        assert_eq!(node.output(&["exec", "x", "--", "true"]).status.code(), Some(125));
    }
}

#[test]
fn nonsense_is_an_error() {
    for line in ["", "{}", "[]", "{\"reply\":\"\\u001b[31m\"}", "\u{1b}[2J", "{\"reply\":\"started\"}"] {
        for args in [&["status"][..], &["freeze", "x"], &["events"], &["top", "--once"]] {
            let output = Node::saying(line).output(args);
            assert_eq!(output.status.code(), Some(3), "{line:?} {args:?}");
            assert_harmless(&output);
        }
    }
}

#[test]
fn what_was_done_is_said() {
    let node = Node::start(|mut asked| {
        let message = match &asked.request {
            Request::Freeze { slice } => format!("froze {slice}"),
            Request::Remove { slice } => format!("removed {slice}"),
            Request::Drain { .. } => "drained\u{9b}H".into(),
            other => panic!("{other:?}"),
        };
        asked.reply(&Reply::Done { message });
    });
    assert_eq!(text(&node.output(&["freeze", "web"]).stdout), "froze web\n");
    assert_eq!(text(&node.output(&["rm", "-y", "web"]).stdout), "removed web\n");
    let output = node.output(&["drain"]);
    assert_harmless(&output);
    assert_eq!(text(&output.stdout), "drained\\u{9b}H\n");
    let output = node.output(&["drain", "--json"]);
    assert_eq!(text(&output.stdout), "{\"reply\":\"done\",\"message\":\"drained\\u009bH\"}\n");
}

#[test]
fn removal_needs_a_yes() {
    let node = Node::start(|mut asked| asked.reply(&Reply::Done { message: "removed".into() }));
    let output = node.output(&["rm", "web"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text(&output.stderr).contains("--yes"));

    let mut person = Person::starts(&node, &["rm", "web"], 24, 80);
    person.sees("[y/N] ");
    person.types("n\n");
    person.sees("nothing was removed");
    assert_eq!(person.waits(), 1);

    let mut person = Person::starts(&node, &["rm", "web"], 24, 80);
    person.sees("[y/N] ");
    person.types("y\n");
    person.sees("removed\r\n");
    assert_eq!(person.waits(), 0);
}

#[test]
fn definitions_are_read_before_any_is_sent() {
    let node = Node::start(|mut asked| {
        let Request::Apply { text, origin } = &asked.request else { panic!("not an apply") };
        let reply = if text.contains("bad") {
            Reply::Error(ErrorReply { code: ErrorCode::BadDefinition, message: format!("{origin}: bad") })
        } else {
            Reply::Done { message: format!("{origin}: {} bytes", text.len()) }
        };
        asked.reply(&reply);
    });
    let file = |name: &str, content: &[u8]| {
        let path = node.root.join(name);
        std::fs::write(&path, content).expect("write");
        path.to_str().expect("utf-8").to_owned()
    };
    let (good, bad, binary) = (file("a", b"name"), file("b", b"bad"), file("c", b"\xff"));

    let output = node.output(&["apply", &good, "/nonexistent.toml"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("cannot read /nonexistent.toml: No such file"));

    let output = node.output(&["apply", &good, &binary]);
    assert!(text(&output.stderr).contains("not UTF-8 text (byte 0)"));

    let output = node.output(&["apply", &bad, &good]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), format!("{good}: 4 bytes\n"), "one refusal does not hold up the rest");

    let output = node.output(&["apply", "--json", &bad, &good]);
    let replies: Vec<Reply> = serde_json::from_slice(&output.stdout).expect("json");
    assert!(matches!(&replies[..], [Reply::Error(_), Reply::Done { .. }]));

    let mut child =
        node.plab(&["apply", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("plab");
    child.stdin.take().expect("stdin").write_all(b"name = 1").expect("write");
    assert_eq!(text(&finish(child).stdout), "-: 8 bytes\n");

    assert_eq!(node.output(&["apply", "/dev/zero"]).status.code(), Some(1));
    assert_eq!(node.output(&["apply", "-", "-"]).status.code(), Some(2));
}

const EVENT: &str = r#"{"seq":SEQ,"time":"2026-03-01T12:00:00Z","slice":"web","kind":"hook-failed","severity":"warning","message":"start said \u001b[31m"}"#;

fn events_node() -> Node {
    Node::start(|mut asked| {
        let Request::Events { follow, since, .. } = asked.request else { panic!("not events") };
        let event = |seq: u64| EVENT.replace("SEQ", &seq.to_string());
        // At most six at once, as plabd has a bound too.
        let past: Vec<String> = (since + 1..=15).take(6).map(event).collect();
        asked.line(&format!("{{\"reply\":\"events\",\"events\":[{}]}}", past.join(",")));
        if follow {
            asked.line(&event(16).replacen('{', "{\"reply\":\"event\",", 1));
            // Stays: the client must leave by itself.
            std::thread::sleep(fake_node::PATIENCE * 2);
        }
    })
}

#[test]
fn events_are_lines() {
    let node = events_node();
    let output = node.output(&["events"]);
    assert_harmless(&output);
    assert_eq!(text(&output.stdout).lines().count(), 15);
    assert_eq!(text(&node.output(&["events", "-n", "2"]).stdout).lines().count(), 2);
    let output = node.output(&["events", "--json"]);
    assert!(
        matches!(serde_json::from_slice(&output.stdout), Ok(Reply::Events { events }) if events.len() == 15)
    );
}

#[test]
fn a_follower_leaves_with_its_reader() {
    let node = events_node();
    let mut child = node.plab(&["events", "-f", "--json"]).stdout(Stdio::piped()).spawn().expect("plab");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("stdout")));
    for seq in 6..=16 {
        let line = lines.next().expect("a line").expect("read");
        let event: plab_protocol::control::Event = serde_json::from_str(&line).expect("event");
        assert_eq!(event.seq, seq, "the last ten, then the new one");
    }
    drop(lines);
    finish(child);
}

const USAGE: &str = r#"{"reply":"usage","at_micros":AT,"capsules":[{"name":"idle","state":"frozen","cpu_micros":5,"cpu_max_micros":null,"memory":1048576,"memory_max":18446744073709551615,"tasks":1,"tasks_max":128},{"name":"busy","state":"running","cpu_micros":CPU,"cpu_max_micros":50000,"memory":2097152,"memory_max":4194304,"tasks":2,"tasks_max":128,"traffic":{"packets_out":1,"bytes_out":OUT,"packets_in":0,"bytes_in":7}}]}"#;

fn usage_node() -> Node {
    let start = std::time::Instant::now();
    Node::start(move |mut asked| {
        assert!(matches!(asked.request, Request::Usage));
        let at = start.elapsed().as_micros();
        asked.line(
            &USAGE
                .replace("AT", &at.to_string())
                .replace("CPU", &(at / 4).to_string())
                .replace("OUT", &(at * 2).to_string()),
        );
    })
}

#[test]
fn top_once_is_a_table_of_differences() {
    let output = usage_node().output(&["top", "--once", "--interval", "0.2"]);
    let text = text(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[1].starts_with("busy  running  25.0%   50%  2.0M  4.0M      2  128   1.9M     0"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("idle  frozen    0.0%  none  1.0M  none      1  128      -     -"),
        "{text}"
    );
}

#[test]
fn top_on_a_screen_sorts_resizes_and_leaves_it_as_it_was() {
    let node = usage_node();
    let mut person = Person::starts(&node, &["top", "--interval", "0.2"], 24, 80);
    person.sees("\x1b[?1049h");
    person.sees("25.0%");
    assert!(!person.has_a_sane_terminal());
    person.types("n");
    person.sees("by name");
    rustix::termios::tcsetwinsize(&person.master, fake_node::winsize(3, 20)).expect("resize");
    person.sees("2 slices   CPU 25.0…");
    person.types("q");
    person.sees("\x1b[?1049l");
    assert_eq!(person.waits(), 0);
    assert!(person.has_a_sane_terminal());

    let mut person = Person::starts(&node, &["top"], 24, 80);
    person.sees("\x1b[?1049h");
    let pid = rustix::process::Pid::from_child(&person.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
    person.sees("\x1b[?1049l");
    assert_eq!(person.waits(), 143);
    assert!(person.has_a_sane_terminal());
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let node = Node::saying(status());
    let mut person = Person::starts(&node, &["status"], 24, 100);
    person.sees("\x1b[32mrunning\x1b[0m");
    assert_eq!(person.waits(), 0);
    assert!(!person.seen.contains("\x1b[2J"), "{:?}", person.seen);
}

#[test]
fn man_pages_and_completions_are_written() {
    let node = Node::dead();
    let directory = node.root.join("man/man1");
    let output = node.output(&["man", directory.to_str().expect("utf-8")]);
    assert_eq!(output.status.code(), Some(0));
    for page in ["plab.1", "plab-exec.1", "plab-status.1", "plab-man.1"] {
        assert!(directory.join(page).is_file(), "{page}");
    }
    assert!(text(&node.output(&["completions", "bash"]).stdout).contains("_plab"));
}

#[test]
fn a_full_disk_is_no_success() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("open");
    let node = Node::saying(status());
    let child = node.plab(&["status"]).stdout(full).stderr(Stdio::piped()).spawn().expect("plab");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("No space left on device"));
}
