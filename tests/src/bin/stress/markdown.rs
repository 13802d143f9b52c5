//! The report as a document.

use plab_tests::measure::machine;

use crate::bounds;
use crate::report::{HEADINGS, LEGEND, Report, Row};
use crate::stressors::Ended;

/// What of the machine is shown, and whether the least or the most of it matters.
const SHOWN: [(&str, &str, bool); 9] = [
    ("memory available, MiB", "memory, MiB", true),
    ("kernel slab, MiB", "slab, MiB", false),
    ("disk of the storage free, MiB", "disk free, MiB", true),
    ("open files", "open files", false),
    ("terminals", "terminals", false),
    ("TCP sockets", "TCP", false),
    ("TCP in TIME-WAIT", "TIME-WAIT", false),
    ("processes and threads", "tasks", false),
    ("load", "load", false),
];

/// Everything that the issue asks to be in the documents.
pub fn render(report: &Report) -> String {
    let mut out = format!(
        "# Every class of stress-ng in one capsule\n\n\
         Written by `make stress`; change the program, not this file.\n\n\
         ## What was run\n\n\
         {}, its classes {} one after the other, each for about {} s, in a slice with the node's default limits ({}). \
         Every stressor of a class runs at least once, for the class's time divided by their number, and not less than a \
         second: with more stressors than seconds up to eight are run side by side. When the capsule is killed for \
         memory it is started again, and the class goes on. Before each class its baseline is measured.\n\n\
         Its neighbours: `site_web` answers HTTP requests on loopback, 20 a second; `site_busy` computes on every \
         processor, with the same weight. Both are measured by somebody outside, as is what users of the node notice \
         (`plab status`, `plab exec`), twice a second.\n\n",
        report.version,
        report.rows.iter().map(|row| row.class.as_str()).collect::<Vec<_>>().join(", "),
        report.seconds,
        report.limits.join(", "),
    );
    let facts = machine::facts();
    let text = |key: &str| facts[key].as_str().unwrap_or_default().to_owned();
    let kind = if text("cpu").contains("TCG") { "emulated in software, so slow" } else { "not emulated" };
    let memory = facts["memory_kib"].as_u64().unwrap_or(0) >> 10;
    out += &format!(
        "Where: Linux {}, {} processors ({}; {kind}), {memory} MiB of memory, cgroups {}.\n\n",
        text("kernel"),
        facts["cpus"],
        text("cpu"),
        text("cgroups"),
    );
    report.watched.iter().for_each(|line| out += &format!("- {line}\n"));
    out += "\n## Bounds\n\n";
    bounds::stated().iter().for_each(|bound| out += &format!("- {bound}\n"));
    out += &format!("\n## Result\n\n{LEGEND}\n\n");
    table(&mut out, &HEADINGS, report.rows.iter().map(|row| row.cells().to_vec()));
    out += "\n### Beyond the bounds\n\n";
    let lines = report.lines();
    if lines.is_empty() {
        out += "Nothing.\n";
    }
    lines.iter().for_each(|(class, kind, line)| out += &format!("- `{class}` {kind}: {line}\n"));
    out += "\n### The machine meanwhile\n\nOf memory and disk the least, of all others the most; the baseline's in parentheses.\n\n";
    let headings: Vec<&str> = std::iter::once("class").chain(SHOWN.map(|(_, heading, _)| heading)).collect();
    table(&mut out, &headings, report.rows.iter().map(resources));
    out += "\n### Stressors that did not run to their end\n\n\
            *Skipped*: stress-ng says that a right, a device or a part of the kernel is missing, which in a capsule is as it \
            should be. *Failed*: it started, and was refused something that it takes for granted.\n\n";
    report.rows.iter().for_each(|row| stressors(&mut out, row));
    out
}

fn table(out: &mut String, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    *out += &line(&headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>());
    *out += &line(&vec!["---".to_owned(); headings.len()]);
    rows.for_each(|row| *out += &line(&row));
}

fn resources(row: &Row) -> Vec<String> {
    let of = |(name, _, least): (&str, &str, bool)| {
        let [during, before] = [&row.during, &row.base].map(|phase| {
            phase.resources.get(name).map_or(f64::NAN, |seen| if least { seen.least } else { seen.most })
        });
        format!("{during:.0} ({before:.0})")
    };
    std::iter::once(format!("`{}`", row.class)).chain(SHOWN.map(of)).collect()
}

/// Whether a stressor ended in one way.
type Kind = fn(&Ended) -> bool;

fn stressors(out: &mut String, row: &Row) {
    let named = |so: Kind| {
        let names = row.attack.stressors.iter().filter(|(_, ended)| so(ended)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let kinds: [(&str, Kind); 5] = [
        ("skipped", |ended| matches!(ended, Ended::Skipped(_))),
        ("failed", |ended| matches!(ended, Ended::Failed(_))),
        ("ended with the capsule", |ended| matches!(ended, Ended::WithCapsule)),
        ("did not end in time", |ended| matches!(ended, Ended::Overran)),
        ("could not be started", |ended| matches!(ended, Ended::NotStarted(_))),
    ];
    let said: Vec<String> = kinds
        .into_iter()
        .map(|(kind, so)| (kind, named(so)))
        .filter(|(_, names)| !names.is_empty())
        .map(|(kind, names)| format!("{kind}: {names}"))
        .collect();
    if !said.is_empty() {
        *out += &format!("- `{}`: {}.\n", row.class, said.join("; "));
    }
    if !row.attack.deaths.is_empty() {
        let deaths = &row.attack.deaths;
        *out += &format!(
            "  Its capsule was started again {} times; the first time: {}.\n",
            deaths.len(),
            deaths[0]
        );
    }
}
