//! `plab exec` and `plab shell`: a command in a capsule as if it were started here.
//!
//! plabd is asked once and hands our session socket to the capsule; from then on there are only the
//! capsule's init and us. One thread waits in poll(2) for everything: the answer of plabd, the session, our
//! signals, and the ends of what is copied.

mod agent;
mod documents;
mod environment;
mod insistence;
mod outcome;
mod poll_set;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use plab_protocol::control::{Exec, Reply, Request, WindowSize};
use plab_protocol::session::{FromSession, ToSession};
use plab_protocol::{MAX_DATAGRAM, channel};
use rustix::event::{PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::termios::{SpecialCodeIndex, Winsize, isatty, tcgetattr, tcsetwinsize};

use self::agent::Agent;
use self::documents::Documents;
use self::environment::{environment, text};
use self::insistence::Insistence;
pub use self::outcome::Ending;
use self::outcome::{Outcome, ends, status_of_failure};
use self::poll_set::PollSet;
use crate::args::SessionArgs;
use crate::client::Client;
use crate::error::{ClientError, EXEC_ERROR, Error};
use crate::output::{complain, words};
use crate::relay::{End, Relay};
use crate::signals::Signals;
use crate::stdio::{self, Relays};
use crate::terminal::{self, Guard};

/// Passed on to the command.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// The same with a terminal: its size may change, and after a stop its mode is not ours any more.
const FORWARDED_TTY: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// How long a signal waits for its command to be there.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ctrl-], as systemd's `machinectl shell` has it. It reaches the command as well.
const ESCAPE: u8 = 0x1d;

/// The most that is read from a pseudo-terminal after its command has ended. The kernel keeps less.
const TTY_REST: usize = 256 << 10;

/// Runs `command` (none: the login shell) in the capsule of `slice`; returns the exit status.
///
/// # Errors
/// Everything that is plab's or plabd's; the caller exits with 125.
pub fn run(socket: &Path, slice: &str, args: &SessionArgs, command: Vec<OsString>) -> Result<u8, Error> {
    let tty = args.tty || (!args.no_tty && !args.json && terminal::is_interactive());
    let request = Exec {
        slice: slice.to_owned(),
        argv: command.into_iter().map(|word| text("the command's word", word)).collect::<Result<_, _>>()?,
        env: environment(&args.env, tty, |name| std::env::var_os(name))?,
        tty: None,
        login: None,
        agent: false,
    };
    Ok(follow(socket, request, tty, args.json, None)?.status)
}

/// Runs what `request` says and follows it to its end, with a terminal if `tty`; with `json` its output comes as
/// documents. With `agent` the command can speak to the ssh agent that listens there.
///
/// # Errors
/// As [`run`].
pub fn follow(
    socket: &Path,
    request: Exec,
    tty: bool,
    json: bool,
    agent: Option<&Path>,
) -> Result<Ending, Error> {
    let slice = &request.slice.clone();
    let agent = agent.map(Agent::new);
    let request = Exec { agent: agent.is_some(), ..request };
    // Before the size is looked at: a change in between is then queued and sent.
    let signals = Signals::take(if tty { &FORWARDED_TTY } else { &FORWARDED })?;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::system("make a socket pair"))?;
    // Only our end: a session that does not read must not be able to hold us up.
    fcntl_setfl(&near, OFlags::RDWR | OFlags::NONBLOCK).map_err(Error::system("make a socket pair"))?;

    let (documents, sinks) = match json {
        true => Some(Documents::begin()?),
        false => None,
    }
    .unzip();
    let (control, relays) = if tty {
        let size = terminal::size().unwrap_or(WindowSize { rows: 24, cols: 80 });
        let request = Request::Exec(Exec { tty: Some(size), ..request });
        (Client::ask(socket, request, &[far.as_fd()])?, Relays::default())
    } else {
        let (theirs, relays) = stdio::prepare(sinks)?;
        let [input, output, error] = theirs.fds();
        let fds = [far.as_fd(), input, output, error];
        (Client::ask(socket, Request::Exec(request), &fds)?, relays)
        // Here the command's ends of the pipes are closed on our side.
    };
    // Else the end of the session would never be seen.
    drop(far);

    let mut session = Session {
        slice,
        tty,
        control: Some(control),
        socket: Some(near),
        signals,
        relays,
        master: None,
        raw: None,
        running: false,
        outcome: None,
        last_byte: None,
        datagram: vec![0; MAX_DATAGRAM],
        insistence: Insistence::default(),
        held: Vec::new(),
        deadline: None,
        agent,
    };
    let ending = session.wait();
    // Before anything is printed.
    session.raw = None;
    let lost = session.relays.output.iter_mut().find_map(Relay::take_failure);
    // With it the ends of the pipes to the documents, which are whole only then.
    drop(session);
    let ending = ending?;
    if let Some(documents) = documents {
        documents.end(&ending)?;
    }
    match (ending.status, lost) {
        (0, Some(e)) => Err(Error::Output(e)),
        (_, Some(e)) => {
            complain(&Error::Output(e).to_string());
            Ok(ending)
        }
        (_, None) => Ok(ending),
    }
}

