//! Showing slices.

use std::rc::Rc;

use plab_protocol::control::{
    NetworkRefused, NodeStatus, RefusedDefinition, Severity, SliceStatus, Traffic, Usage,
};
use plab_sandbox::message::bounded;

use super::authority::Caller;
use crate::admission;
use crate::capsule::verify;
use crate::node::Node;
use crate::slice::Handle;

/// The node and the slices that the caller may see; only `one` of them if named.
pub fn node(node: &Rc<Node>, caller: &Caller, one: Option<&str>, verify: bool) -> NodeStatus {
    let handles: Vec<Handle> = node
        .slices
        .borrow()
        .values()
        .filter(|handle| caller.may_see(&handle.slice.name) && one.is_none_or(|one| one == handle.slice.name))
        .cloned()
        .collect();
    let missing =
        admission::missing(&node.machine).into_iter().filter(|feature| node.machine.node.may_lack(*feature));
    let mut degraded: Vec<String> = missing.map(|feature| feature.name().to_owned()).collect();
    if !crate::audit::reachable(node.machine.node.audit.syslog.as_path()) {
        degraded.push(plab_config::Feature::Audit.name().to_owned());
    }
    NodeStatus {
        node: node.machine.node.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        degraded,
        problems: problems(node, caller),
        boot: Some(node.boot.summary(&node.clock)),
        planned: node.power.plan(),
        flows: (*caller == Caller::Root)
            .then(|| super::flows::kept(node.flows.kept(&plab_flows::Filter::default()))),
        refused: if *caller == Caller::Root { refused(node) } else { Vec::new() },
        slices: handles
            .iter()
            // Traffic classes are listed from the kernel all at once: nothing for a slice to ask for in a loop.
            .map(|handle| slice(node, handle, verify.then_some(*caller == Caller::Root)))
            .collect(),
    }
}

fn problems(node: &Node, caller: &Caller) -> Vec<String> {
    let trouble = node.ledger.trouble().borrow().clone();
    let trouble = trouble.map(|trouble| crate::ledger_watch::describe(&trouble, node.ledger.path()));
    let firewall = crate::firewall::problem(node, |slice| caller.may_see(slice));
    let bandwidth =
        node.machine.bandwidth.problem().map(|problem| format!("not every limit is in force: {problem}"));
    trouble
        .into_iter()
        .chain(node.clock.doubt())
        .chain(node.births_held())
        .chain(bandwidth)
        .chain(firewall)
        .collect()
}

fn refused(node: &Node) -> Vec<RefusedDefinition> {
    let errors = node.set.borrow().errors();
    errors
        .into_iter()
        .map(|(file, errors)| RefusedDefinition {
            file: file.display().to_string(),
            errors: errors.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

/// One slice; read back from the kernel if `verify`, which says whether with its traffic classes.
fn slice(node: &Rc<Node>, handle: &Handle, verify: Option<bool>) -> SliceStatus {
    let slice = &handle.slice;
    let definition = slice.definition.borrow().clone();
    let said = slice.said.borrow();
    let usage = node.machine.tree.capsule_cgroup(&slice.name).ok().flatten().map(|cgroup| cgroup.usage());
    let verify = match (slice.pid.get(), verify) {
        (Some(pid), Some(shaping)) => {
            let born = slice.born.borrow();
            verify::rows(&node.machine, &definition, slice.uid.get(), pid, born.as_deref(), shaping)
                .unwrap_or_else(|error| {
                    // What cannot be read back is not in force as far as anyone knows.
                    vec![plab_protocol::control::VerifyRow {
                        layer: "all".into(),
                        what: "read back".into(),
                        asked: "possible".into(),
                        in_force: error.to_string(),
                        ok: false,
                        source: "plabd".into(),
                    }]
                })
        }
        _ => Vec::new(),
    };
    let pending =
        node.set.borrow().errors_of(&definition.origin.file).iter().map(ToString::to_string).collect();
    let mut detail = slice.detail.borrow().clone();
    if detail.is_none()
        && let Some(said) = &*said
    {
        detail = said.control_problem.clone().or_else(|| said.resources_problem.clone());
    }
    SliceStatus {
        name: slice.name.clone(),
        uid: slice.uid.get(),
        state: slice.state.get(),
        detail,
        status_line: said.as_ref().and_then(|said| said.status_line.clone()).map(bounded),
        status_ok: slice.status_ok.get(),
        hooks: said
            .iter()
            .flat_map(|said| &said.hooks)
            .map(|(hook, state)| {
                let shown = state.outcome.as_ref().map_or_else(|| "running".to_owned(), ToString::to_string);
                (hook.name().to_owned(), bounded(shown))
            })
            .collect(),
        pid: slice.pid.get().and_then(|pid| u32::try_from(pid).ok()),
        since: slice.since.get().map(|since| since.to_string()),
        expires: definition.expires.as_ref().map(ToString::to_string),
        contact: definition.contact.clone(),
        memory: usage.map(|usage| usage.memory),
        tasks: usage.map(|usage| usage.tasks),
        cpu_micros: usage.map(|usage| usage.cpu_micros),
        traffic: traffic(node, &slice.name),
        network_refused: network_refused(node, slice.uid.get()),
        ports: definition.network.ports.iter().map(ToString::to_string).collect(),
        pending_errors: pending,
        verify,
    }
}

/// None for a slice without a capsule, and on a node that does not hold capsules to their network.
fn traffic(node: &Node, slice: &str) -> Option<Traffic> {
    let cgroup = node.machine.tree.capsule_id(slice).ok().flatten()?;
    let sum = node.machine.guard()?.traffic(cgroup).ok().flatten()?;
    let plab_sandbox::net::Traffic { packets_out, bytes_out, packets_in, bytes_in } = sum;
    Some(Traffic { packets_out, bytes_out, packets_in, bytes_in })
}

fn network_refused(node: &Node, uid: u32) -> Option<NetworkRefused> {
    let refusals = node.machine.guard()?.refusals(uid).ok()?;
    let plab_sandbox::net::Refusals { opt_out, port, local, other } = refusals;
    Some(NetworkRefused { opt_out, port, local, other })
}

/// What every capsule uses now. Blocking: a few reads of the cgroup file system each.
pub fn usage(node: &Rc<Node>) -> Vec<Usage> {
    let handles: Vec<Handle> = node.slices.borrow().values().cloned().collect();
    handles
        .iter()
        .map(|handle| {
            let slice = &handle.slice;
            let definition = slice.definition.borrow();
            let now = node
                .machine
                .tree
                .capsule_cgroup(&slice.name)
                .ok()
                .flatten()
                .map(|cgroup| cgroup.usage())
                .unwrap_or_default();
            Usage {
                name: slice.name.clone(),
                state: slice.state.get(),
                cpu_micros: now.cpu_micros,
                cpu_max_micros: definition.cpu.max.map(|max| u64::from(max.micros_per_period())),
                memory: now.memory,
                memory_max: definition.memory.max.get(),
                tasks: now.tasks,
                tasks_max: u64::from(definition.tasks.max.get()),
                traffic: traffic(node, &slice.name),
            }
        })
        .collect()
}

/// Reports that something was asked, for the audit trail.
pub fn audit(node: &Node, slice: Option<&str>, caller: &Caller, what: &str) {
    node.events.report(slice, "request", Severity::Info, format!("{}: {what}", caller.describe()));
}
