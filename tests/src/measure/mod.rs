//! What the programs that measure a node share: the benchmark and the stress run.
//!
//! | module | concern |
//! |---|---|
//! | [`stats`] | percentiles |
//! | [`machine`] | what was measured on |
//! | [`columns`] | a table that fits a terminal |
//! | [`progress`], [`cleanup`] | what is seen meanwhile; an end that leaves nothing |

pub mod cleanup;
pub mod columns;
pub mod machine;
pub mod progress;
pub mod stats;

/// Anything that keeps something from being measured, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
