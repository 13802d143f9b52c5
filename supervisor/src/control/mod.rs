//! The control socket: who asks, what they may, and the answers.
//!
//! | module | concern |
//! |---|---|
//! | [`server`] | accepting connections, bounding their number |
//! | [`connection`] | one client's lines |
//! | [`authority`] | who may ask what |
//! | [`requests`] | what each request does |
//! | [`flows`] | questions about who sent what |
//! | [`status`] | showing slices |

mod authority;
mod bandwidth;
mod connection;
mod flows;
mod machine;
mod opt_outs;
mod ports;
mod requests;
mod server;
mod status;

pub use server::serve;
