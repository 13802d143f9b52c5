//! Which hook is due next: `configure` once per installation, then `start` (PDN-02-002, 4.7).
//!
//! A pure state machine for one run of one capsule: it runs nothing, looks at nothing and knows no
//! time. `status`, `suspend` and `resume` have their own occasions and no order, so they are not its
//! concern; `stop` is, because nothing is started after it.
//!
//! - When the capsule comes up: `configure`, unless it has succeeded for this installation before;
//!   then `start`.
//! - `start` follows `configure` however that ended: the node draws no conclusions from a hook's
//!   return status. Only the record that it need not run again depends on it.
//! - A `configure` that appears in a running capsule runs then, and `start` after it. One that
//!   failed, or could not be run, is tried again when it changes or when the capsule next comes up.
//! - `start` runs once in the life of a capsule, and again only after a `configure` that ran. It is
//!   never run beside itself: while an earlier `start` stays as the service, the next one waits.
//!   That `start` itself appears or changes is no occasion to run it.

use crate::control_dir::HookFile;
use crate::hook::Hook;
use crate::outcome::HookOutcome;

/// What is known when a capsule comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `configure` has succeeded for the software that is installed.
    pub configure_done: bool,
    /// `start` is to run. If not, it does not run after `configure` either.
    pub start: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run this hook: report [`Sequence::begun`] and, when it has ended, [`Sequence::finished`].
    Run(Hook),
    /// This hook was due and cannot be run: report [`Sequence::finished`] with this outcome.
    Pass(Hook, HookOutcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Configure {
    /// To be run as soon as possible.
    Due,
    /// Running; `changed` if its file was changed since it began.
    Running { changed: bool },
    /// Has not succeeded, and there is no reason to believe that it would now.
    Waiting,
    /// Has succeeded for this installation.
    Done,
}

/// The hooks' order in one run of a capsule.
///
/// The driver's loop, at the beginning and after each report:
///
/// ```
/// # use plab_control_scripts::{Hook, HookFile, HookOutcome, Plan, Sequence, Step};
/// # let inspect = |hook| if hook == Hook::Start { HookFile::Runnable } else { HookFile::Absent };
/// # let mut run = Vec::new();
/// let mut sequence = Sequence::new(Plan { configure_done: false, start: true });
/// while let Some(step) = sequence.next(inspect) {
///     match step {
///         Step::Run(hook) => {
///             sequence.begun(hook);
///             run.push(hook); // spawn it; `finished` when its process has ended
///         }
///         Step::Pass(hook, outcome) => sequence.finished(hook, &outcome),
///     }
/// }
/// assert_eq!(run, [Hook::Start]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    plan: Plan,
    configure: Configure,
    start_due: bool,
    start_running: bool,
    stopping: bool,
}

impl Sequence {
    /// The order for a capsule that is coming up.
    #[must_use]
    pub fn new(plan: Plan) -> Sequence {
        Sequence {
            plan,
            configure: if plan.configure_done { Configure::Done } else { Configure::Due },
            start_due: plan.start,
            start_running: false,
            stopping: false,
        }
    }

    /// What is due now, given what stands in a hook's place; asked about a hook only when it is due.
    ///
    /// Changes nothing: until the answer has been reported as begun or finished, it stays due.
    #[must_use]
    pub fn next(&self, present: impl Fn(Hook) -> HookFile) -> Option<Step> {
        let hook = self.due()?;
        Some(match present(hook).refusal() {
            None => Step::Run(hook),
            Some(outcome) => Step::Pass(hook, outcome),
        })
    }

    fn due(&self) -> Option<Hook> {
        match self.configure {
            _ if self.stopping => None,
            Configure::Due => Some(Hook::Configure),
            Configure::Running { .. } => None,
            Configure::Waiting | Configure::Done => {
                (self.start_due && !self.start_running).then_some(Hook::Start)
            }
        }
    }

    /// A hook has been started.
    pub fn begun(&mut self, hook: Hook) {
        match hook {
            Hook::Configure => self.configure = Configure::Running { changed: false },
            Hook::Start => {
                self.start_due = false;
                self.start_running = true;
            }
            // The capsule is going to be killed.
            Hook::Stop => self.stopping = true,
            Hook::Status | Hook::Suspend | Hook::Resume => {}
        }
    }

