//! The example services, run as a capsule would run them: as real processes, by their hooks.
//!
//! Each gets a home of its own and a free port. Every wait is bounded, and every process is ended by
//! its own process ID.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use plab_control_scripts::{
    ControlDir, FirstLine, Hook, HookFile, HookOutcome, ResourceDescription, SliceNode, resources,
};

/// Longer than anything here takes on a busy machine, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(30);

/// A copy of an example, installed as a slice's home directory.
struct Service {
    home: PathBuf,
    control: ControlDir,
    running: Option<Child>,
}

impl Service {
    fn install(example: &str) -> Service {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("plab-{example}-{}-{number}", std::process::id()));
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example), &home);
        let control = ControlDir::open(fs::File::open(&home).unwrap().as_fd()).unwrap();
        Service { home, control, running: None }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.home.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.home.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn has(&self, name: &str) -> bool {
        self.home.join(name).exists()
    }

    fn command(&self, hook: Hook) -> Command {
        assert_eq!(self.control.inspect(hook), HookFile::Runnable, "{hook}");
        let mut command = Command::new(self.home.join("PlanetLab-control").join(hook.name()));
        command
            .current_dir("/")
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a hook to its end: its outcome, and the line a node would keep.
    fn run(&self, hook: Hook) -> (HookOutcome, String) {
        let mut child = spawn(self.command(hook).stdout(Stdio::piped()));
        let mut output = child.stdout.take().unwrap();
        let status = wait(&mut child, &format!("{hook} does not end"));
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        let mut line = FirstLine::new();
        line.feed(&bytes);
        (outcome(status), line.finish())
    }

    fn configure(&self) {
        let (outcome, _) = self.run(Hook::Configure);
        assert!(outcome.is_success(), "configure: {outcome}: {}", self.read("configure.log"));
    }

    /// Starts the service, and waits until it says that it is well.
    fn start(&mut self) -> String {
        assert!(self.running.is_none());
        self.running = Some(spawn(&mut self.command(Hook::Start)));
        let begun = Instant::now();
        loop {
            let (outcome, line) = self.run(Hook::Status);
            if outcome.is_success() {
                return line;
            }
            let ended = self.running.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "start ended: {ended:?}; status: {line}; {}", self.logs());
            assert!(begun.elapsed() < PATIENCE, "not up: {line}; {}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        let names = ["mirror.log", "prober.log", "kv.log"];
        names.iter().filter(|name| self.has(name)).map(|name| self.read(name)).collect()
    }

    /// Runs `stop` and expects the service to end of its own accord, well.
    fn stop(&mut self) {
        let begun = Instant::now();
        assert_eq!(self.run(Hook::Stop), (HookOutcome::Exited(0), String::new()));
        let status = wait(self.running.as_mut().unwrap(), "the service does not stop");
        self.running = None;
        assert_eq!(outcome(status), HookOutcome::Exited(0), "{}", self.logs());
        assert!(begun.elapsed() < Duration::from_secs(10));
        let left: Vec<String> = fs::read_dir(&self.home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".pid") || name.ends_with(".new"))
            .collect();
        assert_eq!(left, [""; 0], "left behind");
        // A second `stop` finds nothing to do.
        assert_eq!(self.run(Hook::Stop).0, HookOutcome::Exited(0));
    }

    /// What the end of the power does.
    fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            // `start` has become the service, so this is all there is of it.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Another test's child may, between its fork and its exec, hold a script open that was just written.
fn spawn(command: &mut Command) -> Child {
    let begun = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result.unwrap(),
        }
    }
}

fn outcome(status: ExitStatus) -> HookOutcome {
    match status.code() {
        Some(code) => HookOutcome::Exited(code),
        None => HookOutcome::Signalled(status.signal().unwrap()),
    }
}

fn wait(child: &mut Child, complaint: &str) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{complaint}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One HTTP request; the status, the headers as text, and the body.
fn http(port: u16, request: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut stream = connect(port);
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("no HTTP answer");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
}

