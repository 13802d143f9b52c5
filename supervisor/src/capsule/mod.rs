//! One capsule: making it, finding it again, watching it, ending it.
//!
//! | module | concern |
//! |---|---|
//! | [`birth`] | from an accepted definition to hooks begun |
//! | [`adopt`] | a capsule that outlived plabd |
//! | [`death`] | kill, and what is left to clear away |
//! | [`link`] | the socket to capsule-init |
//! | [`wishes`] | a definition in the sandbox's terms |
//! | [`report`] | what a capsule-init said, as events |
//! | [`task`] | the state machine of one slice |
//! | [`verify`] | everything read back, for `plab status --verify` |

pub mod adopt;
pub mod birth;
mod birthmark;
pub mod death;
pub mod link;
pub mod report;
pub mod task;
pub mod verify;
pub mod wishes;

use std::os::fd::OwnedFd;

/// A running capsule, however it was come by.
#[derive(Debug)]
pub struct Capsule {
    /// capsule-init, for good.
    pub pidfd: OwnedFd,
    /// Its PID, for showing and for `/proc`.
    pub pid: i32,
    /// The socket to it.
    pub link: OwnedFd,
    /// Readable when memory runs out, where plabd has to end the group (cgroup v1).
    pub oom: Option<OwnedFd>,
}
