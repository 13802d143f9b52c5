//! `plab`: what an operator, an administrator and a researcher type on a node.
//!
//! The crate talks to `plabd` over the control socket only ([`plab_protocol`]); it opens no file of the node
//! and needs no privilege of its own. Everything that a slice may have written is escaped before a terminal
//! sees it: [`table::Cell`] and [`output::words`] are the only ways text from the node reaches the screen.

pub mod args;
pub mod bandwidth;
pub mod check;
pub mod client;
pub mod confirm;
pub mod definitions;
pub mod docs_gen;
pub mod error;
pub mod events;
pub mod exec;
pub mod flow_csv;
pub mod flow_filter;
pub mod flow_ipfix;
pub mod flows;
pub mod init;
pub mod login;
pub mod machine;
pub mod output;
pub mod ports;
mod relay;
pub mod run;
pub mod sessions;
pub mod signals;
pub mod status;
pub mod stdio;
pub mod table;
pub mod terminal;
pub mod top;
pub mod units;
pub mod who_sent;
