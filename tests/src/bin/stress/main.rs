//! `make stress`: every class of stress-ng in one capsule, and what its neighbours notice.
//!
//! Times decide nothing: a bound on time that was exceeded is said, and the exit status is 0. It is 1 when somebody
//! stayed without an answer, something was restarted or escaped, or the kernel complained.
//!
//! | module | concern |
//! |---|---|
//! | [`capsules`] | the three slices, and whether anything happened to the two neighbours |
//! | [`stressors`] | what stress-ng has, and how each stressor ended |
//! | [`attack`] | a class in the capsule |
//! | [`storage`] | a file system of the node's own, which may be filled |
//! | [`probes`], [`resources`], [`kmsg`], [`services`] | what is looked at meanwhile |
//! | [`phase`] | all of that, for a stretch of time |
//! | [`bounds`] | what is allowed |
//! | [`report`], [`markdown`] | what is shown and kept |
//! | [`command`] | a command with a time limit |

mod attack;
mod bounds;
mod capsules;
mod command;
mod kmsg;
mod markdown;
mod phase;
mod probes;
mod report;
mod resources;
mod services;
mod storage;
mod stressors;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use plab_tests::TestNode;
use plab_tests::measure::progress::Progress;
use plab_tests::measure::{self, Failure, cleanup};

use crate::capsules::Capsules;
use crate::kmsg::Kmsg;
use crate::report::{Report, Row};
use crate::services::Services;

const HELP: &str = "\
stress: every class of stress-ng in one capsule, and what its neighbours notice

Usage: stress [--seconds N] [--only CLASS]... [--json FILE] [--markdown FILE]

  --seconds N      for each class [default: 60]; a class of many stressors takes longer if N is small
  --only CLASS     only this class, such as vm
  --json FILE      where the figures go [default: out/stress.json]
  --markdown FILE  write the report as a document, too

Example: stress --seconds 5 --only vm

Run as root. Exits with 0 if neighbours and node were alive throughout, whether or not they were in time; with 1 if not,
or when something could not be measured.";

/// What the caller wants.
struct Wishes {
    seconds: u64,
    only: Vec<String>,
    json: PathBuf,
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let wishes = match wishes(std::env::args().skip(1)) {
        Ok(Some(wishes)) => wishes,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => return usage(&problem),
    };
    if !rustix::process::geteuid().is_root() {
        return usage("capsules are made by root: run it as root");
    }
    if let Err(error) = storage::enter() {
        return measure::exit("stress", Err(error));
    }
    cleanup::arm();
    measure::exit("stress", run(&wishes))
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("stress: {problem}\n\n{HELP}");
    ExitCode::from(2)
}

/// None if only help is wanted.
fn wishes(mut args: impl Iterator<Item = String>) -> Result<Option<Wishes>, String> {
    let mut wishes = Wishes { seconds: 60, only: Vec::new(), json: "out/stress.json".into(), markdown: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
        match arg.as_str() {
            "--seconds" => {
                let seconds = value()?;
                wishes.seconds =
                    seconds.parse().ok().filter(|seconds| (1..=86_400).contains(seconds)).ok_or_else(
                        || format!("--seconds takes a whole number from 1 to 86400, not {seconds}"),
                    )?;
            }
            "--only" => wishes.only.push(value()?),
            "--json" => wishes.json = value()?.into(),
            "--markdown" => wishes.markdown = Some(value()?.into()),
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(Some(wishes))
}

/// True if every bound that decides was kept.
fn run(wishes: &Wishes) -> Result<bool, Failure> {
    let node = TestNode::start("stress");
    cleanup::remember(node.root());
    let measured = run_classes(wishes, &node);
    cleanup::check();
    let root = node.root().to_owned();
    node.finish();
    cleanup::forget(&root);
    let report = measured?;
    print!("{}", report.text());
    println!("\nfigures: {}", wishes.json.display());
    if let Some(file) = &wishes.markdown {
        println!("document: {}", file.display());
    }
    Ok(report.held())
}

/// After each class, so that a long run that is cut short has left what it found.
fn keep(wishes: &Wishes, report: &Report) -> Result<(), Failure> {
    report.write(&wishes.json)?;
    wishes.markdown.as_ref().map_or(Ok(()), |file| report::save(file, &markdown::render(report)))
}

fn run_classes(wishes: &Wishes, node: &TestNode) -> Result<Report, Failure> {
    let daemon = node.daemon_pid();
    let capsules = Capsules::start(node)?;
    let mut classes = stressors::classes(node)?;
    if let Some(unknown) = wishes.only.iter().find(|only| classes.iter().all(|class| &class.name != *only)) {
        let names: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
        return Err(format!("stress-ng has no class {unknown}; it has {}", names.join(", ")).into());
    }
    classes.retain(|class| wishes.only.is_empty() || wishes.only.contains(&class.name));
    let mut kmsg = Kmsg::open();
    let sshd = probes::banner().is_ok();
    let mut report = Report {
        seconds: wishes.seconds,
        version: stressors::version(node)?,
        limits: capsules.limits(),
        watched: watched(&kmsg, Services::running()?.as_ref(), sshd),
        rows: Vec::new(),
    };
    for (number, class) in classes.iter().enumerate() {
        let progress = Progress::new(number + 1, classes.len());
        progress.step(&format!("{}: the baseline", class.name));
        let (known, services) = (capsules.known(), Services::running()?);
        let rest = Duration::from_secs((wishes.seconds / 4).clamp(2, 15));
        let (base, ()) = phase::measure(&capsules, &mut kmsg, sshd, || {
            std::thread::sleep(rest);
            Ok(())
        })?;
        let stressors = class.stressors.len();
        progress.step(&format!("{}: {stressors} stressors, about {} s", class.name, wishes.seconds));
        let (during, attack) = phase::measure(&capsules, &mut kmsg, sshd, || {
            attack::run(&capsules, class, wishes.seconds, &progress)
        })?;
        cleanup::check();
        let mut complaints = capsules.complaints(&known, daemon);
        if let Some(services) = &services {
            complaints.extend(services.complaints()?);
        }
        let findings = bounds::judge(&capsules, &base, &during, complaints);
        progress.done();
        report.rows.push(Row { class: class.name.clone(), attack, base, during, findings });
        keep(wishes, &report)?;
        capsules.renew()?;
    }
    Ok(report)
}

/// What of the machine could be looked at, and what not, in words.
fn watched(kmsg: &Kmsg, services: Option<&Services>, sshd: bool) -> Vec<String> {
    vec![
        format!(
            "the node's storage was a file system of its own, of {} MiB, because slices have no quota",
            storage::SIZE_MIB
        ),
        services.map_or_else(
            || "systemd does not run here: no services of the node to look at".to_owned(),
            |services| {
                format!("systemd: {} services ran, and were looked at after each class", services.count())
            },
        ),
        if sshd {
            "sshd: its banner on loopback was asked for every 5 s".to_owned()
        } else {
            "sshd does not listen on loopback here: not asked".to_owned()
        },
        if kmsg.readable() {
            "the kernel's log was read throughout".to_owned()
        } else {
            "the kernel's log cannot be read here: not looked at".to_owned()
        },
    ]
}
