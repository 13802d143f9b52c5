//! The node's part of the cgroup file systems: where controllers are, and the directory above all capsules.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;

use super::mounts::{mounts, offered, unified};
use super::place::{delegated, enable};
use crate::error::{KernelError, Tried};

/// The controllers a capsule needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    Memory,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Which kind of hierarchy a controller sits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControllerVersion {
    /// A hierarchy of its own.
    V1,
    /// The unified one.
    V2,
}

/// One directory above all capsules, in one hierarchy.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

/// The directories above all capsules of one node, in every hierarchy that matters.
#[derive(Debug)]
pub struct CgroupTree {
    pub(super) unified: Base,
    /// cpu, memory, pids where they are on v1; none where they are on v2.
    pub(super) v1: [Option<Base>; 3],
}

impl CgroupTree {
    /// Finds the hierarchies and makes the directory above all capsules in each, called `name`.
    ///
    /// In the v2 hierarchy it is made in `place`, which somebody must have delegated (see [`super::place`]), and
    /// without one at the root of the hierarchy. This process stays where it is: a cgroup that hands controllers on
    /// takes no process (cgroups(7)), so a service whose capsules were below its own could not be started again.
    ///
    /// # Errors
    /// A hierarchy or controller that is missing, a place that is not delegated, or a directory that cannot be made.
    pub fn open(name: &str, place: Option<&Path>) -> Result<Self, KernelError> {
        let mounts = mounts()?;
        let unified = unified(&mounts)?;
        let on_v2 = offered(&unified.at)?;
        let mut v1 = [None, None, None];
        for (slot, controller) in v1.iter_mut().zip(Controller::ALL) {
            if on_v2.contains(&controller) {
                continue;
            }
            let mount = mounts
                .iter()
                .find(|mount| !mount.v2 && mount.options.iter().any(|option| option == controller.name()))
                .ok_or_else(|| {
                    KernelError::new(
                        "find",
                        format!("the {} cgroup controller", controller.name()),
                        Errno::NOENT,
                    )
                    .hint("it must be on cgroup v2 or mounted as a v1 hierarchy; see cgroups(7)")
                })?;
            *slot = Some(make_base(&mount.at.join(name))?);
        }
        let above = match place {
            Some(place) => delegated(&unified.at, place)?,
            None => unified.at.clone(),
        };
        enable(&above, &on_v2)?;
        let base = make_base(&above.join(name))?;
        enable(&base.path, &on_v2)?;
        Ok(Self { unified: base, v1 })
    }

    /// The v2 directory above all capsules, and its path for messages.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn above_all(&self) -> Result<(OwnedFd, String), KernelError> {
        let path = self.unified.path.display().to_string();
        Ok((self.unified.fd.try_clone().tried("open again", &path)?, path))
    }

    /// The ID of a capsule's v2 cgroup, by which BPF programs know it; none if it is not there.
    ///
    /// # Errors
    /// The directory cannot be looked at.
    pub fn capsule_id(&self, name: &str) -> Result<Option<u64>, KernelError> {
        self.unified.child(name)?.map(|dir| id(&dir, &self.unified.path.join(name))).transpose()
    }

    /// Whether a controller sits on v1 or v2.
    pub(super) fn version(&self, controller: Controller) -> ControllerVersion {
        match self.v1[controller as usize] {
            Some(_) => ControllerVersion::V1,
            None => ControllerVersion::V2,
        }
    }

    /// Where the memory controller is: v1 lacks `memory.high` and `memory.oom.group`.
    pub fn memory_version(&self) -> ControllerVersion {
        self.version(Controller::Memory)
    }

    /// Whether the kernel can hold memory and swap together (v1: `memory.memsw.*`, v2: `memory.swap.max`).
    pub fn limits_swap(&self) -> bool {
        match &self.v1[Controller::Memory as usize] {
            Some(base) => base.path.join("memory.memsw.limit_in_bytes").exists(),
            None => self.unified.path.join("memory.swap.max").exists(),
        }
    }

    pub(super) fn bases(&self) -> impl Iterator<Item = &Base> {
        std::iter::once(&self.unified).chain(self.v1.iter().flatten())
    }

    /// Names of all capsule directories, in whichever hierarchy they are: also leftovers of a crash.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub fn names(&self) -> Result<std::collections::BTreeSet<String>, KernelError> {
        let mut names = std::collections::BTreeSet::new();
        for base in self.bases() {
            let dir =
                openat(&base.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .and_then(Dir::new)
                    .tried("list", base.path.display())?;
            for entry in dir {
                let entry = entry.tried("list", base.path.display())?;
                let name = entry.file_name().to_string_lossy();
                if entry.file_type() == rustix::fs::FileType::Directory && !name.starts_with('.') {
                    names.insert(name.into_owned());
                }
            }
        }
        Ok(names)
    }

    /// Removes the directories above all capsules; they must be empty.
    ///
    /// # Errors
    /// A capsule is still there, or the kernel refuses.
    pub fn remove_bases(&self) -> Result<(), KernelError> {
        for base in self.bases() {
            match rustix::fs::rmdir(&base.path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(KernelError::new("remove", base.path.display(), error)),
            }
        }
        Ok(())
    }
}

/// The kernel's ID of a v2 cgroup: its inode number on a 64-bit machine (`cgroup_id`, kernfs).
pub(super) fn id(dir: &OwnedFd, path: &Path) -> Result<u64, KernelError> {
    rustix::fs::fstat(dir).map(|stat| stat.st_ino).tried("look at", path.display())
}

impl Base {
    /// Opens a capsule's directory here; none if there is none.
    pub(super) fn child(&self, name: &str) -> Result<Option<OwnedFd>, KernelError> {
        match openat(
            &self.fd,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(KernelError::new("open", self.path.join(name).display(), error)),
        }
    }

    /// Makes a capsule's directory here; an existing one is taken over.
    pub(super) fn make_child(&self, name: &str) -> Result<OwnedFd, KernelError> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(KernelError::new("make", self.path.join(name).display(), error)
                    .hint("cgroup.max.descendants of a parent may be reached"));
            }
        }
        self.child(name)?
            .ok_or_else(|| KernelError::new("open", self.path.join(name).display(), Errno::NOENT))
    }

    pub(super) fn remove_child(&self, name: &str) -> Result<(), Errno> {
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

fn make_base(path: &Path) -> Result<Base, KernelError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(KernelError::new("make", path.display(), error)),
    }
    let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .tried("open", path.display())?;
    Ok(Base { fd, path: path.to_owned() })
}

/// The name of the directory above all capsules for a node whose files lie under `root`.
///
/// Two nodes on one machine (a test beside a real one) have different roots, so they never share a cgroup.
pub fn tree_name(root: &Path) -> String {
    if root == Path::new("/") {
        return "planetlab".to_owned();
    }
    // FNV-1a: stable over releases, unlike the standard library's hasher.
    let canonical: OsString =
        std::fs::canonicalize(root).map_or_else(|_| root.into(), PathBuf::into_os_string);
    let hash = canonical.as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("planetlab-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_have_trees_of_their_own() {
        assert_eq!(tree_name(Path::new("/")), "planetlab");
        assert_ne!(tree_name(Path::new("/nowhere/a")), tree_name(Path::new("/nowhere/b")));
    }
}
