//! From the text of a profile and of its bases to its meaning.

use std::collections::BTreeMap;

use super::error::ProfileError;
use super::fates::Fates;
use super::file_format::FileProfile;
use super::names::is_profile_name;
use super::profile::SeccompProfile;
use super::sections::{add_absent, add_conditional, add_denied, add_groups, remove_calls};
use super::source::Source;
use crate::nearest::nearest;
use crate::profile_name;

/// How many profiles may stand on one another.
const MAX_BASES: usize = 4;

impl SeccompProfile {
    /// Parses the profile `text`. Messages call it `origin`, most usefully a path; `base` gives the text of
    /// the profile that this one starts from, by name.
    ///
    /// # Errors
    /// [`ProfileError`] with the line, if the text is no profile, or if one of its bases is none.
    pub fn parse(
        text: &str,
        origin: &str,
        base: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ProfileError> {
        parse_below(text, origin, base, &mut Vec::new())
    }
}

/// The parser's words, with the key that was probably meant: it quotes the unknown key, then the known ones.
fn with_nearest(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let near = match quoted.split_first() {
        Some((unknown, known)) if message.starts_with("unknown field") => nearest(unknown, known),
        _ => None,
    };
    match near {
        Some(key) => format!("{message}; nearest known key is {key}"),
        None => message.to_owned(),
    }
}

fn parse_below(
    text: &str,
    origin: &str,
    find: &dyn Fn(&str) -> Option<String>,
    above: &mut Vec<String>,
) -> Result<SeccompProfile, ProfileError> {
    let source = Source { text, origin };
    let file: FileProfile = toml::from_str(text).map_err(|error| ProfileError::Syntax {
        file: origin.to_owned(),
        line: error.span().map_or(1, |span| source.line(span)),
        message: with_nearest(error.message()),
    })?;

    if !is_profile_name(file.name.get_ref()) {
        return Err(source.wrong(file.name.span(), "name", file.name.get_ref(), profile_name::EXPECTED));
    }
    let mut profile = match &file.base {
        None => SeccompProfile {
            name: String::new(),
            summary: String::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            absent: Vec::new(),
        },
        Some(base) => {
            let wrong = |expected: String| source.wrong(base.span(), "base", base.get_ref(), expected);
            above.push(file.name.get_ref().clone());
            if above.contains(base.get_ref()) {
                return Err(wrong("a profile that does not itself start from this one".into()));
            }
            if above.len() > MAX_BASES {
                return Err(wrong(format!("at most {MAX_BASES} profiles on one another")));
            }
            let text =
                find(base.get_ref()).ok_or_else(|| wrong("the name of a profile that exists".into()))?;
            parse_below(&text, base.get_ref(), find, above)?
        }
    };
    profile.name = file.name.get_ref().clone();
    profile.summary = source.sentence("summary", file.summary)?;

    let mut fates = Fates { source: &source, seen: BTreeMap::new() };
    add_groups(&mut profile, &mut fates, file.group)?;
    let conditional = add_denied(&mut profile, &mut fates, file.deny)?;
    add_absent(&mut profile, &mut fates, file.absent)?;
    remove_calls(&mut profile, &mut fates, file.remove)?;
    // Last, because a condition is only of use on a call that still runs.
    add_conditional(&mut profile, &fates, conditional)?;

    profile.allow.retain(|group| !group.calls.is_empty());
    profile.deny.retain(|rule| !rule.calls.is_empty());
    profile.absent.retain(|absent| !absent.calls.is_empty());
    Ok(profile)
}
