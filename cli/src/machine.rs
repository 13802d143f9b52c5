//! `plab boots` and `plab node`: the machine's boots, and its reboots to come.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use plab_config::TimeSpan;
use plab_protocol::control::{NodeStatus, Reply, Request};
use plab_protocol::machine::{Boot, BootEnd, Plan, PowerAction};

use crate::args::{BootsArgs, NodeAction, NodeArgs, PowerArgs};
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::output::{Screen, Style, print, print_json, words};
use crate::run::done;
use crate::table::{Cell, Kind, Table};
use crate::units;

/// Characters of a boot's name that are shown.
const SHORT_ID: usize = 8;

/// `plab boots`.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn boots(socket: &Path, args: &BootsArgs, screen: Screen) -> Result<u8, Error> {
    let Received { line, reply } = client::ask(socket, Request::Boots { last: args.last })?;
    let Reply::Boots(boots) = reply else {
        return Err(Error::Unexpected { expected: "boots" });
    };
    if args.json {
        print_json(&line)?;
    } else {
        print(&table(&boots.boots, screen))?;
    }
    Ok(error::OK)
}

fn table(boots: &[Boot], screen: Screen) -> String {
    let mut table = Table::new(&[
        ("BEGAN", Kind::Key),
        ("BOOT", Kind::Key),
        ("ENDED", Kind::Key),
        ("AT", Kind::Key),
        ("PLABD", Kind::Key),
        ("KERNEL", Kind::Words),
    ]);
    for boot in boots {
        let (end, style) = match boot.ended {
            None => ("-", Style::Good),
            Some(end) if end.is_orderly() => (end.name(), Style::Plain),
            Some(end) => (end.name(), Style::Bad),
        };
        let plabd = match boot.crashes {
            0 => Cell::new(boot.starts.to_string()),
            crashes => Cell::styled(format!("{}, crashed {crashes}", boot.starts), Style::Warn),
        };
        // A clock that was not believed is marked as such.
        let doubt = if boot.clock.is_believed() { "" } else { "?" };
        table.push(vec![
            Cell::new(minutes(&boot.began) + doubt),
            Cell::new(boot.boot_id.chars().take(SHORT_ID).collect::<String>()),
            Cell::styled(end, style),
            Cell::new(boot.ended_at.as_deref().map(minutes).unwrap_or_default()),
            plabd,
            Cell::new(&boot.kernel),
        ]);
    }
    table.render(screen)
}

/// A time of plabd's in whole minutes; another text as it is.
fn minutes(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| time.strftime("%F %H:%MZ").to_string())
}

/// A time of plabd's in whole seconds; another text as it is.
fn seconds(time: &str) -> String {
    time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| format!("{time:.0}"))
}

/// `plab node`.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn node(socket: &Path, args: NodeArgs, screen: Screen) -> Result<u8, Error> {
    let power = |action, args: PowerArgs| Request::Power {
        action,
        at: args.at.map(|at| at.to_string()),
        reason: args.reason,
    };
    let request = match args.action {
        None => return planned(socket, args.json, screen),
        Some(NodeAction::Reboot(args)) => power(PowerAction::Reboot, args),
        Some(NodeAction::Poweroff(args)) => power(PowerAction::Poweroff, args),
        Some(NodeAction::Cancel) => Request::CancelPower,
        Some(NodeAction::TrustClock) => Request::TrustClock,
    };
    done(socket, request, args.json)
}

fn planned(socket: &Path, json: bool, screen: Screen) -> Result<u8, Error> {
    let Received { line, reply } = client::ask(socket, Request::Planned)?;
    let Reply::Planned { plan } = reply else {
        return Err(Error::Unexpected { expected: "a plan" });
    };
    if json {
        print_json(&line)?;
    } else {
        let text =
            plan.map_or_else(|| "nothing is planned".to_owned(), |plan| sentence(&plan, Timestamp::now()));
        print(&(screen.paint(Style::Plain, &text) + "\n"))?;
    }
    Ok(error::OK)
}

fn sentence(plan: &Plan, now: Timestamp) -> String {
    let left = units::until(&plan.at, now).map(|left| format!(" ({left})")).unwrap_or_default();
    let reason = plan.reason.as_deref().map(|reason| format!(": {}", words(reason))).unwrap_or_default();
    format!("the node {} at {}{left}{reason}", plan.action.verb(), words(&seconds(&plan.at)))
}

