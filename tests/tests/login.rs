//! Logins: the login shell as sshd starts it, with the slice's UID; what is told of sessions; keys that go.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use plab_tests::command::output;
use plab_tests::leftovers::processes;
use plab_tests::login::{ALICE, BOB, as_slice, keys, login};
use plab_tests::{Output, Pty, TestNode, binary, eventually, eventually_or};
use serde_json::Value;

fn sessions(node: &TestNode) -> Vec<Value> {
    let text = node.plab(&["sessions", "--json"]).ok();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value["sessions"].as_array().cloned().expect("a list")
}

/// Waits until there are so many.
fn await_sessions(node: &TestNode, count: usize) -> Vec<Value> {
    eventually_or(
        || Some(sessions(node)).filter(|found| found.len() == count),
        || format!("{count} sessions; there are {:#?}", sessions(node)),
    )
}

fn run(node: &TestNode, line: &str) -> Output {
    output(&mut login(node, "site_a", ALICE, Some(line)))
}

/// Starts a login that stays until its standard input ends.
fn stay(node: &TestNode, key: plab_tests::login::Key) -> Child {
    let mut child = login(node, "site_a", key, Some("cat")).spawn().expect("start");
    // What comes back has been inside.
    child.stdin.as_mut().expect("piped").write_all(b"x").expect("write");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("the capsule answers");
    child
}

