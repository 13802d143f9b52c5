//! Text from a file, made fit for one line of an error message.

/// The most characters of the file's text that an error message repeats.
pub(crate) const MAX_SHOWN: usize = 80;

/// `text` with everything escaped that a terminal or a log could take for a command of its own, at most
/// [`MAX_SHOWN`] characters long, the last of them `…` where some were left out.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    let mut len = 0;
    for c in text.chars() {
        let piece = escaped(c);
        let width = piece.chars().count();
        if len + width > MAX_SHOWN {
            // Make room for the mark itself.
            while len >= MAX_SHOWN {
                out.pop();
                len -= 1;
            }
            out.push('…');
            return out;
        }
        out.push_str(&piece);
        len += width;
    }
    out
}

/// `text` in double quotes, otherwise as [`shown`].
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// `text` escaped as by [`shown`] but whole: for paths, which the reader needs in full and which are bounded by
/// the kernel.
pub(crate) fn escaped_whole(text: &str) -> String {
    text.chars().map(escaped).collect()
}

/// One character as it is, or escaped if it is not plainly visible (controls, and the invisible ones that turn
/// the direction of a line around).
fn escaped(c: char) -> String {
    if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped() {
        assert_eq!(shown("a\x1b[31m\n\u{202e}b"), "a\\u{1b}[31m\\n\\u{202e}b");
        assert_eq!(quoted("princeton4 ü"), "\"princeton4 ü\"");
    }

    #[test]
    fn length_is_bounded() {
        assert_eq!(shown(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(shown(&"x".repeat(81)), format!("{}…", "x".repeat(79)));
        for n in 60..100 {
            let text = format!("{}{}", "x".repeat(n), "\x1b".repeat(30));
            assert!(shown(&text).chars().count() <= MAX_SHOWN);
        }
    }
}
