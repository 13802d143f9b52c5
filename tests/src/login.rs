//! Logins without sshd: the login shell, started as sshd starts it, with the slice's UID.

use std::process::{Command, Stdio};

use crate::node::{TestNode, binary};

/// A key of a test's: its line in a definition, and its fingerprint.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As in a `.pub` file.
    pub line: &'static str,
    /// As `ssh-keygen -l` prints it.
    pub fingerprint: &'static str,
}

/// Alice's.
pub const ALICE: Key = Key {
    line: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINB5F77OaYykhqgdIrwc9GUvj4RiMWxo9/Ju1WDhzDyg alice@example.org",
    fingerprint: "SHA256:yMc+JY4vZ+2tFBQQNwbrqC7UM4wmPAcnma+IZshkwuc",
};

/// Bob's.
pub const BOB: Key = Key {
    line: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKvK1s76Mi8sX7ON6X6mHj6seWzvW63tRe+WRcg09e9E bob@example.org",
    fingerprint: "SHA256:rC1AjG/xG3AYdsbW3OI8zcGTFAqFkQH/tdmKoCT+YYQ",
};

/// The line of a definition that lets these in.
pub fn keys(keys: &[Key]) -> String {
    let lines: Vec<String> = keys.iter().map(|key| format!("{:?}", key.line)).collect();
    format!("keys = [{}]", lines.join(", "))
}

/// The login shell as sshd starts it for this key; without a command line it is to be a login shell. The environment
/// has what sshd puts there, and nothing else.
///
/// # Panics
/// There is no such slice.
pub fn login(node: &TestNode, slice: &str, key: Key, line: Option<&str>) -> Command {
    let mut command = as_slice(node, slice);
    command.arg("-c").arg(format!("/usr/lib/planetlab/plab-shell --key {}", key.fingerprint));
    command.env("SSH_CONNECTION", "192.0.2.7 40000 192.0.2.1 22").env("SSH_CLIENT", "192.0.2.7 40000 22");
    if let Some(line) = line {
        command.env("SSH_ORIGINAL_COMMAND", line);
    }
    command
}

/// The login shell with the slice's UID and no arguments yet, all three streams piped.
///
/// # Panics
/// There is no such slice.
pub fn as_slice(node: &TestNode, slice: &str) -> Command {
    let uid = node.status(slice)["uid"].as_u64().unwrap_or_else(|| panic!("{slice} has a UID")).to_string();
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).arg(binary("plab-shell"));
    command.arg("--root").arg(node.root());
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
