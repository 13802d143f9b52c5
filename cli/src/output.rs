//! Standard output: what a terminal may see, colours, and the width to fit.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use plab_protocol::escape::for_terminal;

use crate::error::Error;

/// The width of a table that nobody looks at through a terminal.
pub const DEFAULT_WIDTH: usize = 80;

/// The most characters of one piece of text that are shown; a slice may have written megabytes.
pub const MAX_WORDS: usize = 4096;

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Columns to fit into.
    pub width: usize,
    /// Whether SGR sequences may be used.
    pub colour: bool,
}

impl Screen {
    /// Looks at standard output, `NO_COLOR` and `TERM`.
    pub fn of_stdout() -> Screen {
        let stdout = rustix::stdio::stdout();
        if !rustix::termios::isatty(stdout) {
            return Screen { width: DEFAULT_WIDTH, colour: false };
        }
        let width = match rustix::termios::tcgetwinsize(stdout) {
            Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
            // A serial line does not know its size.
            _ => DEFAULT_WIDTH,
        };
        // https://no-color.org: any value but the empty one.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Screen { width, colour: !refused && !dumb }
    }

    /// `text` in `style`, if there are colours. `text` must be safe for a terminal already.
    pub fn paint(self, style: Style, text: &str) -> String {
        match style.sgr() {
            Some(sgr) if self.colour => format!("\x1b[{sgr}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// What a colour means here; never the only sign of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// As the terminal has it.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Less important than its surroundings.
    Dim,
}

impl Style {
    fn sgr(self) -> Option<&'static str> {
        Some(match self {
            Style::Plain => return None,
            Style::Heading => "1",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Dim => "2",
        })
    }
}

/// One line of text from the node, safe for a terminal. Used also when standard output is a file: somebody
/// will look at the file with `cat`.
pub fn words(text: &str) -> String {
    for_terminal(text, MAX_WORDS)
}

/// Text of several lines from the node: each escaped, the ends of lines kept.
pub fn lines(text: &str) -> String {
    text.trim_end_matches('\n').split('\n').map(words).collect::<Vec<_>>().join("\n")
}

/// JSON text with everything that moves a terminal as `\u` escapes. Serialisers leave U+007F to U+009F and the
/// bidirectional controls as they are; outside strings JSON has only ASCII, so replacing them anywhere keeps
/// the same document.
pub fn json_for_terminal(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 1);
    let mut utf8 = [0; 4];
    for c in json.chars() {
        // What counts as dangerous is decided in one place, the protocol's escape module.
        let dangerous = if c.is_ascii() {
            c == '\u{7f}'
        } else {
            let one: &str = c.encode_utf8(&mut utf8);
            for_terminal(one, 1) != one
        };
        if dangerous {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes to standard output, all of it, now.
///
/// # Errors
/// As write(2): a full disk must not look like success.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// Prints one JSON document on a line of its own.
///
/// # Errors
/// As [`print`].
pub fn print_json(json: &str) -> Result<(), Error> {
    let mut text = json_for_terminal(json);
    text.push('\n');
    print(&text)
}

/// Says on standard error what went wrong. Nothing can be done when even that fails.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "plab: {}", lines(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_and_loses_its_teeth() {
        let text = "a\u{9b}31m\u{7f}\u{202e}é\u{1f600}";
        let json = serde_json::to_string(text).expect("json");
        let safe = json_for_terminal(&json);
        assert_eq!(safe, "\"a\\u009b31m\\u007f\\u202eé\u{1f600}\"");
        assert_eq!(serde_json::from_str::<String>(&safe).expect("json again"), text);
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(lines("one\ntwo\u{1b}[2J\r\n"), "one\ntwo\\u{1b}[2J\\u{d}");
    }

    #[test]
    fn colour_only_where_wanted() {
        let plain = Screen { width: 80, colour: false };
        assert_eq!(plain.paint(Style::Bad, "x"), "x");
        assert_eq!(Screen { colour: true, ..plain }.paint(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
