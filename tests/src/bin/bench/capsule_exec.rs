//! A command in a running capsule, from the request on the control socket to the exit status, beside the same command
//! by everybody else. Contenders take turns, so that whatever else the machine does meets them all.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use plab_protocol::MAX_DATAGRAM;
use plab_protocol::channel;
use plab_protocol::control::{Exec, Reply, Request};
use plab_protocol::session::FromSession;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::client::Client;
use crate::contenders::{COMMAND, Contenders};
use crate::nodes::Node;
use crate::progress::Progress;
use crate::report::{Report, millis, times};
use crate::stats::{Samples, as_f64};
use crate::{Failure, Wishes};

/// At most this much slower than a bare vfork+exec+wait.
const OVER_BARE: f64 = 1.3;
/// At least this much faster than bwrap.
const UNDER_BWRAP: f64 = 6.0;

/// Runs in a row before the next contender's turn.
const IN_A_ROW: usize = 10;

/// What it takes to run commands in one slice as the real client does: a new connection and session each.
pub struct Commander {
    socket: PathBuf,
    slice: String,
    null: File,
    buffer: Vec<u8>,
}

impl Commander {
    /// For the slice of this name.
    pub fn new(node: &Node, slice: &str) -> Result<Self, Failure> {
        Ok(Self {
            socket: node.socket(),
            slice: slice.to_owned(),
            null: File::options().read(true).write(true).open("/dev/null")?,
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// Runs a command without input or output and waits for its exit status, which must be 0.
    pub fn run(&mut self, argv: &[&str]) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let mut command = self.start(argv, [None, None])?;
        self.wait(&mut command)?;
        let took = begun.elapsed();
        // The exit status may be here before the reply; that there is one is no part of the time.
        command.reply()?;
        Ok(took)
    }

    /// Starts a command; `input` and `output` are `/dev/null` where there is none.
    pub fn start(&self, argv: &[&str], [input, output]: [Option<&OwnedFd>; 2]) -> Result<Running, Failure> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let null = self.null.as_fd();
        let fds = [far.as_fd(), input.map_or(null, AsFd::as_fd), output.map_or(null, AsFd::as_fd), null];
        let request = Request::Exec(Exec {
            slice: self.slice.clone(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: [].into(),
            tty: None,
            login: None,
            agent: false,
        });
        let control = Client::ask(&self.socket, request, &fds)?;
        // Else the end of the session would never be seen.
        drop(far);
        Ok(Running { session: near, control: Some(control) })
    }

    /// Waits for a command's end, on both sockets as the real client does.
    pub fn wait(&mut self, command: &mut Running) -> Result<(), Failure> {
        loop {
            if command.poll()? {
                let (n, _) = channel::receive(&command.session, &mut self.buffer)?;
                if n == 0 {
                    // A refusal says why.
                    command.reply()?;
                    return Err("the capsule hung up before the command's end".into());
                }
                match serde_json::from_slice(&self.buffer[..n])? {
                    FromSession::Running => {}
                    FromSession::Exited { code: 0 } => return Ok(()),
                    other => return Err(format!("the command ended with {other:?}").into()),
                }
            } else {
                command.reply()?;
            }
        }
    }
}

/// A command that was asked for.
pub struct Running {
    session: OwnedFd,
    /// None once it has answered.
    control: Option<Client>,
}

impl Running {
    /// Waits for either socket; true if it is the session's turn.
    fn poll(&self) -> Result<bool, Failure> {
        let mut set = vec![PollFd::new(&self.session, PollFlags::IN)];
        set.extend(self.control.as_ref().map(|control| PollFd::new(control, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut set, None))?;
        Ok(!set[0].revents().is_empty())
    }

    fn reply(&mut self) -> Result<(), Failure> {
        match self.control.take().map(|mut control| control.reply()).transpose()? {
            None | Some(Reply::Started) => Ok(()),
            Some(other) => Err(format!("plabd answered a command with {other:?}").into()),
        }
    }
}

/// Measures and reports.
pub fn measure(
    wishes: &Wishes,
    contenders: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    progress.step("a command in a running capsule: starting a node");
    let node = Node::start("exec")?;
    let measured = run(&node, wishes, contenders, progress, report);
    node.finish();
    measured
}

fn run(
    node: &Node,
    wishes: &Wishes,
    contenders: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    node.test.define("bench_exec", "");
    let mut commander = Commander::new(node, "bench_exec")?;
    for _ in 0..50 {
        commander.run(&[COMMAND])?;
        contenders.bare.run()?;
    }
    let mut ours = Samples::default();
    let mut bare = Samples::default();
    let mut bwrap = Samples::default();
    let mut crun = Samples::default();
    let rounds = wishes.count(300, 15);
    for round in 0..rounds {
        progress.at("a command in a running capsule, by turns with its peers", round, rounds);
        for turn in 0..4 {
            // Everybody comes after everybody else equally often.
            match (turn + round) % 4 {
                0 => repeat(&mut ours, IN_A_ROW, || commander.run(&[COMMAND]))?,
                1 => repeat(&mut bare, IN_A_ROW, || contenders.bare.run())?,
                2 => {
                    if let Ok(program) = &contenders.bwrap {
                        repeat(&mut bwrap, 2, || program.run())?;
                    }
                }
                _ => {
                    if let Ok(program) = &contenders.crun {
                        repeat(&mut crun, 1, || program.run())?;
                    }
                }
            }
        }
    }
    progress.step("two clients at once");
    let (our_rate, bare_rate) = throughput(node, contenders, wishes)?;

    let (p50, bare_p50) = (ours.median(), bare.median());
    let ratio = p50 / bare_p50;
    report
        .row("command in a capsule, p50")
        .ours(millis(p50))
        .peer(format!("bare {}", millis(bare_p50)))
        .ratio(ratio)
        .at_most(times(OVER_BARE), ratio / OVER_BARE)
        .add();
    let (p99, bare_p99) = (ours.percentile(99.0), bare.percentile(99.0));
    report
        .row("  p99")
        .ours(millis(p99))
        .peer(format!("bare {}", millis(bare_p99)))
        .ratio(p99 / bare_p99)
        .add();
    report
        .row("  two clients at once")
        .ours(format!("{our_rate:.0}/s"))
        .peer(format!("bare {bare_rate:.0}/s"))
        .ratio(bare_rate / our_rate)
        .add();
    match &contenders.bwrap {
        Ok(_) => {
            let faster = bwrap.median() / p50;
            report
                .row("  against a bwrap run")
                .ours(millis(p50))
                .peer(format!("bwrap {}", millis(bwrap.median())))
                .faster(faster)
                .at_least(times(UNDER_BWRAP), UNDER_BWRAP / faster)
                .add();
        }
        Err(error) => report.fail("against a bwrap run", error),
    }
    match &contenders.crun {
        Ok(_) => {
            let faster = crun.median() / p50;
            report
                .row("  against a crun run")
                .ours(millis(p50))
                .peer(format!("crun {}", millis(crun.median())))
                .faster(faster)
                .add();
        }
        Err(error) => report.fail("against a crun run", error),
    }
    report.samples("exec_ours_ms", &ours);
    report.samples("exec_bare_ms", &bare);
    report.samples("exec_bwrap_ms", &bwrap);
    report.samples("exec_crun_ms", &crun);
    report.value("exec_two_clients_per_second", our_rate);
    report.value("exec_two_bare_per_second", bare_rate);
    Ok(())
}

/// Adds so many runs, in milliseconds.
pub fn repeat(
    samples: &mut Samples,
    count: usize,
    mut run: impl FnMut() -> Result<Duration, Failure>,
) -> Result<(), Failure> {
    for _ in 0..count {
        samples.push(run()?.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Commands a second with two at a time, ours and bare; by turns, the median of each.
fn throughput(node: &Node, contenders: &Contenders, wishes: &Wishes) -> Result<(f64, f64), Failure> {
    let slot = Duration::from_millis(250);
    let mut ours = Samples::default();
    let mut bare = Samples::default();
    let program = &contenders.bare;
    let mut commanders = [Commander::new(node, "bench_exec")?, Commander::new(node, "bench_exec")?];
    for _ in 0..wishes.count(12, 2) {
        ours.push(rate(slot, commanders.each_mut().map(|commander| || commander.run(&[COMMAND]).is_ok()))?);
        bare.push(rate(slot, [(); 2].map(|()| || program.run().is_ok()))?);
    }
    Ok((ours.median(), bare.median()))
}

fn rate(slot: Duration, runs: [impl FnMut() -> bool + Send; 2]) -> Result<f64, Failure> {
    let begun = Instant::now();
    let counts = std::thread::scope(|scope| {
        let threads = runs.map(|mut run| {
            scope.spawn(move || {
                let mut count = 0;
                while begun.elapsed() < slot {
                    if !run() {
                        return None;
                    }
                    count += 1;
                }
                Some(count)
            })
        });
        threads.map(|thread| thread.join().ok().flatten())
    });
    let total: Option<usize> = counts.into_iter().sum();
    let total = total.ok_or("one of two commands at once failed")?;
    Ok(as_f64(total) / begun.elapsed().as_secs_f64())
}
