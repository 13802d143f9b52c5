//! All definitions of a node together, and the conflicts between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::definition::Definition;
use crate::error::{ConfigError, ErrorKind};
use crate::names::SliceName;

/// The definitions of a directory, kept up file by file, so that one changed file costs no look at the others.
///
/// - A file that turns bad keeps its last good definition in effect; its mistakes are listed.
/// - A file that is gone takes its definition with it.
/// - Of several files that define one name, the first that did holds it until it lets go; the others wait, and are
///   listed as in conflict. Then the one that has waited longest is promoted.
/// - A file whose `name` changes lets go of the old name, even if it has to wait for the new one.
#[derive(Debug, Clone, Default)]
pub struct DefinitionSet {
    files: BTreeMap<PathBuf, File>,
    /// For each name the files that define it, in the order in which they first did; the first holds it.
    claims: BTreeMap<SliceName, BTreeMap<u64, PathBuf>>,
    /// Files with mistakes in them.
    bad: BTreeSet<PathBuf>,
    /// Names with more than one claim.
    contested: BTreeSet<SliceName>,
    next_claim: u64,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// The last good definition with the place of its claim in the queue for its name.
    good: Option<(u64, Definition)>,
    /// What is wrong with the file as it is now.
    errors: Vec<ConfigError>,
}

/// What a change of one file did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The slices whose definition in effect is another than before, or is gone, in order of name.
    pub changed: Vec<SliceName>,
}

impl DefinitionSet {
    /// A set without definitions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of what the file at `path` now says.
    pub fn upsert(&mut self, path: &Path, read: Result<Definition, Vec<ConfigError>>) -> Outcome {
        let definition = match read {
            Ok(definition) => definition,
            Err(errors) => {
                self.bad.insert(path.to_owned());
                self.files.entry(path.to_owned()).or_default().errors = errors;
                return Outcome::default();
            }
        };
        self.bad.remove(path);
        let old = self.files.remove(path).and_then(|file| file.good);
        let mut names = BTreeSet::from([definition.name.clone()]);
        names.extend(old.iter().map(|(_, old)| old.name.clone()));
        // Before and after are compared by content, for which the old file's content has to be at hand.
        let before: Vec<_> =
            names.iter().map(|name| self.in_effect(name, path, old.as_ref()).cloned()).collect();
        let claim = match old {
            Some((claim, old)) if old.name == definition.name => claim,
            old => {
                if let Some((claim, old)) = old {
                    self.release(&old.name, claim);
                }
                self.claim(&definition.name, path)
            }
        };
        self.files.insert(path.to_owned(), File { good: Some((claim, definition)), errors: Vec::new() });
        self.outcome(names, before)
    }

    /// Takes note that the file at `path` is gone.
    pub fn remove(&mut self, path: &Path) -> Outcome {
        self.bad.remove(path);
        let Some((claim, old)) = self.files.remove(path).and_then(|file| file.good) else {
            return Outcome::default();
        };
        let name = old.name.clone();
        let old = (claim, old);
        let before = vec![self.in_effect(&name, path, Some(&old)).cloned()];
        self.release(&name, claim);
        self.outcome(BTreeSet::from([name]), before)
    }

    /// The definition in effect for the slice `name`.
    pub fn get(&self, name: &SliceName) -> Option<&Definition> {
        self.in_effect(name, Path::new(""), None)
    }

    /// The file whose definition of the slice `name` is in effect.
    pub fn source(&self, name: &SliceName) -> Option<&Path> {
        self.claims.get(name)?.values().next().map(PathBuf::as_path)
    }

    /// The slice that the file at `path` defines in effect; none while it waits for its name.
    pub fn defined_by(&self, path: &Path) -> Option<&SliceName> {
        let (_, definition) = self.files.get(path)?.good.as_ref()?;
        (self.source(&definition.name) == Some(path)).then_some(&definition.name)
    }

    /// All definitions in effect, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.claims.keys().filter_map(|name| self.get(name))
    }

    /// The number of definitions in effect.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether no definition is in effect.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// All that is wrong, by file: mistakes within files, and conflicts between them.
    pub fn errors(&self) -> BTreeMap<PathBuf, Vec<ConfigError>> {
        let waiting = self
            .contested
            .iter()
            .filter_map(|name| self.claims.get(name))
            .flat_map(|claims| claims.values().skip(1).cloned());
        let concerned: BTreeSet<PathBuf> = self.bad.iter().cloned().chain(waiting).collect();
        concerned
            .into_iter()
            .map(|path| {
                let errors = self.errors_of(&path);
                (path, errors)
            })
            .collect()
    }

    /// What is wrong with the file at `path`; empty if nothing is, or there is no such file.
    pub fn errors_of(&self, path: &Path) -> Vec<ConfigError> {
        let Some(file) = self.files.get(path) else { return Vec::new() };
        let mut errors = file.errors.clone();
        if let Some((_, definition)) = &file.good
            && let Some(holder) = self.source(&definition.name).filter(|holder| *holder != path)
        {
            errors.push(conflict(path, definition, holder, self.get(&definition.name)));
        }
        errors
    }

    /// The definition in effect for `name`, where the file at `path`, if it was taken out, still says `taken_out`.
    fn in_effect<'s>(
        &'s self,
        name: &SliceName,
        path: &Path,
        taken_out: Option<&'s (u64, Definition)>,
    ) -> Option<&'s Definition> {
        let holder = self.source(name)?;
        let good = match self.files.get(holder) {
            Some(file) => file.good.as_ref(),
            None => taken_out.filter(|_| holder == path),
        };
        good.map(|(_, definition)| definition)
    }

    fn claim(&mut self, name: &SliceName, path: &Path) -> u64 {
        let claim = self.next_claim;
        self.next_claim += 1;
        let claims = self.claims.entry(name.clone()).or_default();
        claims.insert(claim, path.to_owned());
        if claims.len() > 1 {
            self.contested.insert(name.clone());
        }
        claim
    }

    fn release(&mut self, name: &SliceName, claim: u64) {
        if let Some(claims) = self.claims.get_mut(name) {
            claims.remove(&claim);
            if claims.len() < 2 {
                self.contested.remove(name);
            }
            if claims.is_empty() {
                self.claims.remove(name);
            }
        }
    }

    fn outcome(&self, names: BTreeSet<SliceName>, before: Vec<Option<Definition>>) -> Outcome {
        let changed = names
            .into_iter()
            .zip(before)
            .filter(|(name, before)| self.get(name) != before.as_ref())
            .map(|(name, _)| name);
        Outcome { changed: changed.collect() }
    }
}

/// The error of the file at `path`, which waits for a name that `holder` has.
fn conflict(path: &Path, waiting: &Definition, holder: &Path, held: Option<&Definition>) -> ConfigError {
    let place = match held.map(|held| held.origin.name_line) {
        None | Some(0) => holder.display().to_string(),
        Some(line) => format!("{}:{line}", holder.display()),
    };
    ConfigError {
        kind: ErrorKind::Conflict,
        file: path.to_owned(),
        line: waiting.origin.name_line,
        column: 0,
        key: "name".to_owned(),
        read: Some(format!("\"{}\"", waiting.name)),
        expected: Some("a name that no other file defines".to_owned()),
        nearest: None,
        reason: Some(format!("{} defined it first", crate::shown::escaped_whole(&place))),
    }
}
