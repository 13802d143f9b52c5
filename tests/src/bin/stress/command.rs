//! A command with a time limit: what is measured here may hang, and the measurement must not.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plab_tests::measure::Failure;
use plab_tests::{Output, TestNode, binary};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A `plab` command against the node; see [`run`].
pub fn plab(node: &TestNode, args: &[&str], limit: Duration) -> Result<Option<Output>, Failure> {
    let mut command = Command::new(binary("plab"));
    command.arg("--root").arg(node.root()).args(args);
    run(command, limit)
}

/// Runs a command without input: what it said and how it ended; none if it was killed at its time limit.
pub fn run(mut command: Command, limit: Duration) -> Result<Option<Output>, Failure> {
    let begun = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(
            |error| format!("could not start {}: {error}", command.get_program().to_string_lossy()),
        )?;
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let ended = loop {
        let left = limit.saturating_sub(begun.elapsed());
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&Timespec::try_from(left)?)) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other? > 0,
        }
    };
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ended.then_some(Output { code, stdout, stderr }))
}

/// Reads to the end beside the command, so that a full pipe does not stop it.
fn gather(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is kept; the exit status tells the rest.
            pipe.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