#[test]
fn every_example_is_a_complete_control_directory() {
    for (example, hooks) in [("mirror", &Hook::ALL[..4]), ("prober", &Hook::ALL[..]), ("kv", &Hook::ALL[..4])]
    {
        let service = Service::install(example);
        for hook in hooks {
            assert_eq!(service.control.inspect(*hook), HookFile::Runnable, "{example}: {hook}");
        }
        assert!(service.has("README.md"));
    }
}

#[test]
fn mirror() {
    let port = free_port();
    let mut service = Service::install("mirror");
    service.write("mirror.conf", &format!("# a comment\nport = {port}\naddress = 127.0.0.1\n"));
    assert_eq!(
        service.run(Hook::Status),
        (HookOutcome::Exited(1), format!("mirror: no answer on port {port}"))
    );
    service.configure();
    let files = service.read("www/MANIFEST.sha256").lines().count();
    assert!(files > 1, "nothing to serve");
    assert_eq!(service.start(), format!("mirror: {files} files, 0 requests"));

    let (status, head, body) = http(port, "GET /", "");
    assert_eq!((status, &body), (200, &fs::read(service.home.join("www/index.html")).unwrap()));
    let (etag, modified) = (header(&head, "ETag"), header(&head, "Last-Modified"));
    assert_eq!(header(&head, "Content-Type"), "text/html");
    for (headers, expected) in [
        (format!("If-None-Match: {etag}\r\n"), 304),
        (format!("If-None-Match: \"other\", W/{etag}\r\n"), 304),
        ("If-None-Match: \"other\"\r\n".to_owned(), 200),
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        ("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".to_owned(), 200),
        // The tag decides where both are there.
        (format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {modified}\r\n"), 200),
        ("If-Modified-Since: no date\r\n".to_owned(), 200),
    ] {
        let (status, _, again) = http(port, "GET /index.html", &headers);
        assert_eq!(status, expected, "{headers}");
        assert_eq!(again.is_empty(), expected == 304);
    }
    let (status, head, nothing) = http(port, "HEAD /", "");
    assert_eq!((status, nothing.len()), (200, 0));
    assert_eq!(header(&head, "Content-Length"), body.len().to_string());
    for outside in ["/../mirror.conf", "/%2e%2e/mirror.conf", "//etc/passwd", "/no-such-file", "/-/other"] {
        assert_eq!(http(port, &format!("GET {outside}"), "").0, 404, "{outside}");
    }
    // More clients than it has threads for, all of them idle, are no obstacle.
    let idle: Vec<TcpStream> = (0..40).map(|_| connect(port)).collect();
    assert_eq!(http(port, "GET /", "").0, 200);
    drop(idle);
    assert_eq!(service.run(Hook::Status).1, format!("mirror: {files} files, 15 requests"));

    // A mirror of this mirror holds what it holds.
    let mut second = Service::install("mirror");
    let second_port = free_port();
    second.write(
        "mirror.conf",
        &format!("port = {second_port}\naddress = 127.0.0.1\nsource = http://127.0.0.1:{port}\n"),
    );
    second.configure();
    assert_eq!(second.read("www/MANIFEST.sha256"), service.read("www/MANIFEST.sha256"));
    assert_eq!(second.start(), format!("mirror: {files} files, 0 requests"));
    second.stop();

    let expected = 15 + files;
    service.stop();
    assert_eq!(service.read("mirror.state"), format!("{{\"requests\": {expected}}}\n"));
    assert_eq!(
        service.run(Hook::Status),
        (HookOutcome::Exited(1), format!("mirror: no answer on port {port}"))
    );
    assert_eq!(service.start(), format!("mirror: {files} files, {expected} requests"), "goes on counting");
    service.stop();
}

/// Answers HTTP on a port of its own until the test ends.
fn web_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.0 204 No Content\r\n\r\n");
        }
    });
    port
}

fn records(service: &Service) -> Vec<String> {
    let mut lines = Vec::new();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(service.home.join("results")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        assert!(text.starts_with("time,target,connect_us,first_byte_us,http_status,error\n"));
        lines.extend(text.lines().skip(1).map(str::to_owned));
    }
    lines
}

