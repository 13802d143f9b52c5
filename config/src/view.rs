//! What a slice may ask to see of the node's files beside the system directories.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::ValueError;
use crate::paths::AbsolutePath;
use crate::units::serde_as_text;

/// What an entry looks like, for error messages.
pub(crate) const EXPECTED: &str = "a read-only path such as \"ro:/opt/jdk\"";

/// Directories that a capsule has its own of, or that show more than one slice's share of the node. None of them
/// can be asked for as a whole.
const OWN: [&str; 14] = [
    "/",
    "/dev",
    "/etc",
    "/home",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var",
    "/var/lib",
    "/var/run",
    "/var/tmp",
    "/var/lib/planetlab",
];

/// Those of them of which nothing below can be asked for either.
const CLOSED: [&str; 7] = ["/dev", "/proc", "/root", "/run", "/sys", "/var/run", "/var/lib/planetlab"];

/// Whether the node's file or directory at `path` must never be bound into a capsule.
pub(crate) fn is_a_capsules_own(path: &AbsolutePath) -> bool {
    OWN.contains(&path.as_str()) || CLOSED.iter().any(|closed| path.as_path().starts_with(closed))
}

/// A directory or file of the node that a slice asks to see in its capsule, under the same path, read-only (4.4).
///
/// Written `"ro:/opt/jdk"`. There is no writable form: the home directory is a capsule's only writable storage
/// (4.5), because only that is counted and removed with the slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewPath(AbsolutePath);

impl ViewPath {
    /// The path, on the node and in the capsule.
    pub fn path(&self) -> &Path {
        self.0.as_path()
    }

    /// The path with its spelling guaranteed.
    pub fn as_absolute(&self) -> &AbsolutePath {
        &self.0
    }
}

impl FromStr for ViewPath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| Err(ValueError::because(EXPECTED, reason));
        let path = match text.split_once(':') {
            Some(("ro", path)) => path,
            Some(("rw", _)) => return wrong("the home directory is the only writable storage"),
            Some((mode, _)) if !mode.contains('/') => return wrong("the only mode is ro"),
            _ => return wrong("the mode is missing"),
        };
        let path: AbsolutePath = path.parse().map_err(|error: ValueError| {
            ValueError::because(EXPECTED, error.reason().unwrap_or("the path is not absolute").to_owned())
        })?;
        if is_a_capsules_own(&path) {
            return wrong("a capsule has its own there, or none");
        }
        Ok(Self(path))
    }
}

impl fmt::Display for ViewPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ro:{}", self.0)
    }
}

serde_as_text!(ViewPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_paths_are_accepted() {
        for text in ["ro:/opt/jdk", "ro:/opt", "ro:/srv/data", "ro:/home/shared/data", "ro:/opt/a:b"] {
            assert_eq!(text.parse::<ViewPath>().map(|p| p.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_a_capsule_has_of_its_own_cannot_be_asked_for() {
        for closed in CLOSED {
            assert!(OWN.contains(&closed));
            assert!(format!("ro:{closed}/x").parse::<ViewPath>().is_err(), "{closed}");
        }
        for own in OWN {
            assert!(format!("ro:{own}").parse::<ViewPath>().is_err(), "{own}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["", "/opt", "rw:/opt", "rx:/opt", "ro:opt", "ro:/opt/../etc", "ro:/opt/", "ro:", "RO:/opt"]
        {
            assert!(text.parse::<ViewPath>().is_err(), "{text}");
        }
    }
}
