//! A place in the v2 hierarchy that its owner, systemd on a node, has given away, so that capsules may live there.

use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, fgetxattr, open};
use rustix::io::Errno;

use super::tree::Controller;
use crate::error::{KernelError, Tried};

/// What systemd sets on the cgroup of a unit with `Delegate=yes`, and removes where it manages everything itself; see
/// systemd's own "Control Group APIs and Delegation". Only the owner of the cgroup, root here, can set it.
const MARK: &str = "user.delegate";

/// The directory of `place`, a path as `/proc/PID/cgroup` shows them, if it was delegated and no process is in it.
///
/// # Errors
/// It is no such path, is not there, is not marked as delegated, or has processes of its own: a cgroup with processes
/// cannot hand controllers on (cgroups(7)).
pub(super) fn delegated(mount: &Path, place: &Path) -> Result<PathBuf, KernelError> {
    let directory = marked(mount, place)?;
    let procs = read(&directory.join("cgroup.procs"))?;
    if !procs.trim().is_empty() {
        let pids = procs.split_whitespace().collect::<Vec<_>>().join(", ");
        return Err(KernelError::new(
            "use as a place for capsules",
            directory.display(),
            std::io::Error::other(format!("it has processes of its own: {pids}")),
        )
        .hint("who holds it must stand in a leaf below, as plab-hold-cgroup does"));
    }
    Ok(directory)
}

/// The directory of `place`, if it was delegated.
///
/// # Errors
/// As [`delegated`], but for processes.
pub(super) fn marked(mount: &Path, place: &Path) -> Result<PathBuf, KernelError> {
    let invalid = || {
        KernelError::new("use as a place for capsules", place.display(), Errno::INVAL)
            .hint("it is a path such as /system.slice/planetlab-capsules.service, below the root of the v2 hierarchy")
    };
    let inner = place.strip_prefix("/").map_err(|_| invalid())?;
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || inner.as_os_str().is_empty() {
        return Err(invalid());
    }
    let directory = mount.join(inner);
    let fd = open(
        &directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| {
        KernelError::new("open", directory.display(), error)
            .hint("is the unit that holds it running? `systemctl status planetlab-capsules` tells")
    })?;
    let mut value = [0; 8];
    match fgetxattr(&fd, MARK, &mut value) {
        Ok(n) if &value[..n] == b"1" => Ok(directory),
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Err(KernelError::new(
            "use as a place for capsules",
            directory.display(),
            std::io::Error::other(format!("it was not delegated: its attribute {MARK} is not 1")),
        )
        .hint("give it with Delegate=yes in its unit: what systemd manages itself it would rewrite")),
        Err(error) => Err(KernelError::new(format!("read {MARK}"), directory.display(), error)),
    }
}

/// Hands controllers on to the children of `dir`, and reads back that it does.
///
/// # Errors
/// The kernel refused, or does not show them.
pub(super) fn enable(dir: &Path, controllers: &[Controller]) -> Result<(), KernelError> {
    let file = dir.join("cgroup.subtree_control");
    for controller in controllers {
        write(&file, &format!("+{}", controller.name())).map_err(|error| {
            error.hint(
                "a cgroup with processes of its own cannot hand controllers on; and a parent must have them",
            )
        })?;
    }
    let handed = read(&file)?;
    let lost = controllers
        .iter()
        .find(|controller| !handed.split_whitespace().any(|name| name == controller.name()));
    match lost {
        None => Ok(()),
        Some(controller) => Err(KernelError::new(
            format!("hand the {} controller on", controller.name()),
            file.display(),
            std::io::Error::other(format!("it was set, and the file says {:?}", handed.trim())),
        )),
    }
}

pub(super) fn read(path: &Path) -> Result<String, KernelError> {
    std::fs::read_to_string(path).tried("read", path.display())
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), KernelError> {
    std::fs::write(path, value).tried(&format!("write {value} to"), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_below_the_root_and_no_way_around() {
        for place in ["/", "", "system.slice", "/a/../..", "/a/./../b"] {
            let error = marked(Path::new("/nowhere"), Path::new(place)).expect_err(place);
            assert_eq!(error.errno(), Some(libc::EINVAL), "{place}: {error}");
        }
        let error = marked(Path::new("/nowhere"), Path::new("/a/b")).expect_err("not there");
        assert!(error.to_string().contains("/nowhere/a/b"), "{error}");
    }

    #[test]
    fn what_nobody_gave_away_is_refused() {
        // No cgroup, but more than the mark is not looked at before.
        let error = marked(Path::new("/"), Path::new("/usr")).expect_err("not delegated");
        assert!(error.to_string().contains("it was not delegated"), "{error}");
    }
}
