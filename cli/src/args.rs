//! The command line: what there is to type, and the help that says so.
//!
//! The sections after the options ("Examples:", "Exit status:") are also what [`crate::docs_gen`] makes the man
//! pages' sections of: a line that ends in a colon in the first column begins one.

mod node;
mod slices;
mod traffic;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};

pub use self::node::{
    BootsArgs, CheckArgs, CompletionsArgs, DrainArgs, InitArgs, ManArgs, NodeAction, NodeArgs, PowerArgs,
    TopArgs,
};
pub use self::slices::{
    ApplyArgs, EventsArgs, ExecArgs, RemoveArgs, SessionArgs, SessionsArgs, ShellArgs, SliceArgs, StatusArgs,
};
pub use self::traffic::{
    BandwidthArgs, FlowFilterArgs, FlowsArgs, OptOutAction, OptOutArgs, PortsArgs, WhoSentArgs,
};

const STATUS_LINES: &str = "
Exit status:
  0  done
  1  the node refused or failed; standard error says why
  2  the command line could not be understood
  3  plabd could not be reached or did not keep to the protocol";

const EXEC_STATUS_LINES: &str = "
Exit status:
  N      the command's own, 0 to 124
  125    plab could not do its part: no plabd, no such slice, a frozen capsule, a wrong option
  126    the command was found and could not be run
  127    there is no such command in the capsule
  128+N  signal N ended the command (137: it was killed, perhaps by its memory limit)";

/// A table of the descriptors for the two commands that have them.
const EXEC_TERMINAL: &str = "
Terminal:
  With a terminal on standard input and output the command gets a terminal of its own inside the
  capsule, with the same size. Nothing of the caller's terminal is handed over: plab copies between
  the two. To leave a capsule that does not react (frozen, say) press Ctrl-] three times in a second.
  Without a terminal, the third of INT, TERM, QUIT or HUP within a second ends plab itself.";

