//! `ssh SLICE@NODE plab …`: what an owner can ask of the node without a process in the capsule, which may have no room
//! for one more.

use std::ffi::OsStr;
use std::path::Path;

use plab_protocol::control::Request;

use crate::args::{SessionsArgs, StatusArgs};
use crate::error::{Error, OK, USAGE};
use crate::output::{Screen, complain, print};
use crate::run::{default_sigpipe, done, report};
use crate::{sessions, status};

const HELP: &str = "Asked of the node itself; everything else is run in the capsule.

  plab status [--verify] [--json]    where the capsule stands, what it uses, what it is held to
  plab restart [--json]              stop every process of the slice, then start it again
  plab sessions [--json]             who is in, with which key

Example:
  ssh princeton4@node plab restart   # when the capsule has no task left for a shell
";

/// The words of a command line that is for the node: its first is exactly `plab`. A program of that name in the capsule
/// is reached by its path.
pub fn words(line: &OsStr) -> Option<Vec<&str>> {
    let mut words = line.to_str()?.split_ascii_whitespace();
    (words.next() == Some("plab")).then(|| words.collect())
}

/// Does what these words ask, for the slice only; returns the exit status.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn run(socket: &Path, slice: &str, words: &[&str]) -> Result<u8, Error> {
    default_sigpipe();
    let (verb, rest) = words.split_first().map_or(("help", &[][..]), |(verb, rest)| (*verb, rest));
    let json = rest.contains(&"--json");
    let verify = rest.contains(&"--verify");
    let known =
        |word: &&str| *word == slice || *word == "--json" || (*word == "--verify" && verb == "status");
    if let Some(unknown) = rest.iter().find(|word| !known(word)) {
        complain(&format!("{unknown}: not known here; `plab help` says what there is"));
        return Ok(USAGE);
    }
    let screen = Screen::of_stdout();
    let asked = match verb {
        "status" => status::run(socket, StatusArgs { slice: Some(slice.to_owned()), verify, json }, screen),
        "sessions" => sessions::run(socket, SessionsArgs { slice: Some(slice.to_owned()), json }, screen),
        "restart" => done(socket, Request::Restart { slice: slice.to_owned() }, json),
        "help" | "--help" | "-h" => print(HELP).map(|()| OK),
        _ => {
            complain(&format!("{verb}: not known here; `plab help` says what there is"));
            Ok(USAGE)
        }
    };
    Ok(asked.unwrap_or_else(|e| report(&e, json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_word_is_for_the_node() {
        assert_eq!(words(OsStr::new("plab")), Some(vec![]));
        assert_eq!(words(OsStr::new("  plab  status --json ")), Some(vec!["status", "--json"]));
        for line in ["", "plabx status", "./plab status", "command plab", "exec plab", "PLAB status"] {
            assert_eq!(words(OsStr::new(line)), None, "{line}");
        }
    }
}
