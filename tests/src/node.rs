//! A node of a test's own, below a temporary root, beside whatever else runs on the machine.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::command::{Output, output_of_input};
use crate::leftovers;
use crate::wait::eventually;

/// One of the project's programs. `make test` builds them and says where; by hand it is `target/release`.
///
/// # Panics
/// It was not built.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("PLAB_BIN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is not there: run `make build` first", path.display());
    path
}

/// A node: plabd on a temporary root. Dropped, it is drained and everything of it must be gone.
pub struct TestNode {
    root: PathBuf,
    first_uid: u32,
    daemon: Option<Child>,
    checked: bool,
    /// Held as long as the UIDs are.
    _slot: UnixListener,
}

/// UIDs that one test node hands out.
const UIDS: u32 = 1500;

/// The first of them all. Those before are left to a node that is installed on the machine, as in the lane `node`,
/// which gives its slices one after the other from 70000 on while test nodes run beside it.
const FIRST_UID: u32 = 71_500;

/// Ranges of UIDs there are.
const SLOTS: u32 = 19;

/// A range of UIDs that no other test on this machine uses now, by the name of a socket: only one process has it, it
/// goes with that process, and no file is left behind.
fn free_slot() -> (u32, UnixListener) {
    eventually("a range of UIDs is free", || {
        (0..SLOTS).find_map(|slot| {
            let name = format!("plab-test-slot-{slot}");
            let address = SocketAddr::from_abstract_name(name).expect("a name");
            Some((slot, UnixListener::bind_addr(&address).ok()?))
        })
    })
}

