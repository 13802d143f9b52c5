//! Reading a definition from TOML.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::{Definition, NodeEntry, Origin, SeccompChoice, View};
use crate::ValueError;
use crate::contact::Contact;
use crate::control_times::ControlTimes;
use crate::error::ConfigError;
use crate::limits::{CpuLimits, MemoryLimits, TaskLimits, read_memory};
use crate::network::Network;
use crate::node_file::NodeFile;
use crate::profile_name::ProfileName;
use crate::reader::{Item, Section, read_document};
use crate::ssh_keys::SshKey;
use crate::text::read_text;
use crate::view::ViewPath;

/// Every key a definition may have.
const KEYS: [&str; 31] = [
    "name",
    "contact",
    "keys",
    "nodes",
    "nodes.name",
    "nodes.address",
    "expires",
    "restart",
    "cpu",
    "cpu.weight",
    "cpu.max",
    "memory",
    "memory.high",
    "memory.max",
    "tasks",
    "tasks.max",
    "view",
    "view.paths",
    "seccomp",
    "seccomp.profile",
    "control",
    "control.configure_limit",
    "control.status_interval",
    "control.status_limit",
    "control.stop_grace",
    "network",
    "network.ports",
    "network.raw",
    "network.rate",
    "disk",
    "software",
];

/// Tables that the format has and this node does not act on. Accepting them would promise what nobody keeps.
const NOT_ENFORCED: [&str; 2] = ["disk", "software"];

impl Definition {
    /// Reads a definition from `text`, which came from `origin`, for the node that `node` describes.
    ///
    /// # Errors
    /// All mistakes found, in the order of the text; at least one.
    pub fn parse(text: &str, origin: &Path, node: &NodeFile) -> Result<Definition, Vec<ConfigError>> {
        read_document(text, origin, &KEYS, |top| read(top, origin, node))
    }

    /// Reads a definition from the file at `path`, for the node that `node` describes.
    ///
    /// # Errors
    /// The file cannot be read, or all mistakes found in it.
    pub fn load(path: &Path, node: &NodeFile) -> Result<Definition, Vec<ConfigError>> {
        let text = read_text(path)?;
        Self::parse(&text, path, node)
    }
}

/// Reads the whole definition. Mistakes are reported to the document; a part that is mistaken gets its default
/// meanwhile, so that the parts after it are looked at too.
fn read(top: &mut Section<'_, '_>, origin: &Path, node: &NodeFile) -> Option<Definition> {
    let defaults = &node.defaults;
    let name_item = top.take("name");
    let name = match &name_item {
        Some(item) => item.read(),
        None => {
            top.missing("name", crate::names::SLICE_EXPECTED);
            None
        }
    };
    let contact = top.require::<Contact>("contact");
    let keys = read_keys(top);
    let nodes = read_nodes(top, node);
    let expires = top.read("expires");
    let restart = top.read("restart").unwrap_or_default();
    let cpu = top.section("cpu", |cpu| CpuLimits {
        weight: cpu.read("weight").unwrap_or(defaults.cpu_weight),
        max: cpu.read("max"),
    });
    let memory = top.section("memory", |memory| read_memory_limits(memory, defaults.memory_max));
    let tasks =
        top.section("tasks", |tasks| TaskLimits { max: tasks.read("max").unwrap_or(defaults.tasks_max) });
    let view = top.section("view", |view| View { paths: read_view(view, node) });
    let seccomp = top.section("seccomp", |seccomp| {
        seccomp
            .read::<ProfileName>("profile")
            .map(|name| SeccompChoice { profile: name.0 })
            .unwrap_or_default()
    });
    let control = top.section("control", |control| ControlTimes::read(control, defaults.control));
    let network = top.section("network", Network::read);
    for key in NOT_ENFORCED {
        if let Some(item) = top.take(key) {
            item.refuse("not enforced by this node yet");
        }
    }
    let origin =
        Origin { file: origin.to_owned(), name_line: name_item.as_ref().map_or(0, |item| item.line()) };
    Some(Definition {
        name: name?,
        contact: contact?.0,
        keys,
        nodes,
        expires,
        cpu,
        memory,
        tasks,
        view,
        network,
        seccomp,
        control,
        restart,
        origin,
    })
}

