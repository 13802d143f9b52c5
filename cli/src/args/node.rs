//! Arguments of the commands about the node, and about plab itself.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{STATUS_LINES, concat_help};

/// `plab check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The node file whose `degrade` counts [default: the node's own, if there is one]
    #[arg(long, value_name = "NODE.toml", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print the rows as one JSON array
    #[arg(long)]
    pub json: bool,
}

/// `plab init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The node's DNS name [default: this machine's own]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print it instead of writing it
    #[arg(long, conflicts_with = "force")]
    pub stdout: bool,
    /// Replace a node file that is there
    #[arg(long)]
    pub force: bool,
    /// Print what was found and written as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one table and end, as is done anyway when standard output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks [default: 2, with --once 1]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<f64>,
    /// Print plabd's counters as JSON and end; CPU shares and rates are the difference of two answers
    #[arg(long)]
    pub json: bool,
}

/// `plab drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The machine goes down next: record that this boot ends in order
    #[arg(long)]
    pub for_shutdown: bool,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab boots`.
#[derive(Debug, Args)]
pub struct BootsArgs {
    /// Only the last N; 1000 are kept
    #[arg(short = 'n', long = "last", value_name = "N", default_value_t = 20)]
    pub last: u32,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// What to do; without one, what is planned is shown
    #[command(subcommand)]
    pub action: Option<NodeAction>,
    /// Print plabd's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with the machine.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Stop every capsule in order, then reboot
    #[command(after_help = concat_help(&["
Examples:
  plab node reboot --at +10m --reason upgrade", STATUS_LINES]))]
    Reboot(PowerArgs),
    /// Stop every capsule in order, then switch off
    #[command(after_help = concat_help(&["
Examples:
  plab node poweroff --at 2036-03-01T04:00:00Z", STATUS_LINES]))]
    Poweroff(PowerArgs),
    /// Drop what is planned
    #[command(after_help = concat_help(&["
Examples:
  plab node cancel", STATUS_LINES]))]
    Cancel,
    /// Believe the machine's clock as it is now: leases are judged by it
    #[command(after_help = concat_help(&["
Examples:
  plab node trust-clock", STATUS_LINES]))]
    TrustClock,
}

/// `plab node reboot` and `plab node poweroff`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// When: RFC 3339 such as 2036-03-01T04:00:00Z, or from now such as +10m or +1h30m [default: now]
    #[arg(long, value_name = "TIME", value_parser = crate::machine::when)]
    pub at: Option<jiff::Timestamp>,
    /// Why, for those who are warned
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `plab completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `plab man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write them; made if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(s) if (0.1..=3600.0).contains(&s) => Ok(s),
        _ => Err("expected seconds between 0.1 and 3600".to_owned()),
    }
}
