//! A machine of a test's own, by `tests/vm/node`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A virtual machine with the node image; gone with its disks when dropped.
pub struct Machine {
    name: String,
}

impl Machine {
    /// Boots a new one.
    pub fn start(name: &str) -> Self {
        let machine = Self { name: format!("{name}-{}", std::process::id()) };
        machine.node("start", &["-m", "3072"]);
        machine
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/node");
        let mut command = Command::new(script);
        command.arg(verb).arg(&self.name).args(arguments).stdin(Stdio::null());
        command
    }

    fn node(&self, verb: &str, arguments: &[&str]) {
        let status = self.command(verb, arguments).status().expect("run tests/vm/node");
        assert!(status.success(), "tests/vm/node {verb} {}: {status}", self.name);
    }

    /// Runs a shell script as root in there.
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("ssh", &[script]).output().expect("run tests/vm/node")
    }

    /// As [`Self::try_sh`], of a script that must succeed; its output.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}\n{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Copies a file into `/root`.
    pub fn put(&self, file: &Path) {
        self.node("put", &[&file.display().to_string(), "/root/"]);
    }

    /// Restarts it in order.
    pub fn reboot(&self) {
        self.node("reboot", &[]);
    }

    /// Switches it off in order, and on again.
    pub fn power_cycle(&self) {
        self.node("off", &[]);
        self.node("start", &["-m", "3072"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(output) = self.command("ssh", &["journalctl -b --no-pager | tail -n 60"]).output()
        {
            eprintln!("the machine's journal:\n{}", String::from_utf8_lossy(&output.stdout));
        }
        // What remains is a directory below out/vm.
        self.command("rm", &[]).status().ok();
    }
}
