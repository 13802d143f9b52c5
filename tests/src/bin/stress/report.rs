//! What was run, where, and what came of it: kept as JSON, and shown.

use std::path::Path;

use plab_tests::measure::columns::aligned;
use plab_tests::measure::stats::Samples;
use plab_tests::measure::{Failure, machine};
use serde_json::{Value, json};

use crate::attack::Attack;
use crate::bounds::{self, Findings};
use crate::phase::Phase;
use crate::probes::Answers;
use crate::stressors::Ended;

/// The table's headings. Times are in milliseconds.
pub const HEADINGS: [&str; 10] =
    ["class", "stressors", "s", "web p50", "p99", "max", "status", "exec", "busy", "bounds"];

/// What they mean.
pub const LEGEND: &str = "\
stressors: ran/skipped/failed/ended with the capsule or otherwise not of themselves. s: seconds. Milliseconds: the \
neighbour's service (p50, p99 with that of its baseline behind it, max); `plab status` and `plab exec` in the \
neighbour's capsule, p99 each (of so few that it is the longest or one of the longest). busy: processor time of the \
computing neighbour against its baseline.";

/// One class.
pub struct Row {
    /// Its name.
    pub class: String,
    /// Its stressors.
    pub attack: Attack,
    /// Before.
    pub base: Phase,
    /// Meanwhile.
    pub during: Phase,
    /// Beyond the bounds.
    pub findings: Findings,
}

/// All of it.
pub struct Report {
    /// Seconds that each class was given.
    pub seconds: u64,
    /// stress-ng's own word.
    pub version: String,
    /// The stressing slice's limits.
    pub limits: Vec<String>,
    /// What could and could not be looked at on this machine.
    pub watched: Vec<String>,
    /// One a class, in the order in which they were run.
    pub rows: Vec<Row>,
}

impl Row {
    /// For the table.
    pub fn cells(&self) -> [String; 10] {
        let counts = [
            self.attack.count(|ended| matches!(ended, Ended::Ran)),
            self.attack.count(|ended| matches!(ended, Ended::Skipped(_))),
            self.attack.count(|ended| matches!(ended, Ended::Failed(_))),
            self.attack
                .count(|ended| matches!(ended, Ended::WithCapsule | Ended::Overran | Ended::NotStarted(_))),
        ];
        let p99 = |answers: &Answers| millis(answers.took.percentile(99.0));
        [
            self.class.clone(),
            counts.map(|count| count.to_string()).join("/"),
            format!("{:.0}", self.during.seconds),
            millis(self.during.web.took.median()),
            format!("{} ({})", p99(&self.during.web), p99(&self.base.web)),
            millis(self.during.web.took.percentile(100.0)),
            p99(&self.during.status),
            p99(&self.during.exec),
            format!("{:.0} %", 100.0 * self.during.busy / self.base.busy),
            self.findings.verdict().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "class": self.class,
            "verdict": self.findings.verdict(),
            "findings": self.findings,
            "attack": self.attack,
            "baseline": phase(&self.base),
            "during": phase(&self.during),
        })
    }
}

impl Report {
    /// The table, its legend, and what was beyond the bounds.
    pub fn text(&self) -> String {
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let mut out = aligned(HEADINGS, &rows, &[0, 9]);
        for (class, kind, line) in self.lines() {
            out += &format!("\n{kind} by {class}: {line}");
        }
        out + "\n"
    }

    /// Everything beyond the bounds: class, kind, words.
    pub fn lines(&self) -> Vec<(&str, &'static str, &str)> {
        self.rows
            .iter()
            .flat_map(|row| {
                let broken = row.findings.broken.iter().map(|line| ("BROKEN", line));
                let exceeded = row.findings.exceeded.iter().map(|line| ("exceeded", line));
                broken.chain(exceeded).map(|(kind, line)| (row.class.as_str(), kind, line.as_str()))
            })
            .collect()
    }

    /// Whether every bound that decides was kept.
    pub fn held(&self) -> bool {
        self.rows.iter().all(|row| row.findings.broken.is_empty())
    }

    /// Writes everything as JSON.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let all = json!({
            "version": 1,
            "stress-ng": self.version,
            "machine": machine::facts(),
            "seconds": self.seconds,
            "limits": self.limits,
            "watched": self.watched,
            "bounds": bounds::stated(),
            "classes": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        save(file, &(serde_json::to_string_pretty(&all)? + "\n"))
    }
}

/// Writes a file, and the directory that it is in.
pub fn save(file: &Path, text: &str) -> Result<(), Failure> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(file, text))
        .map_err(|error| format!("could not write {}: {error}", file.display()).into())
}

fn phase(phase: &Phase) -> Value {
    let answers = |answers: &Answers| {
        let took: &Samples = &answers.took;
        json!({ "milliseconds": took.summary(), "failed": answers.failed, "why": answers.why })
    };
    json!({
        "seconds": phase.seconds,
        "web": answers(&phase.web),
        "status": answers(&phase.status),
        "exec": answers(&phase.exec),
        "sshd": phase.sshd.as_ref().map(answers),
        "busy_processors": phase.busy,
        "stress_processors": phase.stress,
        "machine": phase.resources,
        "kernel": phase.said,
    })
}

/// Milliseconds with the digits that matter.
fn millis(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}
