//! What `plab-shell` is asked for, and by which key.
//!
//! sshd runs a login shell as `-plab-shell`, or with `-c` and a command. For a slice it has only ever one command, the
//! one that stands in every line of `plab-keys`: plab-shell again, with the key's fingerprint. What the user typed is in
//! `SSH_ORIGINAL_COMMAND` then. Anything else came from root on the node (`su`), and has no key.

use std::ffi::OsString;
use std::path::PathBuf;

use plab_protocol::control::Login;

/// How the command begins that sshd runs for a key; what follows is the fingerprint.
const BY_KEY: &str = "/usr/lib/planetlab/plab-shell --key ";

/// One call of plab-shell.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// Where the node's files are, for a node that is not the machine's own.
    pub root: Option<PathBuf>,
    /// What to do.
    pub what: What,
    /// The key, if sshd named one.
    pub login: Option<Login>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// Say what this program is.
    Help,
    /// Run this command line; without one, the login shell.
    Run(Option<OsString>),
}

impl Call {
    /// Reads the command line; `variable` looks up the environment.
    ///
    /// # Errors
    /// What is wrong with the command line.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Call, String> {
        let mut args = args.into_iter().skip(1);
        let mut root = None;
        let mut command = None;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--root") => root = Some(args.next().ok_or("--root needs a directory")?.into()),
                Some("-c") => command = Some(args.next().ok_or("-c needs a command")?),
                Some("-l" | "--login" | "-") => {}
                Some("-h" | "--help") => return Ok(Call { root, what: What::Help, login: None }),
                _ => return Err(format!("unknown argument {arg:?}; plab-shell --help says what there is")),
            }
        }
        let Some(key) = command.as_ref().and_then(|command| command.to_str()?.strip_prefix(BY_KEY)) else {
            return Ok(Call { root, what: What::Run(command), login: None });
        };
        // "CLIENT PORT SERVER PORT"; see ssh(1).
        let from = variable("SSH_CONNECTION")
            .and_then(|connection| Some(connection.to_str()?.split(' ').next()?.to_owned()))
            .filter(|address| !address.is_empty());
        let original = variable("SSH_ORIGINAL_COMMAND");
        Ok(Call { root, what: What::Run(original), login: Some(Login { key: key.to_owned(), from }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORCED: &str = "/usr/lib/planetlab/plab-shell --key SHA256:abc";

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Call, String> {
        Call::read(args.iter().map(OsString::from), |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn run(command: Option<&str>) -> What {
        What::Run(command.map(OsString::from))
    }

    #[test]
    fn a_key_comes_with_the_command_that_was_typed() {
        let env = [("SSH_ORIGINAL_COMMAND", "ls -la"), ("SSH_CONNECTION", "192.0.2.7 40000 192.0.2.1 22")];
        let call = read(&["plab-shell", "-c", FORCED], &env).expect("a call");
        assert_eq!(call.what, run(Some("ls -la")));
        let login = Login { key: "SHA256:abc".into(), from: Some("192.0.2.7".into()) };
        assert_eq!(call.login, Some(login));
        let call = read(&["plab-shell", "-c", FORCED], &env[1..]).expect("a call");
        assert_eq!(call.what, run(None));
    }

    #[test]
    fn without_a_key_the_environment_has_no_say() {
        let env = [("SSH_ORIGINAL_COMMAND", "typed"), ("SSH_CONNECTION", "192.0.2.7 1 2 3")];
        for (args, command) in [
            (&["-plab-shell"][..], None),
            (&["plab-shell", "-c", "ls"], Some("ls")),
            (&["plab-shell", "-l", "-c", "echo plab-shell --key x"], Some("echo plab-shell --key x")),
        ] {
            let call = read(args, &env).expect("a call");
            assert_eq!((call.what, call.login), (run(command), None), "{args:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for args in
            [&["plab-shell", "--key", "SHA256:abc"][..], &["plab-shell", "-c"], &["plab-shell", "file"]]
        {
            assert!(read(args, &[]).is_err(), "{args:?}");
        }
    }
}
