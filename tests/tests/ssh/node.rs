//! The node that is installed here, slices for a test, and ssh to them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use plab_tests::Output;
pub use plab_tests::command::output;
pub use plab_tests::installed::plab;
use plab_tests::installed::{InstalledSlice, plab_json};
use serde_json::Value;

/// The sessions of a slice.
pub fn sessions(slice: &str) -> Vec<Value> {
    plab_json(&["sessions", slice, "--json"])["sessions"].as_array().cloned().expect("a list")
}

/// The slice's entry in the status.
pub fn status(slice: &str) -> Value {
    plab_json(&["status", slice, "--json"])["slices"][0].clone()
}

/// Messages of a slice's events of one kind.
pub fn events(slice: &str, kind: &str) -> Vec<String> {
    let all = plab_json(&["events", slice, "--json"]);
    let all = all["events"].as_array().cloned().unwrap_or_default();
    all.iter()
        .filter(|event| event["kind"] == kind)
        .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A directory of the test's own, with keys in it.
pub struct Stage {
    pub directory: PathBuf,
}

/// A key pair: the private half's file, the line for a definition, the fingerprint.
#[derive(Clone)]
pub struct Key {
    pub file: PathBuf,
    pub line: String,
    pub fingerprint: String,
}

impl Stage {
    pub fn new(name: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests define slices: run them as root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("plab-ssh-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("mkdir");
        Self { directory }
    }

    /// Makes a key.
    pub fn key(&self, name: &str) -> Key {
        let file = self.directory.join(name);
        output(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&file),
        )
        .ok();
        let line = std::fs::read_to_string(file.with_extension("pub")).expect("the public half");
        let listed = output(Command::new("ssh-keygen").arg("-lf").arg(&file)).ok();
        let fingerprint = listed.split(' ').nth(1).expect("a fingerprint").to_owned();
        Key { file, line: line.trim().to_owned(), fingerprint }
    }

    /// Where a file of the test's is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// A slice of a test's, with keys; removed with it.
pub struct Slice {
    pub name: String,
    installed: InstalledSlice,
}

impl Slice {
    /// Defines it and waits until it runs.
    pub fn define(name: &str, keys: &[&Key], more: &str) -> Self {
        let installed = InstalledSlice::define(name, &with_keys(keys, more));
        Self { name: name.to_owned(), installed }
    }

    /// Changes its definition and waits until that is in effect.
    pub fn change(&self, keys: &[&Key], more: &str) {
        self.installed.change(&with_keys(keys, more));
    }

    /// Its UID.
    pub fn uid(&self) -> u32 {
        u32::try_from(status(&self.name)["uid"].as_u64().expect("a UID")).expect("a UID")
    }

    /// ssh to it with these options.
    pub fn ssh(&self, key: &Key, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(client_options(&key.file)).args(["-p", &port()]).args(options);
        command.arg(format!("{}@127.0.0.1", self.name));
        command
    }

    /// A login that runs a command and stays.
    pub fn stay(&self, key: &Key, options: &[&str]) -> Child {
        let mut child = self
            .ssh(key, options)
            .arg("echo in; exec sleep 1000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start ssh");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("it runs");
        child
    }

    /// Runs a command line by ssh.
    pub fn run(&self, key: &Key, line: &str) -> Output {
        output(self.ssh(key, &[]).arg(line))
    }
}

/// Lines of a definition, these keys before the others.
fn with_keys(keys: &[&Key], more: &str) -> String {
    let lines: Vec<String> = keys.iter().map(|key| format!("{:?}", key.line)).collect();
    format!("keys = [{}]\n{more}", lines.join(", "))
}

/// On which port sshd listens.
pub fn port() -> String {
    std::env::var("PLAB_SSH_PORT").unwrap_or_else(|_| "22".to_owned())
}

/// For every client: this key and nothing of whoever runs the test; no question is asked.
pub fn client_options(key: &Path) -> Vec<String> {
    let mut options: Vec<String> = ["-F", "/dev/null", "-i"].map(String::from).into();
    options.push(key.display().to_string());
    for option in [
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "BatchMode=yes",
    ] {
        options.extend(["-o".to_owned(), option.to_owned()]);
    }
    // A bound for a machine that hangs; where CPUs are emulated a hundred handshakes at once take their time.
    let slow: u32 = std::env::var("PLAB_TEST_SLOW").map_or(1, |slow| slow.parse().expect("a whole number"));
    options.extend(["-o".to_owned(), format!("ConnectTimeout={}", 120 * slow)]);
    options
}

/// Processes of a UID outside capsules: PID and executable.
pub fn outside(uid: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        let own = field("Uid:").split_whitespace().any(|one| one.parse() == Ok(uid));
        // A number in each PID namespace that it is in: a capsule's processes have two.
        let in_capsule = field("NSpid:").split_whitespace().count() > 1;
        if own && !in_capsule && !field("State:").starts_with('Z') {
            let program = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            found.push((pid, program.display().to_string()));
        }
    }
    found
}
