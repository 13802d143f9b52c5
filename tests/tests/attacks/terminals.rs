//! Against whoever sits at a terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use plab_protocol::{channel, control, session};

use crate::case::Expect::{Either, Errno, Gives, Works};
use crate::case::{Case, Place, Seen, Tried, attack};
use crate::stage::{ATTACKER, Stage};

/// Commands of ioctl(2) that type for another, and both with a bit that the kernel does not look at.
const COMMANDS: [(&str, u64); 4] = [
    ("tiocsti", libc::TIOCSTI),
    ("tiocsti-wide", libc::TIOCSTI + (1 << 32)),
    ("tioclinux", libc::TIOCLINUX),
    ("tioclinux-wide", libc::TIOCLINUX + (1 << 32)),
];

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (name, command) in COMMANDS {
        // Only a text console knows TIOCLINUX; other terminals answer that they do not.
        let control = Either(vec![Works, Errno(libc::ENOTTY)]);
        cases.push(
            attack(name, "one's own terminal", format!("tty-ioctl {command} own 10"), Errno(libc::EPERM))
                .control_is(control)
                .into(),
        );
        cases.push(on_administrators_terminal(name, command));
        cases.push(in_session(name, command));
    }
    cases.push(reopen_administrators_terminal());
    cases.push(take_administrators_terminal());
    cases
}

/// A terminal of the machine, as an administrator's: the side that is the screen and keyboard, and the other.
fn terminal() -> (OwnedFd, std::fs::File) {
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
        .expect("openpt");
    rustix::pty::grantpt(&master).expect("grantpt");
    rustix::pty::unlockpt(&master).expect("unlockpt");
    let name = rustix::pty::ptsname(&master, Vec::new()).expect("ptsname").into_string().expect("text");
    let slave = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(name)
        .expect("open the terminal");
    (master, slave)
}

