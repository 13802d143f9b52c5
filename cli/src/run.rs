//! From the command line to an exit status.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::{SigHandler, Signal, signal};
use plab_protocol::control::{Reply, Request};

use crate::args::{Cli, Command, is_session};
use crate::client::{Received, control_socket};
use crate::error::{self, Error};
use crate::output::{Screen, complain, print, print_json, words};
use crate::{
    bandwidth, check, client, confirm, definitions, docs_gen, events, exec, flows, init, machine, ports,
    sessions, status, top, who_sent,
};

/// All of `plab`.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are "errors" to clap, printed on standard output. Nothing can be done when
            // the terminal takes no more.
            let _ = e.print();
            return ExitCode::from(match (e.use_stderr(), is_session(&args)) {
                (false, _) => error::OK,
                (true, true) => error::EXEC_ERROR,
                (true, false) => error::USAGE,
            });
        }
    };
    let socket = control_socket(cli.root.as_deref());
    ExitCode::from(match cli.command {
        Command::Exec(args) => session(&socket, &args.slice, &args.session, args.command),
        Command::Shell(args) => session(&socket, &args.slice, &args.session, Vec::new()),
        command => {
            let json = wants_json(&command);
            default_sigpipe();
            match run(cli.root.as_deref(), &socket, command) {
                Ok(status) => status,
                Err(e) => report(&e, json),
            }
        }
    })
}

fn session(socket: &Path, slice: &str, args: &crate::args::SessionArgs, command: Vec<OsString>) -> u8 {
    exec::run(socket, slice, args, command).unwrap_or_else(|e| {
        report(&e, args.json);
        error::EXEC_ERROR
    })
}

/// Says what went wrong. With `--json` a refusal is a document as well: who asked for JSON parses it.
pub(crate) fn report(e: &Error, json: bool) -> u8 {
    if let (Error::Refused(refusal), true) = (e, json) {
        // An error about this error would hide the first; the status tells in any case.
        let _ = serde_json::to_string(&Reply::Error(refusal.clone())).map(|line| print_json(&line));
    }
    complain(&e.to_string());
    e.status()
}

/// Rust programs ignore SIGPIPE; then `plab events | head` ends in an error message instead of silence.
/// (`exec` keeps it ignored: there a closed pipe is a thing between the command and its reader.)
pub(crate) fn default_sigpipe() {
    // SAFETY: the default action runs no code of ours, and no other thread exists yet.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

fn wants_json(command: &Command) -> bool {
    match command {
        Command::Status(a) => a.json,
        Command::Restart(a) | Command::Freeze(a) | Command::Thaw(a) => a.json,
        Command::Rm(a) => a.json,
        Command::Events(a) => a.json,
        Command::Sessions(a) => a.json,
        Command::Ports(a) => a.json,
        Command::Bandwidth(a) => a.json,
        Command::OptOut(a) => a.json,
        Command::Top(a) => a.json,
        Command::Drain(a) => a.json,
        Command::Boots(a) => a.json,
        Command::Node(a) => a.json,
        Command::WhoSent(a) => a.json,
        Command::Flows(a) => a.json,
        // Its refusals are part of its array.
        Command::Apply(_) | Command::Check(_) | Command::Init(_) => false,
        Command::Exec(_) | Command::Shell(_) | Command::Completions(_) | Command::Man(_) => false,
    }
}

fn run(root: Option<&Path>, socket: &Path, command: Command) -> Result<u8, Error> {
    let screen = Screen::of_stdout();
    match command {
        Command::Check(args) => check::run(root, &args, screen),
        Command::Init(args) => init::run(root, &args),
        Command::Apply(args) => definitions::apply(socket, &args),
        Command::Status(args) => status::run(socket, args, screen),
        Command::Restart(args) => done(socket, Request::Restart { slice: args.slice }, args.json),
        Command::Freeze(args) => done(socket, Request::Freeze { slice: args.slice }, args.json),
        Command::Thaw(args) => done(socket, Request::Thaw { slice: args.slice }, args.json),
        Command::Rm(args) => {
            if !args.yes && !confirm::removal(&args.slice)? {
                complain("nothing was removed");
                return Ok(error::REFUSED);
            }
            done(socket, Request::Remove { slice: args.slice }, args.json)
        }
        Command::Events(args) => events::run(socket, &args, screen),
        Command::Sessions(args) => sessions::run(socket, args, screen),
        Command::Ports(args) => ports::run(socket, args, screen),
        Command::Bandwidth(args) => bandwidth::bandwidth(socket, args, screen),
        Command::OptOut(args) => bandwidth::opt_out(socket, args, screen),
        Command::Top(args) => top::run(socket, &args, screen),
        Command::Drain(args) => done(socket, Request::Drain { for_shutdown: args.for_shutdown }, args.json),
        Command::Boots(args) => machine::boots(socket, &args, screen),
        Command::Node(args) => machine::node(socket, args, screen),
        Command::WhoSent(args) => who_sent::run(socket, &args, screen),
        Command::Flows(args) => flows::run(socket, &args, screen),
        Command::Completions(args) => docs_gen::completions(args.shell),
        Command::Man(args) => docs_gen::man_pages(&args.directory),
        // Dispatched before: they have statuses of their own.
        Command::Exec(_) | Command::Shell(_) => Err(Error::Usage("exec is no plain command".into())),
    }
}

/// A request whose answer is one line.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn done(socket: &Path, request: Request, json: bool) -> Result<u8, Error> {
    let Received { line, reply } = client::ask(socket, request)?;
    let Reply::Done { message } = reply else {
        return Err(Error::Unexpected { expected: "an acknowledgement" });
    };
    if json {
        print_json(&line)?
    } else {
        print(&(words(&message) + "\n"))?
    }
    Ok(error::OK)
}
