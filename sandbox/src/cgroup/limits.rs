//! What a capsule may use, as asked and as the kernel has it.

/// The limits of one capsule. Every field is written to the kernel each time, also "no limit", so that what a
/// former user of the directory left cannot survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Share of CPU time under contention, 1 to 10,000; cgroup v2's `cpu.weight`.
    pub cpu_weight: u32,
    /// Microseconds of CPU time in each period of 100 ms; none for no limit.
    pub cpu_max_micros: Option<u64>,
    /// Bytes above which the kernel throttles and reclaims; none for no such limit.
    pub memory_high: Option<u64>,
    /// Bytes above which the whole capsule is killed.
    pub memory_max: u64,
    /// Processes and threads.
    pub tasks_max: u32,
}

/// One limit, asked and read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The limit's name in cgroup v2's terms, such as `memory.max`.
    pub what: &'static str,
    /// What was asked, in the file's own terms.
    pub asked: String,
    /// What the file says.
    pub in_force: String,
    /// Whether that is what was asked, after the kernel's own rounding.
    pub ok: bool,
    /// The file.
    pub source: String,
}
