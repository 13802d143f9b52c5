//! A node of the bench's own, with what the parts ask of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use plab_sandbox::cgroup::tree_name;
use plab_tests::TestNode;

use crate::Failure;
use crate::cleanup;
use crate::stamp;

/// A running node.
pub struct Node {
    /// The tests' harness: it starts plabd, ends it, and checks that nothing is left.
    pub test: TestNode,
    staging: PathBuf,
}

impl Node {
    /// Starts one without slices.
    pub fn start(name: &str) -> Result<Self, Failure> {
        let test = TestNode::start(&format!("bench-{name}"));
        cleanup::remember(test.root());
        let staging = test.root().join("etc/planetlab/staging");
        std::fs::create_dir(&staging)?;
        Ok(Self { test, staging })
    }

    /// Drains the node and makes sure that nothing is left.
    pub fn finish(self) {
        cleanup::check();
        let root = self.test.root().to_owned();
        self.test.finish();
        cleanup::forget(&root);
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.test.root().join("run/planetlab/control.sock")
    }

    /// Writes a definition to where nobody reads it yet.
    pub fn stage(&self, slice: &str, more: &str) -> Result<(), Failure> {
        Ok(std::fs::write(self.staging.join(slice), TestNode::definition(slice, more))?)
    }

    /// Puts a staged definition in its place, in one step as a careful administrator does.
    pub fn define(&self, slice: &str) -> Result<(), Failure> {
        Ok(std::fs::rename(self.staging.join(slice), self.test.definition_path(slice))?)
    }

    /// Gives every new slice a `start` hook that writes down when it began.
    pub fn give_stamp(&self) -> Result<(), Failure> {
        let control = self.test.root().join("etc/planetlab/skel/PlanetLab-control");
        std::fs::create_dir_all(&control)?;
        let hook = control.join("start");
        std::fs::write(&hook, stamp::program())?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// What the slice's hook wrote down, if it has.
    pub fn stamp_of(&self, slice: &str) -> Option<i128> {
        stamp::read(&self.home(slice).join(stamp::FILE))
    }

    /// A slice's home on the host.
    pub fn home(&self, slice: &str) -> PathBuf {
        self.test.root().join(format!("var/lib/planetlab/slices/{slice}/home/{slice}"))
    }

    /// The file in which the kernel shows a capsule's memory limit, on whichever hierarchy the controller is.
    pub fn memory_max(&self, slice: &str) -> Result<PathBuf, Failure> {
        let inner = Path::new(&tree_name(self.test.root())).join(slice);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| Some(Path::new(line.split(' ').nth(4)?).join(&inner)))
            .flat_map(|capsule| ["memory.max", "memory.limit_in_bytes"].map(|file| capsule.join(file)))
            .find(|file| file.exists())
            .ok_or_else(|| format!("no cgroup of {slice} has a memory limit").into())
    }
}
