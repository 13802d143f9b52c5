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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::nearest::nearest;
use crate::profile_name::{self, ProfileName};

/// The profiles that every node has, with their files.
const BUILTIN: [(&str, &str); 2] = [
    ("default", include_str!("../profiles/seccomp/default.toml")),
    ("strict", include_str!("../profiles/seccomp/strict.toml")),
];

/// The longest profile file that is read. The built-in ones take about 20 KiB.
const MAX_FILE: u64 = 256 * 1024;
/// How many profiles may stand on one another.
const MAX_BASES: usize = 4;

/// What the slices that use it may ask of the kernel; the meaning of one profile file and its bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompProfile {
    /// The name by which a definition asks for it.
    pub name: String,
    /// One line for `plab check` and the like.
    pub summary: String,
    /// The calls that run, grouped by purpose. A conditional rule in `deny` may still refuse one.
    pub allow: Vec<CallGroup>,
    /// The calls that get `EPERM`, some of them only with certain arguments.
    pub deny: Vec<DenyRule>,
    /// Calls that get `ENOSYS` on purpose. So does every call that the profile does not name.
    pub absent: Vec<AbsentCalls>,
}

/// System calls that are allowed for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallGroup {
    /// What they have in common.
    pub name: String,
    /// Why a slice may have them.
    pub why: String,
    /// Their names.
    pub calls: Vec<String>,
}

/// System calls that are refused with `EPERM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyRule {
    /// Their names.
    pub calls: Vec<String>,
    /// Against what.
    pub why: String,
    /// All of these must hold for the rule to apply. None at all: it always applies.
    pub when: Vec<Condition>,
}

impl DenyRule {
    /// Whether the arguments do not matter.
    pub fn is_unconditional(&self) -> bool {
        self.when.is_empty()
    }
}

/// System calls that are as if the kernel did not have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentCalls {
    /// Their names.
    pub calls: Vec<String>,
    /// Why, and what programs do instead.
    pub why: String,
}

/// A test of the low 32 bits of one argument.
///
/// Not of all 64: where the kernel takes an `int` it drops the upper half, so a test of the whole register
/// would be passed by the same value plus 2^32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub arg: u8,
    /// What must hold for it.
    pub test: Test,
}

/// What must hold for an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// After masking it is one of `values`.
    In {
        /// The bits that are looked at.
        mask: u32,
        /// The values, none with a bit outside `mask`.
        values: Vec<u32>,
    },
    /// It is none of these.
    NotIn(Vec<u32>),
    /// At least one of these single bits is set.
    AnyBits(Vec<u32>),
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file is not TOML, or has a key that no profile has.
    #[error("{file}, line {line}: {message}")]
    Syntax {
        /// The file, or what it was called by the caller.
        file: String,
        /// Where, from 1.
        line: usize,
        /// The parser's words, which name the key and what was expected.
        message: String,
    },
    /// A value that a profile cannot have there.
    #[error("{file}, line {line}: {key}: read {read}, expected {expected}")]
    Value {
        /// The file, or what it was called by the caller.
        file: String,
        /// Where, from 1.
        line: usize,
        /// The key, as in `deny.when.arg`.
        key: String,
        /// What stood there.
        read: String,
        /// What may stand there.
        expected: String,
    },
    /// No profile of that name.
    #[error("seccomp profile {name:?}: neither built in (default, strict) nor found as {looked}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A site's file has the name of a built-in profile and would never be used.
    #[error(
        "{file}: {name:?} is built in and cannot be replaced; give this profile another name and \
         `base = {name:?}`"
    )]
    Shadows {
        /// The site's file.
        file: String,
        /// The built-in profile.
        name: String,
    },
    /// The file is there and cannot be read.
    #[error("read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

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

    /// The text of a built-in profile.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// The names of the built-in profiles.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// The profile that a definition calls `name`: built in, or `site_dir/NAME.toml`.
    ///
    /// A built-in name always means the built-in profile, so that `default` is the same on every node.
    ///
    /// # Errors
    /// [`ProfileError`], if there is none, if it cannot be read, or if it is wrong.
    pub fn load(name: &str, site_dir: &Path) -> Result<Self, ProfileError> {
        // The name comes from a slice's definition and becomes a path: check it before it does.
        let looked = site_dir.join(format!("{name}.toml"));
        let unknown =
            || ProfileError::Unknown { name: name.to_owned(), looked: looked.display().to_string() };
        if !is_profile_name(name) {
            return Err(unknown());
        }
        let site = read_site_file(&looked)?;
        match (Self::builtin_text(name), site) {
            (Some(_), Some(_)) => {
                Err(ProfileError::Shadows { file: looked.display().to_string(), name: name.to_owned() })
            }
            (Some(text), None) => Self::parse(text, name, &|base| find_text(base, site_dir)),
            (None, Some(text)) => {
                let origin = looked.display().to_string();
                let profile = Self::parse(&text, &origin, &|base| find_text(base, site_dir))?;
                if profile.name != name {
                    let expected = format!("{name:?}, like the file");
                    let read = format!("{:?}", profile.name);
                    return Err(ProfileError::Value {
                        file: origin,
                        line: 1,
                        key: "name".into(),
                        read,
                        expected,
                    });
                }
                Ok(profile)
            }
            (None, None) => Err(unknown()),
        }
    }

    /// The names of all calls that run, at least with some arguments.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allow.iter().flat_map(|group| &group.calls).map(String::as_str)
    }

    /// The names of all calls that get `EPERM` whatever their arguments.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.deny
            .iter()
            .filter(|rule| rule.is_unconditional())
            .flat_map(|rule| &rule.calls)
            .map(String::as_str)
    }
}

