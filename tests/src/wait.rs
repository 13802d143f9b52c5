//! Waiting for something to come true, with a bound: timings decide no test, only that it never came.

use std::time::{Duration, Instant};

/// How long anything may take before it is taken for never.
const NEVER: Duration = Duration::from_secs(60);

/// How many times slower than a real one this machine is, where its CPUs are emulated.
const SLOW: &str = "PLAB_TEST_SLOW";

/// How many times later than on a real machine something is late here; 1 unless the environment says so.
///
/// # Panics
/// What it says is no whole number.
pub fn slowness() -> u32 {
    std::env::var(SLOW).map_or(1, |slow| slow.parse().expect("PLAB_TEST_SLOW is a whole number"))
}

/// How often to do here what is done so many times on a real machine. With emulated CPUs a test would do nothing else for
/// minutes, and what it is about does not come of the number.
pub fn rounds(real: u32) -> u32 {
    real / slowness()
}

/// How long anything may take here before it is taken for never.
pub fn patience() -> Duration {
    NEVER * slowness()
}

/// Looks every few milliseconds until `what` gives a value; panics with `why` when it never does. Who takes long to look looks less
/// often, or on emulated CPUs there would be little else than looking.
///
/// # Panics
/// It did not come true.
pub fn eventually<T>(why: &str, what: impl FnMut() -> Option<T>) -> T {
    eventually_or(what, || why.to_owned())
}

/// As [`eventually`], for a reason that is only known at the end.
///
/// # Panics
/// It did not come true.
pub fn eventually_or<T>(mut what: impl FnMut() -> Option<T>, why: impl FnOnce() -> String) -> T {
    let (begun, never) = (Instant::now(), patience());
    loop {
        let looked = Instant::now();
        if let Some(value) = what() {
            return value;
        }
        assert!(begun.elapsed() < never, "never came true: {}", why());
        std::thread::sleep(Duration::from_millis(5).max(looked.elapsed() * 3));
    }
}
