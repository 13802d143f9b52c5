//! Who answers for a slice.

use std::str::FromStr;

use crate::ValueError;
use crate::names::NodeName;

/// What a contact looks like, for error messages.
pub(crate) const EXPECTED: &str = "an e-mail address such as \"pi@cs.princeton.edu\"";

/// An e-mail address of plain form: whoever complains about a slice's packets writes there (6.3).
///
/// Narrower than mail's own grammar, because the address is also shown to shell scripts and on terminals.
pub(crate) struct Contact(pub(crate) String);

impl FromStr for Contact {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_local = |local: &str| {
            (1..=64).contains(&local.len())
                && !local.split('.').any(str::is_empty)
                && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"._%+-=".contains(&b))
        };
        match text.rsplit_once('@') {
            Some((local, domain)) if is_local(local) && domain.parse::<NodeName>().is_ok() => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(ValueError::expected(EXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses() {
        for text in ["pi@cs.princeton.edu", "a.b+c@localhost"] {
            assert!(text.parse::<Contact>().is_ok(), "{text}");
        }
        for text in ["", "pi", "@a", "pi@", "a@b@c", "a b@c", "$(id)@a", "a\n@b", "<a@b>", ".a@b", "ü@b"] {
            assert!(text.parse::<Contact>().is_err(), "{text}");
        }
    }
}
