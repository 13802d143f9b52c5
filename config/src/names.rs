//! Names of slices and nodes.

use std::fmt;
use std::str::FromStr;

use crate::ValueError;
use crate::units::serde_as_text;

/// What a slice name looks like, for error messages.
pub(crate) const SLICE_EXPECTED: &str = "a slice name such as \"princeton4\" or \"princeton_codeen\"";
/// What a node name looks like, for error messages.
pub(crate) const NODE_EXPECTED: &str = "a host name such as \"planetlab1.princeton.planet-lab.org\"";

/// Users that a Debian system has before any slice comes. A slice's name is its user name, inside and in
/// every log line, and must not read as one of these.
const SYSTEM_USERS: [&str; 21] = [
    "backup",
    "bin",
    "daemon",
    "games",
    "irc",
    "list",
    "lp",
    "mail",
    "man",
    "messagebus",
    "news",
    "nobody",
    "polkitd",
    "proxy",
    "root",
    "sshd",
    "sync",
    "sys",
    "syslog",
    "tcpdump",
    "uucp",
];

/// The name of a slice, which is also its account's name (6.6): the site's short name with a number, as in
/// `princeton4`, or with a name of the slice's own, as in `princeton_codeen`.
///
/// At most 32 bytes: a lower-case letter, then lower-case letters and digits, in parts joined by single
/// underscores. So it is safe as a file name, a cgroup name and a user name, and never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName(Box<str>);

impl SliceName {
    /// The longest name in bytes; Linux user names end there.
    pub const MAX_LEN: usize = 32;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SliceName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| Err(ValueError::because(SLICE_EXPECTED, reason));
        if text.len() > Self::MAX_LEN {
            return wrong("longer than 32 bytes");
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return wrong("does not begin with a lower-case letter");
        }
        if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
            return wrong("has other characters than lower-case letters, digits and underscores");
        }
        if text.split('_').any(str::is_empty) {
            return wrong("an underscore stands between two parts");
        }
        if SYSTEM_USERS.contains(&text) {
            return wrong("that is a system user's name");
        }
        Ok(Self(text.into()))
    }
}

impl AsRef<str> for SliceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(SliceName);

/// The DNS name of a node, such as `planetlab1.princeton.planet-lab.org` (6.3), kept in lower case, since DNS
/// compares without case.
///
/// At most 253 bytes; labels of 1 to 63 letters, digits and inner hyphens. No trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// The name as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let label_is_good = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if text.len() > 253 {
            return Err(ValueError::because(NODE_EXPECTED, "longer than 253 bytes"));
        }
        if !text.split('.').all(label_is_good) {
            return Err(ValueError::expected(NODE_EXPECTED));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_names_of_both_forms_are_accepted() {
        for name in ["princeton4", "princeton_codeen", "irb_1", "a", "a_b_c", &"a".repeat(32)] {
            assert_eq!(name.parse::<SliceName>().map(|n| n.as_str().to_owned()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn slice_names_are_never_paths_or_system_users() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a.b",
            "a-b",
            "4princeton",
            "_a",
            "a_",
            "a__b",
            "Princeton",
            "a b",
            "a\0",
            "a\n",
            "prïnceton",
            "root",
            "nobody",
            &"a".repeat(33),
        ] {
            assert!(name.parse::<SliceName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn node_names_ignore_case() {
        let name: NodeName = "PlanetLab1.Princeton.planet-lab.org".parse().expect("a host name");
        assert_eq!(name.as_str(), "planetlab1.princeton.planet-lab.org");
    }

    #[test]
    fn node_names_are_host_names() {
        for name in
            ["", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a/b", "a b", &"a".repeat(64), &"a.".repeat(127)]
        {
            assert!(name.parse::<NodeName>().is_err(), "{name:?}");
        }
    }
}
