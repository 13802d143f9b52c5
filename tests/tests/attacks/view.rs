//! Against the view: namespaces, mounts, other roots.

use crate::case::Expect::Errno;
use crate::case::{Case, Place, attack};
use crate::stage::{ATTACKER, Stage};

/// Namespaces by the flag that makes one, and whether an ordinary user may.
const KINDS: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mount", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", 0x80),
];

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let mut cases = namespaces(stage);
    cases.extend(mounts(stage));
    cases
}

fn namespaces(stage: &Stage) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (name, flag) in KINDS {
        let place = if name == "user" { Place::Nobody } else { Place::Root };
        cases.push(
            attack(
                &format!("unshare-{name}"),
                "the capsule's namespaces",
                format!("unshare {flag}"),
                Errno(libc::EPERM),
            )
            .control_at(place)
            .into(),
        );
        // clone's flags have no room for time namespaces: those bits are the exit signal.
        if name != "time" {
            cases.push(
                attack(
                    &format!("clone-{name}"),
                    "the capsule's namespaces",
                    format!("clone {flag}"),
                    Errno(libc::EPERM),
                )
                .control_at(place)
                .into(),
            );
        }
    }
    cases.push(
        // 2^32 above the flag: a filter that compares all 64 bits would miss it where the kernel does not.
        attack(
            "clone-wide-flag",
            "a filter that compares too much",
            format!("clone {}", (1_i64 << 32) | i64::from(libc::CLONE_NEWUSER)),
            Errno(libc::EPERM),
        )
        .control_at(Place::Nobody)
        .into(),
    );
    cases.push(
        attack(
            "unshare-wide-flag",
            "a filter that compares too much",
            format!("unshare {}", (1_i64 << 32) | i64::from(libc::CLONE_NEWUSER)),
            Errno(libc::EPERM),
        )
        .control_at(Place::Nobody)
        .control_is(crate::case::Expect::Either(vec![crate::case::Expect::Works, Errno(libc::EINVAL)]))
        .into(),
    );
    cases.push(
        attack(
            "clone3-user",
            "flags where no filter looks",
            format!("clone3 {}", libc::CLONE_NEWUSER),
            Errno(libc::ENOSYS),
        )
        .control_at(Place::Nobody)
        .into(),
    );
    for kind in ["mnt", "pid", "net", "ipc", "user"] {
        cases.push(
            attack(
                &format!("setns-init-{kind}"),
                "the capsule's namespaces",
                format!("setns /proc/1/ns/{kind}"),
                Errno(libc::EACCES),
            )
            // Nobody joins the user namespace that it is in already.
            .control(format!("setns /proc/{}/ns/{kind}", stage.host_pid))
            .control_is(if kind == "user" { Errno(libc::EINVAL) } else { crate::case::Expect::Works })
            .into(),
        );
    }
    cases.push(
        attack("setns-self-net", "the filter on setns", "setns /proc/self/ns/net", Errno(libc::EPERM)).into(),
    );
    cases.push(
        attack(
            "setns-pidfd",
            "the capsule's namespaces",
            format!("setns-pidfd 1 {}", libc::CLONE_NEWNET),
            Errno(libc::EPERM),
        )
        .control(format!("setns-pidfd {} {}", stage.host_pid, libc::CLONE_NEWNET))
        .into(),
    );
    cases
}

fn mounts(stage: &Stage) -> Vec<Case> {
    let home = format!("/home/{ATTACKER}");
    let outside = stage.outside.display();
    let bind = libc::MS_BIND;
    let remount = libc::MS_REMOUNT | libc::MS_BIND;
    let what = "the capsule's view";
    let own = Place::RootOwnMounts;
    vec![
        attack("mount-tmpfs", what, format!("mount none {home} tmpfs 0"), Errno(libc::EPERM))
            .control_at(own)
            .control(format!("mount none {outside} tmpfs 0"))
            .into(),
        attack("mount-bind", what, format!("mount /usr {home} none {bind}"), Errno(libc::EPERM))
            .control_at(own)
            .control(format!("mount /usr {outside} none {bind}"))
            .into(),
        attack(
            "remount-system-writable",
            what,
            format!("mount none /usr none {remount}"),
            Errno(libc::EPERM),
        )
        .control_at(own)
        .control(format!("mount none /dev/shm none {remount}"))
        .into(),
        attack("mount-proc", what, format!("mount proc {home} proc 0"), Errno(libc::EPERM))
            .control_at(own)
            .control(format!("mount proc {outside} proc 0"))
            .into(),
        attack(
            "mount-cgroup",
            "the capsule's limits",
            format!("mount none {home} cgroup2 0"),
            Errno(libc::EPERM),
        )
        .control_at(own)
        .control(format!("mount none {outside} cgroup2 0"))
        .into(),
        attack("unmask-proc", what, "umount /proc/kallsyms", Errno(libc::EPERM))
            .control_at(own)
            .control("umount /dev/shm")
            .into(),
        attack("pivot-root", what, format!("pivot-root {home}"), Errno(libc::EPERM))
            .control_at(own)
            .control(format!("pivot-root {outside}"))
            .into(),
        attack("chroot", what, format!("chroot {home}"), Errno(libc::EPERM))
            .control(format!("chroot {outside}"))
            .into(),
        attack("fsopen", what, "fsopen tmpfs", Errno(libc::EPERM)).into(),
        attack("fspick", what, "fspick /dev/shm", Errno(libc::EPERM)).into(),
        attack("open-tree", what, format!("open-tree {home}"), Errno(libc::EPERM))
            .control_at(own)
            .control(format!("open-tree {outside}"))
            .into(),
        attack("move-mount", what, "move-mount /tmp /var/tmp", Errno(libc::EPERM))
            .control_at(own)
            .control(format!("move-mount {outside} {}", stage.shared.display()))
            .into(),
        attack("mount-setattr", what, "mount-setattr /usr", Errno(libc::EPERM))
            .control_at(own)
            .control("mount-setattr /dev/shm")
            .into(),
    ]
}
