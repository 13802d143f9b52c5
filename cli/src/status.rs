//! `plab status`: the node at a glance, one slice in full, and what the kernel has in force.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use plab_protocol::control::{NodeStatus, Reply, Request, SliceState, SliceStatus};

use crate::args::StatusArgs;
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::machine;
use crate::output::{Screen, Style, lines, print, print_json, words};
use crate::table::{Cell, Kind, Table};
use crate::units;

/// Asks and shows.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn run(socket: &Path, args: StatusArgs, screen: Screen) -> Result<u8, Error> {
    let one = args.slice.is_some();
    let request = Request::Status { slice: args.slice, verify: args.verify };
    let Received { line, reply } = client::ask(socket, request)?;
    let Reply::Status(node) = reply else {
        return Err(Error::Unexpected { expected: "a status" });
    };
    let now = Timestamp::now();
    if args.json {
        print_json(&line)?;
    } else if args.verify {
        print(&verified(&node, screen))?;
    } else if one {
        print(&node.slices.iter().map(|s| slice(s, now, screen)).collect::<String>())?;
        print(&refused(&node, screen))?;
    } else {
        print(
            &(degraded(&node, screen)
                + &machine::head(&node, now, screen)
                + &all(&node, now, screen)
                + &refused(&node, screen)),
        )?;
    }
    Ok(if args.verify && !holds(&node) { error::REFUSED } else { error::OK })
}

/// Whether everything that was asked is in force. What was not read back does not count as in force: a check
/// that could not be made must not pass.
fn holds(node: &NodeStatus) -> bool {
    !node.slices.is_empty()
        && node.slices.iter().all(|s| !s.verify.is_empty() && s.verify.iter().all(|r| r.ok))
}

/// A state's colour.
pub fn state_style(state: SliceState) -> Style {
    match state {
        SliceState::Running => Style::Good,
        SliceState::Failed | SliceState::Expired => Style::Bad,
        SliceState::Stopped => Style::Dim,
        SliceState::Starting | SliceState::Frozen | SliceState::Stopping | SliceState::Removing => {
            Style::Warn
        }
    }
}

fn degraded(node: &NodeStatus, screen: Screen) -> String {
    if node.degraded.is_empty() {
        return String::new();
    }
    let list = words(&node.degraded.join(", "));
    let text = format!("DEGRADED: this node does not enforce {list}, because its node file allows that.");
    screen.paint(Style::Bad, &text) + "\n\n"
}

fn all(node: &NodeStatus, now: Timestamp, screen: Screen) -> String {
    let mut table = Table::new(&[
        ("NAME", Kind::Key),
        ("STATE", Kind::Key),
        ("UID", Kind::Number),
        ("CPU", Kind::Number),
        ("MEM", Kind::Number),
        ("TASKS", Kind::Number),
        ("SINCE", Kind::Number),
        ("STATUS", Kind::Words),
    ]);
    let some = |text: Option<String>| Cell::new(text.unwrap_or_else(|| "-".to_owned()));
    for s in &node.slices {
        table.push(vec![
            Cell::new(&s.name),
            Cell::styled(s.state.name(), state_style(s.state)),
            Cell::new(s.uid.to_string()),
            some(s.cpu_micros.map(units::cpu_time)),
            some(s.memory.map(units::bytes)),
            some(s.tasks.map(|n| n.to_string())),
            some(s.since.as_deref().map(|t| units::age(t, now).unwrap_or_else(|| t.to_owned()))),
            summary(s),
        ]);
    }
    let count = match node.slices.len() {
        0 => "No slices".to_owned(),
        1 => "1 slice".to_owned(),
        n => format!("{n} slices"),
    };
    let mut last = format!("{count} on {}, plabd {}", words(&node.node), words(&node.version));
    if table.is_empty() {
        last.push_str("; `plab apply FILE` adds one");
    }
    let rows = if table.is_empty() { String::new() } else { table.render(screen) + "\n" };
    rows + &screen.paint(Style::Dim, &last) + "\n"
}

/// Everything about a slice in one cell, what went wrong first.
fn summary(s: &SliceStatus) -> Cell {
    let mut parts = Vec::new();
    if !s.pending_errors.is_empty() {
        parts.push("newer definition refused".to_owned());
    }
    parts.extend(s.detail.clone());
    match (s.status_ok, &s.status_line) {
        (Some(false), Some(line)) => parts.push(format!("status failed: {line}")),
        (Some(false), None) => parts.push("status failed".to_owned()),
        (_, Some(line)) => parts.push(line.clone()),
        (_, None) => {}
    }
    let wrong = s.status_ok == Some(false) || !s.pending_errors.is_empty() || s.state == SliceState::Failed;
    Cell::styled(parts.join("; "), if wrong { Style::Bad } else { Style::Plain })
}

