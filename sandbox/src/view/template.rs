//! The read-only part of every capsule's view, built once per plabd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::UnshareFlags;

use super::etc::EtcFiles;
use crate::error::{KernelError, Tried};

/// What goes into the template.
#[derive(Debug, Clone)]
pub struct TemplateSpec {
    /// A directory of plabd's own, on the host, that becomes the view's root directory: made if missing. Only
    /// root may write to it.
    pub skeleton: PathBuf,
    /// Host directories shown at the same place, read-only; what the host lacks is left out.
    pub system: Vec<PathBuf>,
    /// Directories that definitions may ask parts of; shown empty.
    pub allow: Vec<PathBuf>,
}

/// A mount namespace whose root is the read-only part of the view.
#[derive(Debug)]
pub struct Template {
    namespace: OwnedFd,
    readable: Vec<String>,
}

/// Directories that every capsule has, as mount points or empty.
const DIRECTORIES: [&str; 14] = [
    "dev",
    "proc",
    "sys",
    "sys/devices",
    "sys/devices/system",
    "sys/devices/system/cpu",
    "etc",
    "home",
    "tmp",
    "var",
    "var/tmp",
    "run",
    "run/planetlab",
    "root",
];

/// Device nodes of the minimal `/dev`: those that give a capsule nothing but what its name says.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Template {
    /// Builds the template.
    ///
    /// # Errors
    /// A step that failed, by name.
    pub fn build(spec: &TemplateSpec, etc: &EtcFiles) -> Result<Self, KernelError> {
        make_skeleton(spec)?;
        etc.refresh(&spec.skeleton.join("etc"))?;
        // A thread of its own: it leaves the process's namespace and never comes back.
        std::thread::scope(|scope| {
            scope.spawn(|| build_in_this_thread(spec)).join().unwrap_or_else(|_| {
                Err(KernelError::new("build the view", "template", std::io::Error::other("panicked")))
            })
        })
    }

    /// The namespace, to hand to a capsule-init.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Directories inside that hold programs and data, for the Landlock rules.
    pub fn readable(&self) -> &[String] {
        &self.readable
    }
}

fn make_skeleton(spec: &TemplateSpec) -> Result<(), KernelError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    let make = |path: &Path| builder.create(path).tried("make directory", path.display());
    make(&spec.skeleton)?;
    for directory in DIRECTORIES {
        make(&spec.skeleton.join(directory))?;
    }
    for path in &spec.allow {
        make(&spec.skeleton.join(path.strip_prefix("/").unwrap_or(path)))?;
    }
    for path in &spec.system {
        let inside = spec.skeleton.join(path.strip_prefix("/").unwrap_or(path));
        match std::fs::symlink_metadata(path) {
            // A merged-/usr system has /bin -> usr/bin; the link works as well inside.
            Ok(meta) if meta.is_symlink() => {
                let target = std::fs::read_link(path).tried("read link", path.display())?;
                match symlink(target, &inside) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(KernelError::new("make link", inside.display(), error));
                    }
                    _ => {}
                }
            }
            Ok(meta) if meta.is_dir() => make(&inside)?,
            _ => {}
        }
    }
    Ok(())
}

fn build_in_this_thread(spec: &TemplateSpec) -> Result<Template, KernelError> {
    // SAFETY: the flags unshare this thread's file system attributes and mount namespace, neither of which any
    // other code in this short-lived thread relies on; no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
        .tried("unshare", "mount namespace")?;
    // Nothing made here may reach the host, and nothing the host mounts later may reach the capsules.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .tried("make private", "/")?;
    let namespace = open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .tried("open", "/proc/thread-self/ns/mnt")?;

    let root = &spec.skeleton;
    let tree = clone_tree(root)?;
    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | NO_DEV_NO_SUID, false)?;
    place(&tree, root)?;
    let mut readable = vec!["/etc".to_owned(), "/sys".to_owned(), "/run".to_owned()];
    for path in &spec.system {
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
            let tree = clone_tree(path)?;
            set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | NO_DEV_NO_SUID, true)?;
            place(&tree, &inside(root, path))?;
            readable.push(path.display().to_string());
        }
    }
    readable.extend(spec.allow.iter().map(|path| path.display().to_string()));
    place_devices(&root.join("dev"))?;
    let cpus = Path::new("/sys/devices/system/cpu");
    if cpus.is_dir() {
        // How many CPUs there are (nproc, lscpu, the JVM); no other part of /sys is a slice's business.
        let tree = clone_tree(cpus)?;
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | NO_DEV_NO_SUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        set_attributes(&tree, flags, true)?;
        place(&tree, &inside(root, cpus))?;
    }
    // The host's root goes for good: a capsule cannot climb to what its namespace never had.
    chdir(root).tried("enter", root.display())?;
    pivot_root(".", ".").tried("pivot_root into", root.display())?;
    unmount(".", UnmountFlags::DETACH).tried("detach", "the host's root")?;
    Ok(Template { namespace, readable })
}

/// Set on everything a capsule sees: no file can raise privilege, no device node of a slice's making works.
pub(super) const NO_DEV_NO_SUID: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn clone_tree(path: &Path) -> Result<OwnedFd, KernelError> {
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE,
    )
    .tried("clone mount", path.display())
}

fn place(tree: &OwnedFd, at: &Path) -> Result<(), KernelError> {
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).tried("attach mount", at.display())
}

fn place_devices(at: &Path) -> Result<(), KernelError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).tried("open", "tmpfs")?;
    fsconfig_set_string(&context, "mode", "0755").tried("set mode", "tmpfs")?;
    fsconfig_set_string(&context, "size", "64k").tried("set size", "tmpfs")?;
    fsconfig_create(&context).tried("create", "tmpfs for /dev")?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).tried("mount", "tmpfs for /dev")?;
    for (name, major, minor) in DEVICES {
        rustix::fs::mknodat(
            &dev,
            name,
            rustix::fs::FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(major, minor),
        )
        .tried("make device", name)?;
        // Not left to the umask.
        rustix::fs::chmodat(&dev, name, Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty())
            .tried("set mode of device", name)?;
    }
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlinkat(target, &dev, name).tried("make link in /dev", name)?;
    }
    for name in ["pts", "shm"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).tried("make directory in /dev", name)?;
    }
    set_attributes(&dev, MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    place(&dev, at)
}

/// See mount_setattr(2), `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Sets mount attributes on a detached tree; with `recursive` also on what is mounted below.
pub(super) fn set_attributes(
    tree: &OwnedFd,
    set: MountAttrFlags,
    recursive: bool,
) -> Result<(), KernelError> {
    use std::os::fd::AsRawFd;
    let attributes = MountAttr {
        set: u64::from(set.bits()),
        clear: 0,
        // Private: no later mount on the host shows inside.
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the struct is laid out as the kernel's first version, whose size is passed with it, and the path
    // is an empty C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(KernelError::new("set attributes of", "a mount", std::io::Error::last_os_error()))
    }
}
