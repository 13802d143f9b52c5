//! The node's part of the cgroup file systems: where controllers are, and the directory above all capsules.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;

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

/// One line of mountinfo that shows a cgroup file system.
struct CgroupMount {
    at: PathBuf,
    v2: bool,
    options: Vec<String>,
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

impl CgroupTree {
    /// Finds the hierarchies and makes the directory above all capsules in each, called `name`.
    ///
    /// On cgroup v2 under systemd with `Delegate=yes` that directory is the service's own, and this process
    /// moves into a leaf of it (a directory with controllers enabled for its children may hold no process).
    ///
    /// # Errors
    /// A hierarchy or controller that is missing, or a directory that cannot be made.
    pub fn open(name: &str) -> Result<Self, KernelError> {
        let mountinfo =
            std::fs::read_to_string("/proc/self/mountinfo").tried("read", "/proc/self/mountinfo")?;
        let mounts = cgroup_mounts(&mountinfo);
        let unified = mounts.iter().find(|mount| mount.v2).ok_or_else(|| {
            KernelError::new("find", "a mounted cgroup2 file system", Errno::NOENT)
                .hint("mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
        })?;
        let offered = read(&unified.at.join("cgroup.controllers"))?;
        let offered: Vec<&str> = offered.split_whitespace().collect();
        let mut v1 = [None, None, None];
        let mut on_v2 = Vec::new();
        for (slot, controller) in v1.iter_mut().zip(Controller::ALL) {
            if offered.contains(&controller.name()) {
                on_v2.push(controller);
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
        let unified = Self::open_unified(&unified.at, name, &on_v2)?;
        Ok(Self { unified, v1 })
    }

    fn open_unified(mount: &Path, name: &str, controllers: &[Controller]) -> Result<Base, KernelError> {
        if controllers.is_empty() {
            return make_base(&mount.join(name));
        }
        let own = read(Path::new("/proc/self/cgroup"))?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
        let own_dir = mount.join(own.trim_start_matches('/'));
        let delegated = own_dir.join("cgroup.procs").exists()
            && own != "/"
            && std::env::var_os("INVOCATION_ID").is_some();
        let base = if delegated {
            // A restarted plabd may already stand in the leaf.
            let service = if own_dir.ends_with("plabd") {
                own_dir.parent().unwrap_or(&own_dir).to_owned()
            } else {
                own_dir
            };
            let leaf = service.join("plabd");
            make_base(&leaf)?;
            write(&leaf.join("cgroup.procs"), "0")?;
            enable(&service, controllers)?;
            service.join(name)
        } else {
            enable(mount, controllers)?;
            mount.join(name)
        };
        let made = make_base(&base)?;
        enable(&base, controllers)?;
        Ok(made)
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

fn enable(dir: &Path, controllers: &[Controller]) -> Result<(), KernelError> {
    for controller in controllers {
        write(&dir.join("cgroup.subtree_control"), &format!("+{}", controller.name())).map_err(|error| {
            error.hint("a cgroup with processes of its own cannot hand controllers on; run plabd as a service with Delegate=yes")
        })?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, KernelError> {
    std::fs::read_to_string(path).tried("read", path.display())
}

fn write(path: &Path, value: &str) -> Result<(), KernelError> {
    std::fs::write(path, value).tried(&format!("write {value} to"), path.display())
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

    #[test]
    fn roots_have_trees_of_their_own() {
        assert_eq!(tree_name(Path::new("/")), "planetlab");
        assert_ne!(tree_name(Path::new("/nowhere/a")), tree_name(Path::new("/nowhere/b")));
    }
}
