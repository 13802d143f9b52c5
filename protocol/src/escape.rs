//! Words of a slice, made safe for a terminal.

use std::fmt::Write;

/// Returns `text` with every control character, bidirectional override and invalid sequence shown as an
/// escape, cut to at most `limit` characters (an ellipsis marks the cut).
///
/// A slice can put anything into its `status` line or a file name; printed raw, escape sequences retitle,
/// recolour or type into an administrator's terminal.
pub fn for_terminal(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        if !is_harmless(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a terminal shows `c` and does nothing else with it.
pub fn is_harmless(c: char) -> bool {
    !c.is_control() && !is_format_control(c)
}

/// Characters that print nothing but change what is around them (Unicode UAX #9, and the zero-width ones).
fn is_format_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{180e}' | '\u{e0000}'..='\u{e007f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::for_terminal;

    #[test]
    fn escapes_what_moves_a_terminal() {
        assert_eq!(for_terminal("ok\u{1b}[2Jgone", 80), "ok\\u{1b}[2Jgone");
        assert_eq!(for_terminal("a\rb\nc\u{9b}1m", 80), "a\\u{d}b\\u{a}c\\u{9b}1m");
        assert_eq!(for_terminal("x\u{202e}y", 80), "x\\u{202e}y");
        assert_eq!(for_terminal("naïve ✓", 80), "naïve ✓");
    }

    #[test]
    fn cuts_by_characters() {
        assert_eq!(for_terminal("ééé", 2), "éé…");
    }
}
