//! A node in a virtual machine of a test's own (`tests/vm/node`), which can be installed, switched off and cut from its
//! power as no machine that runs tests can.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wait::patience;

/// The processors that machines may have at a time, however many tests run: they are emulated, on as many real ones.
static PROCESSORS: Mutex<u32> = Mutex::new(2);
static GIVEN_BACK: Condvar = Condvar::new();

/// Processors that nobody else has meanwhile.
struct Processors(u32);

impl Processors {
    /// Waits until there are so many.
    fn take(count: u32) -> Self {
        let free = PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            GIVEN_BACK.wait_while(free, |free| *free < count).unwrap_or_else(PoisonError::into_inner);
        *free -= count;
        Self(count)
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        *PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        GIVEN_BACK.notify_all();
    }
}

/// Between two looks into the guest: each costs its CPUs a shell.
const LOOK: Duration = Duration::from_millis(500);

/// A machine, up or not. Dropped, it is switched off and forgotten, with its disks.
pub struct Machine {
    name: String,
    memory: String,
    processors: Processors,
}

/// What a command in the guest said, and whether it succeeded.
#[derive(Debug)]
pub struct Said {
    /// Exit status was 0.
    pub ok: bool,
    /// Exit status, 255 also where there was no connection; none if ssh itself was killed.
    pub status: Option<i32>,
    /// Standard output, then standard error.
    pub text: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Self { ok: output.status.success(), status: output.status.code(), text }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/node")
}

impl Machine {
    /// A new one from the node image, up, with so many processors (1 or 2), so much memory (MiB) and these options for QEMU.
    ///
    /// # Panics
    /// It did not come up; as do all others here.
    pub fn new(name: &str, processors: u32, memory: u32, qemu: &[&str]) -> Self {
        let machine = Self {
            name: format!("{name}-{}", std::process::id()),
            memory: memory.to_string(),
            processors: Processors::take(processors),
        };
        machine.boot(None, qemu);
        machine
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        command.arg(verb).arg(&self.name).args(arguments).stdin(Stdio::null());
        command
    }

    fn node(&self, verb: &str, arguments: &[&str]) {
        let said = Said::from(self.command(verb, arguments).output().expect("run tests/vm/node"));
        assert!(said.ok, "tests/vm/node {verb} {}: {}", self.name, said.text);
    }

    /// Switches it on, its clock at `clock` (such as `2036-01-31T12:00:00`; else the present), and waits until root can
    /// log in.
    pub fn boot(&self, clock: Option<&str>, qemu: &[&str]) {
        let processors = self.processors.0.to_string();
        let mut arguments = vec!["-c", &processors, "-m", &self.memory];
        arguments.extend(clock.iter().flat_map(|clock| ["-t", clock]));
        arguments.push("--");
        arguments.extend(qemu);
        self.node("start", &arguments);
    }

    /// Cuts its power.
    pub fn cut(&self) {
        self.node("cut", &[]);
    }

    /// Switches it off in order.
    pub fn off(&self) {
        self.node("off", &[]);
    }

    /// Restarts it in order, and waits until root can log in again.
    pub fn reboot(&self) {
        self.node("reboot", &[]);
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        let list =
            Command::new(script()).arg("list").stdin(Stdio::null()).output().expect("run tests/vm/node");
        let list = Said::from(list);
        assert!(list.ok, "{}", list.text);
        list.text.lines().any(|line| {
            line.split_whitespace().next() == Some(self.name.as_str()) && line.contains("runs, port")
        })
    }

    /// Runs a script as root in the guest.
    pub fn try_run(&self, script: &str) -> Said {
        self.command("ssh", &[script]).output().expect("run tests/vm/node").into()
    }

    /// Runs a script that must succeed; returns what it printed, without the last newline.
    pub fn run(&self, script: &str) -> String {
        let said = self.try_run(script);
        assert!(said.ok, "{script}\n{}", said.text);
        said.text.trim_end().to_owned()
    }

    /// Writes a file of the guest, on its disk when this returns.
    pub fn write(&self, path: &str, text: &str) {
        self.run(&format!("cat > {path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE\nsync {path}"));
    }

    /// Copies a file into `/root`.
    pub fn put(&self, file: &Path) {
        self.node("put", &[&file.display().to_string(), "/root/"]);
    }

    /// Waits until `look` gives a value; panics with what plabd says when it never does.
    pub fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let (begun, never) = (Instant::now(), patience());
        loop {
            if let Some(value) = look() {
                return value;
            }
            assert!(begun.elapsed() < never, "never came true: {what}\n{}", self.account());
            std::thread::sleep(LOOK);
        }
    }

    /// What there is to say about it when something went wrong.
    fn account(&self) -> String {
        self.try_run(
            "plab status; plab boots; plab events | tail -n 20; journalctl -b --no-pager | tail -n 60",
        )
        .text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            eprintln!("the machine {}:\n{}", self.name, self.account());
        }
        // What remains is a directory below out/vm.
        self.command("rm", &[]).status().ok();
    }
}
