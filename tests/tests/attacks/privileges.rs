//! Against the capsule's identity and its system call filter.

use crate::case::Expect::{Either, Errno, Killed, Works};
use crate::case::{Case, Place, attack};
use crate::stage::Stage;

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let shared = stage.shared.display().to_string();
    let mut cases: Vec<Case> = vec![
        attack("setuid-root", "root", "setuid 0", Errno(libc::EPERM)).into(),
        attack(
            "setuid-neighbour",
            "a neighbour's files",
            format!("setuid {}", stage.uid(crate::stage::NEIGHBOUR)),
            Errno(libc::EPERM),
        )
        .into(),
        attack("setgid-root", "root's group", "setgid 0", Errno(libc::EPERM)).into(),
        attack("setgroups", "other groups", "setgroups", Errno(libc::EPERM)).into(),
        attack("capset", "capabilities", "capset", Errno(libc::EPERM)).into(),
        attack("ambient-capability", "capabilities", "ambient", Errno(libc::EPERM)).into(),
        attack("securebits", "capabilities", "securebits", Errno(libc::EPERM)).into(),
        attack(
            "raise-core-limit",
            "the capsule's limits",
            format!("raise-limit {} 1000000", libc::RLIMIT_CORE),
            Errno(libc::EPERM),
        )
        .into(),
        attack(
            "raise-descriptor-limit",
            "the capsule's limits",
            format!("raise-limit {} 20001", libc::RLIMIT_NOFILE),
            Errno(libc::EPERM),
        )
        .control(format!("raise-limit {} 1024", libc::RLIMIT_NOFILE))
        .into(),
        attack("nice-below-zero", "the neighbours' processor time", "priority -5", Errno(libc::EACCES))
            .into(),
        attack("real-time", "the neighbours' processor time", "real-time", Errno(libc::EPERM)).into(),
        attack("real-time-disk", "the neighbours' disk time", "io-priority", Errno(libc::EPERM)).into(),
        attack("read-implies-exec", "the memory's protections", "personality 0x0400000", Errno(libc::EPERM))
            .control_at(Place::Nobody)
            .into(),
        attack(
            "rewrite-call-after-entry",
            "a filter that looks too early",
            format!("rewrite-call {} {}", libc::SYS_unshare, libc::CLONE_NEWUSER),
            Errno(libc::EPERM),
        )
        .control_at(Place::Nobody)
        .into(),
    ];
    for (name, file) in [("setuid-file", "setuid"), ("capable-file", "capable")] {
        cases.push(started_from(name, format!("{shared}/{file}")));
    }
    if cfg!(target_arch = "x86_64") {
        cases.push(
            attack("32-bit-entry", "a filter by 64-bit numbers", "int80", Killed(libc::SIGSYS))
                .control_at(Place::Nobody)
                .into(),
        );
        cases.push(x32());
    }
    cases
}

/// A kernel without this entry answers as the filter may, so only success is telling.
fn x32() -> Case {
    Case::of("x32-numbers", "a filter by 64-bit numbers", |stage| {
        let mut tried = crate::case::Tried::default();
        let seen = stage.act(Place::Capsule, &["x32".into()]);
        let held = Either(vec![Killed(libc::SIGSYS), Errno(libc::ENOSYS)]);
        tried.check(held.is(&seen), format!("the attack came to {seen}"));
        let shown = stage.act(Place::Nobody, &["x32".into()]);
        tried.check(
            Either(vec![Works, Errno(libc::ENOSYS)]).is(&shown),
            format!("the control came to {shown}"),
        );
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// The actor started from a file that makes whoever starts it more than he is.
fn started_from(name: &str, file: String) -> Case {
    Case::of(name, "root", move |stage| {
        let mut tried = crate::case::Tried::default();
        let inside = stage.node.exec(crate::stage::ATTACKER, &[&file, "effective"]);
        tried.check(
            inside.stdout.contains("EPERM"),
            format!("the attack came to {} {}", inside.stdout, inside.stderr),
        );
        let outside = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", &file, "effective"])
            .output()
            .expect("run setpriv");
        let shown = String::from_utf8_lossy(&outside.stdout).into_owned();
        tried.check(shown.contains("\"ok\""), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (inside.stdout.trim().into(), shown.trim().into());
        tried
    })
}
