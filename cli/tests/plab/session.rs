//! `plab exec` and `plab shell` against a capsule that is made up: also one that means harm.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::fake_node::{self, Node, PATIENCE, Person, eventually, finish, hear, run_command, say};
use plab_protocol::control::{ErrorCode, ErrorReply, Reply};
use plab_protocol::session::{FromSession, ToSession};
use rustix::fs::{FileType, fstat};

fn sh(script: &str) -> [&str; 6] {
    ["exec", "web", "--", "sh", "-c", script]
}

fn code(node: &Node, args: &[&str]) -> i32 {
    node.output(args).status.code().expect("code")
}

#[test]
fn the_status_is_the_commands() {
    let node = Node::running();
    assert_eq!(code(&node, &sh("exit 0")), 0);
    assert_eq!(code(&node, &sh("exit 7")), 7);
    assert_eq!(code(&node, &sh("kill -9 $$")), 137);
    assert_eq!(code(&node, &["exec", "web", "--", "/nonexistent"]), 127);
    assert_eq!(code(&node, &["exec", "web", "--", "/etc/passwd"]), 126);
    let output = node.output(&["exec", "web", "/nonexistent"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "plab: web: /nonexistent: No such file or directory (os error 2)\n"
    );
}

#[test]
fn plabs_own_errors_are_125() {
    let node = Node::start(|mut asked| {
        asked.reply(&Reply::Error(ErrorReply {
            code: ErrorCode::WrongState,
            message: "web is frozen".into(),
        }));
    });
    let output = node.output(&sh("true"));
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "plab: web is frozen\n");
    assert_eq!(code(&node, &["exec", "web"]), 125, "no command");
    assert_eq!(code(&node, &["exec", "--nonsense", "web", "true"]), 125);
    assert_eq!(code(&node, &["exec", "--env", "=x", "web", "true"]), 125);
    assert_eq!(code(&node, &["exec", "--help"]), 0);
    assert_eq!(code(&node, &["status", "--nonsense"]), 2);
}

#[test]
fn pipes_carry_everything_both_ways() {
    let node = Node::running();
    let mut child = node
        .plab(&sh("cat; echo done >&2"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plab");
    let mut stdin = child.stdin.take().expect("stdin");
    let data = vec![b'x'; 1 << 20];
    let copy = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy));
    let output = finish(child);
    writer.join().expect("join").expect("write");
    assert!(output.stdout == data);
    assert_eq!(output.stderr, b"done\n");
}

