//! The loop of capsule-init: one thread, poll(2), everything bounded a turn.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use plab_control_scripts::HookOutcome;
use plab_protocol::session::FromSession;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::control_watch::ControlWatch;
use super::hooks::Hooks;
use super::sessions::Sessions;
use super::setup::Capsule;
use crate::message::{self, FromInit, PROTOCOL, State, ToInit};

/// Where programs are looked up, in the capsule as in `/etc/profile` of a Debian user.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

pub(super) struct Reactor {
    /// plabd's present connection.
    link: Option<OwnedFd>,
    listener: OwnedFd,
    children: SignalFd,
    control: ControlWatch,
    hooks: Hooks,
    sessions: Sessions,
    birthmark: String,
    configured: bool,
    going: bool,
    last_run_id: u64,
    /// The state that plabd was told last; it is told again when it differs.
    told: Option<State>,
    buffer: Vec<u8>,
}

impl Reactor {
    /// Takes over a finished setup and says so to plabd.
    pub(super) fn new(link: OwnedFd, capsule: Capsule, buffer: Vec<u8>) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(NixSignal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // posix_spawnp(3) looks programs up in this process's own PATH.
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("PATH", PATH) };
        let env = environment(&capsule)?;
        let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::ioctl_fionbio(&capsule.listener, true)?;
        message::send(&link, &FromInit::Ready { protocol: PROTOCOL }, &[])?;
        rustix::io::ioctl_fionbio(&link, true)?;
        Ok(Self {
            link: Some(link),
            listener: capsule.listener,
            children,
            control: ControlWatch::new(capsule.home),
            hooks: Hooks::new(env.clone(), null),
            sessions: Sessions::new(env),
            birthmark: capsule.birthmark,
            configured: false,
            going: false,
            last_run_id: 0,
            told: None,
            buffer,
        })
    }

    /// Serves until plabd goes before it said go; else for as long as the capsule is not killed.
    pub(super) fn run(&mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => continue,
                Err(_) => return,
            };
            let mut news = ready.needs_report;
            if ready.children {
                news |= self.reap();
            }
            if ready.link {
                match self.serve_link() {
                    Some(said) => news |= said,
                    None => return,
                }
            }
            if ready.listener {
                self.accept();
            }
            if ready.sessions {
                self.sessions.read(Instant::now());
            }
            if ready.control {
                self.control.read_events();
            }
            if ready.outputs {
                self.hooks.read_outputs();
            }
            let now = Instant::now();
            self.hooks.expire(now);
            self.sessions.expire(now);
            let settled = self.control.settled(now);
            if let Some(hooks) = &settled {
                self.hooks.touched(hooks);
            }
            if self.going {
                // What has ended is told before anything that follows from it is begun: whoever sees `start` at work may end
                // this capsule, and the success of `configure` must be known by then.
                if news {
                    self.report();
                }
                if self.hooks.advance(&self.control) || settled.is_some() {
                    self.report();
                }
            }
        }
    }

    fn wait(&mut self) -> Result<Ready, Errno> {
        let now = Instant::now();
        let deadline = [self.hooks.deadline(), self.sessions.deadline(), self.control.deadline()]
            .into_iter()
            .flatten()
            .min();
        let timeout = deadline.map(|at| {
            let left = at.saturating_duration_since(now);
            rustix::event::Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = Vec::with_capacity(8);
        let mut add = |fd, what| fds.push((PollFd::from_borrowed_fd(fd, PollFlags::IN), what));
        add(self.children.as_fd(), What::Children);
        add(self.listener.as_fd(), What::Listener);
        if let Some(link) = &self.link {
            add(link.as_fd(), What::Link);
        }
        if let Some(events) = self.control.events() {
            add(events, What::Control);
        }
        self.sessions.sockets().for_each(|fd| add(fd, What::Session));
        self.hooks.outputs().for_each(|fd| add(fd, What::Output));
        let (mut polled, whats): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        poll(&mut polled, timeout.as_ref())?;
        let mut ready = Ready::default();
        for (fd, what) in polled.iter().zip(whats) {
            if fd.revents().is_empty() {
                continue;
            }
            match what {
                What::Children => ready.children = true,
                What::Link => ready.link = true,
                What::Listener => ready.listener = true,
                What::Session => ready.sessions = true,
                What::Control => ready.control = true,
                What::Output => ready.outputs = true,
            }
        }
        // Children and messages say themselves whether they are news: a session that comes or goes is none.
        ready.needs_report = ready.listener || ready.control;
        Ok(ready)
    }

    /// Collects every ended child: hooks, sessions, and orphans, which are PID 1's to bury. True if that is news.
    fn reap(&mut self) -> bool {
        let mut news = false;
        self.children.read_signal().ok();
        while let Some((pid, end)) = next_ended() {
            let (session, outcome) = match end {
                End::Exited(code) => (FromSession::Exited { code }, HookOutcome::Exited(code)),
                End::Killed(signal) => (FromSession::Killed { signal }, HookOutcome::Signalled(signal)),
            };
            if !self.sessions.ended(pid, &session) {
                news |= self.hooks.ended(pid, outcome).is_some();
            }
        }
        // While the capsule is being stopped, plabd waits for the last process to go.
        news || self.hooks.stopping()
    }

    /// Serves one turn of plabd's messages; true if one was about more than a session. None when capsule-init has no
    /// more reason to be.
    fn serve_link(&mut self) -> Option<bool> {
        let mut news = false;
        for _ in 0..64 {
            let Some(link) = &self.link else { break };
            match message::receive::<ToInit>(link, &mut self.buffer) {
                Ok(Some((message, fds))) => {
                    news |= !matches!(message, ToInit::Exec(_) | ToInit::Notice { .. });
                    self.obey(message, fds);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A message of a newer plabd's; what it wants is in the state it does not see change.
                Err(error)
                    if error.kind() == io::ErrorKind::InvalidData || error.raw_os_error().is_none() => {}
                Ok(None) | Err(_) => {
                    self.link = None;
                    // Not yet told to go: plabd died before it had read back what holds this capsule.
                    return self.going.then_some(news);
                }
            }
        }
        Some(news)
    }

    fn obey(&mut self, message: ToInit, fds: Vec<OwnedFd>) {
        match message {
            ToInit::Go(go) if !self.going => {
                self.going = true;
                self.configured = go.configured;
                self.control.begin(go.resources);
                self.hooks.begin(go.configured, go.times);
            }
            ToInit::Resources { text } => self.control.set_resources(text),
            ToInit::Times(times) => self.hooks.set_times(times),
            ToInit::Run { id, hook, limit_ms } if id > self.last_run_id => {
                self.last_run_id = id;
                self.hooks.request(hook, id, limit_ms, &self.control);
            }
            ToInit::Exec(exec) => self.sessions.start(&exec, fds),
            ToInit::Notice { text } => self.sessions.notice(&text),
            // Said twice, or of another mode.
            ToInit::Run { .. } | ToInit::Go(_) | ToInit::Setup(_) | ToInit::Wipe { .. } => {}
        }
    }

    /// Takes the connection of a new plabd in place of the old one's.
    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return;
        };
        // The socket lies where only root comes; checked all the same.
        // By nix: plabd is outside this PID namespace, so its PID is 0 here, which rustix's type cannot hold.
        let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials);
        if peer.is_ok_and(|peer| peer.uid() == 0) {
            self.link = Some(socket);
            self.told = None;
        }
    }

    /// Tells plabd the whole state, if it is another than it was told.
    fn report(&mut self) {
        let Some(link) = &self.link else { return };
        let state = State {
            protocol: PROTOCOL,
            going: self.going,
            last_run_id: self.last_run_id,
            hooks: self.hooks.states.clone(),
            present: Hooks::present(&self.control),
            status_line: self.hooks.status_line.clone(),
            control_problem: self.control.problem.clone(),
            resources_problem: self.control.resources_problem.clone(),
            idle: no_children(),
            birthmark: self.birthmark.clone(),
            configured: self.configured,
            sessions: u32::try_from(self.sessions.count()).unwrap_or(u32::MAX),
        };
        if self.told.as_ref().is_some_and(|told| same(told, &state)) {
            return;
        }
        match message::send(link, &FromInit::State(Box::new(state.clone())), &[]) {
            Ok(()) => self.told = Some(state),
            // plabd is behind; it will ask anew by connecting, or hear with the next change.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.link = None,
            Err(_) => self.link = None,
        }
    }
}

