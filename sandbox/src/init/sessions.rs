//! Commands for clients: started here, answered over the session socket that the client made.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use plab_protocol::MAX_DATAGRAM;
use plab_protocol::channel;
use plab_protocol::control::WindowSize;
use plab_protocol::session::{FromSession, ToSession};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::Winsize;

use super::agent::AgentSocket;
use super::launch::{Launch, Standard};
use crate::message::{Exec, bounded};

/// Sessions at the same time: past this a capsule's owner has lost count, and PID 1 keeps its descriptors.
const MAX_SESSIONS: usize = 256;

/// From the client's hanging up to the kill of what is left of its session.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

struct Session {
    pid: Pid,
    socket: OwnedFd,
    /// Set once the client has gone.
    kill_at: Option<Instant>,
    /// Goes with the session.
    _agent: Option<AgentSocket>,
}

/// The commands running now.
pub(super) struct Sessions {
    sessions: Vec<Session>,
    env: Vec<CString>,
}

impl Sessions {
    pub(super) fn new(env: Vec<CString>) -> Self {
        Self { sessions: Vec::new(), env }
    }

    pub(super) fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Starts a command; failures are told to the client.
    pub(super) fn start(&mut self, exec: &Exec, mut fds: Vec<OwnedFd>) {
        let due = if exec.tty.is_some() { 1 } else { 4 };
        if fds.len() != due {
            return;
        }
        let standard = fds.split_off(1);
        let Some(socket) = fds.pop() else { return };
        // The client may be slow or hostile; PID 1 never waits for it.
        if rustix::io::ioctl_fionbio(&socket, true).is_err() {
            return;
        }
        match self.launch(exec, &standard, &socket) {
            Ok((pid, agent)) => self.sessions.push(Session { pid, socket, kill_at: None, _agent: agent }),
            Err((errno, what)) => {
                tell(&socket, &FromSession::Failed { errno: errno.raw_os_error(), what: bounded(what) }, &[]);
            }
        }
    }

