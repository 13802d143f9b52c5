//! A stand-in for `plabd` and a capsule: listens where `plab --root DIR` looks, and says what a test wants.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use plab_protocol::control::{Envelope, Exec, Reply, Request};
use plab_protocol::session::{FromSession, ToSession};
use plab_protocol::{MAX_DATAGRAM, channel};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory for `--root`, removed with it.
pub struct Node {
    pub root: PathBuf,
}

/// What a client asked.
pub struct Asked {
    pub request: Request,
    pub fds: Vec<OwnedFd>,
    pub stream: UnixStream,
}

impl Asked {
    pub fn reply(&mut self, reply: &Reply) {
        let line = serde_json::to_string(reply).expect("reply");
        self.line(&line);
    }

    pub fn line(&mut self, line: &str) {
        // A client that has gone is for the test to notice.
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }
}

impl Node {
    /// A root without anybody who listens.
    pub fn dead() -> Node {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("plab-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("run/planetlab")).expect("mkdir");
        Node { root }
    }

    /// Calls `handler` for every connection, in a thread of its own.
    pub fn start(handler: impl Fn(Asked) + Send + Sync + 'static) -> Node {
        let node = Node::dead();
        let listener = UnixListener::bind(node.root.join("run/planetlab/control.sock")).expect("bind");
        let handler = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, handler) = (stream.expect("accept"), Arc::clone(&handler));
                thread::spawn(move || {
                    if let Some(asked) = read(stream) {
                        handler(asked);
                    }
                });
            }
        });
        node
    }

    /// A node that answers everything with this line.
    pub fn saying(line: impl Into<String>) -> Node {
        let line = line.into();
        Node::start(move |mut asked| asked.line(&line))
    }

    /// A node whose only capsule runs commands as the caller.
    pub fn running() -> Node {
        Node::start(run_command)
    }

    /// `plab` with these arguments.
    pub fn plab(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plab"));
        command.arg("--root").arg(&self.root).args(args);
        command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
        command
    }

    /// Runs `plab` to its end.
    pub fn output(&self, args: &[&str]) -> Output {
        let child =
            self.plab(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start plab");
        finish(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is left over is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Waits for the end of `child`, but not for ever.
pub fn finish(mut child: Child) -> Output {
    let (tx, rx) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let collect = |source: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut all = Vec::new();
            if let Some(mut source) = source {
                source.read_to_end(&mut all).expect("read");
            }
            all
        })
    };
    let out = collect(stdout.map(|s| Box::new(s) as _));
    let err = collect(stderr.map(|s| Box::new(s) as _));
    let pid = rustix::process::Pid::from_child(&child);
    thread::spawn(move || tx.send(child.wait().expect("wait")));
    let Ok(status) = rx.recv_timeout(PATIENCE) else {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("plab did not end");
    };
    Output { status, stdout: out.join().expect("stdout"), stderr: err.join().expect("stderr") }
}

/// Tries until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One request with its descriptors.
fn read(stream: UnixStream) -> Option<Asked> {
    let mut line = Vec::new();
    let mut fds = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    while !line.ends_with(b"\n") {
        let (n, more) = channel::receive(&stream, &mut chunk).expect("receive");
        if n == 0 {
            return None;
        }
        line.extend_from_slice(&chunk[..n]);
        fds.extend(more);
    }
    let envelope: Envelope = serde_json::from_slice(&line).expect("request");
    assert_eq!(envelope.v, plab_protocol::VERSION);
    Some(Asked { request: envelope.request, fds, stream })
}

