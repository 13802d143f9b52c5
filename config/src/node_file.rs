//! The node file: what one machine is, and what it gives slices that do not say otherwise.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;

use crate::ValueError;
use crate::bandwidth::NodeBandwidth;
use crate::control_times::ControlTimes;
use crate::error::ConfigError;
use crate::etc::EtcEntry;
use crate::feature::Feature;
use crate::from_toml::FromToml;
use crate::limits::read_memory;
use crate::names::NodeName;
use crate::network::NodeNetwork;
use crate::paths::AbsolutePath;
use crate::reader::{Item, Section, read_document};
use crate::text::read_text;
use crate::units::{Bytes, CpuWeight, TaskCount, TimeSpan, UidRange};
use crate::view;

/// Every key a node file may have.
const KEYS: [&str; 38] = [
    "name",
    "address",
    "uids",
    "degrade",
    "landlock",
    "landlock.abi",
    "defaults",
    "defaults.cpu",
    "defaults.cpu.weight",
    "defaults.memory",
    "defaults.memory.max",
    "defaults.tasks",
    "defaults.tasks.max",
    "defaults.configure_limit",
    "defaults.status_interval",
    "defaults.status_limit",
    "defaults.stop_grace",
    "view",
    "view.system",
    "view.allow",
    "view.etc",
    "network",
    "network.own_ports",
    "network.open_loopback",
    "network.opt_out",
    "bandwidth",
    "bandwidth.out",
    "bandwidth.in",
    "bandwidth.interfaces",
    "audit",
    "audit.syslog",
    "boot",
    "boot.network_wait",
    "power",
    "power.program",
    "flows",
    "flows.keep",
    "flows.max",
];

/// Where a Debian system's programs and libraries are. Those that are symbolic links into `/usr`, or not there on
/// this architecture, are for the builder of the view to see.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// One machine: its name and address, the user IDs it gives away, and what its capsules have in common.
///
/// Only the name has to be said; everything else has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeFile {
    /// The node's DNS name (6.3).
    pub name: NodeName,
    /// The node's one IPv4 address (4.11), shared by all capsules; not known here if `None`.
    pub address: Option<Ipv4Addr>,
    /// The user IDs that slices get; 70000–99999 unless said.
    pub uids: UidRange,
    /// What may be missing on this machine without keeping capsules from starting; nothing unless said.
    pub degrade: BTreeSet<Feature>,
    /// What Landlock has to offer.
    pub landlock: LandlockNeed,
    /// What definitions get that do not say otherwise.
    pub defaults: Defaults,
    /// What capsules see of the node's files.
    pub view: NodeView,
    /// What the node keeps for itself of the network.
    pub network: NodeNetwork,
    /// What the site lets the node use of its link.
    pub bandwidth: NodeBandwidth,
    /// Where the audit trail goes.
    pub audit: Audit,
    /// The longest wait for the network after a boot, before capsules are started. If `None`, plabd's own default.
    pub network_wait: Option<TimeSpan>,
    /// What reboots the machine or switches it off: called with the one argument `reboot` or `poweroff`. If `None`,
    /// systemd is asked.
    pub power_program: Option<AbsolutePath>,
    /// How much is kept of who sent what to whom.
    pub flows: FlowRetention,
}

/// How much is kept of who sent what to whom; whichever bound is reached first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FlowRetention {
    /// How long; 30 days unless said.
    pub keep: TimeSpan,
    /// How much of the disk; 1G unless said.
    pub max: Bytes,
}

impl Default for FlowRetention {
    fn default() -> Self {
        Self { keep: TimeSpan::from_secs(30 * 86_400), max: Bytes::mebi(1024) }
    }
}

/// What Landlock has to offer for a capsule to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LandlockNeed {
    /// The lowest ABI version; 1 unless said, at least 1.
    pub abi: u32,
}

/// What definitions get that do not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Defaults {
    /// `cpu.weight`; 100 unless said.
    pub cpu_weight: CpuWeight,
    /// `memory.max`; 256M unless said.
    pub memory_max: Bytes,
    /// `tasks.max`; 128 unless said.
    pub tasks_max: TaskCount,
    /// Times for hooks.
    pub control: ControlTimes,
}

/// What capsules see of the node's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Directories that every capsule sees, read-only, where they exist.
    pub system: Vec<AbsolutePath>,
    /// Within these a definition may ask for more; none means none. `/opt` unless said.
    pub allow: Vec<AbsolutePath>,
    /// What of `/etc` is copied into a view.
    pub etc: Vec<EtcEntry>,
}

/// Where the audit trail goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Socket of the system log; `/dev/log` unless said.
    pub syslog: AbsolutePath,
}

impl Default for LandlockNeed {
    fn default() -> Self {
        Self { abi: 1 }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            cpu_weight: CpuWeight::default(),
            memory_max: Bytes::mebi(256),
            tasks_max: TaskCount::default(),
            control: ControlTimes::default(),
        }
    }
}

