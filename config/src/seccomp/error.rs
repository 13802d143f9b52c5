//! Why a profile cannot be used.

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file is not TOML, or has a key that no profile has.
    #[error("{file}, line {line}: {message}")]
    Syntax {
        /// The file, or what it was called by the caller.
        file: String,
        /// Where, from 1.
        line: usize,
        /// The parser's words, which name the key and what was expected.
        message: String,
    },
    /// A value that a profile cannot have there.
    #[error("{file}, line {line}: {key}: read {read}, expected {expected}")]
    Value {
        /// The file, or what it was called by the caller.
        file: String,
        /// Where, from 1.
        line: usize,
        /// The key, as in `deny.when.arg`.
        key: String,
        /// What stood there.
        read: String,
        /// What may stand there.
        expected: String,
    },
    /// No profile of that name.
    #[error("seccomp profile {name:?}: neither built in (default, strict) nor found as {looked}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A site's file has the name of a built-in profile and would never be used.
    #[error(
        "{file}: {name:?} is built in and cannot be replaced; give this profile another name and \
         `base = {name:?}`"
    )]
    Shadows {
        /// The site's file.
        file: String,
        /// The built-in profile.
        name: String,
    },
    /// The file is there and cannot be read.
    #[error("read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
}
