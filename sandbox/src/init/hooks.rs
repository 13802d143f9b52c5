//! Running hooks: one process each, their time limits, what became of them (4.7 of the specification).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use plab_control_scripts::{CONTROL_DIR, FirstLine, Hook, HookFile, HookOutcome, Plan, Sequence, Step};
use rustix::process::{Pid, Signal, kill_process_group};

use super::control_watch::ControlWatch;
use super::launch::{Launch, Standard};
use crate::message::{HookState, Times, bounded};

/// How much of a `status` that prints without end is read before its pipe is shut, in bytes.
const STATUS_OUTPUT_MAX: u64 = 1 << 20;

/// A hook's running process.
struct Running {
    hook: Hook,
    pid: Pid,
    deadline: Option<Instant>,
    timed_out: bool,
    /// `status` only.
    output: Option<Output>,
}

/// What a `status` prints, while it does.
struct Output {
    /// None once it was closed from either side.
    pipe: Option<OwnedFd>,
    line: FirstLine,
}

/// The hooks of this capsule.
pub(super) struct Hooks {
    sequence: Sequence,
    running: Vec<Running>,
    /// What became of each; sent to plabd whole.
    pub(super) states: BTreeMap<Hook, HookState>,
    /// The last `status` line.
    pub(super) status_line: Option<String>,
    times: Times,
    env: Vec<CString>,
    /// `/dev/null`, for everything that is discarded.
    null: OwnedFd,
}

impl Hooks {
    pub(super) fn new(env: Vec<CString>, null: OwnedFd) -> Self {
        Self {
            sequence: Sequence::new(Plan { configure_done: true, start: false }),
            running: Vec::new(),
            states: BTreeMap::new(),
            status_line: None,
            times: Times { configure_ms: 300_000 },
            env,
            null,
        }
    }

    /// The capsule comes up: from now on the sequence says what is due.
    pub(super) fn begin(&mut self, configured: bool, times: Times) {
        self.times = times;
        self.sequence = Sequence::new(Plan { configure_done: configured, start: true });
    }

    pub(super) fn set_times(&mut self, times: Times) {
        self.times = times;
    }

    /// Runs everything that is due now. Says whether anything changed.
    pub(super) fn advance(&mut self, control: &ControlWatch) -> bool {
        let mut changed = false;
        while let Some(step) = self.sequence.next(|hook| control.inspect(hook)) {
            changed = true;
            match step {
                Step::Run(hook) => {
                    let limit = (hook == Hook::Configure).then_some(self.times.configure_ms);
                    self.start(hook, 0, limit, control);
                }
                Step::Pass(hook, outcome) => self.record(hook, 0, Some(outcome)),
            }
        }
        changed
    }

    /// The control directory has settled after these hooks were touched.
    pub(super) fn touched(&mut self, hooks: &[Hook]) {
        for &hook in hooks {
            self.sequence.changed(hook);
        }
    }

    /// Runs a hook because plabd asks for it.
    pub(super) fn request(&mut self, hook: Hook, id: u64, limit_ms: Option<u64>, control: &ControlWatch) {
        if self.running.iter().any(|running| running.hook == hook) {
            // `status` asked for while it runs: its end answers both.
            if let Some(state) = self.states.get_mut(&hook) {
                state.run_id = id;
            }
            return;
        }
        if hook == Hook::Stop
            && let Some(state) = self.states.get_mut(&hook)
        {
            // Once in the life of a capsule: asked again by a plabd whose forerunner died while it stopped this one,
            // it gets the first answer.
            state.run_id = id;
            return;
        }
        match control.inspect(hook).refusal() {
            None => self.start(hook, id, limit_ms, control),
            Some(outcome) => self.record(hook, id, Some(outcome)),
        }
    }

