//! The stage: a node with an attacker, a neighbour, others to be used up; victims; the actor in its places.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use plab_tests::{TestNode, binary, eventually, slowness};

use crate::case::{Place, Seen};

/// How long a victim is there, in seconds: longer than all cases take.
fn stay() -> u32 {
    300 * slowness()
}

/// The attacking slice. Its name is a prefix of its neighbour's.
pub const ATTACKER: &str = "site_sl1";
/// The slice whose things it wants.
pub const NEIGHBOUR: &str = "site_sl10";

/// A port of the neighbour's, by each protocol that has ports.
pub const NEIGHBOUR_PORT: u16 = 8791;
/// The slice that is there to run out of things.
pub const HOG: &str = "hog";
/// A user outside who owns nothing.
const NOBODY: u32 = 65534;

/// Everything a case needs.
pub struct Stage {
    /// The node.
    pub node: TestNode,
    /// The neighbour's process, with its PID outside.
    pub neighbour_pid: u32,
    /// A process of an ordinary user outside.
    pub host_pid: u32,
    /// What the neighbour's victim calls its things.
    pub neighbour_name: String,
    /// What the victim outside calls its things.
    pub host_name: String,
    /// The System V key of all victims.
    pub key: i32,
    /// A directory of the machine that slices see read-only, with files that everybody may write.
    pub shared: PathBuf,
    /// A directory of the machine that no slice sees.
    pub outside: PathBuf,
    victims: Vec<Held>,
    seqpacket: OwnedFd,
    _swept: Swept,
}

/// A directory that goes, whatever happens.
struct Swept(PathBuf);

impl Drop for Swept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An actor that holds what it took until it is let go.
#[derive(Debug)]
pub struct Held {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Held {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// What it came to, if it ends instead.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(mut command: Command) -> Result<Self, Seen> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start an actor");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("read");
        if line == "ready\n" {
            return Ok(Self { child, stdin, stdout });
        }
        drop(stdin);
        let status = child.wait().expect("wait");
        Err(seen(status.code(), &line))
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go; what it came to.
    ///
    /// # Panics
    /// It cannot be waited for.
    pub fn release(mut self) -> Seen {
        self.stdin.take();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("read");
        let status = self.child.wait().expect("wait");
        seen(status.code(), &rest)
    }
}

/// Reads the actor's line, or how it ended.
fn seen(code: Option<i32>, stdout: &str) -> Seen {
    let line = stdout.lines().next_back().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    if let Some(number) = value["errno"].as_i64() {
        return Seen::Errno(i32::try_from(number).unwrap_or_default());
    }
    if let Some(detail) = value["detail"].as_str() {
        return reply(detail).map_or_else(|| Seen::Worked(detail.to_owned()), Seen::Reply);
    }
    match code {
        Some(code) if code > 128 => Seen::Killed(code - 128),
        Some(code) => Seen::Nothing(format!("exit status {code}")),
        None => Seen::Nothing("killed here".to_owned()),
    }
}

/// A reply of plabd, or a word of a session, if this is one.
fn reply(detail: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(detail).ok()?;
    let kind = value["code"].as_str().or(value["reply"].as_str()).or(value["say"].as_str())?;
    Some(kind.to_owned())
}

impl Stage {
    /// Sets everything up.
    ///
    /// # Panics
    /// Something does not come up.
    pub fn set() -> Self {
        let id = std::process::id();
        let shared = PathBuf::from(format!("/opt/plab-attacks-{id}"));
        std::fs::create_dir_all(&shared).expect("make a directory below /opt");
        let node = TestNode::start_with(
            "attacks",
            "[view]\nallow = [\"/opt\"]\n[defaults]\nstatus_interval = \"1s\"\nstop_grace = \"1s\"",
        );
        let outside = node.root().join("outside");
        let mut stage = Self {
            _swept: Swept(shared.clone()),
            neighbour_pid: 0,
            host_pid: 0,
            neighbour_name: format!("plab-neighbour-{id}"),
            host_name: format!("plab-host-{id}"),
            key: 0x706c_0000 + (id as i32 & 0xffff),
            shared,
            outside,
            node,
            victims: Vec::new(),
            seqpacket: rustix::net::socket(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::SEQPACKET,
                None,
            )
            .expect("a socket"),
        };
        stage.make_files();
        // For controls: to connect to a capsule's own socket as root would take plabd's place there.
        let address = rustix::net::SocketAddrUnix::new(stage.outside.join("seqpacket")).expect("an address");
        rustix::net::bind(&stage.seqpacket, &address).expect("bind");
        rustix::net::listen(&stage.seqpacket, 16).expect("listen");
        let view = format!("[view]\npaths = [\"ro:{}\"]", stage.shared.display());
        stage.node.define(ATTACKER, &format!("[memory]\nmax = \"64M\"\n[tasks]\nmax = 64\n{view}"));
        let ports: Vec<_> =
            ["tcp", "udp", "udplite"].map(|protocol| format!("\"{protocol}/{NEIGHBOUR_PORT}\"")).into();
        let ports = ports.join(", ");
        stage.node.define(
            NEIGHBOUR,
            &format!("[memory]\nmax = \"64M\"\n[tasks]\nmax = 64\n[network]\nports = [{ports}]"),
        );
        // As much as a definition that says nothing gets: enough to run other things out first.
        stage.node.define(HOG, "[memory]\nmax = \"256M\"\n[tasks]\nmax = 40");
        let actor = std::fs::read(stage.actor()).expect("read the actor");
        for slice in [ATTACKER, NEIGHBOUR, HOG] {
            stage.node.put(slice, "attacker", &actor, 0o755);
        }
        stage.node.put(NEIGHBOUR, "secret", b"the neighbour's\n", 0o644);
        stage.start_victims();
        stage
    }

