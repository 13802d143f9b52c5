//! Names of system call profiles.

use std::str::FromStr;

use crate::ValueError;

/// What a profile name looks like, for error messages.
pub(crate) const EXPECTED: &str = "a profile name such as \"default\" or \"strict\"";

/// The name of a system call profile; safe as a file name, since that is where it leads.
pub(crate) struct ProfileName(pub(crate) String);

impl FromStr for ProfileName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_name = text.len() <= 32
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::because(
                EXPECTED,
                "at most 32 lower-case letters, digits, hyphens and underscores, a letter first",
            ))
        }
    }
}
