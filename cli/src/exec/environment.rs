//! The variables of a command in a capsule, and words as the protocol carries them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::Error;

/// What the capsule is told about our terminal beside its size.
const TERMINAL_VARIABLES: [&str; 3] = ["TERM", "COLORTERM", "LANG"];

/// A word of the command line as the protocol carries it: JSON has only Unicode.
pub fn text(what: &str, word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|word| {
        Error::Usage(format!("{what} {word:?} is not UTF-8, and the control socket carries only that"))
    })
}

/// The variables to set: what describes our terminal, and what `--env` asks for.
pub fn environment(
    asked: &[OsString],
    tty: bool,
    ours: impl Fn(&str) -> Option<OsString>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    if tty {
        // One that is no text describes no terminal.
        let known =
            TERMINAL_VARIABLES.iter().filter_map(|&name| Some((name, ours(name)?.into_string().ok()?)));
        env.extend(known.map(|(name, value)| (name.to_owned(), value)));
    }
    for pair in asked {
        let pair = text("--env", pair.clone())?;
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = ours(&pair).ok_or_else(|| {
                    Error::Usage(format!("--env {pair}: there is no such variable here; K=V sets one"))
                })?;
                (pair, text("--env", value)?)
            }
        };
        if name.is_empty() {
            return Err(Error::Usage("--env: a variable needs a name, as in K=V".into()));
        }
        env.insert(name, value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_was_asked_for() {
        let ours = |name: &str| (name == "TERM" || name == "HERE").then(|| OsString::from("x"));
        let asked = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let env = environment(&asked(&["A=b=c", "HERE", "E="]), false, ours).expect("environment");
        let pairs: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("A", "b=c"), ("E", ""), ("HERE", "x")]);
        let env = environment(&asked(&["TERM=dumb"]), true, ours).expect("environment");
        assert_eq!(env.get("TERM").map(String::as_str), Some("dumb"));
        assert_eq!(environment(&[], true, ours).expect("environment").len(), 1);
        for bad in ["=x", "GONE", ""] {
            assert!(environment(&asked(&[bad]), false, ours).is_err(), "{bad}");
        }
    }
}
