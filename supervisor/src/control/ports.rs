//! `plab ports`: whose ports are whose, and who listens there.

use std::collections::BTreeMap;
use std::sync::Arc;

use plab_config::{PortRange, Transport};
use plab_protocol::control::{ErrorCode, ErrorReply, Listener, PortStatus, Reply};
use plab_sandbox::KernelError;
use plab_sandbox::net::{InetSocket, SocketTable};

use crate::machine::Machine;
use crate::node::Node;
use crate::slice::refused;

/// So many listeners are shown of one entry: what a slice opens by the thousand is not worth a longer answer.
const MOST_LISTENERS: usize = 64;

/// So many processes of a capsule are looked at for who holds a socket.
const MOST_PROCESSES: usize = 1024;

/// The ports of all slices, or of `one`; without one, the node's own, too.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn list(node: &Node, one: Option<String>) -> Result<Reply, ErrorReply> {
    let machine = Arc::clone(&node.machine);
    let listed = tokio::task::spawn_blocking(move || look(&machine, one.as_deref())).await;
    let failed = |error: &dyn std::fmt::Display| refused(ErrorCode::Failed, error.to_string());
    listed
        .map_err(|error| failed(&error))?
        .map(|ports| Reply::Ports { ports })
        .map_err(|error| failed(&error))
}

fn look(machine: &Machine, one: Option<&str>) -> Result<Vec<PortStatus>, KernelError> {
    let table = SocketTable::open()?;
    let mut sockets = Vec::new();
    for transport in Transport::ALL {
        sockets.extend(table.of(transport)?.into_iter().filter(InetSocket::listens));
    }
    let mut rows = Vec::new();
    if one.is_none() {
        for range in machine.ports.own() {
            rows.push(row(None, *range, &sockets, &BTreeMap::new()));
        }
    }
    for (slice, ranges) in
        machine.ports.given().into_iter().filter(|(slice, _)| one.is_none_or(|one| one == slice))
    {
        let holders = match ranges.is_empty() {
            true => BTreeMap::new(),
            false => holders(&machine.tree.processes(&slice)?),
        };
        rows.extend(ranges.iter().map(|range| row(Some(&slice), *range, &sockets, &holders)));
    }
    Ok(rows)
}

fn row(
    slice: Option<&str>,
    range: PortRange,
    sockets: &[InetSocket],
    holders: &BTreeMap<u32, (u32, String)>,
) -> PortStatus {
    let within = |socket: &&InetSocket| {
        socket.transport == range.transport() && (range.first()..=range.last()).contains(&socket.port)
    };
    let mut listeners: Vec<Listener> = sockets
        .iter()
        .filter(within)
        .map(|socket| {
            let holder = holders.get(&socket.inode);
            Listener {
                address: socket.address.to_string(),
                port: socket.port,
                uid: socket.uid,
                pid: holder.map(|(pid, _)| *pid),
                command: holder.map(|(_, command)| command.clone()),
            }
        })
        .take(MOST_LISTENERS)
        .collect();
    listeners.sort_by(|a, b| (a.port, &a.address).cmp(&(b.port, &b.address)));
    PortStatus { slice: slice.map(str::to_owned), ports: range.to_string(), listeners }
}

/// For each socket's inode the first of these processes that holds it. Links of /proc are read and none is followed; a
/// process that ends meanwhile holds nothing.
fn holders(pids: &[u32]) -> BTreeMap<u32, (u32, String)> {
    let mut holders = BTreeMap::new();
    for pid in pids.iter().take(MOST_PROCESSES) {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        for descriptor in descriptors.flatten() {
            let link = std::fs::read_link(descriptor.path()).unwrap_or_default();
            let inode =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                holders.entry(inode).or_insert_with(|| (*pid, command.trim_end().to_owned()));
            }
        }
    }
    holders
}
