//! The bounds, and what exceeds them.

use plab_sandbox::cgroup::tree_name;
use plab_tests::measure::stats::Samples;
use serde::Serialize;

use crate::capsules::Capsules;
use crate::phase::Phase;
use crate::probes::Answers;

/// An answer's p99 may be so many times that of the baseline …
const TIMES: f64 = 10.0;
/// … and so many milliseconds more.
const MORE_MS: f64 = 20.0;
/// The computing neighbour keeps so much of what it had alone.
const SHARE: f64 = 0.4;
/// So many MiB less may be available on the machine.
const MEMORY_MIB: f64 = 512.0;

/// The bounds in words, each with its reason; first those that decide the exit status.
pub fn stated() -> [String; 6] {
    [
        "**Alive** (decides the exit status): no request to the neighbour's service, to plabd, into the neighbour's \
         capsule or to sshd stays without an answer; no neighbour, no service of the node's and not plabd is restarted, \
         ended, or has an event of severity warning or error."
            .to_owned(),
        "**Inside** (decides the exit status): when the class has ended, every process of the stressing slice's UID is \
         in its cgroup."
            .to_owned(),
        "**Kernel** (decides the exit status): no `BUG`, `WARNING` or `Oops`; nothing is killed for memory but at the \
         stressing slice's own limit."
            .to_owned(),
        format!(
            "**Answers** (reported): p99 of each kind of request at most {TIMES} x its p99 in the baseline just before, \
             plus {MORE_MS} ms. Every processor is contended in the baseline already; what is added is one more slice \
             that is always runnable. An answer takes a handful of wake-ups, each may wait for a time slice or two of \
             each of the others (3 to 4 ms), and the factor lets that grow with the slowness of the machine."
        ),
        format!(
            "**Share** (reported): the computing neighbour gets at least {:.0} % of the processor time of its baseline. \
             Two slices of equal weight that both want everything get half each; the rest is for the kernel's own work.",
            SHARE * 100.0
        ),
        format!(
            "**Memory** (reported): not more than {MEMORY_MIB} MiB less are available on the machine than at the class's \
             beginning: twice what the slice may have, so that more was used up on its behalf without being charged \
             to it. A kernel that says that something is stuck is reported, too."
        ),
    ]
}

/// What a class did beyond the bounds.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Of the bounds that decide.
    pub broken: Vec<String>,
    /// Of those that are reported.
    pub exceeded: Vec<String>,
}

impl Findings {
    /// In one word.
    pub fn verdict(&self) -> &'static str {
        match (self.broken.is_empty(), self.exceeded.is_empty()) {
            (true, true) => "held",
            (true, false) => "exceeded",
            (false, _) => "BROKEN",
        }
    }
}

/// Judges what was measured in a class by its baseline; `others` is what has been found otherwise.
pub fn judge(capsules: &Capsules<'_>, base: &Phase, class: &Phase, others: Vec<String>) -> Findings {
    let mut found = Findings { broken: others, exceeded: Vec::new() };
    let none = Answers::default();
    let kinds = [
        ("the neighbour's service", &base.web, &class.web),
        ("plab status", &base.status, &class.status),
        ("plab exec in the neighbour's capsule", &base.exec, &class.exec),
    ];
    for (what, before, during) in kinds {
        found.answered(what, during);
        found.in_time(what, &before.took, &during.took);
    }
    found.answered("sshd", class.sshd.as_ref().unwrap_or(&none));
    if class.busy < SHARE * base.busy {
        found.exceeded.push(format!(
            "the computing neighbour had {:.2} processors, {:.2} in the baseline",
            class.busy, base.busy
        ));
    }
    if let Some(memory) = class.resources.get("memory available, MiB") {
        let less = memory.first - memory.least;
        if less > MEMORY_MIB {
            found.exceeded.push(format!("{less:.0} MiB less memory were available on the machine"));
        }
    }
    found.kernel(capsules, class);
    found
}

impl Findings {
    fn answered(&mut self, what: &str, answers: &Answers) {
        if answers.failed > 0 {
            self.broken.push(format!(
                "{what}: {} without an answer: {}",
                answers.failed,
                answers.why.join("; ")
            ));
        }
    }

    fn in_time(&mut self, what: &str, base: &Samples, class: &Samples) {
        let (before, during) = (base.percentile(99.0), class.percentile(99.0));
        let bound = TIMES * before + MORE_MS;
        // Not a number if nothing was measured, and then it is not within the bound.
        if during.is_nan() || before.is_nan() {
            self.broken.push(format!("{what}: not one answer, in the baseline or in the class"));
        } else if during > bound {
            self.exceeded.push(format!(
                "{what}: p99 {during:.1} ms, the bound is {bound:.1} ms, the baseline {before:.1} ms"
            ));
        }
    }

    fn kernel(&mut self, capsules: &Capsules<'_>, class: &Phase) {
        self.broken.extend(class.said.broken.iter().map(|line| format!("kernel: {line}")));
        self.exceeded.extend(class.said.stuck.iter().map(|line| format!("kernel: {line}")));
        let own = tree_name(capsules.node.root());
        // Other nodes may be under test on this machine, and their capsules run out of memory on purpose.
        let family = own.rsplit_once('-').map_or(own.as_str(), |(family, _)| family);
        for kill in &class.said.kills_elsewhere {
            let other_node =
                kill.contains(family) && !kill.contains(&own) && kill.contains("CONSTRAINT_MEMCG");
            if !other_node {
                self.broken.push(format!("kernel: out of memory elsewhere: {kill}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn times_are_judged_by_their_baseline_and_break_nothing() {
        let mut found = Findings::default();
        found.in_time("x", &samples(&[2.0]), &samples(&[40.0]));
        assert_eq!(found.verdict(), "held");
        found.in_time("x", &samples(&[2.0]), &samples(&[40.1]));
        assert_eq!(found.verdict(), "exceeded");
    }

    #[test]
    fn silence_is_worse_than_slowness() {
        let mut found = Findings::default();
        found.in_time("x", &samples(&[2.0]), &samples(&[]));
        assert_eq!(found.verdict(), "BROKEN");
        let mut found = Findings::default();
        found.answered("x", &Answers { took: samples(&[1.0]), failed: 1, why: vec!["refused".to_owned()] });
        assert_eq!(found.verdict(), "BROKEN");
    }
}