/// Says something on a session socket.
pub fn say(session: impl AsFd, message: &FromSession, fds: &[std::os::fd::BorrowedFd<'_>]) {
    let bytes = serde_json::to_vec(message).expect("message");
    let _ = channel::send(session, &bytes, fds);
}

/// The next thing the client says; none when it has closed.
pub fn hear(session: impl AsFd) -> Option<ToSession> {
    let mut datagram = vec![0; MAX_DATAGRAM];
    match channel::receive(session, &mut datagram) {
        Ok((0, _)) | Err(_) => None,
        Ok((n, _)) => Some(serde_json::from_slice(&datagram[..n]).expect("message")),
    }
}

/// What capsule-init does with an `Exec`, without any capsule.
pub fn run_command(mut asked: Asked) {
    let Request::Exec(Exec { argv, env, tty, .. }) = asked.request.clone() else { panic!("not an exec") };
    let mut fds = std::mem::take(&mut asked.fds).into_iter();
    let session = fds.next().expect("session");
    asked.reply(&Reply::Started);
    let mut command = if argv.is_empty() {
        let mut shell = Command::new("/bin/sh");
        shell.arg0("-sh");
        shell
    } else {
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        command
    };
    command.envs(&env);
    let mut master = None;
    if let Some(size) = tty {
        assert!(fds.next().is_none(), "with a terminal nothing but the session is handed over");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let opened = openpt(flags).expect("openpt");
        grantpt(&opened).expect("grantpt");
        unlockpt(&opened).expect("unlockpt");
        let slave = ioctl_tiocgptpeer(&opened, flags).expect("slave");
        rustix::termios::tcsetwinsize(&opened, winsize(size.rows, size.cols)).expect("size");
        own_terminal(&mut command, slave);
        master = Some(opened);
    } else {
        let mut next = || Stdio::from(fds.next().expect("a descriptor"));
        command.stdin(next()).stdout(next()).stderr(next());
        command.process_group(0);
    }
    let spawned = command.spawn();
    // It holds the command's descriptors.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            let errno = e.raw_os_error().expect("errno");
            return say(&session, &FromSession::Failed { errno, what: argv[0].clone() }, &[]);
        }
    };
    let attached: Vec<_> = master.iter().map(AsFd::as_fd).collect();
    // As capsule-init does it: without a terminal there is nothing to hand over, and nothing is said.
    if tty.is_some() {
        say(&session, &FromSession::Running, &attached);
    }
    drop(attached);
    // Only the client holds it now.
    drop(master);
    let group = rustix::process::Pid::from_child(&child);
    let listener = session.try_clone().expect("dup");
    thread::spawn(move || {
        while let Some(ToSession::Signal { number }) = hear(&listener) {
            let signal = rustix::process::Signal::from_named_raw(number).expect("signal");
            let _ = rustix::process::kill_process_group(group, signal);
        }
        // The client has gone.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::HUP);
    });
    let status = child.wait().expect("wait");
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => FromSession::Exited { code },
        (None, signal) => FromSession::Killed { signal: signal.expect("signal") },
    };
    say(&session, &end, &[]);
    // The thread above has a duplicate: shut down, so that the client sees the end in any case.
    let _ = rustix::net::shutdown(&session, rustix::net::Shutdown::Both);
}

pub fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Gives `command` this terminal for its own.
pub fn own_terminal(command: &mut Command, slave: OwnedFd) {
    let dup = || Stdio::from(slave.try_clone().expect("dup"));
    command.stdin(dup()).stdout(dup()).stderr(dup());
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(&slave)?;
            Ok(())
        });
    }
}

/// A person at a terminal who has started `plab`.
pub struct Person {
    pub master: OwnedFd,
    pub child: Child,
    /// Everything seen so far.
    pub seen: String,
}

impl Person {
    pub fn starts(node: &Node, args: &[&str], rows: u16, cols: u16) -> Person {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let slave = ioctl_tiocgptpeer(&master, flags).expect("slave");
        rustix::termios::tcsetwinsize(&master, winsize(rows, cols)).expect("size");
        let mut command = node.plab(args);
        own_terminal(&mut command, slave);
        let child = command.spawn().expect("start plab");
        // It holds the terminal's other side.
        drop(command);
        rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK)
            .expect("nonblocking");
        Person { master, child, seen: String::new() }
    }

    pub fn types(&self, keys: &str) {
        assert_eq!(rustix::io::write(&self.master, keys.as_bytes()), Ok(keys.len()));
    }

    /// Waits until `text` is on the screen; forgets everything up to it.
    pub fn sees(&mut self, text: &str) {
        let start = Instant::now();
        loop {
            self.look();
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            if start.elapsed() > PATIENCE {
                let seen: String = self.seen.chars().take(1000).collect();
                panic!("{text:?} does not come; seen: {seen:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn look(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(&self.master, &mut chunk) {
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    }

    /// Whether the terminal shows what is typed and edits lines: its normal state.
    pub fn has_a_sane_terminal(&self) -> bool {
        use rustix::termios::LocalModes;
        let mode = rustix::termios::tcgetattr(&self.master).expect("mode").local_modes;
        mode.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    pub fn waits(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            self.look();
            if let Some(status) = self.child.try_wait().expect("wait") {
                self.look();
                return status.code().unwrap_or_else(|| -status.signal().expect("signal"));
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("plab does not end; seen: {:?}", self.seen);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
