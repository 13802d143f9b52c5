//! Arguments of the commands about the network.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::{STATUS_LINES, concat_help};

/// `plab ports`.
#[derive(Debug, Args)]
pub struct PortsArgs {
    /// Only this slice
    pub slice: Option<String>,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab bandwidth`.
#[derive(Debug, Args)]
pub struct BandwidthArgs {
    /// All together send no more than this: a rate such as 10Mbit, none, or node-file for what that says
    #[arg(long, value_name = "RATE")]
    pub out: Option<String>,
    /// All together receive no more than this
    #[arg(long = "in", value_name = "RATE")]
    pub incoming: Option<String>,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab opt-out`.
#[derive(Debug, Args)]
pub struct OptOutArgs {
    /// What to do; without one, all are shown
    #[command(subcommand)]
    pub action: Option<OptOutAction>,
    /// Print plabd's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with a prefix.
#[derive(Debug, Subcommand)]
pub enum OptOutAction {
    /// From now on no capsule sends anything there
    #[command(after_help = concat_help(&["
Examples:
  plab opt-out add 2001:db8::/32", STATUS_LINES]))]
    Add {
        /// The prefix, such as 192.0.2.0/24 or 2001:db8::/32
        prefix: String,
    },
    /// Take away one that was added
    #[command(after_help = concat_help(&["
Examples:
  plab opt-out remove 2001:db8::/32", STATUS_LINES]))]
    Remove {
        /// The prefix
        prefix: String,
    },
}

/// What `who-sent` and `flows` have in common.
#[derive(Debug, Args)]
pub struct FlowFilterArgs {
    /// From this port of the node's
    #[arg(long, value_name = "PORT")]
    pub from_port: Option<u16>,
    /// Of this protocol: tcp, udp, icmp, icmp6, sctp, dccp, udplite, gre, or a number
    #[arg(long, value_name = "PROTO", value_parser = crate::flow_filter::protocol)]
    pub proto: Option<u8>,
    /// Going on at this time or later
    #[arg(long, value_name = "TIME", value_parser = crate::flow_filter::past, allow_hyphen_values = true)]
    pub since: Option<jiff::Timestamp>,
    /// Going on at this time or earlier
    #[arg(long, value_name = "TIME", value_parser = crate::flow_filter::past, allow_hyphen_values = true)]
    pub until: Option<jiff::Timestamp>,
}

/// `plab who-sent`.
#[derive(Debug, Args)]
pub struct WhoSentArgs {
    /// To this address or prefix, and port: 192.0.2.7, 192.0.2.7:443, 192.0.2.0/24, 2001:db8::7, [2001:db8::7]:53
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = crate::flow_filter::target)]
    pub to: crate::flow_filter::Target,
    /// Going on at this time, give or take a minute
    #[arg(
        long, value_name = "TIME", value_parser = crate::flow_filter::past, allow_hyphen_values = true,
        conflicts_with_all = ["since", "until"]
    )]
    pub at: Option<jiff::Timestamp>,
    /// What `who-sent` and `flows` have in common.
    #[command(flatten)]
    pub filter: FlowFilterArgs,
    /// Print plabd's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plab flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only of this slice, also if it is gone
    pub slice: Option<String>,
    /// To this address or prefix, and port, as for `plab who-sent`
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = crate::flow_filter::target)]
    pub to: Option<crate::flow_filter::Target>,
    /// What `who-sent` and `flows` have in common.
    #[command(flatten)]
    pub filter: FlowFilterArgs,
    /// Only the newest N, at most 100000 [default: 1000; with --csv and --export, all]
    #[arg(short = 'n', long = "last", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub last: Option<u32>,
    /// Print the answer as one JSON document
    #[arg(long, conflicts_with_all = ["csv", "export"])]
    pub json: bool,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "export")]
    pub csv: bool,
    /// Write the flows as `ipfix` or `csv` to a file; `-` is standard output
    #[arg(long, num_args = 2, value_names = ["FORMAT", "FILE"])]
    pub export: Option<Vec<OsString>>,
}