impl TestNode {
    /// Starts a node.
    ///
    /// # Panics
    /// Not run as root, or plabd does not start.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, "")
    }

    /// Starts a node whose node file has further lines at its end, such as tables.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(name: &str, node_file: &str) -> Self {
        Self::start_by(name, node_file, |_| Command::new(binary("plabd")))
    }

    /// Starts a node as [`Self::start_with`], plabd by the command that `make` makes for its root; see
    /// [`Self::start_daemon_by`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_by(name: &str, node_file: &str, make: impl FnOnce(&Path) -> Command) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make capsules: run them as root");
        let (slot, lock) = free_slot();
        let first_uid = FIRST_UID + slot * UIDS;
        // Storage is to be on a disk, as a node's is: /tmp may be memory, which nothing can reclaim.
        let root = Path::new("/var/tmp").join(format!("plab-{name}-{}-{slot}", std::process::id()));
        // Slices must be able to pass: mktemp's 0700 would shut them off from nothing, but tests look inside.
        std::fs::create_dir_all(root.join("etc/planetlab/slices.d")).expect("make the root");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut node = Self { root, first_uid, daemon: None, checked: false, _slot: lock };
        node.write_node_file(node_file);
        node.start_daemon_by(make(&node.root));
        node
    }

    /// Writes the node file; takes effect at the next start of plabd.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write_node_file(&self, more: &str) {
        let text = format!(
            "name = \"node1.example.org\"\naddress = \"192.0.2.1\"\nuids = \"{}-{}\"\n\
             degrade = [\"memory.oom-group\", \"audit\"]\n{more}\n",
            self.first_uid,
            self.first_uid + UIDS - 1
        );
        std::fs::write(self.root.join("etc/planetlab/node.toml"), text).expect("write node.toml");
    }

    /// Starts plabd and waits until it answers.
    ///
    /// # Panics
    /// It ends instead, or never answers.
    pub fn start_daemon(&mut self) {
        self.start_daemon_by(Command::new(binary("plabd")));
    }

    /// Starts plabd by this command, which takes plabd's own arguments and becomes it.
    ///
    /// # Panics
    /// As [`Self::start_daemon`].
    pub fn start_daemon_by(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("open log");
        let daemon = command
            .args(["--drain-on-exit", "--root"])
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start plabd");
        self.daemon = Some(daemon);
        let mut daemon = self.daemon.take().expect("just started");
        eventually("plabd answers", || {
            if let Some(status) = daemon.try_wait().expect("wait") {
                panic!("plabd ended with {status}:\n{}", self.log());
            }
            (self.plab(&["status", "--json"]).code == 0).then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Where the node's files are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// plabd's PID.
    ///
    /// # Panics
    /// plabd is not running.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("plabd runs").id()
    }

    /// The UIDs this node gives to slices.
    pub fn uids(&self) -> std::ops::RangeInclusive<u32> {
        self.first_uid..=self.first_uid + UIDS - 1
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("plabd.log")
    }

    /// What plabd wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Kills plabd with SIGKILL; capsules run on.
    ///
    /// # Panics
    /// plabd is not running.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("plabd runs");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }

    /// Changes the ledger, by one statement of SQLite's, while there is no plabd.
    ///
    /// # Panics
    /// There is one, or the statement changes nothing.
    pub fn change_ledger(&self, statement: &str) {
        let change = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); \
                      sys.exit(db.execute(sys.argv[2]).rowcount < 1)";
        let ledger = self.root().join("var/lib/planetlab/ledger.sqlite");
        let changed = Command::new("python3").args(["-c", change]).arg(ledger).arg(statement).output();
        let changed = changed.expect("start python3");
        assert!(changed.status.success(), "{statement}: {changed:?}");
    }

    /// Ends plabd in order, and every capsule with it.
    ///
    /// # Panics
    /// plabd is not running.
    pub fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("plabd runs");
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        daemon.wait().expect("wait");
    }

    /// Runs `plab` against this node.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn plab(&self, args: &[&str]) -> Output {
        self.plab_with_input(args, b"")
    }

    /// Runs `plab` with this on its standard input.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn plab_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        output_of_input(Command::new(binary("plab")).arg("--root").arg(&self.root).args(args), input)
    }

    /// Where a slice's definition is.
    pub fn definition_path(&self, slice: &str) -> PathBuf {
        self.root.join(format!("etc/planetlab/slices.d/{slice}.toml"))
    }

    /// A definition with this at its end.
    pub fn definition(slice: &str, more: &str) -> String {
        format!("name = \"{slice}\"\ncontact = \"pi@example.org\"\nnodes = [\"node1.example.org\"]\n{more}\n")
    }

    /// Defines a slice (through `plab apply`) and waits until it is in effect.
    ///
    /// # Panics
    /// It is refused, or does not run.
    pub fn define(&self, slice: &str, more: &str) {
        self.plab_with_input(&["apply", "-"], Self::definition(slice, more).as_bytes()).ok();
    }

    /// Runs a command in a slice.
    pub fn exec(&self, slice: &str, argv: &[&str]) -> Output {
        let mut args = vec!["exec", slice, "--"];
        args.extend(argv);
        self.plab(&args)
    }

    /// Runs a shell script in a slice.
    pub fn sh(&self, slice: &str, script: &str) -> Output {
        self.exec(slice, &["bash", "-c", script])
    }

    /// Puts a file into a slice's home, as its owner would with scp.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn put(&self, slice: &str, path: &str, content: &[u8], mode: u32) {
        let script = format!(
            "mkdir -p \"$(dirname '{path}')\" && cat > '{path}.part' && chmod {mode:o} '{path}.part' && mv '{path}.part' '{path}'"
        );
        self.plab_with_input(&["exec", slice, "--", "bash", "-c", &script], content).ok();
    }

    /// One slice's status as JSON; null if there is no such slice.
    ///
    /// # Panics
    /// plabd does not answer with JSON.
    pub fn status(&self, slice: &str) -> Value {
        let all = self.node_status();
        all["slices"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == slice)
            .cloned()
            .unwrap_or(Value::Null)
    }

    /// The whole status as JSON.
    ///
    /// # Panics
    /// plabd does not answer with JSON.
    pub fn node_status(&self) -> Value {
        serde_json::from_str(&self.plab(&["status", "--json"]).ok()).expect("JSON")
    }

    /// All events as JSON.
    ///
    /// # Panics
    /// plabd does not answer with JSON.
    pub fn events(&self, slice: Option<&str>) -> Vec<Value> {
        let mut args = vec!["events", "--json"];
        args.extend(slice);
        let text = self.plab(&args).ok();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["events"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a slice is in this state.
    ///
    /// # Panics
    /// It never is.
    pub fn await_state(&self, slice: &str, state: &str) {
        eventually(&format!("{slice} is {state}"), || (self.status(slice)["state"] == state).then_some(()));
    }

    /// Ends the node in order and checks that nothing is left.
    ///
    /// # Panics
    /// Something is.
    pub fn finish(mut self) {
        self.end();
        let left = leftovers::of_node(&self.root, self.uids());
        self.checked = true;
        std::fs::remove_dir_all(&self.root).expect("remove the root");
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    fn end(&mut self) {
        if self.daemon.is_none() {
            // Killed by the test: a last plabd puts things in order.
            self.start_daemon();
        }
        let mut daemon = self.daemon.take().expect("runs");
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        daemon.wait().expect("wait for plabd");
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if self.checked {
            return;
        }
        // A test that failed: clean up all the same, and keep the log for whoever looks.
        eprintln!("plabd's log:\n{}", self.log());
        if let Some(mut daemon) = self.daemon.take() {
            let pid = rustix::process::Pid::from_child(&daemon);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            daemon.wait().ok();
        } else if let Ok(mut daemon) =
            Command::new(binary("plabd")).args(["--drain-on-exit", "--root"]).arg(&self.root).spawn()
        {
            std::thread::sleep(std::time::Duration::from_secs(2));
            rustix::process::kill_process(
                rustix::process::Pid::from_child(&daemon),
                rustix::process::Signal::TERM,
            )
            .ok();
            daemon.wait().ok();
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}
