//! `plab` as its users meet it: commands in capsules with their streams, signals, terminals and exit status; and
//! every other command, by root and by a slice's own user.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use plab_protocol::control::{NodeStatus, Reply, SliceState};
use plab_tests::command::output_of_input;
use plab_tests::{COUNTING, Output, Pty, TestNode, binary, eventually, eventually_or};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `plab` with these arguments, all three streams piped.
fn plab(node: &TestNode, args: &[&str]) -> Command {
    let mut command = Command::new(binary("plab"));
    command.arg("--root").arg(node.root()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("kill");
}

/// Waits for a child, which a command that cannot be got to end must not make for ever.
fn end(child: &mut Child) -> i32 {
    code(eventually("plab ends", || child.try_wait().expect("wait")))
}

fn await_running(node: &TestNode, slice: &str, name: &str) {
    eventually_or(|| (processes(node, slice, name) > 0).then_some(()), || format!("{name} runs in {slice}"));
}

/// Waits until a `sleep` has its terminal: only then is it what Ctrl-C reaches.
fn await_foreground(node: &TestNode, slice: &str) {
    let ask = || node.exec(slice, &["ps", "-o", "stat=", "-C", "sleep"]).stdout;
    eventually_or(
        // Whatever letters between the two say of its priority.
        || ask().lines().any(|state| state.starts_with('S') && state.ends_with('+')).then_some(()),
        || format!("sleep is in the foreground of {slice}: {:?}", ask()),
    );
}

fn await_ended(node: &TestNode, slice: &str, name: &str) {
    eventually_or(
        || (processes(node, slice, name) == 0).then_some(()),
        || format!("{name} has ended in {slice}"),
    );
}

/// How many processes of this name run in a capsule.
fn processes(node: &TestNode, slice: &str, name: &str) -> usize {
    node.exec(slice, &["pgrep", "-c", "-x", name]).stdout.trim().parse().expect("a number")
}

#[test]
fn the_exit_status_is_the_commands() {
    let node = TestNode::start("cli-status");
    node.define("site_a", "");
    for status in 0..=255 {
        // Of these three plab has its own meaning, too; the command's counts all the same.
        assert_eq!(node.exec("site_a", &["bash", "-c", &format!("exit {status}")]).code, status);
    }
    for number in
        (1..=31).filter(|number| ![17, 18, 19, 20, 21, 22, 23, 28].contains(number)).chain([34, 40, 64])
    {
        let output = node.exec("site_a", &["sh", "-c", &format!("ulimit -c 0; kill -{number} $$; exit 99")]);
        assert_eq!(output.code, 128 + number, "signal {number}: {output:?}");
    }
    node.put("site_a", "plain", b"#!/bin/sh\n", 0o644);
    node.put("site_a", "bare", b"true\n", 0o755);
    for (command, expected, saying) in [
        ("no-such-command", 127, "no-such-command"),
        ("/no/such/file", 127, "/no/such/file"),
        ("./plain", 126, "./plain"),
        ("/etc", 126, "/etc"),
        ("./bare", 126, "./bare"),
    ] {
        let output = node.exec("site_a", &[command]);
        assert_eq!(output.code, expected, "{command}: {output:?}");
        assert!(output.stderr.contains(saying) && output.stdout.is_empty(), "{output:?}");
    }
    let output = node.exec("site_none", &["true"]);
    assert!(output.code == 125 && output.stderr.contains("site_none"), "{output:?}");
    assert_eq!(node.plab(&["exec"]).code, 125);
    assert_eq!(node.plab(&["exec", "--no-such-option", "site_a", "true"]).code, 125);
    node.finish();
}

#[test]
fn what_plab_itself_cannot_do_has_its_own_status() {
    let mut node = TestNode::start("cli-errors");
    node.define("site_a", "");
    assert_eq!(node.plab(&["no-such-command"]).code, 2);
    assert_eq!(node.plab(&["status", "--no-such-option"]).code, 2);
    for request in [
        &["status", "site_none"][..],
        &["restart", "site_none"],
        &["freeze", "site_none"],
        &["rm", "--yes", "site_none"],
    ] {
        let output = node.plab(request);
        assert!(
            output.code == 1 && output.stderr.contains("site_none") && output.stdout.is_empty(),
            "{output:?}"
        );
    }
    // Not asked, not done.
    for answer in ["", "n\n", "\n", "site\n"] {
        let output = node.plab_with_input(&["rm", "site_a"], answer.as_bytes());
        assert_ne!(output.code, 0, "{answer:?}: {output:?}");
        assert_eq!(node.status("site_a")["state"], "running");
    }
    node.kill_daemon();
    for request in [&["status"][..], &["restart", "site_a"], &["events"], &["top", "--once"]] {
        let output = node.plab(request);
        assert!(output.code == 3 && output.stderr.contains("control.sock"), "{output:?}");
    }
    assert_eq!(node.exec("site_a", &["true"]).code, 125);
    node.start_daemon();
    node.finish();
}

/// Ten megabytes that no two pages of are alike, with every byte.
fn much(seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).expect("eight bits")
    })
    .take(10 << 20)
    .collect()
}

