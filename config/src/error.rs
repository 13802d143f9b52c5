//! What is wrong in a configuration file, and where.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::shown::escaped_whole;

/// What sort of mistake a [`ConfigError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The file could not be read at all.
    Unreadable,
    /// The text is not TOML.
    Syntax,
    /// A key that means nothing there.
    UnknownKey,
    /// A key that must be there is not.
    Missing,
    /// A value of the wrong form or out of its range.
    Value,
    /// A key that is understood, and asks for what this node does not do.
    Refused,
    /// Two definitions that cannot both hold.
    Conflict,
}

/// One mistake in one configuration file.
///
/// It says all that is needed to put the mistake right: where it is, what was read there, what was expected, and
/// for an unknown key the known one that is nearest. What is repeated from the file is escaped and bounded to 80
/// characters, so that a definition cannot write to the terminal of who reads its errors. `Display` is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// What sort of mistake it is.
    pub kind: ErrorKind,
    /// The file as its origin was given.
    #[serde(serialize_with = "path_as_text")]
    pub file: PathBuf,
    /// Line of the mistake, from 1; 0 if it has no one line.
    pub line: usize,
    /// Column of the mistake in characters, from 1; 0 if it has no one column.
    pub column: usize,
    /// The key with its tables, such as `memory.max`; empty if it has no one key.
    pub key: String,
    /// What was read, escaped and bounded; strings in quotes.
    pub read: Option<String>,
    /// What would have been accepted.
    pub expected: Option<String>,
    /// For an unknown key, the known one that is nearest, if any is near.
    pub nearest: Option<String>,
    /// What is wrong, where the other parts do not show it.
    pub reason: Option<String>,
}

fn path_as_text<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped_whole(&self.file.to_string_lossy()))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        let mut parts = Vec::new();
        match self.kind {
            ErrorKind::Unreadable | ErrorKind::Value => {}
            ErrorKind::Syntax => parts.push("not valid TOML".to_owned()),
            ErrorKind::UnknownKey => parts.push("unknown key".to_owned()),
            ErrorKind::Missing => parts.push("missing".to_owned()),
            ErrorKind::Refused => parts.push("refused".to_owned()),
            ErrorKind::Conflict => parts.push("conflict".to_owned()),
        }
        // The key itself is what was read where the key is the mistake.
        let read = self.read.as_ref().filter(|_| self.kind != ErrorKind::UnknownKey);
        match (read, &self.expected) {
            (Some(read), Some(expected)) => parts.push(format!("read {read}, expected {expected}")),
            (Some(read), None) => parts.push(format!("read {read}")),
            (None, Some(expected)) => parts.push(format!("expected {expected}")),
            (None, None) => {}
        }
        parts.extend(self.reason.clone());
        parts.extend(self.nearest.as_ref().map(|key| format!("nearest known key is {key}")));
        f.write_str(&parts.join("; "))
    }
}

impl std::error::Error for ConfigError {}
