//! What the sandbox costs traffic: the same programs, inside a capsule and outside, by turns. All of it in two network
//! namespaces that are made for this: the node's, and one for who is elsewhere.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketType, bind, socket};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contenders::Contenders;
use crate::inside::{Inside, Outside, Place};
use crate::nodes::Node;
use crate::progress::Progress;
use crate::report::Report;
use crate::stats::{Samples, as_f64};
use crate::{Failure, Wishes};

/// The mode in which this program is the actor, in a capsule or outside.
pub const ACTOR: &str = "network";

/// Ports that the slice owns: iperf3's, the actor's listener's, and one to bind only.
const PORTS: [u16; 3] = [5201, 5202, 5203];
/// The same, outside.
const PORTS_OUTSIDE: [u16; 3] = [5301, 5302, 5303];

/// The node's address between the namespaces, and the other's: of a range for documentation, see RFC 5737.
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

/// At least so much of what is moved outside.
const TCP: f64 = 97.0;
const UDP: f64 = 93.0;
const CONNECTIONS: f64 = 95.0;
/// Microseconds that a bind may take more.
const BIND: f64 = 2.0;

/// One run of iperf3 with a server of its own; what it says is JSON. The client tries until the server listens; with -J its
/// exit status is 0 also if it could not connect.
const IPERF: &str = r#"
port=$1; shift
iperf3 -s -1 -p "$port" >/dev/null 2>&1 & server=$!
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    said=$(iperf3 -c 127.0.0.1 -p "$port" -J "$@")
    case $said in
        *'"error":'*) sleep 0.1 ;;
        *) printf '%s\n' "$said"; wait "$server"; exit ;;
    esac
done
kill "$server"; printf '%s\n' "$said" >&2; exit 1"#;

/// What the actor says.
#[derive(Debug, Serialize, Deserialize)]
struct Costs {
    connections_per_second: f64,
    bind_microseconds: f64,
}

/// The actor: prints what connections and binds cost here.
pub fn act(mut args: impl Iterator<Item = String>) -> ExitCode {
    let mut number = || args.next().and_then(|word| word.parse().ok());
    let (Some(listen), Some(to_bind), Some(count)) = (number(), number(), number()) else {
        eprintln!("{ACTOR}: two ports and a count are needed");
        return ExitCode::FAILURE;
    };
    match costs(listen, to_bind, count).and_then(|costs| Ok(serde_json::to_string(&costs)?)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{ACTOR}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn costs(listen: u16, to_bind: u16, count: u16) -> Result<Costs, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen))?;
    let address = listener.local_addr()?;
    let begun = Instant::now();
    let took = std::thread::scope(|scope| -> Result<_, Failure> {
        let server = scope.spawn(move || (0..count).try_for_each(|_| listener.accept().map(drop)));
        for _ in 0..count {
            // Until the server's end is closed: what TIME_WAIT keeps is the server's port.
            let mut stream = TcpStream::connect(address)?;
            stream.read_exact(&mut [0]).err();
        }
        server.join().map_err(|_| "the server panicked")??;
        Ok(begun.elapsed())
    })?;
    let to_bind = SocketAddrV4::new(Ipv4Addr::LOCALHOST, to_bind);
    let mut binds = Samples::default();
    for _ in 0..count {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let begun = Instant::now();
        bind(socket.as_fd(), &to_bind)?;
        binds.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Costs {
        connections_per_second: f64::from(count) / took.as_secs_f64(),
        bind_microseconds: binds.median(),
    })
}

/// Measures and reports.
pub fn measure(
    wishes: &Wishes,
    _: &Contenders,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Failure> {
    progress.step("traffic inside and outside: making two networks");
    // A thread's network namespace is what its children start in: the node, and who is measured outside.
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| -> Result<(), Failure> {
            let elsewhere = Elsewhere::make()?;
            let node = Node::start("network")?;
            let measured = compare(&node, wishes, progress, report);
            node.finish();
            drop(elsewhere);
            measured
        });
        measured.join().map_err(|_| "the measuring thread panicked")?
    })
}