fn read_keys(top: &mut Section<'_, '_>) -> Vec<SshKey> {
    let mut seen = BTreeSet::new();
    let items = top.take("keys").and_then(|item| item.elements("a list of public keys")).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let key: SshKey = item.read()?;
            once(item, &mut seen, key.base64().to_owned(), "the same key stands above")?;
            Some(key)
        })
        .collect()
}

fn read_nodes(top: &mut Section<'_, '_>, node: &NodeFile) -> Vec<NodeEntry> {
    const EXPECTED: &str = "a list of host names or of tables with name and address";
    let Some(list) = top.take("nodes") else {
        top.missing("nodes", EXPECTED);
        return Vec::new();
    };
    let Some(items) = list.elements(EXPECTED) else { return Vec::new() };
    if items.is_empty() {
        list.reject(&ValueError::expected("at least one node"));
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let nodes: Vec<_> = items
        .iter()
        .filter_map(|item| {
            let entry = read_node(item)?;
            once(item, &mut seen, entry.name.clone(), "the same node stands above")?;
            Some(entry)
        })
        .collect();
    // Where an entry was mistaken, that may have been the one.
    if nodes.len() == items.len() && !nodes.iter().any(|entry| entry.name == node.name) {
        let names: Vec<_> = nodes.iter().map(|entry| entry.name.as_str()).collect();
        let expected = format!("this node, \"{}\", among them", node.name);
        list.reject_reading(&names.join(", "), &ValueError::expected(expected));
    }
    nodes
}

fn read_node(item: &Item<'_, '_>) -> Option<NodeEntry> {
    if !item.is_table() {
        return Some(NodeEntry { name: item.read()?, address: None });
    }
    item.table(|entry| {
        let name = entry.require("name");
        let address = entry.take("address").map(|item| item.read::<IpAddr>());
        // A mistaken address makes the entry mistaken; an absent one does not.
        match address {
            None => Some(NodeEntry { name: name?, address: None }),
            Some(address) => Some(NodeEntry { name: name?, address: Some(address?) }),
        }
    })
}

fn read_memory_limits(memory: &mut Section<'_, '_>, default_max: crate::Bytes) -> MemoryLimits {
    let high_item = memory.take("high");
    let high = high_item.as_ref().and_then(read_memory);
    let max_item = memory.take("max");
    let said_max = max_item.as_ref().and_then(read_memory);
    let max = said_max.unwrap_or(default_max);
    // A mistaken max says nothing about high.
    if let (Some(item), Some(high)) = (&high_item, high)
        && high > max
        && max_item.is_some() == said_max.is_some()
    {
        item.reject(&ValueError::expected(format!("at most memory.max, which is \"{max}\"")));
    }
    MemoryLimits { high, max }
}

fn read_view(view: &mut Section<'_, '_>, node: &NodeFile) -> Vec<ViewPath> {
    let mut seen = BTreeSet::new();
    let items =
        view.take("paths").and_then(|item| item.elements("a list of read-only paths")).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| {
            let path: ViewPath = item.read()?;
            let allow = &node.view.allow;
            if !allow.iter().any(|allowed| path.as_absolute().is_within(allowed)) {
                let places: Vec<_> = allow.iter().map(|allowed| allowed.as_str()).collect();
                let expected = match places[..] {
                    [] => "no path at all".to_owned(),
                    _ => format!("a path within {}", places.join(", ")),
                };
                item.reject(&ValueError::because(expected, "the node file's view.allow permits no other"));
                return None;
            }
            once(item, &mut seen, path.clone(), "the same path stands above")?;
            Some(path)
        })
        .collect()
}

/// Rejects `item` if an earlier one had the same `value`.
fn once<T: Ord>(item: &Item<'_, '_>, seen: &mut BTreeSet<T>, value: T, reason: &'static str) -> Option<()> {
    if seen.insert(value) {
        return Some(());
    }
    item.reject(&ValueError::because("each entry once", reason));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// A list of keys that the reader does not know would suggest what is refused next.
    #[test]
    fn every_key_listed_is_known_to_the_reader() {
        let node = NodeFile::with_name("n.org".parse().expect("a host name"));
        for key in KEYS {
            let text = match key.strip_prefix("nodes.") {
                Some(key) => format!("nodes = [{{ {key} = 0 }}]"),
                None => format!("{key} = 0"),
            };
            let errors = Definition::parse(&text, Path::new("a.toml"), &node).expect_err("not all of it");
            assert!(errors.iter().all(|error| error.kind != ErrorKind::UnknownKey), "{key}: {errors:?}");
        }
    }
}
