//! `plab check`: what this kernel offers, and what a capsule would not get.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use plab_config::NodeFile;
use plab_sandbox::probe::{ProbeRow as Row, ProbeState as State};

use crate::args::CheckArgs;
use crate::error::{self, Error};
use crate::output::{Screen, Style, print, print_json, words};
use crate::table::{Cell, Kind, Table};

/// Asks the kernel and shows what it said.
///
/// # Errors
/// When the node file cannot be read, or standard output takes no more.
pub fn run(root: Option<&Path>, args: &CheckArgs, screen: Screen) -> Result<u8, Error> {
    let root = root.unwrap_or(Path::new("/"));
    let own = root.join("etc/planetlab/node.toml");
    // One that was named must be there.
    let file = args.config.clone().or_else(|| own.exists().then_some(own));
    let degrade = match file {
        None => BTreeSet::new(),
        Some(file) => NodeFile::load(&file).map(|node| node.degrade).map_err(|errors| {
            Error::Session(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?,
    };
    let allowed: Vec<&str> = degrade.iter().map(|feature| feature.name()).collect();
    // A directory of our own: the probe removes what it made, and a running node whose last capsule has just
    // gone must not lose its directory to that.
    let tree = format!("{}-check-{}", plab_sandbox::cgroup::tree_name(root), std::process::id());
    let rows = plab_sandbox::probe::report(&tree);
    show(&rows, &allowed, args.json, screen)
}

/// Shows `rows`; the status says whether a capsule would start. `allowed` are the features that the node file's
/// `degrade` names.
///
/// # Errors
/// When standard output takes no more.
pub fn show(rows: &[Row], allowed: &[&str], json: bool, screen: Screen) -> Result<u8, Error> {
    if json {
        let document = serde_json::to_string(rows).map_err(|e| Error::Session(e.to_string()))?;
        print_json(&document)?;
    } else {
        print(&render(rows, allowed, screen))?;
    }
    let starts = !rows.is_empty() && rows.iter().all(|row| !prevents(row, allowed));
    Ok(if starts { error::OK } else { error::REFUSED })
}

/// Whether no capsule starts because of this row.
fn prevents(row: &Row, allowed: &[&str]) -> bool {
    match row.state {
        State::Present | State::Restricted => false,
        State::Degraded => !allows(row, allowed),
        State::Missing => true,
    }
}

fn allows(row: &Row, allowed: &[&str]) -> bool {
    allowed.contains(&row.feature.as_str())
}

/// The table, what to do about each row that is not as it should be, and the verdict.
pub fn render(rows: &[Row], allowed: &[&str], screen: Screen) -> String {
    let mut table = Table::new(&[
        ("FEATURE", Kind::Key),
        ("STATE", Kind::Key),
        ("FOUND", Kind::Words),
        ("NEEDED FOR", Kind::Words),
    ]);
    for row in rows {
        let (name, style) = match row.state {
            State::Present => ("present", Style::Good),
            State::Degraded => ("degraded", Style::Warn),
            State::Restricted => ("restricted", Style::Warn),
            State::Missing => ("missing", Style::Bad),
        };
        table.push(vec![
            Cell::new(&row.feature),
            Cell::styled(name, style),
            Cell::new(&row.found),
            Cell::new(&row.needed_for),
        ]);
    }
    let mut out = table.render(screen) + "\n";
    let lacking: Vec<&Row> = rows.iter().filter(|r| r.state != State::Present).collect();
    for row in &lacking {
        let title = format!("{}: a capsule would lack this: {}", words(&row.feature), words(&row.needed_for));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", screen.paint(Style::Heading, &title));
        let _ = writeln!(out, "  found: {}", words(&row.found));
        if let Some(advice) = &row.advice {
            let _ = writeln!(out, "  to do: {}", crate::output::lines(advice).replace('\n', "\n         "));
        }
    }
    let missing = rows.iter().filter(|row| row.state == State::Missing).count();
    let unnamed: Vec<String> = lacking
        .iter()
        .filter(|row| row.state == State::Degraded && prevents(row, allowed))
        .map(|row| format!("\"{}\"", words(&row.feature)))
        .collect();
    let (style, verdict) = if rows.is_empty() {
        (Style::Bad, "Nothing was looked at".to_owned())
    } else if missing > 0 {
        (Style::Bad, format!("No capsule starts here: {missing} of {} features are missing", rows.len()))
    } else if !unnamed.is_empty() {
        let names = unnamed.join(", ");
        (Style::Bad, format!("No capsule starts here unless the node file says\n  degrade = [{names}]"))
    } else if lacking.iter().any(|row| row.state == State::Restricted && !allows(row, allowed)) {
        (Style::Warn, "Capsules start, unless their definitions ask for what is restricted here".to_owned())
    } else if !lacking.is_empty() {
        let count = lacking.len();
        (
            Style::Warn,
            format!("Capsules start, with less: the node file allows {count} features to be missing"),
        )
    } else {
        (Style::Good, format!("All {} features are present", rows.len()))
    };
    let verdict = screen.paint(style, &verdict);
    out + &verdict + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { width: 80, colour: false };

    fn row(feature: &str, state: State) -> Row {
        Row {
            feature: feature.into(),
            needed_for: "the view's second lock".into(),
            state,
            found: "ABI 7".into(),
            advice: (state != State::Present).then(|| "boot with lsm=landlock".to_owned()),
        }
    }

    #[test]
    fn what_lacks_comes_with_what_to_do() {
        let text = render(&[row("landlock", State::Missing), row("seccomp", State::Present)], &[], PLAIN);
        for part in [
            "landlock  missing",
            "seccomp   present",
            "landlock: a capsule would lack this: the view's second lock",
            "  to do: boot with lsm=landlock",
            "No capsule starts here: 1 of 2 features are missing",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("seccomp: a capsule"));
    }

    #[test]
    fn what_the_node_file_must_say_is_spelled_out() {
        let rows = [row("audit", State::Degraded), row("memory.high", State::Degraded)];
        assert!(render(&rows, &["audit"], PLAIN).ends_with("  degrade = [\"memory.high\"]\n"));
        assert!(render(&rows, &["audit", "memory.high"], PLAIN).contains("Capsules start, with less"));
        assert!(prevents(&rows[1], &["audit"]) && !prevents(&rows[0], &["audit"]));
        assert!(prevents(&row("audit", State::Missing), &["audit"]));
    }

    #[test]
    fn nothing_looked_at_is_no_success() {
        assert!(render(&[], &[], PLAIN).contains("Nothing was looked at"));
    }
}
