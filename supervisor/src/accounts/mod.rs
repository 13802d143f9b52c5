//! Accounts: what makes a slice a user that sshd lets in (4.1, 6.6).
//!
//! A slice's account is a user record and a group record in `/run/userdb`, which nss-systemd shows to the whole system,
//! and a file with its keys, which sshd's `AuthorizedKeysCommand` prints. All of it is written from the ledger and the
//! definition, lies below `/run`, and so is gone with the boot, and written anew by the next plabd. Nothing of
//! `/etc/passwd` is touched: no lock against an administrator, and nothing to clean up.
//!
//! | module | concern |
//! |---|---|
//! | [`records`] | the user and group records |
//! | [`keys`] | the lines for sshd |

mod keys;
mod records;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid, User};
use plab_config::{PortRange, SshKey};

use crate::paths::Paths;

/// The group whose members sshd and PAM treat as slices; the package makes it.
pub const GROUP: &str = "planetlab-slices";

/// The login shell of every slice.
pub const SHELL: &str = "/usr/lib/planetlab/plab-shell";

/// The accounts of a node's slices.
pub struct Accounts {
    userdb: PathBuf,
    /// Keys, and a mark for each UID; see [`Paths::accounts`].
    directory: PathBuf,
    home: PathBuf,
    /// GID of [`GROUP`].
    group: u32,
    /// Whether this machine's name service shows what is written here.
    real: bool,
}

/// What [`Accounts::publish`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// A key that could log in before cannot any more, and what it opened may still be open. Said again by a later
    /// plabd until [`Accounts::settled`].
    pub key_removed: bool,
}

impl Accounts {
    /// Makes the directories, and finds the group.
    ///
    /// # Errors
    /// A directory cannot be made; on a real node also: there is no such group.
    pub fn open(paths: &Paths) -> io::Result<Self> {
        let real = paths.root == Path::new("/");
        let directory = paths.accounts();
        let home = paths.run.join("home");
        let userdb = paths.root.join("run/userdb");
        for path in [&directory, &home, &userdb] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
            // Others must be able to read it whatever plabd's umask is, and only root may write.
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let group = Group::from_name(GROUP)?.map(|group| group.gid.as_raw());
        let group = match group {
            Some(group) => group,
            None if real => {
                let hint = format!(
                    "there is no group {GROUP}; `systemd-sysusers` or `groupadd --system {GROUP}` makes it"
                );
                return Err(io::Error::new(io::ErrorKind::NotFound, hint));
            }
            // Beside a real node, or on a machine that is none: nobody logs in by these records.
            None => u32::MAX - 1,
        };
        Ok(Self { userdb, directory, home, group, real })
    }

    /// Why a slice must not have this name: somebody else on the machine has it.
    ///
    /// # Errors
    /// The reason.
    pub fn check_name(&self, name: &str) -> Result<(), String> {
        if !self.real || self.path_of(name, "keys").exists() || records::is_written(&self.userdb, name) {
            return Ok(());
        }
        match (User::from_name(name), Group::from_name(name)) {
            (Ok(None), Ok(None)) => Ok(()),
            (Ok(Some(user)), _) => Err(format!(
                "this machine has a user {name} already (UID {}, {})",
                user.uid,
                user.gecos.to_string_lossy()
            )),
            (_, Ok(Some(group))) => {
                Err(format!("this machine has a group {name} already (GID {})", group.gid))
            }
            (Err(error), _) | (_, Err(error)) => {
                Err(format!("could not find out whether this machine has a user {name} already: {error}"))
            }
        }
    }

    /// Makes the account of a slice what it is to be. Without `keys` nobody can log in.
    ///
    /// # Errors
    /// A file cannot be written, or the UID is somebody else's. Then nobody can log in.
    pub fn publish(
        &self,
        name: &str,
        uid: u32,
        keys: Option<&[SshKey]>,
        ports: &[PortRange],
    ) -> io::Result<Published> {
        let done = self.try_publish(name, uid, keys, ports);
        if done.is_err() {
            // Closed rather than as it was: an old file may hold a key that was taken away.
            self.close(name)?;
        }
        done
    }

    fn try_publish(
        &self,
        name: &str,
        uid: u32,
        keys: Option<&[SshKey]>,
        ports: &[PortRange],
    ) -> io::Result<Published> {
        if self.real
            && !records::is_written(&self.userdb, name)
            && let Some(other) = User::from_uid(Uid::from_raw(uid))?
        {
            let message = format!("UID {uid} is that of the user {} of this machine", other.name);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        // The mark first: what must not be done for a slice's UID looks for it.
        write_if_other(&self.directory, &uid.to_string(), "")?;
        records::write(&self.userdb, &records::Account { name, uid, group: self.group, home: &self.home })?;
        if self.real {
            shown(name, uid)?;
        }
        let path = self.path_of(name, "keys");
        let old = read_or_empty(&path)?;
        let new = keys.map(|keys| keys::authorized_keys(keys, ports)).unwrap_or_default();
        if lost(&old, &new) {
            write_if_other(&self.directory, &format!("{name}.owed"), "")?;
        }
        match keys {
            Some(_) => write_if_other(&self.directory, &format!("{name}.keys"), &new)?,
            None => remove(&path)?,
        }
        Ok(Published { key_removed: self.path_of(name, "owed").exists() })
    }

    /// Everything that was opened with a removed key has ended.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn settled(&self, name: &str) -> io::Result<()> {
        remove(&self.path_of(name, "owed"))
    }