fn ended(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let status = eventually("the login shell ends", || child.try_wait().expect("wait"));
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[test]
fn a_command_runs_inside_as_if_it_ran_here() {
    let node = TestNode::start("login-commands");
    node.define("site_a", &keys(&[ALICE]));
    for status in [0, 1, 77, 255] {
        assert_eq!(run(&node, &format!("exit {status}")).code, status);
    }
    assert_eq!(run(&node, "kill -9 $$").code, 137);
    let told = run(&node, "id -un; pwd; echo $0; cat /proc/1/comm; echo to-stderr >&2");
    assert_eq!(told.stdout, "site_a\n/home/site_a\n/bin/bash\ncapsule-init\n", "{told:?}");
    assert_eq!(told.stderr, "to-stderr\n", "nothing else is printed into a stream");
    // The shell's words and quotes are the user's.
    assert_eq!(run(&node, "printf '%s|' 'a  b' \"$HOME\" c\\ d").stdout, "a  b|/home/site_a|c d|");
    let missing = run(&node, "no-such-command");
    assert_eq!(missing.code, 127, "{missing:?}");
    // Every byte, both ways, and the end of input is handed on.
    let mut child = login(&node, "site_a", ALICE, Some("cat; echo end >&2")).spawn().expect("start");
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| u8::try_from(i % 256).expect("a byte")).collect();
    let (mut stdin, sent) = (child.stdin.take().expect("piped"), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let done = child.wait_with_output().expect("wait");
    writer.join().expect("writer").expect("write");
    assert!(done.stdout == bytes && done.stderr == b"end\n" && done.status.success());
    // A file name that is no UTF-8 arrives as it is.
    let mut command = login(&node, "site_a", ALICE, None);
    use std::os::unix::ffi::OsStrExt;
    command.env("SSH_ORIGINAL_COMMAND", std::ffi::OsStr::from_bytes(b"printf %s caf\xe9 | od -An -tx1"));
    assert_eq!(output(&mut command).stdout.trim(), "63 61 66 e9");
    node.finish();
}

#[test]
fn the_environment_is_what_describes_the_connection() {
    let node = TestNode::start("login-environment");
    node.define("site_a", &keys(&[ALICE]));
    let mut command = login(&node, "site_a", ALICE, Some("env"));
    command.envs([
        ("LD_LIBRARY_PATH", "/x"),
        ("BASH_ENV", "/x"),
        ("PATH", "/x"),
        ("HOME", "/x"),
        ("USER", "root"),
        ("TERM", "xterm"),
        ("LC_TIME", "de_DE.UTF-8"),
        ("LANG", "en_US.UTF-8"),
    ]);
    let told = output(&mut command).ok();
    let env: std::collections::BTreeMap<_, _> =
        told.lines().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [
        ("HOME", "/home/site_a"),
        ("USER", "site_a"),
        ("LC_TIME", "de_DE.UTF-8"),
        ("LANG", "en_US.UTF-8"),
        ("SSH_CONNECTION", "192.0.2.7 40000 192.0.2.1 22"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    for name in ["LD_LIBRARY_PATH", "BASH_ENV", "TERM", "SSH_ORIGINAL_COMMAND"] {
        assert!(!env.contains_key(name), "{name}: {told}");
    }
    assert!(env["PATH"].starts_with("/usr/local/bin:"), "{told}");
    node.finish();
}

#[test]
fn a_terminal_is_the_capsules_own() {
    let node = TestNode::start("login-terminal");
    node.define("site_a", &keys(&[ALICE]));
    let mut command = login(&node, "site_a", ALICE, None);
    command.env("SSH_TTY", "/dev/pts/4711");
    let mut terminal = Pty::of(command, (31, 97));
    terminal.type_in("PS1=; stty -echo; echo read''y\n");
    terminal.await_shown("ready");
    terminal.type_in("stty size; [ \"$(tty)\" = \"$SSH_TTY\" ] && echo same''name; set -o | grep monitor\n");
    terminal.await_shown("31 97");
    terminal.await_shown("samename");
    eventually("job control is on", || terminal.shown().contains("monitor        \ton").then_some(()));
    let shown = await_sessions(&node, 1);
    assert_eq!(
        (shown[0]["tty"].as_bool(), shown[0]["command"].as_array().map(Vec::len)),
        (Some(true), Some(0))
    );
    // Neither end of the terminal here is inside.
    let pid = terminal.pid();
    let host = std::fs::read_link(format!("/proc/{pid}/fd/0")).expect("the login shell's terminal");
    let inside = node.plab(&["exec", "site_a", "--", "sh", "-c", "ls -l /proc/[0-9]*/fd 2>/dev/null"]).stdout;
    assert!(inside.contains("/dev/pts/"), "{inside}");
    // Each devpts counts from 0: only together with it a number means a terminal.
    let identity = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).map(|meta| (meta.dev(), meta.rdev())).expect("stat")
    };
    let device = identity(&host);
    let mut looked_at = 0;
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        // In a PID namespace of its own: one of the capsule's.
        let in_capsule =
            status.lines().any(|line| line.starts_with("NSpid:") && line.split('\t').count() > 2);
        if comm != "bash\n" || !in_capsule {
            continue;
        }
        for fd in std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            let path = fd.path();
            if std::fs::read_link(&path).is_ok_and(|to| to.starts_with("/dev/pts")) {
                assert_ne!(identity(&path), device, "the host's terminal is in the capsule");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at >= 3, "the shell's three descriptors");
    terminal.expect_size_and_interrupt();
    terminal.type_in("sleep 1000\n");
    let asleep = || node.exec("site_a", &["ps", "-o", "stat=,args=", "-C", "sleep"]).stdout;
    eventually_or(
        || asleep().contains("+").then_some(()),
        || format!("it sleeps in the foreground: {:?}; {:?}", asleep(), terminal.shown()),
    );
    terminal.type_in("\u{1a}");
    terminal.await_shown("Stopped");
    terminal.type_in("kill %1; exit 9\n");
    terminal.type_in("exit 9\n");
    let (status, shown) = terminal.wait();
    assert_eq!(status, 9, "{shown}");
    await_sessions(&node, 0);
    node.finish();
}

#[test]
fn who_is_in_is_told_with_the_key() {
    let mut node = TestNode::start("login-sessions");
    node.define("site_a", &keys(&[ALICE, BOB]));
    node.define("site_b", "");
    let mut alice = stay(&node, ALICE);
    let mut bob = stay(&node, BOB);
    let found = await_sessions(&node, 2);
    for (session, key, comment) in
        [(&found[0], ALICE, "alice@example.org"), (&found[1], BOB, "bob@example.org")]
    {
        assert_eq!(session["slice"], "site_a");
        assert_eq!(session["login"]["key"], key.fingerprint);
        assert_eq!(session["login"]["from"], "192.0.2.7");
        assert_eq!(session["key_comment"], comment);
        assert_eq!(session["command"], serde_json::json!(["/bin/bash", "-c", "cat"]));
        let told = node.await_event("site_a", "session-opened", key.fingerprint);
        assert!(told.contains(comment) && told.contains("192.0.2.7"), "{told}");
    }
    assert_eq!(found[0]["pid"].as_u64(), Some(alice.id().into()));
    let table = node.plab(&["sessions", "site_a"]).ok();
    assert!(table.contains("alice@") && table.contains("192.0.2.7") && table.contains("SHA256:"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert_eq!(node.plab(&["sessions", "site_b"]).ok(), "No sessions\n");
    // A slice sees its own, and the request itself is none.
    let own = output(&mut login(&node, "site_a", ALICE, Some("plab sessions --json"))).ok();
    assert_eq!(own.matches("\"login\"").count(), 2, "{own}");
    let other = node.status("site_b")["uid"].as_u64().expect("a UID").to_string();
    let mut asks = Command::new("/usr/bin/setpriv");
    asks.args(["--reuid", &other, "--regid", &other, "--clear-groups", "--"]).arg(binary("plab"));
    asks.arg("--root").arg(node.root()).args(["sessions"]);
    assert_eq!(output(&mut asks).ok(), "No sessions\n");
    // A new plabd knows them again; one that ended meanwhile is told of.
    node.kill_daemon();
    drop(bob.stdin.take());
    assert_eq!(ended(&mut bob), 0);
    node.start_daemon();
    let again = await_sessions(&node, 1);
    assert_eq!(again[0], found[0]);
    node.await_event(
        "site_a",
        "session-closed",
        &format!("session {}, while plabd was away", found[1]["id"]),
    );
    drop(alice.stdin.take());
    assert_eq!(ended(&mut alice), 0);
    node.await_event("site_a", "session-closed", &format!("session {}, after", found[0]["id"]));
    await_sessions(&node, 0);
    node.finish();
}

#[test]
fn a_removed_key_ends_what_it_opened_and_nothing_else() {
    let node = TestNode::start("login-removed-key");
    node.define("site_a", &keys(&[ALICE, BOB]));
    let (mut alice, mut bob) = (stay(&node, ALICE), stay(&node, BOB));
    let mut by_root = Command::new(binary("plab"));
    by_root.arg("--root").arg(node.root()).args(["exec", "site_a", "--", "sleep", "1000"]);
    let mut by_root = by_root.stdin(Stdio::null()).spawn().expect("start plab");
    // What sshd holds for a connection that has no session: of the slice's UID, and outside.
    let uid = node.status("site_a")["uid"].as_u64().expect("a UID").to_string();
    let idle = Command::new("/usr/bin/setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--", "sleep", "1000"])
        .spawn()
        .expect("start sleep");
    let mut idle = idle;
    await_sessions(&node, 3);
    node.define("site_a", &keys(&[BOB]));
    // `apply` returns when it is in effect: nothing more to wait for but this test's own children.
    assert_ne!(ended(&mut alice), 0);
    assert_eq!(ended(&mut idle), 128 + 15);
    let left = await_sessions(&node, 2);
    assert!(left.iter().all(|session| session["login"]["key"] != ALICE.fingerprint), "{left:#?}");
    let told = node.await_event("site_a", "logins-ended", "a key was removed");
    assert!(told.contains('2'), "{told}");
    // Bob's goes on.
    bob.stdin.as_mut().expect("piped").write_all(b"y").expect("write");
    bob.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it answers");
    // A connection that is still there, with one more channel.
    let refused = run(&node, "true");
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains(ALICE.fingerprint) && refused.stderr.contains("any more"), "{refused:?}");
    node.await_event("site_a", "request-denied", ALICE.fingerprint);
    // The file that sshd asks has it no more.
    let listed = keys_of(&node, "site_a");
    assert!(!listed.contains(ALICE.fingerprint) && listed.contains(BOB.fingerprint), "{listed}");
    drop(bob.stdin.take());
    assert_eq!(ended(&mut bob), 0);
    // With the slice goes all of it.
    let mut bob = stay(&node, BOB);
    node.plab(&["rm", "--yes", "site_a"]).ok();
    assert_ne!(ended(&mut bob), 0);
    assert_ne!(ended(&mut by_root), 0);
    assert_eq!(processes(node.uids()), Vec::<String>::new());
    assert_eq!(keys_of(&node, "site_a"), "");
    for directory in ["run/userdb", "run/planetlab/accounts", "run/planetlab/sessions"] {
        let left: Vec<_> = std::fs::read_dir(node.root().join(directory)).expect("list").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    node.finish();
}

fn keys_of(node: &TestNode, slice: &str) -> String {
    let mut command = Command::new(binary("plab-keys"));
    command.arg("--root").arg(node.root()).arg(slice);
    output(&mut command).ok()
}

#[test]
fn the_keys_for_sshd_are_ssh_keygens_too() {
    let node = TestNode::start("login-keys");
    node.define("site_a", &keys(&[ALICE, BOB]));
    let text = keys_of(&node, "site_a");
    assert_eq!(text.lines().count(), 2);
    assert!(!text.contains("example.org"), "no comment: {text}");
    let file = node.root().join("authorized_keys");
    std::fs::write(&file, &text).expect("write");
    let mut keygen = Command::new("ssh-keygen");
    keygen.arg("-lf").arg(&file);
    let listed = output(&mut keygen).ok();
    assert!(listed.contains(ALICE.fingerprint) && listed.contains(BOB.fingerprint), "{listed}");
    for name in ["nobody", "../accounts/site_a", "site_a.keys", "", "root"] {
        assert_eq!(keys_of(&node, name), "", "{name}");
    }
    // A lease that ends lets nobody in any more.
    node.define("site_a", &format!("{}\nexpires = 2000-01-01T00:00:00Z", keys(&[ALICE, BOB])));
    node.await_state("site_a", "expired");
    assert_eq!(keys_of(&node, "site_a"), "");
    node.define("site_a", &keys(&[ALICE]));
    assert_eq!(keys_of(&node, "site_a").lines().count(), 1);
    node.finish();
}

#[test]
fn an_owner_without_a_task_left_is_told_and_can_act() {
    let node = TestNode::start("login-exhausted");
    node.define("site_a", &format!("{}\n[tasks]\nmax = 10", keys(&[ALICE])));
    // Nine and capsule-init.
    let mut hogs: Vec<Child> = (0..9)
        .map(|_| login(&node, "site_a", ALICE, Some("exec sleep 1000")).spawn().expect("start"))
        .collect();
    eventually_or(
        || (node.status("site_a")["tasks"] == 10).then_some(()),
        || format!("every task is taken: {}", node.status("site_a")),
    );
    let refused = run(&node, "true");
    assert_eq!(refused.code, 125, "{refused:?}");
    for part in
        ["Resource temporarily unavailable", "10 of 10 tasks", "ssh site_a@node1.example.org plab restart"]
    {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
    let status = run(&node, "plab status").ok();
    assert!(status.contains("site_a") && status.contains("running"), "{status}");
    let said = run(&node, "plab restart").ok();
    assert!(said.contains("site_a runs"), "{said}");
    hogs.iter_mut().for_each(|hog| assert_ne!(ended(hog), 0));
    assert_eq!(run(&node, "true").code, 0);
    // Nothing but its own, and nothing else.
    for (line, code) in
        [("plab rm site_a", 2), ("plab status site_b", 2), ("plab drain", 2), ("plab help", 0)]
    {
        assert_eq!(run(&node, line).code, code, "{line}");
    }
    // Out of memory the whole capsule goes; its owner finds out how to bring it back.
    node.define("site_a", &format!("{}\n[memory]\nmax = \"32M\"", keys(&[ALICE])));
    let killed = run(&node, "python3 -c 'print(len(bytearray(200 << 20)))'");
    assert_ne!(killed.code, 0);
    node.await_state("site_a", "failed");
    let refused = run(&node, "true");
    assert!(
        refused.stderr.contains("out of memory") && refused.stderr.contains("plab restart"),
        "{refused:?}"
    );
    run(&node, "plab restart").ok();
    assert_eq!(run(&node, "true").code, 0);
    node.finish();
}

#[test]
fn sessions_have_a_limit_that_is_the_slices_own() {
    let node = TestNode::start("login-limit");
    node.define("site_a", &format!("{}\n[tasks]\nmax = 200", keys(&[ALICE])));
    let mut all: Vec<Child> = (0..64).map(|_| stay(&node, ALICE)).collect();
    await_sessions(&node, 64);
    let refused = run(&node, "true");
    assert_eq!(refused.code, 125);
    assert!(refused.stderr.contains("64 sessions"), "{refused:?}");
    // Root's way in stays open, and so does the way to find out.
    assert_eq!(node.exec("site_a", &["true"]).code, 0);
    run(&node, "plab sessions").ok();
    drop(all[0].stdin.take());
    assert_eq!(ended(&mut all[0]), 0);
    await_sessions(&node, 63);
    assert_eq!(run(&node, "true").code, 0);
    for child in &mut all {
        drop(child.stdin.take());
        assert_eq!(ended(child), 0);
    }
    node.finish();
}

#[test]
fn a_connection_that_goes_takes_its_command_along() {
    let node = TestNode::start("login-gone");
    node.define("site_a", &keys(&[ALICE]));
    // As sshd's process of the connection: the login shell is its child, and outlives it by a moment.
    let mut sshd = Command::new("sh");
    let shell = login(&node, "site_a", ALICE, Some("echo in; exec sleep 1000"));
    sshd.arg("-c").arg("\"$@\" & wait").arg("sh").arg(shell.get_program()).args(shell.get_args());
    sshd.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut sshd = sshd.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start");
    sshd.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("it runs");
    await_sessions(&node, 1);
    sshd.kill().expect("kill");
    sshd.wait().expect("wait");
    await_sessions(&node, 0);
    eventually("nothing of it is left inside", || {
        (node.exec("site_a", &["pgrep", "-c", "-x", "sleep"]).stdout.trim() == "0").then_some(())
    });
    node.finish();
}

#[test]
fn the_login_shell_is_for_slices_only() {
    let node = TestNode::start("login-others");
    node.define("site_a", &keys(&[ALICE]));
    // Root, by hand: `su - site_a` has no key and says so in the audit trail; anybody else is nobody.
    let mut su = as_slice(&node, "site_a");
    su.args(["-c", "id -un"]);
    assert_eq!(output(&mut su).stdout, "site_a\n");
    let told = node.await_event("site_a", "session-opened", "id -un");
    assert!(told.starts_with("site_a, PID"), "{told}");
    let nobody = *node.uids().end();
    let mut other = Command::new("/usr/bin/setpriv");
    other.args(["--reuid", &nobody.to_string(), "--clear-groups", "--"]).arg(binary("plab-shell"));
    other.arg("--root").arg(node.root()).args(["-c", "id"]);
    let refused = output(&mut other);
    assert_eq!((refused.code, refused.stdout.as_str()), (125, ""), "{refused:?}");
    assert!(refused.stderr.contains("neither root nor a slice"), "{refused:?}");
    let mut root = Command::new(binary("plab-shell"));
    root.arg("--root").arg(node.root()).args(["-c", "id"]);
    let refused = output(&mut root);
    assert_ne!(refused.code, 0, "{refused:?}");
    node.finish();
}

#[test]
fn the_users_agent_is_reached_from_inside() {
    use std::os::unix::fs::PermissionsExt;
    let node = TestNode::start("login-agent");
    node.define("site_a", &keys(&[ALICE]));
    // In sshd's place: a socket here that the slice's user may connect to.
    let path = node.root().join("agent.sock");
    let agent = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    std::thread::spawn(move || {
        for mut stream in agent.incoming().flatten() {
            let mut asked = [0; 4];
            if stream.read_exact(&mut asked).is_ok() {
                stream.write_all(&asked.map(|byte| byte.to_ascii_uppercase())).ok();
            }
        }
    });
    let ask = "import os, socket\n\
               for _ in range(3):\n\
               \x20   s = socket.socket(socket.AF_UNIX)\n\
               \x20   s.connect(os.environ['SSH_AUTH_SOCK'])\n\
               \x20   s.sendall(b'keys')\n\
               \x20   print(s.recv(9).decode())\n";
    let line = format!("python3 -c \"{ask}\"; stat -c %a \"$(dirname \"$SSH_AUTH_SOCK\")\"");
    let mut command = login(&node, "site_a", ALICE, Some(&line));
    command.env("SSH_AUTH_SOCK", &path);
    assert_eq!(output(&mut command).ok(), "KEYS\nKEYS\nKEYS\n700\n");
    // It went with the session, and is there for no other.
    let seen = run(&node, "echo \"[$SSH_AUTH_SOCK]\"; ls -A /tmp");
    assert_eq!(seen.stdout, "[]\n", "{seen:?}");
    // An agent that is gone is an error inside, and not the end of the session.
    let mut command =
        login(&node, "site_a", ALICE, Some(&format!("python3 -c \"{ask}\" 2>/dev/null; echo on")));
    std::fs::remove_file(&path).expect("remove");
    command.env("SSH_AUTH_SOCK", &path);
    let gone = output(&mut command);
    assert!(gone.code == 0 && gone.stdout.ends_with("on\n") && !gone.stdout.contains("KEYS"), "{gone:?}");
    // Nobody by a key: no agent.
    let mut su = as_slice(&node, "site_a");
    su.args(["-c", "echo \"[$SSH_AUTH_SOCK]\""]).env("SSH_AUTH_SOCK", &path);
    assert_eq!(output(&mut su).stdout, "[]\n");
    node.finish();
}