/// Copies standard input to standard output and error.
const BOTH: &str = "
import sys
while data := sys.stdin.buffer.read1():
    for to in sys.stdout.buffer, sys.stderr.buffer:
        to.write(data)
        to.flush()
";

#[test]
fn the_streams_are_the_callers_and_stay_apart() {
    let node = TestNode::start("cli-streams");
    node.define("site_a", "");
    // Both directions at once, byte for byte, and standard error beside.
    let sent = much(1);
    let mut child = plab(&node, &["exec", "site_a", "--", "python3", "-c", BOTH]).spawn().expect("start");
    let (mut input, mut output, mut error) = (
        child.stdin.take().expect("piped"),
        child.stdout.take().expect("piped"),
        child.stderr.take().expect("piped"),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).expect("write");
            drop(input);
        });
        let error = scope.spawn(move || {
            let mut all = Vec::new();
            error.read_to_end(&mut all).expect("read");
            all
        });
        let mut all = Vec::new();
        output.read_to_end(&mut all).expect("read");
        assert!(all == sent, "standard output: {} bytes", all.len());
        let all = error.join().expect("reader");
        assert!(all == sent, "standard error: {} bytes", all.len());
    });
    assert_eq!(end(&mut child), 0);

    let output = node.sh("site_a", "echo out; echo err >&2; exit 3");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    assert_eq!(node.plab_with_input(&["exec", "site_a", "wc", "-c"], b"").ok(), "0\n");

    // Files, too, and what was not read of one stays for the next reader.
    let file = node.root().join("file");
    std::fs::write(&file, &sent).expect("write");
    let result = node.root().join("result");
    let status = plab(&node, &["exec", "site_a", "--", "cat"])
        .stdin(std::fs::File::open(&file).expect("open"))
        .stdout(std::fs::File::create(&result).expect("create"))
        .status()
        .expect("plab");
    assert_eq!(code(status), 0);
    assert!(std::fs::read(&result).expect("read") == sent);

    // Whoever stops reading ends the writer; and who does not read, does not hold the command up.
    let mut child =
        plab(&node, &["exec", "site_a", "--", "yes"]).stdin(Stdio::null()).spawn().expect("start");
    let mut output = child.stdout.take().expect("piped");
    output.read_exact(&mut [0; 100]).expect("read");
    drop(output);
    let ended = end(&mut child);
    assert!([141, 125, 1].contains(&ended), "{ended}");
    await_ended(&node, "site_a", "yes");
    let mut child = plab(&node, &["exec", "site_a", "--", "true"]).spawn().expect("start");
    assert_eq!(end(&mut child), 0, "its standard input is open still");
    node.finish();
}

#[test]
fn the_streams_can_be_opened_by_their_names() {
    let node = TestNode::start("cli-stream-names");
    node.define("site_a", "");
    // As scripts and servers that log to a file called /dev/stderr do.
    let script = "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr";
    let output = node.plab_with_input(&["exec", "site_a", "sh", "-c", script], b"in\n");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "in\n", "err\n"));
    let (status, shown) = Pty::start(
        &node,
        &[
            "exec",
            "site_a",
            "sh",
            "-c",
            "echo out > /dev/stdout; echo err > /dev/stderr; echo tty > /dev/tty",
        ],
        (24, 80),
    )
    .wait();
    assert_eq!((status, shown.as_str()), (0, "out\r\nerr\r\ntty\r\n"));
    node.finish();
}