    /// Lets nobody log in any more; the account stays.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn close(&self, name: &str) -> io::Result<()> {
        remove(&self.path_of(name, "keys"))
    }

    /// Removes the account.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn withdraw(&self, name: &str, uid: u32) -> io::Result<()> {
        self.close(name)?;
        self.settled(name)?;
        records::remove(&self.userdb, name, uid)?;
        remove(&self.directory.join(uid.to_string()))
    }

    /// Lets nobody log in to slices that are none: of a ledger that was lost.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not removed.
    pub fn clear_strangers(&self, known: &BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let file = entry?.file_name();
            if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".keys"))
                && !known.contains(name)
            {
                match records::uid_of(&self.userdb, name) {
                    Some(uid) => self.withdraw(name, uid)?,
                    None => self.close(name)?,
                }
            }
        }
        Ok(())
    }

    fn path_of(&self, name: &str, what: &str) -> PathBuf {
        self.directory.join(format!("{name}.{what}"))
    }
}

/// Makes sure that the name service shows the account: without it sshd knows no such user.
fn shown(name: &str, uid: u32) -> io::Result<()> {
    if User::from_name(name)?.is_some_and(|user| user.uid.as_raw() == uid) {
        return Ok(());
    }
    let message = format!(
        "the name service does not show {name} with UID {uid} from /run/userdb; is libnss-systemd installed, and `systemd` \
         in the line `passwd` of /etc/nsswitch.conf?"
    );
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

/// Whether a key that was in one file is not in the other.
fn lost(old: &str, new: &str) -> bool {
    let new: BTreeSet<&str> = keys::fingerprints(new).collect();
    keys::fingerprints(old).any(|key| !new.contains(key))
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Replaces a file at once; a reader sees all of the old one or all of the new.
fn write_if_other(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(name);
    if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    // A dot in front and another ending: neither nss-systemd nor plab-keys takes it for one of theirs.
    let temporary = directory.join(format!(".{name}.new"));
    remove(&temporary)?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o644).open(&temporary)?;
    fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&temporary, &path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const KEYS: [&str; 2] = [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN2oNn44stRcFx5MUczmpMZbOpJZxmKW8SlP0Nf1Iert alice",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFS3cPfVuvtrKNg+FyDp21n3/Gke1DmxovRNmJxjGL7eKcwDeRwxmzoW+OVUVzoFx407V768ldSp/lXoawI7KUs= bob",
    ];

    fn keys(which: &[usize]) -> Vec<SshKey> {
        which.iter().map(|&at| KEYS[at].parse().expect("a key")).collect()
    }

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> (Self, Accounts) {
            let root = std::env::temp_dir().join(format!("plab-accounts-{name}-{}", std::process::id()));
            fs::create_dir_all(&root).expect("mkdir");
            let accounts = Accounts::open(&Paths::below(&root)).expect("directories");
            (Self(root), accounts)
        }

        fn keys(&self) -> Option<String> {
            fs::read_to_string(self.0.join("run/planetlab/accounts/site_a.keys")).ok()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn an_account_comes_and_goes_without_a_trace() {
        let (root, accounts) = Root::new("life");
        let published = accounts.publish("site_a", 70_001, Some(&keys(&[0, 1])), &[]).expect("publish");
        assert!(!published.key_removed);
        assert_eq!(root.keys().expect("a file").lines().count(), 2);
        let mode =
            fs::metadata(root.0.join("run/planetlab/accounts/site_a.keys")).expect("stat").permissions();
        assert_eq!(mode.mode() & 0o777, 0o644);
        let record = fs::read_to_string(root.0.join("run/userdb/70001.user")).expect("found by UID");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        assert_eq!((record["userName"].as_str(), record["uid"].as_u64()), (Some("site_a"), Some(70_001)));
        assert_eq!(record["shell"], SHELL);
        accounts.withdraw("site_a", 70_001).expect("withdraw");
        for directory in ["run/userdb", "run/planetlab/accounts", "run/planetlab/home"] {
            let left = fs::read_dir(root.0.join(directory)).expect("list").count();
            assert_eq!(left, 0, "{directory}");
        }
    }

    #[test]
    fn a_removed_key_is_owed_until_it_is_settled() {
        let (root, accounts) = Root::new("owed");
        let publish = |which: &[usize]| {
            accounts.publish("site_a", 70_001, Some(&keys(which)), &[]).expect("publish").key_removed
        };
        assert!(!publish(&[0, 1]) && !publish(&[1, 0]));
        assert!(publish(&[1]) && publish(&[1]), "also to the next plabd");
        accounts.settled("site_a").expect("settle");
        assert!(!publish(&[1]) && !publish(&[0, 1]));
        assert!(
            accounts.publish("site_a", 70_001, None, &[]).expect("publish").key_removed,
            "the lease has ended"
        );
        assert!(root.keys().is_none());
    }

    #[test]
    fn a_slice_that_is_none_lets_nobody_in() {
        let (root, accounts) = Root::new("strangers");
        accounts.publish("site_a", 70_001, Some(&keys(&[0])), &[]).expect("publish");
        accounts.clear_strangers(&["site_a".to_owned()].into()).expect("clear");
        assert!(root.keys().is_some());
        accounts.clear_strangers(&BTreeSet::new()).expect("clear");
        assert!(root.keys().is_none());
        assert_eq!(fs::read_dir(root.0.join("run/userdb")).expect("list").count(), 0);
    }

    #[test]
    fn what_cannot_be_written_lets_nobody_in() {
        let (root, accounts) = Root::new("closed");
        accounts.publish("site_a", 70_001, Some(&keys(&[0])), &[]).expect("publish");
        // In the place of a record: nothing can be renamed over it.
        fs::remove_file(root.0.join("run/userdb/site_a.group")).expect("remove");
        fs::create_dir_all(root.0.join("run/userdb/site_a.group/x")).expect("mkdir");
        accounts.publish("site_a", 70_001, Some(&keys(&[0, 1])), &[]).expect_err("it cannot");
        assert!(root.keys().is_none());
    }
}
