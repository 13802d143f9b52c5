//! What the kernel has let pass a hundred times it stops as soon as it is to. The programs keep what they found about a
//! socket's last packet, and that must be over with every change.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use plab_tests::{TestNode, binary, eventually};

use crate::actor::Server;
use crate::{ports, slice};

/// `stream.py` in a slice.
struct Stream {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Stream {
    fn of(node: &TestNode, slice: &str, from: u16) -> Self {
        node.put(slice, "stream.py", include_bytes!("stream.py"), 0o644);
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root());
        command.args(["exec", slice, "--", "python3", "stream.py", &from.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a stream");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// What sending a hundred datagrams came to.
    fn sends(&mut self, to: &str) -> String {
        writeln!(self.input, "{to} 100").expect("tell");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read");
        line.trim().to_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_stream_ends_when_its_receiver_opts_out() {
    let node = TestNode::start("ports-stream-opt-out");
    slice(&node, "site_a", &["udp/8771-8772"]);
    // Each answers from where it was asked: an answer from elsewhere is of another flow, and that would be kept.
    let servers = ["127.8.1.1", "127.9.1.1"]
        .map(|address| Server::inside(&node, "site_a", &format!("udp {address} 8772 a")));
    let mut stream = Stream::of(&node, "site_a", 8771);
    for _ in 0..2 {
        assert_eq!(stream.sends("127.9.1.1 8772"), "100");
        node.plab(&["opt-out", "add", "127.9.0.0/16"]).ok();
        assert_eq!(stream.sends("127.9.1.1 8772"), "0 EPERM");
        assert_eq!(stream.sends("127.8.1.1 8772"), "100", "the control");
        assert_eq!(stream.sends("127.9.1.1 8772"), "0 EPERM");
        node.plab(&["opt-out", "remove", "127.9.0.0/16"]).ok();
    }
    drop((servers, stream));
    node.finish();
}

#[test]
fn a_stream_ends_when_its_port_is_withdrawn() {
    let node = TestNode::start("ports-stream-withdrawn");
    slice(&node, "site_a", &["udp/8773-8774"]);
    let server = Server::inside(&node, "site_a", "udp 127.0.0.1 8774 a");
    let mut stream = Stream::of(&node, "site_a", 8773);
    assert_eq!(stream.sends("127.0.0.1 8774"), "100");
    node.define("site_a", &ports(&["udp/8774"]));
    // The first tells that the socket was closed from outside.
    assert_eq!(stream.sends("127.0.0.1 8774"), "0 ECONNABORTED");
    assert_eq!(stream.sends("127.0.0.1 8774"), "0 EPERM");
    drop((server, stream));
    node.finish();
}

#[test]
fn a_stream_to_a_slice_does_not_go_on_to_the_nodes_service_that_takes_the_port() {
    let node = TestNode::start("ports-stream-receiver");
    slice(&node, "site_a", &[]);
    slice(&node, "site_b", &["udp/8775"]);
    let mut stream = Stream::of(&node, "site_a", 0);
    // A port that the kernel chose is nobody's; one that was the slice's is withdrawn.
    for withdrawn in [false, true] {
        let asked = if withdrawn { 8775 } else { 0 };
        let server = Server::inside(&node, "site_b", &format!("udp 127.0.0.1 {asked} b"));
        let port = server.port;
        let to = format!("127.0.0.1 {port}");
        assert_eq!(stream.sends(&to), "100", "{to}");
        drop(server);
        if withdrawn {
            node.define("site_b", "");
        }
        let service =
            eventually("the port is free", || Server::try_outside(&format!("udp 127.0.0.1 {port} node")));
        assert_eq!(stream.sends(&to), "0 EPERM", "{to}");
        drop(service);
    }
    drop(stream);
    node.finish();
}