struct Session<'a> {
    slice: &'a str,
    tty: bool,
    /// None once it has answered.
    control: Option<Client>,
    /// None once the other side has closed it.
    socket: Option<OwnedFd>,
    signals: Signals,
    relays: Relays,
    /// The pseudo-terminal's.
    master: Option<Rc<OwnedFd>>,
    raw: Option<Guard>,
    running: bool,
    outcome: Option<Outcome>,
    /// The last byte that was copied to the terminal.
    last_byte: Option<u8>,
    datagram: Vec<u8>,
    insistence: Insistence,
    /// Signals that came before the session was known to be the capsule's.
    held: Vec<Signal>,
    /// When to give up on the command, if one of them was to end it.
    deadline: Option<(Instant, Signal)>,
    agent: Option<Agent>,
}

/// What became ready.
#[derive(Debug)]
struct Ready {
    control: bool,
    session: bool,
    signals: bool,
    /// At its source and at its destination.
    input: (PollFlags, PollFlags),
    output: [(PollFlags, PollFlags); 2],
    agent: agent::Ready,
}

impl Session<'_> {
    /// Until the command has ended and everything it printed was written.
    fn wait(&mut self) -> Result<Ending, Error> {
        loop {
            if self.outcome.is_some() && self.relays.output.iter().all(Relay::is_done) {
                return self.finish();
            }
            let ready = self.poll()?;
            // First of all: an end that is here already counts, whatever else happened meanwhile.
            if ready.session {
                self.hear()?;
            }
            if ready.control {
                self.answer()?;
            }
            if let Some(agent) = &mut self.agent {
                agent.step(&ready.agent);
            }
            if let Some(ending) = self.signalled(ready.signals)? {
                return Ok(ending);
            }
            if let Some(ending) = self.copy(&ready)? {
                return Ok(ending);
            }
        }
    }

    fn poll(&self) -> Result<Ready, Error> {
        let mut set = PollSet::default();
        let read = |fd| Some((fd, PollFlags::IN));
        // Once the command has ended nobody has anything to say any more.
        let talking = self.outcome.is_none();
        let control = set.add(self.control.as_ref().filter(|_| talking).and_then(|c| read(c.as_fd())));
        let session = set.add(self.socket.as_ref().filter(|_| talking).and_then(|s| read(s.as_fd())));
        let signals = set.add(read(self.signals.as_fd()));
        let input = self.relays.input.as_ref().map_or((None, None), |relay| set.add_relay(relay));
        let mut output = [(None, None); 2];
        for (slots, relay) in output.iter_mut().zip(&self.relays.output) {
            *slots = set.add_relay(relay);
        }
        let agent = self.agent.as_ref().map(|agent| agent.add(&mut set)).unwrap_or_default();
        let timeout = self.deadline.map(|(then, _)| then.saturating_duration_since(Instant::now()));
        // The time has a bound that fits.
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut set.0, timeout.as_ref()) {
            // Nothing is ready then, and we look again.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::system("wait for the command")(e)),
        }
        let both = |(from, to)| (set.flags(from), set.flags(to));
        Ok(Ready {
            control: !set.flags(control).is_empty(),
            session: !set.flags(session).is_empty(),
            signals: !set.flags(signals).is_empty(),
            input: both(input),
            output: output.map(both),
            agent: agent.ready(&set),
        })
    }

    /// Takes one message of the capsule. Its init is the slice's: every message is checked.
    fn hear(&mut self) -> Result<(), Error> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let (n, fds) = match channel::receive(socket, &mut self.datagram) {
            Ok(received) => received,
            // Its end was closed with a message of ours unread, a signal for a command that had just ended.
            // What it sent before comes with the next call.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNRESET | libc::EAGAIN)) => return Ok(()),
            Err(e) => return Err(Error::Session(format!("cannot read what the capsule says: {e}"))),
        };
        if n == 0 {
            self.socket = None;
            // If plabd has not answered yet, its answer will say why.
            if self.control.is_none() {
                self.ended(Outcome::Lost);
            }
            return Ok(());
        }
        let message: FromSession = serde_json::from_slice(&self.datagram[..n])
            .map_err(|e| Error::Session(format!("the capsule said something that is no message: {e}")))?;
        match message {
            FromSession::Running if self.running => {}
            FromSession::Running => {
                self.running = true;
                if self.tty {
                    self.open_terminal(fds)?;
                }
            }
            FromSession::Agent { problem: Some(problem) } => {
                complain(&format!("no agent forwarding: could not {}", words(&problem)));
            }
            FromSession::Agent { problem: None } => {
                // One that nobody asked for is nobody's.
                if let (Some(agent), Some(listener)) = (&mut self.agent, fds.into_iter().next()) {
                    agent.serve(listener)?;
                }
            }
            FromSession::Failed { errno, what } => self.ended(Outcome::Failed { errno, what }),
            // The kernel keeps eight bits of an exit status.
            FromSession::Exited { code } => {
                self.ended(Outcome::Exited(u8::try_from(code).unwrap_or(EXEC_ERROR)));
            }
            FromSession::Killed { signal } => self.ended(Outcome::Killed(signal)),
            FromSession::Notice { text } => terminal::notice(&text),
        }
        Ok(())
    }

    /// The command has ended: what it printed is still on its way through us.
    fn ended(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.relays.input = None;
        for relay in &mut self.relays.output {
            if self.tty { relay.drain(TTY_REST) } else { relay.drain_pipe() }
        }
    }

    /// Takes plabd's answer. It may come after the capsule's first word: two sockets have no common order.
    fn answer(&mut self) -> Result<(), Error> {
        let Some(control) = &mut self.control else { return Ok(()) };
        if !control.fill()? {
            // The command may run all the same, if plabd went down just now; then the capsule goes on without it.
            self.control = None;
            return if self.running { Ok(()) } else { Err(ClientError::Closed.into()) };
        }
        let Some(received) = control.take()? else { return Ok(()) };
        self.control = None;
        match received.reply {
            Reply::Started => {
                if self.socket.is_none() && self.outcome.is_none() {
                    self.ended(Outcome::Lost);
                }
                Ok(())
            }
            Reply::Error(refusal) => Err(Error::Refused(refusal)),
            _ => Err(Error::Unexpected { expected: "the start of a command" }),
        }
    }

    /// Copies between the caller's terminal and the capsule's from here on.
    fn open_terminal(&mut self, fds: Vec<OwnedFd>) -> Result<(), Error> {
        // What a slice sends is looked at before it is used: reading from anything else could block for ever.
        let master = fds
            .into_iter()
            .next()
            .filter(|fd| isatty(fd))
            .map(Rc::new)
            .ok_or_else(|| Error::Session("the capsule was to send a terminal and sent none".into()))?;
        let failed = Error::system::<rustix::io::Errno>;
        let flags = fcntl_getfl(&master).map_err(failed("set up the command's terminal"))?;
        fcntl_setfl(&master, flags | OFlags::NONBLOCK).map_err(failed("set up the command's terminal"))?;
        let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        if isatty(stdin) {
            self.raw = Some(Guard::raw(stdin)?);
        }
        let callers = |fd| -> Result<End, Error> {
            let stat = fstat(fd).map_err(failed("look at standard input and output"))?;
            Ok(End::callers(fd, &stat))
        };
        self.relays.input = Some(Relay::new(callers(stdin)?, End::ours(Rc::clone(&master))).lingering());
        self.relays.output = vec![Relay::new(End::ours(Rc::clone(&master)), callers(stdout)?)];
        self.master = Some(master);
        // It may have changed since we asked.
        self.resize()
    }

    /// Passes on the signals that came; how to end when they mean us.
    ///
    /// One that comes before plabd has answered is kept for the command. Not for ever: a plabd that hangs must
    /// not take us along. From then on the session is the capsule's, which reads it once the command runs.
    fn signalled(&mut self, came: bool) -> Result<Option<Ending>, Error> {
        while let Some(signal) = if came { self.signals.next()? } else { None } {
            if ends(signal) && self.insistence.enough(Instant::now()) {
                return Ok(Some(self.ending_by(signal)));
            }
            if ends(signal) && self.deadline.is_none() {
                self.deadline = Some((Instant::now() + PATIENCE, signal));
            }
            self.held.push(signal);
        }
        let asked = self.control.is_some() && !self.running;
        let may_come = asked && self.outcome.is_none() && self.socket.is_some();
        if may_come {
            let given_up = self.deadline.filter(|&(then, _)| Instant::now() >= then);
            return Ok(given_up.map(|(_, signal)| self.ending_by(signal)));
        }
        self.deadline = None;
        for signal in std::mem::take(&mut self.held) {
            match signal {
                Signal::SIGCONT => {
                    if let Some(raw) = &self.raw {
                        raw.apply()?;
                    }
                    // The window may have changed while we were stopped and no signal came.
                    self.resize()?;
                }
                Signal::SIGWINCH => self.resize()?,
                signal => {
                    // After the command's end there may still be output that our reader does not take.
                    let sent =
                        self.outcome.is_none() && self.say(&ToSession::Signal { number: signal as i32 });
                    // A capsule that takes no more, frozen perhaps, must not hold its caller.
                    if !sent && ends(signal) {
                        return Ok(Some(self.ending_by(signal)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What to end with when plab itself ends by this signal.
    fn ending_by(&self, signal: Signal) -> Ending {
        match &self.outcome {
            Some(Outcome::Exited(status)) => Ending::status(*status),
            Some(Outcome::Killed(by)) => Ending::signal(*by),
            _ => Ending::signal(signal as i32),
        }
    }

    /// Gives the capsule's terminal the size of ours; the kernel tells what runs in it. We hold its master, so
    /// capsule-init need not be asked.
    fn resize(&self) -> Result<(), Error> {
        let (Some(master), Some(size)) = (&self.master, terminal::size()) else { return Ok(()) };
        let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        match tcsetwinsize(master, size) {
            // A terminal whose other side is closed has no size; the end is on its way then.
            Ok(()) | Err(rustix::io::Errno::IO) => Ok(()),
            Err(e) => Err(Error::system("set the size of the command's terminal")(e)),
        }
    }

    /// Says something to the capsule; false if it does not listen.
    fn say(&self, message: &ToSession) -> bool {
        let Some(socket) = &self.socket else { return false };
        serde_json::to_vec(message).is_ok_and(|bytes| channel::send(socket, &bytes, &[]).is_ok())
    }

    /// Copies what can be copied; how to end when the caller's side is gone.
    fn copy(&mut self, ready: &Ready) -> Result<Option<Ending>, Error> {
        for (relay, &(from, to)) in self.relays.output.iter_mut().zip(&ready.output) {
            relay.ready(from, to);
        }
        // Nobody reads on, and a command that cannot print would wait for ever.
        if self.tty && self.outcome.is_none() && self.relays.output.iter().any(Relay::is_broken) {
            return Ok(Some(Ending::signal(Signal::SIGPIPE as i32)));
        }
        if self.raw.is_some() && self.outcome.is_none() && self.relays.output.iter().all(Relay::is_done) {
            // The command has let go of its terminal and goes on without. Ours is of use again: Ctrl-C is
            // then a signal, which is passed on.
            self.raw = None;
            self.relays.input = None;
        }
        let Some(relay) = &mut self.relays.input else { return Ok(None) };
        let had_ended = relay.source_ended();
        let read = relay.ready(ready.input.0, ready.input.1);
        if let Some(master) = &self.master {
            let escapes = read.iter().filter(|&&byte| byte == ESCAPE).count();
            let last = read.last().copied();
            if self.raw.is_some() {
                let now = Instant::now();
                if (0..escapes).any(|_| self.insistence.enough(now)) {
                    return Err(Error::Session(
                        "left at Ctrl-] three times; the command is hung up on".into(),
                    ));
                }
                if relay.source_ended() {
                    // The terminal was closed. What runs in it is hung up on, as in any terminal.
                    return Ok(Some(Ending::signal(Signal::SIGHUP as i32)));
                }
            } else if relay.source_ended() && !had_ended {
                // A file or pipe has an end, a terminal has a key for it.
                relay.append(&end_of_input(master, self.last_byte));
            }
            self.last_byte = last.or(self.last_byte);
        }
        if relay.is_done() {
            self.relays.input = None;
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Ending, Error> {
        match self.outcome.take() {
            Some(Outcome::Exited(status)) => Ok(Ending::status(status)),
            Some(Outcome::Killed(signal)) => Ok(Ending::signal(signal)),
            Some(Outcome::Failed { errno, what }) => {
                self.raw = None;
                let error = std::io::Error::from_raw_os_error(errno);
                let message = format!("{}: {}: {error}", self.slice, words(&what));
                complain(&message);
                Ok(Ending { error: Some(message), ..Ending::status(status_of_failure(errno)) })
            }
            Some(Outcome::Lost) | None => Err(Error::Session(format!(
                "the capsule went away before the command had ended; `plab events {}` tells why",
                words(self.slice)
            ))),
        }
    }
}

/// What ends a program's input on this terminal: its end-of-file key, twice if a line was begun, for the first
/// only hands that line over.
fn end_of_input(master: &OwnedFd, last: Option<u8>) -> Vec<u8> {
    let key = tcgetattr(master).map_or(4, |mode| mode.special_codes[SpecialCodeIndex::VEOF]);
    vec![key; if matches!(last, None | Some(b'\n')) { 1 } else { 2 }]
}