#[test]
fn prober() {
    let (answering, closed) = (web_server(), free_port());
    let mut service = Service::install("prober");
    service.write("prober.conf", "interval = 0.3\ntimeout = 1\n");
    service.write("targets", &format!("127.0.0.1:{answering}\n127.0.0.1:{closed}\nnot-a-target\n"));
    assert_eq!(service.run(Hook::Status), (HookOutcome::Exited(1), "prober: no record yet".to_owned()));
    service.configure();
    let line = service.start();
    let words: Vec<&str> = line.split(' ').collect();
    let ["prober:", count, "records,", "last", "RTT", rtt, "us"] = words[..] else { panic!("{line}") };
    assert!(count.parse::<u32>().unwrap() >= 2 && rtt.parse::<u32>().unwrap() < 1_000_000, "{line}");

    until("two rounds", || records(&service).len() >= 4);
    for record in records(&service) {
        let fields: Vec<&str> = record.split(',').collect();
        let [time, target, connect, first_byte, status, error] = fields[..] else { panic!("{record}") };
        assert!(time.starts_with("20") && time.ends_with("+00:00"), "{record}");
        if target == format!("127.0.0.1:{answering}") {
            assert!(connect.parse::<u32>().is_ok() && first_byte.parse::<u32>().is_ok(), "{record}");
            assert_eq!((status, error), ("204", ""));
        } else {
            assert_eq!(target, format!("127.0.0.1:{closed}"));
            assert_eq!((connect, first_byte, status, error), ("", "", "", "Connection refused"));
        }
    }

    assert_eq!(service.run(Hook::Suspend).0, HookOutcome::Exited(0));
    until("the pause", || service.run(Hook::Status).1.ends_with("paused for another's window"));
    let before = records(&service).len();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(records(&service).len(), before, "measured while suspended");
    assert_eq!(service.run(Hook::Status).0, HookOutcome::Exited(0), "paused is not failed");
    assert_eq!(service.run(Hook::Resume).0, HookOutcome::Exited(0));
    until("records after the pause", || records(&service).len() > before);

    // The power fails in the middle of a record.
    service.kill();
    let before = records(&service).len();
    until("the failure to be noticed", || service.run(Hook::Status).0 == HookOutcome::Exited(1));
    let last = fs::read_dir(service.home.join("results")).unwrap().map(|entry| entry.unwrap().path()).max();
    let mut file = fs::OpenOptions::new().append(true).open(last.unwrap()).unwrap();
    file.write_all(b"2026-01-01T00:00").unwrap();
    service.start();
    until("records after the restart", || {
        let line = service.run(Hook::Status).1;
        let count = line.split(' ').nth(1).and_then(|count| count.parse::<usize>().ok());
        count.is_some_and(|count| count > before)
    });
    service.stop();
    assert!(records(&service).iter().all(|record| record.split(',').count() == 6));
    until("a stopped prober to be reported", || service.run(Hook::Status).0 == HookOutcome::Exited(1));
}

#[test]
fn prober_finds_the_slices_nodes_in_resources() {
    let port = web_server();
    let mut service = Service::install("prober");
    service.write("prober.conf", &format!("interval = 0.3\nport = {port}\n"));
    let node = |address: Option<&str>| SliceNode { name: "n".into(), address: address.map(Into::into) };
    let description = ResourceDescription {
        // All of 127.0.0.0/8 is this machine.
        nodes: vec![node(Some("127.0.0.2")), node(None), node(Some("127.0.0.3"))],
        ..Default::default()
    };
    resources::write(&service.control, &description.render()).unwrap();
    service.configure();
    service.start();
    service.stop();
    let targets: Vec<String> =
        records(&service).iter().take(3).map(|record| record.split(',').nth(1).unwrap().to_owned()).collect();
    assert_eq!(targets, ["2", "3", "1"].map(|host| format!("127.0.0.{host}:{port}")));
}

/// A conversation with the store.
struct Talk {
    stream: BufReader<TcpStream>,
}

impl Talk {
    fn new(port: u16) -> Talk {
        Talk { stream: BufReader::new(connect(port)) }
    }

