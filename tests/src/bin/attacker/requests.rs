//! Attacks on plabd by its control socket: requests, bytes that are none, descriptors, connections.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::Primitive;
use crate::sys::{Attempt, arg, int, number};

pub const PRIMITIVES: &[Primitive] = &[
    ("ask", ask),
    ("ask-long", ask_long),
    ("ask-nested", ask_nested),
    ("ask-bytes", ask_bytes),
    ("ask-with", ask_with),
    ("ask-arguments", ask_arguments),
    ("exec-with", exec_with),
    ("connections", connections),
    ("sessions", sessions),
    ("deaf", deaf),
    ("session-noise", session_noise),
    ("floods", floods),
];

fn connect(path: &str) -> Result<UnixStream, i32> {
    let stream = UnixStream::connect(path).map_err(|e| number(&e))?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| number(&e))?;
    stream.set_write_timeout(Some(Duration::from_secs(10))).map_err(|e| number(&e))?;
    Ok(stream)
}

/// The first line that comes back; `closed` if none does.
fn answer(mut stream: UnixStream) -> Attempt {
    let mut line = Vec::new();
    let mut buffer = [0; 64 << 10];
    while !line.contains(&b'\n') {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => line.extend(&buffer[..length]),
            // Closed with bytes unread, which a stream socket reports so.
            Err(error) if number(&error) == libc::ECONNRESET => break,
            Err(error) => return Err(number(&error)),
        }
    }
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let text = String::from_utf8_lossy(&line[..end]).into_owned();
    Ok(if text.is_empty() { "closed".into() } else { text })
}

/// Writes what it can: plabd may close before it has read all, and its answer counts then.
fn say(stream: &mut UnixStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// `ask SOCKET LINE`.
fn ask(args: &[String]) -> Attempt {
    let mut stream = connect(arg(args, 0))?;
    say(&mut stream, format!("{}\n", arg(args, 1)).as_bytes());
    answer(stream)
}

/// `ask-long SOCKET BYTES`: a line without end.
fn ask_long(args: &[String]) -> Attempt {
    let mut stream = connect(arg(args, 0))?;
    let piece = vec![b'a'; 64 << 10];
    let mut left = int(args, 1) as usize;
    say(&mut stream, b"{\"v\":1,\"request\":\"");
    while left > 0 {
        let length = left.min(piece.len());
        if stream.write_all(&piece[..length]).is_err() {
            break;
        }
        left -= length;
    }
    say(&mut stream, b"\n");
    answer(stream)
}

/// `ask-nested SOCKET DEPTH`: a value in a value in a value, for parsers that recurse.
fn ask_nested(args: &[String]) -> Attempt {
    let mut stream = connect(arg(args, 0))?;
    let depth = int(args, 1) as usize;
    let line =
        format!("{{\"v\":1,\"request\":\"status\",\"slice\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
    say(&mut stream, line.as_bytes());
    answer(stream)
}

/// `ask-bytes SOCKET HEX`: bytes that need not be text.
fn ask_bytes(args: &[String]) -> Attempt {
    let hex = arg(args, 1).as_bytes();
    let bytes: Vec<u8> = hex
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .chain([b'\n'])
        .collect();
    let mut stream = connect(arg(args, 0))?;
    say(&mut stream, &bytes);
    answer(stream)
}

/// Sends `bytes` with `fds` by hand, so that no library keeps to the protocol's limits for us.
fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), i32> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); 16 + fds.len() * 4 + 64];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(rustix::net::SendAncillaryMessage::ScmRights(fds)) {
        return Err(libc::E2BIG);
    }
    let bytes = [std::io::IoSlice::new(bytes)];
    rustix::net::sendmsg(stream, &bytes, &mut control, rustix::net::SendFlags::NOSIGNAL)
        .map(|_| ())
        .map_err(rustix::io::Errno::raw_os_error)
}

/// `ask-with SOCKET COUNT LINE [TIMES]`: descriptors along with it, none of them what it should be.
fn ask_with(args: &[String]) -> Attempt {
    let null = std::fs::File::open("/dev/null").map_err(|e| number(&e))?;
    let fds = vec![null.as_fd(); int(args, 1) as usize];
    let times = if args.len() > 3 { int(args, 3) } else { 1 };
    let mut last = Ok("nothing asked".into());
    for _ in 0..times {
        let stream = connect(arg(args, 0))?;
        // Closed already, with an answer to read: too many connections.
        let _ = send_with(&stream, format!("{}\n", arg(args, 2)).as_bytes(), &fds);
        last = answer(stream);
    }
    last
}

/// `exec-with SOCKET SLICE PATH COMMAND…`: a command whose standard input is this file or directory; what it says.
fn exec_with(args: &[String]) -> Attempt {
    let stdin = std::fs::File::open(arg(args, 2)).map_err(|e| number(&e))?;
    let (near, far) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(rustix::io::Errno::raw_os_error)?;
    let (mut output, input) = std::io::pipe().map_err(|e| number(&e))?;
    let line = serde_json::json!({ "v": 1, "request": "exec", "slice": arg(args, 1), "argv": args[3..], "tty": null });
    let stream = connect(arg(args, 0))?;
    send_with(
        &stream,
        format!("{line}\n").as_bytes(),
        &[far.as_fd(), stdin.as_fd(), input.as_fd(), input.as_fd()],
    )?;
    drop((far, input));
    let reply = answer(stream)?;
    if !reply.contains("started") {
        return Ok(reply);
    }
    let word = first_word(&near)?;
    let mut said = String::new();
    output.read_to_string(&mut said).map_err(|e| number(&e))?;
    Ok(format!("{word} {}", said.trim()))
}

