//! Where the cgroup file systems are mounted, and which controllers the unified one has.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::tree::Controller;
use crate::error::{KernelError, Tried};

/// One line of mountinfo that shows a cgroup file system.
pub(super) struct CgroupMount {
    pub(super) at: PathBuf,
    pub(super) v2: bool,
    pub(super) options: Vec<String>,
}

fn cgroup_mounts(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let v2 = match right.next()? {
                "cgroup2" => true,
                "cgroup" => false,
                _ => return None,
            };
            let mut left = left.split(' ');
            let root = left.nth(3)?;
            let at = left.next()?;
            // A bind of some inner directory is not the hierarchy.
            (root == "/").then(|| CgroupMount {
                at: at.into(),
                v2,
                options: right.nth(1).unwrap_or("").split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// Every cgroup hierarchy that is mounted here.
pub(super) fn mounts() -> Result<Vec<CgroupMount>, KernelError> {
    let source = "/proc/self/mountinfo";
    Ok(cgroup_mounts(&std::fs::read_to_string(source).tried("read", source)?))
}

/// The one of v2.
pub(super) fn unified(mounts: &[CgroupMount]) -> Result<&CgroupMount, KernelError> {
    mounts.iter().find(|mount| mount.v2).ok_or_else(|| {
        KernelError::new("find", "a mounted cgroup2 file system", Errno::NOENT)
            .hint("mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
    })
}

/// Those of the controllers that a capsule needs which are on v2.
pub(super) fn offered(unified: &Path) -> Result<Vec<Controller>, KernelError> {
    let file = unified.join("cgroup.controllers");
    let text = std::fs::read_to_string(&file).tried("read", file.display())?;
    let have: Vec<&str> = text.split_whitespace().collect();
    Ok(Controller::ALL.into_iter().filter(|controller| have.contains(&controller.name())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies_and_passes_binds_over() {
        let mounts = cgroup_mounts(
            "30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             31 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             32 29 0:27 /inner /mnt rw - cgroup2 cgroup2 rw\n\
             33 29 0:28 / /proc rw - proc proc rw\n",
        );
        assert_eq!(mounts.len(), 2);
        assert!(mounts[0].options.contains(&"memory".to_owned()) && !mounts[0].v2);
        assert!(mounts[1].v2);
    }
}
