//! The one line of a hook's output that the node keeps (PDN-02-002, 4.7: `status`).

/// Collects the first line of what a `status` hook prints, and forgets the rest.
///
/// Bounded whatever is fed to it: a hook may print without end, one endless line, or bytes that are
/// no text. The line is the slice's: whoever shows it on a terminal escapes it first.
#[derive(Clone, Debug, Default)]
pub struct FirstLine {
    line: Vec<u8>,
    ended: bool,
    total: u64,
}

impl FirstLine {
    /// The most that is kept of a line, in bytes.
    pub const MAX: usize = 256;

    /// A collector that has seen nothing yet.
    #[must_use]
    pub fn new() -> FirstLine {
        FirstLine::default()
    }

    /// Takes the next piece of output.
    pub fn feed(&mut self, piece: &[u8]) {
        self.total = self.total.saturating_add(piece.len() as u64);
        if self.ended {
            return;
        }
        let end = piece.iter().position(|&byte| byte == b'\n');
        self.ended = end.is_some();
        // One byte more than is kept, so that `finish` can tell a line that fits from one that was
        // cut, and does not take half a character at the cut for bad text.
        let room = (Self::MAX + 1).saturating_sub(self.line.len());
        self.line.extend(piece[..end.unwrap_or(piece.len())].iter().take(room));
    }

    /// How much was fed, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The line, without its end (LF or CR LF), as text of at most [`Self::MAX`] bytes.
    #[must_use]
    pub fn finish(self) -> String {
        let FirstLine { mut line, .. } = self;
        if line.len() > Self::MAX {
            line.truncate(Self::MAX);
            cut_half_character(&mut line);
        } else if line.last() == Some(&b'\r') {
            line.pop();
        }
        let mut text = String::from_utf8_lossy(&line).into_owned();
        // A replacement character is longer than the byte it replaces.
        let end = (0..=Self::MAX.min(text.len())).rev().find(|&index| text.is_char_boundary(index));
        text.truncate(end.unwrap_or(0));
        text
    }
}

/// Cuts a character that the end of `line` has only the beginning of.
fn cut_half_character(line: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(line) {
        // Without a length the sequence is not wrong, only unfinished.
        if error.error_len().is_none() {
            line.truncate(error.valid_up_to());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first_line(pieces: &[&[u8]]) -> String {
        let mut line = FirstLine::new();
        for piece in pieces {
            line.feed(piece);
        }
        line.finish()
    }

    #[test]
    fn keeps_the_first_line_only() {
        assert_eq!(first_line(&[]), "");
        assert_eq!(first_line(&[b"mirror: 3 files\nmore\n"]), "mirror: 3 files");
        assert_eq!(first_line(&[b"no end"]), "no end");
        assert_eq!(first_line(&[b"in ", b"", b"pieces\n", b"more"]), "in pieces");
        assert_eq!(first_line(&[b"\nsecond"]), "");
        assert_eq!(first_line(&[b"from DOS\r", b"\nmore"]), "from DOS");
        assert_eq!(first_line(&[b"a\rb\r\r\n"]), "a\rb\r");
        assert_eq!(first_line(&[b"bad \xff\xfe text\n"]), "bad \u{fffd}\u{fffd} text");
    }

    #[test]
    fn a_line_that_just_fits_is_whole_and_a_longer_one_is_cut_between_characters() {
        let fits = "x".repeat(FirstLine::MAX);
        assert_eq!(first_line(&[fits.as_bytes(), b"\n"]), fits);
        assert_eq!(first_line(&[fits.as_bytes(), b"\r\n"]), fits);
        assert_eq!(first_line(&[fits.as_bytes(), b"yyyy"]), fits);
        // 2 bytes a character: 255 would end in the middle of one.
        let wide = format!("x{}", "ä".repeat(FirstLine::MAX));
        assert_eq!(first_line(&[wide.as_bytes()]), format!("x{}", "ä".repeat(127)));
        assert_eq!(first_line(&[&[0xff; 1000]]), "\u{fffd}".repeat(FirstLine::MAX / 3));
    }

    #[test]
    fn endless_output_costs_nothing_and_is_counted() {
        let mut line = FirstLine::new();
        for _ in 0..10_000 {
            line.feed(&[b'y'; 4096]);
        }
        assert_eq!(line.total(), 10_000 * 4096);
        assert!(line.line.capacity() <= 1024, "{}", line.line.capacity());
        assert_eq!(line.finish().len(), FirstLine::MAX);
    }

    proptest! {
        #[test]
        fn how_the_output_is_cut_into_pieces_does_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(0_usize..600, 0..5),
        ) {
            let whole = first_line(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut line = FirstLine::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                line.feed(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(line.total(), bytes.len() as u64);
            let pieced = line.finish();
            prop_assert!(pieced.len() <= FirstLine::MAX && !pieced.contains('\n'));
            prop_assert_eq!(pieced, whole);
        }
    }
}
