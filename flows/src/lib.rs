//! Who sent what to whom, and when: a bounded store of flow records, and the questions that are asked of it.
//!
//! A complaint names an address and a time; the answer is a slice and its contact, even when the slice is long gone
//! (3.6). [`record`] is what the kernel delivers, [`FlowSink`] where it is delivered to, [`Store`] what keeps it below
//! a directory, [`FlowReader`] what answers. The crate knows nothing of plabd, and opens no network socket.
//!
//! The store is a row of *segments*, each an SQLite file of at most some 100,000 records. The newest is appended to;
//! a full one is written anew, sorted by remote address, and never changed again. So an address is found by a
//! few page reads a segment, what is too old goes by deleting a file, and nothing needs memory for more than one segment.

mod catalog;
mod error;
mod owner;
mod query;
pub mod record;
mod seal;
mod segment;
mod sink;
mod store;
mod writer;

pub use error::FlowError;
pub use owner::Owner;
pub use query::{Filter, FlowReader, FlowRow, Kept, Prefix, Sender, Senders};
pub use record::Counts;
pub use sink::{FlowSink, Took};
pub use store::{Store, StoreLimits};
pub use writer::ClockReading;