impl Default for NodeView {
    fn default() -> Self {
        Self {
            system: SYSTEM.into_iter().map(AbsolutePath::known).collect(),
            allow: vec![AbsolutePath::known("/opt")],
            etc: EtcEntry::defaults(),
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { syslog: AbsolutePath::known("/dev/log") }
    }
}

impl NodeFile {
    /// A node of which nothing but the name is said.
    pub fn with_name(name: NodeName) -> Self {
        Self {
            name,
            address: None,
            uids: UidRange::default(),
            degrade: BTreeSet::new(),
            landlock: LandlockNeed::default(),
            defaults: Defaults::default(),
            view: NodeView::default(),
            network: NodeNetwork::default(),
            bandwidth: NodeBandwidth::default(),
            audit: Audit::default(),
            network_wait: None,
            power_program: None,
            flows: FlowRetention::default(),
        }
    }

    /// Whether the node runs without `feature` where it is missing.
    pub fn may_lack(&self, feature: Feature) -> bool {
        self.degrade.contains(&feature)
    }

    /// Reads a node file from `text`, which came from `origin`.
    ///
    /// # Errors
    /// All mistakes found, in the order of the text; at least one.
    pub fn parse(text: &str, origin: &Path) -> Result<NodeFile, Vec<ConfigError>> {
        read_document(text, origin, &KEYS, read)
    }

