//! Somebody who asks to get out several times at once means it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many times the way out must be taken, and within what time.
const INSISTENCE: usize = 3;
const INSISTENCE_TIME: Duration = Duration::from_secs(1);

/// The times at which somebody asked to get out.
#[derive(Debug, Default)]
pub struct Insistence(VecDeque<Instant>);

impl Insistence {
    /// Whether this was the last of enough in short enough a time.
    pub fn enough(&mut self, now: Instant) -> bool {
        self.0.push_back(now);
        self.0.retain(|&then| now.duration_since(then) <= INSISTENCE_TIME);
        self.0.len() >= INSISTENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insisting_takes_three_in_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut insistence = Insistence::default();
        assert!(!insistence.enough(at(0)) && !insistence.enough(at(900)) && !insistence.enough(at(1100)));
        assert!(insistence.enough(at(1800)));
    }
}
