//! Every way past the login shell that ssh has. The actor is a client with a good key; judged from outside: by what it
//! reached, and by what runs with its UID. Beside each the same request to an sshd that allows it, so that it is the
//! node that refuses and not the request that is wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use plab_tests::{Output, eventually};

use crate::node::{Key, Slice, Stage, client_options, output, outside};

/// An sshd that lets root in with this key and allows all: for controls.
struct OpenSshd {
    child: Child,
    port: u16,
    key: PathBuf,
}

impl OpenSshd {
    fn start(stage: &Stage, key: &Key) -> Self {
        let host = stage.key("host");
        let keys = stage.path("authorized");
        std::fs::write(&keys, format!("{}\n", key.line)).expect("write");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let config = stage.path("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {}\nPermitRootLogin yes\nPermitTunnel no\nAcceptEnv *\nSubsystem x /bin/echo\n",
            host.file.display(),
            keys.display()
        );
        std::fs::write(&config, text).expect("write");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .expect("start sshd");
        eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port, key: key.file.clone() }
    }

    fn ssh(&self, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(client_options(&self.key)).args(["-p", &self.port.to_string()]).args(options);
        command.arg("root@127.0.0.1");
        command
    }
}

impl Drop for OpenSshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A service of the node's on its loopback: says `secret` to whoever connects.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            stream.write_all(b"secret").ok();
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// A program that says `inside` to whoever connects to this port of the capsule's.
fn speaker(port: u16) -> String {
    let program = format!(
        "import socket\n\
         listener = socket.create_server((\"127.0.0.1\", {port}))\n\
         print(\"in\", flush=True)\n\
         while True:\n    \
             peer = listener.accept()[0]; peer.sendall(b\"inside\"); peer.close()"
    );
    format!("exec python3 -c '{program}'")
}

/// What a connection to this port of the loopback says; none if nobody is there.
fn heard(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok();
    Some(text)
}

/// Runs a client that only forwards until it listens here, and says what comes through.
fn through(mut client: Command, local: u16) -> String {
    let mut child = client.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("start ssh");
    let said = eventually("the client listens or has ended", || {
        heard(local).or_else(|| child.try_wait().expect("wait").map(|_| "ended".to_owned()))
    });
    child.kill().ok();
    child.wait().expect("wait");
    said
}

#[test]
fn no_forwarding_reaches_the_node() {
    let stage = Stage::new("forwarding");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_fwd", &[&key], "");
    let open = OpenSshd::start(&stage, &key);
    let secret = service();
    let target = format!("127.0.0.1:{secret}");

    // -W: its standard streams are the connection.
    assert_eq!(output(&mut open.ssh(&["-W", &target])).stdout, "secret");
    let refused = output(&mut slice.ssh(&key, &["-W", &target]));
    assert!(refused.code == 255 && refused.stdout.is_empty(), "{refused:?}");
    assert!(refused.stderr.contains("stdio forwarding failed"), "{refused:?}");

    // -L, to a port and to a socket of the node's.
    let local = free_port();
    let forward = format!("127.0.0.1:{local}:{target}");
    assert_eq!(through(open.ssh(&["-N", "-L", &forward]), local), "secret");
    assert_eq!(through(slice.ssh(&key, &["-N", "-L", &forward]), local), "");
    let socket = stage.path("service.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    std::fs::set_permissions(&stage.directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"secret").ok();
        }
    });
    let local = free_port();
    let forward = format!("127.0.0.1:{local}:{}", socket.display());
    assert_eq!(through(open.ssh(&["-N", "-L", &forward]), local), "secret");
    assert_eq!(through(slice.ssh(&key, &["-N", "-L", &forward]), local), "");

    // -R: a port of the node's that leads to the client.
    let remote = free_port();
    let back = format!("127.0.0.1:{remote}:{target}");
    let fail = "ExitOnForwardFailure=yes";
    assert_eq!(through(open.ssh(&["-N", "-o", fail, "-R", &back]), remote), "secret");
    // Another port: the other sshd may not have heard yet that its client is gone.
    let remote = free_port();
    let back = format!("127.0.0.1:{remote}:{target}");
    assert_eq!(through(slice.ssh(&key, &["-N", "-o", fail, "-R", &back]), remote), "ended");

    // -D: a proxy; it listens here, and the node connects nowhere.
    let proxied = |mut client: Command, local: u16| {
        let mut child = client.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("start ssh");
        let mut stream = eventually("the proxy listens", || TcpStream::connect(("127.0.0.1", local)).ok());
        let [high, low] = secret.to_be_bytes();
        // SOCKS 4: connect to 127.0.0.1, no user.
        stream.write_all(&[4, 1, high, low, 127, 0, 0, 1, 0]).expect("write");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).ok();
        child.kill().ok();
        child.wait().expect("wait");
        String::from_utf8_lossy(&said).contains("secret")
    };
    let local = free_port();
    assert!(proxied(open.ssh(&["-N", "-D", &local.to_string()]), local));
    let local = free_port();
    assert!(!proxied(slice.ssh(&key, &["-N", "-D", &local.to_string()]), local));

    // -w: a network device. -X: a display.
    let tunnel = output(slice.ssh(&key, &["-o", fail, "-w", "any:any"]).arg("true"));
    assert_ne!(tunnel.code, 0, "{tunnel:?}");
    let display = output(slice.ssh(&key, &["-Y"]).env("DISPLAY", ":0").arg("echo \"[$DISPLAY]\""));
    assert_eq!(display.stdout, "[]\n", "{display:?}");
}

