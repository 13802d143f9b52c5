//! What the end-to-end tests share: a node of their own, and the proof that it left nothing behind.

pub mod command;
pub mod installed;
pub mod leftovers;
pub mod login;
pub mod machine;
pub mod measure;
pub mod netns;
pub mod node;
pub mod pty;
pub mod raw;
pub mod slices;
pub mod wait;

pub use command::Output;
pub use machine::Machine;
pub use netns::Netns;
pub use node::{TestNode, binary};
pub use pty::Pty;
pub use slices::{COUNTING, Neighbour};
pub use wait::{eventually, eventually_or, patience, rounds, slowness};
