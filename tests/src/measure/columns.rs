//! Cells in aligned columns.

use std::fmt::Write;

/// The headings, a rule under them, and the rows. Columns that `words` names go to the left, all others, which hold
/// figures, to the right.
pub fn aligned<const N: usize>(headings: [&str; N], rows: &[[String; N]], words: &[usize]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &[String; N]| {
        let mut text = String::new();
        for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail, here and below.
            let _ = if words.contains(&column) {
                write!(text, "{cell:<width$}  ")
            } else {
                write!(text, "{cell:>width$}  ")
            };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(&headings.map(str::to_owned));
    line(&widths.map(|width| "-".repeat(width)));
    rows.iter().for_each(&mut line);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_figures_right() {
        let rows = [["one", "1"], ["eleven", "11"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(["what", "n"], &rows, &[0]), "what     n\n------  --\none      1\neleven  11\n");
    }
}
