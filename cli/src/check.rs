//! `plab check`: what this kernel offers, and what a capsule would not get.

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::{self, Error};
use crate::output::{Screen, Style, print, print_json, words};
use crate::table::{Cell, Kind, Table};

/// Whether a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is, as needed.
    Present,
    /// It is, but not all of it.
    Degraded,
    /// It is not.
    Missing,
}

/// One feature of the kernel or the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The feature, such as `landlock`.
    pub feature: String,
    /// What a capsule has it for.
    pub needed_for: String,
    /// Whether it is there.
    pub state: State,
    /// What was found, such as `ABI 7`.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Shows `rows`; the status says whether a capsule would get everything.
///
/// # Errors
/// When standard output takes no more.
pub fn show(rows: &[Row], json: bool, screen: Screen) -> Result<u8, Error> {
    if json {
        let document = serde_json::to_string(rows).map_err(|e| Error::Session(e.to_string()))?;
        print_json(&document)?;
    } else {
        print(&render(rows, screen))?;
    }
    let complete = !rows.is_empty() && rows.iter().all(|r| r.state == State::Present);
    Ok(if complete { error::OK } else { error::REFUSED })
}

/// The table, what to do about each row that is not as it should be, and the verdict.
pub fn render(rows: &[Row], screen: Screen) -> String {
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
        let title = format!("{}: a capsule would not get {}", words(&row.feature), words(&row.needed_for));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", screen.paint(Style::Heading, &title));
        let _ = writeln!(out, "  found: {}", words(&row.found));
        if let Some(advice) = &row.advice {
            let _ = writeln!(out, "  to do: {}", crate::output::lines(advice).replace('\n', "\n         "));
        }
    }
    let verdict = match (rows.len(), lacking.len()) {
        (0, _) => screen.paint(Style::Bad, "Nothing was looked at"),
        (n, 0) => screen.paint(Style::Good, &format!("All {n} features are present")),
        (n, lacking) => screen.paint(
            Style::Bad,
            &format!("{lacking} of {n} features are not as needed; plabd starts no capsule that needs one, unless the node file's `degrade` names it"),
        ),
    };
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
        let text = render(&[row("landlock", State::Missing), row("seccomp", State::Present)], PLAIN);
        for part in [
            "landlock  missing",
            "seccomp   present",
            "landlock: a capsule would not get the view's second lock",
            "  to do: boot with lsm=landlock",
            "1 of 2 features are not as needed",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("seccomp: a capsule"));
    }

    #[test]
    fn nothing_looked_at_is_no_success() {
        assert!(render(&[], PLAIN).contains("Nothing was looked at"));
    }
}
