//! What the rest of plabd sees of one slice: where it stands, and how to ask its task for something.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use jiff::Timestamp;
use plab_config::Definition;
use plab_protocol::control::{ErrorCode, ErrorReply, SliceState};
use plab_sandbox::message::State;
use tokio::sync::{mpsc, oneshot, watch};

use crate::capsule::link::Link;

/// What a slice's task is to bring about.
#[derive(Debug, Clone)]
pub enum Desired {
    /// The capsule runs as this says.
    Run(Rc<Definition>),
    /// As [`Self::Run`], but the node is drained: no capsule runs.
    Drained(Rc<Definition>),
    /// Capsule, storage and all are gone.
    Gone,
}

/// What a request asks of a slice's task.
#[derive(Debug)]
pub enum Command {
    /// Stop and start.
    Restart(Answer),
    /// Freeze every process.
    Freeze(Answer),
    /// Let them go on.
    Thaw(Answer),
}

/// How the task answers: what was done, or why not.
pub type Answer = oneshot::Sender<Result<String, ErrorReply>>;

/// Shorthand for an answer that refuses.
pub fn refused(code: ErrorCode, message: impl Into<String>) -> ErrorReply {
    ErrorReply { code, message: message.into() }
}

/// What the task last brought about.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The definition it acted on.
    pub definition: Rc<Definition>,
    /// Where that led.
    pub state: SliceState,
    /// What is to be said about it.
    pub detail: Option<String>,
}

/// Where a slice stands; its task writes, requests read.
pub struct Slice {
    /// The name.
    pub name: String,
    /// UID; 0 until it has one.
    pub uid: Cell<u32>,
    /// Where it stands.
    pub state: Cell<SliceState>,
    /// Why, when that needs saying.
    pub detail: RefCell<Option<String>>,
    /// The definition in effect.
    pub definition: RefCell<Rc<Definition>>,
    /// capsule-init's PID while there is one.
    pub pid: Cell<Option<i32>>,
    /// When the capsule was started.
    pub since: Cell<Option<Timestamp>>,
    /// What of the definition the capsule was made of; a `Birthmark`, or whatever capsule-init said.
    pub born: RefCell<Option<String>>,
    /// What capsule-init said last.
    pub said: RefCell<Option<State>>,
    /// Whether the last `status` that ended was a success.
    pub status_ok: Cell<Option<bool>>,
    /// The socket to capsule-init, while there is one.
    pub link: RefCell<Option<Rc<Link>>>,
    /// Told whenever the task has brought something about.
    pub settled: watch::Sender<Option<Settled>>,
}

/// How to ask a slice's task for something.
#[derive(Clone)]
pub struct Handle {
    /// Where it stands.
    pub slice: Rc<Slice>,
    /// What it is to bring about.
    pub desired: Rc<watch::Sender<Desired>>,
    /// Requests.
    pub commands: mpsc::UnboundedSender<Command>,
}

impl Slice {
    /// A slice that was just heard of.
    pub fn new(definition: Rc<Definition>) -> Self {
        Self {
            name: definition.name.to_string(),
            uid: Cell::new(0),
            state: Cell::new(SliceState::Starting),
            detail: RefCell::new(None),
            definition: RefCell::new(definition),
            pid: Cell::new(None),
            since: Cell::new(None),
            born: RefCell::new(None),
            said: RefCell::new(None),
            status_ok: Cell::new(None),
            link: RefCell::new(None),
            settled: watch::Sender::new(None),
        }
    }

    /// Notes where it stands now.
    pub fn set(&self, state: SliceState, detail: Option<String>) {
        self.state.set(state);
        *self.detail.borrow_mut() = detail;
    }

    /// Tells whoever waits that this is how it came out.
    pub fn settle(&self) {
        self.settled.send_replace(Some(Settled {
            definition: Rc::clone(&self.definition.borrow()),
            state: self.state.get(),
            detail: self.detail.borrow().clone(),
        }));
    }
}