/// A server in a network namespace of its own, which lasts as long as the server.
struct Elsewhere(Child);

impl Elsewhere {
    /// Moves the calling thread into a new network namespace and joins it with another, in which iperf3 listens.
    fn make() -> Result<Self, Failure> {
        let server = std::thread::scope(|scope| {
            let made = scope.spawn(|| -> Result<Self, Failure> {
                new_network()?;
                let port = PORTS[0].to_string();
                let server =
                    Command::new("iperf3").args(["-s", "-p", &port]).stdout(Stdio::null()).spawn()?;
                Ok(Self(server))
            });
            made.join().map_err(|_| "a thread panicked")?
        })?;
        new_network()?;
        let namespace = server.0.id().to_string();
        ip(&format!("link add here type veth peer name there netns {namespace}"))?;
        ip(&format!("address add {HERE}/24 dev here"))?;
        ip("link set here up")?;
        // For what waits until there is a network.
        ip(&format!("route add default via {THERE}"))?;
        let enter = ["--net", "--target", &namespace, "ip", "-batch", "-"];
        let lines = format!("address add {THERE}/24 dev there\nlink set there up\n");
        let mut inner = Command::new("nsenter").args(enter).stdin(Stdio::piped()).spawn()?;
        std::io::Write::write_all(&mut inner.stdin.take().ok_or("no pipe")?, lines.as_bytes())?;
        if !inner.wait()?.success() {
            return Err("the other network could not be set up".into());
        }
        Ok(server)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn new_network() -> Result<(), Failure> {
    // SAFETY: only the network namespace is left, in which this thread has nothing.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    ip("link set lo up")
}

fn ip(words: &str) -> Result<(), Failure> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {words} ended with {status}").into()) }
}

/// What is measured by iperf3: its options, what of its answer counts, and what of the figure outside is aimed at.
struct Run {
    what: &'static str,
    key: &'static str,
    there: bool,
    options: &'static [&'static str],
    unit: &'static str,
    aim: f64,
}

const RUNS: [Run; 4] = [
    Run {
        what: "TCP over loopback",
        key: "tcp_loopback",
        there: false,
        options: &[],
        unit: "Gbit/s",
        aim: TCP,
    },
    Run {
        what: "TCP to another network",
        key: "tcp_veth",
        there: true,
        options: &[],
        unit: "Gbit/s",
        aim: TCP,
    },
    Run {
        what: "UDP of 64 bytes over loopback",
        key: "udp_loopback",
        there: false,
        options: &["-u", "-b", "0", "-l", "64"],
        unit: "k/s",
        aim: UDP,
    },
    Run {
        what: "UDP of 64 bytes to another network",
        key: "udp_veth",
        there: true,
        options: &["-u", "-b", "0", "-l", "64"],
        unit: "k/s",
        aim: UDP,
    },
];

impl Run {
    /// One run, `seconds` long.
    fn at(&self, place: &mut impl Place, ports: [u16; 3], seconds: &str) -> Result<f64, Failure> {
        let port = ports[0].to_string();
        let mut argv = vec!["/bin/sh", "-c", IPERF, "sh", &port];
        if self.there {
            let elsewhere = PORTS[0].to_string();
            let said = place.run(
                &[&["iperf3", "-c", THERE, "-p", &elsewhere, "-J", "-t", seconds], self.options].concat(),
            )?;
            return self.figure(&said);
        }
        argv.extend(["-t", seconds]);
        argv.extend(self.options);
        let said = place.run(&argv)?;
        self.figure(&said)
    }

    /// Gigabits, or thousands of datagrams that arrived, a second.
    fn figure(&self, said: &str) -> Result<f64, Failure> {
        let said: Value = serde_json::from_str(said)?;
        let end = &said["end"];
        let number = |value: &Value| value.as_f64().ok_or("iperf3 said something else");
        Ok(if self.options.is_empty() {
            number(&end["sum_received"]["bits_per_second"])? / 1e9
        } else {
            let sum = &end["sum"];
            (number(&sum["packets"])? - number(&sum["lost_packets"])?) / number(&sum["seconds"])? / 1e3
        })
    }
}

