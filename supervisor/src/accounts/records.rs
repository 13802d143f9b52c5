//! User and group records as nss-systemd(8) finds them in `/run/userdb`: a file `NAME.user` and a link `UID.user` to it,
//! and the same for the group.
//!
//! The account's primary group is that of all slices, not its own: sshd and PAM tell slices by it, and the nss-systemd
//! of Debian 12 does not show memberships that lie in `/run/userdb`. Nothing on a node belongs to that group. Inside
//! its capsule a slice has its own group only.
//!
//! There is no password and no mark of a locked account: nss-systemd then says `!*` to shadow's readers, which no
//! password matches, and PAM's account stage lets a key through.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use super::SHELL;

/// What a record says.
pub(super) struct Account<'a> {
    pub(super) name: &'a str,
    pub(super) uid: u32,
    /// Primary group.
    pub(super) group: u32,
    pub(super) home: &'a Path,
}

/// Writes both records, if they say anything else.
pub(super) fn write(userdb: &Path, account: &Account<'_>) -> io::Result<()> {
    let Account { name, uid, group, home } = account;
    let user = json!({
        "userName": name,
        "uid": uid,
        "gid": group,
        "realName": "PlanetLab slice",
        "homeDirectory": home,
        "shell": SHELL,
        "disposition": "regular",
    });
    let own_group = json!({ "groupName": name, "gid": uid, "disposition": "regular" });
    for (kind, record) in [("user", user), ("group", own_group)] {
        let file = format!("{name}.{kind}");
        super::write_if_other(userdb, &file, &format!("{record}\n"))?;
        link(userdb, &file, &format!("{uid}.{kind}"))?;
    }
    Ok(())
}

fn link(userdb: &Path, file: &str, name: &str) -> io::Result<()> {
    let path = userdb.join(name);
    if fs::read_link(&path).is_ok_and(|to| to == Path::new(file)) {
        return Ok(());
    }
    super::remove(&path)?;
    symlink(file, path)
}

/// Removes both.
pub(super) fn remove(userdb: &Path, name: &str, uid: u32) -> io::Result<()> {
    for kind in ["user", "group"] {
        super::remove(&userdb.join(format!("{uid}.{kind}")))?;
        super::remove(&userdb.join(format!("{name}.{kind}")))?;
    }
    Ok(())
}

/// Whether there is a record of ours by this name.
pub(super) fn is_written(userdb: &Path, name: &str) -> bool {
    record(userdb, name).is_some_and(|record| record["shell"] == SHELL)
}

/// The UID in our record of this name.
pub(super) fn uid_of(userdb: &Path, name: &str) -> Option<u32> {
    let record = record(userdb, name).filter(|record| record["shell"] == SHELL)?;
    record["uid"].as_u64().and_then(|uid| uid.try_into().ok())
}

fn record(userdb: &Path, name: &str) -> Option<Value> {
    serde_json::from_slice(&fs::read(userdb.join(format!("{name}.user"))).ok()?).ok()
}
