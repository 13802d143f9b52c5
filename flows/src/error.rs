//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Something the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// SQLite's word.
    #[error("flow store: cannot {what} {path}: {source}", path = path.display())]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// The segment.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The kernel's word.
    #[error("flow store: cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Written by a newer release.
    #[error(
        "flow store: {path} has version {version}, of a newer release; this one knows {known}. Install that release \
         again, or move the file away",
        path = path.display()
    )]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: i64,
        /// This release's.
        known: i64,
    },
    /// A question that takes too long.
    #[error(
        "the question needs more than {seconds} s: {looked} of {segments} segments were looked at; ask about a shorter \
         time, or a longer prefix"
    )]
    TooLong {
        /// The bound.
        seconds: u64,
        /// How far it came.
        looked: usize,
        /// How far there was to go.
        segments: usize,
    },
    /// The store's thread has ended.
    #[error("the flow store is closed")]
    Closed,
    /// What was delivered is not on disk yet.
    #[error("the flow store could not write, or not in time")]
    NotWritten,
}

impl FlowError {
    /// Whether the file itself is what is wrong: it will not be better at another time, as after a full disk.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => match source.sqlite_error_code() {
                Some(code) => {
                    matches!(code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown)
                }
                // What it holds is not what this release writes.
                None => true,
            },
            _ => false,
        }
    }

    /// For `map_err` of SQLite's errors.
    pub(crate) fn sqlite(what: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { what, path: path.to_owned(), source }
    }

    /// For `map_err` of the kernel's errors.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}
