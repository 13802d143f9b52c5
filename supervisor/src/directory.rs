//! The directory of definitions: read once, then watched with inotify (section 6 of the design).
//!
//! A file that is gone removes a slice and its data, so a file must be gone for a while before that is believed:
//! editors save by renaming and writing anew. And a directory that is another one than last time, and empty, is
//! an unmounted disk more likely than an administrator's wish: then nothing is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use plab_config::Definition;
use plab_protocol::control::Severity;
use plab_sandbox::KernelError;
use plab_sandbox::net::CapsuleState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::bandwidth;
use crate::capsule::wishes;
use crate::ledger::{LedgerError, SliceRow};
use crate::node::Node;
use crate::watched::watched;

/// How long a file must be gone before its slice is removed.
const GONE_FOR: Duration = Duration::from_secs(1);

/// The ledger's name for what identifies the directory.
const IDENTITY: &str = "slices_dir";

/// The watched directory.
pub struct Directory {
    node: Rc<Node>,
    path: PathBuf,
    inotify: AsyncFd<Inotify>,
    /// Files seen to go, and when that is believed.
    going: BTreeMap<PathBuf, Instant>,
}

impl Directory {
    /// Watches the directory, making it if missing; nothing is read yet.
    ///
    /// # Errors
    /// It cannot be made or watched.
    pub fn watch(node: Rc<Node>) -> io::Result<Self> {
        let path = node.machine.paths.slices.clone();
        std::fs::create_dir_all(&path)?;
        // Definitions name contacts and keys; a slice's UID outside its capsule is "other" here.
        let mode = std::fs::metadata(&path)?.permissions().mode();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o770))?;
        let inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(&path, mask)?;
        Ok(Self { node, path, inotify: watched(inotify, Interest::READABLE)?, going: BTreeMap::new() })
    }

    /// Reads every definition, and starts every slice's task: of those that are defined, and of those that the
    /// ledger remembers.
    ///
    /// # Errors
    /// The directory or the ledger cannot be read.
    pub async fn begin(&self) -> Result<(), BeginError> {
        let rows = self.node.ledger.slices().await?;
        let files = self.files().map_err(|error| BeginError::Directory(self.path.clone(), error))?;
        let mut last_good = BTreeMap::new();
        for row in &rows {
            match Definition::parse(&row.definition, Path::new(&row.source), &self.node.machine.node) {
                Ok(definition) => {
                    last_good.insert(row.name.clone(), definition);
                }
                Err(errors) => {
                    let first = errors.first().map(ToString::to_string).unwrap_or_default();
                    self.node.events.report(Some(&row.name), "ledger-outdated", Severity::Warning, first);
                }
            }
        }
        self.node.machine.bandwidth.load(&self.node.ledger).await?;
        self.node.machine.opt_outs.load(&self.node.ledger).await?;
        self.hold_to_the_network(&rows, &last_good)
            .map_err(|error| BeginError::Network(error.to_string()))?;
        let hold = self.is_suspicious(&rows, &files).await?;
        // First what was in effect, then what the files say now: a file that has gone bad keeps its last good word.
        for row in &rows {
            let source = PathBuf::from(&row.source);
            if !row.removing
                && (hold || files.contains(&source))
                && let Some(definition) = last_good.get(&row.name)
            {
                self.node.set.borrow_mut().upsert(&source, Ok(definition.clone()));
            }
        }
        for file in &files {
            self.node.note(file, Definition::load(file, &self.node.machine.node));
        }
        self.node.resume(rows, &last_good);
        self.node.bring_all();
        // A port may have moved from one file to another that was read before it.
        self.node.retry_conflicts();
        Ok(())
    }

    /// Puts the network's programs in force with what the ledger knows, before any slice's task looks for its capsule:
    /// those that run are under a former plabd's until then, and under these from then on.
    fn hold_to_the_network(
        &self,
        rows: &[SliceRow],
        last_good: &BTreeMap<String, Definition>,
    ) -> Result<(), KernelError> {
        let machine = &self.node.machine;
        let (mut cgroups, mut unread) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            let Some(definition) = last_good.get(&row.name) else {
                // What cannot be read any more runs on as it is, until its file says otherwise. After an upgrade to
                // another layout of the maps nothing is known of it; then it has no ports, but the network.
                let cgroup = machine.tree.capsule_id(&row.name)?;
                if let (Some(guard), Some(cgroup)) = (machine.guard(), cgroup)
                    && guard.capsule(cgroup)?.is_none()
                {
                    guard.admit(cgroup, CapsuleState { uid: row.uid, ..CapsuleState::default() })?;
                }
                cgroups.extend(cgroup);
                machine.bandwidth.remember(row.uid, None);
                unread.insert(row.uid);
                continue;
            };
            machine.ports.remember(&row.name, row.uid, &definition.network.ports);
            machine.bandwidth.remember(row.uid, Some(definition.network.rate));
            if let (Some(guard), Some(cgroup)) = (machine.guard(), machine.tree.capsule_id(&row.name)?) {
                guard.admit(cgroup, wishes::network(definition, row.uid, machine))?;
                cgroups.insert(cgroup);
            }
        }
        machine.ports.begin(machine.guard(), &machine.node.network.open_loopback, &unread)?;
        if let Some(guard) = machine.guard() {
            machine.opt_outs.enforce(guard)?;
            guard.keep_only(&cgroups)?;
            guard.follow_addresses()?;
            guard.attach()?;
        }
        // Capsules that run are left as they are; none is made until it is in force.
        if let Err(error) = machine.bandwidth.begin() {
            bandwidth::tell(&self.node, Some(error.to_string()));
        }
        Ok(())
    }

    async fn is_suspicious(&self, rows: &[SliceRow], files: &BTreeSet<PathBuf>) -> Result<bool, BeginError> {
        let meta =
            std::fs::metadata(&self.path).map_err(|error| BeginError::Directory(self.path.clone(), error))?;
        let now = format!("{}:{}", meta.dev(), meta.ino());
        let then = self.node.ledger.meta(IDENTITY).await?;
        let living = rows.iter().filter(|row| !row.removing).count();
        if files.is_empty() && living > 0 && then.as_ref().is_some_and(|then| *then != now) {
            let message = format!(
                "{} is empty and another directory than before; the {living} slices it had are kept. Is a disk not \
                 mounted? If they shall go: `plab rm` each, or put one definition there",
                self.path.display()
            );
            self.node.events.report(None, "directory-suspicious", Severity::Error, message);
            return Ok(true);
        }
        if then.as_deref() != Some(now.as_str()) {
            // On a full disk it stays as it was: the next start looks again.
            self.node.ledger.set_meta(IDENTITY, now).await.ok();
        }
        Ok(false)
    }

    fn files(&self) -> io::Result<BTreeSet<PathBuf>> {
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if is_definition(&entry.file_name()) {
                files.insert(entry.path());
            }
        }
        Ok(files)
    }

    /// Follows the directory for as long as plabd runs.
    pub async fn follow(mut self) {
        loop {
            let due = self.going.values().min().copied();
            tokio::select! {
                ready = self.inotify.readable_mut() => match ready {
                    Ok(mut ready) => {
                        let events = read(ready.get_inner_mut());
                        ready.clear_ready();
                        self.take_in(events);
                    }
                    Err(error) => {
                        self.node.events.report(None, "directory-lost", Severity::Error, error.to_string());
                        return;
                    }
                },
                () = until(due) => self.believe_gone(),
            }
        }
    }

    fn take_in(&mut self, events: Events) {
        if events.lost {
            // Level-triggered: what the events did not tell, a look does.
            self.look_at_everything();
            return;
        }
        if events.directory_gone {
            let message = format!(
                "{} was moved or deleted; every slice is kept as it is. Put it back and restart plabd",
                self.path.display()
            );
            self.node.events.report(None, "directory-lost", Severity::Error, message);
            self.going.clear();
            return;
        }
        // A file written many times is read once.
        for name in events.names {
            self.look_at(&self.path.join(name));
        }
    }

    fn look_at(&mut self, file: &Path) {
        if file.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.going.entry(file.to_owned()).or_insert_with(|| Instant::now() + GONE_FOR);
        } else {
            self.going.remove(file);
            self.node.file_read(file, Definition::load(file, &self.node.machine.node));
        }
    }

    fn look_at_everything(&mut self) {
        match self.files() {
            Ok(mut files) => {
                let known: Vec<PathBuf> = {
                    let set = self.node.set.borrow();
                    set.iter()
                        .filter_map(|definition| set.source(&definition.name))
                        .map(Path::to_owned)
                        .collect()
                };
                files.extend(known);
                files.iter().for_each(|file| self.look_at(file));
            }
            Err(error) => self.node.events.report(None, "directory-lost", Severity::Error, error.to_string()),
        }
    }

    fn believe_gone(&mut self) {
        let now = Instant::now();
        // Gone with its directory is not gone by somebody's wish.
        if !self.path.is_dir() {
            self.going.clear();
            return;
        }
        let due: Vec<PathBuf> =
            self.going.iter().filter(|(_, at)| **at <= now).map(|(path, _)| path.clone()).collect();
        for file in due {
            self.going.remove(&file);
            if file.symlink_metadata().is_err() {
                self.node.file_gone(&file);
            }
        }
    }
}

/// Whether a name is a definition's: editors' and package managers' leavings are not.
pub fn is_definition(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(".toml") && !name.starts_with('.'))
}

#[derive(Default)]
struct Events {
    names: BTreeSet<std::ffi::OsString>,
    lost: bool,
    directory_gone: bool,
}

fn read(inotify: &mut Inotify) -> Events {
    let mut events = Events::default();
    let mut buffer = [0; 16 << 10];
    while let Ok(batch) = inotify.read_events(&mut buffer) {
        for event in batch {
            events.lost |= event.mask.contains(EventMask::Q_OVERFLOW);
            events.directory_gone |=
                event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT);
            events.names.extend(event.name.filter(|name| is_definition(name)).map(OsStr::to_owned));
        }
    }
    events
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why plabd cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The directory of definitions.
    #[error("could not read the directory of definitions {}: {}", .0.display(), .1)]
    Directory(PathBuf, #[source] io::Error),
    /// What holds capsules to their share of the network.
    #[error("{0}")]
    Network(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