#[test]
fn forwarding_reaches_the_slices_own_ports_and_no_other() {
    let stage = Stage::new("own-ports");
    let key = stage.key("alice");
    let (mine, back, others) = (free_port(), free_port(), free_port());
    let ports = format!("[network]\nports = [\"tcp/{mine}\", \"tcp/{back}\"]");
    let slice = Slice::define("sshtest_ports", &[&key], &ports);
    let other = Slice::define("sshtest_otherp", &[&key], &format!("[network]\nports = [\"tcp/{others}\"]"));
    let mut services = [(&slice, mine), (&other, others)].map(|(slice, port)| {
        let mut child = slice.ssh(&key, &[]);
        let mut child = child.arg(speaker(port)).stdout(Stdio::piped()).spawn().expect("start ssh");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("it listens");
        child
    });
    let target = format!("127.0.0.1:{mine}");
    let strange = format!("127.0.0.1:{others}");
    assert_eq!(output(&mut slice.ssh(&key, &["-W", &target])).stdout, "inside");
    // What another may reach over the network, it may; through this slice's sshd it may not.
    assert_eq!(output(&mut other.ssh(&key, &["-W", &strange])).stdout, "inside");
    let refused = output(&mut slice.ssh(&key, &["-W", &strange]));
    assert!(refused.code == 255 && refused.stdout.is_empty(), "{refused:?}");
    let local = free_port();
    assert_eq!(
        through(slice.ssh(&key, &["-N", "-L", &format!("127.0.0.1:{local}:{target}")]), local),
        "inside"
    );

    // A port of its own that leads back to the client: for the node, and for the slice.
    let secret = service();
    let way = |port: u16| format!("localhost:{port}:127.0.0.1:{secret}");
    let fail = "ExitOnForwardFailure=yes";
    let mut client = slice.ssh(&key, &["-N", "-o", fail, "-R", &way(back)]);
    let mut client = client.stdin(Stdio::null()).spawn().expect("start ssh");
    assert_eq!(eventually("it listens", || heard(back)), "secret");
    let ask = format!(
        "python3 -c 'import socket; print(socket.create_connection((\"127.0.0.1\", {back})).recv(9))'"
    );
    assert_eq!(slice.run(&key, &ask).stdout, "b'secret'\n");
    assert_eq!(through(slice.ssh(&key, &["-N", "-o", fail, "-R", &way(others)]), free_port()), "ended");

    // Withdrawn, nothing of it is left, also of what listens outside for the slice.
    slice.change(&[&key], "");
    eventually("nobody listens there any more", || {
        (heard(back).is_none() && heard(mine).is_none()).then_some(())
    });
    let refused = output(&mut slice.ssh(&key, &["-W", &target]));
    assert!(refused.code == 255 && refused.stdout.is_empty(), "{refused:?}");
    client.kill().ok();
    client.wait().expect("wait");
    for service in &mut services {
        service.kill().ok();
        service.wait().expect("wait");
    }
}

