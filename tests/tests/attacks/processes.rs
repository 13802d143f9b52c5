//! Across slices and against the host and PID 1, by processes.

use crate::case::Expect::{Errno, Works};
use crate::case::{Case, Place, Tried, attack};
use crate::stage::{ATTACKER, HOG, Stage};

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let mut cases = others(stage);
    cases.extend(pid_one(stage));
    for (name, resource, low) in
        [("cpu-limit-on-init", libc::RLIMIT_CPU, 1), ("descriptor-limit-on-init", libc::RLIMIT_NOFILE, 3)]
    {
        // Where this works it may cost the capsule: not the one that the other cases need.
        let host = stage.host_pid;
        cases.push(
            attack(name, "PID 1 of the capsule", format!("prlimit 1 {resource} {low}"), Errno(libc::EPERM))
                .at(Place::Hog)
                .judge(|stage| {
                    let runs = stage.node.exec(HOG, &["true"]).code == 0;
                    stage.node.plab(&["restart", HOG]).ok();
                    if runs { Ok(()) } else { Err("the capsule runs no commands any more".into()) }
                })
                .control_at(Place::Nobody)
                .control(format!("prlimit {host} {resource} 1000"))
                .into(),
        );
    }
    cases.push(kill_everything());
    cases.push(outlive());
    cases.push(restart_while_forking());
    cases
}

fn others(stage: &Stage) -> Vec<Case> {
    let (neighbour, host, node) = (stage.neighbour_pid, stage.host_pid, stage.node.daemon_pid());
    let init = stage.init_pid(crate::stage::NEIGHBOUR);
    vec![
        attack("kill-neighbour", "a neighbour's process", format!("kill {neighbour} 9"), Errno(libc::ESRCH))
            .judge(Stage::all_alive)
            .control(format!("kill {neighbour} 0"))
            .into(),
        attack("kill-neighbours-init", "a neighbour's capsule", format!("kill {init} 9"), Errno(libc::ESRCH))
            .judge(Stage::all_alive)
            .control(format!("kill {init} 0"))
            .into(),
        attack("kill-host-process", "the host", format!("kill {host} 9"), Errno(libc::ESRCH))
            .judge(Stage::all_alive)
            .control(format!("kill {host} 0"))
            .into(),
        attack("stop-plabd", "the node", format!("kill {node} 19"), Errno(libc::ESRCH))
            .judge(Stage::all_alive)
            .control(format!("kill {node} 0"))
            .into(),
        attack("tgkill-plabd", "the node", format!("tgkill {node} 9"), Errno(libc::ESRCH))
            .judge(Stage::all_alive)
            .control(format!("tgkill {node} 0"))
            .into(),
        attack(
            "pidfd-of-neighbour",
            "a neighbour's process",
            format!("pidfd-signal {neighbour} 9"),
            Errno(libc::ESRCH),
        )
        .judge(Stage::all_alive)
        .control(format!("pidfd-signal {neighbour} 0"))
        .into(),
        attack(
            "trace-neighbour",
            "a neighbour's process",
            format!("ptrace-attach {neighbour}"),
            Errno(libc::ESRCH),
        )
        .control(format!("ptrace-attach {host}"))
        .into(),
        attack(
            "limit-neighbour",
            "a neighbour's process",
            format!("prlimit {neighbour} {} 0", libc::RLIMIT_CORE),
            Errno(libc::ESRCH),
        )
        .control_at(Place::Nobody)
        .control(format!("prlimit {host} {} 0", libc::RLIMIT_CORE))
        .into(),
        attack("read-plabds-memory", "the node", format!("vm-read {node}"), Errno(libc::ESRCH))
            .control_is(crate::case::Expect::Either(vec![Works, Errno(libc::EFAULT)]))
            .into(),
    ]
}

/// PID 1 holds nothing back from its own UID but by being undumpable and PID 1.
fn pid_one(stage: &Stage) -> Vec<Case> {
    let pid = stage.init_pid(ATTACKER);
    let host = stage.host_pid;
    let alive = move |stage: &Stage| stage.init_alive(ATTACKER, pid);
    let what = "PID 1 of the capsule";
    let mut cases = vec![
        attack("trace-init", what, "ptrace-attach 1", Errno(libc::EPERM))
            .judge(alive)
            .control(format!("ptrace-attach {host}"))
            .into(),
        attack("seize-init", what, "ptrace-seize 1", Errno(libc::EPERM))
            .judge(alive)
            .control(format!("ptrace-seize {host}"))
            .into(),
        attack("read-inits-memory", what, "vm-read 1", Errno(libc::EPERM))
            .control(format!("vm-read {host}"))
            .control_is(crate::case::Expect::Either(vec![Works, Errno(libc::EFAULT)]))
            .into(),
        attack("write-inits-memory", what, "vm-write 1", Errno(libc::EPERM))
            .judge(alive)
            .control(format!("vm-write {host}"))
            .control_is(crate::case::Expect::Either(vec![Works, Errno(libc::EFAULT)]))
            .into(),
        attack("take-inits-descriptor", "the node's socket", "pidfd-getfd 1 3", Errno(libc::EPERM))
            .control(format!("pidfd-getfd {host} 0"))
            .into(),
        attack("compare-with-init", what, "kcmp 1", Errno(libc::ENOSYS))
            .control(format!("kcmp {host}"))
            .into(),
        attack("locate-inits-pages", what, "move-pages 1", Errno(libc::ENOSYS))
            .control(format!("move-pages {host}"))
            .into(),
    ];
    for file in ["environ", "mem", "maps", "auxv", "stack", "syscall"] {
        cases.push(
            attack(&format!("init-{file}"), what, format!("read /proc/1/{file}"), Errno(libc::EACCES))
                .control(format!("read /proc/{host}/{}", if file == "mem" { "maps" } else { file }))
                .into(),
        );
    }
    for link in ["exe", "root", "cwd", "fd/0"] {
        cases.push(
            attack(
                &format!("init-{}", link.replace('/', "-")),
                what,
                format!("readlink /proc/1/{link}"),
                Errno(libc::EACCES),
            )
            .control(format!("readlink /proc/{host}/{link}"))
            .into(),
        );
    }
    cases.push(
        attack("inits-descriptors", what, "list /proc/1/fd", Errno(libc::EACCES))
            .control(format!("list /proc/{host}/fd"))
            .into(),
    );
    cases.push(
        attack("inits-oom-score", what, "overwrite /proc/1/oom_score_adj 1000", Errno(libc::EACCES))
            .control(format!("overwrite /proc/{host}/oom_score_adj 10"))
            .into(),
    );
    for (name, signal) in [
        ("kill-init", libc::SIGKILL),
        ("stop-init", libc::SIGSTOP),
        ("end-init", libc::SIGTERM),
        ("abort-init", libc::SIGABRT),
        ("real-time-signal-init", 40),
    ] {
        cases.push(signal_init(name, signal, pid));
    }
    cases
}

