//! Sessions: commands and shells that clients run in capsules, who opened them, and how they are ended from here.
//!
//! plabd is not on the path of a session: its client and capsule-init talk to each other. What it holds on to is the
//! client's process, by a pidfd. A session lives as long as its client: capsule-init hangs it up when the client's
//! socket closes, and a client ends when it is told that the command has. So the kernel says which sessions there are,
//! no capsule-init is asked, and ending the client ends the session.
//!
//! | module | concern |
//! |---|---|
//! | [`kept`] | what the next plabd must know of them |
//! | [`outside`] | processes of a slice's UID outside its capsule: sshd's and the login shell's |

pub mod kept;
pub mod outside;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::Timestamp;
use plab_config::Definition;
use plab_protocol::control::{Exec, Login, SessionStatus, Severity};
use tokio::io::Interest;

use crate::node::Node;
use crate::peer::Process;
use crate::watched::watched;

/// Sessions that a slice's own users may have open at once. capsule-init takes some more, so that root's commands
/// never find the door shut.
pub const MAX_OF_A_SLICE: usize = 64;

/// Bytes of a session's command that are kept.
const MAX_COMMAND: usize = 512;

/// The sessions of a node.
pub struct Sessions {
    open: RefCell<BTreeMap<u64, SessionStatus>>,
    kept: kept::Kept,
}

impl Sessions {
    /// None yet; what is to be remembered goes to `kept`.
    pub fn new(kept: kept::Kept) -> Self {
        Self { open: RefCell::default(), kept }
    }

    /// The sessions of one slice, or of all, oldest first.
    pub fn list(&self, mut wanted: impl FnMut(&SessionStatus) -> bool) -> Vec<SessionStatus> {
        self.open.borrow().values().filter(|session| wanted(session)).cloned().collect()
    }

    /// How many sessions the slice's own users have open.
    pub fn count_own(&self, slice: &str) -> usize {
        self.open.borrow().values().filter(|session| is_own(session, slice)).count()
    }

    /// Whether some session of the slice's was opened with a key that its definition does not have (any more).
    pub fn has_strangers(&self, definition: &Definition) -> bool {
        let name = definition.name.as_str();
        self.open.borrow().values().any(|session| is_own(session, name) && !may_stay(session, definition))
    }

    /// PIDs of the clients of those of the slice's sessions that were opened with a key that its definition has.
    pub fn clients_that_stay(&self, definition: &Definition) -> BTreeSet<i32> {
        let name = definition.name.as_str();
        let open = self.open.borrow();
        let stay = open.values().filter(|session| is_own(session, name) && may_stay(session, definition));
        stay.filter_map(|session| i32::try_from(session.pid?).ok()).collect()
    }

    /// Finds the sessions again that a former plabd knew of and whose clients are still there.
    pub fn resume(node: &Rc<Node>) {
        for (session, client) in node.sessions.kept.read() {
            match client {
                Some(client) => Self::follow(node, session, client),
                None => closed(node, &session, "while plabd was away"),
            }
        }
    }

    /// A session begins: it is told, remembered, and followed to its end.
    pub fn open(node: &Rc<Node>, by: &str, exec: &Exec, definition: &Definition, client: Process) {
        let key = exec.login.as_ref().and_then(|login| find_key(definition, &login.key));
        let mut session = SessionStatus {
            id: 0,
            slice: exec.slice.clone(),
            by: by.to_owned(),
            login: exec.login.clone(),
            key_comment: key.map(|key| key.comment().to_owned()).filter(|comment| !comment.is_empty()),
            tty: exec.tty.is_some(),
            command: cut(&exec.argv),
            since: Timestamp::now().to_string(),
            pid: u32::try_from(client.pid).ok(),
        };
        let message = describe(&session);
        session.id =
            node.events.report_numbered(Some(&exec.slice), "session-opened", Severity::Info, message);
        node.sessions.kept.write(&session, &client);
        Self::follow(node, session, client);
    }

    fn follow(node: &Rc<Node>, session: SessionStatus, client: Process) {
        let id = session.id;
        let since = session.since.clone();
        let pidfd = match watched(client.pidfd, Interest::READABLE) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // It runs and is not to be seen: at least that is.
                let message = format!("session {id} cannot be watched: {error}");
                node.events.report(Some(&session.slice), "session-lost", Severity::Error, message);
                node.sessions.kept.forget(id);
                return;
            }
        };
        node.sessions.open.borrow_mut().insert(id, session);
        let node = Rc::clone(node);
        tokio::task::spawn_local(async move {
            // An error shows as readiness, too; there is nothing else to wait for.
            pidfd.readable().await.map(drop).ok();
            let session = node.sessions.open.borrow_mut().remove(&id);
            if let Some(session) = session {
                closed(&node, &session, &lasted(&since));
            }
            node.changed();
        });
    }
}

fn closed(node: &Node, session: &SessionStatus, how: &str) {
    node.sessions.kept.forget(session.id);
    let message = format!("session {}, {}", session.id, how);
    node.events.report(Some(&session.slice), "session-closed", Severity::Info, message);
}

fn lasted(since: &str) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return "ended".to_owned() };
    format!("after {} s", Timestamp::now().duration_since(since).as_secs().max(0))
}

/// Whether the slice's own user opened it.
fn is_own(session: &SessionStatus, slice: &str) -> bool {
    session.slice == slice && session.by == slice
}

/// Whether it was opened with a key that the definition has. One without a key (root's `su`, say) was not.
fn may_stay(session: &SessionStatus, definition: &Definition) -> bool {
    session.login.as_ref().is_some_and(|login| find_key(definition, &login.key).is_some())
}

/// The definition's key with this fingerprint.
pub fn find_key<'a>(definition: &'a Definition, fingerprint: &str) -> Option<&'a plab_config::SshKey> {
    definition.keys.iter().find(|key| key.fingerprint() == fingerprint)
}

/// One line for the audit trail.
fn describe(session: &SessionStatus) -> String {
    let who = match &session.login {
        Some(Login { key, from }) => {
            let comment =
                session.key_comment.as_ref().map(|comment| format!(" ({comment})")).unwrap_or_default();
            format!("ssh from {} with key {key}{comment}", from.as_deref().unwrap_or("nowhere said"))
        }
        None => session.by.clone(),
    };
    let terminal = if session.tty { ", with a terminal" } else { "" };
    let what = if session.command.is_empty() { "login shell".to_owned() } else { session.command.join(" ") };
    format!("{who}{terminal}, PID {}: {what}", session.pid.unwrap_or(0))
}

/// The words, as far as they fit [`MAX_COMMAND`].
fn cut(argv: &[String]) -> Vec<String> {
    let mut left = MAX_COMMAND;
    let mut words = Vec::new();
    for word in argv {
        if left == 0 {
            break;
        }
        let mut end = word.len().min(left);
        while !word.is_char_boundary(end) {
            end -= 1;
        }
        words.push(word[..end].to_owned());
        left -= end.max(1).min(left);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_cut_to_what_is_kept() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(cut(&words(&["ls", "-la"])), ["ls", "-la"]);
        let long = cut(&words(&["a", &"é".repeat(1000), "b"]));
        assert!(long[1].len() < 1000 && long.iter().map(String::len).sum::<usize>() <= MAX_COMMAND);
        // Words of no length have a bound as well.
        assert_eq!(cut(&vec![String::new(); 5000]).len(), MAX_COMMAND);
    }
}
