//! The table and the bars under it, as text that fits a terminal.

use std::fmt::Write;

use plab_tests::measure::columns::aligned;

use crate::report::{Report, Row, Verdict};

const HEADINGS: [&str; 6] = ["what", "ours", "peer", "ratio", "target", "met?"];

/// Columns of the longest bar.
const BAR: usize = 40;

/// Bars end here, in multiples of their target.
const LONGEST: f64 = 2.0;

/// Table, bars, and what could not be measured.
pub fn render(report: &Report) -> String {
    let rows: Vec<[String; 6]> =
        report.rows().iter().filter(|row| row.verdict != Verdict::Failed).map(cells).collect();
    let mut out = aligned(HEADINGS, &rows, &[0, 5]);
    bars(&mut out, report.rows());
    for row in report.failures() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "\nNOT MEASURED: {}: {}", row.what.trim(), row.ours);
    }
    let _ = writeln!(out, "\n{}", report.machine());
    out
}

fn cells(row: &Row) -> [String; 6] {
    let met = match row.verdict {
        Verdict::Met => "yes",
        Verdict::Missed => "NO",
        Verdict::Shown | Verdict::Failed => "",
    };
    [
        row.what.clone(),
        row.ours.clone(),
        row.peer.clone(),
        row.ratio.clone(),
        row.target.clone(),
        met.to_owned(),
    ]
}

/// How much of each target's allowance is used: what passes the mark has missed it.
fn bars(out: &mut String, rows: &[Row]) {
    let judged: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.used?))).collect();
    if judged.is_empty() {
        return;
    }
    let width = judged.iter().map(|(row, _)| row.what.trim().chars().count()).max().unwrap_or(0);
    let mark = BAR / 2;
    let _ = writeln!(
        out,
        "\n{:width$}  0{:>mark$}{:>mark$}",
        "used of the target",
        "target",
        "2 x target",
        mark = mark - 1
    );
    for (row, used) in judged {
        let mut bar: Vec<char> = vec![' '; BAR];
        let filled = (0..BAR).filter(|&column| {
            used * f64::from(u32::try_from(mark).unwrap_or(1)) > f64::from(u32::try_from(column).unwrap_or(0))
        });
        filled.for_each(|column| bar[column] = if column < mark { '=' } else { '#' });
        bar.insert(mark, '|');
        let more = if used > LONGEST { ">" } else { "" };
        let bar: String = bar.into_iter().collect();
        let _ = writeln!(out, "{:width$}  {}{more}", row.what.trim(), bar.trim_end());
    }
}