    /// Files outside, open to everybody as far as modes go.
    fn make_files(&self) {
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        std::fs::create_dir(&self.outside).expect("mkdir");
        chmod(&self.outside, 0o777);
        chmod(&self.shared, 0o777);
        let built = Path::new(env!("CARGO_BIN_EXE_attacker"));
        std::fs::copy(built, self.actor()).expect("copy the actor");
        chmod(&self.actor(), 0o755);
        std::fs::copy("/usr/bin/true", self.outside.join("true")).expect("copy a program");
        for (path, mode) in [(self.shared.join("wide"), 0o666), (self.outside.join("wide"), 0o666)] {
            std::fs::write(&path, "as it was\n").expect("write");
            chmod(&path, mode);
        }
        for (name, mode) in [("setuid", 0o6755), ("capable", 0o755)] {
            let path = self.shared.join(name);
            std::fs::copy(built, &path).expect("copy the actor");
            chmod(&path, mode);
        }
        let capable = self.shared.join("capable").display().to_string();
        let seen = self.act(Place::Root, &["setxattr".into(), capable, "security.capability".into()]);
        assert!(matches!(seen, Seen::Worked(_)), "cannot give a file a capability: {seen}");
    }

    fn start_victims(&mut self) {
        let args =
            |name: &str| vec!["victim".to_owned(), self.key.to_string(), name.to_owned(), stay().to_string()];
        let start = |place, name| Held::start(self.command(place, &args(name))).expect("a victim");
        let neighbour = start(Place::Neighbour, &self.neighbour_name);
        let host = start(Place::Nobody, &self.host_name);
        // timeout(1) runs the actor as its child.
        self.host_pid = eventually("the victim outside is there", || child_of(host.pid()));
        let uid = self.uid(NEIGHBOUR);
        self.neighbour_pid = eventually("the neighbour's victim is there", || process_of(uid, "attacker"));
        self.victims = vec![neighbour, host];
    }

    /// The actor outside.
    pub fn actor(&self) -> PathBuf {
        self.outside.join("attacker")
    }

    /// The control socket.
    pub fn socket(&self) -> String {
        self.node.root().join("run/planetlab/control.sock").display().to_string()
    }

    /// A slice's home, as the node sees it.
    pub fn home(&self, slice: &str) -> PathBuf {
        self.node.root().join("var/lib/planetlab/slices").join(slice).join("home").join(slice)
    }