/// The kernel takes the signal and drops it: nothing must have happened. Outside, the same ends or stops a process.
fn signal_init(name: &str, signal: i32, pid: u64) -> Case {
    Case::of(name, "PID 1 of the capsule", move |stage| {
        let mut tried = Tried::default();
        let seen = stage.act(Place::Capsule, &["kill".into(), "1".into(), signal.to_string()]);
        if let Err(why) = stage.init_alive(ATTACKER, pid) {
            tried.wrong.push(why);
        }
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("start sleep");
        let shown = stage.act(Place::Root, &["kill".into(), child.id().to_string(), signal.to_string()]);
        if signal == libc::SIGSTOP {
            let state = || {
                std::fs::read_to_string(format!("/proc/{}/stat", child.id()))
                    .unwrap_or_default()
                    .contains(") T ")
            };
            plab_tests::eventually("sleep is stopped", || state().then_some(()));
            child.kill().expect("kill");
        }
        use std::os::unix::process::ExitStatusExt;
        let ended = child.wait().expect("wait").signal();
        let wanted = if signal == libc::SIGSTOP { libc::SIGKILL } else { signal };
        tried.check(ended == Some(wanted), format!("the control came to {shown}: signal {ended:?}"));
        (tried.inside, tried.control) =
            (format!("{seen}, and nothing happens"), format!("ends or stops it ({signal})"));
        tried
    })
}

/// `kill -9 -1`, in a capsule that can bear it.
fn kill_everything() -> Case {
    Case::of("kill-everything", "everybody", |stage| {
        let mut tried = Tried::default();
        let pid = stage.init_pid(HOG);
        let mine = stage
            .node
            .sh(HOG, "setsid sleep 100 >/dev/null 2>&1 </dev/null & sleep 0.1; ./attacker kill -1 9");
        let uid = stage.uid(HOG);
        let gone = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            crate::stage::process_of(uid, "sleep").is_none()
        });
        tried.check(gone, "the control: its own process lives on");
        if let Err(why) = stage.init_alive(HOG, pid) {
            tried.wrong.push(why);
        }
        (tried.inside, tried.control) =
            (format!("exit {}: only its own end", mine.code), "its own end".into());
        tried
    })
}

/// A daemon that has left everything, when the capsule is started again.
fn outlive() -> Case {
    Case::of("outlive-the-capsule", "the end of a capsule", |stage| {
        let mut tried = Tried::default();
        let seen = stage.act(Place::Hog, &["daemon".into(), "daemon.pid".into(), "60".into()]);
        let uid = stage.uid(HOG);
        let pid = plab_tests::eventually("the daemon runs", || crate::stage::process_of(uid, "attacker"));
        stage.node.plab(&["restart", HOG]).ok();
        tried.check(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            format!("{pid} outlived its capsule ({seen})"),
        );
        // Outside nothing ends it but its own time.
        let file = stage.outside.join("daemon.pid");
        let shown = stage.act(Place::Nobody, &["daemon".into(), file.display().to_string(), "20".into()]);
        let outside: i32 = plab_tests::eventually("the daemon outside runs", || {
            std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok())
        });
        let control = stage.act(Place::Root, &["kill".into(), outside.to_string(), "9".into()]);
        tried
            .check(Works.is(&control), format!("the control did not outlive its parent: {shown}, {control}"));
        (tried.inside, tried.control) = ("gone with its capsule".into(), "outlives its parent".into());
        tried
    })
}

/// The kill must win against a capsule that makes processes as fast as it can.
fn restart_while_forking() -> Case {
    Case::of("fork-faster-than-the-kill", "the end of a capsule", |stage| {
        let mut tried = Tried::default();
        let mut command = stage.command(Place::Hog, &["children".into(), "20".into()]);
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("start");
        let uid = stage.uid(HOG);
        plab_tests::eventually("children are born", || crate::stage::process_of(uid, "attacker"));
        let begun = std::time::Instant::now();
        let restarted = stage.node.plab(&["restart", HOG]);
        let took = begun.elapsed();
        tried.check(restarted.code == 0, format!("restart: {}", restarted.stderr));
        tried.check(took.as_secs() < 10, format!("restart took {took:?}"));
        tried.check(crate::stage::process_of(uid, "attacker").is_none(), "something of it lives on");
        child.wait().expect("wait");
        let shown = stage.act(Place::Nobody, &["children".into(), "1".into()]);
        tried.check(Works.is(&shown), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (format!("ended in {took:.1?}"), shown.to_string());
        tried
    })
}
