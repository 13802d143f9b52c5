//! `plab events`: what happened, and what happens.

use std::path::Path;

use plab_protocol::control::{Event, Reply, Request, Severity};
use rustix::event::{PollFd, PollFlags, poll};

use crate::args::EventsArgs;
use crate::client::Client;
use crate::error::{self, ClientError, Error};
use crate::output::{Screen, Style, print, print_json, words};

/// How much of the past a follower sees who did not say since when.
const FOLLOWED_PAST: usize = 10;

/// Prints what is kept and, with `--follow`, goes on until interrupted.
///
/// # Errors
/// When `plabd` cannot be reached, refuses, or goes away while it is followed.
pub fn run(socket: &Path, args: &EventsArgs, screen: Screen) -> Result<u8, Error> {
    let request =
        Request::Events { since: args.since.unwrap_or(0), slice: args.slice.clone(), follow: args.follow };
    let mut client = Client::ask(socket, request, &[])?;
    let first = client.reply()?;
    let mut events = match first.reply {
        Reply::Events { events } => events,
        Reply::Error(refusal) => return Err(Error::Refused(refusal)),
        _ => return Err(Error::Unexpected { expected: "events" }),
    };
    if args.json && !args.follow && args.last.is_none() {
        print_json(&first.line)?;
        return Ok(error::OK);
    }
    let last = args.last.or((args.follow && args.since.is_none()).then_some(FOLLOWED_PAST));
    let past = last.map_or(0, |n| events.len().saturating_sub(n));
    let mut text = String::new();
    for event in events.drain(..).skip(past) {
        text += &line(&event, args.json, screen)?;
    }
    if !text.is_empty() {
        print(&text)?;
    }
    if args.follow { follow(&mut client, args, screen) } else { Ok(error::OK) }
}

fn follow(client: &mut Client, args: &EventsArgs, screen: Screen) -> Result<u8, Error> {
    let mut seen = args.since.unwrap_or(0);
    loop {
        while let Some(received) = client.take()? {
            match received.reply {
                Reply::Event(event) => {
                    seen = event.seq;
                    print(&line(&event, args.json, screen)?)?;
                }
                Reply::Error(refusal) => return Err(Error::Refused(refusal)),
                _ => return Err(Error::Unexpected { expected: "an event" }),
            }
        }
        if !wait(client)? {
            return Ok(error::OK);
        }
        if !client.fill()? {
            let how = if seen > 0 { format!("; `--since {seen}` goes on from here") } else { String::new() };
            return Err(match client.take()? {
                Some(_) => Error::Unexpected { expected: "an event" },
                None if how.is_empty() => ClientError::Closed.into(),
                None => Error::Session(format!("{}{how}", ClientError::Closed)),
            });
        }
    }
}

/// Waits for more; false when nobody reads what we print any more. Without looking, `plab events -f | head`
/// would stay until the next event.
fn wait(client: &Client) -> Result<bool, Error> {
    let stdout = rustix::stdio::stdout();
    loop {
        let mut fds = [PollFd::new(client, PollFlags::IN), PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(Error::system("wait for events"))?,
        };
        if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(false);
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
    }
}

/// One event as one line.
fn line(event: &Event, json: bool, screen: Screen) -> Result<String, Error> {
    if json {
        let json =
            serde_json::to_string(event).map_err(|e| Error::Client(ClientError::Malformed(e.to_string())))?;
        return Ok(crate::output::json_for_terminal(&json) + "\n");
    }
    let (name, style) = match event.severity {
        Severity::Info => ("info", Style::Dim),
        Severity::Notice => ("notice", Style::Plain),
        Severity::Warning => ("warning", Style::Warn),
        Severity::Error => ("error", Style::Bad),
    };
    Ok(format!(
        "{:>6}  {}  {}  {:<12}  {}  {}\n",
        event.seq,
        words(&event.time),
        screen.paint(style, &format!("{name:<7}")),
        words(event.slice.as_deref().unwrap_or("-")),
        screen.paint(Style::Heading, &words(&event.kind)),
        words(&event.message)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let event = Event {
            seq: 7,
            time: "2026-03-01T12:00:00Z".into(),
            slice: Some("web".into()),
            kind: "hook-failed".into(),
            severity: Severity::Warning,
            message: "start: \"\u{1b}[31m\nred\"".into(),
        };
        let screen = Screen { width: 80, colour: false };
        assert_eq!(
            line(&event, false, screen).expect("line"),
            "     7  2026-03-01T12:00:00Z  warning  web           hook-failed  start: \"\\u{1b}[31m\\u{a}red\"\n"
        );
        let json = line(&event, true, screen).expect("json");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("event"), event);
        assert_eq!(json.lines().count(), 1);
    }
}
