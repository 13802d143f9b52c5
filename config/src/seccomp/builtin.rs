//! The profiles that every node has.

use super::profile::SeccompProfile;

/// The profiles that every node has, with their files.
const BUILTIN: [(&str, &str); 2] = [
    ("default", include_str!("../../profiles/seccomp/default.toml")),
    ("strict", include_str!("../../profiles/seccomp/strict.toml")),
];

impl SeccompProfile {
    /// The text of a built-in profile.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// The names of the built-in profiles.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }
}
