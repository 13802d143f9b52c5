//! Which of the caller's descriptors a slice may have, and pipes in place of the others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, Stat, fchmod, fcntl_getfl, fcntl_setfl, fstat, makedev};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::relay::{End, Relay};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the command: its standard input.
    In,
    /// From the command: its standard output and error.
    Out,
}

/// What becomes of one of the caller's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The slice gets it.
    Pass,
    /// The slice gets a pipe, and plab copies.
    Relay,
}

/// Decides what a slice may hold.
///
/// A descriptor is more than a stream of bytes: what it refers to can be asked and told things, by whoever
/// holds it. A slice that holds the terminal of root can type commands into it (TIOCSTI), turn off its echo,
/// read what is typed next. A socket can be shut down for everybody, asked for the peer, or carry
/// descriptors; a directory leads out of the view; a device does what devices do. None of these is ever
/// handed over. Nor is a pipe of the caller's: its inode is the caller's, so the command could not open
/// `/dev/stderr` by name, as scripts and servers do; and were it opened to everybody, the command could read
/// what others had written to the same pipe. What is handed over:
///
/// * a regular file, to read, opened for reading only. Opening it again for writing needs permission on
///   the file, as it would by name.
/// * `/dev/null`.
///
/// A regular file to write into is relayed too, though it costs a copy: whoever holds it can shorten it,
/// overwrite what was there before (O_APPEND can be turned off), lock it, and go on filling the caller's disk
/// from a background process long after plab has ended.
pub fn handling(stat: &Stat, flags: OFlags, direction: Direction) -> Handling {
    let reads_only = flags & OFlags::RWMODE == OFlags::RDONLY;
    // An O_PATH descriptor says "read only" and is no open file at all.
    if flags.contains(OFlags::PATH) {
        return Handling::Relay;
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if direction == Direction::In && reads_only => Handling::Pass,
        FileType::CharacterDevice if stat.st_rdev == makedev(1, 3) => Handling::Pass,
        _ => Handling::Relay,
    }
}

/// A descriptor for the command.
#[derive(Debug)]
enum Far {
    Callers(BorrowedFd<'static>),
    Pipe(Rc<OwnedFd>),
}

impl AsFd for Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Far::Callers(fd) => fd.as_fd(),
            Far::Pipe(fd) => fd.as_fd(),
        }
    }
}

/// What the command gets as its standard input, output and error. To be dropped as soon as it was sent: while
/// plab holds the command's end of a pipe it never sees that the command closed its own.
#[derive(Debug)]
pub struct Stdio([Far; 3]);

impl Stdio {
    /// The three descriptors, in order.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(AsFd::as_fd)
    }
}

/// What plab copies for the command.
#[derive(Debug, Default)]
pub struct Relays {
    /// Into the command.
    pub input: Option<Relay>,
    /// Out of the command.
    pub output: Vec<Relay>,
}

/// Looks at the caller's three descriptors and makes the pipes that are needed. With `sinks`, pipes of plab's
/// own that do not block, standard output and error go there and not to the caller's.
///
/// # Errors
/// As fstat(2) and pipe2(2).
pub fn prepare(sinks: Option<[OwnedFd; 2]>) -> Result<(Stdio, Relays), Error> {
    let mut relays = Relays::default();
    let input = prepare_input(&mut relays)?;
    let [output, error] = match sinks {
        None => prepare_output(&mut relays)?,
        Some(sinks) => {
            let mut copied = |sink| -> Result<Far, Error> {
                let (far, near) = pipe(Direction::Out)?;
                relays.output.push(Relay::new(near, End::ours(Rc::new(sink))));
                Ok(far)
            };
            let [output, error] = sinks;
            [copied(output)?, copied(error)?]
        }
    };
    Ok((Stdio([input, output, error]), relays))
}

fn prepare_input(relays: &mut Relays) -> Result<Far, Error> {
    let stdin = rustix::stdio::stdin();
    let (stat, how) = look(stdin, Direction::In)?;
    if how == Handling::Pass {
        return Ok(Far::Callers(stdin));
    }
    let (far, near) = pipe(Direction::In)?;
    relays.input = Some(Relay::new(End::callers(stdin, &stat), near).noticing_close());
    Ok(far)
}

