//! What neighbours and the node's users notice: the same small requests, at fixed intervals, each with its time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plab_tests::measure::stats::Samples;
use plab_tests::measure::{Failure, cleanup};
use plab_tests::wait::slowness;

use crate::capsules::{Capsules, WEB};
use crate::command;

/// An answer that takes longer is none. Far beyond every bound on time, because a missing answer is judged harder.
pub fn patience() -> Duration {
    Duration::from_secs(30) * slowness()
}

/// Between two requests to the neighbour's service.
const WEB_PACE: Duration = Duration::from_millis(50);

/// Between two commands, which are whole programs to start.
const COMMAND_PACE: Duration = Duration::from_millis(500);

/// Between two connections to sshd: rarely enough that it does not take them for an attack.
const SSHD_PACE: Duration = Duration::from_secs(5);

/// As many failures are told in words; all are counted.
const TOLD: usize = 5;

/// The answers to one kind of request.
#[derive(Debug, Default)]
pub struct Answers {
    /// Milliseconds of each.
    pub took: Samples,
    /// Requests without an answer.
    pub failed: usize,
    /// Why, of the first few.
    pub why: Vec<String>,
}

impl Answers {
    fn add(&mut self, took: Duration, answer: Result<(), Failure>) {
        match answer {
            Ok(()) => self.took.push(took.as_secs_f64() * 1e3),
            Err(why) => {
                self.failed += 1;
                if self.why.len() < TOLD {
                    self.why.push(format!("after {} ms: {why}", took.as_millis()));
                }
            }
        }
    }
}

/// What is asked meanwhile.
#[derive(Debug, Clone, Copy)]
pub enum Probe {
    /// A page of the neighbour's service.
    Web,
    /// `plab status`.
    Status,
    /// `plab exec site_web -- true`.
    Exec,
    /// The banner of the node's sshd on loopback.
    Sshd,
}

impl Probe {
    /// Asks again and again until `stop`.
    pub fn repeat(self, capsules: &Capsules<'_>, stop: &AtomicBool) -> Answers {
        let mut answers = Answers::default();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = self.ask(capsules);
            // A node that is being taken down answers nobody, and that is no finding.
            cleanup::check();
            answers.add(begun.elapsed(), answer);
            std::thread::sleep(self.pace().saturating_sub(begun.elapsed()));
        }
        answers
    }

    fn pace(self) -> Duration {
        match self {
            Self::Web => WEB_PACE,
            Self::Status | Self::Exec => COMMAND_PACE,
            Self::Sshd => SSHD_PACE,
        }
    }

    fn ask(self, capsules: &Capsules<'_>) -> Result<(), Failure> {
        match self {
            Self::Web => page(capsules.port),
            Self::Status => succeed(capsules, &["status"]),
            Self::Exec => succeed(capsules, &["exec", WEB, "--", "true"]),
            Self::Sshd => banner(),
        }
    }
}

fn succeed(capsules: &Capsules<'_>, args: &[&str]) -> Result<(), Failure> {
    match command::plab(capsules.node, args, patience())? {
        Some(output) if output.code == 0 => Ok(()),
        Some(output) => Err(format!("status {}: {}", output.code, output.stderr.trim()).into()),
        None => Err("no answer".into()),
    }
}

fn connect(port: u16) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience())?;
    stream.set_read_timeout(Some(patience()))?;
    stream.set_write_timeout(Some(patience()))?;
    Ok(stream)
}

fn page(port: u16) -> Result<(), Failure> {
    let mut stream = connect(port)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.0 200") && answer.ends_with(b"xxxx") {
        Ok(())
    } else {
        Err(format!("{} bytes that are not the page", answer.len()).into())
    }
}

/// Whether sshd listens on loopback and says who it is.
pub fn banner() -> Result<(), Failure> {
    let mut start = [0; 4];
    connect(22)?.read_exact(&mut start)?;
    if &start == b"SSH-" { Ok(()) } else { Err("whoever listens on port 22 is no sshd".into()) }
}