    /// A hook has ended, or was not run.
    pub fn finished(&mut self, hook: Hook, outcome: &HookOutcome) {
        match hook {
            Hook::Configure => {
                let changed = self.configure == Configure::Running { changed: true };
                self.configure = match outcome {
                    // Also if it was changed meanwhile: it runs once per installation.
                    HookOutcome::Exited(0) => Configure::Done,
                    _ if changed => Configure::Due,
                    _ => Configure::Waiting,
                };
                // Only a `configure` that ran may have changed what `start` depends on.
                if outcome.has_run() {
                    self.start_due = self.plan.start;
                }
            }
            Hook::Start => {
                // Also when it was passed over: what is absent when it is due is skipped, not owed.
                if !self.start_running {
                    self.start_due = false;
                }
                self.start_running = false;
            }
            Hook::Stop => self.stopping = true,
            Hook::Status | Hook::Suspend | Hook::Resume => {}
        }
    }

    /// A hook has appeared in the control directory, which has settled.
    pub fn appeared(&mut self, hook: Hook) {
        self.changed(hook);
    }

    /// A hook's file was changed or replaced, and the control directory has settled.
    pub fn changed(&mut self, hook: Hook) {
        if hook == Hook::Configure {
            match &mut self.configure {
                state @ Configure::Waiting => *state = Configure::Due,
                Configure::Running { changed } => *changed = true,
                Configure::Due | Configure::Done => {}
            }
        }
    }

