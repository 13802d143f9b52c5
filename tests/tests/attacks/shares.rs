//! Taking more than one's share: bounded, and the neighbour does not notice.

use crate::case::Expect::{Errno, Works};
use crate::case::{Attack, Case, Place, Seen, Tried, attack};
use crate::stage::{HOG, Held, Stage};

/// The cases.
pub fn cases() -> Vec<Case> {
    let hog = |name: &str, against, line: &str, expect| -> Attack {
        attack(name, against, line, expect).at(Place::Hog).judge(neighbour_works)
    };
    vec![
        hog("fork-bomb", "everybody's processes", "forks 200", Errno(libc::EAGAIN)).into(),
        too_much("memory-hog", "memory 600"),
        too_much("memory-in-udp-sockets", "udp-memory 400"),
        hog("shared-memory-hog", "everybody's memory", "fill /dev/shm/plab-fill 300", Errno(libc::ENOSPC))
            .into(),
        hog("shared-memory-files", "everybody's memory", "files /dev/shm 80000", Errno(libc::ENOSPC)).into(),
        hog("descriptor-hog", "everybody's files", "descriptors 20010", Errno(libc::EMFILE))
            // Outside the limit is the machine's; what counts is that so many can be had where it is higher.
            .control("descriptors 1000")
            .into(),
        hog("inotify-hog", "everybody's watches", "inotify 1000", Errno(libc::EMFILE))
            .control("inotify 50")
            .into(),
        hog("signal-queue", "the kernel's memory", "signals 5000", Errno(libc::EAGAIN)).into(),
        hog("locked-memory", "everybody's memory", "lock-memory 16", Errno(libc::ENOMEM)).into(),
        pool("terminals-of-all", "terminals 6000", "terminals 1", "everybody's terminals"),
        pool("inotify-of-all", "inotify 1000", "inotify 1", "everybody's watches"),
        pool("asynchronous-io-of-all", "aio 200000", "aio 1", "everybody's databases"),
    ]
}

/// More memory than the slice has: the process is killed, or all of the capsule (which runs again on request).
/// Nothing else feels it.
fn too_much(name: &str, line: &'static str) -> Case {
    Case::of(name, "everybody's memory", move |stage| {
        let mut tried = Tried::default();
        let seen = stage.act(Place::Hog, &crate::case::words(line));
        let bounded = match &seen {
            Seen::Killed(signal) => *signal == libc::SIGKILL,
            Seen::Errno(error) => [libc::ENOMEM, libc::ENOBUFS].contains(error),
            // plabd hears of the end a moment after the client does.
            Seen::Nothing(_) => (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                stage.node.status(HOG)["state"] != "running"
            }),
            _ => false,
        };
        tried.check(bounded, format!("it came to {seen}"));
        if let Err(why) = neighbour_works(stage) {
            tried.wrong.push(why);
        }
        stage.revive(HOG);
        let shown = stage.act(Place::Root, &crate::case::words(line));
        tried.check(Works.is(&shown), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// While or after a slice took what it could, its neighbour forks, allocates and opens.
fn neighbour_works(stage: &Stage) -> Result<(), String> {
    stage.all_alive()?;
    stage.revive(HOG);
    for args in [["forks", "8"], ["memory", "8"], ["descriptors", "100"]] {
        let seen = stage.act(Place::Neighbour, &args.map(str::to_owned));
        if !Works.is(&seen) {
            return Err(format!("the neighbour's {args:?} came to {seen}"));
        }
    }
    Ok(())
}

/// One slice takes all it can of a pool that is the machine's, and holds it; another takes one thing.
fn pool(name: &str, all: &'static str, one: &'static str, against: &'static str) -> Case {
    Case::of(name, against, move |stage| {
        let mut tried = Tried::default();
        let mut args = crate::case::words(all);
        args.push("announce".into());
        let mut command = stage.command(Place::Hog, &args);
        command.stderr(std::process::Stdio::null());
        let held = Held::start(command);
        let shown = stage.act(Place::Neighbour, &crate::case::words(one));
        let outside = stage.act(Place::Nobody, &crate::case::words(one));
        // One that was killed for its memory held nothing any more, and nothing was shown.
        let took = held.map_or_else(|ended| ended, Held::release);
        stage.revive(HOG);
        // What is not given to slices at all cannot be used up either.
        let refused = matches!(took, Seen::Errno(libc::EPERM | libc::ENOSYS)) && shown == took;
        tried.check(
            Works.is(&shown) || refused,
            format!("it took all ({took}); the neighbour's one came to {shown}"),
        );
        tried.check(Works.is(&outside), format!("it took all ({took}); one outside came to {outside}"));
        tried.check(!Works.is(&took), format!("nothing bounded it: {took}"));
        (tried.inside, tried.control) = (took.to_string(), format!("neighbour: {shown}, host: {outside}"));
        tried
    })
}
