//! Copying bytes from one descriptor to another, a step whenever poll(2) says that one is possible.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::PollFlags;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// What is read at once: a pipe's capacity.
const BUFFER: usize = 64 << 10;

/// What is written at once where writing may block. poll(2) promises room for this much in a pipe; a descriptor
/// of the caller cannot be made non-blocking, for it would become so for everybody who shares it.
const CAREFUL: usize = 4096;

/// One end of a relay.
#[derive(Debug)]
pub enum End {
    /// One of the caller's descriptors: it may block.
    Callers {
        /// Standard input, output or error.
        fd: BorrowedFd<'static>,
        /// A regular file never makes poll(2) wait, so one need not ask.
        regular: bool,
    },
    /// A pipe or pseudo-terminal of our own, in non-blocking mode.
    Ours(Rc<OwnedFd>),
}

impl End {
    /// One of the caller's descriptors.
    pub fn callers(fd: BorrowedFd<'static>, stat: &Stat) -> End {
        End::Callers { fd, regular: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile }
    }

    /// A non-blocking one.
    pub fn ours(fd: Rc<OwnedFd>) -> End {
        End::Ours(fd)
    }

    /// Whether an attempt that poll(2) did not announce could make us wait.
    fn may_block(&self) -> bool {
        matches!(self, End::Callers { regular: false, .. })
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Callers { fd, .. } => fd.as_fd(),
            End::Ours(fd) => fd.as_fd(),
        }
    }
}

/// A descriptor to wait for, and what for.
pub type Watch<'a> = Option<(BorrowedFd<'a>, PollFlags)>;

/// Bytes on their way from one end to the other.
#[derive(Debug)]
pub struct Relay {
    /// None when it has ended.
    from: Option<End>,
    /// None when it takes no more.
    to: Option<End>,
    /// Made with the first byte: most commands read and print nothing.
    buffer: Vec<u8>,
    /// What of `buffer` is still to be written.
    pending: std::ops::Range<usize>,
    /// How much may still be read, once the command has ended.
    budget: Option<usize>,
    /// Why `to` takes no more, if not because its reader left.
    failure: Option<io::Error>,
    /// Whether to look out for `to` being closed while there is nothing to write.
    notices_close: bool,
    /// Whether bytes of our own follow when the source has ended.
    lingers: bool,
    /// Whether `to` was closed before the source ended.
    broken: bool,
}

impl Relay {
    /// A relay that has copied nothing yet.
    pub fn new(from: End, to: End) -> Relay {
        Relay {
            from: Some(from),
            to: Some(to),
            buffer: Vec::new(),
            pending: 0..0,
            budget: None,
            failure: None,
            notices_close: false,
            lingers: false,
            broken: false,
        }
    }

    /// Keeps its destination when the source ends, for [`Relay::append`].
    pub fn lingering(self) -> Relay {
        Relay { lingers: true, ..self }
    }

    /// Ends as soon as the pipe it writes into has no reader. Without this, plab would take one more line from
    /// the caller's terminal for a command that had long closed its input.
    pub fn noticing_close(self) -> Relay {
        Relay { notices_close: true, ..self }
    }

    /// What to wait for, at either end. One chunk is under way at a time: reading goes on when it was written,
    /// so a slow reader slows the writer down, as a pipe would.
    pub fn watch(&self) -> (Watch<'_>, Watch<'_>) {
        let to = self.to.as_ref().map(End::as_fd);
        if !self.pending.is_empty() {
            return (None, to.map(|fd| (fd, PollFlags::OUT)));
        }
        let from = if self.budget.is_some() { None } else { self.from.as_ref().map(End::as_fd) };
        // poll(2) reports an error always.
        let notices = self.notices_close && from.is_some();
        (from.map(|fd| (fd, PollFlags::IN)), to.filter(|_| notices).map(|fd| (fd, PollFlags::empty())))
    }