/// The text of a profile that another one names as its base; a broken site file is found again, and
/// reported, when it is asked for by name.
fn find_text(name: &str, site_dir: &Path) -> Option<String> {
    if !is_profile_name(name) {
        return None;
    }
    match SeccompProfile::builtin_text(name) {
        Some(text) => Some(text.to_owned()),
        None => read_site_file(&site_dir.join(format!("{name}.toml"))).ok().flatten(),
    }
}

fn read_site_file(path: &Path) -> Result<Option<String>, ProfileError> {
    let failed = |source| ProfileError::Read { file: path.display().to_string(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(std::io::Error::other(format!("longer than {MAX_FILE} bytes"))));
    }
    Ok(Some(text))
}

/// The same names that definitions may ask for: each is a file name, and none a path.
fn is_profile_name(name: &str) -> bool {
    name.parse::<ProfileName>().is_ok()
}

/// The form of every system call's name; whether there is such a call, the compiler knows.
fn is_call_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

// ------------------------------------------------------------------------------------------------------
// The file as it is written
// ------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProfile {
    name: Spanned<String>,
    summary: Spanned<String>,
    base: Option<Spanned<String>>,
    #[serde(default)]
    group: Vec<FileGroup>,
    #[serde(default)]
    deny: Vec<FileDeny>,
    #[serde(default)]
    absent: Vec<FileCalls>,
    #[serde(default)]
    remove: Vec<FileCalls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGroup {
    name: Spanned<String>,
    why: Spanned<String>,
    calls: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDeny {
    calls: Spanned<Vec<Spanned<String>>>,
    why: Spanned<String>,
    when: Option<Spanned<Vec<Spanned<FileCondition>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCalls {
    calls: Spanned<Vec<Spanned<String>>>,
    why: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCondition {
    arg: Spanned<i64>,
    mask: Option<Spanned<i64>>,
    r#in: Option<Vec<Spanned<i64>>>,
    not_in: Option<Vec<Spanned<i64>>>,
    any_bits: Option<Vec<Spanned<i64>>>,
}

/// A file that is being read: what messages need to say where they are.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn wrong(
        &self,
        span: Range<usize>,
        key: &str,
        read: impl fmt::Debug,
        expected: impl Into<String>,
    ) -> ProfileError {
        ProfileError::Value {
            file: self.origin.to_owned(),
            line: self.line(span),
            key: key.to_owned(),
            read: format!("{read:?}"),
            expected: expected.into(),
        }
    }

    fn sentence(&self, key: &str, text: Spanned<String>) -> Result<String, ProfileError> {
        if text.get_ref().trim().is_empty() {
            return Err(self.wrong(text.span(), key, text.get_ref(), "a reason for the reader"));
        }
        Ok(text.into_inner())
    }

    fn u32(&self, key: &str, value: &Spanned<i64>) -> Result<u32, ProfileError> {
        u32::try_from(*value.get_ref())
            .map_err(|_| self.wrong(value.span(), key, value.get_ref(), "a number from 0 to 0xffffffff"))
    }

    fn values(
        &self,
        key: &str,
        values: Vec<Spanned<i64>>,
        at: &Range<usize>,
    ) -> Result<Vec<u32>, ProfileError> {
        // An empty list would mean "always" for not_in and "never" for the others: nobody means either.
        if values.is_empty() {
            return Err(self.wrong(at.clone(), key, "[]", "at least one number"));
        }
        let mut seen = BTreeSet::new();
        for value in &values {
            if !seen.insert(self.u32(key, value)?) {
                return Err(self.wrong(value.span(), key, value.get_ref(), "each number once"));
            }
        }
        values.iter().map(|value| self.u32(key, value)).collect()
    }

    fn condition(&self, condition: Spanned<FileCondition>) -> Result<Condition, ProfileError> {
        let at = condition.span();
        let FileCondition { arg, mask, r#in, not_in, any_bits } = condition.into_inner();
        let number = u8::try_from(*arg.get_ref()).ok().filter(|number| *number <= 5).ok_or_else(|| {
            self.wrong(arg.span(), "deny.when.arg", arg.get_ref(), "the number of an argument, from 0 to 5")
        })?;
        let test = match (r#in, not_in, any_bits, &mask) {
            (Some(values), None, None, _) => {
                let bits = mask.as_ref().map_or(Ok(u32::MAX), |bits| self.u32("deny.when.mask", bits))?;
                for value in &values {
                    if self.u32("deny.when.in", value)? & !bits != 0 {
                        let expected = format!("no bit outside the mask {bits:#x}, else it never matches");
                        return Err(self.wrong(value.span(), "deny.when.in", value.get_ref(), expected));
                    }
                }
                Test::In { mask: bits, values: self.values("deny.when.in", values, &at)? }
            }
            (None, Some(values), None, None) => Test::NotIn(self.values("deny.when.not_in", values, &at)?),
            (None, None, Some(bits), None) => {
                for bit in &bits {
                    if !self.u32("deny.when.any_bits", bit)?.is_power_of_two() {
                        return Err(self.wrong(
                            bit.span(),
                            "deny.when.any_bits",
                            bit.get_ref(),
                            "a single bit",
                        ));
                    }
                }
                Test::AnyBits(self.values("deny.when.any_bits", bits, &at)?)
            }
            _ => {
                let read = self.text.get(at.clone()).unwrap_or_default();
                let expected = "exactly one of in, not_in and any_bits; mask goes with in";
                return Err(self.wrong(at, "deny.when", read, expected));
            }
        };
        Ok(Condition { arg: number, test })
    }
}

// ------------------------------------------------------------------------------------------------------
// From the file to its meaning
// ------------------------------------------------------------------------------------------------------

/// What a call gets. `Deny` is the unconditional one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
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
struct Fates<'a> {
    source: &'a Source<'a>,
    seen: BTreeMap<String, (Fate, usize)>,
}

impl Fates<'_> {
    /// Takes a list of names, each for the first time.
    fn take(
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
                return Err(self.source.wrong(call.span(), fate.key(), call.get_ref(), expected));
            }
            self.seen.insert(call.get_ref().clone(), (fate, line));
            names.push(call.into_inner());
        }
        Ok(names)
    }

    fn check_names(&self, key: &str, calls: &Spanned<Vec<Spanned<String>>>) -> Result<(), ProfileError> {
        if calls.get_ref().is_empty() {
            return Err(self.source.wrong(calls.span(), key, "[]", "the name of at least one system call"));
        }
        for call in calls.get_ref() {
            if !is_call_name(call.get_ref()) {
                return Err(self.source.wrong(call.span(), key, call.get_ref(), "the name of a system call"));
            }
        }
        Ok(())
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

fn add_groups(
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
            return Err(source.wrong(call.span(), "group.calls", call.get_ref(), problem));
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
fn add_denied(
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
                return Err(source.wrong(call.span(), "deny.calls", call.get_ref(), expected));
            }
        }
        let why = source.sentence("deny.why", why)?;
        let calls = fates.take(Fate::Deny, calls)?;
        forget(profile, &calls);
        profile.deny.push(DenyRule { calls, why, when: Vec::new() });
    }
    Ok(conditional)
}

