//! Seccomp profiles: files that say which system calls a slice may make.
//!
//! A profile is TOML, meant to be read by a site administrator; `config/profiles/seccomp/default.toml`
//! explains the format at its top and is the first example of it. Two profiles are built in, `default` and
//! `strict`. A site's own lie in `etc/planetlab/seccomp/NAME.toml`, have the same format and may start from
//! another with `base = "…"`.
//!
//! This module knows what a profile *says*. It does not know the numbers of system calls; turning a profile
//! into something that the kernel runs, and refusing a name that no kernel knows, is the `sandbox` crate's.
//!
//! A profile never says one thing twice: a call that appears again, a condition on a call that does not run,
//! or an exception that changes nothing is an error, because the reader would take it for a second meaning.
//!
//! See `seccomp(2)` and, for the calls, `syscalls(2)`.

mod builtin;
mod condition;
mod error;
mod fates;
mod file_format;
mod lookup;
mod names;
mod parse;
mod profile;
mod sections;
mod source;
#[cfg(test)]
mod tests;

pub use error::ProfileError;
pub use profile::{AbsentCalls, CallGroup, Condition, DenyRule, SeccompProfile, Test};
