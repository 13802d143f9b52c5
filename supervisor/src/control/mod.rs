//! The control socket: who asks, what they may, and the answers.
//!
//! | module | concern |
//! |---|---|
//! | [`server`] | connections: accepting, bounding, reading and writing lines |
//! | [`authority`] | who may ask what |
//! | [`requests`] | what each request does |
//! | [`status`] | showing slices |

mod authority;
mod requests;
mod server;
mod status;

pub use server::serve;
