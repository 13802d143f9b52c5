//! Who uses raw sockets: inside a slice, or outside as root.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Netns, TestNode, binary};

const PROGRAM: &str = include_str!("raw.py");

/// Puts the program into a slice.
pub fn equip(node: &TestNode, slice: &str) {
    node.put(slice, "raw.py", PROGRAM.as_bytes(), 0o644);
}

/// `raw.py`, which does what it is told until it is dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Actor {
    /// In a slice.
    pub fn inside(node: &TestNode, slice: &str) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(["exec", slice, "--", "python3", "raw.py"]);
        Self::of(command)
    }

    /// Outside, as root.
    pub fn outside() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]);
        Self::of(command)
    }

    /// The same in another network.
    pub fn outside_in(namespace: &Netns) -> Self {
        let mut command = namespace.command("python3");
        command.args(["-c", PROGRAM]);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start an actor");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Tells it to do something; false if it is no more.
    pub fn tell(&mut self, words: &str) -> bool {
        self.input.write_all(format!("{words}\n").as_bytes()).is_ok()
    }

    /// What the first thing came to that was told and not asked for yet; nothing if it is no more.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read");
        line.trim().to_owned()
    }

    /// What a thing comes to; nothing if it is no more.
    pub fn ask(&mut self, words: &str) -> String {
        if self.tell(words) { self.answer() } else { String::new() }
    }

    /// It has a pair of connected sockets, of this protocol at this address: the ports of who sends and of the other.
    pub fn hold(&mut self, words: &str) -> (u16, u16) {
        let said = self.ask(&format!("hold {words}"));
        let mut ports = said.split(' ').skip(1).map(|port| port.parse().expect("a port"));
        (ports.next().expect("a port"), ports.next().expect("a port"))
    }

    /// It hears what there is to hear from now on, by a raw socket of this protocol, of this address's version of IP.
    pub fn listen(mut self, words: &str) -> Self {
        assert_eq!(self.ask(&format!("listen {words}")), "ok listens");
        self
    }

    /// How many packets it has heard.
    pub fn heard(mut self) -> u32 {
        let said = self.ask("heard");
        said.strip_prefix("ok ").and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said:?}"))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

thread_local! {
    /// This test's, by the slice's home, so that not each word starts a program; root's has none.
    static ACTORS: RefCell<BTreeMap<Option<PathBuf>, Actor>> = const { RefCell::new(BTreeMap::new()) };
}

/// What a thing tried in a slice came to.
pub fn inside(node: &TestNode, slice: &str, words: &str) -> String {
    ask(Some(node.home(slice)), words, || Actor::inside(node, slice))
}

/// What the same came to outside, as root.
pub fn outside(words: &str) -> String {
    ask(None, words, Actor::outside)
}

/// Ends those that this test's words were for.
pub fn dismiss() {
    ACTORS.take();
}

fn ask(whose: Option<PathBuf>, words: &str, start: impl Fn() -> Actor) -> String {
    ACTORS.with_borrow_mut(|actors| {
        let said = actors.entry(whose.clone()).or_insert_with(&start).ask(words);
        if !said.is_empty() {
            return said;
        }
        // It ended with its capsule: another, in the next one.
        actors.insert(whose.clone(), start());
        let said = actors.get_mut(&whose).map(|actor| actor.ask(words)).unwrap_or_default();
        assert!(!said.is_empty(), "{words}: no answer");
        said
    })
}
