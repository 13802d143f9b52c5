//! `--json`: what a command prints as JSON documents, one a line, and a last one that says how it ended.
//!
//! A thread of its own turns bytes into documents, so that the copying need not know of it: to a relay the
//! way here is a pipe like any other, and a reader that left is noticed as with any other.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use base64ct::{Base64, Encoding};
use rustix::event::{PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;

use super::outcome::Ending;
use super::poll_set::PollSet;
use crate::error::Error;
use crate::output::print_json;

/// The most bytes of one document's text before they are encoded.
const CHUNK: usize = 16 << 10;

/// One line of `plab exec --json`. Streams keep the order of their own bytes, not that between them.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Document<'a> {
    Output {
        stream: &'static str,
        #[serde(flatten)]
        data: Data<'a>,
    },
    Exit(&'a Ending),
}

/// Bytes as JSON can carry them.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Data<'a> {
    /// They were UTF-8.
    Text(&'a str),
    /// They were not.
    Base64(String),
}

impl<'a> Data<'a> {
    fn of(bytes: &'a [u8]) -> Data<'a> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Data::Text(text),
            Err(_) => Data::Base64(Base64::encode_string(bytes)),
        }
    }
}

/// The documents of one command.
#[derive(Debug)]
pub struct Documents(JoinHandle<Result<(), Error>>);

impl Documents {
    /// Begins; returns where standard output and standard error are to be written. Both do not block.
    ///
    /// # Errors
    /// As pipe2(2).
    pub fn begin() -> Result<(Documents, [OwnedFd; 2]), Error> {
        let (output, to_output) = pipe()?;
        let (error, to_error) = pipe()?;
        let sources = [Source::new("stdout", output), Source::new("stderr", error)];
        let thread = std::thread::Builder::new()
            .spawn(move || encode(sources))
            .map_err(Error::system("start a thread for the command's output"))?;
        Ok((Documents(thread), [to_output, to_error]))
    }

    /// Waits until everything is printed, which is once both pipes are closed, and prints the last document.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub fn end(self, ending: &Ending) -> Result<(), Error> {
        // A panic has said what it had to say on standard error.
        self.0.join().map_err(|_| Error::Session("the command's output was lost".into()))??;
        show(&Document::Exit(ending))
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"))?;
    fcntl_setfl(&write, OFlags::NONBLOCK).map_err(Error::system("make a pipe"))?;
    Ok((read, write))
}

/// A stream, and of its bytes the first few of a character whose others have not come yet.
#[derive(Debug)]
struct Source {
    name: &'static str,
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl Source {
    fn new(name: &'static str, pipe: OwnedFd) -> Source {
        Source { name, pipe: Some(pipe), kept: Vec::new() }
    }

    /// Takes in bytes, no bytes being the end; returns what is ready to be shown.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.kept);
        all.extend_from_slice(bytes);
        if bytes.is_empty() {
            self.pipe = None;
        } else if let Err(e) = std::str::from_utf8(&all)
            && e.error_len().is_none()
        {
            self.kept = all.split_off(e.valid_up_to());
        }
        all
    }
}

fn encode(mut sources: [Source; 2]) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK];
    while sources.iter().any(|source| source.pipe.is_some()) {
        let mut set = PollSet::default();
        let at = sources
            .each_ref()
            .map(|source| set.add(source.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN))));
        match poll(&mut set.0, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::system("wait for the command's output")(e)),
        }
        let ready = at.map(|at| !set.flags(at).is_empty());
        for (source, _) in sources.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            let Some(pipe) = &source.pipe else { continue };
            let n = match rustix::io::read(pipe, &mut buffer[..]) {
                Err(Errno::INTR) => continue,
                result => result.map_err(Error::system("read the command's output"))?,
            };
            let bytes = source.take(&buffer[..n]);
            if !bytes.is_empty() {
                show(&Document::Output { stream: source.name, data: Data::of(&bytes) })?;
            }
        }
    }
    Ok(())
}

fn show(document: &Document<'_>) -> Result<(), Error> {
    let json = serde_json::to_string(document).map_err(|e| Error::Output(e.into()))?;
    print_json(&json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(document: &Document<'_>) -> String {
        serde_json::to_string(document).expect("JSON")
    }

    #[test]
    fn a_document_a_line() {
        let output = |bytes| line(&Document::Output { stream: "stdout", data: Data::of(bytes) });
        assert_eq!(output(b"a\n"), r#"{"output":{"stream":"stdout","text":"a\n"}}"#);
        assert_eq!(output(&[0xff, 0]), r#"{"output":{"stream":"stdout","base64":"/wA="}}"#);
        let ending = Ending { signal: Some(9), ..Ending::status(137) };
        assert_eq!(line(&Document::Exit(&ending)), r#"{"exit":{"status":137,"signal":9}}"#);
        assert_eq!(line(&Document::Exit(&Ending::status(0))), r#"{"exit":{"status":0}}"#);
    }

    #[test]
    fn characters_are_not_cut_in_two() {
        let (read, _write) = pipe().expect("pipe");
        let mut source = Source::new("stdout", read);
        let euro = "€".as_bytes();
        assert_eq!(source.take(&[b'a', euro[0], euro[1]]), b"a");
        assert_eq!(source.take(&[euro[2]]), euro);
        // What can never become a character is shown at once, what is none at the end then.
        assert_eq!(source.take(&[0xff]), [0xff]);
        assert!(source.take(&[euro[0]]).is_empty());
        assert_eq!(source.take(&[]), [euro[0]]);
        assert!(source.pipe.is_none());
    }
}
