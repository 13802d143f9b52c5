//! Samples and their percentiles.

use serde::Serialize;

/// Measured values of one thing, in the order in which they came.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

/// What is kept of samples.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// 10th percentile.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The percentile by nearest rank; not a number without samples.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, percent)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// Everything that is kept.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| percentile(&sorted, percent);
        Summary {
            count: sorted.len(),
            min: at(0.0),
            p10: at(10.0),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            max: at(100.0),
            mean: sorted.iter().sum::<f64>() / as_f64(sorted.len()),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Extend<f64> for Samples {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        self.0.extend(values);
    }
}

/// By nearest rank.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * as_f64(sorted.len())).ceil();
    let mut index = 0;
    // No cast from a float: counts here are small.
    while as_f64(index + 1) < rank {
        index += 1;
    }
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// A count as a number to divide by. Exact up to 2^32, and counts here are below that.
pub fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 1.0, 50.0, 99.0, 100.0].map(|p| samples.percentile(p)),
            [1.0, 1.0, 50.0, 99.0, 100.0]
        );
        let three: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((three.median(), three.percentile(99.0)), (2.0, 3.0));
        assert!(Samples::default().median().is_nan());
    }
}
