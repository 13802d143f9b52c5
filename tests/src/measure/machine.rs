//! What the figures were measured on.

use serde_json::{Value, json};

/// Kernel, processors, memory, how cgroups are arranged.
pub fn facts() -> Value {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let uname = rustix::system::uname();
    json!({
        "kernel": uname.release().to_string_lossy(),
        "cpus": cpus,
        "cpu": cpu.unwrap_or("unknown"),
        "memory_kib": memory,
        "cgroups": cgroups(),
    })
}

/// `v2`, or `hybrid` with the controllers that are on v1.
fn cgroups() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let on_v1 = |controller: &str| {
        let v1 = mounts.lines().filter_map(|line| line.split_once(" - cgroup ")).map(|(_, right)| right);
        v1.filter_map(|right| right.split(' ').nth(1))
            .any(|options| options.split(',').any(|option| option == controller))
    };
    let v1: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|controller| on_v1(controller)).collect();
    if v1.is_empty() { "v2".to_owned() } else { format!("hybrid (v1: {})", v1.join(", ")) }
}

/// How busy the machine was with everything that runs on it.
pub fn load() -> Value {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut words = text.split(' ');
    json!({ "one_minute": words.next(), "five_minutes": words.next() })
}
