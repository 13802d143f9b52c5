//! What the kernel says a process is held to, read from outside: layer 7, and `plab status --verify`.

use std::os::unix::fs::MetadataExt;

use procfs::ProcError;
use procfs::process::{Process, Status};

use crate::error::KernelError;
use crate::privileges::Kept;

/// One thing read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `namespaces`, `privileges`, `seccomp`.
    pub layer: &'static str,
    /// What is held.
    pub what: String,
    /// What was asked.
    pub asked: String,
    /// What is in force.
    pub in_force: String,
    /// Whether the two agree.
    pub ok: bool,
    /// The file that told.
    pub source: String,
}

/// Namespaces a capsule has for itself, by their names in `/proc/PID/ns`.
const OWN_NAMESPACES: [&str; 4] = ["mnt", "pid", "ipc", "cgroup"];

/// Reads back what capsule-init with this `pid` is held to.
///
/// # Errors
/// The process is gone, or `/proc` cannot be read.
pub fn process(pid: i32, uid: u32, kept: Kept) -> Result<Vec<Row>, KernelError> {
    let source = format!("/proc/{pid}/status");
    let failed = |error: ProcError| {
        KernelError::new("read back", &source, std::io::Error::other(error.to_string()))
            .hint("the process may have ended in the meantime; see the slice's events")
    };
    let status = Process::new(pid).and_then(|process| process.status()).map_err(failed)?;
    let mut rows = privileges(&status, uid, kept, &source);
    let adjustment = crate::oom::adjustment(&pid.to_string())?;
    rows.push(Row {
        layer: "privileges",
        what: "oom_score_adj".into(),
        asked: "0 or more".into(),
        in_force: adjustment.to_string(),
        ok: adjustment >= 0,
        source: format!("/proc/{pid}/oom_score_adj"),
    });
    for name in OWN_NAMESPACES {
        let source = format!("/proc/{pid}/ns/{name}");
        let look = |path: &str| std::fs::metadata(path).map(|meta| meta.ino());
        let (theirs, ours) = look(&source)
            .and_then(|theirs| Ok((theirs, look(&format!("/proc/self/ns/{name}"))?)))
            .map_err(|error| KernelError::new("look at", &source, error))?;
        rows.push(Row {
            layer: "namespaces",
            what: name.into(),
            asked: "own".into(),
            in_force: if theirs == ours { "the host's".into() } else { format!("own ({theirs})") },
            ok: theirs != ours,
            source,
        });
    }
    Ok(rows)
}

fn privileges(status: &Status, uid: u32, kept: Kept, source: &str) -> Vec<Row> {
    let row = |layer, what: &str, asked: String, in_force: String| Row {
        layer,
        what: what.into(),
        ok: asked == in_force,
        asked,
        in_force,
        source: source.into(),
    };
    let four = |a, b, c, d| format!("{a} {b} {c} {d}");
    let number = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    let kept = format!("{:x}", kept.mask());
    let groups = status.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    vec![
        row(
            "privileges",
            "uid",
            four(uid, uid, uid, uid),
            four(status.ruid, status.euid, status.suid, status.fuid),
        ),
        row(
            "privileges",
            "gid",
            four(uid, uid, uid, uid),
            four(status.rgid, status.egid, status.sgid, status.fgid),
        ),
        row("privileges", "groups", "none".into(), if groups.is_empty() { "none".into() } else { groups }),
        row("privileges", "capabilities permitted", kept.clone(), format!("{:x}", status.capprm)),
        row("privileges", "capabilities effective", "0".into(), format!("{:x}", status.capeff)),
        row("privileges", "capabilities inheritable", kept.clone(), format!("{:x}", status.capinh)),
        row(
            "privileges",
            "capabilities bounding",
            kept.clone(),
            status.capbnd.map_or_else(|| "unknown".into(), |set| format!("{set:x}")),
        ),
        row(
            "privileges",
            "capabilities ambient",
            kept,
            status.capamb.map_or_else(|| "unknown".into(), |set| format!("{set:x}")),
        ),
        row("privileges", "no_new_privs", "1".into(), number(status.nonewprivs)),
        row("seccomp", "mode", "2".into(), number(status.seccomp.map(u64::from))),
    ]
}

/// Mount points of a view that a slice may write below.
const WRITABLE: [&str; 6] = ["/home", "/tmp", "/var/tmp", "/dev/shm", "/dev/pts", "/proc"];

/// Reads back the mounts that a capsule sees: everything read-only but its own, nothing setuid, no device files
/// but in `/dev`.
///
/// # Errors
/// The process is gone, or `/proc` cannot be read.
pub fn view(pid: i32, slice: &str) -> Result<Vec<Row>, KernelError> {
    let source = format!("/proc/{pid}/mountinfo");
    let text = std::fs::read_to_string(&source)
        .map_err(|error| KernelError::new("read back the view of", slice, error))?;
    let mut rows = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (Some(at), Some(options)) = (fields.nth(4), fields.next()) else { continue };
        let has = |option: &str| options.split(',').any(|have| have == option);
        let mut asked = vec!["nosuid"];
        if !WRITABLE.contains(&at) {
            asked.push("ro");
        }
        if !at.starts_with("/dev") && !at.starts_with("/proc/") {
            asked.push("nodev");
        }
        // What covers a file of /proc is /dev/null or an empty directory, read-only, with the flags of its source.
        if at.starts_with("/proc/") {
            asked.retain(|option| *option == "ro");
        }
        rows.push(Row {
            layer: "view",
            what: at.into(),
            ok: asked.iter().all(|option| has(option)),
            asked: asked.join(","),
            in_force: options.into(),
            source: source.clone(),
        });
    }
    if rows.is_empty() {
        return Err(KernelError::new(
            "read back the view of",
            slice,
            std::io::Error::other("no mounts shown"),
        ));
    }
    Ok(rows)
}

/// When a process was started, in seconds since 1970; none if it is gone.
pub fn started_at(pid: i32) -> Option<i64> {
    use procfs::CurrentSI;
    // The kernel computes all of /proc/stat for this one line; it does not change while the machine is up.
    static BOOT: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();
    let ticks = Process::new(pid).and_then(|process| process.stat()).ok()?.starttime;
    let boot = (*BOOT.get_or_init(|| procfs::KernelStats::current().ok().map(|stats| stats.btime)))?;
    i64::try_from(boot + ticks / procfs::ticks_per_second()).ok()
}
