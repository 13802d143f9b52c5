//! Programs that run in a capsule as they run outside.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::Failure;
use crate::capsule_exec::Commander;
use crate::nodes::Node;

/// A place to run programs in, of which one is this program itself.
pub trait Place {
    /// Runs a command to its successful end; what it wrote to its standard output.
    fn run(&mut self, argv: &[&str]) -> Result<String, Failure>;

    /// What this program is called there.
    fn actor(&self) -> String;
}

/// A running capsule.
pub struct Inside {
    commander: Commander,
}

impl Inside {
    /// Puts this program into the slice's home, as its owner would.
    pub fn install(node: &Node, slice: &str) -> Result<Self, Failure> {
        let mut commander = Commander::new(node, slice)?;
        let program: OwnedFd = File::open("/proc/self/exe")?.into();
        let script = "cat > actor && chmod 755 actor";
        let mut command = commander.start(&["/bin/sh", "-c", script], [Some(&program), None])?;
        commander.wait(&mut command)?;
        Ok(Self { commander })
    }
}

impl Place for Inside {
    fn run(&mut self, argv: &[&str]) -> Result<String, Failure> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut command = self.commander.start(argv, [None, Some(&write)])?;
        // Else the end of the output would never be seen.
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text)?;
        self.commander.wait(&mut command)?;
        Ok(text)
    }

    fn actor(&self) -> String {
        "./actor".to_owned()
    }
}

/// The machine outside, as root; the network is the calling thread's.
pub struct Outside {
    actor: PathBuf,
}

impl Outside {
    /// Copies this program to where it stays the same while a new one is built.
    pub fn install(node: &Node) -> Result<Self, Failure> {
        let actor = node.test.root().join("actor");
        std::fs::copy("/proc/self/exe", &actor)?;
        std::fs::set_permissions(&actor, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { actor })
    }
}

impl Place for Outside {
    fn run(&mut self, argv: &[&str]) -> Result<String, Failure> {
        let [program, args @ ..] = argv else { return Err("no program to run".into()) };
        let output = Command::new(program).args(args).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{program} ended with {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn actor(&self) -> String {
        self.actor.display().to_string()
    }
}
