//! How fast the flow store is: records a second, bytes a record, memory, and how long questions take over a week of
//! records (`make bench-flows`). Writes below a temporary directory, which it removes; needs no root.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plab_flows::record::{FIRST, LAST, RawFlow, SIZE, VERSION};
use plab_flows::{ClockReading, Filter, FlowReader, FlowSink, Owner, Prefix, Store, StoreLimits};
use rustix::time::{ClockId, clock_gettime};

/// A week in milliseconds.
const WEEK: u64 = 7 * 86_400_000;
/// The address that is asked for: some flows in a million go there.
const WANTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// The wall clock's time when the machine came up, in milliseconds since 1970.
const ZERO: i64 = 1_800_000_000_000;
/// Slices of the node.
const SLICES: u64 = 200;
/// Questions of one kind.
const QUESTIONS: usize = 21;

/// Deterministic numbers (xorshift64*), so that every run writes the same records.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Gone when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let millions: u64 = match args.next().as_deref().map(str::parse) {
        None => 10,
        Some(Ok(millions)) if (1..=100).contains(&millions) => millions,
        _ => {
            eprintln!("usage: flow-bench [MILLIONS]    records to write, 1 to 100 million [default: 10]");
            std::process::exit(2);
        }
    };
    let directory = Directory(std::env::temp_dir().join(format!("plab-flow-bench-{}", std::process::id())));
    let records = millions * 1_000_000;
    let limits = StoreLimits { keep: Duration::from_secs(3650 * 86_400), max: millions << 30 };
    let store = open(&directory.0, limits);
    let sink = store.sink();
    for slice in 0..SLICES {
        let uid = 70_000 + u32::try_from(slice).expect("few");
        let owner =
            Owner { slice: format!("site_{slice}"), uid, contact: format!("pi@site{slice}.example.org") };
        sink.set_owner(1000 + slice, owner);
    }
    let (begun, cpu) = (Instant::now(), cpu_time());
    write(&store, &sink, records);
    let (took, cpu) = (begun.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
    during(&store.reader());
    store.close();
    let store = open(&directory.0, limits);
    let reader = store.reader();
    let kept = reader.kept(&Filter::default());
    assert_eq!((kept.lost_store, kept.unread, kept.trouble), (0, 0, None));
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let figure = |n: u64| n as f64;
    println!("written      {records} records in {took:.1} s: {:.0} a second", figure(records) / took);
    println!(
        "CPU          {cpu:.1} s with making the records: {:.1} us a record, {:.0} % of one CPU at 100,000 a second",
        cpu / figure(records) * 1e6,
        cpu / figure(records) * 1e7
    );
    println!("on disk      {} bytes: {:.1} a record", kept.bytes, figure(kept.bytes) / figure(kept.records));
    println!("memory       {} (the most so far)", peak_memory());
    questions(&reader);
    println!("memory       {} (after the questions)", peak_memory());
    store.close();
    let begun = Instant::now();
    let store = open(&directory.0, limits);
    println!("opened again in {:.1} ms", millis(begun.elapsed()));
    store.close();
}

fn write(store: &Store, sink: &FlowSink, records: u64) {
    let mut numbers = Numbers(4711);
    for n in 0..records {
        sink.deliver(&record(&mut numbers, n, records).to_bytes()).expect("a record");
        // As fast as the store takes them, and no faster: what is measured is the store, not its losses.
        if n % 16_384 == 0 {
            store.flush().expect("flush");
        }
    }
    store.flush().expect("flush");
}

fn record(numbers: &mut Numbers, n: u64, records: u64) -> RawFlow {
    let start = n * (WEEK * 1_000_000 / records);
    let last = start + numbers.below(30_000) * 1_000_000;
    let remote = match numbers.below(100_000) {
        0 => WANTED,
        _ => Ipv4Addr::from(u32::try_from(numbers.below(1 << 32)).unwrap_or(0)),
    };
    let (out, into) = (1 + numbers.below(30), numbers.below(30));
    RawFlow {
        version: VERSION,
        size: u16::try_from(SIZE).expect("small"),
        flags: FIRST | LAST,
        protocol: if numbers.below(3) == 0 { 17 } else { 6 },
        family: 4,
        local_port: u16::try_from(32_768 + numbers.below(28_000)).expect("a port"),
        remote_port: u16::try_from([80, 443, 53, 33_434][usize::try_from(numbers.below(4)).unwrap_or(0)])
            .expect("a port"),
        reserved: 0,
        cgroup: 1000 + numbers.below(SLICES),
        start,
        since: start,
        last,
        packets_out: out,
        bytes_out: out * 60,
        packets_in: into,
        bytes_in: into * 1400,
        refused: 0,
        local: address(Ipv4Addr::new(198, 51, 100, 1)),
        remote: address(remote),
    }
}

fn address(v4: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&v4.octets());
    bytes
}

fn questions(reader: &FlowReader) {
    let to = |bits| Filter { to: Prefix::new(IpAddr::V4(WANTED), bits), ..Filter::default() };
    let day = 86_400_000;
    let at = Filter { since: Some(ZERO + 3 * day), until: Some(ZERO + 3 * day + 60_000), ..to(32) };
    for (name, filter) in [
        ("one address", to(32)),
        ("address, port, protocol", Filter { to_port: Some(443), protocol: Some(6), ..to(32) }),
        ("one address in one minute", at),
        ("a /24", to(24)),
        ("a /16", to(16)),
        ("a /8", to(8)),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        let mut flows = 0;
        for _ in 0..QUESTIONS {
            let begun = Instant::now();
            let answer = reader.who_sent(&filter).expect("an answer");
            times.push(begun.elapsed());
            assert_eq!(answer.kept.damaged, Vec::<String>::new());
            flows = answer.senders.iter().map(|sender| sender.flows).sum();
        }
        let first = times[0];
        times.sort_unstable();
        println!(
            "who sent     {name:<26} {:>8.1} ms (median), {:>8.1} (most), {:>8.1} (the first); {flows} flows",
            millis(times[QUESTIONS / 2]),
            millis(times[QUESTIONS - 1]),
            millis(first)
        );
    }
    let begun = Instant::now();
    let mut rows = 0;
    let newest = Filter { slice: Some("site_7".into()), ..Filter::default() };
    reader.flows(&newest, Some(1000), |_| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    });
    println!("flows        the newest 1000 of a slice   {:>8.1} ms; {rows} rows", millis(begun.elapsed()));
    let begun = Instant::now();
    rows = 0;
    reader.flows(&newest, None, |_| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    });
    println!("flows        all of a slice               {:>8.1} ms; {rows} rows", millis(begun.elapsed()));
}

fn open(directory: &Path, limits: StoreLimits) -> Store {
    Store::open(directory, "bench", ClockReading { zero: ZERO, believed: true }, limits)
        .expect("open the store")
}

/// The first question, while the last segments are still being sealed.
fn during(reader: &FlowReader) {
    let begun = Instant::now();
    let to = Prefix::new(IpAddr::V4(WANTED), 32);
    reader.who_sent(&Filter { to, ..Filter::default() }).expect("an answer");
    println!("who sent     one address, in the flood     {:>8.1} ms", millis(begun.elapsed()));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// CPU time of this process, all threads.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |size| size.trim().to_owned())
}