    /// Goes on after poll(2) reported these; returns what was read.
    pub fn ready(&mut self, from: PollFlags, to: PollFlags) -> &[u8] {
        if self.pending.is_empty() && to.contains(PollFlags::ERR) {
            self.close();
            return &[];
        }
        if !self.pending.is_empty() && !to.is_empty() {
            self.write();
        }
        let mut read = 0;
        if self.pending.is_empty() && !from.is_empty() {
            read = self.read();
            self.write_if_free();
        }
        if self.budget.is_some() {
            self.drain_on();
        }
        &self.buffer[..read]
    }

    /// The command has ended: reads what is there already, at most `budget` bytes, and waits for nothing more.
    /// A background process of the command may hold the other end for days.
    pub fn drain(&mut self, budget: usize) {
        self.budget = Some(budget);
        self.drain_on();
    }

    /// As [`Relay::drain`] with as much as the pipe holds now: what the command wrote before it ended is in
    /// it, and what comes later is somebody else's.
    pub fn drain_pipe(&mut self) {
        let held = self.from.as_ref().map_or(Ok(0), rustix::io::ioctl_fionread).unwrap_or(0);
        self.drain(usize::try_from(held).unwrap_or(usize::MAX));
    }

    fn drain_on(&mut self) {
        while self.pending.is_empty() && self.from.is_some() {
            if self.budget == Some(0) || self.read() == 0 {
                self.from = None;
            }
            self.write_if_free();
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.to.is_none() || (self.from.is_none() && self.pending.is_empty())
    }

    /// Whether the destination took no more while there was more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the source has ended.
    pub fn source_ended(&self) -> bool {
        self.from.is_none()
    }

    /// Why output was lost, if it was. A reader that left (`| head`) is no failure.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Puts bytes of our own behind all that was read. For a source that has ended.
    pub fn append(&mut self, bytes: &[u8]) {
        self.lingers = false;
        self.buffer.truncate(self.pending.end);
        self.buffer.extend_from_slice(bytes);
        self.pending.end = self.buffer.len();
    }

    /// Reads once; returns how much. An end or an error of the source ends it: for a pseudo-terminal EIO is how
    /// the end looks.
    fn read(&mut self) -> usize {
        let Some(from) = &self.from else { return 0 };
        let most = self.budget.map_or(BUFFER, |b| b.min(BUFFER));
        self.buffer.resize(most, 0);
        let result = rustix::io::read(from, &mut self.buffer[..]);
        let n = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(n);
        self.pending = 0..n;
        match result {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => self.end_source(),
            Ok(n) => {
                if let Some(budget) = &mut self.budget {
                    *budget -= n;
                }
            }
        }
        n
    }

    /// The source has ended and everything of it was written (a chunk is read only when the one before is gone):
    /// closing the other end hands the end on, which is what `wc` waits for.
    fn end_source(&mut self) {
        self.from = None;
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        if self.from.is_none() && self.pending.is_empty() && !self.lingers {
            self.to = None;
        }
    }

    fn write_if_free(&mut self) {
        if self.to.as_ref().is_some_and(|to| !to.may_block()) {
            self.write();
        }
    }

    /// Writes once, as much as goes.
    fn write(&mut self) {
        let Some(to) = &self.to else { return };
        if self.pending.is_empty() {
            return;
        }
        let mut bytes = &self.buffer[self.pending.clone()];
        if to.may_block() {
            bytes = &bytes[..bytes.len().min(CAREFUL)];
        }
        match rustix::io::write(to, bytes) {
            Ok(n) => {
                self.pending.start += n;
                self.close_if_done();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Closing our end of the command's pipe lets the command have the signal or error that it would
            // have had with the caller's descriptor in its hand.
            Err(Errno::PIPE) => self.close(),
            Err(e) => {
                self.failure = Some(e.into());
                self.close();
            }
        }
    }

    fn close(&mut self) {
        self.from = None;
        self.to = None;
        self.broken = true;
        self.pending = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, Timespec, poll};
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (Rc<OwnedFd>, Rc<OwnedFd>) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("pipe");
        (Rc::new(read), Rc::new(write))
    }

    /// Steps while something is ready.
    fn run(relay: &mut Relay) {
        loop {
            let (from, to) = relay.watch();
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            for (fd, flags) in [&from, &to].into_iter().flatten() {
                fds.push(PollFd::from_borrowed_fd(*fd, *flags));
            }
            if fds.is_empty() || poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll") == 0
            {
                return;
            }
            let mut flags = fds.iter().map(PollFd::revents);
            let from = from.and_then(|_| flags.next()).unwrap_or(PollFlags::empty());
            let to = to.and_then(|_| flags.next()).unwrap_or(PollFlags::empty());
            relay.ready(from, to);
        }
    }

    fn read_all(fd: &OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(fd, &mut chunk) {
            all.extend_from_slice(&chunk[..n]);
        }
        all
    }

    #[test]
    fn bytes_arrive_and_the_end_is_handed_on() {
        let (source, feed) = pipe();
        let (out, sink) = pipe();
        let mut relay = Relay::new(End::ours(source), End::ours(sink));
        rustix::io::write(&feed, b"hello").expect("write");
        run(&mut relay);
        assert_eq!(read_all(&out), b"hello");
        assert!(!relay.is_done());
        drop(feed);
        run(&mut relay);
        assert!(relay.is_done());
        assert_eq!(rustix::io::read(&out, &mut [0; 1]), Ok(0), "the end of the file");
    }

    #[test]
    fn a_full_pipe_takes_it_in_parts() {
        let (source, feed) = pipe();
        let (out, sink) = pipe();
        rustix::pipe::fcntl_setpipe_size(&sink, 4096).expect("resize");
        let mut relay = Relay::new(End::ours(source), End::ours(sink));
        let data: Vec<u8> = (0..50_000u32).map(|i| u8::try_from(i % 251).expect("u8")).collect();
        assert_eq!(rustix::io::write(&feed, &data), Ok(data.len()));
        drop(feed);
        let mut got = Vec::new();
        while !relay.is_done() {
            run(&mut relay);
            got.extend(read_all(&out));
        }
        got.extend(read_all(&out));
        assert_eq!(got, data);
    }

    #[test]
    fn a_reader_that_left_ends_it_without_a_failure() {
        let (source, feed) = pipe();
        let (out, sink) = pipe();
        let mut relay = Relay::new(End::ours(source), End::ours(sink)).noticing_close();
        drop(out);
        run(&mut relay);
        assert!(relay.is_done() && relay.take_failure().is_none());
        assert_eq!(rustix::io::write(&feed, b"x"), Err(Errno::PIPE), "the writer learns of it");
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let (source, feed) = pipe();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("open");
        let mut relay = Relay::new(End::ours(source), End::ours(Rc::new(full.into())));
        rustix::io::write(&feed, b"x").expect("write");
        run(&mut relay);
        assert!(relay.is_done());
        assert_eq!(relay.take_failure().and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    }

    #[test]
    fn draining_takes_what_is_there_and_does_not_wait() {
        let (source, feed) = pipe();
        let (out, sink) = pipe();
        rustix::pipe::fcntl_setpipe_size(&sink, 4096).expect("resize");
        let mut relay = Relay::new(End::ours(source), End::ours(sink));
        // More than the sink takes at once, and a writer that stays: a background process.
        assert_eq!(rustix::io::write(&feed, &[b'x'; 10_000]), Ok(10_000));
        relay.drain_pipe();
        assert_eq!(rustix::io::write(&feed, &[b'y'; 1_000]), Ok(1_000));
        let mut got = Vec::new();
        while !relay.is_done() {
            run(&mut relay);
            got.extend(read_all(&out));
        }
        got.extend(read_all(&out));
        assert_eq!((got.len(), got.contains(&b'y')), (10_000, false));
    }

    #[test]
    fn an_empty_pipe_drains_at_once() {
        let (source, _feed) = pipe();
        let (_out, sink) = pipe();
        let mut relay = Relay::new(End::ours(source), End::ours(sink));
        relay.drain_pipe();
        assert!(relay.is_done());
    }
}