/// An exec request with a session socket and three descriptors; the reply and this side of the session.
fn exec(socket: &str, line: &str) -> Result<(UnixStream, std::os::fd::OwnedFd), i32> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|e| number(&e))?;
    let (near, far) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(rustix::io::Errno::raw_os_error)?;
    let mut stream = connect(socket)?;
    // The descriptors go with the first byte; the rest may be longer than one message.
    let _ =
        send_with(&stream, &line.as_bytes()[..1], &[far.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()]);
    say(&mut stream, &line.as_bytes()[1..]);
    say(&mut stream, b"\n");
    Ok((stream, near))
}

/// The first datagram of a session, as text.
fn first_word(session: &std::os::fd::OwnedFd) -> Attempt {
    let mut buffer = [0; 4096];
    let (length, _) = rustix::net::recv(session, &mut buffer, rustix::net::RecvFlags::empty())
        .map_err(rustix::io::Errno::raw_os_error)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// `ask-arguments SOCKET SLICE COUNT LENGTH`: a command with so many arguments of such a length.
fn ask_arguments(args: &[String]) -> Attempt {
    let argument = "a".repeat(int(args, 3) as usize);
    let mut argv = vec!["true".to_owned()];
    argv.resize(1 + int(args, 2) as usize, argument);
    let line =
        serde_json::json!({ "v": 1, "request": "exec", "slice": arg(args, 1), "argv": argv, "tty": null });
    let (stream, session) = exec(arg(args, 0), &line.to_string())?;
    let reply = answer(stream)?;
    if reply.contains("started") { first_word(&session) } else { Ok(reply) }
}

/// `connections SOCKET COUNT`: so many at once that say half a word; how many were kept, then waits.
fn connections(args: &[String]) -> Attempt {
    let mut held = Vec::new();
    for _ in 0..int(args, 1) {
        let Ok(mut stream) = UnixStream::connect(arg(args, 0)) else { break };
        say(&mut stream, b"{");
        held.push(stream);
    }
    // Those that plabd will not serve it answers and closes: none of them blocks once it has.
    std::thread::sleep(Duration::from_millis(300));
    let mut kept = 0;
    for stream in &mut held {
        let _ = stream.set_nonblocking(true);
        let waits =
            stream.read(&mut [0; 512]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        kept += usize::from(waits);
    }
    println!("ready");
    let _ = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&std::io::stdin(), rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 }),
    );
    Ok(kept.to_string())
}

/// `sessions SOCKET SLICE COUNT`: so many commands at once, each left running until the end.
fn sessions(args: &[String]) -> Attempt {
    let line = serde_json::json!({
        "v": 1, "request": "exec", "slice": arg(args, 1), "argv": ["sleep", "20"], "tty": null
    });
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..int(args, 2) {
        let (stream, session) = exec(arg(args, 0), &line.to_string())?;
        let reply = answer(stream)?;
        if reply.contains("started") {
            held.push(session);
            continue;
        }
        refused += 1;
        if reply.contains("busy") {
            // Connections that were closed before these may not all be gone yet.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // A session whose command could not be started, or has ended, has said so.
    std::thread::sleep(Duration::from_millis(500));
    held.retain(|session| {
        let word = rustix::net::recv(session, &mut [0; 4096], rustix::net::RecvFlags::DONTWAIT);
        word.is_err()
    });
    println!("ready");
    let _ = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&std::io::stdin(), rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 }),
    );
    Ok(format!("{} running, {refused} refused", held.len()))
}

/// `deaf SOCKET COUNT`: follows the events on so many connections and never reads; then waits.
fn deaf(args: &[String]) -> Attempt {
    let mut held = Vec::new();
    for _ in 0..int(args, 1) {
        let Ok(mut stream) = UnixStream::connect(arg(args, 0)) else { break };
        say(&mut stream, b"{\"v\":1,\"request\":\"events\",\"follow\":true}\n");
        held.push(stream);
    }
    println!("ready");
    let _ = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&std::io::stdin(), rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 }),
    );
    Ok(format!("{} deaf", held.len()))
}

/// `session-noise SOCKET SLICE`: datagrams on a session that are no words of the protocol, and then silence.
fn session_noise(args: &[String]) -> Attempt {
    let line = serde_json::json!({
        "v": 1, "request": "exec", "slice": arg(args, 1), "argv": ["sleep", "1"], "tty": null
    });
    let null = std::fs::File::open("/dev/null").map_err(|e| number(&e))?;
    for _ in 0..5 {
        let (stream, session) = exec(arg(args, 0), &line.to_string())?;
        if !answer(stream)?.contains("started") {
            return Ok("refused".into());
        }
        let noise: [&[u8]; 8] = [
            b"",
            b"\xff\xfe\0",
            b"{",
            b"{\"say\":\"signal\",\"number\":-1}",
            b"{\"say\":\"signal\",\"number\":2147483647}",
            b"{\"say\":\"resize\",\"rows\":65535,\"cols\":65535}",
            b"{\"say\":\"exited\",\"code\":0}",
            &[b'['; 100 << 10],
        ];
        for bytes in noise {
            let _ = rustix::net::send(
                &session,
                bytes,
                rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
            );
        }
        // Descriptors nobody asked for.
        let _ = plab_protocol::channel::send(&session, b"x", &[null.as_fd(); 16]);
    }
    Ok("sent".into())
}

/// `floods SOCKET COUNT LINE`: the same request so many times; how many were answered.
fn floods(args: &[String]) -> Attempt {
    let mut answered = 0;
    for _ in 0..int(args, 1) {
        let mut stream = connect(arg(args, 0))?;
        say(&mut stream, format!("{}\n", arg(args, 2)).as_bytes());
        answered += usize::from(answer(stream)? != "closed");
    }
    Ok(format!("{answered} answered"))
}
