//! plabd as a service manager sees it: where its capsules live, what it tells about itself, and what of its own
//! surroundings must not reach a capsule. That systemd does its part is tested where there is one, in `package.rs`.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use plab_sandbox::cgroup::tree_name;
use plab_tests::{TestNode, binary, eventually};
use rustix::fs::XattrFlags;
use rustix::process::{Pid, Signal, kill_process};

/// Where the tree of v2 is mounted.
fn unified() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
    line.split(' ').nth(4).expect("a mount point").into()
}

/// A cgroup as a service manager makes it for a unit.
struct Unit {
    path: PathBuf,
}

impl Unit {
    fn make(name: &str) -> Self {
        let top = unified();
        for controller in
            std::fs::read_to_string(top.join("cgroup.controllers")).expect("read").split_whitespace()
        {
            if ["cpu", "memory", "pids"].contains(&controller) {
                std::fs::write(top.join("cgroup.subtree_control"), format!("+{controller}")).expect("enable");
            }
        }
        let path = top.join(format!("plab-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a cgroup for the unit");
        Self { path }
    }

    /// What `Delegate=yes` does.
    fn delegate(&self) {
        rustix::fs::setxattr(&self.path, "user.delegate", b"1", XattrFlags::empty()).expect("setxattr");
    }

    /// As `/proc/PID/cgroup` shows it.
    fn place(&self) -> String {
        format!("/{}", self.path.file_name().expect("named").to_string_lossy())
    }

    /// A command that runs in it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.path).arg(program);
        command
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let inner: Vec<PathBuf> =
            std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        for path in inner.into_iter().filter(|path| path.is_dir()).chain([self.path.clone()]) {
            let removed = std::fs::remove_dir(&path);
            assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", path.display());
        }
    }
}