/// The definitions that are not in effect, with all reasons.
fn refused(node: &NodeStatus, screen: Screen) -> String {
    let mut out = String::new();
    let pending = node.slices.iter().filter(|s| !s.pending_errors.is_empty());
    for s in pending {
        let title = format!("{}: an older definition is in effect, the newer was refused:", words(&s.name));
        reasons(&mut out, &title, &s.pending_errors, screen);
    }
    for definition in &node.refused {
        let title = format!("{}: refused:", words(&definition.file));
        reasons(&mut out, &title, &definition.errors, screen);
    }
    out
}

fn reasons(out: &mut String, title: &str, errors: &[String], screen: Screen) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "\n{}", screen.paint(Style::Bad, title));
    for error in errors {
        let _ = writeln!(out, "  {}", lines(error).replace('\n', "\n  "));
    }
}

/// One slice, a fact a line.
fn slice(s: &SliceStatus, now: Timestamp, screen: Screen) -> String {
    let mut out = screen.paint(Style::Heading, &words(&s.name)) + "\n";
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<8} {value}");
    };
    let since = s.since.as_deref().map_or_else(String::new, |t| {
        let age = units::age(t, now).map_or_else(String::new, |age| format!(" ({age})"));
        format!(" since {}{age}", words(&units::thousandths(t)))
    });
    fact("state", screen.paint(state_style(s.state), s.state.name()) + &since);
    if let Some(detail) = &s.detail {
        fact("detail", lines(detail).replace('\n', "\n           "));
    }
    match (s.status_ok, s.status_line.as_deref()) {
        (None, None) => {}
        (Some(false), line) => {
            fact(
                "status",
                screen.paint(Style::Bad, "failed: ") + &words(line.unwrap_or("it printed nothing")),
            );
        }
        (_, line) => fact("status", words(line.unwrap_or("ok; it printed nothing"))),
    }
    fact("contact", words(&s.contact));
    fact("uid", s.uid.to_string());
    if let Some(pid) = s.pid {
        fact("pid", format!("{pid} (capsule-init)"));
    }
    if let Some(end) = &s.expires {
        let left = units::until(end, now).map_or_else(String::new, |left| format!(" ({left})"));
        fact("lease", format!("until {}{left}", words(end)));
    }
    if let Some(micros) = s.cpu_micros {
        fact("cpu", units::cpu_time(micros));
    }
    if let Some(memory) = s.memory {
        fact("memory", units::bytes(memory));
    }
    if let Some(tasks) = s.tasks {
        fact("tasks", tasks.to_string());
    }
    if let Some(t) = s.traffic {
        let moved = |bytes, packets| format!("{} in {packets} packets", units::bytes(bytes));
        fact("sent", moved(t.bytes_out, t.packets_out));
        fact("got", moved(t.bytes_in, t.packets_in));
    }
    if let Some(r) = s.network_refused.filter(|r| r.opt_out + r.port + r.local + r.other > 0) {
        let (opt_out, port, local, other) = (r.opt_out, r.port, r.local, r.other);
        fact(
            "refused",
            format!("{opt_out} to opt-outs, {port} by port, {local} to the node's services, {other} others"),
        );
    }
    if !s.ports.is_empty() {
        fact("ports", words(&s.ports.join(", ")));
    }
    if !s.hooks.is_empty() {
        out.push_str("  hooks\n");
        let width = s.hooks.keys().map(|name| words(name).chars().count()).max().unwrap_or(0);
        for (name, outcome) in &s.hooks {
            let _ = writeln!(out, "    {:<width$}  {}", words(name), words(outcome));
        }
    }
    out
}