#[test]
fn words_and_variables_arrive_as_they_were_given() {
    let node = TestNode::start("cli-words");
    node.define("site_a", "");
    let words = ["a b", "", "*", "$HOME", "--help", "-t", "ü\n", "'\"\\"];
    let mut args = vec!["printf", "<%s>"];
    args.extend(words);
    assert_eq!(node.exec("site_a", &args).ok(), words.map(|word| format!("<{word}>")).concat());
    assert_eq!(
        node.plab(&["exec", "-e", "LEVEL=a=b", "-e", "EMPTY=", "site_a", "sh", "-c", "echo $LEVEL-$EMPTY-"])
            .ok(),
        "a=b--\n"
    );
    let env = node.exec("site_a", &["env"]).ok();
    for line in [
        "HOME=/home/site_a",
        "USER=site_a",
        "LOGNAME=site_a",
        "SHELL=/bin/bash",
        "PLANETLAB_SLICE=site_a",
        "PLANETLAB_NODE=node1.example.org",
    ] {
        assert!(env.lines().any(|have| have == line), "{line} in {env}");
    }
    assert!(!env.contains("PLAB_BIN_DIR") && !env.contains("CARGO"), "nothing of the caller's: {env}");
    assert_eq!(node.exec("site_a", &["pwd"]).ok(), "/home/site_a\n");
    // The login shell, by its standard input.
    let output = node.plab_with_input(
        &["shell", "site_a"],
        b"id -un; echo $0; shopt -q login_shell && echo login; exit 6\n",
    );
    assert_eq!(output.code, 6, "{output:?}");
    assert!(output.stdout.starts_with("site_a\n") && output.stdout.ends_with("login\n"), "{output:?}");
    node.finish();
}

#[test]
fn signals_reach_the_command() {
    let node = TestNode::start("cli-signals");
    node.define("site_a", "");
    let script = "for s in HUP INT QUIT TERM USR1 USR2; do trap \"echo $s; exit 7\" $s; done; echo ready; while :; do sleep 0.05; done";
    for (number, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let mut child = plab(&node, &["exec", "site_a", "--", "bash", "-c", script]).spawn().expect("start");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("read"), "ready");
        signal(&child, number);
        assert_eq!(lines.next().expect("a line").expect("read"), name);
        assert_eq!(end(&mut child), 7);
    }
    // Not caught, they end it, and plab says so as shells do.
    for (number, expected) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut child = plab(&node, &["exec", "site_a", "--", "sleep", "1000"]).spawn().expect("start");
        await_running(&node, "site_a", "sleep");
        signal(&child, number);
        assert_eq!(end(&mut child), expected);
        await_ended(&node, "site_a", "sleep");
    }
    node.finish();
}

#[test]
fn a_client_that_is_killed_takes_its_session_with_it() {
    let node = TestNode::start("cli-killed");
    node.define("site_a", "");
    // One that goes when it is hung up on, one that has to be killed, one that went into the background, and one
    // of another client, which stays.
    let mut other = plab(&node, &["exec", "site_a", "--", "tail", "-f", "/dev/null"]).spawn().expect("start");
    await_running(&node, "site_a", "tail");
    for script in
        ["sleep 1000", "trap '' HUP INT TERM; sleep 1000; sleep 1000", "sleep 1000 | sleep 1000 & wait"]
    {
        let mut child = plab(&node, &["exec", "site_a", "--", "bash", "-c", script]).spawn().expect("start");
        await_running(&node, "site_a", "sleep");
        signal(&child, Signal::KILL);
        assert_eq!(end(&mut child), 137);
        await_ended(&node, "site_a", "sleep");
    }
    let mut terminal = Pty::start(&node, &["exec", "site_a", "bash", "--norc"], (24, 80));
    terminal.type_in("sleep 1000\n");
    await_running(&node, "site_a", "sleep");
    kill_process(Pid::from_raw(i32::try_from(terminal.pid()).expect("a PID")).expect("a PID"), Signal::KILL)
        .expect("kill");
    assert_eq!(terminal.wait().0, 137);
    await_ended(&node, "site_a", "sleep");
    assert_eq!(other.try_wait().expect("wait"), None);
    assert_eq!(processes(&node, "site_a", "tail"), 1);
    signal(&other, Signal::TERM);
    assert_eq!(end(&mut other), 143);
    node.finish();
}

