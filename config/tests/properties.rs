//! What holds for every input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use plab_config::{
    BitRate, Bytes, ChangeKind, ControlTimes, CpuLimits, CpuQuota, CpuWeight, Definition, MemoryLimits,
    Network, NodeEntry, NodeFile, Origin, RestartPolicy, SeccompChoice, SliceName, SshKey, TaskCount,
    TaskLimits, TimeSpan, Timestamp, Transport, Uid, UidRange, View, ViewPath,
};
use proptest::prelude::*;

const NODE: &str = "planetlab1.princeton.planet-lab.org";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN2oNn44stRcFx5MUczmpMZbOpJZxmKW8SlP0Nf1Iert";

fn node() -> NodeFile {
    NodeFile::with_name(NODE.parse().expect("a host name"))
}

/// A strategy for text and what it parses to, where that is most of what `pattern` makes.
fn parsed<T>(pattern: &'static str) -> impl Strategy<Value = T>
where
    T: std::str::FromStr + std::fmt::Debug,
{
    pattern.prop_filter_map("reserved", |text| text.parse().ok())
}

fn spans() -> impl Strategy<Value = TimeSpan> {
    (100_u64..=3_600_000).prop_map(TimeSpan::from_millis)
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

prop_compose! {
    fn node_lists()(
        others in prop::collection::btree_map("[a-z]{1,9}\\.example", prop::option::of(addresses()), 0..4),
        own in prop::option::of(addresses()),
    ) -> Vec<NodeEntry> {
        let own = (NODE.to_owned(), own);
        others
            .into_iter()
            .chain([own])
            .map(|(name, address)| NodeEntry { name: name.parse().expect("a host name"), address })
            .collect()
    }
}

prop_compose! {
    fn limits()(
        weight in 1_u32..=10_000,
        cpu_max in prop::option::of(1_000_u32..=6_400_000),
        max in (8_u64 << 20)..=u64::MAX,
        high in prop::option::of(0.0..=1.0_f64),
        tasks in 4_u32..=4_194_304,
    ) -> (CpuLimits, MemoryLimits, TaskLimits) {
        let least = MemoryLimits::LEAST.get();
        let high = high.map(|part| Bytes::new(((max as f64 * part) as u64).clamp(least, max)));
        (
            CpuLimits {
                weight: CpuWeight::new(weight).expect("in range"),
                max: cpu_max.map(|micros| CpuQuota::from_micros_per_period(micros).expect("in range")),
            },
            MemoryLimits { high, max: Bytes::new(max) },
            TaskLimits { max: TaskCount::new(tasks).expect("in range") },
        )
    }
}

prop_compose! {
    fn definitions()(
        name in parsed::<SliceName>("[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,9})?"),
        contact in "[a-z0-9+_%=-]{1,9}@[a-z]{1,9}\\.example",
        comment in prop::option::of("[^\\p{C}\\p{Z}]{1,20}( [^\\p{C}\\p{Z}]{1,9})?"),
        nodes in node_lists(),
        expires in prop::option::of(0_i64..253_000_000_000),
        (cpu, memory, tasks) in limits(),
        paths in prop::collection::btree_set("[^\\p{C}/\"]{1,9}", 0..4),
        profile in "[a-z][a-z0-9_-]{0,9}",
        times in (spans(), spans(), spans(), spans()),
        restart in any::<bool>(),
        ports in prop::collection::btree_set(1_u16..6000, 0..5),
    ) -> Definition {
        Definition {
            name,
            contact,
            keys: comment.map(|c| format!("{KEY} {c}").parse().expect("a key")).into_iter().collect(),
            nodes,
            expires: expires.map(|second| Timestamp::from_second(second).expect("in range")),
            cpu,
            memory,
            tasks,
            view: View {
                paths: paths
                    .iter()
                    .filter_map(|name| format!("ro:/opt/{name}").parse::<ViewPath>().ok())
                    .collect(),
            },
            network: Network {
                // Ten apart, so that ranges of nine do not overlap.
                ports: ports
                    .iter()
                    .map(|n| {
                        let transport = Transport::ALL[usize::from(n % 4)];
                        let text = format!("{transport}/{}-{}", n * 10, n * 10 + n % 9);
                        text.parse().expect("a range")
                    })
                    .collect(),
                raw: Vec::new(),
                rate: ports.first().and_then(|n| BitRate::from_bits_per_second(u64::from(*n) * 8_000).ok()),
            },
            seccomp: SeccompChoice { profile },
            control: ControlTimes {
                configure_limit: times.0,
                status_interval: times.1,
                status_limit: times.2,
                stop_grace: times.3,
            },
            restart: if restart { RestartPolicy::OnFailure } else { RestartPolicy::No },
            origin: Origin::default(),
        }
    }
}

/// What stands in definitions, whole or in pieces, and other text between.
fn almost_definitions() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("name = ".to_owned()),
        Just("[memory]\n".to_owned()),
        Just("max = ".to_owned()),
        Just("nodes = [".to_owned()),
        Just("{ name = \"x\", address = ".to_owned()),
        Just("keys = [\"ssh-ed25519 ".to_owned()),
        Just("view.paths = [\"ro:/".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("2027-01-31T00:00:00".to_owned()),
        Just("\n".to_owned()),
        Just("] ".to_owned()),
        Just("} ".to_owned()),
        "\\PC{0,8}",
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Whatever `text` says, its errors are one line each, without anything a terminal obeys, and of bounded length.
fn check_errors(text: &str) -> Result<(), TestCaseError> {
    let origin = Path::new("a\x1b.toml");
    let definition = Definition::parse(text, origin, &node()).err();
    let node_file = NodeFile::parse(text, origin).err();
    for errors in [definition, node_file].into_iter().flatten() {
        prop_assert!(!errors.is_empty());
        for error in errors {
            let line = error.to_string();
            prop_assert!(!line.contains(char::is_control), "{line:?}");
            prop_assert!(line.starts_with("a\\u{1b}.toml:"), "{line:?}");
            prop_assert!(error.line >= 1 && error.column >= 1, "{error:?}");
            prop_assert!(error.read.as_ref().is_none_or(|read| read.chars().count() <= 82), "{error:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn sizes_read_what_they_print(bytes: u64, shift in 0_u32..64) {
        let size = Bytes::new(bytes >> shift << (shift / 2));
        prop_assert_eq!(size.to_string().parse(), Ok(size));
    }

    #[test]
    fn quotas_read_what_they_print(micros in 1_000_u32..=6_400_000) {
        let quota = CpuQuota::from_micros_per_period(micros).expect("in range");
        prop_assert_eq!(quota.to_string().parse(), Ok(quota));
    }

    #[test]
    fn rates_read_what_they_print(bits in 1_u64.., zeroes in 0_u32..10) {
        let bits = bits.checked_mul(10_u64.pow(zeroes)).unwrap_or(bits);
        let rate = BitRate::from_bits_per_second(bits).expect("not zero");
        prop_assert_eq!(rate.to_string().parse(), Ok(rate));
    }

    #[test]
    fn spans_read_what_they_print(millis: u64, shift in 0_u32..64) {
        let span = TimeSpan::from_millis(millis >> shift);
        prop_assert_eq!(span.to_string().parse(), Ok(span));
        prop_assert_eq!(u128::from(span.as_millis()), span.get().as_millis());
    }

    #[test]
    fn times_read_what_they_print(second in 0_i64..253_000_000_000) {
        let time = Timestamp::from_second(second).expect("in range");
        prop_assert_eq!(time.to_string().parse(), Ok(time));
    }

    #[test]
    fn ranges_read_what_they_print_and_know_their_own(a in 65_536_u32..100_000, b in 65_536_u32..100_000, uid: u32) {
        let range = UidRange::new(Uid::new(a.min(b)), Uid::new(a.max(b))).expect("free");
        prop_assert_eq!(range.to_string().parse(), Ok(range));
        prop_assert_eq!(range.contains(Uid::new(uid)), (a.min(b)..=a.max(b)).contains(&uid));
    }

    #[test]
    fn no_text_makes_a_value_panic(text: String) {
        let _ = text.parse::<Bytes>();
        let _ = text.parse::<CpuQuota>();
        let _ = text.parse::<BitRate>();
        let _ = text.parse::<TimeSpan>();
        let _ = text.parse::<Timestamp>();
        let _ = text.parse::<UidRange>();
        let _ = text.parse::<SliceName>();
        let _ = text.parse::<SshKey>();
        let _ = text.parse::<ViewPath>();
        let _ = format!("ssh-ed25519 {text}").parse::<SshKey>();
    }

    #[test]
    fn slice_names_are_safe_file_names(text in ".{0,40}|[a-z0-9_./]{0,40}") {
        if let Ok(name) = text.parse::<SliceName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(text.len() <= 32 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')));
        }
    }

    #[test]
    fn definitions_read_what_they_print(definition in definitions(), other_defaults: bool) {
        let mut node = node();
        if other_defaults {
            node.defaults.memory_max = Bytes::mebi(9);
            node.defaults.tasks_max = TaskCount::new(5).expect("in range");
            node.defaults.cpu_weight = CpuWeight::new(7).expect("in range");
            node.defaults.control.stop_grace = TimeSpan::from_secs(77);
        }
        let text = definition.to_toml();
        let read = Definition::parse(&text, Path::new("a.toml"), &node);
        prop_assert_eq!(read.as_ref(), Ok(&definition), "{}", text);
        let read = read.expect("just compared");
        prop_assert_eq!(read.to_toml(), text);
        prop_assert_eq!(read.origin.name_line, 1);
        prop_assert_eq!(definition.changes_live(&read), ChangeKind::None);
    }

    #[test]
    fn only_view_and_seccomp_need_a_restart(old in definitions(), new in definitions()) {
        let mut live = new.clone();
        live.name = old.name.clone();
        live.view = old.view.clone();
        live.seccomp = old.seccomp.clone();
        prop_assert!(matches!(old.changes_live(&live), ChangeKind::None | ChangeKind::Live));
        live.view = new.view.clone();
        live.seccomp = new.seccomp.clone();
        let mut keys = Vec::new();
        if old.view != new.view { keys.push("view") }
        if old.seccomp != new.seccomp { keys.push("seccomp") }
        if !keys.is_empty() {
            prop_assert_eq!(old.changes_live(&live), ChangeKind::Restart(keys));
        }
    }

    #[test]
    fn any_text_is_read_or_told_what_is_wrong(text in almost_definitions()) {
        check_errors(&text)?;
    }

    #[test]
    fn any_bytes_are_read_or_told_what_is_wrong(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check_errors(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn a_definition_broken_anywhere_is_no_worse(definition in definitions(), at: prop::sample::Index, with in "\\PC{0,3}") {
        let mut text = definition.to_toml();
        let at = text.char_indices().map(|(at, _)| at).nth(at.index(text.chars().count())).unwrap_or(0);
        text.insert_str(at, &with);
        check_errors(&text)?;
    }
}

/// Texts as large as may be, made of one mistake repeated: none of them costs more than its length.
#[test]
fn a_full_file_of_mistakes_is_read_in_time_and_told_in_part() {
    for piece in [
        "=\n",
        "a\n",
        "[",
        "{",
        "a=1\n",
        "[a]\n",
        "a.",
        "a={",
        "\"",
        "keys=[",
        "1,",
        "\r",
        "\u{feff}",
        "x = [1]\n[[x]]\n",
    ] {
        let text: String = piece.repeat((plab_config::MAX_TEXT - 16) / piece.len());
        for text in [text.clone(), format!("nodes = [{text}]")] {
            let start = std::time::Instant::now();
            let errors = Definition::parse(&text, Path::new("a.toml"), &node()).expect_err("no definition");
            let took = start.elapsed();
            assert!((1..=64).contains(&errors.len()), "{piece:?}: {} errors", errors.len());
            assert!(took.as_secs() < 5, "{piece:?}: {took:?}");
        }
    }
    let keys: String = (0..30_000).map(|n| format!("k{n}=1\n")).collect();
    let errors = Definition::parse(&keys, Path::new("a.toml"), &node()).expect_err("no definition");
    assert_eq!(errors.len(), 64);
}
