//! What the programs that measure a node share: the benchmark and the stress run.
//!
//! | module | concern |
//! |---|---|
//! | [`stats`] | percentiles |
//! | [`machine`] | what was measured on |
//! | [`columns`] | a table that fits a terminal |
//! | [`progress`], [`cleanup`] | what is seen meanwhile; an end that leaves nothing |

pub mod cleanup;
pub mod columns;
pub mod machine;
pub mod progress;
pub mod stats;

use std::process::ExitCode;

/// Anything that keeps something from being measured, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a program ends that measured: 0 if what decides was as it should be, 1 if not or if something kept it from
/// measuring, which it says.
pub fn exit(program: &str, measured: Result<bool, Failure>) -> ExitCode {
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}