#[test]
fn a_terminal_is_a_terminal() {
    let node = TestNode::start("cli-terminal");
    node.define("site_a", "");
    let (status, shown) = Pty::start(
        &node,
        &[
            "exec",
            "-t",
            "site_a",
            "--",
            "sh",
            "-c",
            "tty; stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2; exit 5$?",
        ],
        (33, 101),
    )
    .wait();
    assert_eq!((status, shown.as_str()), (50, "/dev/pts/0\r\n33 101\r\nxterm\r\n"));
    // Asked not to be.
    let (status, shown) =
        Pty::start(&node, &["exec", "-T", "site_a", "--", "sh", "-c", "test -t 0; echo $?"], (33, 101))
            .wait();
    assert_eq!((status, shown.as_str()), (0, "1\r\n"));

    let mut terminal = Pty::start(&node, &["shell", "site_a"], (24, 80));
    terminal.type_in("PS1='rea''dy> '; cd /tmp\n");
    terminal.await_shown("ready> ");
    terminal.type_in("stty size\n");
    terminal.await_shown("24 80");
    terminal.resize(40, 132);
    terminal.type_in("sleep 0.1; stty size\n");
    terminal.await_shown("40 132");
    // Ctrl-C ends the command and not the shell.
    terminal.type_in("sleep 1000\n");
    await_foreground(&node, "site_a");
    terminal.type_in("\u{3}");
    await_ended(&node, "site_a", "sleep");
    terminal.type_in("echo interrupted: $?\n");
    terminal.await_shown("interrupted: 130");
    // Job control: stopped, in the background, in the foreground again.
    terminal.type_in("sleep 1001\n");
    await_foreground(&node, "site_a");
    terminal.type_in("\u{1a}");
    terminal.await_shown("Stopped");
    terminal.type_in("bg; jobs; echo of jobs\n");
    terminal.await_shown("Running");
    terminal.type_in("fg\n");
    await_foreground(&node, "site_a");
    terminal.type_in("\u{3}");
    await_ended(&node, "site_a", "sleep");
    // The end of input is the end of the shell, with the status of its last command.
    terminal.type_in("(exit 9)\n\u{4}");
    let (status, shown) = terminal.wait();
    assert_eq!(status, 9, "{shown}");
    assert!(!shown.contains("no job control"), "{shown}");

    // Three times Ctrl-] leaves a session that does not react.
    let mut terminal = Pty::start(&node, &["exec", "site_a", "bash", "--norc"], (24, 80));
    terminal.type_in("stty raw -echo; echo wai''ting; exec sleep 1000\n");
    terminal.await_shown("waiting");
    terminal.type_in("\u{1d}\u{1d}\u{1d}");
    let (status, _) = terminal.wait();
    assert_ne!(status, 0);
    await_ended(&node, "site_a", "sleep");
    node.finish();
}

/// The documents of `plab exec --json`: the text of each stream, and the last one.
fn documents(printed: &str) -> (String, String, Value) {
    let mut lines: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    let last = lines.pop().expect("a last document");
    let of = |stream: &str| {
        let mine = lines.iter().filter(|line| line["output"]["stream"] == stream);
        mine.map(|line| line["output"]["text"].as_str().expect("text")).collect::<String>()
    };
    assert!(lines.iter().all(|line| line["output"].is_object()), "{printed}");
    (of("stdout"), of("stderr"), last)
}

