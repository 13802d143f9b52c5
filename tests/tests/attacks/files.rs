//! Across slices and against the host, by files.

use crate::case::Expect::{Either, Errno, Gives, Works};
use crate::case::{Case, Expect, Place, Tried, attack};
use crate::stage::{ATTACKER, NEIGHBOUR, Stage};

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let mut cases = paths(stage);
    cases.extend(links(stage));
    cases.extend(devices_and_handles(stage));
    cases.extend(descriptors(stage));
    cases
}

fn paths(stage: &Stage) -> Vec<Case> {
    let root = stage.node.root().display();
    let secret = stage.home(NEIGHBOUR).join("secret").display().to_string();
    let pid = stage.neighbour_pid;
    let (wide, shared) = (stage.shared.join("wide"), stage.shared.display());
    let outside = stage.outside.display();
    vec![
        attack("read-neighbours-file", "a neighbour's data", format!("read {secret}"), Errno(libc::ENOENT))
            .into(),
        attack(
            "list-neighbours-home",
            "a neighbour's data",
            format!("list /home/{NEIGHBOUR}"),
            Errno(libc::ENOENT),
        )
        .control(format!("list {}", stage.home(NEIGHBOUR).display()))
        .into(),
        attack(
            "home-for-another",
            "a neighbour's name",
            format!("mkdir /home/{NEIGHBOUR}"),
            Errno(libc::EACCES),
        )
        .control(format!("mkdir {outside}/made"))
        .into(),
        attack(
            "move-own-home",
            "the view",
            format!("rename /home/{ATTACKER} /home/{NEIGHBOUR}"),
            Errno(libc::EACCES),
        )
        .control(format!("rename {outside}/made {outside}/moved"))
        .into(),
        attack(
            "neighbour-by-proc-root",
            "a neighbour's data",
            format!("list /proc/{pid}/root"),
            Errno(libc::ENOENT),
        )
        .into(),
        attack(
            "neighbour-by-proc-cwd",
            "a neighbour's data",
            format!("read /proc/{pid}/cwd/secret"),
            Errno(libc::ENOENT),
        )
        .into(),
        attack(
            "neighbours-environment",
            "a neighbour's data",
            format!("read /proc/{pid}/environ"),
            Errno(libc::ENOENT),
        )
        .into(),
        attack("host-shadow", "the host's passwords", "read /etc/shadow", Errno(libc::ENOENT)).into(),
        attack(
            "ledger-inside",
            "the node's ledger",
            format!("read {root}/var/lib/planetlab/ledger.sqlite"),
            Errno(libc::ENOENT),
        )
        .into(),
        attack(
            "definitions-inside",
            "the node's configuration",
            format!("read {root}/etc/planetlab/node.toml"),
            Errno(libc::ENOENT),
        )
        .into(),
        attack(
            "write-system-directory",
            "the host's programs",
            "create /usr/bin/plab-attack",
            Errno(libc::EROFS),
        )
        .control(format!("create {outside}/created"))
        .into(),
        attack(
            "write-wide-file-in-view",
            "the read-only view",
            format!("overwrite {} pwned", wide.display()),
            Errno(libc::EROFS),
        )
        .judge(Stage::files_unchanged)
        .control_at(Place::Nobody)
        .control(format!("open-write {}", wide.display()))
        .into(),
        attack(
            "create-in-wide-directory",
            "the read-only view",
            format!("create {shared}/pwned"),
            Errno(libc::EROFS),
        )
        .control_at(Place::Nobody)
        .into(),
        attack(
            "wide-file-outside-view",
            "the host's files",
            format!("open-write {outside}/wide"),
            Errno(libc::ENOENT),
        )
        .control_at(Place::Nobody)
        .into(),
        attack(
            "host-shared-memory",
            "the host's shared memory",
            format!("read /dev/shm/{}", stage.host_name),
            Errno(libc::ENOENT),
        )
        .control_at(Place::Nobody)
        .into(),
        attack(
            "neighbours-shared-memory",
            "a neighbour's shared memory",
            format!("read /dev/shm/{}", stage.neighbour_name),
            Errno(libc::ENOENT),
        )
        .control(format!("read /proc/{pid}/root/dev/shm/{}", stage.neighbour_name))
        .into(),
        attack(
            "write-synthetic-passwd",
            "who is who inside",
            "open-write /run/planetlab/passwd",
            Errno(libc::EACCES),
        )
        .control(format!("open-write {root}/var/lib/planetlab/slices/{ATTACKER}/identity/passwd"))
        .into(),
        // The net is shared and so is this list; what a neighbour is called need not be in it.
        attack(
            "neighbours-name-in-socket-list",
            "who the neighbours are",
            format!("find-in /proc/net/unix {NEIGHBOUR}"),
            Errno(libc::ENODATA),
        )
        .control("find-in /proc/net/unix planetlab/control.sock")
        .into(),
        attack("make-device-directory", "the capsule's /dev", "create /dev/plab-attack", Errno(libc::EROFS))
            .control(format!("create {outside}/created-too"))
            .into(),
    ]
}

