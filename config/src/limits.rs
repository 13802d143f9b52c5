//! What a capsule may use of the node.

use serde::Serialize;

use crate::ValueError;
use crate::reader::Item;
use crate::units::{Bytes, CpuQuota, CpuWeight, TaskCount};

/// Processor time (4.3), in cgroup v2's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CpuLimits {
    /// The share when several capsules want the processors.
    pub weight: CpuWeight,
    /// The ceiling, also when nobody else wants them; none unless said.
    pub max: Option<CpuQuota>,
}

/// Memory, in cgroup v2's terms. Swap is always off: a capsule that swaps starves its neighbours' disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryLimits {
    /// Above this the capsule is slowed and its memory reclaimed; at most `max`; none unless said.
    pub high: Option<Bytes>,
    /// Above this the capsule is killed.
    pub max: Bytes,
}

impl MemoryLimits {
    /// The least `max` can be: with less, neither the capsule's init nor a shell can be relied on to start.
    pub const LEAST: Bytes = Bytes::mebi(8);
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TaskLimits {
    /// The most there may be at once.
    pub max: TaskCount,
}

/// A size of memory that a capsule can live in, from `item`.
pub(crate) fn read_memory(item: &Item<'_, '_>) -> Option<Bytes> {
    let size: Bytes = item.read()?;
    if size < MemoryLimits::LEAST {
        let least = MemoryLimits::LEAST;
        item.reject(&ValueError::because(
            crate::units::BYTES_EXPECTED,
            format!("a capsule needs at least {least}"),
        ));
        return None;
    }
    Some(size)
}