/// Work with the slices of this node.
#[derive(Debug, Parser)]
#[command(
    name = "plab",
    version,
    long_about = "Work with the slices of this node: apply their definitions, see what they do and what the \
kernel holds them to, run commands in them.\n\nplab asks plabd over its control socket. Root may ask \
everything; the user of a slice may ask for `exec`, `shell`, `status`, `sessions`, `flows` and `restart` of that slice.",
    after_help = concat_help(&["
Examples:
  plab apply princeton4.toml               # put a definition into effect, wait until it is
  plab status                              # every slice, one line each
  plab status princeton4 --verify          # what was asked and what the kernel has in force
  plab exec princeton4 -- uname -a         # run a command in its capsule
  plab events -f                           # follow what happens", STATUS_LINES]),
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Talk to the plabd that was started with the same --root: its socket is DIR/run/planetlab/control.sock
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub root: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this kernel offers and what a capsule would not get
    #[command(after_help = concat_help(&["
Examples:
  plab check                               # on a machine that is to become a node
  plab check --config node.toml            # with what this node file allows to be missing
  plab check --json | jq -r '.[] | select(.state != \"present\") | .advice'", "
Exit status:
  0  capsules start here
  1  something is missing that a capsule needs and the node file's `degrade` does not name
  2  the command line could not be understood"]))]
    Check(CheckArgs),

    /// Write a commented node file for this machine
    #[command(after_help = concat_help(&["
Examples:
  plab init                                # /etc/planetlab/node.toml, if there is none yet
  plab init --stdout | less                # look first
  plab init --name planetlab1.example.org  # where the machine does not know its full name
  plab init --stdout --json | jq -r '.notes[]'", "
Exit status:
  0  done; standard error says what to look at before the node is started
  1  there is a node file already, or this machine does not tell enough about itself
  2  the command line could not be understood"]))]
    Init(InitArgs),

    /// Put definitions into effect and wait until they are
    #[command(after_help = concat_help(&["
Examples:
  plab apply princeton4.toml mit_dns.toml
  sed 's/128M/256M/' princeton4.toml | plab apply -", STATUS_LINES]))]
    Apply(ApplyArgs),

    /// Show the node and its slices
    #[command(after_help = concat_help(&["
Examples:
  plab status                              # one line a slice
  plab status princeton4                   # everything about one
  plab status princeton4 --verify          # each limit: asked and in force
  plab status --json | jq -r '.slices[] | select(.state == \"failed\") | .name'", "
Exit status:
  0  done; with --verify: everything that was asked is in force
  1  the node refused or failed; with --verify: something is not in force or could not be read back
  2  the command line could not be understood
  3  plabd could not be reached or did not keep to the protocol"]))]
    Status(StatusArgs),

    /// Run a command in a slice's capsule
    #[command(
        long_about = "Run a command in a slice's capsule, with the slice's user, limits and view of the system.\n\n\
Standard input, output and error are the caller's, signals (INT, TERM, HUP, QUIT, USR1, USR2) and changes of the \
window's size are passed on, and the exit status is the command's.",
        override_usage = "plab exec [OPTIONS] SLICE [--] CMD [ARG]...",
        after_help = concat_help(&["
Examples:
  plab exec princeton4 -- uname -a
  plab exec princeton4 -- sh -c 'du -sh ~' > size.txt
  tar -C site -c . | plab exec princeton4 -- tar -x
  plab exec princeton4 --env LEVEL=debug -- ./measure --once
  plab exec princeton4 -- top              # gets a terminal, if there is one here
  plab exec --json princeton4 -- ./measure | jq -r 'select(.exit).exit.status'", EXEC_TERMINAL, EXEC_STATUS_LINES])
    )]
    Exec(ExecArgs),

    /// Open the slice's login shell in its capsule
    #[command(after_help = concat_help(&["
Examples:
  plab shell princeton4
  echo 'cat PlanetLab-control/resources' | plab shell princeton4
  cat script.sh | plab shell --json princeton4 | jq -r 'select(.output).output.text'", EXEC_TERMINAL, EXEC_STATUS_LINES]))]
    Shell(ShellArgs),

    /// Stop a slice's capsule and start it again
    #[command(after_help = concat_help(&["
Examples:
  plab restart princeton4", STATUS_LINES]))]
    Restart(SliceArgs),

    /// Stop every process of a slice where it is, until `plab thaw`
    #[command(after_help = concat_help(&["
Examples:
  plab freeze princeton4", STATUS_LINES]))]
    Freeze(SliceArgs),

    /// Let a frozen slice go on
    #[command(after_help = concat_help(&["
Examples:
  plab thaw princeton4", STATUS_LINES]))]
    Thaw(SliceArgs),

    /// Remove a slice: its definition, its capsule and everything it stored
    #[command(after_help = concat_help(&["
Examples:
  plab rm princeton4                       # asks first
  plab rm --yes princeton4                 # in a script", STATUS_LINES]))]
    Rm(RemoveArgs),

    /// Show what happened on the node
    #[command(after_help = concat_help(&["
Examples:
  plab events princeton4                   # everything that is kept about one slice
  plab events -n 20                        # the last 20
  plab events -f                           # the last 10, then each as it happens
  plab events -f --json --since 1041 | jq -r .kind", STATUS_LINES]))]
    Events(EventsArgs),

    /// Show who is in: commands and shells that people run in capsules now
    #[command(after_help = concat_help(&["
Examples:
  plab sessions                            # every slice's
  plab sessions princeton4                 # with the key that opened each
  plab sessions --json | jq -r '.sessions[].login.key // \"root\"' | sort | uniq -c", STATUS_LINES]))]
    Sessions(SessionsArgs),

    /// Show whose ports are whose, and who listens there
    #[command(after_help = concat_help(&["
Examples:
  plab ports                               # every slice's and the node's own
  plab ports princeton4                    # one slice's
  plab ports --json | jq -r '.ports[] | select(.listeners == []) | .ports'", STATUS_LINES]))]
    Ports(PortsArgs),

    /// Show or set how much the node may send and receive, and show what each slice has sent
    #[command(after_help = concat_help(&["
Examples:
  plab bandwidth                           # the limits, and each slice's share of what was sent
  plab bandwidth --out 10Mbit              # all together send no more, from now on and after a boot
  plab bandwidth --out none --in 50Mbit    # no limit on what is sent, whatever the node file says
  plab bandwidth --out node-file           # what the node file says counts again
  plab bandwidth --json | jq -r '.classes[] | select(.sent.drops > 0) | .slice'", STATUS_LINES]))]
    Bandwidth(BandwidthArgs),

    /// Show or change where no capsule may send anything
    #[command(after_help = concat_help(&["
Examples:
  plab opt-out                             # every prefix, and who was refused how often
  plab opt-out add 192.0.2.0/24            # at once, and after a boot
  plab opt-out remove 192.0.2.0/24
  plab opt-out --json | jq -r '.prefixes[].prefix'", STATUS_LINES]))]
    OptOut(OptOutArgs),

    /// Show who uses the node's CPUs, memory and network
    #[command(after_help = concat_help(&["
Keys:
  c, m, t, o, i, n  sort by CPU, memory, tasks, bytes out, bytes in, name
  q                 quit

K, M, G are 1024, 1024^2, 1024^3 bytes. OUT/s and IN/s count from the network header on.

Examples:
  plab top                                 # full screen, every 2 s
  plab top --once | head -4                # the three busiest
  plab top --json | jq '.capsules | map(.memory) | add'
  plab top --json | jq -r '.capsules[] | [.name, .traffic.bytes_out] | @tsv'", STATUS_LINES]))]
    Top(TopArgs),

    /// Stop every capsule in order and keep them stopped until plabd starts again
    #[command(after_help = concat_help(&["
Examples:
  plab drain                               # before maintenance of the machine
  plab drain --for-shutdown                # what the machine's shutdown calls", STATUS_LINES]))]
    Drain(DrainArgs),

    /// Show whose packets went to an address
    #[command(
        long_about = "Show whose packets went to an address: slice, contact and counts, one line a slice, also of slices that \
are gone. Only root may ask.\n\nTimes are RFC 3339, such as 2036-03-01T04:00:00Z, or back from now, such as -2h. What the node \
remembers is bounded (`[flows]` in the node file); when nothing is found, the answer says how far back it goes.",
        after_help = concat_help(&["
Examples:
  plab who-sent --to 192.0.2.7
  plab who-sent --to 192.0.2.7:443 --proto tcp --at 2036-03-01T04:00:00Z
  plab who-sent --to 198.51.100.0/24 --since -2h
  plab who-sent --to [2001:db8::7]:53 --json | jq -r '.senders[].contact'", "
Exit status:
  0  somebody's packets were found
  1  nobody's were
  2  the command line could not be understood, or the node refused or failed
  3  plabd could not be reached or did not keep to the protocol"]))]
    WhoSent(WhoSentArgs),

    /// Show the flows of a slice, or write all of them to a file
    #[command(
        long_about = "Show the flows of a slice, oldest first: what it sent to whom, and what came back. Root may leave the slice \
out. A flow that lasts long is shown in parts.\n\nTimes are as for `plab who-sent`. The columns of the CSV file, and the fields \
of the JSON answer, have the same names. IPFIX (RFC 7011) has one record for what was sent and one for what came back, with the \
slice as userName.",
        after_help = concat_help(&["
Examples:
  plab flows princeton4                    # the newest 1000
  plab flows princeton4 --since -10m --to 192.0.2.0/24
  plab flows princeton4 --csv > flows.csv  # everything that is kept
  plab flows --export ipfix flows.ipfix    # of all slices", STATUS_LINES]))]
    Flows(FlowsArgs),

    /// Show the machine's boots and how they ended
    #[command(
        long_about = "Show the machine's boots, newest first: when each began, how it ended, and how often plabd was \
started in it and crashed.\n\nEnds: `reboot`, `poweroff` and `shutdown` were ordered. `panic`: the kernel left a record. \
`unclean`: there is no sign; the power was cut, the machine was reset, it hung, or it panicked and could leave no record. \
`unknown`: plabd had been stopped while the machine went on.",
        after_help = concat_help(&["
Examples:
  plab boots                               # the last 20
  plab boots -n 1 --json                   # the present one, for a program
  plab boots --json | jq '.boots[] | select(.ended == \"unclean\") | .ended_at'", STATUS_LINES]))]
    Boots(BootsArgs),

    /// Reboot the machine or switch it off, now or later; show what is planned
    #[command(
        long_about = "Reboot the machine or switch it off, now or later; without a subcommand, show what is planned.\n\n\
Those who are logged in are warned when it is planned and 10, 5 and 1 minutes before. When the time has come, every capsule is \
stopped in order (`stop`, grace, kill), and then the machine goes down. A plan outlives plabd's restart; one whose time \
passed while the node was down is dropped.",
        after_help = concat_help(&["
Examples:
  plab node                                # what is planned
  plab node reboot                         # stop every capsule, then reboot
  plab node reboot --at +10m --reason upgrade
  plab node poweroff --at 2036-03-01T04:00:00Z
  plab node cancel                         # drop what is planned
  plab node trust-clock                    # believe the clock, after `clock-suspicious`", STATUS_LINES]))]
    Node(NodeArgs),

    /// Print the completions of a shell
    #[command(after_help = concat_help(&["
Examples:
  plab completions bash > /etc/bash_completion.d/plab
  plab completions fish > ~/.config/fish/completions/plab.fish", STATUS_LINES]))]
    Completions(CompletionsArgs),

    /// Write the man pages of plab and its commands
    #[command(after_help = concat_help(&["
Examples:
  plab man /usr/local/share/man/man1", STATUS_LINES]))]
    Man(ManArgs),
}

/// The sections of a help text, an empty line between two.
fn concat_help(sections: &[&str]) -> String {
    sections.iter().map(|s| s.trim_matches('\n')).collect::<Vec<_>>().join("\n\n")
}

/// Whether a command line that clap refused was one of `exec` or `shell`, whose own errors have a status of
/// their own: a script must be able to tell a bad option from a command that ended with 2.
pub fn is_session(args: &[OsString]) -> bool {
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        if arg == OsStr::new("--root") {
            args.next();
        } else if !arg.as_encoded_bytes().starts_with(b"-") {
            return arg == OsStr::new("exec") || arg == OsStr::new("shell");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    fn exec(line: &str) -> (ExecArgs, Vec<String>) {
        match parse(line) {
            Ok(Command::Exec(args)) => {
                let command = args.command.iter().map(|a| a.to_string_lossy().into_owned()).collect();
                (args, command)
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exec_leaves_the_command_alone() {
        assert_eq!(exec("plab exec web -- ls -la --json -t").1, ["ls", "-la", "--json", "-t"]);
        assert_eq!(exec("plab exec web ls -la").1, ["ls", "-la"]);
        assert_eq!(exec("plab exec web -- env -- x").1, ["env", "--", "x"]);
        assert_eq!(exec("plab exec web -- ls --root /x").1, ["ls", "--root", "/x"]);
        let (args, command) = exec("plab exec web -t --env A=b -e C -- cat");
        assert!(args.session.tty && !args.session.no_tty);
        assert_eq!((args.session.env.len(), command), (2, vec!["cat".to_owned()]));
    }

    #[test]
    fn exec_needs_a_command_and_shell_none() {
        assert!(parse("plab exec web").is_err());
        assert!(parse("plab exec web --").is_err());
        assert!(matches!(parse("plab shell web"), Ok(Command::Shell(_))));
        assert!(parse("plab shell web -- ls").is_err());
    }

    #[test]
    fn the_last_word_on_a_terminal_counts() {
        let args = exec("plab exec -t -T web ls").0;
        assert!(!args.session.tty && args.session.no_tty);
    }

    #[test]
    fn root_goes_anywhere() {
        for line in
            ["plab --root /srv/t status", "plab status --root /srv/t", "plab status --root=/srv/t web"]
        {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.root.as_deref(), Some(std::path::Path::new("/srv/t")));
        }
    }

    #[test]
    fn intervals_are_bounded() {
        assert!(parse("plab top --interval 0.5").is_ok());
        for bad in ["0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(parse(&format!("plab top --interval={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn sessions_are_known_before_they_parse() {
        let is = |line: &str| is_session(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(is("plab exec"));
        assert!(is("plab --root /x shell --nonsense"));
        assert!(is("plab --root=/x exec"));
        assert!(!is("plab --root exec status"));
        assert!(!is("plab status exec"));
    }

    /// Every example in the help is parsed, so that none of them is wrong.
    #[test]
    fn examples_are_commands() {
        let mut cli = Cli::command();
        cli.build();
        let helps = std::iter::once(&cli)
            .chain(cli.get_subcommands().filter(|c| c.get_name() != "help"))
            .map(|c| (c.get_name().to_owned(), c.get_after_help().map(ToString::to_string)));
        for (name, help) in helps {
            let help = help.unwrap_or_else(|| panic!("{name} has no example"));
            let mut examples = 0;
            for line in help.lines().filter_map(|l| l.strip_prefix("  ")) {
                for part in line.split(" # ").next().unwrap_or_default().split(" | ") {
                    let part = part.split(" > ").next().unwrap_or_default().trim();
                    if part.starts_with("plab ")
                        && !part.starts_with("plab could")
                        && !part.starts_with("plab copies")
                    {
                        examples += 1;
                        // Quoted words keep their blanks out of this simple split; none is an option.
                        let words = part.split_whitespace().map(|w| w.trim_matches('\''));
                        assert!(Cli::try_parse_from(words).is_ok(), "{name}: {part}");
                    }
                }
            }
            assert!(examples > 0, "{name} has no example");
        }
    }
}
