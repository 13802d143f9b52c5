//! A capsule's own mounts, made by its capsule-init while it is still root: a copy of the template's namespace,
//! storage, `/proc`, terminals, shared memory, masks.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::storage::StorageMounts;
use super::template::{NO_DEV_NO_SUID, set_attributes};
use crate::error::{KernelError, Tried};
use crate::message::ExtraTree;

/// What a capsule gets beside the template.
#[derive(Debug)]
pub struct OwnMounts {
    /// Home, `/tmp`, `/var/tmp`, identity.
    pub storage: StorageMounts,
    /// `[view] paths`, each with its detached mount.
    pub extra: Vec<(ExtraTree, OwnedFd)>,
    /// GID of the terminals.
    pub gid: u32,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
}

/// Pseudo-terminals of one capsule; the machine has 4,096 in all unless told otherwise.
const MAX_TERMINALS: &str = "64";

/// Files of `/proc` that tell of, or reach, the whole machine. Most are root's anyway; covered all the same, so
/// that a kernel which loosens a mode opens nothing. `/proc/keys` lists other UIDs' keyrings, `kpage*` and
/// `kcore` are memory, `timer_list` and `sched_debug` show other slices' processes, `sysrq-trigger` halts.
const MASKED: [&str; 12] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "latency_stats",
];

/// Directories of `/proc` that set things of the whole machine.
const READ_ONLY: [&str; 4] = ["sys", "irq", "bus", "fs"];

/// Directories of `/proc` that are nobody's business inside.
const EMPTY: [&str; 2] = ["acpi", "scsi"];

/// Leaves the host's mounts for a copy of the template and attaches the capsule's own.
///
/// # Errors
/// A mount that could not be made; the caller must then end the process, for it stands half in the view.
pub fn attach(template: &OwnedFd, own: OwnMounts) -> Result<(), KernelError> {
    // Only template and own mounts from here on: nothing of the host is left to cover up or to detach.
    move_into_link_name_space(std::os::fd::AsFd::as_fd(template), Some(LinkNameSpaceType::Mount))
        .tried("enter", "the view's mount namespace")?;
    // A copy, or this capsule's mounts would be every capsule's. The cgroup namespace is unshared here and
    // not at birth: only now is the process in all its cgroups, which become the root it sees.
    // SAFETY: this process has one thread and relies on no mount, and no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP) }
        .tried("unshare", "mount and cgroup namespaces")?;
    rustix::process::chdir("/").tried("enter", "the view's root")?;

    place(&own.storage.home_parent, "/home")?;
    place(&own.storage.tmp, "/tmp")?;
    place(&own.storage.var_tmp, "/var/tmp")?;
    place(&own.storage.identity, super::IDENTITY_AT)?;
    attach_extra(&own.extra)?;
    let no_exec = NO_DEV_NO_SUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // /dev/pts needs device files to work: that is what it is.
    let terminals = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let gid = own.gid.to_string();
    // The machine has one pool of terminals (pty(7)): no capsule may take all of it.
    let options = [("mode", "0620"), ("gid", gid.as_str()), ("ptmxmode", "0666"), ("max", MAX_TERMINALS)];
    new_mount("devpts", &options, terminals, "/dev/pts")?;
    // Charged to the capsule's memory; the size keeps an honest program from meeting the killer instead of ENOSPC.
    let size = own.shm_bytes.to_string();
    new_mount("tmpfs", &[("mode", "1777"), ("size", &size), ("nr_inodes", "16384")], no_exec, "/dev/shm")?;
    // Of this PID namespace: other capsules' processes and the host's do not exist here.
    new_mount("proc", &[], no_exec, "/proc")?;
    mask_proc()
}

fn attach_extra(extra: &[(ExtraTree, OwnedFd)]) -> Result<(), KernelError> {
    let parents: BTreeSet<&str> = extra.iter().map(|(tree, _)| tree.under.as_str()).collect();
    for parent in parents {
        // The template's directory is shared by all capsules, so the mount points need a tmpfs of this one's.
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).tried("open", "tmpfs")?;
        fsconfig_set_string(&context, "mode", "0755").tried("set mode", "tmpfs")?;
        fsconfig_set_string(&context, "size", "64k").tried("set size", "tmpfs")?;
        fsconfig_create(&context).tried("create", "tmpfs")?;
        let mount =
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, NO_DEV_NO_SUID).tried("mount tmpfs", parent)?;
        place(&mount, parent)?;
        for (tree, fd) in extra.iter().filter(|(tree, _)| tree.under == parent) {
            make_mount_point(Path::new(parent), Path::new(&tree.at))?;
            place(fd, &tree.at)?;
        }
        set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    }
    Ok(())
}

fn make_mount_point(parent: &Path, at: &Path) -> Result<(), KernelError> {
    let mut path = parent.to_owned();
    for part in at.strip_prefix(parent).unwrap_or(Path::new("")) {
        path.push(part);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(KernelError::new("make mount point", path.display(), error)),
        }
    }
    Ok(())
}

fn mask_proc() -> Result<(), KernelError> {
    for name in MASKED {
        cover(Path::new("/dev/null"), &Path::new("/proc").join(name), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    }
    for name in EMPTY {
        // The template's empty /root serves as "nothing".
        cover(Path::new("/root"), &Path::new("/proc").join(name), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    }
    for name in READ_ONLY {
        let at = Path::new("/proc").join(name);
        cover(
            &at,
            &at,
            MountAttrFlags::MOUNT_ATTR_RDONLY | NO_DEV_NO_SUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )?;
    }
    Ok(())
}

/// Puts a clone of `what` over `at`, if the kernel has `at` at all.
fn cover(what: &Path, at: &Path, flags: MountAttrFlags) -> Result<(), KernelError> {
    if matches!(rustix::fs::lstat(at), Err(Errno::NOENT)) {
        return Ok(());
    }
    let tree = open_tree(CWD, what, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .tried("clone mount", what.display())?;
    set_attributes(&tree, flags, false)?;
    move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).tried("cover", at.display())
}

fn place(tree: &OwnedFd, at: &str) -> Result<(), KernelError> {
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).tried("attach a mount", at)
}

fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
    at: &str,
) -> Result<(), KernelError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).tried(&format!("open file system {kind}"), at)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).tried(&format!("set {key}={value} of {kind}"), at)?;
    }
    fsconfig_create(&context).tried(&format!("create {kind}"), at)?;
    let mount =
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).tried(&format!("mount {kind}"), at)?;
    place(&mount, at)
}