fn prepare_output(relays: &mut Relays) -> Result<[Far; 2], Error> {
    let (stdout, stderr) = (rustix::stdio::stdout(), rustix::stdio::stderr());
    let (out_stat, how) = look(stdout, Direction::Out)?;
    let mut shared = None;
    let output = match how {
        Handling::Pass => Far::Callers(stdout),
        Handling::Relay => {
            let (far, near) = pipe(Direction::Out)?;
            relays.output.push(Relay::new(near, End::callers(stdout, &out_stat)));
            if let Far::Pipe(fd) = &far {
                shared = Some(Rc::clone(fd));
            }
            far
        }
    };

    let (err_stat, how) = look(stderr, Direction::Out)?;
    let error = match (how, shared) {
        (Handling::Pass, _) => Far::Callers(stderr),
        // One terminal, or `> log 2>&1`: with a pipe each, the two would come out in another order than they
        // were written.
        (Handling::Relay, Some(fd))
            if (err_stat.st_dev, err_stat.st_ino) == (out_stat.st_dev, out_stat.st_ino) =>
        {
            Far::Pipe(fd)
        }
        (Handling::Relay, _) => {
            let (far, near) = pipe(Direction::Out)?;
            relays.output.push(Relay::new(near, End::callers(stderr, &err_stat)));
            far
        }
    };
    Ok([output, error])
}

fn look(fd: BorrowedFd<'_>, direction: Direction) -> Result<(Stat, Handling), Error> {
    let failed = Error::system::<rustix::io::Errno>;
    let stat = fstat(fd).map_err(failed("look at standard input, output and error"))?;
    let flags = fcntl_getfl(fd).map_err(failed("look at standard input, output and error"))?;
    let how = handling(&stat, flags, direction);
    Ok((stat, how))
}

/// A pipe: the command's end, which blocks as programs expect, and ours, which does not.
fn pipe(direction: Direction) -> Result<(Far, End), Error> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"))?;
    let (far, near) = match direction {
        Direction::In => (read, write),
        Direction::Out => (write, read),
    };
    // The slice is another user: with this it can open its streams by name, and a pipe has no name but those in
    // the /proc of whoever holds it.
    fchmod(&far, Mode::from_raw_mode(0o666)).map_err(Error::system("open a pipe to the slice"))?;
    fcntl_setfl(&near, OFlags::NONBLOCK).map_err(Error::system("make a pipe"))?;
    Ok((Far::Pipe(Rc::new(far)), End::ours(Rc::new(near))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, openat};

    fn of(fd: impl AsFd, direction: Direction) -> Handling {
        look(fd.as_fd(), direction).expect("look").1
    }

    fn open(path: &str, flags: OFlags) -> OwnedFd {
        openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).expect(path)
    }

    #[test]
    fn a_pipe_of_the_callers_never_passes() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        for end in [&read, &write] {
            assert_eq!(of(end, Direction::In), Handling::Relay);
            assert_eq!(of(end, Direction::Out), Handling::Relay);
        }
    }

    #[test]
    fn a_file_passes_for_reading_only() {
        let path = std::env::temp_dir().join(format!("plab-stdio-{}", std::process::id()));
        std::fs::write(&path, "x").expect("write");
        let name = path.to_str().expect("utf-8");
        let modes =
            [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::PATH].map(|flags| open(name, flags));
        std::fs::remove_file(&path).expect("remove");
        let [read, write, both, only_path] = modes;
        assert_eq!(of(&read, Direction::In), Handling::Pass);
        for fd in [&write, &both, &only_path] {
            assert_eq!(of(fd, Direction::In), Handling::Relay);
        }
        for fd in [&read, &write, &both, &only_path] {
            assert_eq!(of(fd, Direction::Out), Handling::Relay);
        }
    }

    #[test]
    fn of_devices_only_null_passes() {
        for flags in [OFlags::RDONLY, OFlags::RDWR] {
            assert_eq!(of(open("/dev/null", flags), Direction::In), Handling::Pass);
        }
        assert_eq!(of(open("/dev/null", OFlags::WRONLY), Direction::Out), Handling::Pass);
        for device in ["/dev/zero", "/dev/full", "/dev/ptmx"] {
            assert_eq!(
                of(open(device, OFlags::RDWR | OFlags::NOCTTY), Direction::In),
                Handling::Relay,
                "{device}"
            );
            assert_eq!(
                of(open(device, OFlags::RDWR | OFlags::NOCTTY), Direction::Out),
                Handling::Relay,
                "{device}"
            );
        }
    }

    #[test]
    fn directories_and_sockets_never_pass() {
        assert_eq!(of(open("/", OFlags::RDONLY | OFlags::DIRECTORY), Direction::In), Handling::Relay);
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert_eq!(of(&a, Direction::In), Handling::Relay);
        assert_eq!(of(&a, Direction::Out), Handling::Relay);
    }
}
