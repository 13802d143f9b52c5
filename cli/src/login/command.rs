//! How a command line is run inside, and what it is told of the connection.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// The shell of every capsule.
const SHELL: &str = "/bin/bash";

/// sshd's own file server, which an administrator may have named for everybody, runs inside sshd. The program of the
/// same protocol is in the capsule's view of `/usr`.
const INTERNAL_SFTP: &str = "internal-sftp";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// The most bytes of a variable that is passed on.
const MAX_VALUE: usize = 4096;

/// As sshd runs a command: by the user's shell, with `-c`.
pub fn argv(line: OsString) -> Vec<String> {
    let line = match line.as_bytes().strip_prefix(INTERNAL_SFTP.as_bytes()) {
        Some(rest) if rest.is_empty() || rest[0] == b' ' => [SFTP_SERVER.as_bytes(), rest].concat(),
        _ => line.into_encoded_bytes(),
    };
    let line = String::from_utf8(line).unwrap_or_else(|error| quoted(error.as_bytes()));
    vec![SHELL.to_owned(), "-c".to_owned(), line]
}

/// A command line that is not UTF-8 (a file name in Latin-1, say) as one that is, and that bash makes the same of:
/// the protocol carries text only.
fn quoted(line: &[u8]) -> String {
    let mut text = String::from("eval $'");
    for &byte in line {
        match byte {
            b'\'' | b'\\' | ..b' ' | 0x7f.. => {
                // Writing to a String cannot fail. At most two digits are read, so what follows may be one, too.
                let _ = write!(text, "\\x{byte:02x}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text.push('\'');
    text
}

/// Of sshd's environment what describes the user's terminal, language and connection.
pub fn environment(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    tty: bool,
) -> BTreeMap<String, String> {
    all.into_iter()
        .filter(|(name, value)| is_passed_on(name, tty) && value.len() <= MAX_VALUE)
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn is_passed_on(name: &OsStr, tty: bool) -> bool {
    match name.to_str() {
        Some("LANG" | "SSH_CLIENT" | "SSH_CONNECTION") => true,
        Some("TERM" | "COLORTERM" | "SSH_TTY") => tty,
        Some(name) => name.strip_prefix("LC_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        }),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn line(bytes: &[u8]) -> String {
        argv(OsString::from_vec(bytes.to_vec())).pop().expect("a line")
    }

    #[test]
    fn the_internal_server_is_one_of_the_capsules() {
        assert_eq!(line(b"internal-sftp"), SFTP_SERVER);
        assert_eq!(line(b"internal-sftp -l INFO"), format!("{SFTP_SERVER} -l INFO"));
        assert_eq!(line(b"internal-sftpx"), "internal-sftpx");
        assert_eq!(line(b"ls internal-sftp"), "ls internal-sftp");
    }

    #[test]
    fn bytes_that_are_no_text_reach_bash_as_they_are() {
        for bytes in
            [&b"printf %s caf\xe9'\\\"$HOME' \"$HOME\" \xff1"[..], b"printf '%s' \xc3A\n\tprintf x\x7f"]
        {
            let text = line(bytes);
            assert!(text.starts_with("eval $'") && text.is_ascii(), "{text}");
            let run = |command: &OsStr| {
                let mut bash = std::process::Command::new("bash");
                bash.arg("-c").arg(command).env("HOME", "/h").output().expect("bash").stdout
            };
            let as_it_is = run(OsStr::from_bytes(bytes));
            assert!(!as_it_is.is_empty());
            assert_eq!(run(OsStr::new(&text)), as_it_is, "{text}");
        }
    }

    #[test]
    fn the_environment_is_a_short_list() {
        let given: Vec<(OsString, OsString)> = [
            ("TERM", "xterm"),
            ("LANG", "C"),
            ("LC_ALL", "C"),
            ("LC_", "x"),
            ("LC_x=y", "x"),
            ("LD_PRELOAD", "/x"),
            ("PATH", "/x"),
            ("SSH_AUTH_SOCK", "/x"),
            ("SSH_CONNECTION", "192.0.2.7 1 192.0.2.1 22"),
            ("BASH_ENV", "/x"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let names = |tty| environment(given.clone(), tty).into_keys().collect::<Vec<_>>();
        assert_eq!(names(true), ["LANG", "LC_ALL", "SSH_CONNECTION", "TERM"]);
        assert_eq!(names(false), ["LANG", "LC_ALL", "SSH_CONNECTION"]);
        let long = [("LANG".into(), "x".repeat(MAX_VALUE + 1).into())];
        assert!(environment(long, true).is_empty());
    }
}
