//! Numbers of processes and threads.

use std::fmt;
use std::str::FromStr;

use crate::ValueError;

/// What a task limit looks like, for error messages.
pub(crate) const EXPECTED: &str = "a whole number from 4 to 4194304";

/// The most processes and threads a capsule may have at once (cgroup v2's `pids.max`).
///
/// At least 4: the capsule's own init takes one, a shell script another, the command it runs and that
/// command's pipe partner the rest; with fewer, not even a `status` hook could answer. At most 4194304, the
/// kernel's own ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TaskCount(u32);

impl TaskCount {
    /// A task limit.
    ///
    /// # Errors
    /// Not from 4 to 4194304.
    pub fn new(count: u32) -> Result<Self, ValueError> {
        match count {
            0..4 => {
                Err(ValueError::because(EXPECTED, "init, a shell and a pipe of two commands need 4 tasks"))
            }
            4..=4_194_304 => Ok(Self(count)),
            _ => Err(ValueError::because(EXPECTED, "the kernel has no more process numbers than that")),
        }
    }

    /// The limit in tasks.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for TaskCount {
    fn default() -> Self {
        Self(128)
    }
}

impl TryFrom<u32> for TaskCount {
    type Error = ValueError;

    fn try_from(count: u32) -> Result<Self, ValueError> {
        Self::new(count)
    }
}

impl From<TaskCount> for u32 {
    fn from(count: TaskCount) -> u32 {
        count.get()
    }
}

impl FromStr for TaskCount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError::expected(EXPECTED)).and_then(Self::new)
    }
}

impl fmt::Display for TaskCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capsule_needs_a_few_tasks() {
        assert!(TaskCount::new(3).is_err());
        assert_eq!(TaskCount::new(4).map(TaskCount::get), Ok(4));
        assert!(TaskCount::new(4_194_305).is_err());
    }
}
