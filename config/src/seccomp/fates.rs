//! What one file says about calls: each of them once.

use std::collections::BTreeMap;

use toml::Spanned;

use super::error::ProfileError;
use super::names::is_call_name;
use super::source::Source;

/// What a call gets. `Deny` is the unconditional one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Allow,
    Deny,
    Absent,
    Remove,
}

impl Fate {
    fn key(self) -> &'static str {
        match self {
            Fate::Allow => "group.calls",
            Fate::Deny => "deny.calls",
            Fate::Absent => "absent.calls",
            Fate::Remove => "remove.calls",
        }
    }
}

/// What one file says about calls, without its bases: to find what is said twice.
pub(super) struct Fates<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) seen: BTreeMap<String, (Fate, usize)>,
}

impl Fates<'_> {
    /// Takes a list of names, each for the first time.
    pub(super) fn take(
        &mut self,
        fate: Fate,
        calls: Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<String>, ProfileError> {
        self.check_names(fate.key(), &calls)?;
        let mut names = Vec::new();
        for call in calls.into_inner() {
            let line = self.source.line(call.span());
            if let Some((before, first)) = self.seen.get(call.get_ref()) {
                let expected = format!("each call once; line {first} has it in {}", before.key());
                return Err(self.source.wrong_call(&call, fate.key(), expected));
            }
            self.seen.insert(call.get_ref().clone(), (fate, line));
            names.push(call.into_inner());
        }
        Ok(names)
    }

    pub(super) fn check_names(
        &self,
        key: &str,
        calls: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<(), ProfileError> {
        if calls.get_ref().is_empty() {
            return Err(self.source.wrong(calls.span(), key, "[]", "the name of at least one system call"));
        }
        for call in calls.get_ref() {
            if !is_call_name(call.get_ref()) {
                return Err(self.source.wrong_call(call, key, "the name of a system call"));
            }
        }
        Ok(())
    }
}
