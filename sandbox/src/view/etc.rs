//! The files of the host's `/etc` that capsules see: copies, so that no secret comes along by being new.
//!
//! One copy serves every capsule (the template's root directory is shared, read-only), and a refresh is seen by
//! all of them at once.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use plab_config::EtcEntry;

use crate::error::{KernelError, Tried};
use crate::view::IDENTITY_AT;

/// No configuration file worth showing is larger, in bytes (`ld.so.cache` is the largest, at about 100 KiB).
const MAX_FILE: u64 = 4 << 20;

/// What of `/etc` to show.
#[derive(Debug, Clone)]
pub struct EtcFiles {
    host: PathBuf,
    entries: Vec<EtcEntry>,
}

impl EtcFiles {
    /// `entries` as in the node file's `[view] etc`.
    pub fn new(entries: Vec<EtcEntry>) -> Self {
        Self { host: "/etc".into(), entries }
    }

    /// Copies what the entries name into `target`, replacing files by rename, and puts links to the capsule's
    /// own `passwd` and `group` beside them. Files that others may not read are left out: a capsule could not
    /// read the original either.
    ///
    /// # Errors
    /// A file or directory that cannot be read or written.
    pub fn refresh(&self, target: &Path) -> Result<(), KernelError> {
        self.copy_directory(target, "", 0)?;
        for name in ["passwd", "group"] {
            replace(&target.join(name), |at| symlink(format!("..{IDENTITY_AT}/{name}"), at))?;
        }
        Ok(())
    }

    /// Whether `below`, a path below `/etc`, or something in it, is to be shown.
    fn shows(&self, below: &str) -> bool {
        let inside =
            |entry: &EtcEntry| entry.as_str().strip_prefix(below).is_some_and(|rest| rest.starts_with('/'));
        let within = |entry: &EtcEntry| {
            below.match_indices('/').any(|(end, _)| entry.matches(&below[..end])) || entry.matches(below)
        };
        // Accounts are synthetic, one capsule each, whatever a node file says.
        !matches!(below, "passwd" | "group")
            && !EtcEntry::is_private(below)
            && self.entries.iter().any(|entry| within(entry) || inside(entry))
    }

    fn copy_directory(&self, target: &Path, below: &str, depth: usize) -> Result<(), KernelError> {
        let from = self.host.join(below);
        for entry in fs::read_dir(&from).tried("list", from.display())? {
            let entry = entry.tried("list", from.display())?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let below = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            if self.shows(&below) {
                self.copy(&target.join(&name), &below, depth)?;
            }
        }
        Ok(())
    }

    fn copy(&self, to: &Path, below: &str, depth: usize) -> Result<(), KernelError> {
        let from = &self.host.join(below);
        let meta = fs::symlink_metadata(from).tried("look at", from.display())?;
        if meta.is_symlink() {
            let link = fs::read_link(from).tried("read link", from.display())?;
            // resolv.conf is often a link to somewhere that the view does not have: then its target is wanted.
            let real = fs::canonicalize(from).unwrap_or_default();
            if ["/etc", "/usr", "/bin", "/lib"].iter().any(|shown| real.starts_with(shown)) {
                // Most of /etc/alternatives, at every start of plabd: only what differs is made anew.
                if fs::read_link(to).is_ok_and(|have| have == link) {
                    return Ok(());
                }
                return replace(to, |at| symlink(&link, at));
            }
            return match fs::metadata(from) {
                Ok(meta) if meta.is_file() => copy_file(from, to, &meta),
                // A dangling link shows nothing, here as there.
                _ => Ok(()),
            };
        }
        if meta.is_file() {
            return copy_file(from, to, &meta);
        }
        if meta.is_dir() && depth < 8 && meta.permissions().mode() & 0o5 == 0o5 {
            match fs::create_dir(to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(KernelError::new("make directory", to.display(), error));
                }
                _ => {}
            }
            // Not left to the umask: capsules must be able to read it.
            fs::set_permissions(to, fs::Permissions::from_mode(0o755)).tried("set mode of", to.display())?;
            self.copy_directory(to, below, depth + 1)?;
        }
        Ok(())
    }
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> Result<(), KernelError> {
    if meta.permissions().mode() & 0o4 == 0 || meta.len() > MAX_FILE {
        return Ok(());
    }
    if fs::symlink_metadata(to)
        .is_ok_and(|have| have.is_file() && have.len() == meta.len() && same_time(&have, meta))
    {
        return Ok(());
    }
    let mut content = Vec::new();
    fs::File::open(from)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut content))
        .tried("read", from.display())?;
    replace(to, |at| {
        fs::write(at, &content)?;
        fs::set_permissions(at, fs::Permissions::from_mode(meta.permissions().mode() & 0o755))?;
        fs::File::options().write(true).open(at)?.set_modified(meta.modified()?)
    })
}

fn same_time(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    matches!((a.modified(), b.modified()), (Ok(a), Ok(b)) if a == b)
}

/// Makes something at a temporary name and renames it over `to`: readers see the old or the new, never neither.
fn replace(to: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), KernelError> {
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KernelError::new("remove", temporary.display(), error));
        }
        _ => {}
    }
    make(&temporary).and_then(|()| fs::rename(&temporary, to)).tried("write", to.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<EtcEntry> {
        names.iter().map(|name| name.parse().expect("entry")).collect()
    }

    #[test]
    fn accounts_are_never_copied() {
        let some = EtcFiles::new(entries(&["hosts", "ssl", "p*", "g*", "default/locale"]));
        for name in ["hosts", "ssl", "ssl/certs/x.pem", "profile", "default", "default/locale"] {
            assert!(some.shows(name), "{name}");
        }
        for name in
            ["passwd", "shadow", "gshadow", "group", "sudoers", "ssl/private", "default/other", "ssls"]
        {
            assert!(!some.shows(name), "{name}");
        }
    }

    #[test]
    fn copies_readable_files_and_refreshes_them() {
        let dir = std::env::temp_dir().join(format!("plab-etc-{}", std::process::id()));
        let (host, target) = (dir.join("host"), dir.join("target"));
        fs::create_dir_all(host.join("sub")).expect("mkdir");
        fs::create_dir_all(&target).expect("mkdir");
        fs::write(host.join("hosts"), "one").expect("write");
        fs::write(host.join("sub/x"), "x").expect("write");
        fs::write(host.join("secret"), "s").expect("write");
        fs::set_permissions(host.join("secret"), fs::Permissions::from_mode(0o640)).expect("chmod");
        let etc = EtcFiles { host: host.clone(), entries: entries(&["hosts", "sub", "secret"]) };
        etc.refresh(&target).expect("refresh");
        assert_eq!(fs::read_to_string(target.join("hosts")).expect("read"), "one");
        assert_eq!(fs::read_to_string(target.join("sub/x")).expect("read"), "x");
        assert!(!target.join("secret").exists());
        fs::write(host.join("hosts"), "two!").expect("write");
        etc.refresh(&target).expect("refresh");
        assert_eq!(fs::read_to_string(target.join("hosts")).expect("read"), "two!");
        fs::remove_dir_all(&dir).expect("clean up");
    }
}