    /// A slice's UID.
    pub fn uid(&self, slice: &str) -> u32 {
        self.node.status(slice)["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok()).expect("a UID")
    }

    /// PID 1 of a slice's capsule, as the node sees it.
    pub fn init_pid(&self, slice: &str) -> u64 {
        self.node.status(slice)["pid"].as_u64().unwrap_or_default()
    }

    /// How to run the actor in a place. Nothing runs longer than 40 seconds of a machine that is not slow.
    pub fn command(&self, place: Place, args: &[String]) -> Command {
        let mut command = Command::new("timeout");
        // A victim is to stay for as long as the cases run.
        let most = if args[0] == "victim" { stay() } else { 40 * slowness() };
        command.args(["--foreground", "--kill-after=2", &most.to_string()]);
        let slice = match place {
            Place::Capsule => Some(ATTACKER),
            Place::Neighbour => Some(NEIGHBOUR),
            Place::Hog => Some(HOG),
            _ => None,
        };
        if let Some(slice) = slice {
            command.arg(binary("plab")).arg("--root").arg(self.node.root()).args([
                "exec",
                slice,
                "--",
                "./attacker",
            ]);
        } else {
            command.arg(self.actor());
        }
        match place {
            Place::SliceUser => drop(command.arg("--as").arg(self.uid(ATTACKER).to_string())),
            Place::Nobody => drop(command.arg("--as").arg(NOBODY.to_string())),
            Place::RootOwnMounts => drop(command.arg("--private-mounts")),
            _ => {}
        }
        command.args(args);
        command
    }

    /// Runs the actor in a place; what it came to.
    pub fn act(&self, place: Place, args: &[String]) -> Seen {
        self.act_with(place, args, Stdio::null(), Stdio::piped())
    }

    /// The same with these as standard input and standard error.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn act_with(&self, place: Place, args: &[String], stdin: Stdio, stderr: Stdio) -> Seen {
        let output = self
            .command(place, args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .and_then(Child::wait_with_output)
            .expect("run an actor");
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        match seen(code, &String::from_utf8_lossy(&output.stdout)) {
            Seen::Nothing(why) => {
                Seen::Nothing(format!("{why}; {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            other => other,
        }
    }

    /// Neighbour, host and node are as they were.
    pub fn all_alive(&self) -> Result<(), String> {
        for (pid, what) in [
            (self.neighbour_pid, "the neighbour's process"),
            (self.host_pid, "the process outside"),
            (self.node.daemon_pid(), "plabd"),
        ] {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = state.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if !matches!(state, Some('S' | 'R' | 'D')) {
                return Err(format!("{what} (PID {pid}) is in state {state:?}"));
            }
        }
        Ok(())
    }

    /// All alive, and this slice's PID 1 is the one it was and answers.
    pub fn init_alive(&self, slice: &str, pid: u64) -> Result<(), String> {
        self.all_alive()?;
        let now = self.init_pid(slice);
        if now != pid {
            return Err(format!("PID 1 of {slice} was {pid} and is {now}"));
        }
        let output = self.node.exec(slice, &["true"]);
        if output.code == 0 {
            Ok(())
        } else {
            Err(format!("{slice} runs no commands: {}", output.stderr.trim()))
        }
    }

    /// Both world-writable files hold what they held.
    pub fn files_unchanged(&self) -> Result<(), String> {
        for path in [self.shared.join("wide"), self.outside.join("wide")] {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text != "as it was\n" {
                return Err(format!("{} now holds {text:?}", path.display()));
            }
        }
        let secret = std::fs::read_to_string(self.home(NEIGHBOUR).join("secret")).unwrap_or_default();
        if secret == "the neighbour's\n" {
            Ok(())
        } else {
            Err(format!("the neighbour's secret is now {secret:?}"))
        }
    }

    /// Starts a slice's capsule again unless it runs: taking too much may have ended it.
    ///
    /// # Panics
    /// It does not start.
    pub fn revive(&self, slice: &str) {
        if self.node.status(slice)["state"] != "running" {
            self.node.plab(&["restart", slice]).ok();
        }
    }

    /// Lets the victims go and ends the node.
    ///
    /// # Panics
    /// Something is left behind.
    pub fn strike(mut self) {
        for victim in self.victims.drain(..) {
            let seen = victim.release();
            assert_eq!(seen, Seen::Worked("gone".to_owned()), "a victim did not end in order");
        }
        self.node.finish();
    }
}

/// A child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// A process of this user with this name.
pub fn process_of(uid: u32, name: &str) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let is = |key: &str, wanted: &str| {
            status.lines().any(|line| {
                line.strip_prefix(key).and_then(|rest| rest.split_whitespace().next()) == Some(wanted)
            })
        };
        (is("Name:", name) && is("Uid:", &uid.to_string())).then_some(pid)
    })
}
