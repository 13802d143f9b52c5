//! `plab` as a program, against a node that is made up.

mod fake_node;
mod node;
mod session;
