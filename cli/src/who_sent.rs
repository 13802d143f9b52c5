//! `plab who-sent`: whose packets went to an address.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use plab_protocol::control::{Reply, Request};
use plab_protocol::flows::{Sender, WhoSent};

use crate::args::WhoSentArgs;
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::flow_filter::{self, lost, reach};
use crate::output::{Screen, Style, print, print_json, words};
use crate::run::report;
use crate::table::{Cell, Kind, Table};
use crate::units;

/// Nobody's packets were found; as for grep(1).
const NOBODY: u8 = 1;
/// The node refused or failed; 1 is taken.
const FAILED: u8 = 2;

/// Asks and shows.
///
/// # Errors
/// When `plabd` cannot be reached.
pub fn run(socket: &Path, args: &WhoSentArgs, screen: Screen) -> Result<u8, Error> {
    match ask(socket, args, screen) {
        Err(error) if error.status() == error::REFUSED => {
            report(&error, args.json);
            Ok(FAILED)
        }
        other => other,
    }
}

fn ask(socket: &Path, args: &WhoSentArgs, screen: Screen) -> Result<u8, Error> {
    let filter = flow_filter::filter(None, Some(args.to), args.at, &args.filter).map_err(Error::Usage)?;
    let Received { line, reply } = client::ask(socket, Request::WhoSent { filter })?;
    let Reply::WhoSent(answer) = reply else {
        return Err(Error::Unexpected { expected: "who sent" });
    };
    if args.json {
        print_json(&line)?;
    } else {
        print(&shown(&answer, screen))?;
    }
    Ok(if answer.senders.is_empty() { NOBODY } else { error::OK })
}

fn shown(answer: &WhoSent, screen: Screen) -> String {
    let refusals = answer.senders.iter().any(|sender| sender.traffic.refused > 0);
    let mut columns = vec![
        ("SLICE", Kind::Key),
        ("CONTACT", Kind::Words),
        ("FLOWS", Kind::Number),
        ("PACKETS", Kind::Number),
        ("BYTES", Kind::Number),
        ("WHEN", Kind::Key),
    ];
    if refusals {
        columns.insert(5, ("REFUSED", Kind::Number));
    }
    let mut table = Table::new(&columns);
    for sender in &answer.senders {
        let slice = match (&sender.slice, sender.present) {
            (Some(slice), true) => Cell::new(slice),
            (Some(slice), false) => Cell::styled(format!("{slice} (gone)"), Style::Warn),
            (None, _) => Cell::styled("unknown", Style::Warn),
        };
        let mut cells = vec![
            slice,
            Cell::new(sender.contact.as_deref().unwrap_or("-")),
            Cell::new(sender.flows.to_string()),
            Cell::new(sender.traffic.packets_out.to_string()),
            Cell::new(units::bytes(sender.traffic.bytes_out)),
            Cell::new(when(sender)),
        ];
        if refusals {
            cells.insert(5, Cell::new(sender.traffic.refused.to_string()));
        }
        table.push(cells);
    }
    let kept = &answer.kept;
    let mut out = if table.is_empty() { String::new() } else { table.render(screen) + "\n" };
    // Writing to a String cannot fail.
    if answer.more > 0 {
        let _ = writeln!(out, "and {} more", answer.more);
    }
    let found = if table.is_empty() { "Nobody. " } else { "" };
    let _ = writeln!(out, "{}", screen.paint(Style::Dim, &format!("{found}Looked through {}", reach(kept))));
    for warning in lost(kept).into_iter().chain(kept.problems.iter().map(|problem| words(problem))) {
        let _ = writeln!(out, "{}", screen.paint(Style::Warn, &warning));
    }
    out
}

/// From the beginning of the first flow to the last packet, in UTC.
fn when(sender: &Sender) -> String {
    match (sender.first.parse::<Timestamp>(), sender.last.parse::<Timestamp>()) {
        (Ok(first), Ok(last)) => {
            let same_day = first.strftime("%F").to_string() == last.strftime("%F").to_string();
            let end = last.strftime(if same_day { "%H:%MZ" } else { "%m-%d %H:%MZ" });
            format!("{}-{end}", first.strftime("%m-%d %H:%M"))
        }
        _ => format!("{} {}", sender.first, sender.last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::flows::{FlowsKept, Traffic};

    const PLAIN: Screen = Screen { width: 80, colour: false };

    fn sender() -> Sender {
        Sender {
            slice: Some("princeton4".into()),
            uid: Some(70_000),
            contact: Some("pi@cs.princeton.edu".into()),
            present: true,
            flows: 97,
            traffic: Traffic { packets_out: 1200, bytes_out: 72_000, ..Traffic::default() },
            first: "2036-03-01T04:00:00Z".into(),
            last: "2036-03-01T05:30:00Z".into(),
        }
    }

    fn kept() -> FlowsKept {
        FlowsKept {
            first: Some("2036-02-01T00:00:00.5Z".into()),
            last: Some("2036-03-02T00:00:00Z".into()),
            records: 10,
            ..FlowsKept::default()
        }
    }

    #[test]
    fn a_slice_is_one_line_that_fits() {
        let gone = Sender { present: false, last: "2036-03-02T05:30:00Z".into(), ..sender() };
        let answer = WhoSent { senders: vec![sender()], more: 0, kept: kept() };
        assert_eq!(
            shown(&answer, PLAIN),
            "SLICE       CONTACT              FLOWS  PACKETS     BYTES  WHEN\n\
             princeton4  pi@cs.princeton.edu     97     1200  70.3 KiB  03-01 04:00-05:30Z\n\n\
             Looked through 10 records, from 2036-02-01T00:00:00Z to 2036-03-02T00:00:00Z\n"
        );
        let answer = WhoSent { senders: vec![gone], more: 3, ..answer };
        let text = shown(&answer, PLAIN);
        assert!(text.contains("princeton4 (gone)") && text.contains("03-01 04:00-03-02 05:30Z"), "{text}");
        assert!(text.contains("and 3 more\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn nobody_is_said_with_what_was_looked_through() {
        let kept = FlowsKept { lost_kernel: 5, ..kept() };
        let text = shown(&WhoSent { senders: vec![], more: 0, kept }, PLAIN);
        assert!(text.starts_with("Nobody. Looked through 10 records, from 2036-02-01"), "{text}");
        assert!(text.contains("5 records were lost in the kernel"), "{text}");
        let text = shown(&WhoSent { senders: vec![], more: 0, kept: FlowsKept::default() }, PLAIN);
        assert_eq!(text, "Nobody. Looked through no records at all\n");
    }
}