    /// Whether `configure` has succeeded for this installation: what the node records.
    #[must_use]
    pub fn configure_done(&self) -> bool {
        self.configure == Configure::Done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    const ABSENT: HookFile = HookFile::Absent;
    const RUNNABLE: HookFile = HookFile::Runnable;
    const FIFO: HookFile = HookFile::NotAFile("a FIFO");

    fn files(configure: HookFile, start: HookFile) -> impl Fn(Hook) -> HookFile {
        move |hook| if hook == Hook::Configure { configure } else { start }
    }

    fn both(hook: Hook) -> HookFile {
        files(RUNNABLE, RUNNABLE)(hook)
    }

    fn fresh() -> Sequence {
        Sequence::new(Plan { configure_done: false, start: true })
    }

    /// Runs a hook that is due from its beginning to its end.
    fn run(sequence: &mut Sequence, hook: Hook, outcome: &HookOutcome) {
        assert_eq!(sequence.next(both), Some(Step::Run(hook)));
        sequence.begun(hook);
        sequence.finished(hook, outcome);
    }

    /// Does what a driver does with hooks that cannot be run; returns what was passed over.
    fn pass(sequence: &mut Sequence, present: impl Fn(Hook) -> HookFile) -> Vec<Hook> {
        let mut passed = Vec::new();
        while let Some(Step::Pass(hook, outcome)) = sequence.next(&present) {
            assert!(passed.len() < 10, "no end: {passed:?}");
            sequence.finished(hook, &outcome);
            passed.push(hook);
        }
        passed
    }

    const FAILURES: [HookOutcome; 4] = [
        HookOutcome::Exited(1),
        HookOutcome::Signalled(9),
        HookOutcome::TimedOut,
        HookOutcome::ExecFailed { errno: 2, hint: String::new() },
    ];

    #[test]
    fn configure_then_start_then_nothing() {
        let mut sequence = fresh();
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(0));
        assert!(sequence.configure_done());
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), None);
    }

    #[test]
    fn start_waits_for_configure_to_end() {
        let mut sequence = fresh();
        sequence.begun(Hook::Configure);
        assert_eq!(sequence.next(both), None);
    }

    #[test]
    fn start_follows_a_configure_that_failed_in_any_way() {
        for failure in FAILURES {
            let mut sequence = fresh();
            run(&mut sequence, Hook::Configure, &failure);
            assert!(!sequence.configure_done());
            run(&mut sequence, Hook::Start, &HookOutcome::Exited(1));
            assert_eq!(sequence.next(both), None, "after {failure}");
        }
    }

    #[test]
    fn what_is_absent_is_skipped_and_recorded() {
        let mut sequence = fresh();
        assert_eq!(
            sequence.next(files(ABSENT, RUNNABLE)),
            Some(Step::Pass(Hook::Configure, HookOutcome::Skipped))
        );
        assert_eq!(pass(&mut sequence, files(ABSENT, ABSENT)), [Hook::Configure, Hook::Start]);
        assert_eq!(sequence.next(both), None, "skipped, not owed");
        assert!(!sequence.configure_done());
    }

    #[test]
    fn what_cannot_be_run_is_refused_and_does_not_stop_what_follows() {
        let mut sequence = fresh();
        let Some(Step::Pass(Hook::Configure, HookOutcome::Refused(reason))) =
            sequence.next(files(FIFO, RUNNABLE))
        else {
            panic!("a FIFO is no hook")
        };
        assert_eq!(reason, "is a FIFO, not a regular file");
        assert_eq!(pass(&mut sequence, files(FIFO, RUNNABLE)), [Hook::Configure]);
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(0));
    }

    #[test]
    fn a_configure_that_was_done_before_is_not_even_looked_at() {
        let mut sequence = Sequence::new(Plan { configure_done: true, start: true });
        let only_start = |hook| {
            assert_eq!(hook, Hook::Start);
            RUNNABLE
        };
        assert_eq!(sequence.next(only_start), Some(Step::Run(Hook::Start)));
        sequence.changed(Hook::Configure);
        assert_eq!(sequence.next(only_start), Some(Step::Run(Hook::Start)));
    }

    #[test]
    fn a_configure_that_appears_runs_and_start_after_it() {
        let mut sequence = fresh();
        pass(&mut sequence, files(ABSENT, ABSENT));
        sequence.appeared(Hook::Configure);
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(0));
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(0));
        sequence.changed(Hook::Configure);
        assert_eq!(sequence.next(both), None, "once per installation");
    }

    #[test]
    fn a_configure_that_failed_is_tried_again_only_when_it_changes() {
        let mut sequence = fresh();
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(1));
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(1));
        sequence.changed(Hook::Start);
        sequence.changed(Hook::Status);
        assert_eq!(sequence.next(both), None);
        sequence.changed(Hook::Configure);
        run(&mut sequence, Hook::Configure, &HookOutcome::TimedOut);
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), None);
    }

    #[test]
    fn a_configure_changed_while_it_runs_is_tried_again_if_it_fails() {
        let mut sequence = fresh();
        sequence.begun(Hook::Configure);
        sequence.changed(Hook::Configure);
        sequence.finished(Hook::Configure, &HookOutcome::Exited(1));
        assert_eq!(sequence.next(both), Some(Step::Run(Hook::Configure)));

        let mut sequence = fresh();
        sequence.begun(Hook::Configure);
        sequence.changed(Hook::Configure);
        sequence.finished(Hook::Configure, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), Some(Step::Run(Hook::Start)));
    }

    #[test]
    fn a_configure_that_could_not_be_run_does_not_bring_start_again() {
        let mut sequence = fresh();
        pass(&mut sequence, files(FIFO, RUNNABLE));
        run_start(&mut sequence);
        sequence.changed(Hook::Configure);
        assert_eq!(pass(&mut sequence, files(FIFO, RUNNABLE)), [Hook::Configure]);
        assert_eq!(sequence.next(files(FIFO, RUNNABLE)), None);
        // Made executable at last.
        sequence.changed(Hook::Configure);
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), Some(Step::Run(Hook::Start)));
    }

    fn run_start(sequence: &mut Sequence) {
        sequence.begun(Hook::Start);
        sequence.finished(Hook::Start, &HookOutcome::Exited(0));
    }

    #[test]
    fn start_is_never_run_beside_itself() {
        let mut sequence = fresh();
        pass(&mut sequence, files(ABSENT, RUNNABLE));
        sequence.begun(Hook::Start); // and it stays as the service
        sequence.appeared(Hook::Configure);
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), None);
        sequence.finished(Hook::Start, &HookOutcome::Signalled(15));
        run(&mut sequence, Hook::Start, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), None);
    }

    #[test]
    fn without_start_in_the_plan_it_never_runs() {
        let mut sequence = Sequence::new(Plan { configure_done: false, start: false });
        run(&mut sequence, Hook::Configure, &HookOutcome::Exited(0));
        assert_eq!(sequence.next(both), None);
    }

    #[test]
    fn nothing_starts_once_the_capsule_is_being_stopped() {
        for end in [Sequence::begun as fn(&mut Sequence, Hook), |s, h| s.finished(h, &HookOutcome::Skipped)] {
            let mut sequence = fresh();
            end(&mut sequence, Hook::Stop);
            assert_eq!(sequence.next(both), None);
            sequence.changed(Hook::Configure);
            assert_eq!(sequence.next(both), None);
        }
    }

    #[test]
    fn hooks_without_an_order_change_nothing() {
        for hook in [Hook::Status, Hook::Suspend, Hook::Resume] {
            let mut sequence = fresh();
            sequence.begun(hook);
            sequence.finished(hook, &HookOutcome::TimedOut);
            sequence.changed(hook);
            assert_eq!(sequence, fresh());
        }
    }

    /// One thing that can happen, as a driver would report it.
    #[derive(Clone, Copy, Debug)]
    enum Happening {
        /// The driver does what is due, with these files there.
        Drive(HookFile, HookFile),
        /// A running `configure` ends, well or not.
        ConfigureEnds(bool),
        /// A running `start` ends.
        StartEnds,
        /// `configure` changes.
        Change,
        /// The capsule is being stopped.
        Stop,
    }

    /// What an observer knows who sees only what is run.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Seen {
        configure_running: bool,
        start_running: bool,
        configure_succeeded: bool,
        /// Changed since it last began or was passed over, or not begun yet.
        configure_news: bool,
        /// `start` may begin, and has not yet.
        start_allowed: bool,
        stopped: bool,
    }

    /// Every reachable state, by every order of happenings, keeps the contract.
    #[test]
    fn every_order_of_events_keeps_the_contract() {
        for (configure_done, start) in [(false, false), (false, true), (true, false), (true, true)] {
            let plan = Plan { configure_done, start };
            let seen = Seen {
                configure_running: false,
                start_running: false,
                configure_succeeded: configure_done,
                configure_news: !configure_done,
                start_allowed: start,
                stopped: false,
            };
            let mut known = HashSet::new();
            let mut queue = VecDeque::from([(Sequence::new(plan), seen)]);
            while let Some((sequence, seen)) = queue.pop_front() {
                if !known.insert((format!("{sequence:?}"), seen.clone())) {
                    continue;
                }
                let mut happenings = vec![Happening::Change, Happening::Stop];
                for configure in [ABSENT, RUNNABLE, FIFO] {
                    happenings
                        .extend([ABSENT, RUNNABLE, FIFO].map(|start| Happening::Drive(configure, start)));
                }
                if seen.configure_running {
                    happenings.extend([Happening::ConfigureEnds(true), Happening::ConfigureEnds(false)]);
                }
                if seen.start_running {
                    happenings.push(Happening::StartEnds);
                }
                for happening in happenings {
                    let (mut sequence, mut seen) = (sequence.clone(), seen.clone());
                    happen(&mut sequence, &mut seen, plan, happening);
                    assert_eq!(sequence.configure_done(), seen.configure_succeeded);
                    queue.push_back((sequence, seen));
                }
            }
            assert!(known.len() >= 4, "the search went nowhere: {}", known.len());
        }
    }

    fn happen(sequence: &mut Sequence, seen: &mut Seen, plan: Plan, happening: Happening) {
        match happening {
            Happening::Drive(configure, start) => drive(sequence, seen, configure, start),
            Happening::ConfigureEnds(well) => {
                sequence.finished(Hook::Configure, &HookOutcome::Exited(i32::from(!well)));
                seen.configure_running = false;
                seen.configure_succeeded = well;
                seen.start_allowed = plan.start;
            }
            Happening::StartEnds => {
                sequence.finished(Hook::Start, &HookOutcome::Exited(0));
                seen.start_running = false;
            }
            Happening::Change => {
                sequence.changed(Hook::Configure);
                seen.configure_news = true;
            }
            Happening::Stop => {
                sequence.begun(Hook::Stop);
                seen.stopped = true;
            }
        }
    }

    fn drive(sequence: &mut Sequence, seen: &mut Seen, configure: HookFile, start: HookFile) {
        for round in 0.. {
            assert!(round < 4, "the driver's loop does not end");
            let Some(step) = sequence.next(files(configure, start)) else { break };
            assert!(!seen.stopped && !seen.configure_running, "{step:?} in {seen:?}");
            let (hook, runs) = match &step {
                Step::Run(hook) => (*hook, true),
                Step::Pass(hook, outcome) => {
                    assert!(!outcome.has_run());
                    (*hook, false)
                }
            };
            if hook == Hook::Configure {
                assert!(seen.configure_news && !seen.configure_succeeded, "{step:?} in {seen:?}");
                assert_eq!(runs, configure == RUNNABLE);
                seen.configure_news = false;
                seen.configure_running = runs;
            } else {
                assert_eq!(hook, Hook::Start);
                assert!(seen.start_allowed && !seen.start_running, "{step:?} in {seen:?}");
                assert_eq!(runs, start == RUNNABLE);
                seen.start_allowed = false;
                seen.start_running = runs;
            }
            match step {
                Step::Run(hook) => sequence.begun(hook),
                Step::Pass(hook, outcome) => sequence.finished(hook, &outcome),
            }
        }
        // Nothing that is owed is forgotten.
        if !seen.stopped && !seen.configure_running {
            assert!(seen.configure_succeeded || !seen.configure_news, "configure is owed: {seen:?}");
            assert!(!seen.start_allowed || seen.start_running, "start is owed: {seen:?}");
        }
    }
}
