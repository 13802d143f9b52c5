//! `plab-keys SLICE`, sshd's `AuthorizedKeysCommand`: prints the keys that may log in to a slice.
//!
//! plabd has written them, options and all, into a file that only root can write. So a login needs no plabd to begin,
//! and without the file there is none. This runs as a user of its own and sees a name that came from the network:
//! anything but the name of a slice finds nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::{OK, REFUSED, USAGE};
use crate::output::print;

/// A definition's keys fit many times over.
const MAX_BYTES: u64 = 16 << 20;

const HELP: &str = "plab-keys prints the keys that may log in to a slice, for sshd.

Usage: plab-keys [--root DIR] SLICE

Example (sshd_config):
  AuthorizedKeysCommand /usr/lib/planetlab/plab-keys %u
";

/// All of `plab-keys`.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    let (root, name) = match words[..] {
        ["--help" | "-h"] => return ExitCode::from(print(HELP).map_or(REFUSED, |()| OK)),
        ["--root", root, name] => (Path::new(root), name),
        [name] => (Path::new("/"), name),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    if !is_name(name) {
        // A user of the machine's own, or nobody's name: no slice, and so no keys.
        return ExitCode::from(OK);
    }
    let path = root.join("run/planetlab/accounts").join(format!("{name}.keys"));
    match read(&path) {
        Ok(text) => ExitCode::from(print(&text).map_or(REFUSED, |()| OK)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => ExitCode::from(OK),
        Err(error) => {
            eprintln!("plab-keys: cannot read {}: {error}", path.display());
            ExitCode::from(REFUSED)
        }
    }
}

/// Whether this can be a slice's name, and so is a file's name and no path.
fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let stat = file.metadata()?;
    if !stat.is_file() || stat.uid() != 0 || stat.mode() & 0o022 != 0 || stat.len() > MAX_BYTES {
        let message = "it is no file that only root can write; plabd writes it at its next start";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        assert!(is_name("princeton4") && is_name("princeton_codeen"));
        for name in
            ["", ".", "..", "a/b", "../etc", "Root", "4a", "_a", "a b", "a.keys", "é", &"a".repeat(33)]
        {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_link_or_a_file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("plab-keys-{}", std::process::id()));
        std::fs::write(&path, "x\n").expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("chmod");
        let loose = read(&path);
        let link = path.with_extension("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        let linked = read(&link);
        std::fs::remove_file(&link).expect("remove");
        std::fs::remove_file(&path).expect("remove");
        assert!(loose.is_err() && linked.is_err());
    }
}
