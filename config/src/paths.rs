//! Absolute paths as the node file and definitions name them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::ValueError;
use crate::units::serde_as_text;

/// What a path looks like, for error messages.
pub(crate) const EXPECTED: &str = "an absolute path such as \"/opt\"";

/// An absolute path in its only spelling: no `.` or `..`, no doubled or trailing slash, no control characters.
///
/// So two of them can be compared component by component without asking the file system. Whether the path exists,
/// and whether a symbolic link lies on it, is not known here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsolutePath(Box<str>);

impl AbsolutePath {
    /// A path of this crate's own that is known to be well formed.
    pub(crate) fn known(text: &'static str) -> Self {
        debug_assert!(text.parse::<Self>().is_ok());
        Self(text.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }

    /// Whether this is `other` or lies below it, component by component: `/optical` is not below `/opt`.
    pub fn is_within(&self, other: &AbsolutePath) -> bool {
        self.as_path().starts_with(other.as_path())
    }
}

impl FromStr for AbsolutePath {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| Err(ValueError::because(EXPECTED, reason));
        let Some(below) = text.strip_prefix('/') else {
            return Err(ValueError::expected(EXPECTED));
        };
        if text.len() > 1024 {
            return wrong("longer than 1024 bytes");
        }
        if text.chars().any(char::is_control) {
            return wrong("has control characters");
        }
        if below.split('/').any(|part| matches!(part, "." | "..")) {
            return wrong("has a \".\" or \"..\" in it");
        }
        if !below.is_empty() && below.split('/').any(str::is_empty) {
            return wrong("has a doubled or trailing slash");
        }
        Ok(Self(text.into()))
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(AbsolutePath);

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsolutePath {
        text.parse().expect("a good path")
    }

    #[test]
    fn only_one_spelling() {
        for text in ["/", "/opt", "/opt/jdk-21", "/opt/..a"] {
            assert_eq!(path(text).as_str(), text);
        }
        for text in [
            "",
            "opt",
            "./opt",
            "/opt/",
            "//opt",
            "/opt//a",
            "/opt/.",
            "/opt/../etc",
            "/..",
            "/a\0b",
            "/a\nb",
        ] {
            assert!(text.parse::<AbsolutePath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn within_is_by_component() {
        assert!(path("/opt/jdk").is_within(&path("/opt")));
        assert!(path("/opt").is_within(&path("/opt")));
        assert!(path("/opt").is_within(&path("/")));
        assert!(!path("/optical").is_within(&path("/opt")));
        assert!(!path("/opt").is_within(&path("/opt/jdk")));
    }
}
