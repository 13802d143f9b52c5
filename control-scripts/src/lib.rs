//! The contract of the `PlanetLab-control` directory (PDN-02-002, 4.7 and 4.8).
//!
//! A researcher may keep scripts with well-known names, *hooks*, in `~/PlanetLab-control/`; the node
//! runs them at the moments their names say, and writes `resources` beside them. Everything in that
//! directory belongs to the slice, and all of it is optional.
//!
//! This crate holds what the contract says and nothing that runs a process:
//!
//! | module | concern |
//! |---|---|
//! | [`hook`] | the names |
//! | [`control_dir`] | opening the directory and looking at a hook, without trusting either |
//! | [`sequence`] | which hook is due next |
//! | [`settle`] | when a change of the directory is complete enough to act upon |
//! | [`outcome`] | what became of a hook |
//! | [`status_line`] | the one line of output that is kept |
//! | [`resources`] | rendering and replacing `resources` |
//!
//! Whatever opens a path does so with the slice's own identity and in the slice's own view: those
//! parts are for `capsule-init`. `plabd` uses the rest (names, outcomes, rendering), never a path.

pub mod control_dir;
pub mod hook;
pub mod outcome;
pub mod resources;
pub mod sequence;
pub mod settle;
pub mod status_line;
#[cfg(test)]
mod testing;

pub use control_dir::{CONTROL_DIR, ControlDir, ControlDirProblem, HookFile};
pub use hook::{Hook, UnknownHook};
pub use outcome::HookOutcome;
pub use resources::{ResourceDescription, ResourcesError, SliceNode};
pub use sequence::{Plan, Sequence, Step};
pub use settle::Settle;
pub use status_line::FirstLine;
