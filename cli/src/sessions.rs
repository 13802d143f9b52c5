//! `plab sessions`: who is in.

use std::path::Path;

use jiff::Timestamp;
use plab_protocol::control::{Reply, Request, SessionStatus};

use crate::args::SessionsArgs;
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::output::{Screen, print, print_json};
use crate::table::{Cell, Kind, Table};
use crate::units;

/// Asks and shows.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn run(socket: &Path, args: SessionsArgs, screen: Screen) -> Result<u8, Error> {
    let Received { line, reply } = client::ask(socket, Request::Sessions { slice: args.slice })?;
    let Reply::Sessions { sessions } = reply else {
        return Err(Error::Unexpected { expected: "sessions" });
    };
    if args.json {
        print_json(&line)?
    } else {
        print(&table(&sessions, Timestamp::now(), screen))?
    }
    Ok(error::OK)
}

fn table(sessions: &[SessionStatus], now: Timestamp, screen: Screen) -> String {
    if sessions.is_empty() {
        return "No sessions\n".to_owned();
    }
    let mut table = Table::new(&[
        ("ID", Kind::Number),
        ("SLICE", Kind::Key),
        ("WHO", Kind::Words),
        ("FROM", Kind::Key),
        ("TTY", Kind::Key),
        ("SINCE", Kind::Number),
        ("KEY", Kind::Words),
        ("COMMAND", Kind::Words),
    ]);
    for session in sessions {
        let login = session.login.as_ref();
        let dash = || "-".to_owned();
        table.push(vec![
            Cell::new(session.id.to_string()),
            Cell::new(&session.slice),
            Cell::new(session.key_comment.as_ref().filter(|_| login.is_some()).unwrap_or(&session.by)),
            Cell::new(login.and_then(|login| login.from.clone()).unwrap_or_else(dash)),
            Cell::new(if session.tty { "yes" } else { "no" }),
            Cell::new(units::age(&session.since, now).unwrap_or_else(|| session.since.clone())),
            Cell::new(login.map_or_else(dash, |login| login.key.clone())),
            Cell::new(if session.command.is_empty() {
                "(shell)".to_owned()
            } else {
                session.command.join(" ")
            }),
        ]);
    }
    table.render(screen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::control::Login;

    #[test]
    fn a_row_says_who_and_never_moves_the_terminal() {
        let session = SessionStatus {
            id: 12,
            slice: "site_a".into(),
            by: "site_a".into(),
            login: Some(Login { key: "SHA256:abc".into(), from: Some("192.0.2.7".into()) }),
            key_comment: Some("alice\u{1b}[2J".into()),
            tty: true,
            command: vec!["ls".into(), "\u{202e}x".into()],
            since: "2026-01-01T00:00:00Z".into(),
            pid: Some(1),
        };
        let root = SessionStatus {
            login: None,
            key_comment: None,
            by: "root".into(),
            command: vec![],
            ..session.clone()
        };
        let screen = Screen { width: 120, colour: false };
        let text = table(&[session, root], "2026-01-01T00:00:05Z".parse().expect("a time"), screen);
        for part in ["alice\\u{1b}[2J", "192.0.2.7", "SHA256:abc", "5s", "root", "(shell)", "\\u{202e}x"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
