//! Across slices and against the host, by sockets and the older ways between processes.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::case::Expect::{Either, Errno, Works};
use crate::case::{Case, Place, Tried, attack};
use crate::stage::{ATTACKER, NEIGHBOUR, Stage};

/// The cases.
pub fn cases(stage: &Stage) -> Vec<Case> {
    let mut cases = families();
    cases.extend(set_up());
    cases.extend(unix(stage));
    cases.extend(old_ipc(stage));
    cases
}

/// Socket families: name, what it attacks, family, type, protocol. Outside, root gets one or the kernel lacks it.
fn families() -> Vec<Case> {
    let wide = 1_i64 << 32;
    let all: [(&str, &str, i64, i64, i64); 17] = [
        ("packet-socket", "everybody's packets", 17, 3, 0x0300),
        ("packet-socket-wide", "a filter that compares too much", wide + 17, 3, 0x0300),
        ("packet-socket-old-way", "everybody's packets", 2, 10, 0x0300),
        ("raw-socket", "others' packets", 2, 3, 1),
        ("raw-socket-cloexec", "a filter that forgets flags", 2, 3 | 0o2_000_000, 1),
        ("raw-socket-wide", "a filter that compares too much", 2, wide + 3, 255),
        ("raw-socket-6", "others' packets", 10, 3, 58),
        ("vsock", "the hypervisor", 40, 1, 0),
        ("kernel-crypto", "the kernel", 38, 5, 0),
        ("key-management", "the host's IPsec", 15, 3, 2),
        ("xdp-socket", "everybody's packets", 44, 3, 0),
        ("can-socket", "the kernel", 29, 3, 1),
        ("tipc-socket", "the kernel", 30, 1, 0),
        ("netlink-audit", "the host's audit", 16, 3, 9),
        ("netlink-netfilter", "the host's firewall", 16, 3, 12),
        ("netlink-generic", "the kernel", 16, 3, 16),
        ("netlink-sock-diag", "who talks to whom", 16, 3, 4),
    ];
    let mut cases: Vec<Case> = Vec::new();
    for (name, against, family, kind, protocol) in all {
        cases.push(
            attack(name, against, format!("socket {family} {kind} {protocol}"), Errno(libc::EPERM))
                .control_is(Either(vec![
                    Works,
                    Errno(libc::EAFNOSUPPORT),
                    Errno(libc::EPROTONOSUPPORT),
                    Errno(libc::ESOCKTNOSUPPORT),
                ]))
                .into(),
        );
    }
    cases.push(attack("netlink-uevents", "the host's devices", "uevents", Errno(libc::EPERM)).into());
    cases
}