fn add_absent(
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
                return Err(source.wrong(call.span(), "absent.calls", call.get_ref(), expected));
            }
        }
        let why = source.sentence("absent.why", why)?;
        let calls = fates.take(Fate::Absent, calls)?;
        profile.absent.push(AbsentCalls { calls, why });
    }
    Ok(())
}

fn remove_calls(
    profile: &mut SeccompProfile,
    fates: &mut Fates<'_>,
    lists: Vec<FileCalls>,
) -> Result<(), ProfileError> {
    for FileCalls { calls, why } in lists {
        let source = fates.source;
        for call in calls.get_ref() {
            let runs = profile.allowed().any(|known| known == call.get_ref());
            if !runs && !fates.seen.contains_key(call.get_ref()) {
                return Err(source.wrong(
                    call.span(),
                    "remove.calls",
                    call.get_ref(),
                    "a call that the base lets run",
                ));
            }
        }
        let why = source.sentence("remove.why", why)?;
        let calls = fates.take(Fate::Remove, calls)?;
        forget(profile, &calls);
        profile.absent.push(AbsentCalls { calls, why });
    }
    Ok(())
}

fn add_conditional(
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
            return Err(source.wrong(call.span(), "deny.calls", call.get_ref(), expected));
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
            return Err(source.wrong(
                call.span(),
                "deny.calls",
                call.get_ref(),
                "each condition once for a call",
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SeccompProfile, ProfileError> {
        SeccompProfile::parse(text, "site.toml", &|name| {
            SeccompProfile::builtin_text(name).map(str::to_owned)
        })
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

    #[test]
    fn the_built_in_profiles_parse_and_have_their_own_names() {
        for name in SeccompProfile::builtin_names() {
            let profile = SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
            assert_eq!(profile.name, name);
            assert!(profile.allowed().count() > 200);
        }
    }

    #[test]
    fn no_built_in_profile_says_anything_twice() {
        for name in SeccompProfile::builtin_names() {
            let profile = SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
            let absent = profile.absent.iter().flat_map(|absent| &absent.calls).map(String::as_str);
            let mut seen = BTreeSet::new();
            for call in profile.allowed().chain(profile.denied()).chain(absent) {
                assert!(seen.insert(call), "{name}: {call}");
            }
            for rule in profile.deny.iter().filter(|rule| !rule.is_unconditional()) {
                for call in &rule.calls {
                    assert!(profile.allowed().any(|known| known == call), "{name}: condition on {call}");
                }
            }
        }
    }

    #[test]
    fn strict_lets_nothing_run_that_default_does_not() {
        let load = |name| SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
        let (default, strict) = (load("default"), load("strict"));
        let allowed: BTreeSet<_> = default.allowed().collect();
        assert!(strict.allowed().all(|call| allowed.contains(call)));
        assert!(strict.allowed().count() < allowed.len());
        // A condition of default is kept wherever its call still runs.
        for rule in default.deny.iter().filter(|rule| !rule.is_unconditional()) {
            for call in rule.calls.iter().filter(|call| strict.allowed().any(|known| known == *call)) {
                assert!(strict.deny.iter().any(|kept| kept.when == rule.when && kept.calls.contains(call)));
            }
        }
        for call in default.denied() {
            assert!(strict.denied().any(|known| known == call), "{call}");
        }
    }

    #[test]
    fn a_whole_profile_is_read() {
        let profile = parse(&head(
            "[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\", \"socket\"]\n\
             [[deny]]\nwhy = \"d\"\ncalls = [\"bpf\"]\n\
             [[deny]]\nwhy = \"c\"\ncalls = [\"socket\"]\nwhen = [\n\
               { arg = 0, not_in = [1] },\n{ arg = 1, mask = 0xf, in = [3] },\n\
               { arg = 2, any_bits = [4, 8] } ]\n\
             [[absent]]\nwhy = \"a\"\ncalls = [\"clone3\"]\n",
        ))
        .expect("a profile");
        assert_eq!(profile.allowed().collect::<Vec<_>>(), ["read", "socket"]);
        assert_eq!(profile.denied().collect::<Vec<_>>(), ["bpf"]);
        let when = &profile.deny[1].when;
        assert_eq!(when[0], Condition { arg: 0, test: Test::NotIn(vec![1]) });
        assert_eq!(when[1], Condition { arg: 1, test: Test::In { mask: 0xf, values: vec![3] } });
        assert_eq!(when[2], Condition { arg: 2, test: Test::AnyBits(vec![4, 8]) });
        assert_eq!(profile.absent[0].calls, ["clone3"]);
    }

    #[test]
    fn a_derived_profile_adds_denies_and_removes() {
        let profile = parse(&derived(
            "[[group]]\nname = \"aio\"\nwhy = \"w\"\ncalls = [\"io_setup\"]\n\
             [[deny]]\nwhy = \"w\"\ncalls = [\"clone\", \"kcmp\"]\n\
             [[deny]]\nwhy = \"w\"\ncalls = [\"io_setup\"]\nwhen = [{ arg = 0, not_in = [1] }]\n\
             [[remove]]\nwhy = \"w\"\ncalls = [\"personality\"]\n",
        ))
        .expect("a profile");
        let absent =
            |name: &str| profile.absent.iter().any(|absent| absent.calls.iter().any(|call| call == name));
        assert!(profile.allowed().any(|call| call == "io_setup") && !absent("io_setup"));
        assert!(
            profile.denied().any(|call| call == "clone") && !profile.allowed().any(|call| call == "clone")
        );
        assert!(profile.denied().any(|call| call == "kcmp") && !absent("kcmp"));
        assert!(absent("personality") && !profile.allowed().any(|call| call == "personality"));
        // The base's conditions on calls that no longer run are gone with them.
        for call in ["clone", "personality"] {
            assert!(
                !profile
                    .deny
                    .iter()
                    .any(|rule| !rule.is_unconditional() && rule.calls.iter().any(|c| c == call))
            );
        }
    }

    #[test]
    fn unknown_keys_are_errors_with_their_line() {
        for (text, line, key) in [
            (head("deni = 1\n"), 3, "deni"),
            (head("[[group]]\nname = \"g\"\nwhy = \"w\"\ncall = [\"read\"]\n"), 6, "call"),
            (head("[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{ arg = 0, eq = 1 }]\n"), 6, "eq"),
        ] {
            let message = refused(&text);
            assert!(message.contains(&format!("site.toml, line {line}:")), "{message}");
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
        let message = refused(&head("sumary = \"s\"\n"));
        assert!(message.ends_with("nearest known key is summary"), "{message}");
    }

    #[test]
    fn what_a_profile_cannot_mean_is_refused() {
        let read = "[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\", \"ioctl\"]\n";
        let when = |when: &str| format!("{read}[[deny]]\nwhy = \"w\"\ncalls = [\"ioctl\"]\nwhen = {when}\n");
        for (rest, part) in [
            (format!("{read}[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6 has it in group.calls"),
            (format!("{read}[[absent]]\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6 has it in group.calls"),
            (format!("{read}[[group]]\nname = \"h\"\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6"),
            (format!("{read}[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"write\"]\n"), "group.name"),
            ("[[deny]]\nwhy = \"w\"\ncalls = [\"bpf\", \"bpf\"]\n".into(), "each call once"),
            ("[[deny]]\nwhy = \"w\"\ncalls = []\n".into(), "at least one system call"),
            ("[[deny]]\nwhy = \" \"\ncalls = [\"bpf\"]\n".into(), "deny.why"),
            ("[[deny]]\nwhy = \"w\"\ncalls = [\"b\\\"pf\"]\n".into(), "the name of a system call"),
            (
                "[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{ arg = 0, in = [1] }]\n".into(),
                "changes nothing",
            ),
            ("[[remove]]\nwhy = \"w\"\ncalls = [\"read\"]\n".into(), "a call that the base lets run"),
            (when("[]"), "a condition, or no `when` at all"),
            (when("[{ arg = 6, in = [1] }]"), "from 0 to 5"),
            (when("[{ arg = -1, in = [1] }]"), "from 0 to 5"),
            (when("[{ arg = 0 }]"), "exactly one of"),
            (when("[{ arg = 0, in = [1], not_in = [2] }]"), "exactly one of"),
            (when("[{ arg = 0, mask = 1, not_in = [2] }]"), "exactly one of"),
            (when("[{ arg = 0, in = [] }]"), "at least one number"),
            (when("[{ arg = 0, not_in = [] }]"), "at least one number"),
            (when("[{ arg = 0, in = [1, 1] }]"), "each number once"),
            (when("[{ arg = 0, in = [0x1_0000_5412] }]"), "a number from 0 to 0xffffffff"),
            (when("[{ arg = 0, in = [-1] }]"), "a number from 0 to 0xffffffff"),
            (when("[{ arg = 0, any_bits = [3] }]"), "a single bit"),
            (when("[{ arg = 0, any_bits = [0] }]"), "a single bit"),
            (when("[{ arg = 0, mask = 0xf, in = [0x10] }]"), "outside the mask"),
            (
                format!(
                    "{0}{1}",
                    when("[{ arg = 0, in = [1] }]"),
                    &when("[{ arg = 0, in = [1] }]")[read.len()..]
                ),
                "each condition once",
            ),
        ] {
            let message = refused(&head(&rest));
            assert!(message.contains(part), "{rest}\n-> {message}\nwithout {part:?}");
            assert!(message.starts_with("site.toml, line "), "{message}");
        }
    }

    #[test]
    fn what_a_derived_profile_cannot_mean_is_refused() {
        for (rest, part) in [
            ("[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\"]\n", "does not run already"),
            ("[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"bpf\"]\n", "without a base"),
            ("[[deny]]\nwhy = \"w\"\ncalls = [\"bpf\"]\n", "does not deny already"),
            ("[[absent]]\nwhy = \"w\"\ncalls = [\"read\"]\n", "taken away by remove"),
            ("[[absent]]\nwhy = \"w\"\ncalls = [\"clone3\"]\n", "does not name"),
            ("[[remove]]\nwhy = \"w\"\ncalls = [\"clone3\"]\n", "lets run"),
            (
                "[[deny]]\nwhy = \"w\"\ncalls = [\"ptrace\"]\n[[remove]]\nwhy = \"w\"\ncalls = [\"ptrace\"]\n",
                "line 6",
            ),
        ] {
            let message = refused(&derived(rest));
            assert!(message.contains(part), "{rest}\n-> {message}\nwithout {part:?}");
        }
    }

    #[test]
    fn bases_that_do_not_end_are_refused() {
        let chain = |name: &str| {
            let next = name.strip_prefix('p')?.parse::<u32>().ok()? + 1;
            Some(format!("name = \"{name}\"\nsummary = \"s\"\nbase = \"p{next}\"\n"))
        };
        let first = chain("p1").expect("a profile");
        let error = SeccompProfile::parse(&first, "p1", &chain).expect_err("too many");
        assert!(error.to_string().contains("at most 4"), "{error}");

        let ring = |name: &str| {
            let next = if name == "a" { "b" } else { "a" };
            Some(format!("name = \"{name}\"\nsummary = \"s\"\nbase = \"{next}\"\n"))
        };
        let error = SeccompProfile::parse(&ring("a").expect("text"), "a", &ring).expect_err("a ring");
        assert!(error.to_string().contains("does not itself start from this one"), "{error}");

        let message = refused(&head("base = \"nowhere\"\n"));
        assert!(message.contains("line 3: base: read \"nowhere\""), "{message}");
    }

    #[test]
    fn a_name_is_never_a_path() {
        for name in ["", "../default", "a/b", "/etc/passwd", "a.b", "A", "-a", "a\0", &"a".repeat(33)] {
            let error = SeccompProfile::load(name, Path::new("/nonexistent")).expect_err(name);
            assert!(matches!(error, ProfileError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn a_sites_own_profiles_are_found_by_name() {
        let dir = std::env::temp_dir().join(format!("plab-seccomp-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file");
        write("own.toml", "name = \"own\"\nsummary = \"s\"\nbase = \"strict\"\n");
        write("other.toml", "name = \"own\"\nsummary = \"s\"\nbase = \"strict\"\n");
        write("second.toml", "name = \"second\"\nsummary = \"s\"\nbase = \"own\"\n");
        write("long.toml", &" ".repeat(MAX_FILE as usize + 1));

        assert_eq!(SeccompProfile::load("own", &dir).expect("own").name, "own");
        assert_eq!(SeccompProfile::load("second", &dir).expect("second").name, "second");
        let message = |name: &str| SeccompProfile::load(name, &dir).expect_err(name).to_string();
        assert!(message("other").contains("\"other\", like the file"));
        assert!(message("long").contains("longer than"));
        assert!(message("none").contains("none.toml"));

        write("default.toml", "name = \"default\"\nsummary = \"s\"\n");
        assert!(message("default").contains("built in"));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
