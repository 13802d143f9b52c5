//! The control directory: kept open, watched, and `resources` kept in it.
//!
//! All of it is done as the slice, in the slice's view; what is found there concerns the slice alone.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use plab_control_scripts::{CONTROL_DIR, ControlDir, ControlDirProblem, Hook, HookFile, Settle, resources};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::message::bounded;

/// The watched control directory of this capsule's slice.
pub(super) struct ControlWatch {
    home: OwnedFd,
    inotify: Option<OwnedFd>,
    home_watch: Option<i32>,
    directory: Option<(ControlDir, Option<i32>)>,
    settle: Settle,
    /// `resources` was taken away: to be written again once the directory is quiet.
    rewrite: bool,
    resources: String,
    /// What is wrong with the directory, for the slice's owner to see.
    pub(super) problem: Option<String>,
    /// Why `resources` could not be written.
    pub(super) resources_problem: Option<String>,
}

impl ControlWatch {
    /// Nothing is opened or written before [`Self::begin`].
    pub(super) fn new(home: OwnedFd) -> Self {
        // Without inotify (the slice's UID has used its instances up) new scripts are seen at the next start.
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        Self {
            home,
            inotify,
            home_watch: None,
            directory: None,
            settle: Settle::new(),
            rewrite: false,
            resources: String::new(),
            problem: None,
            resources_problem: None,
        }
    }

    /// Makes the directory if there is none, opens it, writes `resources`.
    pub(super) fn begin(&mut self, resources: String) {
        self.resources = resources;
        if let Some(inotify) = &self.inotify {
            let flags = WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                // chmod, which opens what was shut
                | WatchFlags::ATTRIB
                | WatchFlags::ONLYDIR;
            self.home_watch = self.watch(inotify, self.home.as_fd(), flags);
        }
        match ControlDir::create_and_open(self.home.as_fd()) {
            Ok(directory) => self.adopt(directory),
            Err(problem) => self.problem = Some(bounded(problem.to_string())),
        }
        self.write_resources();
    }

    /// Replaces `resources`.
    pub(super) fn set_resources(&mut self, text: String) {
        self.resources = text;
        self.write_resources();
    }

    /// What to poll for events.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// When [`Self::settled`] is worth a call.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.settle.deadline()
    }

    /// The hooks touched since the directory was last quiet, once it is quiet again.
    pub(super) fn settled(&mut self, now: Instant) -> Option<Vec<Hook>> {
        let hooks = self.settle.settled(now)?;
        if std::mem::take(&mut self.rewrite) {
            self.write_resources();
        }
        Some(hooks)
    }

    pub(super) fn directory(&self) -> Option<&ControlDir> {
        self.directory.as_ref().map(|(directory, _)| directory)
    }

    pub(super) fn inspect(&self, hook: Hook) -> HookFile {
        self.directory().map_or(HookFile::Absent, |directory| directory.inspect(hook))
    }

    /// Takes in what inotify has to say; a bounded amount a call.
    pub(super) fn read_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let now = Instant::now();
        let mut reopen = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        // Bounded: a slice that floods its directory must not keep PID 1 from its other work.
        for _ in 0..256 {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                reopen = true;
                self.settle.everything(now);
            } else if Some(event.wd()) == self.home_watch {
                reopen |= name == Some(CONTROL_DIR.as_bytes());
            } else if let Some(name) = name {
                self.settle.event(now, name);
                // Gone, or out of the way: it is the node's to keep there. Not at once, or nobody could remove the
                // directory around it.
                if name == resources::FILE_NAME.as_bytes()
                    && event.events().intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM)
                {
                    self.rewrite = true;
                    self.settle.event(now, b"");
                }
            }
        }
        if reopen {
            self.reopen(now);
        }
    }

    fn reopen(&mut self, now: Instant) {
        if let (Some((_, Some(watch))), Some(inotify)) = (self.directory.take(), &self.inotify) {
            // The kernel may have dropped it already, with the directory.
            inotify::remove_watch(inotify, watch).ok();
        }
        self.problem = None;
        match ControlDir::open(self.home.as_fd()) {
            Ok(directory) => {
                self.adopt(directory);
                self.settle.everything(now);
                self.write_resources();
            }
            // Optional (4.7): that it is gone is no fault.
            Err(ControlDirProblem::Absent) => self.resources_problem = None,
            Err(problem) => self.problem = Some(bounded(problem.to_string())),
        }
    }

    fn adopt(&mut self, directory: ControlDir) {
        let watch = self
            .inotify
            .as_ref()
            .and_then(|inotify| self.watch(inotify, directory.as_fd(), Settle::watched()));
        self.directory = Some((directory, watch));
    }

    /// Watches an opened directory: by its descriptor, so that it is the one that was checked.
    fn watch(&self, inotify: &OwnedFd, directory: BorrowedFd<'_>, flags: WatchFlags) -> Option<i32> {
        use std::os::fd::AsRawFd;
        // capsule-init is undumpable, so its own /proc/self/fd is shut to it; the directory itself is open to the
        // slice under its name, which is checked again by comparing what was opened.
        let path = if directory.as_raw_fd() == self.home.as_raw_fd() { "." } else { CONTROL_DIR };
        let watch = inotify::add_watch(inotify, path, flags | WatchFlags::DONT_FOLLOW).ok()?;
        let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let opened = rustix::fs::fstat(directory).ok()?;
        match rustix::fs::statat(&self.home, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if same(named, opened) => Some(watch),
            // Exchanged under us: the home's own watch has seen that, and opens anew.
            _ => {
                inotify::remove_watch(inotify, watch).ok();
                None
            }
        }
    }

    fn write_resources(&mut self) {
        self.resources_problem = match self.directory() {
            None => None,
            Some(directory) => {
                resources::write(directory, &self.resources).err().map(|problem| bounded(problem.to_string()))
            }
        };
    }
}
