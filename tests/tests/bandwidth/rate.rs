//! How much comes in what time, on a machine that may be busy with something else.

use std::iter::Sum;
use std::time::{Duration, Instant};

/// A limit's promise: what is measured is within this part of it.
const TOLERANCE: f64 = 0.05;
/// What a share may differ by, as a part of an equal one; the promise of the sum is the closer one.
const FAIR: f64 = 0.15;
/// So often a machine that was busy is given another chance; a limit that does not hold fails all of them.
const CHANCES: usize = 4;
/// How long each measurement lasts, in seconds.
pub const SECONDS: u32 = 6;

/// Bytes so far, and between what moments they were asked for: that takes long on emulated processors.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    bytes: f64,
    asked: Instant,
    answered: Instant,
}

impl Count {
    /// Several counts of one answer.
    pub fn all(ask: impl FnOnce() -> Vec<f64>) -> Vec<Self> {
        let asked = Instant::now();
        let counts = ask();
        let answered = Instant::now();
        counts.into_iter().map(|bytes| Self { bytes, asked, answered }).collect()
    }
}

/// Between what a rate lies, in bits a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    least: f64,
    most: f64,
}

impl Rate {
    /// Between two counts.
    pub fn between(before: Count, after: Count) -> Self {
        let bits = (after.bytes - before.bytes) * 8.0;
        let over = |from: Instant, to: Instant| bits / to.duration_since(from).as_secs_f64();
        Self { least: over(before.asked, after.answered), most: over(before.answered, after.asked) }
    }

    /// One that was told.
    pub fn of(rate: f64) -> Self {
        Self { least: rate, most: rate }
    }

    /// Whether it is surely more.
    pub fn exceeds(self, rate: f64) -> bool {
        self.least > rate
    }
}

impl Sum for Rate {
    fn sum<I: Iterator<Item = Self>>(rates: I) -> Self {
        rates.fold(Self::default(), |sum, rate| Self {
            least: sum.least + rate.least,
            most: sum.most + rate.most,
        })
    }
}

/// The rates at which counts grow while the test waits.
pub fn growing(count: impl Fn() -> Vec<Count>) -> Vec<Rate> {
    let before = count();
    std::thread::sleep(Duration::from_secs(SECONDS.into()));
    before.into_iter().zip(count()).map(|(before, after)| Rate::between(before, after)).collect()
}

/// Measures until it is within the tolerance.
pub fn within(what: &str, rate: f64, mut measure: impl FnMut() -> Rate) {
    for _ in 0..CHANCES {
        let Rate { least, most } = measure();
        println!("{what}: {:.3} to {:.3} Mbit/s of {:.3}", least / 1e6, most / 1e6, rate / 1e6);
        if least <= rate * (1.0 + TOLERANCE) && most >= rate * (1.0 - TOLERANCE) {
            return;
        }
    }
    panic!("{what}: allowed are {rate:.0} bit/s, there was never that");
}

/// Asserts that these have the same, but for a part of it that is `FAIR`; measures again with `again` if they have not, since
/// a sender that the processors were not given to cannot send.
pub fn fair(what: &str, mut shares: Vec<Rate>, mut again: impl FnMut() -> Vec<Rate>) {
    for _ in 0..CHANCES {
        // All were asked for at once, so any moment serves to compare them.
        let rates: Vec<f64> = shares.iter().map(|share| share.most).collect();
        println!("{what}: {:.3?} Mbit/s", rates.iter().map(|rate| rate / 1e6).collect::<Vec<_>>());
        let equal = rates.iter().sum::<f64>() / f64::from(u8::try_from(rates.len()).expect("few"));
        if rates.iter().all(|rate| (rate - equal).abs() <= FAIR * equal) {
            return;
        }
        shares = again();
    }
    panic!("{what}: unequal shares");
}
