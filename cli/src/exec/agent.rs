//! The client's ssh agent, for the capsule: what connects to a socket inside is copied to the agent's socket here.
//!
//! The listening socket comes from capsule-init, so it is looked at before it is used. What runs in the capsule speaks
//! to the agent through it, as it would on any machine to which the agent is forwarded, and to nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with, sockopt,
};

use super::poll_set::PollSet;
use crate::error::Error;
use crate::relay::{End, Relay};

/// Connections at the same time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 16;

/// One connection: what goes to the agent, and what comes back.
#[derive(Debug)]
struct Connection {
    to: Relay,
    back: Relay,
}

/// The agent here, and whoever speaks to it.
#[derive(Debug)]
pub struct Agent {
    here: PathBuf,
    /// None until the capsule has sent it, and after it failed.
    listener: Option<OwnedFd>,
    connections: Vec<Connection>,
}

/// Where in a [`PollSet`] the agent's descriptors are.
#[derive(Debug, Default)]
pub struct Places {
    listener: Option<usize>,
    connections: Vec<[(Option<usize>, Option<usize>); 2]>,
}

/// What became ready of them.
#[derive(Debug, Default)]
pub struct Ready {
    listener: bool,
    connections: Vec<[(PollFlags, PollFlags); 2]>,
}

impl Places {
    /// Looks up what poll(2) said.
    pub fn ready(&self, set: &PollSet<'_>) -> Ready {
        let both = |(from, to)| (set.flags(from), set.flags(to));
        Ready {
            listener: !set.flags(self.listener).is_empty(),
            connections: self.connections.iter().map(|places| places.map(both)).collect(),
        }
    }
}

impl Agent {
    /// The agent that listens at this path.
    pub fn new(here: &Path) -> Agent {
        Agent { here: here.to_path_buf(), listener: None, connections: Vec::new() }
    }

    /// Takes the socket that the capsule sent.
    ///
    /// # Errors
    /// It is something else: accepting from it could block, or be no accepting at all.
    pub fn serve(&mut self, listener: OwnedFd) -> Result<(), Error> {
        let fits = sockopt::socket_domain(&listener).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(&listener).is_ok_and(|kind| kind == SocketType::STREAM)
            && sockopt::socket_acceptconn(&listener).unwrap_or(false);
        if !fits {
            return Err(Error::Session("the capsule was to send a listening socket and sent none".into()));
        }
        let failed = Error::system::<rustix::io::Errno>;
        let flags = fcntl_getfl(&listener).map_err(failed("serve the agent"))?;
        fcntl_setfl(&listener, flags | OFlags::NONBLOCK).map_err(failed("serve the agent"))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Adds what to wait for.
    pub fn add<'a>(&'a self, set: &mut PollSet<'a>) -> Places {
        let room = self.connections.len() < MAX_CONNECTIONS;
        let listener = self.listener.as_ref().filter(|_| room).map(|fd| (fd.as_fd(), PollFlags::IN));
        Places {
            listener: set.add(listener),
            connections: self
                .connections
                .iter()
                .map(|connection| [set.add_relay(&connection.to), set.add_relay(&connection.back)])
                .collect(),
        }
    }

    /// Goes on after poll(2). A connection that fails ends; the command sees that, and nobody else.
    pub fn step(&mut self, ready: &Ready) {
        for (connection, [to, back]) in self.connections.iter_mut().zip(&ready.connections) {
            connection.to.ready(to.0, to.1);
            connection.back.ready(back.0, back.1);
        }
        // Each side ends the conversation by closing; there is no half of one.
        self.connections.retain(|connection| {
            !connection.to.source_ended() && !connection.to.is_done() && !connection.back.is_done()
        });
        if ready.listener {
            self.accept();
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let theirs = match accept_with(listener, flags) {
            Ok(theirs) => theirs,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                return;
            }
            Err(_) => {
                // Ready for ever and never to be had: without it the command goes on.
                self.listener = None;
                return;
            }
        };
        // An agent that is gone, or that has no room: theirs is closed, which is an answer.
        let Ok(ours) = reach(&self.here) else { return };
        let (theirs, ours) = (Rc::new(theirs), Rc::new(ours));
        let relay = |from: &Rc<OwnedFd>, to: &Rc<OwnedFd>| {
            Relay::new(End::ours(Rc::clone(from)), End::ours(Rc::clone(to)))
        };
        self.connections.push(Connection { to: relay(&theirs, &ours), back: relay(&ours, &theirs) });
    }
}

fn reach(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Steps until nothing is ready.
    fn run(agent: &mut Agent) {
        loop {
            let mut set = PollSet::default();
            let places = agent.add(&mut set);
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if rustix::event::poll(&mut set.0, Some(&now)).expect("poll") == 0 {
                return;
            }
            let ready = places.ready(&set);
            drop(set);
            agent.step(&ready);
        }
    }

    #[test]
    fn a_conversation_goes_both_ways_and_ends_with_either_side() {
        let directory = std::env::temp_dir().join(format!("plab-agent-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("mkdir");
        let (inside, here) = (directory.join("inside"), directory.join("here"));
        let (theirs, ours) =
            (UnixListener::bind(&inside).expect("bind"), UnixListener::bind(&here).expect("bind"));
        let mut agent = Agent::new(&here);
        agent.serve(theirs.into()).expect("a listening socket");
        let mut asking = UnixStream::connect(&inside).expect("connect");
        asking.write_all(b"who?").expect("write");
        run(&mut agent);
        let (mut answering, _) = ours.accept().expect("accept");
        let mut four = [0; 4];
        answering.read_exact(&mut four).expect("read");
        assert_eq!(&four, b"who?");
        answering.write_all(b"me").expect("write");
        run(&mut agent);
        let mut two = [0; 2];
        asking.read_exact(&mut two).expect("read");
        assert_eq!((&two, agent.connections.len()), (b"me", 1));
        drop(asking);
        run(&mut agent);
        assert!(agent.connections.is_empty());
        assert_eq!(answering.read(&mut four).expect("read"), 0, "it is told");
        // Some more than are served at once wait, and are none the worse for it.
        let many: Vec<UnixStream> =
            (0..MAX_CONNECTIONS + 2).map(|_| UnixStream::connect(&inside).expect("connect")).collect();
        run(&mut agent);
        assert_eq!(agent.connections.len(), MAX_CONNECTIONS);
        drop(many);
        run(&mut agent);
        assert!(agent.connections.is_empty());
        std::fs::remove_dir_all(&directory).expect("clean up");
        let mut late = Agent::new(&here);
        let (a, _b) = UnixStream::pair().expect("pair");
        assert!(late.serve(a.into()).is_err(), "it does not listen");
    }
}
