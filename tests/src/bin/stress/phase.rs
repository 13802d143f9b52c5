//! A stretch of time in which everything is measured: a baseline, or a class.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use plab_tests::measure::Failure;

use crate::capsules::{BUSY, Capsules, STRESS};
use crate::kmsg::{Kmsg, Said};
use crate::probes::{Answers, Probe};
use crate::resources::{self, Resources};

/// What was measured.
pub struct Phase {
    /// The neighbour's service.
    pub web: Answers,
    /// `plab status`.
    pub status: Answers,
    /// `plab exec` in the neighbour's capsule.
    pub exec: Answers,
    /// sshd's banner; none where there is no sshd.
    pub sshd: Option<Answers>,
    /// Processors that the computing neighbour had, on average.
    pub busy: f64,
    /// Processors that the stressing slice had; none if its capsule was made anew meanwhile.
    pub stress: Option<f64>,
    /// The machine.
    pub resources: Resources,
    /// The kernel.
    pub said: Said,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Measures while `what` is done.
pub fn measure<T>(
    capsules: &Capsules<'_>,
    kmsg: &mut Kmsg,
    sshd: bool,
    what: impl FnOnce() -> Result<T, Failure>,
) -> Result<(Phase, T), Failure> {
    let stop = AtomicBool::new(false);
    let storage = capsules.node.root().join("var/lib/planetlab/slices");
    let (begun, busy, stress) = (Instant::now(), capsules.cpu_micros(BUSY), capsules.cpu_micros(STRESS));
    std::thread::scope(|scope| {
        let ask = |probe: Probe| {
            let stop = &stop;
            scope.spawn(move || probe.repeat(capsules, stop))
        };
        let [web, status, exec] = [Probe::Web, Probe::Status, Probe::Exec].map(ask);
        let sshd = sshd.then(|| ask(Probe::Sshd));
        let watch = scope.spawn(|| resources::watch(&storage, kmsg, &stop));
        let done = what();
        let seconds = begun.elapsed().as_secs_f64();
        let share = |slice: &str, before: Option<u64>| {
            let used = capsules.cpu_micros(slice)?.checked_sub(before?)?;
            Some(std::time::Duration::from_micros(used).as_secs_f64() / seconds)
        };
        let (busy, stress) = (share(BUSY, busy).unwrap_or(0.0), share(STRESS, stress));
        stop.store(true, Ordering::Relaxed);
        let answers = |asked: std::thread::ScopedJoinHandle<'_, Answers>| {
            asked.join().map_err(|_| Failure::from("a probe panicked"))
        };
        let (resources, said) = watch.join().map_err(|_| "the watch of the machine panicked")??;
        let phase = Phase {
            web: answers(web)?,
            status: answers(status)?,
            exec: answers(exec)?,
            sshd: sshd.map(answers).transpose()?,
            busy,
            stress,
            resources,
            said,
            seconds,
        };
        Ok((phase, done?))
    })
}
