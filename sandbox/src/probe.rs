//! What this kernel offers, by asking it: for `plab check` and for refusing early what could not be held.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupTree, ControllerVersion};
use crate::landlock_rules::{IOCTL_SINCE, NEWEST_KNOWN, SCOPES_SINCE, kernel_abi};
use crate::net::{NetworkGuard, Tracking};

/// How a feature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeState {
    /// There.
    Present,
    /// Not there; capsules run, with less.
    Degraded,
    /// Not there; definitions that ask for what it makes safe are refused.
    Restricted,
    /// Not there; no capsule starts.
    Missing,
}

/// One feature of the kernel or the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// Its name; where the node file's `degrade` can name it, the name used there.
    pub feature: String,
    /// What a capsule gets by it.
    pub needed_for: String,
    /// How it stands.
    pub state: ProbeState,
    /// What was found.
    pub found: String,
    /// What to do about it, if something.
    pub advice: Option<String>,
}

/// What a definition's limits need and some kernels lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// `memory.high` (cgroup v2 only).
    pub memory_high: bool,
    /// Memory and swap limited together.
    pub memory_swap: bool,
    /// The kernel kills the group as a whole; where not, plabd does on the kernel's event.
    pub memory_oom_group: bool,
    /// Landlock's ABI; 0 for none.
    pub landlock_abi: i32,
    /// BPF programs that hold ports and opt-outs.
    pub network_bpf: bool,
}

impl Offered {
    /// Asks the kernel. Whether the BPF programs could be loaded, `network_bpf`, is known to who has loaded them.
    pub fn probe(tree: &CgroupTree, network_bpf: bool) -> Self {
        let v2 = tree.memory_version() == ControllerVersion::V2;
        Self {
            memory_high: v2,
            memory_swap: tree.limits_swap() || no_swap(),
            memory_oom_group: v2,
            landlock_abi: kernel_abi(),
            network_bpf,
        }
    }
}

fn no_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() <= 1)
}

