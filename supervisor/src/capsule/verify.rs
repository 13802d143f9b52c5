//! Everything read back, for `plab status --verify`: what was asked, what is in force, who says so.

use plab_config::Definition;
use plab_protocol::control::VerifyRow;
use plab_sandbox::cgroup::CapsuleCgroup;
use plab_sandbox::landlock_rules::NEWEST_KNOWN;
use plab_sandbox::readback::Row;
use plab_sandbox::{KernelError, readback};

use super::birthmark::Birthmark;
use super::wishes;
use crate::machine::Machine;

/// One row a thing that the kernel holds the capsule to.
///
/// # Errors
/// The capsule is gone, or a file cannot be read.
pub fn rows(
    machine: &Machine,
    definition: &Definition,
    uid: u32,
    pid: i32,
    born: Option<&str>,
    shaping: bool,
) -> Result<Vec<VerifyRow>, KernelError> {
    let slice = definition.name.as_str();
    let cgroup = machine.tree.capsule_cgroup(slice)?.ok_or_else(|| {
        KernelError::new("open the cgroup of", slice, std::io::Error::from(std::io::ErrorKind::NotFound))
    })?;
    let mut rows = cgroup_rows(&cgroup, machine, definition)?;
    let process = readback::process(pid, uid, wishes::kept(definition))?
        .into_iter()
        .chain(readback::view(pid, slice)?)
        .chain(network(machine, &cgroup, definition, uid)?)
        .chain(if shaping { machine.bandwidth.verify(uid)? } else { Vec::new() });
    rows.extend(process.map(|row| VerifyRow {
        layer: row.layer.into(),
        what: row.what,
        asked: row.asked,
        in_force: row.in_force,
        ok: row.ok,
        source: row.source,
    }));
    let tcp_ports = wishes::landlock_ports(definition, machine);
    let birthmark = machine
        .profile(definition.seccomp.profile.as_str())
        .map(|profile| Birthmark::of(definition, &profile.digest, tcp_ports.as_deref()).to_string())
        .unwrap_or_else(|reason| format!("unknown: {reason}"));
    let abi = machine.offered.landlock_abi.min(NEWEST_KNOWN);
    // The kernel shows neither a ruleset nor a filter's content from outside: what capsule-init was born with, and
    // confirmed before any code of the slice's ran, stands for them.
    let known = born.is_some();
    let born = born.unwrap_or("not known: capsule-init has not answered").to_owned();
    rows.push(VerifyRow {
        layer: "landlock".into(),
        what: "abi".into(),
        asked: abi.to_string(),
        in_force: if known { abi.to_string() } else { "not known".into() },
        ok: known,
        source: "capsule-init, at birth".into(),
    });
    rows.push(VerifyRow {
        layer: "seccomp".into(),
        what: format!("profile {}", definition.seccomp.profile),
        ok: born == birthmark,
        asked: birthmark,
        in_force: born,
        source: "capsule-init, at birth".into(),
    });
    Ok(rows)
}

/// What the capsule is held to on the network.
///
/// # Errors
/// The kernel cannot be asked.
pub fn network(
    machine: &Machine,
    cgroup: &CapsuleCgroup,
    definition: &Definition,
    uid: u32,
) -> Result<Vec<Row>, KernelError> {
    match machine.guard() {
        Some(guard) => guard.verify(
            cgroup.unified(),
            cgroup.id()?,
            wishes::network(definition, uid, machine),
            &definition.network.ports,
        ),
        None => Ok(Vec::new()),
    }
}

fn cgroup_rows(
    cgroup: &CapsuleCgroup,
    machine: &Machine,
    definition: &Definition,
) -> Result<Vec<VerifyRow>, KernelError> {
    let limits = wishes::limits(definition, &machine.offered);
    let mut rows: Vec<VerifyRow> = cgroup
        .verify(&limits)?
        .into_iter()
        .map(|row| VerifyRow {
            layer: "cgroup".into(),
            what: row.what.into(),
            asked: row.asked,
            in_force: row.in_force,
            ok: row.ok,
            source: row.source,
        })
        .collect();
    let lacking = |what: &str, asked: String, in_force: &str| VerifyRow {
        layer: "cgroup".into(),
        what: what.into(),
        asked,
        in_force: in_force.into(),
        ok: false,
        source: "the node file's degrade".into(),
    };
    if let Some(high) = definition.memory.high.filter(|_| !machine.offered.memory_high) {
        rows.push(lacking("memory.high", high.to_string(), "nothing (degraded)"));
    }
    Ok(rows)
}