fn links(stage: &Stage) -> Vec<Case> {
    let (wide, outside) =
        (stage.shared.join("wide").display().to_string(), stage.outside.display().to_string());
    vec![
        attack(
            "hard-link-to-hosts-file",
            "the host's files",
            format!("link {wide} mine"),
            Errno(libc::EXDEV),
        )
        .control(format!("link {wide} {outside}/linked"))
        .into(),
        attack("hard-link-to-setuid", "the host's files", "link /usr/bin/passwd mine", Errno(libc::EXDEV))
            .control(format!("link {}/setuid {outside}/linked-setuid", stage.shared.display()))
            .into(),
        attack("remove-hosts-file", "the host's files", format!("unlink {wide}"), Errno(libc::EROFS))
            .judge(Stage::files_unchanged)
            .control(format!("unlink {outside}/linked"))
            .into(),
        attack(
            "give-file-away",
            "a neighbour's quota",
            format!("chown attacker {}", stage.uid(NEIGHBOUR)),
            Errno(libc::EPERM),
        )
        .control(format!("chown {outside}/created 0"))
        .into(),
        attack(
            "file-capability",
            "the host's capabilities",
            "setxattr attacker security.capability",
            Errno(libc::EPERM),
        )
        .control(format!("setxattr {outside}/created security.capability"))
        .into(),
        attack(
            "trusted-attribute",
            "the host's trusted attributes",
            "setxattr attacker trusted.plab",
            Errno(libc::EPERM),
        )
        .control(format!("setxattr {outside}/created trusted.plab"))
        .into(),
        attack("immutable-file", "removal of the slice's storage", "immutable attacker", Errno(libc::EPERM))
            .control(format!("immutable {outside}/created"))
            .into(),
        attack("where-on-disk", "the disk's layout", "bmap attacker", Errno(libc::EPERM))
            .control(format!("bmap {outside}/attacker"))
            .into(),
        attack("lease-on-hosts-file", "the host's writers", format!("lease {wide}"), Errno(libc::EACCES))
            .into(),
    ]
}

fn devices_and_handles(stage: &Stage) -> Vec<Case> {
    let outside = stage.outside.display();
    vec![
        attack("make-disk", "the host's disk", "mknod disk b 254 0", Errno(libc::EPERM))
            .control(format!("mknod {outside}/disk b 254 0"))
            .into(),
        attack("make-memory-device", "the host's memory", "mknod mem c 1 1", Errno(libc::EPERM))
            .control(format!("mknod {outside}/mem c 1 1"))
            .into(),
        attack("open-by-handle", "every file of the disk", "by-handle attacker", Errno(libc::EPERM))
            .control(format!("by-handle {outside}/attacker"))
            .into(),
        attack("kernel-log-device", "the host's kernel log", "read /dev/kmsg", Errno(libc::ENOENT)).into(),
        attack("host-console", "the host's console", "open-write /dev/tty0", Errno(libc::ENOENT))
            .control_is(Either(vec![Works, Errno(libc::ENXIO), Errno(libc::EIO)]))
            .into(),
        attack("kernel-messages", "the host's kernel log", "read /proc/kmsg", Gives("0 bytes"))
            .control("syslog")
            .into(),
        attack("kernel-symbols", "the kernel's addresses", "read /proc/kallsyms", Gives("0 bytes")).into(),
        attack("keys-of-all", "others' keys", "read /proc/key-users", Gives("0 bytes")).into(),
        attack("timers-of-all", "others' timers", "read /proc/timer_list", Gives("0 bytes")).into(),
        attack(
            "core-pattern",
            "a program of root's for every crash",
            "open-write /proc/sys/kernel/core_pattern",
            Errno(libc::EACCES),
        )
        .into(),
        attack(
            "host-name-by-proc",
            "the host's name",
            "open-write /proc/sys/kernel/hostname",
            Errno(libc::EACCES),
        )
        .into(),
        attack(
            "forwarding",
            "the host's network",
            "open-write /proc/sys/net/ipv4/ip_forward",
            Errno(libc::EACCES),
        )
        .into(),
        attack(
            "interrupt-affinity",
            "the host's interrupts",
            "open-write /proc/irq/default_smp_affinity",
            Errno(libc::EACCES),
        )
        .into(),
        attack(
            "cpu-offline",
            "the host's processors",
            "open-write /sys/devices/system/cpu/cpu1/online",
            Errno(libc::EACCES),
        )
        .into(),
        attack(
            "cgroup-files",
            "the capsule's limits",
            "open-write /sys/fs/cgroup/unified/cgroup.procs",
            Errno(libc::ENOENT),
        )
        .control_is(Either(vec![Works, Errno(libc::ENOENT)]))
        .control(format!("open-write {}", cgroup_procs()))
        .into(),
        attack(
            "oom-shield",
            "the order in which the kernel kills",
            "overwrite /proc/self/oom_score_adj -1000",
            Errno(libc::EACCES),
        )
        .control("overwrite /proc/self/oom_score_adj 500")
        .into(),
        attack("user-map", "the capsule's user", "overwrite /proc/self/uid_map 0", Errno(libc::EPERM))
            .control("overwrite /proc/self/oom_score_adj 500")
            .into(),
    ]
}