/// Asks for everything that `plab check` shows. `tree_name` names the cgroup directory to probe with; it is
/// removed again unless a node uses it.
pub fn report(tree_name: &str) -> Vec<ProbeRow> {
    let mut rows = Vec::new();
    let mut row = |feature: &str, needed_for: &str, state, found: String, advice: Option<&str>| {
        rows.push(ProbeRow {
            feature: feature.into(),
            needed_for: needed_for.into(),
            state,
            found,
            advice: advice.map(str::to_owned),
        });
    };
    let root = rustix::process::geteuid().is_root();
    row(
        "root",
        "making capsules",
        if root { ProbeState::Present } else { ProbeState::Missing },
        format!("UID {}", rustix::process::geteuid().as_raw()),
        (!root).then_some("run plabd, and this check, as root"),
    );
    match CgroupTree::open(tree_name, None) {
        Ok(tree) => {
            let v2 = tree.memory_version() == ControllerVersion::V2;
            row(
                "cgroups",
                "CPU, memory and task limits, freeze, kill",
                ProbeState::Present,
                if v2 { "v2" } else { "hybrid: limits on v1, kill and freeze on v2" }.into(),
                None,
            );
            let by = |present| if present { ProbeState::Present } else { ProbeState::Degraded };
            let guard = NetworkGuard::load(&tree);
            let offered = Offered::probe(&tree, guard.is_ok());
            row(
                "network.bpf",
                "ports as property, opt-outs, the node's services out of reach",
                by(offered.network_bpf),
                guard.map_or_else(|error| error.to_string(), |_| "the programs load".into()),
                (!offered.network_bpf).then_some("a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_JIT; without it Landlock holds TCP ports only"),
            );
            row("memory.high", "slowing a capsule down before it is killed", by(offered.memory_high), if v2 { "memory controller on v2" } else { "memory controller on v1" }.into(), (!v2).then_some("boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or leave `high` out of definitions"));
            row(
                "memory.oom-group",
                "a capsule out of memory dies as a whole",
                by(offered.memory_oom_group),
                if v2 { "by the kernel" } else { "by plabd, on the kernel's event" }.into(),
                (!v2).then_some("boot with cgroup v2 to have the kernel do it"),
            );
            row(
                "memory.swap",
                "a capsule cannot use swap",
                by(offered.memory_swap),
                if tree.limits_swap() {
                    "limited with memory"
                } else if no_swap() {
                    "no swap on this machine"
                } else {
                    "swap is on and not limited"
                }
                .into(),
                (!offered.memory_swap).then_some("boot with swapaccount=1, or turn swap off"),
            );
            // An error here means capsules are running, and then it is not ours to remove.
            tree.remove_bases().ok();
        }
        Err(error) => row(
            "cgroups",
            "CPU, memory and task limits, freeze, kill",
            ProbeState::Missing,
            error.to_string(),
            Some("mount the cgroup hierarchies; see cgroups(7)"),
        ),
    }
    let tracking = Tracking::look();
    let untracked = matches!(tracking, Ok(None));
    row(
        "network.untracked",
        "`raw`: nothing remembers what is sent before it can be refused",
        if untracked { ProbeState::Present } else { ProbeState::Restricted },
        match tracking {
            Ok(None) => "no firewall tracks connections".into(),
            Ok(Some(how)) => how.to_string(),
            Err(error) => error.to_string(),
        },
        (!untracked)
            .then_some("a firewall without connection tracking (`ct`, `nat`), or no definition with `raw`"),
    );
    let abi = kernel_abi();
    row(
        "landlock.abi",
        "file-system rules below the mounts",
        if abi >= 1 { ProbeState::Present } else { ProbeState::Missing },
        format!("ABI {abi}, used: {}", abi.min(NEWEST_KNOWN)),
        (abi < 1).then_some("boot with lsm=landlock,… in the kernel command line"),
    );
    row(
        "landlock.scope",
        "no abstract sockets and no signals across capsules",
        if abi >= SCOPES_SINCE { ProbeState::Present } else { ProbeState::Degraded },
        format!("ABI {abi}, needed: {SCOPES_SINCE}"),
        (abi < SCOPES_SINCE).then_some("kernel 6.12 or newer"),
    );
    row(
        "landlock.ioctl",
        "no ioctl on devices beyond its own terminals",
        if abi >= IOCTL_SINCE { ProbeState::Present } else { ProbeState::Degraded },
        format!("ABI {abi}, needed: {IOCTL_SINCE}"),
        (abi < IOCTL_SINCE).then_some("kernel 6.10 or newer"),
    );
    for (name, needed_for) in [
        ("mnt", "the view"),
        ("pid", "processes of its own"),
        ("ipc", "System V IPC of its own"),
        ("cgroup", "not seeing the node's cgroups"),
    ] {
        let present = Path::new("/proc/self/ns").join(name).exists();
        row(
            &format!("namespace {name}"),
            needed_for,
            if present { ProbeState::Present } else { ProbeState::Missing },
            if present { "yes" } else { "no" }.into(),
            (!present).then_some("a kernel built with this namespace"),
        );
    }
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let seccomp = actions.contains("kill_process") && actions.contains("errno");
    row(
        "seccomp",
        "the system call profile",
        if seccomp { ProbeState::Present } else { ProbeState::Missing },
        if seccomp { "kill_process, errno" } else { "actions missing" }.into(),
        (!seccomp).then_some("a kernel with CONFIG_SECCOMP_FILTER"),
    );
    let mounts = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    row(
        "mount API",
        "building views",
        if mounts.is_ok() { ProbeState::Present } else { ProbeState::Missing },
        mounts.map_or_else(|error| error.to_string(), |_| "fsopen works".into()),
        None,
    );
    let syslog = Path::new("/dev/log").exists();
    row(
        "audit",
        "the audit trail in syslog",
        if syslog { ProbeState::Present } else { ProbeState::Degraded },
        if syslog { "/dev/log" } else { "no /dev/log" }.into(),
        (!syslog).then_some("run a syslog daemon; until then the trail is in plabd's own event log only"),
    );
    rows
}
