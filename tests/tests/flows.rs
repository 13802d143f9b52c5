//! Who sent what to whom, as it is asked: over records that are laid into a node's store as the kernel would deliver them.

use plab_flows::record::{FIRST, LAST, RawFlow, SIZE, VERSION};
use plab_flows::{ClockReading, Owner, Store, StoreLimits};
use plab_tests::{Output, TestNode, eventually};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn store_of(node: &TestNode) -> PathBuf {
    node.root().join("var/lib/planetlab/flows")
}

/// Nanoseconds of CLOCK_BOOTTIME.
fn boottime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec * 1_000_000_000 + now.tv_nsec).unsigned_abs()
}

/// A flow of the capsule `cgroup` to 192.0.2.x, port 443, that has just ended.
fn flow(cgroup: u64, host: u8, packets: u64) -> RawFlow {
    let now = boottime();
    RawFlow {
        version: VERSION,
        size: u16::try_from(SIZE).expect("small"),
        flags: FIRST | LAST,
        protocol: 6,
        family: 4,
        local_port: 40_000,
        remote_port: 443,
        reserved: 0,
        cgroup,
        start: now,
        since: now,
        last: now,
        packets_out: packets,
        bytes_out: packets * 60,
        packets_in: 1,
        bytes_in: 1400,
        refused: 0,
        local: std::array::from_fn(|i| [198, 51, 100, 1].get(i).copied().unwrap_or(0)),
        remote: std::array::from_fn(|i| [192, 0, 2, host].get(i).copied().unwrap_or(0)),
    }
}

/// Lays flows into the store of a node whose plabd does not run.
fn lay(node: &TestNode, owners: &[(u64, Owner)], flows: &[RawFlow]) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot_id");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis();
    let zero = i64::try_from(now).expect("small") - i64::try_from(boottime() / 1_000_000).expect("small");
    let limits = StoreLimits { keep: Duration::from_secs(30 * 86_400), max: 1 << 30 };
    let clock = ClockReading { zero, believed: true };
    let store = Store::open(&store_of(node), boot.trim(), clock, limits).expect("open");
    let sink = store.sink();
    for (cgroup, owner) in owners {
        sink.set_owner(*cgroup, owner.clone());
    }
    for flow in flows {
        sink.deliver(&flow.to_bytes()).expect("a record");
    }
    drop(sink);
    store.close();
}

