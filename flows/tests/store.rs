//! The store from outside: what is delivered can be found, also after a crash, and bounds are kept.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use plab_flows::record::{FIRST, LAST, RawFlow, SIZE, VERSION};
use plab_flows::{
    ClockReading, Counts, Filter, FlowError, FlowRow, FlowSink, Owner, Prefix, Store, StoreLimits, Took,
};

/// 2027-01-15T08:00:00Z.
const ZERO: i64 = 1_800_000_000_000;
const CLOCK: ClockReading = ClockReading { zero: ZERO, believed: true };
/// Longer than any machine that runs the tests is up: nothing is too old.
const LIMITS: StoreLimits = StoreLimits { keep: Duration::from_secs(36_500 * 86_400), max: 1 << 30 };
const SECOND: u64 = 1_000_000_000;

/// A directory of the test's own, gone when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("plab-flows-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("mkdir");
        Self(path)
    }

    fn store(&self) -> Store {
        self.store_of("boot-1", CLOCK, LIMITS)
    }

    fn store_of(&self, boot: &str, clock: ClockReading, limits: StoreLimits) -> Store {
        Store::open(&self.0.join("flows"), boot, clock, limits).expect("open")
    }

    /// Names of the files, sorted.
    fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.0.join("flows")).expect("read");
        let mut names: Vec<String> =
            files.map(|file| file.expect("file").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// As a crash would leave it: a copy made while the store is written.
    fn crash(&self) -> Directory {
        let copy = Directory::new();
        std::fs::create_dir(copy.0.join("flows")).expect("mkdir");
        for name in self.files() {
            let (from, to) = (self.0.join("flows").join(&name), copy.0.join("flows").join(&name));
            std::fs::copy(from, to).expect("copy");
        }
        copy
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => std::array::from_fn(|i| v4.octets().get(i).copied().unwrap_or(0)),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A flow of the capsule 1 that lasts a second, one packet of 60 bytes out.
fn flow(to: &str, port: u16, start_s: u64) -> RawFlow {
    let remote = address(to);
    RawFlow {
        version: VERSION,
        size: u16::try_from(SIZE).expect("small"),
        flags: FIRST | LAST,
        protocol: 6,
        family: if remote.is_ipv4() { 4 } else { 6 },
        local_port: 40_000,
        remote_port: port,
        reserved: 0,
        cgroup: 1,
        start: start_s * SECOND,
        since: start_s * SECOND,
        last: (start_s + 1) * SECOND,
        packets_out: 1,
        bytes_out: 60,
        packets_in: 0,
        bytes_in: 0,
        refused: 0,
        local: octets(address(if remote.is_ipv4() { "198.51.100.1" } else { "2001:db8::1" })),
        remote: octets(remote),
    }
}

fn owner(slice: &str) -> Owner {
    Owner { slice: slice.into(), uid: 70_000, contact: format!("pi@{slice}.org") }
}

fn deliver(sink: &FlowSink, flow: &RawFlow) {
    sink.deliver(&flow.to_bytes()).expect("a record");
}

fn to(text: &str) -> Filter {
    let address = address(text);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    Filter { to: Prefix::new(address, bits), ..Filter::default() }
}

/// Who sent, as slice, flows, packets out.
fn who(store: &Store, filter: &Filter) -> Vec<(String, u64, u64)> {
    let answer = store.reader().who_sent(filter).expect("an answer");
    assert_eq!(answer.kept.damaged, Vec::<String>::new());
    let name = |owner: Option<Owner>| owner.map_or_else(|| "?".to_owned(), |owner| owner.slice);
    answer.senders.into_iter().map(|s| (name(s.owner), s.flows, s.counts.packets_out)).collect()
}

fn flows(store: &Store, filter: &Filter, newest: Option<u32>) -> Vec<FlowRow> {
    let mut rows = Vec::new();
    let damaged = store.reader().flows(filter, newest, |row| {
        rows.push(row);
        ControlFlow::Continue(())
    });
    assert_eq!(damaged, Vec::<String>::new());
    rows
}

/// Has everything sealed: by another boot nothing of the former is gone on with.
fn seal(directory: &Directory, store: Store) -> Store {
    store.close();
    let store = directory.store_of("boot-2", CLOCK, LIMITS);
    // Once a flush is answered, sealing was asked for; closing waits for it.
    store.close();
    assert!(directory.files().iter().all(|name| !name.contains("open")), "{:?}", directory.files());
    directory.store_of("boot-2", CLOCK, LIMITS)
}

#[test]
fn what_was_sent_is_found_by_address_port_protocol_and_time_before_and_after_sealing() {
    let directory = Directory::new();
    let mut store = directory.store();
    let sink = store.sink();
    sink.set_owner(1, owner("site_a"));
    sink.set_owner(2, owner("site_b"));
    deliver(&sink, &flow("192.0.2.7", 443, 100));
    deliver(&sink, &RawFlow { cgroup: 2, packets_out: 5, ..flow("192.0.2.7", 53, 200) });
    deliver(&sink, &RawFlow { protocol: 17, ..flow("192.0.2.99", 53, 300) });
    deliver(&sink, &flow("2001:db8::7", 443, 400));
    // The same first bytes as 192.0.2.0/24: another address all the same.
    deliver(&sink, &RawFlow { cgroup: 3, ..flow("c000:207::1", 443, 500) });
    store.flush().expect("flush");
    drop(sink);
    for sealed in [false, true] {
        if sealed {
            store = seal(&directory, store);
        }
        let one = |slice: &str, packets| vec![(slice.to_owned(), 1, packets)];
        let two = vec![("site_b".to_owned(), 1, 5), ("site_a".to_owned(), 1, 1)];
        let subnet = Filter { to: Prefix::new(address("192.0.2.0"), 24), ..Filter::default() };
        let at = |from: i64, until: i64| Filter {
            since: Some(ZERO + from * 1000),
            until: Some(ZERO + until * 1000),
            ..to("192.0.2.7")
        };
        assert_eq!(who(&store, &to("192.0.2.7")), two, "sealed: {sealed}");
        assert_eq!(who(&store, &Filter { to_port: Some(53), ..to("192.0.2.7") }), one("site_b", 5));
        assert_eq!(who(&store, &Filter { protocol: Some(17), ..subnet.clone() }), one("site_a", 1));
        assert_eq!(who(&store, &subnet).iter().map(|row| row.1).sum::<u64>(), 3);
        assert_eq!(who(&store, &to("2001:db8::7")), one("site_a", 1));
        assert_eq!(who(&store, &to("c000:207::1")), one("?", 1));
        assert_eq!(who(&store, &to("192.0.2.8")), []);
        assert_eq!(who(&store, &Filter { from_port: Some(1), ..to("192.0.2.7") }), []);
        // The ends of the time belong to it.
        assert_eq!(who(&store, &at(101, 199)), one("site_a", 1));
        assert_eq!(who(&store, &at(102, 200)), one("site_b", 5));
        assert_eq!(who(&store, &at(102, 199)), []);
        let mine = Filter { slice: Some("site_a".into()), uid: Some(70_000), ..Filter::default() };
        let rows = flows(&store, &mine, None);
        let remotes: Vec<IpAddr> = rows.iter().map(|row| row.remote).collect();
        assert_eq!(remotes, [address("192.0.2.7"), address("192.0.2.99"), address("2001:db8::7")]);
        assert_eq!((rows[0].first, rows[0].last), (ZERO + 100_000, ZERO + 101_000));
        assert_eq!(rows[0].owner, Some(owner("site_a")));
        assert_eq!(flows(&store, &mine, Some(2)), rows[1..]);
        assert_eq!(flows(&store, &Filter { uid: Some(1), ..mine }, None), []);
    }
    let kept = store.reader().kept(&Filter::default());
    assert_eq!((kept.first, kept.last, kept.records), (Some(ZERO + 100_000), Some(ZERO + 501_000), 5));
    assert_eq!((kept.torn, kept.lost_store, kept.clock_doubted), (0, 0, false));
    store.close();
}

#[test]
fn the_records_of_one_flow_are_added_up() {
    let directory = Directory::new();
    let mut store = directory.store();
    let sink = store.sink();
    sink.set_owner(1, owner("site_a"));
    let whole = flow("192.0.2.7", 443, 100);
    let part = |n: u64, flags| RawFlow {
        flags,
        since: (100 + n * 60) * SECOND,
        last: (160 + n * 60) * SECOND,
        bytes_in: 7,
        refused: n,
        ..whole
    };
    // Out of order, as two CPUs may deliver them.
    for part in [part(1, 0), part(0, FIRST), part(2, LAST)] {
        deliver(&sink, &part);
    }
    // The same ports again, later: another flow.
    deliver(&sink, &flow("192.0.2.7", 443, 1000));
    drop(sink);
    store.flush().expect("flush");
    for sealed in [false, true] {
        if sealed {
            store = seal(&directory, store);
        }
        let rows = flows(&store, &to("192.0.2.7"), None);
        assert_eq!(rows.len(), 2, "sealed: {sealed}");
        let expected = Counts { packets_out: 3, bytes_out: 180, packets_in: 0, bytes_in: 21, refused: 3 };
        assert_eq!((rows[0].counts, rows[0].began, rows[0].ended), (expected, true, true));
        assert_eq!((rows[0].first, rows[0].last), (ZERO + 100_000, ZERO + 280_000));
        assert_eq!(who(&store, &to("192.0.2.7")), [("site_a".to_owned(), 2, 4)]);
    }
    store.close();
}

#[test]
fn a_slice_that_is_gone_is_named_with_the_contact_it_had_then() {
    let directory = Directory::new();
    let store = directory.store();
    let sink = store.sink();
    sink.set_owner(1, owner("gone"));
    deliver(&sink, &flow("192.0.2.7", 80, 1));
    store.flush().expect("flush");
    sink.set_owner(1, Owner { contact: "new@gone.org".into(), ..owner("gone") });
    deliver(&sink, &flow("192.0.2.7", 80, 2));
    store.flush().expect("flush");
    drop(sink);
    store.close();
    // Another plabd of the same boot, whom nobody has told of the capsule: its late records have a name still.
    let store = directory.store();
    deliver(&store.sink(), &flow("192.0.2.7", 80, 3));
    store.flush().expect("flush");
    let answer = store.reader().who_sent(&to("192.0.2.7")).expect("answer");
    let contacts: Vec<_> =
        answer.senders.iter().map(|s| (s.owner.clone().expect("owner").contact, s.flows)).collect();
    assert_eq!(contacts, [("new@gone.org".to_owned(), 2), ("pi@gone.org".to_owned(), 1)]);
    store.close();
}

#[test]
fn a_clock_that_is_set_right_later_in_the_boot_corrects_what_came_before() {
    let directory = Directory::new();
    let wrong = ClockReading { zero: 0, believed: false };
    let store = directory.store_of("boot-1", wrong, LIMITS);
    let sink = store.sink();
    deliver(&sink, &flow("192.0.2.7", 80, 10));
    store.flush().expect("flush");
    assert!(store.reader().kept(&Filter::default()).clock_doubted);
    assert_eq!(flows(&store, &to("192.0.2.7"), None)[0].first, 10_000);
    sink.set_clock(CLOCK);
    store.flush().expect("flush");
    assert_eq!(flows(&store, &to("192.0.2.7"), None)[0].first, ZERO + 10_000);
    assert!(!store.reader().kept(&Filter::default()).clock_doubted);
    drop(sink);
    // In the next boot, with a wrong clock again, too.
    store.close();
    let store = directory.store_of("boot-2", wrong, LIMITS);
    deliver(&store.sink(), &flow("192.0.2.8", 80, 10));
    store.flush().expect("flush");
    assert_eq!(flows(&store, &to("192.0.2.7"), None)[0].first, ZERO + 10_000);
    assert_eq!(flows(&store, &to("192.0.2.8"), None)[0].first, 10_000);
    store.close();
}

/// Bytes of the boot's clock that puts "now" where a test wants it.
fn clock_with_now(now_ms: i64) -> ClockReading {
    let boottime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    ClockReading { zero: now_ms - boottime.tv_sec * 1000, believed: true }
}

#[test]
fn what_is_too_old_goes_unless_the_clock_is_doubted() {
    let directory = Directory::new();
    let store = directory.store();
    deliver(&store.sink(), &flow("192.0.2.7", 80, 10));
    store.flush().expect("flush");
    let day = 86_400_000;
    seal(&directory, store).close();
    let found = |clock| {
        let month = StoreLimits { keep: Duration::from_secs(30 * 86_400), ..LIMITS };
        let store = directory.store_of("boot-3", clock, month);
        let found = who(&store, &to("192.0.2.7")).len();
        // Removing is the thread's first work; it is done when it has answered.
        store.flush().expect("flush");
        let after = who(&store, &to("192.0.2.7")).len();
        store.close();
        (found.max(after), after)
    };
    assert_eq!(found(clock_with_now(ZERO + 29 * day)), (1, 1));
    let far = clock_with_now(ZERO + 400 * day);
    assert_eq!(found(ClockReading { believed: false, ..far }), (1, 1));
    assert_eq!(found(far).1, 0);
    assert_eq!(found(CLOCK).1, 0);
}

#[test]
fn a_flood_keeps_to_its_bytes_and_the_oldest_goes_first() {
    let directory = Directory::new();
    let limits = StoreLimits { max: 16 << 20, ..LIMITS };
    let store = directory.store_of("boot-1", CLOCK, limits);
    let sink = store.sink();
    sink.set_owner(1, owner("site_a"));
    for n in 0..1_000_000_u64 {
        let remote =
            std::net::Ipv4Addr::from_bits(u32::try_from(n).expect("small").wrapping_mul(2_654_435_761));
        let start = n * 1_000_000;
        let record = RawFlow {
            start,
            since: start,
            last: start,
            remote: octets(remote.into()),
            ..flow("0.0.0.0", 80, 0)
        };
        deliver(&sink, &record);
        if n % 10_000 == 0 {
            store.flush().expect("flush");
        }
    }
    deliver(&sink, &flow("192.0.2.7", 80, 2000));
    store.flush().expect("flush");
    assert_eq!(who(&store, &to("192.0.2.7")), [("site_a".to_owned(), 1, 1)]);
    drop(sink);
    store.close();
    let kept = {
        let store = directory.store_of("boot-1", CLOCK, limits);
        store.flush().expect("flush");
        let kept = store.reader().kept(&Filter::default());
        store.close();
        kept
    };
    assert!(kept.records > 50_000 && kept.records < 500_000, "{kept:?}");
    assert!(kept.first > Some(ZERO + 400_000) && kept.last == Some(ZERO + 2_001_000), "{kept:?}");
    let bytes: u64 = directory
        .files()
        .iter()
        .map(|name| directory.0.join("flows").join(name).metadata().expect("metadata").len())
        .sum();
    assert!(bytes <= limits.max, "{bytes}");
    assert_eq!((kept.lost_store, kept.torn), (0, 0));
}

#[test]
fn what_is_lost_is_counted_and_stays_counted() {
    let directory = Directory::new();
    let store = directory.store();
    let sink = store.sink();
    sink.lost_in_kernel(7);
    assert!(sink.deliver(&[1, 2, 3]).is_err());
    let kept = store.reader().kept(&Filter::default());
    assert_eq!((kept.lost_kernel, kept.unread), (7, 1));
    store.flush().expect("flush");
    drop(sink);
    store.close();
    let store = directory.store();
    let kept = store.reader().kept(&Filter::default());
    assert_eq!((kept.lost_kernel, kept.unread, kept.records), (7, 1, 0));
    store.close();
}

#[test]
fn a_directory_is_for_root_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let flows = directory.0.join("flows");
    std::fs::create_dir(&flows).expect("mkdir");
    std::fs::set_permissions(&flows, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    directory.store().close();
    assert_eq!(flows.metadata().expect("metadata").permissions().mode() & 0o7777, 0o700);
}

/// Lays the store of `source` anew with the file `name` cut to `len` bytes, opens it, says how many records it has.
fn records_with_cut(source: &Directory, name: &str, len: u64) -> (u64, u64, usize) {
    let copy = source.crash();
    let file = std::fs::OpenOptions::new().write(true).open(copy.0.join("flows").join(name)).expect("open");
    file.set_len(len).expect("cut");
    let store = copy.store();
    store.flush().expect("flush");
    let kept = store.reader().kept(&Filter::default());
    // It goes on, whatever was left.
    deliver(&store.sink(), &flow("203.0.113.1", 80, 5));
    store.flush().expect("flush");
    assert_eq!(who(&store, &to("203.0.113.1")).len(), 1, "cut at {len}");
    store.close();
    (kept.records, kept.torn, kept.damaged.len())
}

#[test]
fn a_torn_tail_is_cut_and_said() {
    let directory = Directory::new();
    let store = directory.store();
    let sink = store.sink();
    let mut sizes = Vec::new();
    let log = Path::new("00000001.open-wal");
    for n in 0..3 {
        deliver(&sink, &flow("192.0.2.7", 80, n));
        store.flush().expect("flush");
        sizes.push(directory.0.join("flows").join(log).metadata().expect("log").len());
    }
    let name = log.to_str().expect("text");
    // Whole: all three, and an end without order.
    assert_eq!(records_with_cut(&directory, name, sizes[2]), (3, 1, 0));
    // Wherever the last commit is torn, the two before are there; every byte of a frame's header, and some of its page.
    let frame = 24 + 4096;
    let tail = (sizes[1]..sizes[2]).filter(|at| (at - 32) % frame < 26 || at % 509 == 0 || at + 3 > sizes[2]);
    for len in tail {
        assert_eq!(records_with_cut(&directory, name, len), (2, 1, 0), "cut at {len} of {sizes:?}");
    }
    // A bit that has turned is a tail that is torn there.
    let copy = directory.crash();
    let path = copy.0.join("flows").join(name);
    let mut bytes = std::fs::read(&path).expect("read");
    let at = usize::try_from(sizes[1]).expect("small") + 2000;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("write");
    let torn = copy.store();
    torn.flush().expect("flush");
    assert_eq!(who(&torn, &to("192.0.2.7")), [("?".to_owned(), 2, 2)]);
    torn.close();
    drop(sink);
    store.close();
}

#[test]
fn a_segment_that_is_no_segment_is_set_aside_and_said() {
    let directory = Directory::new();
    let store = directory.store();
    deliver(&store.sink(), &flow("192.0.2.7", 80, 1));
    store.flush().expect("flush");
    seal(&directory, store).close();
    std::fs::write(directory.0.join("flows/00000001.flows"), b"not a database at all").expect("write");
    let store = directory.store();
    let kept = store.reader().kept(&Filter::default());
    assert_eq!((kept.records, kept.damaged.len()), (0, 1));
    assert!(kept.damaged[0].contains("00000001.flows.damaged"), "{:?}", kept.damaged);
    // Its number is not given again.
    deliver(&store.sink(), &flow("192.0.2.7", 80, 1));
    store.flush().expect("flush");
    assert!(directory.files().contains(&"00000002.open".to_owned()), "{:?}", directory.files());
    store.close();
}

#[test]
fn a_crash_while_sealing_loses_and_doubles_nothing() {
    let directory = Directory::new();
    let store = directory.store();
    deliver(&store.sink(), &flow("192.0.2.7", 80, 1));
    store.flush().expect("flush");
    store.close();
    let before = directory.crash();
    seal(&directory, directory.store()).close();
    // Both files there: sealed, and not yet removed.
    for name in before.files() {
        std::fs::copy(before.0.join("flows").join(&name), directory.0.join("flows").join(&name))
            .expect("copy");
    }
    std::fs::write(directory.0.join("flows/sealing"), b"half").expect("write");
    let store = directory.store();
    assert_eq!(who(&store, &to("192.0.2.7")), [("?".to_owned(), 1, 1)]);
    store.close();
    assert_eq!(directory.files(), ["00000001.flows"]);
}

#[test]
fn questions_are_answered_while_segments_are_written_and_sealed() {
    let directory = Directory::new();
    let limits = StoreLimits { max: 16 << 20, ..LIMITS };
    let store = directory.store_of("boot-1", CLOCK, limits);
    let sink = store.sink();
    deliver(&sink, &flow("192.0.2.7", 80, 1));
    store.flush().expect("flush");
    // Enough for several segments, and not for the first to go.
    let feeder = std::thread::spawn(move || {
        for n in 0..100_000 {
            deliver(&sink, &flow("203.0.113.1", 80, 10 + n));
            if n % 1000 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut questions = 0;
    while !feeder.is_finished() || questions < 20 {
        assert_eq!(who(&store, &to("192.0.2.7")), [("?".to_owned(), 1, 1)], "question {questions}");
        questions += 1;
    }
    feeder.join().expect("feeder");
    store.flush().expect("flush");
    let kept = store.reader().kept(&Filter::default());
    assert_eq!(kept.records + kept.lost_store, 100_001);
    store.close();
}

#[test]
fn who_delivers_learns_that_nobody_takes_it() {
    let directory = Directory::new();
    let store = directory.store();
    let sink = store.sink();
    let record = flow("192.0.2.7", 80, 1).to_bytes();
    assert_eq!(sink.try_deliver(&record), Ok(Took::Yes));
    assert!(matches!(sink.flush(|| true), Ok(()) | Err(FlowError::NotWritten)));
    store.close();
    assert_eq!(sink.try_deliver(&record), Ok(Took::Ended));
    assert!(matches!(sink.flush(|| false), Err(FlowError::Closed)), "at once");
}

#[test]
fn the_store_keeps_its_bound_when_nothing_can_be_sealed() {
    const MAX: u64 = 1 << 20;
    const SEGMENTS: u32 = 30;
    let directory = Directory::new();
    let store = directory.store_of("boot-1", CLOCK, StoreLimits { max: MAX, ..LIMITS });
    // Where the new file would be: what stands in its way stays.
    std::fs::create_dir(directory.0.join("flows/sealing")).expect("make a directory");
    let sink = store.sink();
    for segment in 0..SEGMENTS {
        for n in 0..1024_u32 {
            deliver(
                &sink,
                &flow(&std::net::Ipv4Addr::from(0x0a00_0000 + segment * 1024 + n).to_string(), 80, 1),
            );
        }
        store.flush().expect("flush");
    }
    let kept = store.reader().kept(&Filter::default());
    assert!(kept.trouble.as_ref().is_some_and(|trouble| trouble.contains("sealing")), "{kept:?}");
    let last = std::net::Ipv4Addr::from(0x0a00_0000 + SEGMENTS * 1024 - 1).to_string();
    assert_eq!(who(&store, &to(&last)).len(), 1, "the newest are there");
    assert!(who(&store, &to("10.0.0.0")).is_empty(), "the oldest are not");
    store.close();
    let sizes = directory.files().into_iter().filter_map(|name| {
        let metadata = std::fs::metadata(directory.0.join("flows").join(name)).ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    let bytes: u64 = sizes.sum();
    assert!(bytes < 2 * MAX, "{bytes} bytes: {:?}", directory.files());
}

#[test]
fn the_log_of_a_damaged_segment_is_set_aside_with_it() {
    let directory = Directory::new();
    directory.store().close();
    // Were its log whole, SQLite would take the first page from there.
    std::fs::write(directory.0.join("flows/00000001.open"), vec![b'x'; 8192]).expect("write");
    std::fs::write(directory.0.join("flows/00000001.open-wal"), b"what is left of it").expect("write");
    let store = directory.store();
    assert_eq!(store.reader().kept(&Filter::default()).damaged.len(), 1);
    store.close();
    let aside = std::fs::read(directory.0.join("flows/00000001.open.damaged-wal")).expect("it is there");
    assert_eq!(aside, b"what is left of it");
}