#[test]
fn a_command_for_programs_comes_as_documents() {
    let node = TestNode::start("cli-exec-json");
    node.define("site_a", "");
    let script = "echo out; echo err >&2; exit 3";
    let output = node.plab(&["exec", "--json", "site_a", "--", "sh", "-c", script]);
    assert_eq!((output.code, output.stderr.as_str()), (3, ""), "{output:?}");
    let (out, err, last) = documents(&output.stdout);
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(last, serde_json::json!({ "exit": { "status": 3 } }));
    // By a signal, which a status alone does not tell from an exit with 137.
    let output = node.plab(&["exec", "--json", "site_a", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(documents(&output.stdout).2, serde_json::json!({ "exit": { "status": 137, "signal": 9 } }));
    // Not started at all.
    let output = node.plab(&["exec", "--json", "site_a", "--", "no-such-program"]);
    let last = documents(&output.stdout).2;
    assert_eq!((output.code, &last["exit"]["status"]), (127, &Value::from(127)), "{last}");
    assert!(last["exit"]["error"].as_str().is_some_and(|error| error.contains("no-such-program")), "{last}");
    // What a terminal would act on, and what is no text.
    let output = node.plab(&["exec", "--json", "site_a", "--", "printf", "\\033]0;x\\007\\377"]);
    assert!(!output.stdout.contains('\u{1b}'), "{output:?}");
    assert_eq!(
        output.stdout.lines().next().map(|line| serde_json::from_str::<Value>(line).expect("JSON")),
        Some(serde_json::json!({ "output": { "stream": "stdout", "base64": "G10wO3gH/w==" } })),
        "{output:?}"
    );
    // More than any pipe holds; the input comes through as ever.
    let input = b"0123456789abcdef".repeat(64 << 10);
    let output = node.plab_with_input(&["exec", "--json", "site_a", "--", "cat"], &input);
    assert_eq!(documents(&output.stdout).0.as_bytes(), input);
    let output = node.plab_with_input(&["shell", "--json", "site_a"], b"echo $USER; exit 4\n");
    let (out, _, last) = documents(&output.stdout);
    assert_eq!((out.as_str(), last), ("site_a\n", serde_json::json!({ "exit": { "status": 4 } })));
    // A refusal is a document, too; and there is no terminal for one who wants documents.
    let output = node.plab(&["exec", "--json", "site_b", "--", "true"]);
    let refusal: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!((output.code, &refusal["code"]), (125, &Value::from("no-such-slice")), "{refusal}");
    assert_eq!(node.plab(&["exec", "--json", "--tty", "site_a", "--", "true"]).code, 125);
    // Who has seen enough ends it, as with any command.
    let mut child = plab(&node, &["exec", "--json", "site_a", "--", "yes"]).spawn().expect("start");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert!(line.contains("y\\ny"), "{line}");
    // `yes` learns of it by SIGPIPE; plab itself could not print that.
    assert_eq!(end(&mut child), 125);
    await_ended(&node, "site_a", "yes");
    node.finish();
}

#[test]
fn status_has_the_shape_it_promises() {
    let node = TestNode::start("cli-json");
    node.define("site_a", "expires = 2099-01-01T00:00:00Z");
    node.put_hook("site_a", "start", "#!/bin/sh\nexec sleep 1000\n");
    node.put_hook("site_a", "status", "#!/bin/sh\necho well\n");
    node.plab(&["restart", "site_a"]).ok();
    eventually("status is asked", || (node.status("site_a")["status_line"] == "well").then_some(()));
    let text = node.plab(&["status", "--json"]).ok();
    assert_eq!(text.lines().count(), 1);
    let Reply::Status(status) = serde_json::from_str(&text).expect("the protocol's shape") else {
        panic!("{text}")
    };
    let NodeStatus { node: name, version, degraded, refused, slices, .. } = *status;
    assert_eq!((name.as_str(), version.as_str()), ("node1.example.org", env!("CARGO_PKG_VERSION")));
    assert!(
        refused.is_empty()
            && degraded.iter().all(|feature| ["memory.oom-group", "audit"].contains(&feature.as_str())),
        "{text}"
    );
    let [slice] = &slices[..] else { panic!("{text}") };
    assert_eq!(
        (slice.name.as_str(), slice.state, slice.contact.as_str()),
        ("site_a", SliceState::Running, "pi@example.org")
    );
    assert!(node.uids().contains(&slice.uid));
    assert_eq!(slice.expires.as_deref(), Some("2099-01-01T00:00:00Z"));
    assert_eq!((slice.status_line.as_deref(), slice.status_ok), (Some("well"), Some(true)));
    assert_eq!((slice.hooks["start"].as_str(), slice.hooks["status"].as_str()), ("running", "exited 0"));
    assert!(
        slice.since.is_some()
            && slice.memory > Some(0)
            && slice.tasks >= Some(2)
            && slice.cpu_micros > Some(0),
        "{text}"
    );
    let pid = slice.pid.expect("a PID");
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it is a process of the host's");
    assert_eq!(comm, "capsule-init\n");
    // For people the same.
    let shown = node.plab(&["status"]).ok();
    for part in ["site_a", "running", "well", "node1.example.org"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no colour but on a terminal");
    node.finish();
}

#[test]
fn verify_finds_what_is_not_as_asked() {
    let node = TestNode::start("cli-verify");
    node.define("site_a", "[tasks]\nmax = 40");
    let output = node.plab(&["status", "site_a", "--verify"]);
    assert_eq!(output.code, 0, "{output:?}");
    for layer in ["cgroup", "namespaces", "view", "privileges", "landlock", "seccomp"] {
        assert!(output.stdout.contains(layer), "{layer} in {}", output.stdout);
    }
    // As somebody who changes a limit behind plabd's back.
    let row = node.verified("site_a", "pids.max");
    let source = row["source"].as_str().expect("a file").to_owned();
    assert_eq!(std::fs::read_to_string(&source).expect("the row says where it looked").trim(), "40");
    std::fs::write(&source, "50").expect("write");
    let output = node.plab(&["status", "site_a", "--verify"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("40") && output.stdout.contains("50"), "{output:?}");
    assert_eq!(node.verified("site_a", "pids.max")["ok"], false);
    node.define("site_a", "[tasks]\nmax = 41");
    assert_eq!(node.plab(&["status", "site_a", "--verify"]).code, 0);
    // Of one that does not run nothing can be confirmed.
    node.plab(&["drain"]).ok();
    assert_eq!(node.plab(&["status", "site_a", "--verify"]).code, 1);
    node.finish();
}

#[test]
fn apply_rm_restart_and_events_do_what_they_say() {
    let node = TestNode::start("cli-apply");
    // A follower, from before anything happens.
    let mut follower = plab(&node, &["events", "-f", "--json"]).stdin(Stdio::null()).spawn().expect("start");
    let mut told = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let mut heard = move |slice: &str, kind: &str| loop {
        let line = told.next().expect("it goes on").expect("read");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["slice"] == slice && event["kind"] == kind {
            return event;
        }
    };
    let output = node.plab_with_input(&["apply", "-"], TestNode::definition("site_a", "").as_bytes());
    assert!(output.clone().ok().contains("site_a"), "{output:?}");
    let started = heard("site_a", "capsule-started");
    // Several files, one of them bad: what is good is applied, and the status says that not all was.
    let files: Vec<String> = [("b", "site_b"), ("bad", "site bad"), ("c", "site_c")]
        .map(|(file, slice)| {
            let path = node.root().join(format!("{file}.toml"));
            std::fs::write(&path, TestNode::definition(slice, "")).expect("write");
            path.display().to_string()
        })
        .into();
    let output = node.plab(&["apply", &files[0], &files[1], &files[2]]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("bad.toml:1:"), "{output:?}");
    assert_eq!(node.status("site_b")["state"], "running");
    assert_eq!(node.status("site_c")["state"], "running", "one bad file is no reason to leave out the next");
    let pid = node.pid("site_a");
    node.plab(&["restart", "site_a"]).ok();
    assert_ne!(node.pid("site_a"), pid);
    let stopped = heard("site_a", "capsule-stopped");
    assert!(stopped["seq"].as_u64() > started["seq"].as_u64());
    assert!(heard("site_a", "capsule-started")["seq"].as_u64() > stopped["seq"].as_u64());
    node.plab(&["rm", "--yes", "site_a"]).ok();
    heard("site_a", "slice-removed");
    assert!(!node.definition_path("site_a").exists());
    assert_eq!(node.plab(&["status", "site_a"]).code, 1);
    signal(&follower, Signal::KILL);
    follower.wait().expect("wait");
    // What is kept, by slice, by number, the last.
    let all = node.events(None);
    assert!(all.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64()));
    assert!(node.events(Some("site_b")).iter().all(|event| event["slice"] == "site_b"));
    let last = all.last().expect("events")["seq"].as_u64().expect("a number");
    let since = node.plab(&["events", "--since", &(last - 1).to_string()]).ok();
    assert_eq!(since.lines().count(), 1, "{since}");
    assert_eq!(node.plab(&["events", "-n", "3"]).ok().lines().count(), 3);
    node.finish();
}

#[test]
fn a_frozen_capsule_stands_still_until_it_is_thawed() {
    let node = TestNode::start("cli-freeze");
    node.define("site_a", "");
    node.put_hook("site_a", "start", COUNTING);
    node.plab(&["restart", "site_a"]).ok();
    eventually("it counts", || (node.lines("site_a", "ticks") > 3).then_some(()));
    let pid = node.pid("site_a");
    for _ in 0..3 {
        node.plab(&["freeze", "site_a"]).ok();
        assert_eq!(node.status("site_a")["state"], "frozen");
        let ticks = node.lines("site_a", "ticks");
        let used = node.status("site_a")["cpu_micros"].clone();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(node.lines("site_a", "ticks"), ticks, "it makes no progress");
        assert_eq!(node.status("site_a")["cpu_micros"], used);
        let output = node.exec("site_a", &["true"]);
        assert!(output.code == 125 && output.stderr.contains("site_a is frozen"), "{output:?}");
        node.plab(&["thaw", "site_a"]).ok();
        assert_eq!(node.status("site_a")["state"], "running");
        eventually("it goes on", || (node.lines("site_a", "ticks") > ticks).then_some(()));
    }
    assert_eq!(node.pid("site_a"), pid);
    // Its limits change, it is restarted and removed as any other.
    node.plab(&["freeze", "site_a"]).ok();
    node.plab(&["freeze", "site_a"]).ok();
    node.define("site_a", "[tasks]\nmax = 40");
    assert_eq!(node.verified("site_a", "pids.max")["in_force"], "40");
    assert_eq!(node.status("site_a")["state"], "frozen");
    node.plab(&["restart", "site_a"]).ok();
    assert_eq!(node.status("site_a")["state"], "running");
    assert_eq!(node.exec("site_a", &["echo", "here"]).ok(), "here\n");
    node.plab(&["freeze", "site_a"]).ok();
    node.plab(&["rm", "--yes", "site_a"]).ok();
    assert_eq!(node.status("site_a"), Value::Null);
    node.finish();
}

#[test]
fn a_drained_node_runs_nothing_until_plabd_starts_anew() {
    let mut node = TestNode::start("cli-drain");
    for slice in ["site_a", "site_b"] {
        node.define(slice, "");
        node.put_hook(slice, "start", "#!/bin/sh\necho >> started\nexec sleep 1000\n");
        node.put_hook(slice, "stop", "#!/bin/sh\necho >> stopped\nkill $(pgrep -x sleep)\n");
        node.await_stop_known(slice);
    }
    node.plab(&["drain"]).ok();
    for slice in ["site_a", "site_b"] {
        let status = node.status(slice);
        assert_eq!((&status["state"], &status["pid"]), (&"stopped".into(), &Value::Null), "{status}");
        assert_eq!(node.lines(slice, "stopped"), 1);
        assert_eq!(node.exec(slice, &["true"]).code, 125);
        let output = node.plab(&["restart", slice]);
        assert!(output.code == 1 && output.stderr.contains("drained"), "{output:?}");
    }
    assert_eq!(plab_tests::leftovers::processes(node.uids()), [""; 0]);
    // Definitions are taken, and wait.
    node.define("site_c", "");
    assert_eq!(node.status("site_c")["state"], "stopped");
    node.kill_daemon();
    node.start_daemon();
    for slice in ["site_a", "site_b", "site_c"] {
        node.await_state(slice, "running");
    }
    node.await_lines("site_a", "started", 1);
    node.finish();
}

#[test]
fn top_completions_and_manuals_are_there() {
    let node = TestNode::start("cli-top");
    node.define("site_a", "[cpu]\nmax = \"50%\"\n[memory]\nmax = \"64M\"");
    let top: Value = serde_json::from_str(&node.plab(&["top", "--once", "--json"]).ok()).expect("JSON");
    let capsule = &top["capsules"][0];
    assert_eq!((&capsule["name"], &capsule["memory_max"]), (&"site_a".into(), &(64 << 20).into()), "{top}");
    assert_eq!(capsule["cpu_max_micros"], 50_000, "{top}");
    assert!(
        capsule["tasks"].as_u64() >= Some(1)
            && capsule["memory"].as_u64() > Some(0)
            && top["at_micros"].as_u64() > Some(0),
        "{top}"
    );
    let send = "import socket; socket.socket(2, 2).sendto(b'x' * 100, ('127.7.7.7', 9))";
    node.exec("site_a", &["python3", "-c", send]).ok();
    let later: Value = serde_json::from_str(&node.plab(&["top", "--once", "--json"]).ok()).expect("JSON");
    let traffic = |top: &Value| top["capsules"][0]["traffic"]["bytes_out"].as_u64().expect("bytes");
    assert_eq!(traffic(&later) - traffic(&top), 128, "{later}");
    let shown = node.plab(&["top", "--once"]).ok();
    // Idle between the two looks.
    let idle = shown.lines().find(|line| line.starts_with("site_a")).expect("a row");
    assert!(shown.contains("OUT/s") && idle.ends_with("     0     0"), "{shown}");
    assert!(shown.contains("site_a") && !shown.contains('\u{1b}'), "{shown}");
    for shell in ["bash", "zsh", "fish"] {
        let script = node.plab(&["completions", shell]).ok();
        assert!(script.contains("plab") && script.contains("restart"), "{shell}: {script}");
    }
    let syntax = Command::new("bash")
        .args(["-n", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut bash| {
            bash.stdin
                .take()
                .expect("piped")
                .write_all(node.plab(&["completions", "bash"]).ok().as_bytes())?;
            bash.wait_with_output()
        });
    assert!(syntax.expect("bash").status.success());
    let pages = node.root().join("man");
    node.plab(&["man", &pages.display().to_string()]).ok();
    let help = node.plab(&["--help"]).ok();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 8, "{help}");
    for name in commands.iter().map(|name| format!("plab-{name}.1")).chain(["plab.1".to_owned()]) {
        let page =
            std::fs::read_to_string(pages.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".TH ") && page.len() > 300, "{name}");
    }
    node.finish();
}

/// `plab` as another user.
fn as_user(node: &TestNode, uid: u32, args: &[&str], input: &[u8]) -> Output {
    output_of_input(plab(node, args).uid(uid).gid(uid), input)
}

#[test]
fn a_slices_own_user_may_ask_of_itself_only() {
    let node = TestNode::start("cli-users");
    for slice in ["site_sl1", "site_sl10"] {
        node.define(slice, "");
    }
    let uid = u32::try_from(node.status("site_sl1")["uid"].as_u64().expect("UID")).expect("UID");
    let own = |args: &[&str]| as_user(&node, uid, args, b"");
    assert_eq!(own(&["exec", "site_sl1", "--", "id", "-u"]).ok(), format!("{uid}\n"));
    assert_eq!(as_user(&node, uid, &["shell", "site_sl1"], b"id -un\n").ok(), "site_sl1\n");
    let status: Value = serde_json::from_str(&own(&["status", "--json"]).ok()).expect("JSON");
    assert_eq!(
        (status["slices"].as_array().map(Vec::len), &status["slices"][0]["name"]),
        (Some(1), &"site_sl1".into())
    );
    assert_eq!(status["refused"], serde_json::json!([]));
    own(&["status", "site_sl1", "--verify"]).ok();
    let pid = node.pid("site_sl1");
    own(&["restart", "site_sl1"]).ok();
    assert_ne!(node.pid("site_sl1"), pid);

    let pids = [node.pid("site_sl1"), node.pid("site_sl10")];
    let definition = TestNode::definition("site_sl1", "");
    for args in [
        &["status", "site_sl10"][..],
        &["restart", "site_sl10"],
        &["freeze", "site_sl10"],
        &["freeze", "site_sl1"],
        &["thaw", "site_sl1"],
        &["rm", "--yes", "site_sl1"],
        &["rm", "--yes", "site_sl10"],
        &["events"],
        &["events", "site_sl1"],
        &["top", "--once"],
        &["drain"],
        &["apply", "-"],
    ] {
        let output = as_user(&node, uid, args, definition.as_bytes());
        assert!(output.code == 1 && output.stdout.is_empty(), "{args:?}: {output:?}");
        assert!(output.stderr.contains("may ask"), "{args:?}: {output:?}");
    }
    assert_eq!(own(&["exec", "site_sl10", "--", "true"]).code, 125);
    // Whether another slice is there is not for it to know.
    let said = |slice: &str| own(&["status", slice]).stderr.replace(slice, "X");
    assert_eq!(said("site_sl10"), said("site_none"));
    assert_eq!([node.pid("site_sl1"), node.pid("site_sl10")], pids);
    // A stranger may nothing.
    for args in [&["status"][..], &["restart", "site_sl1"], &["events"], &["drain"]] {
        assert_eq!(as_user(&node, 65_534, args, b"").code, 1, "{args:?}");
    }
    assert_eq!(as_user(&node, 65_534, &["exec", "site_sl1", "true"], b"").code, 125);
    // Denied is on record.
    assert!(node.events(None).iter().any(|event| event["kind"] == "request-denied"));
    node.finish();
}
