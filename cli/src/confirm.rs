//! The one question that `plab` asks.

use std::io::{self, BufRead, Write};

use crate::error::Error;
use crate::output::words;

/// Asks whether a slice is to be removed with all it stored.
///
/// # Errors
/// Without a terminal there is nobody to ask, and silence is no consent.
pub fn removal(slice: &str) -> Result<bool, Error> {
    let (stdin, stderr) = (rustix::stdio::stdin(), rustix::stdio::stderr());
    if !rustix::termios::isatty(stdin) || !rustix::termios::isatty(stderr) {
        return Err(Error::Usage(format!(
            "rm {slice} would delete everything the slice stored, and there is no terminal to ask on;\n\
             give --yes if that is what you want"
        )));
    }
    // On standard error: standard output may be JSON on its way into a file.
    let question = format!("Remove slice {} and delete everything it stored? [y/N] ", words(slice));
    let mut answer = String::new();
    io::stderr()
        .write_all(question.as_bytes())
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(Error::system("ask on the terminal"))?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_yes_is_yes() {
        assert!(is_yes("y\n") && is_yes(" YES \n"));
        assert!(!is_yes("") && !is_yes("\n") && !is_yes("n\n") && !is_yes("yep\n"));
    }
}