fn compare(node: &Node, wishes: &Wishes, progress: &Progress, report: &mut Report) -> Result<(), Failure> {
    let ports = format!("[network]\nports = [\"tcp/{}-{}\", \"udp/{}\"]", PORTS[0], PORTS[2], PORTS[0]);
    node.test.define("bench_net", &ports);
    let mut inside = Inside::install(node, "bench_net")?;
    let mut outside = Outside::install(node)?;
    let rounds = wishes.count(12, 3);
    let seconds = if wishes.quick { "1" } else { "2" };
    for (number, run) in RUNS.iter().enumerate() {
        let (mut within, mut without, mut share) = <(Samples, Samples, Samples)>::default();
        for round in 0..rounds {
            progress.at(run.what, number * rounds + round, RUNS.len() * rounds);
            // Neither always comes after the other.
            let (ours, theirs) = if round.is_multiple_of(2) {
                let first = run.at(&mut inside, PORTS, seconds)?;
                (first, run.at(&mut outside, PORTS_OUTSIDE, seconds)?)
            } else {
                let first = run.at(&mut outside, PORTS_OUTSIDE, seconds)?;
                (run.at(&mut inside, PORTS, seconds)?, first)
            };
            within.push(ours);
            without.push(theirs);
            share.push(ours / theirs * 100.0);
        }
        let unit = run.unit;
        report
            .row(run.what)
            .ours(format!("{:.2} {unit}", within.median()))
            .peer(format!("outside {:.2} {unit}", without.median()))
            .share(share.median(), run.aim)
            .add();
        report.samples(&format!("{}_inside", run.key), &within);
        report.samples(&format!("{}_outside", run.key), &without);
        report.samples(&format!("{}_percent", run.key), &share);
    }
    let count = wishes.count(2_000, 500).to_string();
    let costs = |place: &mut dyn Place, [_, listen, to_bind]: [u16; 3]| -> Result<Costs, Failure> {
        let (actor, listen, to_bind) = (place.actor(), listen.to_string(), to_bind.to_string());
        Ok(serde_json::from_str(&place.run(&[&actor, ACTOR, &listen, &to_bind, &count])?)?)
    };
    let mut pairs = Vec::new();
    for round in 0..rounds {
        progress.at("connections and binds inside and outside", round, rounds);
        pairs.push(if round.is_multiple_of(2) {
            let first = costs(&mut inside, PORTS)?;
            (first, costs(&mut outside, PORTS_OUTSIDE)?)
        } else {
            let first = costs(&mut outside, PORTS_OUTSIDE)?;
            (costs(&mut inside, PORTS)?, first)
        });
    }
    let of = |of: fn(&(Costs, Costs)) -> f64| pairs.iter().map(of).collect::<Samples>();
    let within = of(|(inside, _)| inside.connections_per_second);
    let without = of(|(_, outside)| outside.connections_per_second);
    let share =
        of(|(inside, outside)| inside.connections_per_second / outside.connections_per_second * 100.0);
    report
        .row("connect, accept, close")
        .ours(format!("{:.0}/s", within.median()))
        .peer(format!("outside {:.0}/s", without.median()))
        .share(share.median(), CONNECTIONS)
        .add();
    let within_bind = of(|(inside, _)| inside.bind_microseconds);
    let without_bind = of(|(_, outside)| outside.bind_microseconds);
    let added = of(|(inside, outside)| inside.bind_microseconds - outside.bind_microseconds);
    report
        .row("bind")
        .ours(format!("{:.2} us", within_bind.median()))
        .peer(format!("outside {:.2} us", without_bind.median()))
        .added(format!("{:+.2} us", added.median()))
        .at_most(format!("{BIND} us"), (added.median() / BIND).max(0.0))
        .add();
    report.samples("connections_inside", &within);
    report.samples("connections_outside", &without);
    report.samples("bind_inside_us", &within_bind);
    report.samples("bind_outside_us", &without_bind);
    report.value("network_rounds", as_f64(rounds));
    Ok(())
}
