//! What was measured: rows for people, figures for programs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Failure;
use crate::contenders::Contenders;
use crate::machine;
use crate::stats::Samples;

/// Whether a target was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was.
    Met,
    /// It was not.
    Missed,
    /// There is none: shown only.
    Shown,
    /// It could not be measured.
    Failed,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Our figure.
    pub ours: String,
    /// Whom we are compared with, and its figure.
    pub peer: String,
    /// One against the other.
    pub ratio: String,
    /// What was aimed at.
    pub target: String,
    /// Whether it was met.
    pub verdict: Verdict,
    /// How much of the target's allowance was used: above 1 it was missed.
    pub used: Option<f64>,
}

/// Everything.
pub struct Report {
    rows: Vec<Row>,
    figures: BTreeMap<String, Value>,
    begun: Value,
    ended: Value,
    facts: Value,
    peers: Value,
    quick: bool,
}

impl Report {
    /// An empty one.
    pub fn new(quick: bool, contenders: &Contenders) -> Self {
        Self {
            rows: Vec::new(),
            figures: BTreeMap::new(),
            begun: machine::load(),
            ended: Value::Null,
            facts: machine::facts(),
            peers: contenders.versions(),
            quick,
        }
    }

    /// A row about `what`; [`RowBuilder::add`] puts it in.
    pub fn row(&mut self, what: &str) -> RowBuilder<'_> {
        let row = Row {
            what: what.to_owned(),
            ours: String::new(),
            peer: String::new(),
            ratio: String::new(),
            target: String::new(),
            verdict: Verdict::Shown,
            used: None,
        };
        RowBuilder { rows: &mut self.rows, row }
    }

    /// Something could not be measured.
    pub fn fail(&mut self, what: &str, why: &str) {
        let mut row = self.row(what);
        row.row.ours = why.to_owned();
        row.row.verdict = Verdict::Failed;
        row.add();
    }

    /// Keeps the percentiles of samples.
    pub fn samples(&mut self, name: &str, samples: &Samples) {
        self.figures.insert(name.to_owned(), json!(samples.summary()));
    }

    /// Keeps one value.
    pub fn value(&mut self, name: &str, value: impl Serialize) {
        self.figures.insert(name.to_owned(), json!(value));
    }

    /// Nothing more is measured.
    pub fn end(&mut self) {
        self.ended = machine::load();
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What could not be measured.
    pub fn failures(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.verdict == Verdict::Failed).collect()
    }

    /// The machine, in one line.
    pub fn machine(&self) -> String {
        let text = |key: &str| self.facts[key].as_str().unwrap_or_default();
        let peers = ["bwrap", "crun"].map(|peer| self.peers[peer].as_str().unwrap_or("none").to_owned());
        format!(
            "Linux {}, {} CPUs ({}), cgroups {}; load {} to {}\n{}; {}",
            text("kernel"),
            self.facts["cpus"],
            text("cpu"),
            text("cgroups"),
            self.begun["one_minute"].as_str().unwrap_or_default(),
            self.ended["one_minute"].as_str().unwrap_or_default(),
            peers[0],
            peers[1],
        )
    }

    /// Writes everything as JSON.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let all = json!({
            "version": 1,
            "quick": self.quick,
            "machine": self.facts,
            "load": { "begun": self.begun, "ended": self.ended },
            "peers": self.peers,
            "rows": self.rows,
            "figures": self.figures,
        });
        let mut text = serde_json::to_string_pretty(&all)?;
        text.push('\n');
        std::fs::write(file, text)
            .map_err(|error| format!("could not write {}: {error}", file.display()).into())
    }
}

/// A row in the making.
pub struct RowBuilder<'a> {
    rows: &'a mut Vec<Row>,
    row: Row,
}

impl RowBuilder<'_> {
    /// Our figure.
    pub fn ours(mut self, ours: String) -> Self {
        self.row.ours = ours;
        self
    }

    /// The peer's, with its name.
    pub fn peer(mut self, peer: String) -> Self {
        self.row.peer = peer;
        self
    }

    /// Ours over the peer's.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.row.ratio = format!("{ratio:.2}x");
        self
    }

    /// The peer's over ours, where we are the faster.
    pub fn faster(mut self, faster: f64) -> Self {
        self.row.ratio = format!("1/{faster:.1}");
        self
    }

    /// What is added, in percent.
    pub fn percent(mut self, percent: f64) -> Self {
        self.row.ratio = format!("{percent:+.1} %");
        self
    }

    /// What is added, in words.
    pub fn added(mut self, added: String) -> Self {
        self.row.ratio = added;
        self
    }

    /// So many percent of the peer's; the target is at least so many.
    pub fn share(mut self, percent: f64, least: f64) -> Self {
        self.row.ratio = format!("{percent:.1} %");
        self.row.target = format!(">= {least} %");
        self.judge(least / percent);
        self
    }

    /// The target is an upper limit, of which so much is used.
    pub fn at_most(mut self, target: String, used: f64) -> Self {
        self.row.target = format!("<= {target}");
        self.judge(used);
        self
    }

    /// The target is a factor by which we are the faster.
    pub fn at_least(mut self, target: String, used: f64) -> Self {
        self.row.target = format!("1/{}", target.trim_end_matches('x'));
        self.judge(used);
        self
    }

    fn judge(&mut self, used: f64) {
        self.row.used = Some(used);
        // A ratio that is not a number has met nothing.
        self.row.verdict = if used <= 1.0 { Verdict::Met } else { Verdict::Missed };
    }

    /// Puts the row in.
    pub fn add(self) {
        self.rows.push(self.row);
    }
}

/// Milliseconds, with the digits that matter.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// A factor.
pub fn times(factor: f64) -> String {
    format!("{factor}x")
}
