//! Who uses raw sockets: inside a slice, or outside as root.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use plab_tests::{TestNode, binary, eventually};

const PROGRAM: &str = include_str!("raw.py");

/// Puts the program into a slice.
pub fn equip(node: &TestNode, slice: &str) {
    node.put(slice, "raw.py", PROGRAM.as_bytes(), 0o644);
}

/// What a thing tried in a slice came to.
pub fn inside(node: &TestNode, slice: &str, words: &str) -> String {
    let mut argv = vec!["python3", "raw.py"];
    argv.extend(words.split(' '));
    let output = node.exec(slice, &argv);
    assert_eq!(output.code, 0, "{words}: {output:?}");
    output.stdout.trim().to_owned()
}

/// What the same came to outside, as root.
pub fn outside(words: &str) -> String {
    let output = python(words).output().expect("start python3");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn python(words: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).args(words.split(' '));
    command
}

/// Who hands a raw socket to whoever connects.
pub struct Giver(Child, std::io::BufReader<std::process::ChildStdout>);

impl Giver {
    /// In a slice, at this path in its home.
    pub fn start(node: &TestNode, slice: &str, path: &str) -> Self {
        use std::io::BufRead;
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "raw.py", "pass_on"]);
        command.arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a giver");
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Self(child, output)
    }

    /// What it came to.
    pub fn ended(mut self) -> String {
        use std::io::Read;
        let mut said = String::new();
        self.1.read_to_string(&mut said).expect("read");
        self.0.wait().expect("wait");
        said.trim().to_owned()
    }
}

/// Who has a connection to itself, or two sockets of UDP, on ports that the kernel chose.
pub struct Holder {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
    /// The port of the side that connected, and of the other.
    pub ports: (u16, u16),
}

impl Holder {
    /// In a slice.
    pub fn inside(node: &TestNode, slice: &str, words: &str) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "raw.py", "hold"]);
        command.args(words.split(' '));
        Self::of(command)
    }

    /// Outside, as root.
    pub fn outside(words: &str) -> Self {
        Self::of(python(&format!("hold {words}")))
    }

    fn of(mut command: Command) -> Self {
        use std::io::BufRead;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a holder");
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        let mut ports = line.split_whitespace().map(|port| port.parse().expect("a port"));
        let ports = (ports.next().expect("a port"), ports.next().expect("a port"));
        Self { child, output, ports }
    }

    /// Ends it; what it says.
    pub fn ended(mut self) -> String {
        use std::io::{Read, Write};
        self.child.stdin.take().expect("piped").write_all(b"\n").expect("write");
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("read");
        self.child.wait().expect("wait");
        said.trim().to_owned()
    }
}

/// Somebody who hears what there is to hear until told to end.
pub struct Listener {
    child: Child,
    directory: PathBuf,
}

impl Listener {
    /// In a slice, by a raw socket of UDP or TCP, of the address's version of IP.
    pub fn of_ports(node: &TestNode, slice: &str, protocol: &str, address: &str) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "raw.py", "hear"]);
        command.args([protocol, address, "ready", "until"]);
        Self::of(command, node.home(slice))
    }

    /// The same outside, as root.
    pub fn of_ports_outside(protocol: &str, address: &str) -> Self {
        let family = if address.contains(':') { "10" } else { "2" };
        let directory =
            std::env::temp_dir().join(format!("plab-raw-{}-{protocol}-{family}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("make a directory");
        let mut command = python(&format!("hear {protocol} {address} ready until"));
        command.current_dir(&directory);
        Self::of(command, directory)
    }

    /// In a slice, by a raw socket of ICMP of this family.
    pub fn inside(node: &TestNode, slice: &str, family: &str) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "raw.py", "listen"]);
        command.args([family, "ready", "until"]);
        Self::of(command, node.home(slice))
    }

    /// Outside, as root.
    pub fn outside(family: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("plab-raw-{}-{family}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("make a directory");
        let mut command = python(&format!("listen {family} ready until"));
        command.current_dir(&directory);
        Self::of(command, directory)
    }

    fn of(mut command: Command, directory: PathBuf) -> Self {
        for name in ["ready", "until"] {
            std::fs::remove_file(directory.join(name)).ok();
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start a listener");
        let listener = Self { child, directory };
        eventually("it listens", || listener.directory.join("ready").exists().then_some(()));
        listener
    }

    /// Ends it; what it says.
    pub fn ended(mut self) -> String {
        use std::io::Read;
        std::fs::write(self.directory.join("until"), "").expect("write");
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("read");
        self.child.wait().expect("wait");
        said.trim().to_owned()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let own = format!("plab-raw-{}-", std::process::id());
        if self.directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)) {
            std::fs::remove_dir_all(&self.directory).ok();
        }
    }
}