/// Whether plabd would learn nothing new: the number of sessions alone is not worth a message.
fn same(told: &State, now: &State) -> bool {
    State { sessions: 0, ..told.clone() } == State { sessions: 0, ..now.clone() }
}

enum What {
    Children,
    Link,
    Listener,
    Session,
    Control,
    Output,
}

#[derive(Default)]
struct Ready {
    children: bool,
    link: bool,
    listener: bool,
    sessions: bool,
    control: bool,
    outputs: bool,
    needs_report: bool,
}

enum End {
    Exited(i32),
    Killed(i32),
}

/// Whether no process is left here but this one: whatever else there is descends from it, or was left to it.
fn no_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// Buries one ended child. By libc's waitpid: the typed ones know no name for real-time signals and would lose
/// the child that one of them ended.
fn next_ended() -> Option<(Pid, End)> {
    let mut status = 0;
    // SAFETY: the status is ours to write to.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = (pid > 0).then(|| Pid::from_raw(pid))??;
    let end = if libc::WIFEXITED(status) {
        End::Exited(libc::WEXITSTATUS(status))
    } else {
        End::Killed(libc::WTERMSIG(status))
    };
    Some((pid, end))
}

fn environment(capsule: &Capsule) -> io::Result<Vec<CString>> {
    let slice = &capsule.slice;
    [
        format!("HOME=/home/{slice}"),
        format!("USER={slice}"),
        format!("LOGNAME={slice}"),
        "SHELL=/bin/bash".to_owned(),
        format!("PATH={PATH}"),
        "LANG=C.UTF-8".to_owned(),
        format!("PLANETLAB_SLICE={slice}"),
        format!("PLANETLAB_NODE={}", capsule.node),
    ]
    .into_iter()
    .map(|pair| CString::new(pair).map_err(io::Error::other))
    .collect()
}