/// What was asked and what is in force, a table a slice, and the verdict last.
fn verified(node: &NodeStatus, screen: Screen) -> String {
    let mut out = degraded(node, screen);
    for s in &node.slices {
        let title = format!("{} ({})", words(&s.name), s.state.name());
        let _ = writeln!(out, "{}", screen.paint(Style::Heading, &title));
        if !s.verify.is_empty() {
            let mut table = Table::new(&[
                ("LAYER", Kind::Key),
                ("WHAT", Kind::Words),
                ("ASKED", Kind::Words),
                ("IN FORCE", Kind::Words),
                ("OK", Kind::Key),
            ]);
            for row in &s.verify {
                let (ok, style) = if row.ok { ("yes", Style::Good) } else { ("NO", Style::Bad) };
                table.push(vec![
                    Cell::new(&row.layer),
                    Cell::new(&row.what),
                    Cell::new(&row.asked),
                    Cell::new(&row.in_force),
                    Cell::styled(ok, style),
                ]);
            }
            out.push_str(&table.render(screen));
        }
        // The table may have cut the interesting end of a value; here it is whole, with where it was read.
        for row in s.verify.iter().filter(|row| !row.ok) {
            let text = format!(
                "{} {}: asked {}, in force {} (from {})",
                words(&row.layer),
                words(&row.what),
                words(&row.asked),
                words(&row.in_force),
                words(&row.source)
            );
            let _ = writeln!(out, "{}", screen.paint(Style::Bad, &text));
        }
        out.push('\n');
    }
    let rows = node.slices.iter().flat_map(|s| &s.verify);
    let (total, wrong) = rows.fold((0, 0), |(total, wrong), row| (total + 1, wrong + usize::from(!row.ok)));
    let unread: Vec<&str> =
        node.slices.iter().filter(|s| s.verify.is_empty()).map(|s| s.name.as_str()).collect();
    let verdict = if total == 0 {
        "Nothing was read back: no capsule is running".to_owned()
    } else if wrong > 0 {
        format!("{wrong} of {total} limits are not in force")
    } else if !unread.is_empty() {
        format!("All {total} limits read are in force; nothing was read of {}", words(&unread.join(", ")))
    } else {
        format!("All {total} limits are in force")
    };
    let style = if holds(node) { Style::Good } else { Style::Bad };
    out + &screen.paint(style, &verdict) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use plab_protocol::control::{RefusedDefinition, VerifyRow};
    use std::collections::BTreeMap;

    const PLAIN: Screen = Screen { width: 80, colour: false };

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().expect("time")
    }

    fn example() -> SliceStatus {
        SliceStatus {
            name: "princeton4".into(),
            uid: 70001,
            state: SliceState::Running,
            detail: None,
            status_line: Some("serving\u{1b}]0;owned\u{7}".into()),
            status_ok: Some(true),
            hooks: BTreeMap::from([("start".into(), "running".into())]),
            pid: Some(812),
            since: Some("2026-03-01T08:00:00Z".into()),
            expires: Some("2026-03-02T12:00:00Z".into()),
            contact: "pi@cs.princeton.edu".into(),
            ports: vec!["tcp/80".into(), "udp/7-9".into()],
            memory: Some(12 << 20),
            tasks: Some(4),
            cpu_micros: Some(1_500_000),
            traffic: None,
            network_refused: None,
            pending_errors: Vec::new(),
            verify: Vec::new(),
        }
    }

    fn node(slices: Vec<SliceStatus>) -> NodeStatus {
        NodeStatus {
            node: "node1".into(),
            version: "0.1.0".into(),
            degraded: Vec::new(),
            problems: Vec::new(),
            boot: None,
            planned: None,
            flows: None,
            refused: Vec::new(),
            slices,
        }
    }

    fn row(ok: bool) -> VerifyRow {
        VerifyRow {
            layer: "cgroup".into(),
            what: "memory.max".into(),
            asked: "256M".into(),
            in_force: if ok { "256M" } else { "max" }.into(),
            ok,
            source: "memory.max".into(),
        }
    }

    #[test]
    fn one_line_a_slice() {
        assert_eq!(
            all(&node(vec![example()]), now(), PLAIN),
            "NAME        STATE      UID    CPU       MEM  TASKS  SINCE  STATUS\n\
             princeton4  running  70001  1.50s  12.0 MiB      4  4h00m  serving\\u{1b}]0;owne…\n\n\
             1 slice on node1, plabd 0.1.0\n"
        );
    }

    #[test]
    fn everything_about_one() {
        assert_eq!(
            slice(&example(), now(), PLAIN),
            "princeton4\n\
             \x20 state    running since 2026-03-01T08:00:00.000Z (4h00m)\n\
             \x20 status   serving\\u{1b}]0;owned\\u{7}\n\
             \x20 contact  pi@cs.princeton.edu\n\
             \x20 uid      70001\n\
             \x20 pid      812 (capsule-init)\n\
             \x20 lease    until 2026-03-02T12:00:00Z (in 1d00h)\n\
             \x20 cpu      1.50s\n\
             \x20 memory   12.0 MiB\n\
             \x20 tasks    4\n\
             \x20 ports    tcp/80, udp/7-9\n\
             \x20 hooks\n\
             \x20   start  running\n"
        );
    }

    #[test]
    fn refusals_follow_with_reasons() {
        let mut node = node(vec![SliceStatus { pending_errors: vec!["bad\nunit".into()], ..example() }]);
        node.refused.push(RefusedDefinition { file: "x.toml".into(), errors: vec!["line 1".into()] });
        let text = refused(&node, PLAIN);
        assert_eq!(
            text,
            "\nprinceton4: an older definition is in effect, the newer was refused:\n  bad\n  unit\n\
             \nx.toml: refused:\n  line 1\n"
        );
    }

    #[test]
    fn only_what_was_read_back_holds() {
        let with = |rows| SliceStatus { verify: rows, ..example() };
        assert!(holds(&node(vec![with(vec![row(true)])])));
        assert!(!holds(&node(vec![with(vec![row(true), row(false)])])));
        assert!(!holds(&node(vec![with(vec![row(true)]), with(Vec::new())])));
        assert!(!holds(&node(Vec::new())));
        let text = verified(&node(vec![with(vec![row(true), row(false)])]), PLAIN);
        assert!(text.ends_with("1 of 2 limits are not in force\n"), "{text}");
        assert!(text.contains("asked 256M, in force max (from memory.max)"), "{text}");
    }

    #[test]
    fn a_degraded_node_says_so_first() {
        let mut node = node(Vec::new());
        node.degraded.push("landlock".into());
        assert!(degraded(&node, PLAIN).starts_with("DEGRADED: this node does not enforce landlock"));
    }
}