fn set_up() -> Vec<Case> {
    vec![
        attack("interface-flags", "the host's network", "interface-flags", Errno(libc::EPERM)).into(),
        attack("set-link", "the host's network", "set-link", Errno(libc::EPERM)).into(),
        attack(
            "mark-packets",
            "the host's routing",
            format!("sockopt {} {} 1", libc::SOL_SOCKET, libc::SO_MARK),
            Errno(libc::EPERM),
        )
        .into(),
        attack(
            "transparent-proxy",
            "others' connections",
            format!("sockopt {} {} 1", libc::SOL_IP, libc::IP_TRANSPARENT),
            Errno(libc::EPERM),
        )
        .into(),
        attack(
            "repair-connection",
            "others' connections",
            format!("sockopt {} 19 1", libc::SOL_TCP),
            Errno(libc::EPERM),
        )
        .into(),
        attack(
            "force-buffer",
            "the host's memory",
            format!("sockopt {} {} 1000000", libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
            Errno(libc::EPERM),
        )
        .into(),
        attack(
            "firewall-rules",
            "the host's firewall",
            format!("sockopt {} 64 0", libc::SOL_IP),
            Errno(libc::EPERM),
        )
        .control_is(Either(vec![Works, Errno(libc::EINVAL), Errno(libc::ENOPROTOOPT), Errno(libc::EFAULT)]))
        .into(),
        attack("privileged-port", "the host's services", "bind-tcp 883", Errno(libc::EPERM)).into(),
    ]
}

fn unix(stage: &Stage) -> Vec<Case> {
    let (host, neighbour) = (&stage.host_name, &stage.neighbour_name);
    let what = "the host's services";
    let capsules = stage.node.root().join("run/planetlab/capsules");
    let mut cases: Vec<Case> = vec![
        attack("abstract-socket-of-host", what, format!("abstract-connect {host}"), Errno(libc::EPERM))
            .control_at(Place::Nobody)
            .into(),
        attack(
            "abstract-socket-of-neighbour",
            "a neighbour's services",
            format!("abstract-connect {neighbour}"),
            Errno(libc::EPERM),
        )
        .control_at(Place::Nobody)
        .into(),
        attack(
            "control-socket-inside",
            "the node",
            format!("unix-connect {}", stage.socket()),
            Errno(libc::ENOENT),
        )
        .control_at(Place::Nobody)
        .into(),
        attack(
            "capsule-socket-inside",
            "the node",
            format!("unix-connect-seqpacket {}/{NEIGHBOUR}.sock", capsules.display()),
            Errno(libc::ENOENT),
        )
        .control(format!("unix-connect-seqpacket {}/seqpacket", stage.outside.display()))
        .into(),
        attack("forged-credentials", what, "forge-credentials", Errno(libc::EPERM)).into(),
        datagrams(),
        below_directory(),
    ];
    cases.push(
        attack(
            "neighbour-to-attacker",
            "the same the other way round",
            format!("abstract-connect {host}"),
            Errno(libc::EPERM),
        )
        .at(Place::Neighbour)
        .control_at(Place::Nobody)
        .into(),
    );
    cases
}

/// Datagrams need no connection: another check in the kernel.
fn datagrams() -> Case {
    Case::of("abstract-datagram", "the host's services", |stage| {
        let mut tried = Tried::default();
        let name = format!("{}-datagrams", stage.host_name);
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("bind");
        socket.set_nonblocking(true).expect("nonblocking");
        let args = ["abstract-send".to_owned(), name];
        let seen = stage.act(Place::Capsule, &args);
        tried.check(Errno(libc::EPERM).is(&seen), format!("the attack came to {seen}, not to EPERM"));
        tried.check(socket.recv(&mut [0; 8]).is_err(), "something arrived");
        let shown = stage.act(Place::Nobody, &args);
        tried.check(
            Works.is(&shown) && socket.recv(&mut [0; 8]).is_ok(),
            format!("the control came to {shown}"),
        );
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

/// A directory of the host as standard input, and from there by a relative path to plabd's socket: Landlock has
/// no say over connections by path, so such a directory must not get in.
fn below_directory() -> Case {
    Case::of("socket-below-directory-stdin", "the node", |stage| {
        let mut tried = Tried::default();
        let directory = stage.node.root().to_owned();
        let args = ["connect-below", "0", "run/planetlab/control.sock"].map(str::to_owned);
        let run = |place| {
            let stdin = std::fs::File::open(&directory).expect("open the root");
            stage.act_with(place, &args, stdin.into(), std::process::Stdio::piped())
        };
        let seen = run(Place::Capsule);
        tried.check(!Works.is(&seen), format!("{ATTACKER} came to {seen}"));
        let shown = run(Place::Nobody);
        tried.check(Works.is(&shown), format!("the control came to {shown}"));
        (tried.inside, tried.control) = (seen.to_string(), shown.to_string());
        tried
    })
}

fn old_ipc(stage: &Stage) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    // The victim outside and the neighbour's have the same key, so one case each is for both.
    for kind in ["shm", "sem", "msg"] {
        cases.push(
            attack(
                &format!("sysv-{kind}"),
                "the host's and neighbours' memory",
                format!("{kind} {}", stage.key),
                Errno(libc::ENOENT),
            )
            .control_at(Place::Nobody)
            .into(),
        );
    }
    cases.push(
        attack(
            "message-queue-of-host",
            "the host's queues",
            format!("mq {}", stage.host_name),
            Errno(libc::ENOENT),
        )
        .control_at(Place::Nobody)
        .into(),
    );
    cases
}
