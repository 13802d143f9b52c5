//! `plab bandwidth` and `plab opt-out`: how much may be sent and received, and where nothing may be sent.

use std::fmt::Write as _;
use std::path::Path;

use plab_config::BitRate;
use plab_protocol::bandwidth::{Bandwidth, Limit, OptOuts};
use plab_protocol::control::{Reply, Request};

use crate::args::{BandwidthArgs, OptOutAction, OptOutArgs};
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::output::{Screen, Style, print, print_json, words};
use crate::run::done;
use crate::table::{Cell, Kind, Table};
use crate::units;

/// `plab bandwidth`.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn bandwidth(socket: &Path, args: BandwidthArgs, screen: Screen) -> Result<u8, Error> {
    if args.out.is_some() || args.incoming.is_some() {
        return done(socket, Request::SetBandwidth { out: args.out, incoming: args.incoming }, args.json);
    }
    let Received { line, reply } = client::ask(socket, Request::Bandwidth)?;
    let Reply::Bandwidth(bandwidth) = reply else {
        return Err(Error::Unexpected { expected: "bandwidth" });
    };
    if args.json {
        print_json(&line)?;
    } else {
        print(&shown(&bandwidth, screen))?;
    }
    Ok(error::OK)
}

fn shown(bandwidth: &Bandwidth, screen: Screen) -> String {
    let Bandwidth { out, incoming, interfaces, absent, problem, received, classes } = bandwidth;
    let mut text = String::new();
    // Writing to a String cannot fail.
    if let Some(problem) = problem {
        let _ = writeln!(text, "PROBLEM: {}\n", words(problem));
    }
    let _ = writeln!(text, "out  {}", limit(out));
    let received = received
        .map(|counts| format!("; received {}, dropped {} packets", units::bytes(counts.bytes), counts.drops));
    let _ = writeln!(text, "in   {}{}", limit(incoming), received.unwrap_or_default());
    let on = |names: &[String]| words(&names.join(", "));
    match interfaces.is_empty() {
        true => text.push_str("on   no interface\n"),
        false => drop(writeln!(text, "on   {}", on(interfaces))),
    }
    if !absent.is_empty() {
        let _ = writeln!(text, "not there yet: {}", on(absent));
    }
    let mut table = Table::new(&[
        ("SLICE", Kind::Key),
        ("RATE", Kind::Number),
        ("CLASS", Kind::Key),
        ("SENT", Kind::Number),
        ("PACKETS", Kind::Number),
        ("DROPS", Kind::Number),
        ("WAITED", Kind::Number),
        ("WAITING", Kind::Number),
    ]);
    for class in classes {
        let mut row = vec![
            Cell::new(class.slice.as_deref().unwrap_or("(node)")),
            Cell::new(class.rate.map_or_else(|| "-".to_owned(), rate)),
            Cell::new(&class.class),
        ];
        match &class.sent {
            None => row.extend(std::iter::repeat_n(Cell::new("-"), 5)),
            Some(sent) => row.extend([
                Cell::new(units::bytes(sent.bytes)),
                Cell::new(sent.packets.to_string()),
                Cell::styled(
                    sent.drops.to_string(),
                    if sent.drops == 0 { Style::Plain } else { Style::Warn },
                ),
                Cell::new(sent.overlimits.to_string()),
                Cell::new(units::bytes(sent.backlog)),
            ]),
        }
        table.push(row);
    }
    text.push('\n');
    text.push_str(&table.render(screen));
    text
}

fn limit(limit: &Limit) -> String {
    format!("{} ({})", limit.rate.map_or_else(|| "no limit".to_owned(), rate), limit.origin.words())
}

/// As it is written in a file; a rate of 0 is none, and plabd says none.
fn rate(bits: u64) -> String {
    BitRate::from_bits_per_second(bits).map_or_else(|_| bits.to_string(), |rate| rate.to_string())
}

/// `plab opt-out`.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn opt_out(socket: &Path, args: OptOutArgs, screen: Screen) -> Result<u8, Error> {
    let change = |prefix, add| done(socket, Request::ChangeOptOut { prefix, add }, args.json);
    match args.action {
        Some(OptOutAction::Add { prefix }) => return change(prefix, true),
        Some(OptOutAction::Remove { prefix }) => return change(prefix, false),
        None => {}
    }
    let Received { line, reply } = client::ask(socket, Request::OptOuts)?;
    let Reply::OptOuts(opt_outs) = reply else {
        return Err(Error::Unexpected { expected: "opt-outs" });
    };
    if args.json {
        print_json(&line)?;
    } else {
        print(&listed(&opt_outs, screen))?;
    }
    Ok(error::OK)
}

fn listed(opt_outs: &OptOuts, screen: Screen) -> String {
    if opt_outs.prefixes.is_empty() && opt_outs.refused.is_empty() {
        return "No opt-outs\n".to_owned();
    }
    let mut prefixes = Table::new(&[("PREFIX", Kind::Key), ("FROM", Kind::Words)]);
    for prefix in &opt_outs.prefixes {
        prefixes.push(vec![Cell::new(&prefix.prefix), Cell::new(prefix.origin.words())]);
    }
    let mut text = prefixes.render(screen);
    if !opt_outs.refused.is_empty() {
        let mut refused = Table::new(&[("SLICE", Kind::Key), ("REFUSED", Kind::Number)]);
        for row in &opt_outs.refused {
            refused.push(vec![Cell::new(&row.slice), Cell::new(row.count.to_string())]);
        }
        text.push('\n');
        text.push_str(&refused.render(screen));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::bandwidth::{ClassStatus, Counts, OptOut, OptOutRefusals, Origin};

    const SCREEN: Screen = Screen { width: 80, colour: false };

    #[test]
    fn limits_and_what_was_sent_fit_a_terminal() {
        let sent =
            Counts { bytes: 123 << 20, packets: 81_234, drops: 12, overlimits: 99_999, backlog: 65_536 };
        let class = |slice: Option<&str>, rate, sent| ClassStatus {
            slice: slice.map(str::to_owned),
            class: "504c:1170".into(),
            rate,
            sent,
        };
        let bandwidth = Bandwidth {
            out: Limit { rate: Some(20_000_000), origin: Origin::Live },
            incoming: Limit { rate: None, origin: Origin::NodeFile },
            interfaces: vec!["eth0".into()],
            absent: vec!["eth\u{1b}1".into()],
            problem: Some("could not".into()),
            received: None,
            classes: vec![
                class(None, None, None),
                class(Some("princeton_mirror"), Some(500_000), Some(sent)),
            ],
        };
        let text = shown(&bandwidth, SCREEN);
        for part in [
            "PROBLEM: could not",
            "out  20Mbit (set live)",
            "in   no limit (node file)",
            "on   eth0",
            "not there yet: eth\\u{1b}1",
            "(node)",
            "500Kbit",
            "123.0 MiB",
            "81234",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn opt_outs_say_where_they_come_from() {
        let opt_outs = OptOuts {
            prefixes: vec![OptOut { prefix: "192.0.2.0/24".into(), origin: Origin::Live }],
            refused: vec![OptOutRefusals { slice: "site_a".into(), count: 7 }],
        };
        let text = listed(&opt_outs, SCREEN);
        for part in ["192.0.2.0/24", "set live", "site_a", "7"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(listed(&OptOuts { prefixes: vec![], refused: vec![] }, SCREEN), "No opt-outs\n");
    }
}
