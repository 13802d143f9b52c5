//! One class in the capsule: each of its stressors at least once, as many side by side as it takes for the class to fit
//! into its time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    let arena = Arena { capsules, deaths: Mutex::default() };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let lane = || -> Result<(), Failure> {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(stressor) = next else { return Ok(()) };
                let how = arena.run(stressor, each)?;
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
        deaths: arena.deaths.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// The capsule as the lanes see it.
struct Arena<'a> {
    capsules: &'a Capsules<'a>,
    /// Why it had to be started again, each time.
    deaths: Mutex<Vec<String>>,
}

impl Arena<'_> {
    /// One stressor. That of stress-ng's children which the kernel kills for memory is not started again, so that a run
    /// ends with its time.
    fn run(&self, stressor: &str, each: u64) -> Result<Ended, Failure> {
        let (option, time) = (format!("--{stressor}"), format!("{each}s"));
        let words = ["stress-ng", &option, "1", "--timeout", &time, "--oomable", "--temp-path", "/tmp"];
        let args = [&["exec", STRESS, "--"], &words[..]].concat();
        let mut bystander = true;
        let mut refusal = String::new();
        for _ in 0..TRIES {
            let before = self.deaths().len();
            let output = plab(self.capsules.node, &args, Duration::from_secs(each) + GRACE * slowness())?;
            cleanup::check();
            let Some(output) = output else {
                self.revive(before, Some(stressor))?;
                return Ok(Ended::Overran);
            };
            if output.stderr.contains("the capsule went away") {
                self.revive(before, None)?;
                // The first time it may have been another lane's doing.
                if !std::mem::take(&mut bystander) {
                    return Ok(Ended::WithCapsule);
                }
            } else if let Some(ended) = judge(&output) {
                return Ok(ended);
            } else {
                refusal = output.stderr.trim().chars().take(160).collect();
                if self.capsules.down().is_some() {
                    self.revive(before, None)?;
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Ok(Ended::NotStarted(refusal))
    }

    fn deaths(&self) -> MutexGuard<'_, Vec<String>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the capsule anew: after a death, which plabd may be about to see, or because a stressor does not end.
    /// `before` is how many deaths there were when the caller's stressor began.
    fn revive(&self, before: usize, hung: Option<&str>) -> Result<(), Failure> {
        // Held meanwhile, so that one lane does it and the others find it done.
        let mut deaths = self.deaths();
        if deaths.len() > before {
            return Ok(());
        }
        let why = match hung {
            Some(stressor) => format!("restarted: {stressor} did not end"),
            None => self.cause(),
        };
        deaths.push(why);
        self.capsules.renew()
    }

    /// What plabd says of the capsule's end, as soon as it does.
    fn cause(&self) -> String {
        let begun = Instant::now();
        loop {
            match self.capsules.down() {
                // Other states are on the way to it.
                Some(why) if why.starts_with("failed") => return why,
                _ if begun.elapsed() > GRACE * slowness() => return "plabd does not say why".to_owned(),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
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
