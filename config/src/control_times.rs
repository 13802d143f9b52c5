//! How long hooks may take, and how often the node asks.

use serde::Serialize;

use crate::ValueError;
use crate::reader::{Item, Section};
use crate::units::TimeSpan;

/// The times the node keeps to when it runs a slice's hooks (4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ControlTimes {
    /// How long `configure` may run before it is killed; 5 min unless said.
    pub configure_limit: TimeSpan,
    /// How often `status` is run; every 60 s unless said.
    pub status_interval: TimeSpan,
    /// How long `status` may run before it is killed; 10 s unless said.
    pub status_limit: TimeSpan,
    /// How long after `stop` was started the capsule is killed; 10 s unless said. Zero kills at once.
    pub stop_grace: TimeSpan,
}

impl Default for ControlTimes {
    fn default() -> Self {
        Self {
            configure_limit: TimeSpan::from_secs(300),
            status_interval: TimeSpan::from_secs(60),
            status_limit: TimeSpan::from_secs(10),
            stop_grace: TimeSpan::from_secs(10),
        }
    }
}

/// A hook's limit below this would kill hooks on a busy node that did nothing wrong; an interval below it would
/// be a load of its own.
const SHORTEST: TimeSpan = TimeSpan::from_millis(100);
/// Longer than this is a mistaken unit.
const LONGEST: TimeSpan = TimeSpan::from_secs(24 * 3_600);
/// The node waits this long for a slice when it is itself being shut down.
const LONGEST_GRACE: TimeSpan = TimeSpan::from_secs(3_600);

impl ControlTimes {
    /// Reads the times that `section` says; the others are as in `default`.
    pub(crate) fn read(section: &mut Section<'_, '_>, default: ControlTimes) -> ControlTimes {
        let mut time = |key, shortest, longest, default| {
            section.take(key).and_then(|item| read_between(&item, shortest, longest)).unwrap_or(default)
        };
        ControlTimes {
            configure_limit: time("configure_limit", SHORTEST, LONGEST, default.configure_limit),
            status_interval: time("status_interval", SHORTEST, LONGEST, default.status_interval),
            status_limit: time("status_limit", SHORTEST, LONGEST, default.status_limit),
            stop_grace: time("stop_grace", TimeSpan::from_millis(0), LONGEST_GRACE, default.stop_grace),
        }
    }
}

fn read_between(item: &Item<'_, '_>, shortest: TimeSpan, longest: TimeSpan) -> Option<TimeSpan> {
    let span: TimeSpan = item.read()?;
    if span < shortest || span > longest {
        item.reject(&ValueError::expected(format!("a time from \"{shortest}\" to \"{longest}\"")));
        return None;
    }
    Some(span)
}
