//! What can go wrong in `plab` itself, and the exit status each kind ends in.

use std::io;
use std::path::PathBuf;

use plab_protocol::control::ErrorReply;

/// The node did what was asked.
pub const OK: u8 = 0;
/// The node refused or failed, or what was checked does not hold.
pub const REFUSED: u8 = 1;
/// The command line could not be understood; clap's own number.
pub const USAGE: u8 = 2;
/// `plabd` could not be reached or did not keep to the protocol.
pub const UNREACHABLE: u8 = 3;
/// `exec` and `shell`: plab's own error, whatever it was. As env(1), timeout(1) and docker do, so that every
/// number below it is left to the command.
pub const EXEC_ERROR: u8 = 125;
/// `exec` and `shell`: the command was found and could not be run.
pub const EXEC_CANNOT: u8 = 126;
/// `exec` and `shell`: there is no such command.
pub const EXEC_NOT_FOUND: u8 = 127;

/// Any failure of a `plab` command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The conversation with `plabd` failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The node refused; its words, to be escaped before they are shown.
    #[error("{}", .0.message)]
    Refused(ErrorReply),
    /// An answer that is not one to the question.
    #[error("plabd answered with something other than {expected}: are plab and plabd of one version?")]
    Unexpected {
        /// What was asked for.
        expected: &'static str,
    },
    /// A file named on the command line could not be read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// `read`, `write`, `create`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard output took no more.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// Asked for something that makes no sense; the whole message.
    #[error("{0}")]
    Usage(String),
    /// A kernel call that plab needs for itself failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The command's session broke off.
    #[error("{0}")]
    Session(String),
}

impl Error {
    /// For `map_err`: a kernel call and what it was for.
    pub fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }

    /// The exit status of every command but `exec` and `shell`.
    pub fn status(&self) -> u8 {
        match self {
            Error::Client(_) | Error::Unexpected { .. } => UNREACHABLE,
            Error::Usage(_) => USAGE,
            Error::Refused(_)
            | Error::File { .. }
            | Error::Output(_)
            | Error::System { .. }
            | Error::Session(_) => REFUSED,
        }
    }
}

/// A failure on the control socket. Each message says what was tried, what the kernel said, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to plabd at {path}: {source}\n{hint}", path = path.display(), hint = connect_hint(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The request does not fit the protocol.
    #[error("the request is {size} bytes long; plabd reads at most {limit}")]
    RequestTooLong {
        /// Its size.
        size: usize,
        /// [`plab_protocol::MAX_LINE`].
        limit: usize,
    },
    /// The request could not be sent.
    #[error("cannot send the request to plabd: {0}")]
    Send(#[source] io::Error),
    /// The reply could not be received.
    #[error("cannot read the answer of plabd: {0}")]
    Receive(#[source] io::Error),
    /// The connection ended before the answer did.
    #[error(
        "plabd closed the connection before it answered\n\
         It may be stopping or may have crashed: `systemctl status plabd` and `journalctl -u plabd` tell."
    )]
    Closed,
    /// The connection ended while events were followed.
    #[error(
        "plabd closed the connection, most likely to stop or restart; `--since {seen}` goes on from here"
    )]
    Left {
        /// The last event that was shown.
        seen: u64,
    },
    /// A reply without an end.
    #[error("plabd sent a line longer than the {limit} bytes that the protocol allows; stopped reading")]
    TooLong {
        /// [`plab_protocol::MAX_LINE`].
        limit: usize,
    },
    /// A reply that is not the protocol's.
    #[error("plabd sent a line that is no reply ({0}): are plab and plabd of one version?")]
    Malformed(String),
}

/// What a person can do about a connection that failed.
fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "There is no such socket. Is plabd running? `systemctl status plabd` tells; a plabd that was started\n\
             with --root DIR is reached with the same --root DIR."
        }
        io::ErrorKind::ConnectionRefused => {
            "Nobody listens there: the socket is left from a plabd that is gone. `systemctl status plabd` tells\n\
             why; `systemctl start plabd` starts it."
        }
        io::ErrorKind::PermissionDenied => "Root may connect, and so may the users of slices: try with sudo.",
        _ => "Is plabd running? `systemctl status plabd` tells.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_says_what_why_and_what_to_do() {
        let text = ClientError::Connect {
            path: "/run/planetlab/control.sock".into(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        }
        .to_string();
        for part in ["/run/planetlab/control.sock", "No such file", "systemctl status plabd", "--root"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn kinds_of_failure_have_their_own_status() {
        assert_eq!(Error::from(ClientError::Closed).status(), UNREACHABLE);
        assert_eq!(Error::Usage(String::new()).status(), USAGE);
        assert_eq!(Error::Output(io::Error::other("full")).status(), REFUSED);
    }
}
