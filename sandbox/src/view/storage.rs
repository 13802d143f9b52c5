//! A slice's storage on the node's disk (4.5 of the specification).
//!
//! ```text
//! storage/<slice>/home/<slice>/   the slice's: what it sees as /home/<slice>
//!                 tmp/            the slice's: /tmp
//!                 var-tmp/        the slice's: /var/tmp
//!                 identity/       root's: passwd and group of this capsule
//! ```
//!
//! plabd makes and opens only the directories named here, all of whose parents are root's; it never opens
//! anything a slice made. What is inside is emptied by a capsule-init in wipe mode, as the slice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, mkdirat, openat, openat2, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::template::{NO_DEV_NO_SUID, set_attributes};
use crate::error::{KernelError, Tried};

/// The directory that holds every slice's storage.
#[derive(Debug)]
pub struct Storage {
    root: OwnedFd,
    path: PathBuf,
}

/// Detached mounts of one slice's storage, in the order in which a setup hands them on.
#[derive(Debug)]
pub struct StorageMounts {
    /// For `/home`; holds the one directory `<slice>`.
    pub home_parent: OwnedFd,
    /// For `/tmp`.
    pub tmp: OwnedFd,
    /// For `/var/tmp`.
    pub var_tmp: OwnedFd,
    /// For [`super::IDENTITY_AT`], read-only.
    pub identity: OwnedFd,
}

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Storage {
    /// Opens the directory, making it if missing.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .tried("make directory", path.display())?;
        let root = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .tried("open", path.display())?;
        Ok(Self { root, path: path.to_owned() })
    }

    fn at(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Makes the slice's directories where they are missing. A directory of the slice's that exists keeps its
    /// content; its owner must be the slice, or it is another's data and an error.
    ///
    /// # Errors
    /// A directory that cannot be made, or that belongs to another UID.
    pub fn create(&self, slice: &str, uid: u32) -> Result<(), KernelError> {
        let top = self.directory(self.root.as_fd(), slice, 0o711, 0, slice)?;
        let home = self.directory(top.as_fd(), "home", 0o755, 0, slice)?;
        self.directory(home.as_fd(), slice, 0o700, uid, slice)?;
        self.directory(top.as_fd(), "tmp", 0o700, uid, slice)?;
        self.directory(top.as_fd(), "var-tmp", 0o700, uid, slice)?;
        let identity = self.directory(top.as_fd(), "identity", 0o755, 0, slice)?;
        let accounts = [
            (
                "passwd",
                format!(
                    "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                     {slice}:x:{uid}:{uid}:{slice}:/home/{slice}:/bin/bash\n\
                     nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                ),
            ),
            ("group", format!("root:x:0:\ntty:x:5:\n{slice}:x:{uid}:\nnogroup:x:65534:\n")),
        ];
        for (name, content) in accounts {
            let on = || format!("{}/identity/{name}", self.at(slice));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&identity, name, flags, Mode::from_raw_mode(0o644)).tried("write", on())?;
            rustix::io::write(&file, content.as_bytes()).tried("write", on())?;
        }
        Ok(())
    }

    fn directory(
        &self,
        parent: impl AsFd,
        name: &str,
        mode: u32,
        uid: u32,
        slice: &str,
    ) -> Result<OwnedFd, KernelError> {
        let on = || format!("{name} in storage of {slice}, {}", self.at(slice));
        let made = match mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(KernelError::new("make directory", on(), error)),
        };
        let directory =
            openat(&parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .tried("open directory", on())?;
        let owner = rustix::fs::fstat(&directory).tried("look at", on())?.st_uid;
        if owner == 0 {
            // Just made, or left half made by a crash; nothing of a slice's is ever owned by root.
            fchmod(&directory, Mode::from_raw_mode(mode)).tried("set mode of", on())?;
            if uid != 0 {
                let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
                chownat(&directory, "", user, group, AtFlags::EMPTY_PATH).tried("give to the slice", on())?;
            }
        } else if owner != uid {
            let message = format!(
                "it belongs to UID {owner}, not {uid}{}",
                if made { " although just made" } else { "" }
            );
            return Err(KernelError::new("use", on(), std::io::Error::other(message))
                .hint("move it out of the way, or remove it if its data is not wanted"));
        }
        Ok(directory)
    }

    /// Clones detached mounts of the slice's directories, for a new capsule.
    ///
    /// # Errors
    /// A directory that is missing, or that the kernel cannot clone.
    pub fn mounts(&self, slice: &str) -> Result<StorageMounts, KernelError> {
        let top =
            openat(&self.root, slice, DIRECTORY, Mode::empty()).tried("open storage", self.at(slice))?;
        let clone = |name: &str, extra: MountAttrFlags| {
            let tree = open_tree(
                &top,
                name,
                OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
            )
            .tried(&format!("clone a mount of {name}"), self.at(slice))?;
            set_attributes(&tree, NO_DEV_NO_SUID | extra, false)?;
            Ok::<_, KernelError>(tree)
        };
        Ok(StorageMounts {
            home_parent: clone("home", MountAttrFlags::empty())?,
            tmp: clone("tmp", MountAttrFlags::empty())?,
            var_tmp: clone("var-tmp", MountAttrFlags::empty())?,
            identity: clone(
                "identity",
                MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            )?,
        })
    }

    /// Opens the directories a wipe empties, in the order home, tmp, var-tmp; those that are missing are left out.
    ///
    /// # Errors
    /// A directory that is there and cannot be opened.
    pub fn wipe_targets(&self, slice: &str) -> Result<Vec<OwnedFd>, KernelError> {
        let top = match openat(&self.root, slice, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.tried("open storage", self.at(slice))?,
        };
        let mut targets = Vec::with_capacity(3);
        for name in [format!("home/{slice}"), "tmp".into(), "var-tmp".into()] {
            // The descriptors go to a process of the slice's UID: O_PATH, so that they carry no access of root's.
            match openat2(
                &top,
                &name,
                DIRECTORY,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            ) {
                // Root's still: a crash came between making it and giving it away, so nothing is in it.
                Ok(fd) if rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_uid == 0) => {}
                Ok(fd) => targets.push(fd),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(KernelError::new(format!("open {name}"), self.at(slice), error)),
            }
        }
        Ok(targets)
    }

    /// Removes the slice's emptied directories and root's own files. Fine if there is nothing.
    ///
    /// # Errors
    /// A directory that is not empty, or that the kernel refuses to remove.
    pub fn remove(&self, slice: &str) -> Result<(), KernelError> {
        let top = match openat(&self.root, slice, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.tried("open storage", self.at(slice))?,
        };
        let gone = |result: Result<(), Errno>, name: &str| match result {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(KernelError::new(format!("remove {name}"), self.at(slice), error)),
        };
        for file in ["identity/passwd", "identity/group"] {
            gone(unlinkat(&top, file, AtFlags::empty()), file)?;
        }
        for directory in [&format!("home/{slice}"), "home", "tmp", "var-tmp", "identity"] {
            gone(unlinkat(&top, directory, AtFlags::REMOVEDIR), directory)?;
        }
        gone(unlinkat(&self.root, slice, AtFlags::REMOVEDIR), "the directory")
    }

    /// Names of all slices that have storage.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, KernelError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).tried("list", self.path.display())? {
            names.push(entry.tried("list", self.path.display())?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }
}

/// Clones a read-only detached mount of a directory that the node's administrator allows definitions to ask for.
/// No symbolic link on the way is followed: the path shall mean today what it meant when it was allowed.
///
/// # Errors
/// It is missing, is or goes through a symbolic link, or cannot be cloned.
pub fn detached_tree(path: &Path) -> Result<OwnedFd, KernelError> {
    let directory =
        openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(|error| {
                KernelError::new("open for [view] paths", path.display(), error)
                    .hint("it must exist on this node and not go through a symbolic link")
            })?;
    let tree = open_tree(
        &directory,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
    .tried("clone mount", path.display())?;
    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | NO_DEV_NO_SUID, true)?;
    Ok(tree)
}
