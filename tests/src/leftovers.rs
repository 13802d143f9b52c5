//! What a node may leave behind on the machine: nothing.

use std::path::{Path, PathBuf};

use plab_sandbox::cgroup::tree_name;

/// Everything found that a node with this root and these UIDs left, in words; empty when it is clean.
///
/// # Panics
/// `/proc` or the cgroup file system cannot be read.
pub fn of_node(root: &Path, uids: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let mut found = cgroups(&tree_name(root));
    found.extend(processes(uids));
    let shown = root.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    found.extend(mounts.lines().filter(|line| line.contains(&shown)).map(|line| format!("mount {line}")));
    found
}

/// Directories called `name` at the top of any cgroup hierarchy, and theirs.
fn cgroups(name: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut found = Vec::new();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let at: PathBuf = line.split(' ').nth(4).unwrap_or_default().into();
        let base = at.join(name);
        if base.is_dir() {
            found.push(format!("cgroup {}", base.display()));
            let inner = std::fs::read_dir(&base).into_iter().flatten().flatten();
            found.extend(
                inner
                    .filter(|entry| entry.path().is_dir())
                    .map(|entry| format!("cgroup {}", entry.path().display())),
            );
        }
    }
    found
}

/// Processes of these UIDs, wherever they are.
pub fn processes(uids: std::ops::RangeInclusive<u32>) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // The directory's owner is root for an undumpable process; status has the real IDs.
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        // Ended, and waiting for the machine's init to take notice.
        if status.lines().any(|line| line.starts_with("State:\tZ")) {
            continue;
        }
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()?.parse::<u32>().ok());
        let owner = entry.metadata().map(|meta| meta.uid()).unwrap_or(0);
        if uid.is_some_and(|uid| uids.contains(&uid)) || uids.contains(&owner) {
            let command = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("process {name} of UID {} ({})", uid.unwrap_or(owner), command.trim()));
        }
    }
    found
}