    fn ask(&mut self, line: &str) -> String {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut answer = String::new();
        self.stream.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

#[test]
fn kv() {
    let port = free_port();
    let mut service = Service::install("kv");
    service.write("kv.conf", &format!("port = {port}\n"));
    service.configure();
    assert_eq!(
        service.run(Hook::Status),
        (HookOutcome::Exited(1), format!("kv: no connection on port {port}"))
    );
    assert!(service.start().starts_with("kv: 0 keys, 0 bytes, log "));

    let mut talk = Talk::new(port);
    for (line, answer) in [
        ("GET city", "NONE"),
        ("SET city Princeton, New Jersey", "OK"),
        ("GET city", "VALUE Princeton, New Jersey"),
        ("set empty ", "OK"),
        ("GET empty", "VALUE"),
        ("DEL empty", "OK"),
        ("DEL empty", "NONE"),
        ("SET größe 5", "OK"),
    ] {
        assert_eq!(talk.ask(line), answer, "{line}");
    }
    assert_eq!(
        (talk.ask("KEYS"), talk.line(), talk.line()),
        ("KEYS 2".into(), "city".into(), "größe".into())
    );
    assert_eq!((talk.ask("KEYS ci"), talk.line()), ("KEYS 1".into(), "city".into()));
    assert!(talk.ask("STATS").starts_with("STATS 2 keys, "));
    for wrong in ["", "GET", "SET key", "INCR key", "DEL"] {
        assert!(talk.ask(wrong).starts_with("ERROR commands: "), "{wrong:?}");
    }
    assert_eq!(Talk::new(port).ask(&format!("SET long {}", "x".repeat(70_000))), "ERROR line too long");

    // Many at once, each of whom reads what they wrote.
    std::thread::scope(|scope| {
        for client in 0..20 {
            scope.spawn(move || {
                let mut talk = Talk::new(port);
                for round in 0..20 {
                    assert_eq!(talk.ask(&format!("SET client{client} {round}")), "OK");
                    assert_eq!(talk.ask(&format!("GET client{client}")), format!("VALUE {round}"));
                }
            });
        }
    });

    // Whatever was answered outlives an abrupt end.
    assert_eq!(talk.ask("SET last words"), "OK");
    service.kill();
    assert!(service.start().starts_with("kv: 23 keys, "));
    assert_eq!(Talk::new(port).ask("GET last"), "VALUE words");
    assert_eq!(Talk::new(port).ask("GET client7"), "VALUE 19");

    // A log that ends in rubbish is cut where it is good, and the rest is kept.
    service.kill();
    let mut log = fs::OpenOptions::new().append(true).open(service.home.join("data/log")).unwrap();
    log.write_all(b"half a record").unwrap();
    assert!(service.start().starts_with("kv: 23 keys, "));
    assert_eq!(service.read("data/log.damaged"), "half a record");
    assert_eq!(Talk::new(port).ask("GET last"), "VALUE words");

    // The log does not grow with every change for ever.
    let mut talk = Talk::new(port);
    let value = "v".repeat(60_000);
    for _ in 0..60 {
        assert_eq!(talk.ask(&format!("SET big {value}")), "OK");
    }
    let size = fs::metadata(service.home.join("data/log")).unwrap().len();
    assert!(size < 2_000_000, "3.6 MB written, and the log has {size} bytes");

    // There is one instance of it, whoever starts another.
    let second = wait(&mut spawn(&mut service.command(Hook::Start)), "a second instance stays");
    assert_eq!(outcome(second), HookOutcome::Exited(1));
    assert_eq!(talk.ask("GET city"), "VALUE Princeton, New Jersey");

    // Clients that stay connected do not keep it from stopping.
    service.stop();
    assert_eq!(talk.line(), "");
    assert!(service.start().starts_with("kv: 24 keys, "), "all is there after an orderly end too");
    assert_eq!(Talk::new(port).ask("GET big"), format!("VALUE {value}"));
    service.stop();
}

#[test]
fn hooks_pass_shellcheck() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut command = Command::new("shellcheck");
    for example in fs::read_dir(examples).unwrap() {
        for hook in fs::read_dir(example.unwrap().path().join("PlanetLab-control")).unwrap() {
            command.arg(hook.unwrap().path());
        }
    }
    let output = command.output().expect("shellcheck has to be installed to run the tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