/// `plab exec` without a terminal of its own, run at an administrator's.
fn on_administrators_terminal(name: &str, command: u64) -> Case {
    Case::of(format!("{name}-administrator"), "the administrator's terminal", move |stage| {
        let mut tried = Tried::default();
        let (master, slave) = terminal();
        let args = ["tty-ioctl".to_owned(), command.to_string(), "stdin".into(), "88".into()];
        let run = |place| {
            stage.act_with(place, &args, slave.try_clone().expect("dup").into(), std::process::Stdio::piped())
        };
        let seen = run(Place::Capsule);
        tried.check(Errno(libc::EPERM).is(&seen), format!("the attack came to {seen}, not to EPERM"));
        let shown = run(Place::Root);
        let known = Either(vec![Works, Errno(libc::ENOTTY)]);
        tried.check(known.is(&shown), format!("the control came to {shown}"));
        drop(master);
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// The same in a session with a terminal, as `plab shell` makes one; through the protocol itself.
fn in_session(name: &str, command: u64) -> Case {
    Case::of(format!("{name}-session"), "the session's terminal", move |stage| {
        let mut tried = Tried::default();
        let command = command.to_string();
        let said = said_in_session(stage, &["./attacker", "tty-ioctl", &command, "stdin", "88"]);
        tried.check(said.contains("\"EPERM\""), format!("the attack came to {said}"));
        // The control: the same terminal does what it may do, its window size, from within.
        let shown = said_in_session(stage, &["stty", "size"]);
        tried.check(shown.contains("33 99"), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (said.trim().to_owned(), format!("its size: {}", shown.trim()));
        tried
    })
}

/// What a command in a capsule says to its terminal.
fn said_in_session(stage: &Stage, argv: &[&str]) -> String {
    let (near, far) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("socketpair");
    let request = control::Envelope {
        v: plab_protocol::VERSION,
        request: control::Request::Exec(control::Exec {
            slice: ATTACKER.to_owned(),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: std::collections::BTreeMap::new(),
            tty: Some(control::WindowSize { rows: 33, cols: 99 }),
            login: None,
            agent: false,
        }),
    };
    let stream = std::os::unix::net::UnixStream::connect(stage.socket()).expect("connect");
    let line = serde_json::to_string(&request).expect("JSON") + "\n";
    channel::send(&stream, line.as_bytes(), &[far.as_fd()]).expect("send");
    drop(far);
    let mut buffer = vec![0; plab_protocol::MAX_DATAGRAM];
    let (_, mut fds) = channel::receive(&near, &mut buffer).expect("the session's first word");
    let Some(master) = fds.pop() else { return "no terminal came".to_owned() };
    let mut said = Vec::new();
    // Ends with an error once the last who had the terminal is gone.
    while let Ok(length) = rustix::io::read(&master, &mut buffer[..]) {
        if length == 0 {
            break;
        }
        said.extend(&buffer[..length]);
    }
    let word =
        channel::receive(&near, &mut buffer).map(|(length, _)| serde_json::from_slice(&buffer[..length]));
    if let Ok(Ok(session::FromSession::Failed { what, .. })) = word {
        said.extend(what.as_bytes());
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// From the descriptor back to the device: with another way of opening it, to write on the administrator's screen, or
/// to read what is typed there.
fn reopen_administrators_terminal() -> Case {
    Case::of("reopen-administrators-terminal", "the administrator's terminal", |stage| {
        let mut tried = Tried::default();
        let (master, slave) = terminal();
        let device = slave.metadata().expect("fstat").rdev();
        let device = format!("device {}:{}", libc::major(device), libc::minor(device));
        let run = |place| {
            let stdin = slave.try_clone().expect("dup").into();
            let args = ["reopen", "0", "forged"].map(str::to_owned);
            stage.act_with(place, &args, stdin, std::process::Stdio::piped())
        };
        // Standard input is the pipe that plab puts in the terminal's place. That may be opened: it is the command's.
        let seen = run(Place::Capsule);
        tried.check(Gives("no device").is(&seen), format!("the attack came to {seen}"));
        tried.check(!on_screen(&master).contains("forged"), "it wrote on the administrator's screen");
        let shown = run(Place::Root);
        tried.check(
            matches!(&shown, Seen::Worked(opened) if *opened == device),
            format!("the control came to {shown}, not to {device}"),
        );
        tried.check(on_screen(&master).contains("forged"), "the control did not write on the screen");
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// What was written to a terminal since the last look.
fn on_screen(master: &OwnedFd) -> String {
    rustix::io::ioctl_fionbio(master, true).expect("no blocking");
    let mut buffer = [0; 4096];
    let length = match rustix::io::read(master, &mut buffer) {
        Ok(length) => length,
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(error) => panic!("read the screen: {error}"),
    };
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// TIOCSCTTY with force: the administrator's session would lose its terminal.
fn take_administrators_terminal() -> Case {
    Case::of("take-administrators-terminal", "the administrator's terminal", |stage| {
        let mut tried = Tried::default();
        let (_master, slave) = terminal();
        // A session whose terminal it is.
        let mut owner = std::process::Command::new("setsid")
            .args(["--ctty", "sleep", "30"])
            .stdin(slave.try_clone().expect("dup"))
            .spawn()
            .expect("start setsid");
        let mut sessions = || owner_has_terminal(&mut owner).then_some(());
        plab_tests::eventually("the terminal has an owner", &mut sessions);
        let run = |place| {
            let stdin = slave.try_clone().expect("dup").into();
            stage.act_with(place, &["take-terminal".to_owned()], stdin, std::process::Stdio::piped())
        };
        let seen = run(Place::Capsule);
        // It does not get in at all: what a command has as standard input is a pipe.
        tried.check(Errno(libc::ENOTTY).is(&seen), format!("the attack came to {seen}, not to ENOTTY"));
        tried.check(owner_has_terminal(&mut owner), "the owner lost its terminal");
        let shown: Seen = run(Place::Root);
        tried.check(Works.is(&shown), format!("the control came to {shown}"));
        // It may have been hung up by the control.
        let _ = owner.kill();
        owner.wait().expect("wait");
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// Whether a process has a controlling terminal: field 7 of its stat.
fn owner_has_terminal(owner: &mut std::process::Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", owner.id())).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(4)).is_some_and(|terminal| terminal != "0")
}
