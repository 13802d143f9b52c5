//! Which of the node's `/etc` a capsule sees.

use std::fmt;
use std::str::FromStr;

use crate::ValueError;
use crate::units::serde_as_text;

/// What an entry looks like, for error messages.
pub(crate) const EXPECTED: &str = "a name below /etc such as \"hosts\", \"ssl\" or \"python3*\"";

/// What the programs a slice runs commonly want of `/etc` on a Debian system, and nothing that tells about the
/// node's own services or people.
pub(crate) const DEFAULT: [&str; 52] = [
    "alternatives",
    "bash.bashrc",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "dpkg/origins",
    "ethertypes",
    "fonts",
    "gai.conf",
    "gdb",
    "gitconfig",
    "host.conf",
    "hostname",
    "hosts",
    "inputrc",
    "java*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "libnl*",
    "locale.alias",
    "locale.conf",
    "locale.gen",
    "localtime",
    "login.defs",
    "magic",
    "magic.mime",
    "mailcap",
    "mime.types",
    "nanorc",
    "netconfig",
    "networks",
    "nsswitch.conf",
    "os-release",
    "perl",
    "profile",
    "profile.d",
    "protocols",
    "python*",
    "resolv.conf",
    "rpc",
    "services",
    "shells",
    "skel",
    "ssl",
    "terminfo",
    "timezone",
    "vim",
    "wgetrc",
    "xattr.conf",
    "xdg",
];

/// What is never copied, whatever an entry matches: secrets, and the files a capsule has its own of.
const NEVER: [&str; 15] = [
    "group",
    "group-",
    "gshadow",
    "gshadow-",
    "krb5.keytab",
    "machine-id",
    "passwd",
    "passwd-",
    "planetlab",
    "shadow",
    "shadow-",
    "ssh",
    "ssl/private",
    "sudoers",
    "sudoers.d",
];

/// A name below `/etc` that capsules see a copy of; a directory stands for all in it. A trailing `*` stands for any
/// ending of that name.
///
/// Whatever the entries say, `/etc/shadow`, `/etc/ssl/private` and their like are not copied:
/// [`EtcEntry::is_private`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcEntry(Box<str>);

impl EtcEntry {
    /// The entry as the node file has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `below`, a path relative to `/etc`, is what this entry names. Never true of private files.
    pub fn matches(&self, below: &str) -> bool {
        if Self::is_private(below) {
            return false;
        }
        match self.0.strip_suffix('*') {
            Some(start) => below.strip_prefix(start).is_some_and(|ending| !ending.contains('/')),
            None => *self.0 == *below,
        }
    }

    /// Whether `below`, a path relative to `/etc`, is or lies in something that no capsule may see a copy of.
    /// Whoever copies a directory asks this of everything in it.
    pub fn is_private(below: &str) -> bool {
        let is_in = |rest: &str| rest.is_empty() || rest.starts_with('/');
        NEVER.iter().any(|never| below.strip_prefix(never).is_some_and(is_in))
    }

    /// The entries of a node file that lists none.
    pub(crate) fn defaults() -> Vec<Self> {
        DEFAULT.iter().map(|entry| Self((*entry).into())).collect()
    }
}

impl FromStr for EtcEntry {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason| Err(ValueError::because(EXPECTED, reason));
        let name = text.strip_suffix('*').unwrap_or(text);
        if text.len() > 255 || text.chars().any(char::is_control) {
            return wrong("longer than 255 bytes or with control characters");
        }
        if name.contains('*') {
            return wrong("a * stands only at the end");
        }
        if text.split('/').any(|part| matches!(part, "" | "." | ".." | "*")) {
            return wrong("the name is relative to /etc, without empty parts, \".\", \"..\" or a lone \"*\"");
        }
        if Self::is_private(text) {
            return wrong("that is private, or a capsule has its own");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EtcEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(EtcEntry);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good_entries() {
        for entry in DEFAULT {
            assert_eq!(entry.parse::<EtcEntry>().map(|e| e.to_string()), Ok(entry.to_owned()));
        }
    }

    #[test]
    fn private_files_never_match() {
        for (entry, private) in [("s*", "shadow"), ("pass*", "passwd"), ("g*", "gshadow-")] {
            let entry: EtcEntry = entry.parse().expect("a good entry");
            assert!(!entry.matches(private), "{entry} {private}");
        }
        assert!(EtcEntry::is_private("ssl/private/key.pem"));
        assert!(!EtcEntry::is_private("ssl/certs"));
        assert!(!EtcEntry::is_private("group.d"));
    }

    #[test]
    fn a_star_stands_for_one_names_ending() {
        let entry: EtcEntry = "python3*".parse().expect("a good entry");
        assert!(entry.matches("python3") && entry.matches("python3.11"));
        assert!(!entry.matches("python") && !entry.matches("python3.11/debian_config"));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "*",
            "/hosts",
            "a/../b",
            "..",
            "a*b",
            "a**",
            "ssl/",
            "a//b",
            "shadow",
            "ssh",
            "ssl/private/x",
            "a\nb",
        ] {
            assert!(text.parse::<EtcEntry>().is_err(), "{text:?}");
        }
    }
}
