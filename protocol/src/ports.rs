//! Whose ports are whose, and who listens there.

use serde::{Deserialize, Serialize};

/// Ports of one entry of a definition or of the node file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The slice; none if they are the node's own.
    pub slice: Option<String>,
    /// As it is written there: `tcp/8080`, `udp/33434-33523`.
    pub ports: String,
    /// Who listens there now, by port.
    pub listeners: Vec<Listener>,
}

/// A socket that can be reached: a listener, or a datagram socket that is connected to nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its address; the unspecified one (`0.0.0.0`, `::`) for all.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// The UID that made it.
    pub uid: u32,
    /// The first process that holds it, in the node's PID namespace, where that could be found.
    pub pid: Option<u32>,
    /// That process's name: its own word, so escape before showing.
    pub command: Option<String>,
}