/// The file that puts a process into the top cgroup, wherever this machine has the v2 tree.
fn cgroup_procs() -> &'static str {
    let unified = "/sys/fs/cgroup/unified/cgroup.procs";
    if std::path::Path::new(unified).exists() { unified } else { "/sys/fs/cgroup/cgroup.procs" }
}

/// Descriptors that a careless caller hands in, or that leaked.
fn descriptors(stage: &Stage) -> Vec<Case> {
    let mut cases = Vec::new();
    let outside = stage.outside.clone();
    let leaked = outside.clone();
    cases.push(Case::of("leaked-descriptors", "what the node has open", move |stage| {
        let mut tried = Tried::default();
        let seen = stage.act(Place::Capsule, &["inherited".into()]);
        tried.check(Errno(libc::EBADF).is(&seen), format!("the attack came to {seen}"));
        // The control has one more open, and finds it.
        let output = std::process::Command::new("bash")
            .args(["-c", "exec 9</dev/null; exec \"$0\" inherited"])
            .arg(leaked.join("attacker"))
            .output()
            .expect("run bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        tried.check(text.contains("9"), format!("the control came to {text}"));
        (tried.inside, tried.control) = (seen.to_string(), "works: finds its own".into());
        tried
    }));
    for (name, args, what) in [
        ("read-below-directory-stdin", vec!["open-at", "0", "wide"], "a directory as standard input"),
        (
            "create-below-directory-stdin",
            vec!["create-at", "0", "made-below"],
            "a directory as standard input",
        ),
        ("run-below-directory-stdin", vec!["exec-at", "0", "true"], "a directory as standard input"),
        ("climb-from-directory-stdin", vec!["open-at", "0", ".."], "a directory as standard input"),
    ] {
        let directory = outside.clone();
        // It does not get in at all.
        let expect = Errno(libc::ENOTDIR);
        cases.push(with_stdin(name, what, args, expect, move || {
            std::fs::File::open(&directory).expect("open a directory")
        }));
    }
    let wide = outside.join("wide");
    let mut case = with_stdin(
        "cut-file-behind-stdin",
        "a read-only file as standard input",
        vec!["reopen", "0"],
        Errno(libc::EACCES),
        move || std::fs::File::open(&wide).expect("open"),
    );
    let run = case.run;
    case.run = Box::new(move |stage| {
        let mut tried = run(stage);
        std::fs::write(stage.outside.join("wide"), "as it was\n").expect("put the file back");
        tried.check(stage.files_unchanged().is_ok(), "a file changed");
        tried
    });
    cases.push(case);
    cases
}

/// An attack with this as its standard input; the control is an ordinary user outside with the same.
fn with_stdin(
    name: &str,
    against: &'static str,
    args: Vec<&'static str>,
    expect: Expect,
    open: impl Fn() -> std::fs::File + 'static,
) -> Case {
    Case::of(name, against, move |stage| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut tried = Tried::default();
        let run = |place| stage.act_with(place, &args, open().into(), std::process::Stdio::piped());
        let seen = run(Place::Capsule);
        tried.check(expect.is(&seen), format!("the attack came to {seen}, not to {expect}"));
        let shown = run(Place::Nobody);
        tried.check(Works.is(&shown), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}
