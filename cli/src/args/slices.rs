//! Arguments of the commands about slices.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

/// `plab apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Definitions; `-` reads one from standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Print the answers as one JSON array, in the order of the files
    #[arg(long)]
    pub json: bool,
}

/// `plab status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this slice, in full
    pub slice: Option<String>,
    /// Read every limit back from the kernel and compare
    #[arg(long)]
    pub verify: bool,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `exec` and `shell` have in common.
#[derive(Debug, Args)]
pub struct SessionArgs {
    /// Give the command a terminal, even if there is none here
    #[arg(short = 't', long = "tty", overrides_with = "no_tty")]
    pub tty: bool,
    /// Give the command no terminal, even if there is one here
    #[arg(short = 'T', long = "no-tty", overrides_with = "tty")]
    pub no_tty: bool,
    /// Set a variable in the command's environment; K alone takes the caller's value
    #[arg(short = 'e', long = "env", value_name = "K=V")]
    pub env: Vec<OsString>,
    /// Print what the command prints as JSON, one document a line, and last how it ended; without a terminal
    #[arg(long, conflicts_with = "tty")]
    pub json: bool,
}

/// `plab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The slice
    pub slice: String,
    /// What `exec` and `shell` have in common.
    #[command(flatten)]
    pub session: SessionArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// `plab shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// The slice
    pub slice: String,
    /// What `exec` and `shell` have in common.
    #[command(flatten)]
    pub session: SessionArgs,
}

/// A command about one slice that has an answer of one line.
#[derive(Debug, Args)]
pub struct SliceArgs {
    /// The slice
    pub slice: String,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The slice
    pub slice: String,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only this slice
    pub slice: Option<String>,
    /// Go on, showing each event as it happens
    #[arg(short, long)]
    pub follow: bool,
    /// Only events with a larger sequence number
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
    /// Only the last N of what is kept [default: all; with --follow and no --since, 10]
    #[arg(short = 'n', long = "last", value_name = "N")]
    pub last: Option<usize>,
    /// Print plabd's answer as JSON; with --follow or --last one event a line
    #[arg(long)]
    pub json: bool,
}

/// `plab sessions`.
#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Only this slice
    pub slice: Option<String>,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}