#[test]
fn no_request_runs_anything_on_the_node() {
    let stage = Stage::new("requests");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_req", &[&key], "");
    let open = OpenSshd::start(&stage, &key);
    let inside = |seen: Output| {
        let place = seen.stdout.lines().last().unwrap_or_default().to_owned();
        assert_eq!(place, "capsule-init", "{seen:?}");
    };
    // Whatever is asked for is a command line for the capsule's shell.
    for line in [
        "cat /proc/1/comm",
        "/bin/sh -c 'cat /proc/1/comm'",
        "exec /bin/bash -c 'cat /proc/1/comm'",
        "/usr/lib/planetlab/plab-shell --help >/dev/null; cat /proc/1/comm",
        "/usr/lib/planetlab/plab-shell --key x; cat /proc/1/comm",
        "true\ncat /proc/1/comm",
        "$(echo cat) /proc/1/comm",
    ] {
        inside(slice.run(&key, line));
    }
    assert_ne!(
        output(open.ssh(&[]).arg("cat /proc/1/comm")).stdout,
        "capsule-init\n",
        "outside it is another"
    );
    // A variable of the client's reaches no process on the node, and of those inside only what is listed.
    let set = "SetEnv=LD_PRELOAD=/x BASH_ENV=/x SSH_ORIGINAL_COMMAND=id LC_PLAB=here PATH=/x";
    assert!(output(open.ssh(&["-o", "SetEnv=BASH_ENV=/x"]).arg("env")).stdout.contains("BASH_ENV=/x"));
    let env = output(slice.ssh(&key, &["-o", set]).arg("env; cat /proc/1/comm"));
    assert!(env.stdout.contains("LC_PLAB=here"), "{env:?}");
    for name in ["LD_PRELOAD", "BASH_ENV", "PATH=/x"] {
        assert!(!env.stdout.contains(name), "{name}: {env:?}");
    }
    inside(env);
    // A subsystem that is none, and the one there is: its server runs inside.
    assert!(output(open.ssh(&["-s"]).arg("x")).code == 0);
    assert_ne!(output(slice.ssh(&key, &["-s"]).arg("x")).code, 0);
    // Files that sshd would run or read for a user have no place to be: home on the node is root's and empty.
    slice
        .run(&key, "mkdir -p ~/.ssh && echo 'touch /tmp/rc-ran' > ~/.ssh/rc && echo A=b > ~/.ssh/environment")
        .ok();
    let seen = slice.run(&key, "ls /tmp/rc-ran; env");
    assert!(!seen.stdout.contains("A=b") && seen.stderr.contains("No such file"), "{seen:?}");
    assert!(!std::path::Path::new("/tmp/rc-ran").exists());
    let passwd = output(Command::new("getent").args(["passwd", &slice.name])).ok();
    let home = passwd.trim().split(':').nth(5).expect("a home");
    assert_eq!(std::fs::read_dir(home).expect("it is there").count(), 0, "{home}");
    // Nobody but root becomes a slice.
    let su = output(Command::new("/usr/bin/setpriv").args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--",
        "su",
        "-",
        &slice.name,
        "-c",
        "id",
    ]));
    assert!(su.code != 0 && su.stdout.is_empty(), "{su:?}");
    let by_root = output(Command::new("su").args(["-", &slice.name, "-c", "cat /proc/1/comm"]));
    inside(by_root);
}

#[test]
fn what_stands_outside_is_sshd_and_the_login_shell() {
    let stage = Stage::new("outside");
    let key = stage.key("alice");
    let slice = Slice::define("sshtest_out", &[&key], "");
    let mut child = slice
        .ssh(&key, &["-tt"])
        .arg("echo in; exec sleep 1000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start ssh");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0; 2]).expect("it runs");
    let found = outside(slice.uid());
    assert_eq!(found.len(), 2, "{found:?}");
    let shell = found
        .iter()
        .find(|(_, program)| program == "/usr/lib/planetlab/plab-shell")
        .expect("the login shell");
    // Not to be looked into by whoever else has this UID outside.
    let uid = slice.uid().to_string();
    let look = format!("cat /proc/{}/environ", shell.0);
    let looked = output(Command::new("/usr/bin/setpriv").args([
        "--reuid",
        &uid,
        "--clear-groups",
        "--",
        "sh",
        "-c",
        &look,
    ]));
    assert!(looked.code != 0 && looked.stdout.is_empty(), "{looked:?}");
    // Nothing is mounted, logged in, or managed for the UID.
    let sessions = output(Command::new("loginctl").args(["list-sessions", "--no-legend"])).ok();
    assert!(!sessions.contains(&slice.name) && !sessions.contains(&uid), "{sessions}");
    let users = output(Command::new("loginctl").args(["list-users", "--no-legend"])).ok();
    assert!(!users.contains(&uid), "{users}");
    assert!(!std::path::Path::new(&format!("/run/user/{uid}")).exists());
    let manager = format!("user@{uid}.service");
    assert_ne!(
        output(Command::new("systemctl").args(["start", &manager])).code,
        0,
        "it may not be started either"
    );
    assert_ne!(output(Command::new("systemctl").args(["is-active", &manager])).stdout, "active\n");
    assert_eq!(outside(slice.uid()).len(), 2);
    child.kill().expect("kill");
    child.wait().expect("wait");
    eventually("all of it is gone", || outside(slice.uid()).is_empty().then_some(()));
}