fn owner(node: &TestNode, slice: &str) -> Owner {
    let status = node.status(slice);
    let uid = status["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok()).expect("uid");
    Owner { slice: slice.into(), uid, contact: status["contact"].as_str().expect("contact").into() }
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_complaint_is_answered_with_slice_and_contact_also_when_the_slice_is_gone() {
    let mut node = TestNode::start("flows-who");
    // Before there is anything, an answer all the same.
    let nobody = node.plab(&["who-sent", "--to", "192.0.2.7"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (1, "Nobody. Looked through no records at all\n"));
    assert!(node.plab(&["flows"]).ok().starts_with("No flows; looked through no records"));
    node.define("site_a", "");
    node.define("site_b", "");
    let owners = [(7_000_001, owner(&node, "site_a")), (7_000_002, owner(&node, "site_b"))];
    let contact = owners[0].1.contact.clone();
    node.stop_daemon();
    lay(&node, &owners, &[flow(7_000_001, 7, 3), flow(7_000_002, 8, 5), flow(7_000_002, 7, 9)]);
    node.start_daemon();

    let one = node.plab(&["who-sent", "--to", "192.0.2.8:443", "--proto", "tcp", "--since", "-1h"]);
    let line = one.stdout.lines().nth(1).expect("a line").to_owned();
    assert_eq!(one.code, 0, "{one:?}");
    assert!(line.starts_with("site_b ") && line.contains(&contact), "{line}");
    let both = json(&node.plab(&["who-sent", "--to", "192.0.2.0/24", "--json"]));
    let senders = both["senders"].as_array().expect("senders");
    assert_eq!(
        (senders.len(), &senders[0]["slice"], &senders[0]["packets_out"]),
        (2, &"site_b".into(), &14.into())
    );
    assert_eq!((&senders[0]["present"], &senders[0]["flows"]), (&true.into(), &2.into()));
    for none in [
        vec!["who-sent", "--to", "192.0.2.9"],
        vec!["who-sent", "--to", "192.0.2.7:80"],
        vec!["who-sent", "--to", "192.0.2.7", "--proto", "udp"],
        vec!["who-sent", "--to", "192.0.2.7", "--at", "-2h"],
        vec!["who-sent", "--to", "2001:db8::7"],
    ] {
        let nobody = node.plab(&none);
        assert_eq!(nobody.code, 1, "{none:?}: {nobody:?}");
        assert!(nobody.stdout.starts_with("Nobody. Looked through 3 records, from 20"), "{nobody:?}");
    }
    for wrong in [["--to", "192.0.2"], ["--to", "192.0.2.7/33"], ["--at", "yesterday"]] {
        assert_eq!(node.plab(&[&["who-sent"][..], &wrong].concat()).code, 2, "{wrong:?}");
    }

    node.plab(&["rm", "--yes", "site_a"]).ok();
    let gone = json(&node.plab(&["who-sent", "--to", "192.0.2.7", "--from-port", "40000", "--json"]));
    let gone = gone["senders"].as_array().expect("senders").iter().find(|sender| sender["slice"] == "site_a");
    let gone = gone.expect("the slice that is gone").clone();
    assert_eq!((gone["contact"].as_str(), gone["present"].as_bool()), (Some(&contact[..]), Some(false)));
    assert!(node.plab(&["who-sent", "--to", "192.0.2.7"]).ok().contains("site_a (gone)"));
    node.finish();
}

#[test]
fn flows_are_listed_and_exported_and_a_slice_sees_its_own() {
    let mut node = TestNode::start("flows-list");
    node.define("site_a", "");
    node.define("site_b", "");
    let owners = [(7_000_001, owner(&node, "site_a")), (7_000_002, owner(&node, "site_b"))];
    node.stop_daemon();
    // More than one page, and than is shown unless asked for.
    let mut flows: Vec<RawFlow> = (0..2500).map(|_| flow(7_000_001, 7, 1)).collect();
    for (n, flow) in flows.iter_mut().enumerate() {
        flow.local_port = u16::try_from(10_000 + n).expect("a port");
    }
    flows.push(flow(7_000_002, 8, 5));
    lay(&node, &owners, &flows);
    // An earlier owner of the name, whose flows are not site_a's.
    let before = Owner { uid: 69_999, ..owners[0].1.clone() };
    lay(&node, &[(7_000_003, before)], &[flow(7_000_003, 99, 1)]);
    node.start_daemon();

    assert!(node.plab(&["flows", "site_b"]).ok().contains("1 flow; looked through 2502 records"));
    assert!(node.plab(&["flows", "site_a"]).ok().contains("The newest 1000; -n shows more"));
    let all = json(&node.plab(&["flows", "site_a", "--json", "-n", "5000"]));
    assert_eq!((all["flows"].as_array().map(Vec::len), &all["kept"]["records"]), (Some(2501), &2502.into()));
    let csv = node.plab(&["flows", "--csv"]).ok();
    assert_eq!((csv.lines().count(), csv.matches("\r\n").count()), (2503, 2503));
    let file = node.root().join("flows.ipfix");
    node.plab(&["flows", "site_b", "--export", "ipfix", file.to_str().expect("text")]).ok();
    let ipfix = std::fs::read(&file).expect("read");
    assert_eq!(
        (&ipfix[..2], usize::from(ipfix[2]) << 8 | usize::from(ipfix[3])),
        (&[0, 10][..], ipfix.len())
    );
    assert!(ipfix.windows(7).any(|window| window == b"\x06site_b"), "userName, its length before it");
    let wrong = node.plab(&["flows", "--export", "pcap", "-"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("ipfix or csv"), "{wrong:?}");
    let status = node.node_status();
    assert_eq!(status["flows"]["records"], 2502);

    let as_slice = |args: &[&str]| {
        let uid = owners[0].1.uid;
        let mut plab = Command::new(plab_tests::binary("plab"));
        let out = plab.arg("--root").arg(node.root()).args(args).uid(uid).gid(uid).output().expect("plab");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    // Its own, of its own UID; nobody else's; and not who sent.
    let (code, own) = as_slice(&["flows", "--csv"]);
    assert_eq!((code, own.lines().count()), (Some(0), 2501));
    assert!(!own.contains("192.0.2.8") && !own.contains("192.0.2.99"));
    assert_eq!(as_slice(&["flows", "site_b"]).0, Some(1));
    assert_eq!(as_slice(&["who-sent", "--to", "192.0.2.8"]).0, Some(2));
    assert_eq!(as_slice(&["status", "--json"]).1.matches("\"flows\":null").count(), 1);
    node.finish();
}

#[test]
fn the_store_outlives_crashes_and_its_damage_is_no_end_of_plabd() {
    let mut node = TestNode::start("flows-crash");
    node.define("site_a", "");
    let owners = [(7_000_001, owner(&node, "site_a"))];
    node.kill_daemon();
    lay(&node, &owners, &[flow(7_000_001, 7, 3)]);
    std::fs::write(store_of(&node).join("00000000.flows"), "no database").expect("write");
    node.start_daemon();
    assert_eq!(node.status("site_a")["state"], "running");
    eventually("the damage is reported", || {
        node.events(None).iter().find(|event| event["kind"] == "flows-damaged").map(drop)
    });
    assert!(node.plab(&["status"]).ok().contains("PROBLEM: flow store: cannot"));
    let found = node.plab(&["who-sent", "--to", "192.0.2.7"]);
    assert!(found.code == 0 && found.stdout.contains("00000000.flows.damaged"), "{found:?}");
    // A plabd that is killed has said nothing: what may be missing is said by the next.
    node.kill_daemon();
    node.start_daemon();
    let found = json(&node.plab(&["who-sent", "--to", "192.0.2.7", "--json"]));
    assert_eq!((&found["senders"][0]["packets_out"], &found["kept"]["torn"]), (&3.into(), &1.into()));
    assert!(node.plab(&["status"]).ok().contains("FLOWS: may be incomplete: 1 times"));
    node.finish();
}

#[test]
fn what_a_capsule_sends_is_on_record_and_outlives_a_killed_plabd() {
    let mut node = TestNode::start("flows-kernel");
    node.define("site_a", "");
    node.define("site_b", "");
    // Five datagrams of 100 bytes to nobody, so nothing comes back that would be counted.
    let send = |slice: &str, family: &str, to: &str| {
        let script = format!(
            "import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM)\n\
             for _ in range(5): s.sendto(b'x' * 100, ('{to}', 9))"
        );
        node.exec(slice, &["python3", "-c", &script]).ok();
    };
    send("site_a", "AF_INET", "127.7.7.7");
    send("site_b", "AF_INET6", "::1");
    let sender = |node: &TestNode, to: &str| {
        eventually("the sender is found", || {
            let found = node.plab(&["who-sent", "--to", to, "--proto", "udp", "--json"]);
            json(&found)["senders"].as_array().and_then(|all| all.first().cloned())
        })
    };
    for (to, slice, bytes) in [("127.7.7.7:9", "site_a", 5 * 128), ("[::1]:9", "site_b", 5 * 148)] {
        let found = sender(&node, to);
        assert_eq!(
            (&found["slice"], &found["packets_out"], &found["bytes_out"], &found["flows"]),
            (&slice.into(), &5.into(), &bytes.into(), &1.into()),
            "{found}"
        );
        let traffic = &node.status(slice)["traffic"];
        assert_eq!((&traffic["packets_out"], &traffic["bytes_out"]), (&5.into(), &bytes.into()));
    }
    // Sent at the last moment: what plabd has not taken is in the kernel, for the next one.
    let before = node.status("site_a")["uid"].clone();
    node.exec(
        "site_a",
        &["python3", "-c", "import socket; socket.socket(2, 2).sendto(b'', ('127.8.8.8', 9))"],
    )
    .ok();
    node.kill_daemon();
    node.start_daemon();
    let found = sender(&node, "127.8.8.8:9");
    assert_eq!((&found["packets_out"], &found["bytes_out"], &found["uid"]), (&1.into(), &28.into(), &before));
    assert_eq!(node.status("site_a")["traffic"]["packets_out"], 6);
    node.finish();
}

/// Calls `work` in a thread whose mount namespace has a small file system at `path`, which goes with it. The threads that it
/// starts are in there, too.
fn on_a_small_disk(path: &std::path::Path, work: impl FnOnce() + Send + 'static) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let path = path.to_owned();
    let worker = std::thread::spawn(move || {
        // SAFETY: only what this thread sees of the file system becomes its own; no descriptor is closed.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("unshare");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
        mount("none", &path, "tmpfs", MountFlags::empty(), c"size=16m").expect("mount");
        work();
    });
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn on_a_full_disk_records_are_counted_as_lost_and_nobody_waits() {
    let directory = std::env::temp_dir().join(format!("plab-flows-full-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("mkdir");
    let disk = directory.clone();
    on_a_small_disk(&directory, move || {
        let limits = StoreLimits { keep: Duration::from_secs(36_500 * 86_400), max: 1 << 30 };
        let clock = ClockReading { zero: 0, believed: true };
        let store = Store::open(&disk.join("flows"), "boot", clock, limits).expect("open");
        let (sink, reader) = (store.sink(), store.reader());
        let mut delivered = 0;
        let mut deliver = |count: u64| {
            (0..count).for_each(|_| sink.deliver(&flow(1, 7, 1).to_bytes()).expect("a record"));
            delivered += count;
            delivered
        };
        deliver(100);
        store.flush().expect("there is space yet");
        let mut filler = std::fs::File::create(disk.join("filler")).expect("create");
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        // Far more than the queue takes.
        let all = deliver(100_000);
        let kept = || reader.kept(&plab_flows::Filter::default());
        eventually("the trouble is told", || {
            kept().trouble.filter(|trouble| trouble.contains("full") || trouble.contains("disk I/O"))
        });
        assert!(kept().lost_store > 0 && kept().records < all, "{:?}", kept());
        // What was written before can be asked for.
        let found = reader.who_sent(&plab_flows::Filter::default()).expect("an answer");
        assert!(found.senders[0].flows >= 100, "{found:?}");

        drop(filler);
        std::fs::remove_file(disk.join("filler")).expect("remove");
        eventually("it is written again", || kept().trouble.is_none().then_some(()));
        // Two batches wait, and one question is answered in time only if a busy machine writes them in time.
        eventually("all that waited is written", || store.flush().ok());
        // Ports and times are the same for many: some records of one millisecond are one flow.
        let found = reader.who_sent(&plab_flows::Filter::default()).expect("an answer");
        assert_eq!(found.senders[0].counts.packets_out + kept().lost_store, all);
        store.close();
    });
    std::fs::remove_dir(&directory).expect("the mount is gone with its thread");
}