/// What `plab status` says of the machine before it shows slices; nothing if nothing is to be said.
pub fn head(node: &NodeStatus, now: Timestamp, screen: Screen) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for problem in &node.problems {
        let _ = writeln!(out, "{}", screen.paint(Style::Bad, &format!("PROBLEM: {}", words(problem))));
    }
    if let Some(lost) = node.flows.as_ref().and_then(crate::flow_filter::lost) {
        let _ = writeln!(out, "{}", screen.paint(Style::Warn, &format!("FLOWS: {lost}")));
    }
    for problem in node.flows.iter().flat_map(|flows| &flows.problems) {
        let _ = writeln!(out, "{}", screen.paint(Style::Bad, &format!("PROBLEM: {}", words(problem))));
    }
    if let Some(plan) = &node.planned {
        let _ = writeln!(out, "{}", screen.paint(Style::Warn, &format!("PLANNED: {}", sentence(plan, now))));
    }
    if let Some(boot) = &node.boot
        && let Some(end @ (BootEnd::Unclean | BootEnd::Panic)) = boot.previous
    {
        let began = words(&seconds(&boot.began));
        let text = format!("The machine booted at {began}; the boot before ended with: {}.", end.name());
        let _ = writeln!(out, "{}", screen.paint(Style::Warn, &text));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// `--at`: RFC 3339, or `+` and a time from now; a number alone is minutes, as for shutdown(8).
///
/// # Errors
/// What was expected.
pub fn when(text: &str) -> Result<Timestamp, String> {
    const EXPECTED: &str = "expected a time such as 2036-03-01T04:00:00Z, or one from now such as +10m";
    let Some(from_now) = text.strip_prefix('+') else {
        return text.parse().map_err(|_| EXPECTED.to_owned());
    };
    let minutes = from_now.bytes().all(|byte| byte.is_ascii_digit());
    let span: TimeSpan = if minutes { format!("{from_now}m") } else { from_now.to_owned() }
        .parse()
        .map_err(|_| EXPECTED.to_owned())?;
    Timestamp::now().checked_add(span.get()).map_err(|_| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::machine::ClockState;

    fn boot(ended: Option<BootEnd>) -> Boot {
        Boot {
            boot_id: "0123456789abcdef\u{1b}".into(),
            began: "2026-01-01T00:00:00.5Z".into(),
            clock: ClockState::Suspicious,
            kernel: "6.12.1".into(),
            ended,
            ended_at: ended.map(|_| "2026-01-02T00:00:00.5Z".into()),
            evidence: None,
            network: None,
            starts: 2,
            crashes: 1,
            runs: Vec::new(),
        }
    }

    #[test]
    fn boots_are_a_table_that_fits() {
        let screen = Screen { width: 80, colour: false };
        let text = table(&[boot(None), boot(Some(BootEnd::Unclean))], screen);
        assert_eq!(
            text,
            "BEGAN               BOOT      ENDED    AT                 PLABD         KERNEL\n\
             2026-01-01 00:00Z?  01234567  -                           2, crashed 1  6.12.1\n\
             2026-01-01 00:00Z?  01234567  unclean  2026-01-02 00:00Z  2, crashed 1  6.12.1\n"
        );
    }

    #[test]
    fn times_are_absolute_or_from_now() {
        assert_eq!(when("2036-03-01T04:00:00Z").expect("time").to_string(), "2036-03-01T04:00:00Z");
        for (text, seconds) in [("+10", 600), ("+10m", 600), ("+1h30m", 5400), ("+0", 0)] {
            let left = when(text).expect(text).as_second() - Timestamp::now().as_second();
            assert!((seconds - 1..=seconds).contains(&left), "{text}: {left}");
        }
        for bad in ["", "+", "10m", "tomorrow", "+-5m", "2036-03-01"] {
            assert!(when(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_is_a_sentence() {
        let plan = Plan {
            action: PowerAction::Reboot,
            at: "2026-03-01T12:10:00.1Z".into(),
            reason: Some("new\u{1b}kernel".into()),
            planned: "2026-03-01T12:00:00Z".into(),
        };
        let now = "2026-03-01T12:00:00Z".parse().expect("time");
        let text = sentence(&plan, now);
        assert_eq!(text, "the node reboots at 2026-03-01T12:10:00Z (in 10m00s): new\\u{1b}kernel");
    }
}