    fn launch(
        &self,
        exec: &Exec,
        standard: &[OwnedFd],
        socket: &OwnedFd,
    ) -> Result<(Pid, Option<AgentSocket>), (Errno, String)> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err((Errno::AGAIN, format!("start a command: {MAX_SESSIONS} sessions are open")));
        }
        let invalid = |what: &str| (Errno::INVAL, format!("{what} holds a NUL byte"));
        let shell = [String::from("/bin/bash"), String::from("-l")];
        let words = if exec.argv.is_empty() { &shell[..] } else { &exec.argv[..] };
        let argv: Vec<CString> = words
            .iter()
            .map(|word| CString::new(word.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("an argument"))?;
        let mut env = self.env.clone();
        for (key, value) in &exec.env {
            let pair = CString::new(format!("{key}={value}")).map_err(|_| invalid("a variable"))?;
            let prefix = format!("{key}=");
            env.retain(|have| !have.as_bytes().starts_with(prefix.as_bytes()));
            env.push(pair);
        }
        let agent = if exec.agent { offer_agent(&mut env, socket) } else { None };
        let launch = |env: &[CString], standard| {
            Launch { program: &argv[0], argv: &argv, env, standard, search: true }
                .start()
                .map_err(|errno| (errno, format!("execute {}", words[0])))
        };
        if let Some(size) = exec.tty {
            let (master, path) = terminal(size).map_err(|errno| (errno, "open a terminal".to_owned()))?;
            name_terminal(&mut env, &path);
            let pid = launch(&env, Standard::Terminal(&path))?;
            tell(socket, &FromSession::Running, &[master.as_fd()]);
            // Only the client holds the master now: when it goes, the kernel hangs the session up.
            Ok((pid, agent))
        } else {
            let [input, output, error] = standard else {
                return Err((Errno::BADF, "take standard descriptors".into()));
            };
            let pid = launch(&env, Standard::Fds([input.as_fd(), output.as_fd(), error.as_fd()]))?;
            Ok((pid, agent))
        }
    }

    /// Tells whoever sits at a session; a client that does not read misses it.
    pub(super) fn notice(&self, text: &str) {
        let notice = FromSession::Notice { text: bounded(text.to_owned()) };
        self.sessions.iter().for_each(|session| tell(&session.socket, &notice, &[]));
    }

    /// A child has ended; says whether it was a session's.
    pub(super) fn ended(&mut self, pid: Pid, how: &FromSession) -> bool {
        let Some(position) = self.sessions.iter().position(|session| session.pid == pid) else {
            return false;
        };
        let session = self.sessions.swap_remove(position);
        tell(&session.socket, how, &[]);
        true
    }

    /// The sockets to poll: those whose client has not gone.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sessions.iter().filter(|session| session.kill_at.is_none()).map(|session| session.socket.as_fd())
    }

    /// Serves what the clients say; they are the slice's own user or root, but as bounded as anyone.
    pub(super) fn read(&mut self, now: Instant) {
        let mut buffer = [0; 4096];
        const { assert!(4096 <= MAX_DATAGRAM) };
        for session in self.sessions.iter_mut().filter(|session| session.kill_at.is_none()) {
            for _ in 0..16 {
                match channel::receive(&session.socket, &mut buffer) {
                    Ok((0, _)) => {
                        session.kill_at = Some(now + HANGUP_GRACE);
                        // The session may be ending this moment; then its end is on the way.
                        kill_process_group(session.pid, Signal::HUP).ok();
                        break;
                    }
                    Ok((n, _)) => {
                        if let Ok(ToSession::Signal { number }) = serde_json::from_slice(&buffer[..n]) {
                            signal(session.pid, number);
                        }
                    }
                    Err(_) => break,
                }
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sessions.iter().filter_map(|session| session.kill_at).min()
    }

    /// Ends what stayed after its client had gone.
    pub(super) fn expire(&mut self, now: Instant) {
        for session in &mut self.sessions {
            if session.kill_at.is_some_and(|at| at <= now) {
                session.kill_at = Some(now + HANGUP_GRACE);
                kill_process_group(session.pid, Signal::KILL).ok();
            }
        }
    }
}

/// Makes the socket for the client's ssh agent and sends its listening end. Without room for it in `/tmp` the session
/// begins all the same: somebody has to be able to come in and make some.
fn offer_agent(env: &mut Vec<CString>, socket: &OwnedFd) -> Option<AgentSocket> {
    match AgentSocket::make() {
        Ok((agent, listener)) => {
            env.push(agent.variable());
            tell(socket, &FromSession::Agent { problem: None }, &[listener.as_fd()]);
            Some(agent)
        }
        Err(errno) => {
            let problem = Some(format!("make a socket for it in /tmp: {errno}"));
            tell(socket, &FromSession::Agent { problem }, &[]);
            None
        }
    }
}

/// A login's `SSH_TTY` names the terminal that the command has, which is not the one that sshd made.
fn name_terminal(env: &mut [CString], path: &CString) {
    const NAME: &[u8] = b"SSH_TTY=";
    let named = [NAME, path.as_bytes()].concat();
    for pair in env.iter_mut().filter(|pair| pair.as_bytes().starts_with(NAME)) {
        // The path came from a C string: it holds no NUL.
        *pair = CString::new(named.clone()).unwrap_or_default();
    }
}

fn signal(pid: Pid, number: i32) {
    // SAFETY: kill(2) with a number that may be invalid, which it then says; the group is our own child's, or
    // gone: children are reaped by this thread only, so the number cannot be another's yet.
    unsafe { libc::kill(-pid.as_raw_nonzero().get(), number) };
}

fn tell(socket: &OwnedFd, what: &FromSession, fds: &[BorrowedFd<'_>]) {
    if let Ok(bytes) = serde_json::to_vec(what) {
        // A client that has gone, or that does not read, has lost its interest in the answer.
        channel::send(socket, &bytes, fds).ok();
    }
}

/// A new pseudo-terminal of this capsule's own devpts: its master, and the path of its slave.
fn terminal(size: WindowSize) -> Result<(OwnedFd, CString), Errno> {
    let master =
        openat(CWD, "/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let path = rustix::pty::ptsname(&master, Vec::new())?;
    rustix::termios::tcsetwinsize(
        &master,
        Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 },
    )?;
    Ok((master, path))
}