#[test]
fn what_is_relayed_is_complete_and_in_order() {
    let node = Node::running();
    let path = node.root.join("log");
    let log = File::create(&path).expect("create");
    // Standard input is a socket, and both outputs are one file: everything is relayed.
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let child = node
        .plab(&sh("cat; for i in 1 2 3; do echo out $i; echo err $i >&2; done"))
        .stdin(OwnedFd::from(theirs))
        .stdout(log.try_clone().expect("dup"))
        .stderr(log)
        .spawn()
        .expect("plab");
    let data: Vec<u8> = (0..1u32 << 20).map(|i| b'a' + u8::try_from(i % 23).expect("u8")).collect();
    (&ours).write_all(&data).expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert!(finish(child).status.success());
    let mut expected = data;
    expected.extend_from_slice(b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    assert!(std::fs::read(path).expect("log") == expected);
}

#[test]
fn an_environment_is_handed_over() {
    let node = Node::running();
    let output = node.output(&["exec", "-e", "A=1 2", "web", "--", "sh", "-c", "echo \"$A\""]);
    assert_eq!(output.stdout, b"1 2\n");
}

#[test]
fn a_shell_reads_its_script_from_a_pipe() {
    let node = Node::running();
    let mut child =
        node.plab(&["shell", "web"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("plab");
    child.stdin.take().expect("stdin").write_all(b"echo hello\nexit 4\n").expect("write");
    let output = finish(child);
    assert_eq!((output.status.code(), output.stdout), (Some(4), b"hello\n".to_vec()));
}

/// What the slice gets for standard input, output and error that are all `fd`.
fn handed_over(fd: OwnedFd) -> Vec<FileType> {
    let (tx, rx) = mpsc::channel();
    let node = Node::start(move |mut asked| {
        let types = asked.fds[1..].iter().map(|fd| FileType::from_raw_mode(fstat(fd).expect("stat").st_mode));
        tx.send(types.collect()).expect("send");
        asked.reply(&Reply::Started);
        say(&asked.fds[0], &FromSession::Running, &[]);
        say(&asked.fds[0], &FromSession::Exited { code: 0 }, &[]);
    });
    let dup = || Stdio::from(fd.try_clone().expect("dup"));
    let child = node
        .plab(&["exec", "-T", "web", "true"])
        .stdin(dup())
        .stdout(dup())
        .stderr(dup())
        .spawn()
        .expect("plab");
    assert!(finish(child).status.success());
    rx.recv().expect("types")
}

#[test]
fn no_terminal_socket_directory_or_device_is_handed_over() {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    let fifos = vec![FileType::Fifo; 3];
    assert_eq!(handed_over(UnixStream::pair().expect("pair").0.into()), fifos);
    assert_eq!(handed_over(File::open("/").expect("open").into()), fifos);
    assert_eq!(handed_over(File::open("/dev/zero").expect("open").into()), fifos);
    assert_eq!(handed_over(File::options().write(true).open("/dev/full").expect("open").into()), fifos);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("openpt");
    unlockpt(&master).expect("unlockpt");
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("slave");
    assert_eq!(handed_over(slave), fifos);
    assert_eq!(
        handed_over(File::options().read(true).write(true).open("/dev/null").expect("open").into()),
        vec![FileType::CharacterDevice; 3]
    );
    let path = std::env::temp_dir().join(format!("plab-handed-{}", std::process::id()));
    std::fs::write(&path, "x").expect("write");
    let (read, write) = (File::open(&path), File::options().append(true).open(&path));
    std::fs::remove_file(&path).expect("remove");
    let types = [FileType::RegularFile, FileType::Fifo, FileType::Fifo];
    assert_eq!(handed_over(read.expect("open").into()), types);
    assert_eq!(handed_over(write.expect("open").into()), fifos);
}

#[test]
fn a_background_process_does_not_hold_the_caller() {
    let node = Node::running();
    let path = node.root.join("out");
    let child = node
        .plab(&sh("(while sleep 0.01; do echo late; done) & echo early; exit 3"))
        .stdout(File::create(&path).expect("create"))
        .stderr(Stdio::null())
        .spawn()
        .expect("plab");
    assert_eq!(finish(child).status.code(), Some(3));
    assert!(std::fs::read(path).expect("out").starts_with(b"early\n"));
}

#[test]
fn a_reader_that_leaves_ends_the_command_as_usual() {
    let node = Node::running();
    // A socket, so that it is relayed.
    let (ours, theirs) = UnixStream::pair().expect("pair");
    let child = node.plab(&["exec", "web", "yes"]).stdout(OwnedFd::from(theirs)).spawn().expect("plab");
    (&ours).read_exact(&mut [0; 1000]).expect("read");
    drop(ours);
    assert_eq!(finish(child).status.code(), Some(141), "SIGPIPE, as without plab");
}

#[test]
fn lost_output_is_no_success() {
    let node = Node::running();
    let full = File::options().write(true).open("/dev/full").expect("open");
    let child =
        node.plab(&["exec", "web", "echo", "x"]).stdout(full).stderr(Stdio::piped()).spawn().expect("plab");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn signals_reach_the_command() {
    use rustix::process::{Pid, Signal, kill_process};
    let node = Node::running();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!("trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.01; done");
        let mut child = node.plab(&sh(&script)).stdout(Stdio::piped()).spawn().expect("plab");
        let mut stdout = child.stdout.take().expect("stdout");
        stdout.read_exact(&mut [0; 6]).expect("ready");
        kill_process(Pid::from_child(&child), signal).expect("kill");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("read");
        assert_eq!((rest.as_str(), finish(child).status.code()), ("got\n", Some(9)), "{name}");
    }
}

/// A capsule that runs nothing, says nothing and hears everything.
fn deaf_capsule() -> (Node, mpsc::Receiver<Option<ToSession>>, mpsc::Receiver<()>) {
    let (tx, rx) = mpsc::channel();
    let (began, begun) = mpsc::channel();
    let node = Node::start(move |mut asked| {
        asked.reply(&Reply::Started);
        say(&asked.fds[0], &FromSession::Running, &[]);
        began.send(()).expect("send");
        loop {
            let message = hear(&asked.fds[0]);
            let closed = message.is_none();
            tx.send(message).expect("send");
            if closed {
                return;
            }
        }
    });
    (node, rx, begun)
}

#[test]
fn a_capsule_that_does_not_react_can_be_left() {
    use rustix::process::{Pid, Signal, kill_process};
    let (node, heard, begun) = deaf_capsule();
    let child = node.plab(&["exec", "web", "true"]).spawn().expect("plab");
    begun.recv().expect("begun");
    for _ in 0..3 {
        // One by one, for the kernel keeps a signal only once.
        std::thread::sleep(Duration::from_millis(100));
        kill_process(Pid::from_child(&child), Signal::INT).expect("kill");
    }
    assert_eq!(finish(child).status.code(), Some(130));
    // Until it hears the end: the session was closed.
    let all: Vec<_> = std::iter::from_fn(|| heard.recv_timeout(PATIENCE).expect("heard")).collect();
    assert_eq!(all, vec![ToSession::Signal { number: 2 }; 2]);
}

#[test]
fn a_signal_before_the_command_waits_for_it() {
    use rustix::process::{Pid, Signal, kill_process};
    let (tx, rx) = mpsc::channel();
    let node = Node::start(move |asked| {
        tx.send(()).expect("send");
        std::thread::sleep(Duration::from_millis(200));
        run_command(asked);
    });
    let child = node.plab(&sh("while :; do sleep 0.01; done")).spawn().expect("plab");
    rx.recv().expect("asked");
    kill_process(Pid::from_child(&child), Signal::USR2).expect("kill");
    assert_eq!(finish(child).status.code(), Some(140), "USR2 ended the command");
}

#[test]
fn a_plabd_that_hangs_can_be_left() {
    use rustix::process::{Pid, Signal, kill_process};
    let (tx, rx) = mpsc::channel();
    let node = Node::start(move |asked| {
        tx.send(()).expect("send");
        std::thread::sleep(PATIENCE);
        drop(asked);
    });
    let start = Instant::now();
    let child = node.plab(&sh("true")).spawn().expect("plab");
    rx.recv().expect("asked");
    kill_process(Pid::from_child(&child), Signal::INT).expect("kill");
    assert_eq!(finish(child).status.code(), Some(130));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn an_ignored_signal_stays_ignored() {
    use rustix::process::{Pid, Signal, kill_process};
    let node = Node::running();
    let script = format!(
        "trap '' HUP; exec {} --root {} exec web -- sh -c 'echo ready; sleep 0.3; exit 5'",
        env!("CARGO_BIN_EXE_plab"),
        node.root.display()
    );
    let mut child =
        std::process::Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("sh");
    child.stdout.as_mut().expect("stdout").read_exact(&mut [0; 6]).expect("ready");
    kill_process(Pid::from_child(&child), Signal::HUP).expect("kill");
    assert_eq!(finish(child).status.code(), Some(5));
}

#[test]
fn a_capsule_that_goes_away_is_noticed() {
    let node = Node::start(|mut asked| {
        asked.reply(&Reply::Started);
        say(&asked.fds[0], &FromSession::Running, &[]);
        rustix::io::write(&asked.fds[2], b"last words").expect("write");
    });
    // A file, so that the words go through plab.
    let path = node.root.join("out");
    let out = File::create(&path).expect("create");
    let child = node.plab(&sh("true")).stdout(out).stderr(Stdio::piped()).spawn().expect("plab");
    let output = finish(child);
    assert_eq!(std::fs::read(path).expect("out"), b"last words");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the capsule went away"));
}

#[test]
fn plabd_may_go_down_while_a_command_runs() {
    // No answer at all, but the capsule has the session: a plabd that was killed at this moment.
    let node = Node::start(|mut asked| {
        let session = asked.fds.swap_remove(0);
        say(&session, &FromSession::Running, &[]);
        std::thread::sleep(Duration::from_millis(50));
        drop(asked);
        std::thread::sleep(Duration::from_millis(50));
        say(&session, &FromSession::Exited { code: 6 }, &[]);
    });
    assert_eq!(code(&node, &sh("true")), 6);
}

#[test]
fn a_hostile_capsule_gets_nowhere() {
    let words: [(&'static [u8], i32); 5] = [
        (b"{\"say\":\"exited\",\"code\":4000}", 125),
        (b"{\"say\":\"killed\",\"signal\":-3}", 125),
        (b"\x1b[2J", 125),
        (b"{\"say\":\"failed\",\"errno\":2,\"what\":\"\\u001b[31m\"}", 127),
        (b"{\"say\":\"exited\",\"code\":3,\"new\":1}", 3),
    ];
    for (bytes, status) in words {
        let node = Node::start(move |mut asked| {
            asked.reply(&Reply::Started);
            let _ = plab_protocol::channel::send(&asked.fds[0], bytes, &[]);
        });
        let output = node.output(&sh("true"));
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(bytes));
        assert!(!output.stderr.contains(&0x1b));
    }
    // A "terminal" that is none, and none at all.
    for attach in [true, false] {
        let node = Node::start(move |mut asked| {
            asked.reply(&Reply::Started);
            let null = File::open("/dev/zero").expect("open");
            let fds = [std::os::fd::AsFd::as_fd(&null)];
            say(&asked.fds[0], &FromSession::Running, if attach { &fds } else { &[] });
            let _ = hear(&asked.fds[0]);
        });
        assert_eq!(code(&node, &["exec", "-t", "web", "true"]), 125);
    }
}

#[test]
fn a_terminal_is_copied_and_comes_back_as_it_was() {
    let node = Node::running();
    let mut person = Person::starts(
        &node,
        &["exec", "web", "--", "sh", "-c", "stty size; tty; echo $TERM; read x; echo \"<$x>\"; exit 3"],
        31,
        97,
    );
    person.sees("31 97\r\n");
    person.sees("/dev/pts/");
    person.sees("xterm\r\n");
    assert!(!person.has_a_sane_terminal(), "raw: the capsule's terminal does the editing");
    person.types("helo\x7flo\r");
    person.sees("<hello>\r\n");
    assert_eq!(person.waits(), 3);
    assert!(person.has_a_sane_terminal());
    assert_eq!(person.seen, "");
}

#[test]
fn a_window_can_be_resized_and_interrupted() {
    let node = Node::running();
    let script =
        "trap 'stty size' WINCH; trap 'echo int; exit 8' INT; echo ready; while :; do sleep 0.01; done";
    let mut person = Person::starts(&node, &["exec", "web", "--", "sh", "-c", script], 24, 80);
    person.sees("ready");
    rustix::termios::tcsetwinsize(&person.master, fake_node::winsize(50, 132)).expect("resize");
    person.sees("50 132");
    person.types("\x03");
    person.sees("int\r\n");
    assert_eq!(person.waits(), 8);
    assert!(person.has_a_sane_terminal());
}

#[test]
fn everything_printed_before_the_end_is_seen() {
    let node = Node::running();
    for _ in 0..20 {
        let mut person = Person::starts(
            &node,
            &["exec", "web", "--", "sh", "-c", "sleep 100 & seq 1 2000; echo END"],
            24,
            80,
        );
        person.sees("END\r\n");
        assert_eq!(person.waits(), 0);
    }
}

#[test]
fn signals_restore_the_terminal() {
    use rustix::process::{Pid, Signal, kill_process};
    let node = Node::running();
    let mut person =
        Person::starts(&node, &["exec", "web", "--", "sh", "-c", "echo ready; sleep 100"], 24, 80);
    person.sees("ready");
    kill_process(Pid::from_child(&person.child), Signal::TERM).expect("kill");
    assert_eq!(person.waits(), 143, "the command's end by the signal that was passed on");
    assert!(person.has_a_sane_terminal());
}

#[test]
fn a_hung_terminal_can_be_left_by_a_key() {
    let (tx, rx) = mpsc::channel();
    let node = Node::start(move |asked| {
        // Holds on to the session for as long as the client does; the command never ends.
        let session = asked.fds[0].try_clone().expect("dup");
        let end = tx.clone();
        std::thread::spawn(move || {
            let start = Instant::now();
            run_command(asked);
            let _ = end.send(start.elapsed());
            drop(session);
        });
    });
    let script = "trap '' INT QUIT; stty raw -echo; echo ready; sleep 100";
    let mut person = Person::starts(&node, &["exec", "web", "--", "sh", "-c", script], 24, 80);
    person.sees("ready");
    person.types("\x1d\x1d");
    std::thread::sleep(Duration::from_millis(50));
    assert!(person.child.try_wait().expect("wait").is_none(), "two are not enough");
    person.types("\x1d");
    person.sees("left at Ctrl-]");
    assert_eq!(person.waits(), 125);
    assert!(person.has_a_sane_terminal());
    assert!(rx.recv_timeout(PATIENCE).is_ok(), "the command was hung up on");
}

#[test]
fn closing_the_window_ends_it() {
    let (heard_end, ended) = mpsc::channel();
    let node = Node::start(move |asked| {
        run_command(asked);
        heard_end.send(()).expect("send");
    });
    let mut person =
        Person::starts(&node, &["exec", "web", "--", "sh", "-c", "echo ready; sleep 100"], 24, 80);
    person.sees("ready");
    let Person { master, mut child, .. } = person;
    drop(master);
    eventually("plab ends", || child.try_wait().expect("wait").is_some());
    assert!(ended.recv_timeout(PATIENCE).is_ok(), "and so does the command");
}

#[test]
fn a_terminal_without_one_here_ends_its_input() {
    let node = Node::running();
    let mut child = node
        .plab(&["exec", "-t", "web", "--", "sh", "-c", "stty -echo; echo ready; cat; echo bye"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("plab");
    child.stdin.take().expect("stdin").write_all(b"no end of line").expect("write");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("no end of line") && text.ends_with("bye\r\n"), "{text:?}");
}

#[test]
fn no_terminal_when_told_so() {
    let node = Node::running();
    let mut person = Person::starts(
        &node,
        &["exec", "-T", "web", "--", "sh", "-c", "tty; test -p /dev/stdout && echo pipe"],
        24,
        80,
    );
    person.sees("not a tty");
    person.sees("pipe");
    assert_eq!(person.waits(), 0);
}
