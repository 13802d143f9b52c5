//! One class in the capsule: each of its stressors at least once, as many side by side as it takes for the class to fit
//! into its time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use plab_tests::measure::progress::Progress;
use plab_tests::measure::{Failure, cleanup};
use plab_tests::wait::slowness;
use serde::Serialize;

use crate::capsules::{Capsules, STRESS};
use crate::command::plab;
use crate::stressors::{Class, Ended, judge};

/// stress-ng's own shortest run.
const SHORTEST: u64 = 1;

/// More would take the capsule's tasks from one another. A class too large for it takes longer than it was given.
const MOST_LANES: u64 = 8;

/// What a stressor may take beyond its time, to set up and to clear away.
const GRACE: Duration = Duration::from_secs(45);

/// How often a stressor is tried that the capsule could not start, because another one had its last task.
const TRIES: u32 = 10;

/// What came of a class.
#[derive(Debug, Serialize)]
pub struct Attack {
    /// How each stressor ended.
    pub stressors: BTreeMap<String, Ended>,
    /// Stressors side by side.
    pub lanes: u64,
    /// Seconds that each was given.
    pub each: u64,
    /// How often the capsule went away and was started again, and what plabd said of it.
    pub deaths: Vec<String>,
}

impl Attack {
    /// How many ended so.
    pub fn count(&self, so: impl Fn(&Ended) -> bool) -> usize {
        self.stressors.values().filter(|ended| so(ended)).count()
    }
}

/// Lanes and the seconds of each stressor, for a class of so many in so many seconds.
fn plan(stressors: usize, seconds: u64) -> (u64, u64) {
    let stressors = u64::try_from(stressors).unwrap_or(u64::MAX).max(1);
    let lanes = (stressors * SHORTEST).div_ceil(seconds).min(MOST_LANES);
    (lanes, (seconds * lanes / stressors).max(SHORTEST))
}

/// Runs a class, for about so many seconds.
pub fn run(
    capsules: &Capsules<'_>,
    class: &Class,
    seconds: u64,
    progress: &Progress,
) -> Result<Attack, Failure> {
    let (lanes, each) = plan(class.stressors.len(), seconds);
    let queue: Mutex<VecDeque<&str>> = Mutex::new(class.stressors.iter().map(String::as_str).collect());
    let ended = Mutex::new(BTreeMap::new());
    let deaths = Mutex::new(Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let lane = || -> Result<(), Failure> {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(stressor) = next else { return Ok(()) };
                let how = one(capsules, stressor, each, &deaths)?;
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.insert(stressor.to_owned(), how);
                let left = seconds.saturating_sub(begun.elapsed().as_secs());
                let what = format!("{}, about {left} s left", class.name);
                progress.at(&what, ended.len(), class.stressors.len());
            }
        };
        let running: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        running.into_iter().try_for_each(|lane| lane.join().map_err(|_| "a lane panicked")?)
    })?;
    Ok(Attack {
        stressors: ended.into_inner().unwrap_or_else(PoisonError::into_inner),
        lanes,
        each,
        deaths: deaths.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// One stressor in the capsule. That of stress-ng's children which the kernel kills for memory is not started again, so
/// that a run ends with its time.
fn one(
    capsules: &Capsules<'_>,
    stressor: &str,
    each: u64,
    deaths: &Mutex<Vec<String>>,
) -> Result<Ended, Failure> {
    let (option, time) = (format!("--{stressor}"), format!("{each}s"));
    let args = [
        "exec",
        STRESS,
        "--",
        "stress-ng",
        &option,
        "1",
        "--timeout",
        &time,
        "--oomable",
        "--temp-path",
        "/tmp",
    ];
    let mut refusal = String::new();
    for _ in 0..TRIES {
        let ended = plab(capsules.node, &args, Duration::from_secs(each) + GRACE * slowness())?;
        cleanup::check();
        let Some(output) = ended else {
            revive(capsules, deaths, Some(stressor))?;
            return Ok(Ended::Overran);
        };
        let went_away = output.stderr.contains("the capsule went away");
        if went_away {
            revive(capsules, deaths, None)?;
            return Ok(Ended::WithCapsule);
        }
        if let Some(ended) = judge(&output) {
            return Ok(ended);
        }
        refusal = output.stderr.trim().chars().take(160).collect();
        revive(capsules, deaths, None)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(Ended::NotStarted(refusal))
}

/// Starts the capsule anew if it is down, or if a stressor in it does not end.
fn revive(capsules: &Capsules<'_>, deaths: &Mutex<Vec<String>>, hung: Option<&str>) -> Result<(), Failure> {
    // Held meanwhile, so that one lane does it and the others find it done.
    let mut deaths = deaths.lock().unwrap_or_else(PoisonError::into_inner);
    let hung = hung.map(|stressor| format!("restarted: {stressor} did not end"));
    let Some(why) = hung.or_else(|| settled(capsules)) else { return Ok(()) };
    deaths.push(why);
    capsules.renew()
}

/// Why the capsule is down, once plabd has seen what happened.
fn settled(capsules: &Capsules<'_>) -> Option<String> {
    let begun = Instant::now();
    loop {
        let down = capsules.down();
        // On its way to either: `failed` comes a moment after the last process has gone.
        let on_its_way = down.as_ref().is_some_and(|why| !why.starts_with("failed"));
        if !on_its_way || begun.elapsed() > GRACE * slowness() {
            return down;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_fits_into_its_time_or_has_lanes() {
        assert_eq!(plan(1, 60), (1, 60));
        assert_eq!(plan(25, 60), (1, 2));
        assert_eq!(plan(60, 60), (1, 1));
        assert_eq!(plan(61, 60), (2, 1));
        assert_eq!(plan(230, 60), (4, 1));
        assert_eq!(plan(230, 3), (8, 1));
    }
}
