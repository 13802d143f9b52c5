//! Closing what slices have on ports that are not theirs any more.

use std::collections::BTreeSet;

use plab_config::{PortRange, Transport};

use super::NetworkGuard;
use crate::error::KernelError;
use crate::net::sockets::{InetSocket, SocketTable};

/// What became of sockets on ports that are not their slices' any more.
#[derive(Debug, Default)]
pub struct Closed {
    /// How many were closed.
    pub sockets: usize,
    /// Slices with a socket that keeps its port: only the end of its process takes that away.
    pub left: BTreeSet<u32>,
    /// The last thing that the kernel said no to.
    pub problem: Option<String>,
}

impl NetworkGuard {
    /// Closes the sockets that slices have on these ports, but for those of the slice with UID `owner`: what capsules
    /// have, and what stands outside with the UID of one of `slices`, such as an sshd that listens for it.
    ///
    /// A socket that was bound to the port by name keeps it although it is closed, and may be opened again by whoever
    /// has it (udp_abort and tcp_abort in the kernel leave it bound): then its UID is among those that are left.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn close_strangers(
        &self,
        ports: &[PortRange],
        owner: Option<u32>,
        slices: &BTreeSet<u32>,
    ) -> Result<Closed, KernelError> {
        let mut closed = Closed::default();
        if ports.is_empty() {
            return Ok(closed);
        }
        let table = SocketTable::open()?;
        for (transport, socket) in self.strangers(&table, ports, owner, slices)? {
            match table.destroy(&socket) {
                Ok(true) => closed.sockets += 1,
                Ok(false) => {}
                // It is found below. Others are still to be closed.
                Err(error) => closed.problem = Some(format!("{transport}: {error}")),
            }
        }
        for (_, socket) in self.strangers(&table, ports, owner, slices)? {
            closed.left.insert(self.uid_of(&socket)?.unwrap_or(socket.uid));
        }
        Ok(closed)
    }

    fn strangers(
        &self,
        table: &SocketTable,
        ports: &[PortRange],
        owner: Option<u32>,
        slices: &BTreeSet<u32>,
    ) -> Result<Vec<(Transport, InetSocket)>, KernelError> {
        let transports: BTreeSet<Transport> = ports.iter().map(|range| range.transport()).collect();
        let mut strangers = Vec::new();
        for transport in transports {
            let on_them = |socket: &InetSocket| {
                ports.iter().any(|range| {
                    range.transport() == transport && (range.first()..=range.last()).contains(&socket.port)
                })
            };
            for socket in table.of(transport)?.into_iter().filter(|socket| on_them(socket)) {
                let uid = self.uid_of(&socket)?.or_else(|| slices.get(&socket.uid).copied());
                if uid.is_some() && uid != owner {
                    strangers.push((transport, socket));
                }
            }
        }
        Ok(strangers)
    }

    /// The slice whose capsule made the socket; none if no capsule did.
    fn uid_of(&self, socket: &InetSocket) -> Result<Option<u32>, KernelError> {
        let capsule = match socket.cgroup {
            Some(cgroup) => self.capsule(cgroup)?,
            None => None,
        };
        Ok(capsule.map(|capsule| capsule.uid))
    }
}
