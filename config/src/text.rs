//! Reading a configuration file's text.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{ConfigError, ErrorKind};

/// The most bytes a configuration file may have: 256 KiB, some hundred times what a definition needs.
pub const MAX_TEXT: usize = 256 << 10;

/// The text of a configuration file.
///
/// Only regular files are read, and never without end: a FIFO or a device that turns up in the directory of
/// definitions must not hold up the other definitions.
///
/// # Errors
/// One error if it cannot be opened or read, is no regular file, is larger than [`MAX_TEXT`] bytes, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Vec<ConfigError>> {
    let unreadable = |reason: String| vec![error(path, None, reason)];
    let file = OpenOptions::new()
        .read(true)
        // Without O_NONBLOCK, opening a FIFO waits for its writer.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| unreadable(format!("cannot open: {e}")))?;
    let about = file.metadata().map_err(|e| unreadable(format!("cannot stat: {e}")))?;
    if !about.is_file() {
        return Err(unreadable("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a full file from one that is too large.
    file.take(MAX_TEXT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| unreadable(format!("cannot read: {e}")))?;
    check_size(bytes.len(), path)?;
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        vec![error(path, Some(line), "not UTF-8 text".to_owned())]
    })
}

/// Refuses a text of more than [`MAX_TEXT`] bytes.
pub(crate) fn check_size(len: usize, path: &Path) -> Result<(), Vec<ConfigError>> {
    if len > MAX_TEXT {
        return Err(vec![error(path, None, format!("larger than {MAX_TEXT} bytes"))]);
    }
    Ok(())
}

fn error(path: &Path, line: Option<usize>, reason: String) -> ConfigError {
    ConfigError {
        kind: ErrorKind::Unreadable,
        file: path.to_owned(),
        line: line.unwrap_or(0),
        column: 0,
        key: String::new(),
        read: None,
        expected: None,
        nearest: None,
        reason: Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(path: &str) -> String {
        let errors = read_text(Path::new(path)).expect_err("not a configuration file");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_bounded_regular_files_are_read() {
        assert_eq!(reason("/dev/zero"), "/dev/zero: not a regular file");
        assert_eq!(reason("/"), "/: not a regular file");
        assert!(reason("/nonexistent").starts_with("/nonexistent: cannot open: "));
        assert!(check_size(MAX_TEXT, Path::new("a")).is_ok());
        assert!(check_size(MAX_TEXT + 1, Path::new("a")).is_err());
    }
}
