//! What each section of a file changes in the profile that it starts from.

use std::collections::BTreeSet;

use toml::Spanned;

use super::error::ProfileError;
use super::fates::{Fate, Fates};
use super::file_format::{FileCalls, FileDeny, FileGroup};
use super::profile::{AbsentCalls, CallGroup, Condition, DenyRule, SeccompProfile};

pub(super) fn add_groups(
    profile: &mut SeccompProfile,
    fates: &mut Fates<'_>,
    groups: Vec<FileGroup>,
) -> Result<(), ProfileError> {
    for group in groups {
        let FileGroup { name, why, calls } = group;
        let source = fates.source;
        if profile.allow.iter().any(|known| known.name == *name.get_ref()) {
            return Err(source.wrong(
                name.span(),
                "group.name",
                name.get_ref(),
                "a name of its own for each group",
            ));
        }
        for call in calls.get_ref() {
            if fates.seen.contains_key(call.get_ref()) {
                continue; // said twice in this file: take() knows the line
            }
            let problem = if profile.allowed().any(|known| known == call.get_ref()) {
                "a call that does not run already"
            } else if profile.denied().any(|known| known == call.get_ref()) {
                // Else "base = default" would not mean that everything default refuses is refused.
                "a call that the base does not deny; to allow it, write a profile without a base"
            } else {
                continue;
            };
            return Err(source.wrong_call(call, "group.calls", problem));
        }
        let (name, why) = (source.sentence("group.name", name)?, source.sentence("group.why", why)?);
        let calls = fates.take(Fate::Allow, calls)?;
        for absent in &mut profile.absent {
            absent.calls.retain(|call| !calls.contains(call));
        }
        profile.allow.push(CallGroup { name, why, calls });
    }
    Ok(())
}

/// Adds the unconditional rules and returns the others.
pub(super) fn add_denied(
    profile: &mut SeccompProfile,
    fates: &mut Fates<'_>,
    rules: Vec<FileDeny>,
) -> Result<Vec<FileDeny>, ProfileError> {
    let (conditional, always): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.when.is_some());
    for FileDeny { calls, why, .. } in always {
        let source = fates.source;
        for call in calls.get_ref() {
            let denied = profile.denied().any(|known| known == call.get_ref());
            if denied && !fates.seen.contains_key(call.get_ref()) {
                let expected = "a call that the base does not deny already";
                return Err(source.wrong_call(call, "deny.calls", expected));
            }
        }
        let why = source.sentence("deny.why", why)?;
        let calls = fates.take(Fate::Deny, calls)?;
        forget(profile, &calls);
        profile.deny.push(DenyRule { calls, why, when: Vec::new() });
    }
    Ok(conditional)
}

pub(super) fn add_absent(
    profile: &mut SeccompProfile,
    fates: &mut Fates<'_>,
    lists: Vec<FileCalls>,
) -> Result<(), ProfileError> {
    for FileCalls { calls, why } in lists {
        let source = fates.source;
        for call in calls.get_ref() {
            let name = call.get_ref().as_str();
            let in_base = !fates.seen.contains_key(name)
                && (profile.allowed().any(|known| known == name)
                    || profile.denied().any(|known| known == name)
                    || profile.absent.iter().any(|absent| absent.calls.iter().any(|known| known == name)));
            if in_base {
                let expected = "a call that the base does not name; what it lets run is taken away by remove";
                return Err(source.wrong_call(call, "absent.calls", expected));
            }
        }
        let why = source.sentence("absent.why", why)?;
        let calls = fates.take(Fate::Absent, calls)?;
        profile.absent.push(AbsentCalls { calls, why });
    }
    Ok(())
}

pub(super) fn remove_calls(
    profile: &mut SeccompProfile,
    fates: &mut Fates<'_>,
    lists: Vec<FileCalls>,
) -> Result<(), ProfileError> {
    for FileCalls { calls, why } in lists {
        let source = fates.source;
        for call in calls.get_ref() {
            let runs = profile.allowed().any(|known| known == call.get_ref());
            if !runs && !fates.seen.contains_key(call.get_ref()) {
                return Err(source.wrong_call(call, "remove.calls", "a call that the base lets run"));
            }
        }
        let why = source.sentence("remove.why", why)?;
        let calls = fates.take(Fate::Remove, calls)?;
        forget(profile, &calls);
        profile.absent.push(AbsentCalls { calls, why });
    }
    Ok(())
}

pub(super) fn add_conditional(
    profile: &mut SeccompProfile,
    fates: &Fates<'_>,
    rules: Vec<FileDeny>,
) -> Result<(), ProfileError> {
    let source = fates.source;
    for FileDeny { calls, why, when } in rules {
        fates.check_names("deny.calls", &calls)?;
        let mut listed = BTreeSet::new();
        for call in calls.get_ref() {
            let expected = if !profile.allowed().any(|known| known == call.get_ref()) {
                "a call that runs: a condition on one that does not changes nothing"
            } else if !listed.insert(call.get_ref()) {
                "each call once"
            } else {
                continue;
            };
            return Err(source.wrong_call(call, "deny.calls", expected));
        }
        let mut conditions: Vec<Condition> = Vec::new();
        if let Some(when) = when {
            let at = when.span();
            for condition in when.into_inner() {
                conditions.push(source.condition(condition)?);
            }
            // Written down, an empty list looks like "never" and would mean "always".
            if conditions.is_empty() {
                return Err(source.wrong(at, "deny.when", "[]", "a condition, or no `when` at all"));
            }
        }
        let repeated = |call: &Spanned<String>| {
            profile.deny.iter().any(|rule| rule.when == conditions && rule.calls.contains(call.get_ref()))
        };
        if let Some(call) = calls.get_ref().iter().find(|call| repeated(call)) {
            return Err(source.wrong_call(call, "deny.calls", "each condition once for a call"));
        }
        let why = source.sentence("deny.why", why)?;
        let calls = calls.into_inner().into_iter().map(Spanned::into_inner).collect();
        profile.deny.push(DenyRule { calls, why, when: conditions });
    }
    Ok(())
}

/// Takes `calls` out of everything that the base said about them.
fn forget(profile: &mut SeccompProfile, calls: &[String]) {
    let lists = (profile.allow.iter_mut().map(|group| &mut group.calls))
        .chain(profile.deny.iter_mut().map(|rule| &mut rule.calls))
        .chain(profile.absent.iter_mut().map(|absent| &mut absent.calls));
    for list in lists {
        list.retain(|call| !calls.contains(call));
    }
}
