//! Who acts on the network: inside a slice, or outside as root.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use plab_tests::{TestNode, binary};

const PROGRAM: &str = include_str!("net.py");

/// Puts the program into a slice.
pub fn equip(node: &TestNode, slice: &str) {
    node.put(slice, "net.py", PROGRAM.as_bytes(), 0o644);
}

/// What a thing tried in a slice came to.
pub fn inside(node: &TestNode, slice: &str, words: &str) -> String {
    let mut argv = vec!["python3", "net.py"];
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

/// A server that runs until this is dropped.
pub struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Where it is.
    pub port: u16,
}

impl Server {
    /// Starts `serve PROTOCOL ADDRESS PORT WORD` in a slice.
    pub fn inside(node: &TestNode, slice: &str, words: &str) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "net.py", "serve"]);
        Self::of(command.args(words.split(' ')))
    }

    /// Starts one outside, as root.
    pub fn outside(words: &str) -> Self {
        Self::of(&mut python(&format!("serve {words}")))
    }

    /// The same, unless it cannot have the port.
    pub fn try_outside(words: &str) -> Option<Self> {
        Self::try_of(&mut python(&format!("serve {words}"))).ok()
    }

    fn of(command: &mut Command) -> Self {
        Self::try_of(command).unwrap_or_else(|said| panic!("the server said {said:?}"))
    }

    fn try_of(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start a server");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let line = line(&mut output);
        match line.strip_prefix("ready ").and_then(|port| port.parse().ok()) {
            Some(port) => Ok(Self { child, output, port }),
            None => {
                child.wait().expect("wait for what said so");
                Err(line)
            }
        }
    }

    /// Waits for its end, and tells its last word.
    pub fn ended(mut self) -> String {
        let said = line(&mut self.output);
        self.child.wait().expect("wait for the server");
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Of a client the session goes with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("read");
    line.trim().to_owned()
}
