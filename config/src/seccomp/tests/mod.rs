//! Profiles as files: those that are read, and those that are refused.

mod builtin;
mod lookup;
mod reading;
mod refusals;

use super::{ProfileError, SeccompProfile};

fn parse(text: &str) -> Result<SeccompProfile, ProfileError> {
    SeccompProfile::parse(text, "site.toml", &|name| SeccompProfile::builtin_text(name).map(str::to_owned))
}

fn head(rest: &str) -> String {
    format!("name = \"x\"\nsummary = \"s\"\n{rest}")
}

fn derived(rest: &str) -> String {
    head(&format!("base = \"default\"\n{rest}"))
}

/// The message for `text`, which must be wrong.
fn refused(text: &str) -> String {
    match parse(text) {
        Ok(profile) => panic!("accepted {profile:?}"),
        Err(error) => error.to_string(),
    }
}