    /// Reads the node file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or all mistakes found in it.
    pub fn load(path: &Path) -> Result<NodeFile, Vec<ConfigError>> {
        let text = read_text(path)?;
        Self::parse(&text, path)
    }
}

/// Reads the whole file; see the same in `definition`.
fn read(top: &mut Section<'_, '_>) -> Option<NodeFile> {
    let name = top.require("name");
    let address = top.read("address");
    let uids = top.read("uids").unwrap_or_default();
    let degrade = read_list(top, "degrade", "a list of features").unwrap_or_default().into_iter().collect();
    let landlock = top.section("landlock", |landlock| read_landlock(landlock).unwrap_or_default());
    let defaults = top.section("defaults", read_defaults);
    let view = top.section("view", read_view);
    let network = top.section("network", NodeNetwork::read);
    let bandwidth = top.section("bandwidth", NodeBandwidth::read);
    let audit =
        top.section("audit", |audit| audit.read("syslog").map(|syslog| Audit { syslog })).unwrap_or_default();
    let network_wait = top.section("boot", |boot| boot.take("network_wait").as_ref().and_then(read_wait));
    let power_program = top.section("power", |power| power.read("program"));
    let flows = top.section("flows", read_flows);
    Some(NodeFile {
        name: name?,
        address,
        uids,
        degrade,
        landlock,
        defaults,
        view,
        network,
        bandwidth,
        audit,
        network_wait,
        power_program,
        flows,
    })
}

/// With less a complaint would come too late.
const SHORTEST_KEEP: TimeSpan = TimeSpan::from_secs(3600);
/// Ten years: what is longer is a mistake.
const LONGEST_KEEP: TimeSpan = TimeSpan::from_secs(3650 * 86_400);
/// With less the store would forget what has come just now.
const LEAST_FLOWS: Bytes = Bytes::mebi(16);

fn read_flows(section: &mut Section<'_, '_>) -> FlowRetention {
    let base = FlowRetention::default();
    let keep = section.take("keep").and_then(|item| {
        let keep: TimeSpan = item.read()?;
        if (SHORTEST_KEEP..=LONGEST_KEEP).contains(&keep) {
            return Some(keep);
        }
        let expected = format!("a time from \"{SHORTEST_KEEP}\" to \"{LONGEST_KEEP}\"");
        item.reject(&ValueError::expected(expected));
        None
    });
    let max = section.take("max").and_then(|item| {
        let max: Bytes = item.read()?;
        if max >= LEAST_FLOWS {
            return Some(max);
        }
        item.reject(&ValueError::expected(format!("a size of at least \"{LEAST_FLOWS}\"")));
        None
    });
    FlowRetention { keep: keep.unwrap_or(base.keep), max: max.unwrap_or(base.max) }
}

/// A machine that nobody sees to gets its services back after at most this long.
const LONGEST_WAIT: TimeSpan = TimeSpan::from_secs(3600);

fn read_wait(item: &Item<'_, '_>) -> Option<TimeSpan> {
    let wait: TimeSpan = item.read()?;
    if wait > LONGEST_WAIT {
        item.reject(&ValueError::expected(format!("a time from \"0s\" (no wait) to \"{LONGEST_WAIT}\"")));
        return None;
    }
    Some(wait)
}

fn read_landlock(landlock: &mut Section<'_, '_>) -> Option<LandlockNeed> {
    let item = landlock.take("abi")?;
    let abi: u32 = item.read()?;
    if !(1..=99).contains(&abi) {
        item.reject(&ValueError::expected("a Landlock ABI version, 1 or higher"));
        return None;
    }
    Some(LandlockNeed { abi })
}

fn read_defaults(defaults: &mut Section<'_, '_>) -> Defaults {
    let base = Defaults::default();
    let cpu_weight = defaults.section("cpu", |cpu| cpu.read("weight"));
    let memory_max = defaults.section("memory", |memory| memory.take("max").as_ref().and_then(read_memory));
    let tasks_max = defaults.section("tasks", |tasks| tasks.read("max"));
    Defaults {
        cpu_weight: cpu_weight.unwrap_or(base.cpu_weight),
        memory_max: memory_max.unwrap_or(base.memory_max),
        tasks_max: tasks_max.unwrap_or(base.tasks_max),
        control: ControlTimes::read(defaults, base.control),
    }
}

fn read_view(section: &mut Section<'_, '_>) -> NodeView {
    let base = NodeView::default();
    let system = section.take("system").and_then(|list| {
        let items = list.elements("a list of absolute paths")?;
        let paths = items.iter().filter_map(|item| {
            let path: AbsolutePath = item.read()?;
            // One mistaken entry here would show every slice the others' storage.
            if view::is_a_capsules_own(&path) {
                item.reject(&ValueError::because(
                    "a directory of programs or libraries",
                    "a capsule has its own there, or none",
                ));
                return None;
            }
            Some(path)
        });
        Some(paths.collect())
    });
    NodeView {
        system: system.unwrap_or(base.system),
        allow: read_list(section, "allow", "a list of absolute paths").unwrap_or(base.allow),
        etc: read_list(section, "etc", "a list of names below /etc").unwrap_or(base.etc),
    }
}

/// The values of a list, without those that were reported as wrong; `None` if there is no list.
fn read_list<T: FromToml>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    expected: &'static str,
) -> Option<Vec<T>> {
    let items = section.take(key)?.elements(expected)?;
    Some(items.iter().filter_map(|item| item.read()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_key_listed_is_known_to_the_reader() {
        for key in KEYS {
            let errors =
                NodeFile::parse(&format!("{key} = 0"), Path::new("node.toml")).expect_err("not all of it");
            assert!(errors.iter().all(|error| error.kind != ErrorKind::UnknownKey), "{key}: {errors:?}");
        }
    }

    #[test]
    fn the_wait_for_the_network_is_bounded() {
        let wait = |value: &str| {
            let text = format!("name = \"n.org\"\n[boot]\nnetwork_wait = {value}\n");
            NodeFile::parse(&text, Path::new("node.toml")).map(|node| node.network_wait)
        };
        assert_eq!(wait("\"0s\""), Ok(Some(TimeSpan::from_secs(0))));
        assert_eq!(wait("\"2m\""), Ok(Some(TimeSpan::from_secs(120))));
        for (value, expected) in [("\"2h\"", "from \"0s\" (no wait) to \"1h\""), ("120", "a time such as")] {
            let errors = wait(value).expect_err(value);
            assert!(errors[0].to_string().contains(expected), "{}", errors[0]);
        }
    }

    #[test]
    fn what_is_kept_of_flows_is_bounded() {
        let read = |line: &str| {
            let text = format!("name = \"n.org\"\n[flows]\n{line}\n");
            NodeFile::parse(&text, Path::new("node.toml")).map(|node| node.flows)
        };
        let base = FlowRetention::default();
        assert_eq!(
            read("keep = \"7d\""),
            Ok(FlowRetention { keep: TimeSpan::from_secs(7 * 86_400), ..base })
        );
        assert_eq!(read("max = \"16M\""), Ok(FlowRetention { max: Bytes::mebi(16), ..base }));
        for (line, expected) in [
            ("keep = \"59m\"", "a time from \"1h\" to \"3650d\""),
            ("keep = \"3651d\"", "a time from \"1h\" to \"3650d\""),
            ("max = \"15M\"", "a size of at least \"16M\""),
        ] {
            let errors = read(line).expect_err(line);
            assert!(errors[0].to_string().contains(expected), "{}", errors[0]);
        }
    }

    #[test]
    fn the_defaults_could_stand_in_a_file() {
        let node = NodeFile::with_name("n.org".parse().expect("a host name"));
        assert_eq!(NodeFile::parse("name = \"n.org\"", Path::new("node.toml")), Ok(node.clone()));
        for path in node.view.system.iter().chain(&node.view.allow).chain([&node.audit.syslog]) {
            assert_eq!(path.as_str().parse(), Ok(path.clone()));
        }
        assert!(!node.view.system.iter().any(view::is_a_capsules_own));
    }
}
