//! A definition in the sandbox's terms.

use plab_config::{Definition, NodeFile, Transport};
use plab_control_scripts::{ResourceDescription, SliceNode};
use plab_sandbox::cgroup::Limits;
use plab_sandbox::message::Times;
use plab_sandbox::net::CapsuleState;
use plab_sandbox::privileges::Kept;
use plab_sandbox::probe::Offered;

use crate::machine::Machine;

/// The cgroup's limits.
pub fn limits(definition: &Definition, offered: &Offered) -> Limits {
    Limits {
        cpu_weight: definition.cpu.weight.get(),
        cpu_max_micros: definition.cpu.max.map(|quota| u64::from(quota.micros_per_period())),
        // Admission has made sure that a node which lacks it may.
        memory_high: definition.memory.high.filter(|_| offered.memory_high).map(|bytes| bytes.get()),
        memory_max: definition.memory.max.get(),
        tasks_max: definition.tasks.max.get(),
    }
}

/// What the network's programs know of it.
pub fn network(definition: &Definition, uid: u32, machine: &Machine) -> CapsuleState {
    let sctp = definition.network.ports.iter().any(|range| range.transport() == Transport::Sctp);
    // Also where nothing is limited yet: a limit that is set later finds each packet in its class.
    let classid = machine.bandwidth.class(uid).map_or(0, |class| class.get());
    CapsuleState { uid, classid, sctp, raw: definition.network.raw.iter().copied().collect() }
}

/// What capability its processes have.
pub fn kept(definition: &Definition) -> Kept {
    if definition.network.raw.is_empty() { Kept::Nothing } else { Kept::RawSockets }
}

/// The TCP ports that Landlock is to hold the capsule to, where nothing better does.
pub fn landlock_ports(definition: &Definition, machine: &Machine) -> Option<Vec<u16>> {
    let tcp = definition.network.ports.iter().filter(|range| range.transport() == Transport::Tcp);
    machine.guard().is_none().then(|| tcp.flat_map(|range| range.first()..=range.last()).collect())
}

/// The hooks' limits that capsule-init keeps by itself.
pub fn times(definition: &Definition) -> Times {
    Times { configure_ms: definition.control.configure_limit.as_millis() }
}

/// The text of `resources` (4.8).
pub fn resources(definition: &Definition, uid: u32, node: &NodeFile) -> String {
    ResourceDescription {
        slice: definition.name.to_string(),
        node: node.name.to_string(),
        address: node.address.map(|address| address.to_string()),
        uid,
        contact: definition.contact.clone(),
        expires: definition.expires.map(|expires| expires.as_second()),
        cpu_weight: definition.cpu.weight.get(),
        cpu_max: definition.cpu.max.map(|quota| f64::from(quota.micros_per_period()) / 1000.0),
        memory_high: definition.memory.high.map(|bytes| bytes.get()),
        memory_max: Some(definition.memory.max.get()),
        tasks_max: Some(u64::from(definition.tasks.max.get())),
        nodes: definition
            .nodes
            .iter()
            .map(|node| SliceNode {
                name: node.name.to_string(),
                address: node.address.map(|address| address.to_string()),
            })
            .collect(),
        ports: definition.network.ports.iter().map(ToString::to_string).collect(),
        raw: definition.network.raw.iter().map(ToString::to_string).collect(),
        rate: definition.network.rate.map(|rate| rate.bits_per_second()),
        seccomp: definition.seccomp.profile.to_string(),
        ..ResourceDescription::default()
    }
    .render()
}
