//! Tables that fit the screen.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::{Screen, Style, words};

/// Blanks between two columns.
const GAP: usize = 2;

/// One cell. Its text is escaped when it is made, so no table can show a slice's words raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in the terminal's own colour.
    pub fn new(text: impl AsRef<str>) -> Cell {
        Cell::styled(text, Style::Plain)
    }

    /// A cell in a colour.
    pub fn styled(text: impl AsRef<str>, style: Style) -> Cell {
        Cell { text: words(text.as_ref()), style }
    }
}

/// How a column's cells stand, and whether it may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words, cut with `…` when the screen is too narrow.
    Words,
    /// Words that are cut only when nothing else is left to cut: names, states.
    Key,
    /// Numbers, to the right, cut last as well.
    Number,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    title: &'static str,
    kind: Kind,
}

/// A heading and rows.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[(&'static str, Kind)]) -> Table {
        let columns = columns.iter().map(|&(title, kind)| Column { title, kind }).collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row. Cells beyond the last column are not shown.
    pub fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The heading and all rows, a line each, none wider than the screen.
    pub fn render(&self, screen: Screen) -> String {
        self.lines(screen).join("\n") + "\n"
    }

    /// The same as lines, the heading first.
    pub fn lines(&self, screen: Screen) -> Vec<String> {
        let widths = self.widths(screen.width);
        let heading: Vec<Cell> = self.columns.iter().map(|c| Cell::styled(c.title, Style::Heading)).collect();
        std::iter::once(&heading).chain(&self.rows).map(|row| self.line(row, &widths, screen)).collect()
    }

    /// The width each column gets: what it needs, less what the screen lacks. The widest of those that may be
    /// cut gives way first, never below its title or [`Table::least`].
    fn widths(&self, screen: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.text.width());
                cells.chain([column.title.width()]).max().unwrap_or(0)
            })
            .collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        let may_cut: [fn(Kind) -> bool; 2] = [|kind| kind == Kind::Words, |_| true];
        for may_cut in may_cut {
            while widths.iter().sum::<usize>() + gaps > screen {
                let widest = (0..widths.len())
                    .filter(|&i| may_cut(self.columns[i].kind) && widths[i] > self.least(i))
                    .max_by_key(|&i| widths[i]);
                let Some(widest) = widest else { break };
                widths[widest] -= 1;
            }
        }
        widths
    }

    /// Below this a column says nothing any more.
    fn least(&self, column: usize) -> usize {
        self.columns[column].title.width().max(4)
    }

    fn line(&self, row: &[Cell], widths: &[usize], screen: Screen) -> String {
        let mut out = String::new();
        let mut used = 0;
        let mut pending = 0;
        for (i, (cell, &width)) in row.iter().zip(widths).enumerate() {
            // Even a heading alone can be wider than a very narrow screen: what does not fit is left out.
            let Some(room) = screen.width.checked_sub(used + pending).filter(|&room| room > 0) else { break };
            let text = fit(&cell.text, width.min(room));
            let blanks = width.min(room) - text.width();
            let right = self.columns[i].kind == Kind::Number;
            // Blanks are written when something follows, so that no line ends in them.
            let before = pending + if right { blanks } else { 0 };
            if !text.is_empty() {
                out.extend(std::iter::repeat_n(' ', before));
                out.push_str(&screen.paint(cell.style, &text));
                used += before + text.width();
                pending = if right { 0 } else { blanks } + GAP;
            } else {
                pending += width.min(room) + GAP;
            }
        }
        out
    }
}

/// `text` cut to `width` columns, with `…` where it was cut.
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > width {
            break;
        }
        out.push(c);
        used += w;
    }
    if width > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(width: usize) -> Screen {
        Screen { width, colour: false }
    }

    fn table() -> Table {
        let mut table = Table::new(&[("NAME", Kind::Key), ("MEM", Kind::Number), ("STATUS", Kind::Words)]);
        table.push(vec![
            Cell::new("princeton4"),
            Cell::new("12.3 MiB"),
            Cell::new("serving 1200 pages a minute"),
        ]);
        table.push(vec![Cell::new("mit_x"), Cell::new("1 B"), Cell::new("")]);
        table
    }

    #[test]
    fn wide_enough_shows_everything_aligned() {
        assert_eq!(
            table().render(screen(80)),
            "NAME             MEM  STATUS\n\
             princeton4  12.3 MiB  serving 1200 pages a minute\n\
             mit_x            1 B\n"
        );
    }

    #[test]
    fn words_are_cut_first() {
        let lines = table().lines(screen(40));
        assert_eq!(lines[1], "princeton4  12.3 MiB  serving 1200 page…");
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for width in 1..60 {
            for line in table().lines(screen(width)) {
                assert!(line.width() <= width, "{line:?} at {width}");
            }
        }
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(fit("日本語テスト", 7), "日本語…");
        assert_eq!(fit("日本語テスト", 6), "日本…");
        assert_eq!(fit("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&[("STATUS", Kind::Words)]);
        table.push(vec![Cell::new("\x1b[2J\u{9b}H\r\n")]);
        assert_eq!(table.lines(screen(80))[1], "\\u{1b}[2J\\u{9b}H\\u{d}\\u{a}");
    }

    #[test]
    fn empty_cells_keep_the_columns() {
        let mut table = Table::new(&[("A", Kind::Key), ("B", Kind::Key), ("C", Kind::Key)]);
        table.push(vec![Cell::new("x"), Cell::new(""), Cell::new("z")]);
        assert_eq!(table.render(screen(80)), "A  B  C\nx     z\n");
    }
}