    fn start(&mut self, hook: Hook, id: u64, limit_ms: Option<u64>, control: &ControlWatch) {
        self.sequence.begun(hook);
        let path = CString::new(format!("{CONTROL_DIR}/{}", hook.name())).unwrap_or_default();
        let pipe = if hook == Hook::Status {
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()
        } else {
            None
        };
        if let Some((read, _)) = &pipe {
            // A pipe's two ends have flags of their own: the script's end stays blocking, as scripts expect.
            rustix::io::ioctl_fionbio(read, true).ok();
        }
        let output = pipe.as_ref().map_or(self.null.as_fd(), |(_, write)| write.as_fd());
        let launched = Launch {
            program: &path,
            argv: std::slice::from_ref(&path),
            env: &self.env,
            standard: Standard::Fds([self.null.as_fd(), output, self.null.as_fd()]),
            search: false,
        }
        .start();
        match launched {
            Ok(pid) => {
                self.running.push(Running {
                    hook,
                    pid,
                    deadline: limit_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
                    timed_out: false,
                    output: pipe.map(|(read, _)| Output { pipe: Some(read), line: FirstLine::new() }),
                });
                self.record(hook, id, None);
            }
            Err(errno) => {
                let outcome = match control.directory() {
                    Some(directory) => directory.exec_failed(hook, errno.raw_os_error()),
                    None => HookOutcome::exec_failed(errno.raw_os_error(), None),
                };
                self.record(hook, id, Some(outcome));
            }
        }
    }

    fn record(&mut self, hook: Hook, id: u64, outcome: Option<HookOutcome>) {
        let outcome = outcome.map(|outcome| match outcome {
            HookOutcome::Refused(reason) => HookOutcome::Refused(bounded(reason)),
            other => other,
        });
        let state = self.states.entry(hook).or_insert(HookState { runs: 0, run_id: 0, outcome: None });
        state.runs += 1;
        state.run_id = id;
        state.outcome.clone_from(&outcome);
        if let Some(outcome) = outcome {
            self.sequence.finished(hook, &outcome);
        }
    }

    /// A child has ended; none if it was no hook.
    pub(super) fn ended(&mut self, pid: Pid, how: HookOutcome) -> Option<Hook> {
        let position = self.running.iter().position(|running| running.pid == pid)?;
        let mut running = self.running.swap_remove(position);
        let outcome = if running.timed_out { HookOutcome::TimedOut } else { how };
        drain(&mut running);
        if let Some(output) = running.output {
            self.status_line = Some(output.line.finish());
        }
        if let Some(state) = self.states.get_mut(&running.hook) {
            state.outcome = Some(outcome.clone());
        }
        self.sequence.finished(running.hook, &outcome);
        Some(running.hook)
    }

    /// Whether `stop` was asked for.
    pub(super) fn stopping(&self) -> bool {
        self.states.contains_key(&Hook::Stop)
    }

    /// The pipes to poll.
    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.iter().filter_map(|running| running.output.as_ref()?.pipe.as_ref().map(AsFd::as_fd))
    }

    /// Reads what `status` printed so far.
    pub(super) fn read_outputs(&mut self) {
        self.running.iter_mut().for_each(drain);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.iter().filter(|running| !running.timed_out).filter_map(|running| running.deadline).min()
    }

    /// Ends the hooks whose time is up. One that forked away goes on, held by the capsule like everything in it.
    pub(super) fn expire(&mut self, now: Instant) {
        for running in &mut self.running {
            if !running.timed_out && running.deadline.is_some_and(|deadline| deadline <= now) {
                running.timed_out = true;
                // It may have ended this moment; then its end is on the way.
                kill_process_group(running.pid, Signal::KILL).ok();
            }
        }
    }

    pub(super) fn present(control: &ControlWatch) -> Vec<Hook> {
        Hook::ALL.into_iter().filter(|&hook| control.inspect(hook) != HookFile::Absent).collect()
    }
}

/// Takes what is in the pipe; after too much, or at its end, closes it (a script that goes on gets SIGPIPE).
fn drain(running: &mut Running) {
    let Some(Output { pipe, line }) = &mut running.output else { return };
    let mut buffer = [0; 4096];
    // At most one pipe's capacity a call: a script that prints without end must not hold PID 1.
    for _ in 0..16 {
        let Some(fd) = pipe else { return };
        match rustix::io::read(&*fd, &mut buffer) {
            Ok(n) if n > 0 && line.total() < STATUS_OUTPUT_MAX => line.feed(&buffer[..n]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            _ => *pipe = None,
        }
    }
}
