//! Network namespaces of a test's own, so that no interface of the machine's is touched.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::command::output;

/// A network namespace with loopback. It goes with the test, however that ends: it has no name, and the process that
/// keeps it ends when the test closes its standard input.
pub struct Netns {
    holder: Child,
    namespace: File,
    _stdin: ChildStdin,
}

impl Netns {
    /// Makes one.
    ///
    /// # Panics
    /// Not run as root.
    pub fn new() -> Self {
        let mut command = Command::new("cat");
        // SAFETY: the flag is not `FILES`, which alone could take descriptors from others.
        let leave = || unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from);
        // SAFETY: one system call, in a child that has one thread; it allocates nothing.
        unsafe {
            command.pre_exec(leave);
        }
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("make a network namespace");
        let stdin = holder.stdin.take().expect("piped");
        // spawn(2) has returned, so the program runs, and it runs in there.
        let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).expect("open the namespace");
        let netns = Self { holder, namespace, _stdin: stdin };
        netns.sh("ip link set lo up");
        netns
    }

    /// The PID of the process that keeps it, by which `ip link` finds it.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run in there.
    ///
    /// # Panics
    /// The namespace's descriptor cannot be copied.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = self.namespace.try_clone().expect("copy a descriptor");
        let mut command = Command::new(program);
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
        };
        // SAFETY: one system call, in a child that has one thread; it allocates nothing.
        unsafe {
            command.pre_exec(enter);
        }
        command
    }

    /// Runs a script in there and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn sh(&self, script: &str) -> String {
        output(self.command("sh").args(["-e", "-c", script])).ok()
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
