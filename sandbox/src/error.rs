//! One error for everything asked of the kernel: what was tried, on what, what it said, what to do.

use std::fmt;
use std::io;

/// A kernel call that failed, or a value that was read back and is not what was set.
#[derive(Debug)]
pub struct KernelError {
    tried: String,
    on: String,
    source: io::Error,
    hint: Option<&'static str>,
}

impl KernelError {
    /// `tried` is a verb phrase such as "set memory.max to 64M"; `on` the object it was tried on.
    pub fn new(tried: impl Into<String>, on: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self { tried: tried.into(), on: on.to_string(), source: source.into(), hint: None }
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The kernel's error number, where there was one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} on {}: {}", self.tried, self.on, self.source)?;
        match self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Shorthand that names a failed call where it is made.
pub(crate) trait Tried<T> {
    /// Turns the error into a [`KernelError`] for `tried` on `on`.
    fn tried(self, tried: &str, on: impl fmt::Display) -> Result<T, KernelError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, tried: &str, on: impl fmt::Display) -> Result<T, KernelError> {
        self.map_err(|error| KernelError::new(tried, on, error))
    }
}
