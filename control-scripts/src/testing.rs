//! A scratch home directory for this crate's tests, and acting as somebody who is not root.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::control_dir::{CONTROL_DIR, ControlDir};

/// A UID that owns nothing.
const NOBODY: u32 = 65_534;

/// A home directory that is removed at the end.
pub(crate) struct Home {
    path: PathBuf,
    file: File,
}

impl Home {
    pub(crate) fn new() -> Home {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("plab-home-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        chmod(&path, 0o755);
        let file = File::open(&path).unwrap();
        Home { path, file }
    }

    /// With an empty control directory.
    pub(crate) fn with_control() -> (Home, ControlDir) {
        let home = Home::new();
        let dir = ControlDir::create_and_open(home.fd()).unwrap();
        (home, dir)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the control directory.
    pub(crate) fn control(&self, name: &str) -> PathBuf {
        self.path.join(CONTROL_DIR).join(name)
    }

    /// Makes a file in the control directory.
    pub(crate) fn script(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.control(name), text).unwrap();
        chmod(&self.control(name), mode);
    }

    /// The names in the control directory.
    pub(crate) fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join(CONTROL_DIR)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Hands the home directory itself to nobody and runs `act` as them, in a thread of its own:
    /// identity is a thread's to the kernel, and the calls behind this change only that thread's.
    pub(crate) fn as_nobody<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let root = rustix::process::geteuid().is_root();
        if root {
            chown(&self.path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if root {
                    let uid = rustix::process::Uid::from_raw(NOBODY);
                    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                }
                act()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What a test made unreadable must not stay behind when the tests are not run by root.
        let control = self.path.join(CONTROL_DIR);
        if control.is_dir() && !control.is_symlink() {
            let _ = fs::set_permissions(&control, fs::Permissions::from_mode(0o755));
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn mkfifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
}
