//! Raw sockets, tried inside slices and outside: by whom, and with whom at the other end.

mod actor;
mod far;

pub use actor::{Actor, dismiss, equip, inside, outside};
pub use far::FarHost;