/// A program, ended with the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("signal");
    }

    fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("wait")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Most have ended by then.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The socket on which a service manager listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plab-notify-{name}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("bind");
        Self { socket, path }
    }

    /// The next message; none if there is none for so long.
    fn hear(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).expect("timeout");
        let mut text = [0; 4096];
        self.socket.recv(&mut text).ok().map(|n| String::from_utf8_lossy(&text[..n]).into_owned())
    }

    fn hear_one_with(&self, word: &str) -> String {
        eventually(word, || {
            self.hear(Duration::from_secs(1)).filter(|text| text.lines().any(|line| line == word))
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

fn hold(unit: &Unit, manager: &Manager) -> Running {
    let child = unit
        .command(&binary("plab-hold-cgroup"))
        .env("NOTIFY_SOCKET", &manager.path)
        .stdin(Stdio::null())
        .spawn()
        .expect("start the holder");
    let holder = Running(child);
    manager.hear_one_with("READY=1");
    holder
}

#[test]
fn capsules_live_in_the_place_that_plabd_is_given() {
    let (unit, manager) = (Unit::make("place"), Manager::listen("place"));
    unit.delegate();
    let mut holder = hold(&unit, &manager);
    let in_place = || {
        let mut command = Command::new(binary("plabd"));
        command.args(["--cgroup", &unit.place()]);
        command
    };
    let mut node = TestNode::start("place");
    // That first one had none: the directory of a node without a slice goes by hand.
    node.kill_daemon();
    std::fs::remove_dir(unified().join(tree_name(node.root())))
        .expect("an empty directory above all capsules");
    node.start_daemon_by(in_place());
    node.define("site_a", "[memory]\nmax = \"64M\"");
    let pid = node.status("site_a")["pid"].clone();
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the capsule runs");
    let due = format!("0::{}/{}/site_a", unit.place(), tree_name(node.root()));
    assert!(cgroup.lines().any(|line| line == due), "{due} is not in {cgroup}");
    node.plab(&["status", "site_a", "--verify"]).ok();

    // Nothing of these two ends disturbs it, nor does that there is no holder when plabd comes again.
    holder.signal(Signal::KILL);
    holder.wait();
    node.kill_daemon();
    node.start_daemon_by(in_place());
    assert_eq!(node.status("site_a")["pid"], pid);
    assert_eq!(node.event_messages("site_a", "capsule-adopted").len(), 1);
    node.define("site_b", "");
    assert_eq!(node.status("site_b")["state"], "running");
    node.finish();
}

#[test]
fn a_place_that_nobody_gave_away_is_refused() {
    let unit = Unit::make("refused");
    let mut node = TestNode::start("refused");
    node.kill_daemon();
    let refusal = |place: &str| {
        let output = Command::new(binary("plabd"))
            .args(["--cgroup", place, "--root"])
            .arg(node.root())
            .output()
            .expect("start plabd");
        assert_eq!(output.status.code(), Some(1), "{place}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for place in ["/", "plab", "/../etc", "/plab-test-not-there"] {
        assert!(refusal(place).contains(place), "{place}");
    }
    assert!(refusal(&unit.place()).contains("it was not delegated"));
    unit.delegate();
    let mut inside =
        Running(unit.command(Path::new("sleep")).arg("600").stdin(Stdio::null()).spawn().expect("sleep"));
    let pid = inside.0.id();
    eventually("it is inside", || {
        let procs = std::fs::read_to_string(unit.path.join("cgroup.procs")).expect("read");
        procs.lines().any(|line| line == pid.to_string()).then_some(())
    });
    assert!(refusal(&unit.place()).contains(&format!("it has processes of its own: {pid}")));
    inside.signal(Signal::KILL);
    inside.wait();
    node.finish();
}

#[test]
fn the_holder_ends_what_is_left_when_it_is_told_to_end() {
    let (unit, manager) = (Unit::make("end"), Manager::listen("end"));
    unit.delegate();
    let mut holder = hold(&unit, &manager);
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", holder.0.id())).expect("it runs");
    assert!(own.lines().any(|line| line == format!("0::{}/holder", unit.place())), "{own}");
    let beside = Unit { path: unit.path.join("beside") };
    std::fs::create_dir(&beside.path).expect("mkdir");
    // Asks for nothing politely: SIGTERM would not end it.
    let mut left = Running(
        beside
            .command(Path::new("sh"))
            .args(["-c", "trap '' TERM; while :; do sleep 600; done"])
            .stdin(Stdio::null())
            .spawn()
            .expect("sh"),
    );
    eventually("it is beside the holder", || {
        let events = std::fs::read_to_string(beside.path.join("cgroup.events")).expect("read");
        events.contains("populated 1").then_some(())
    });
    holder.signal(Signal::TERM);
    assert!(holder.wait().success());
    assert!(!left.wait().success());
    drop(beside);
}

#[test]
fn a_holder_takes_only_what_was_given_to_it() {
    let unit = Unit::make("not-given");
    let output = unit.command(&binary("plab-hold-cgroup")).output().expect("start the holder");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it was not delegated"), "{output:?}");
}

#[test]
fn nothing_of_the_services_environment_reaches_a_capsule() {
    let manager = Manager::listen("inherits");
    let mut node = TestNode::start("inherits");
    node.kill_daemon();
    let mut command = Command::new(binary("plabd"));
    let own = ["NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "WATCHDOG_USEC"];
    for name in own {
        command.env(name, &manager.path);
    }
    node.start_daemon_by(command);
    node.define("site_a", "");
    let environment = node.sh("site_a", "env; tr '\\0' '\\n' </proc/1/environ; true").ok();
    for name in own {
        assert!(!environment.contains(name), "{name} is in {environment}");
    }
    let pid = node.status("site_a")["pid"].clone();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("root may read it"), "");
    node.finish();
}

/// Stops one thread of a process, as nothing but a tracer can, until dropped.
struct Stopped(i32);

impl Stopped {
    fn thread(pid: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
        let tid: i32 = tasks
            .map(|task| task.path())
            .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name))
            .and_then(|task| task.file_name()?.to_str()?.parse().ok())
            .expect("a thread of that name");
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the request takes no memory of this process.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, null, null) }, 0, "seize");
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, null, null) }, 0, "interrupt");
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        assert_eq!(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) }, tid, "it stops");
        Self(tid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as in `thread`.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

#[test]
fn the_pulse_stops_with_the_ledger_and_comes_back() {
    let manager = Manager::listen("pulse");
    let mut node = TestNode::start("pulse");
    node.define("site_a", "");
    node.kill_daemon();
    let mut command = Command::new("sh");
    // As systemd says whom it means.
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""]).arg(binary("plabd"));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000");
    node.start_daemon_by(command);
    let ready = manager.hear_one_with("READY=1");
    // Ready means that what a former plabd left was found again.
    assert!(ready.contains("STATUS=1 slices: 1 running"), "{ready}");
    manager.hear_one_with("WATCHDOG=1");

    let stopped = Stopped::thread(node.daemon_pid(), "ledger");
    // What was on its way; the socket holds a few.
    while manager.hear(Duration::from_millis(500)).is_some() {}
    assert_eq!(
        manager.hear(Duration::from_secs(2)),
        None,
        "ten beats were due from a plabd whose ledger hangs"
    );
    drop(stopped);
    manager.hear_one_with("WATCHDOG=1");
    node.finish();
    manager.hear_one_with("STOPPING=1");
}
