//! `make bench`: the node beside its peers, in one run on one machine.
//!
//! Timings decide nothing: a missed target is said, and the exit status is 0. It is another only when something
//! could not be measured at all.
//!
//! | module | concern |
//! |---|---|
//! | [`contenders`] | what we are compared with: a bare vfork+exec, bwrap, crun |
//! | [`capsule_exec`] | a command in a running capsule |
//! | [`creation`] | a new capsule to its first hook; one more capsule among many |
//! | [`thousand`] | a thousand capsules: made, idle, changed, adopted |
//! | [`syscalls`] | what the sandbox costs a system call |
//! | [`network`] | what the sandbox costs packets, connections and binds |
//! | [`inside`] | programs that run in a capsule as they run outside |
//! | [`stamp`] | the smallest program that writes down when it began |
//! | [`nodes`], [`client`] | a node of the bench's own; its control socket |
//! | [`clock`] | times of two processes compared |
//! | [`table`], [`report`] | what is shown and kept |
//!
//! Percentiles, the facts of the machine, progress and an end that leaves nothing are in [`plab_tests::measure`].

mod capsule_exec;
mod client;
mod clock;
mod contenders;
mod creation;
mod inside;
mod network;
mod nodes;
mod report;
mod stamp;
mod syscalls;
mod table;
mod thousand;

use std::path::PathBuf;
use std::process::ExitCode;

use plab_tests::measure::{self, Failure, cleanup, machine, progress, stats};

use crate::contenders::Contenders;
use crate::progress::Progress;
use crate::report::Report;

const HELP: &str = "\
bench: the node's speed beside its peers', in one run

Usage: bench [--quick] [--only PART]... [--json FILE]

  --quick        a smoke run: few samples, 50 capsules instead of 1,000
  --only PART    only this part: exec, hook, grow, thousand, syscalls, network
  --json FILE    where the figures go [default: out/bench.json]

Run as root. Exits with 0 whether or not targets are met, with 1 when something could not be measured.";

/// What the caller wants.
pub struct Wishes {
    /// A smoke run.
    pub quick: bool,
    only: Vec<String>,
    json: PathBuf,
}

impl Wishes {
    /// `full`, or `quick` in a smoke run.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

type Part = fn(&Wishes, &Contenders, &Progress, &mut Report) -> Result<(), Failure>;

const PARTS: [(&str, Part); 6] = [
    ("exec", capsule_exec::measure),
    ("hook", creation::first_hook),
    ("grow", creation::grow),
    ("thousand", thousand::measure),
    ("syscalls", syscalls::measure),
    ("network", network::measure),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut wishes = Wishes { quick: false, only: Vec::new(), json: "out/bench.json".into() };
    while let Some(arg) = args.next() {
        match (arg.as_str(), PARTS.map(|(name, _)| name)) {
            (syscalls::ACTOR, _) => return syscalls::act(args),
            (network::ACTOR, _) => return network::act(args),
            ("--quick", _) => wishes.quick = true,
            ("--only", parts) => match args.next() {
                Some(part) if parts.contains(&part.as_str()) => wishes.only.push(part),
                _ => return usage(&format!("--only takes one of {}", parts.join(", "))),
            },
            ("--json", _) => match args.next() {
                Some(file) => wishes.json = file.into(),
                None => return usage("--json takes a file"),
            },
            ("-h" | "--help", _) => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            (other, _) => return usage(&format!("what is {other}?")),
        }
    }
    if !rustix::process::geteuid().is_root() {
        return usage("capsules are made by root: run it as root");
    }
    cleanup::arm();
    measure::exit("bench", run(&wishes))
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("bench: {problem}\n\n{HELP}");
    ExitCode::from(2)
}

/// True if everything could be measured.
fn run(wishes: &Wishes) -> Result<bool, Failure> {
    let contenders = Contenders::prepare()?;
    let mut report = Report::new(wishes.quick, &contenders);
    let wanted = |name: &str| wishes.only.is_empty() || wishes.only.iter().any(|only| only == name);
    let parts: Vec<_> = PARTS.into_iter().filter(|(name, _)| wanted(name)).collect();
    for (number, (name, part)) in parts.iter().enumerate() {
        let progress = Progress::new(number + 1, parts.len());
        if let Err(error) = part(wishes, &contenders, &progress, &mut report) {
            report.fail(name, &error.to_string());
        }
        progress.done();
    }
    cleanup::check();
    report.end();
    print!("{}", table::render(&report));
    report.write(&wishes.json)?;
    println!("\nfigures: {}", wishes.json.display());
    Ok(report.failures().is_empty())
}
