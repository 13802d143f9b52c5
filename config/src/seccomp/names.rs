//! The form of names: of profiles, and of system calls.

use crate::profile_name::ProfileName;

/// The same names that definitions may ask for: each is a file name, and none a path.
pub(super) fn is_profile_name(name: &str) -> bool {
    name.parse::<ProfileName>().is_ok()
}

/// The form of every system call's name; whether there is such a call, the compiler knows.
pub(super) fn is_call_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
