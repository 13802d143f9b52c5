//! `plab events`: what happened, and what happens.

use std::collections::VecDeque;
use std::path::Path;

use plab_protocol::control::{Event, Reply, Request, Severity};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;

use crate::args::EventsArgs;
use crate::client::{self, Client, Received};
use crate::error::{self, ClientError, Error};
use crate::output::{Screen, Style, json_for_terminal, print, print_json, words};
use crate::units;

/// How much of the past a follower sees who did not say since when.
const FOLLOWED_PAST: usize = 10;

/// Prints what is kept and, with `--follow`, goes on until interrupted.
///
/// # Errors
/// When `plabd` cannot be reached, refuses, or goes away while it is followed.
pub fn run(socket: &Path, args: &EventsArgs, screen: Screen) -> Result<u8, Error> {
    let last = args.last.or((args.follow && args.since.is_none()).then_some(FOLLOWED_PAST));
    // Without --last each page is shown as it comes; one JSON document has to be whole first.
    let document = args.json && !args.follow && args.last.is_none();
    let mut kept: VecDeque<Shown> = VecDeque::new();
    let mut seen = args.since.unwrap_or(0);
    loop {
        let request = Request::Events { since: seen, slice: args.slice.clone(), follow: false };
        let page = page(client::ask(socket, request)?)?;
        let Some(newest) = page.last().map(|shown| shown.event.seq) else { break };
        // A reply that goes back would have us ask for ever.
        if newest <= seen {
            return Err(Error::Unexpected { expected: "later events" });
        }
        seen = newest;
        kept.extend(page);
        if let Some(last) = last {
            kept.drain(..kept.len().saturating_sub(last));
        } else if !document {
            print_all(kept.drain(..), args.json, screen)?;
        }
    }
    if document {
        let events: Vec<Value> = kept.into_iter().map(|shown| shown.json).collect();
        print_json(&serde_json::json!({ "reply": "events", "events": events }).to_string())?;
        return Ok(error::OK);
    }
    print_all(kept.drain(..), args.json, screen)?;
    if !args.follow {
        return Ok(error::OK);
    }
    let request = Request::Events { since: seen, slice: args.slice.clone(), follow: true };
    let mut client = Client::ask(socket, request, &[])?;
    // What happened between the last page and now.
    let between = page(client.reply()?)?;
    seen = between.last().map_or(seen, |shown| shown.event.seq);
    print_all(between, args.json, screen)?;
    follow(&mut client, seen, args, screen)
}

/// An event as it was understood, and as it came, with fields that this build does not know.
struct Shown {
    event: Event,
    json: Value,
}

/// Takes a page of events out of a reply.
fn page(received: Received) -> Result<Vec<Shown>, Error> {
    let events = match received.reply {
        Reply::Events { events } => events,
        Reply::Error(refusal) => return Err(Error::Refused(refusal)),
        _ => return Err(Error::Unexpected { expected: "events" }),
    };
    let mut document = parse(&received.line)?;
    let values = document.get_mut("events").and_then(Value::as_array_mut).map(std::mem::take);
    Ok(events
        .into_iter()
        .zip(values.unwrap_or_default())
        .map(|(event, json)| Shown { event, json })
        .collect())
}

fn parse(line: &str) -> Result<Value, Error> {
    serde_json::from_str(line).map_err(|e| ClientError::Malformed(words(&e.to_string())).into())
}

fn print_all(events: impl IntoIterator<Item = Shown>, json: bool, screen: Screen) -> Result<(), Error> {
    let text: String = events.into_iter().map(|shown| line(&shown, json, screen)).collect();
    if text.is_empty() { Ok(()) } else { print(&text) }
}

fn follow(client: &mut Client, mut seen: u64, args: &EventsArgs, screen: Screen) -> Result<u8, Error> {
    loop {
        while let Some(received) = client.take()? {
            match received.reply {
                Reply::Event(event) => {
                    seen = event.seq;
                    let mut json = parse(&received.line)?;
                    // The same shape as the events of a page.
                    if let Some(fields) = json.as_object_mut() {
                        fields.remove("reply");
                    }
                    print_all([Shown { event, json }], args.json, screen)?;
                }
                Reply::Error(refusal) => return Err(Error::Refused(refusal)),
                _ => return Err(Error::Unexpected { expected: "an event" }),
            }
        }
        if !wait(client)? {
            return Ok(error::OK);
        }
        if !client.fill()? {
            return Err(ClientError::Left { seen }.into());
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
fn line(shown: &Shown, json: bool, screen: Screen) -> String {
    if json {
        return json_for_terminal(&shown.json.to_string()) + "\n";
    }
    let event = &shown.event;
    let (name, style) = match event.severity {
        Severity::Info => ("info", Style::Dim),
        Severity::Notice => ("notice", Style::Plain),
        Severity::Warning => ("warning", Style::Warn),
        Severity::Error => ("error", Style::Bad),
    };
    format!(
        "{:>6}  {}  {}  {:<12}  {}  {}\n",
        event.seq,
        words(&units::thousandths(&event.time)),
        screen.paint(style, &format!("{name:<7}")),
        words(event.slice.as_deref().unwrap_or("-")),
        screen.paint(Style::Heading, &format!("{:<18}", words(&event.kind))),
        words(&event.message)
    )
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
        let shown = Shown { json: serde_json::to_value(&event).expect("json"), event: event.clone() };
        assert_eq!(
            line(&shown, false, screen),
            "     7  2026-03-01T12:00:00.000Z  warning  web           hook-failed         start: \"\\u{1b}[31m\\u{a}red\"\n"
        );
        let json = line(&shown, true, screen);
        assert_eq!(serde_json::from_str::<Event>(&json).expect("event"), event);
        assert_eq!(json.lines().count(), 1);
    }
}
