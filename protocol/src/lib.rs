//! What is said on the node's local sockets.
//!
//! Two conversations are defined here, and nothing else:
//!
//! * [`control`]: a client (`plab`, a monitoring agent, the gateway) and `plabd`, newline-delimited JSON over
//!   a Unix stream socket, one request a connection, file descriptors attached to the request's first byte.
//! * [`session`]: a client and the `capsule-init` that runs its command, JSON datagrams over a Unix
//!   seqpacket socket that `plabd` only hands on. `plabd` is not on the path of a running command.
//!
//! Both are versioned ([`VERSION`]); receivers ignore fields they do not know, so that a newer side can add
//! some. All sizes are bounded by the constants below: each side treats the other as untrusted input.

pub mod bandwidth;
pub mod channel;
pub mod control;
pub mod escape;
pub mod flows;
pub mod machine;
mod ports;
pub mod session;

/// The version this build speaks. A request of another major version is refused with
/// [`control::ErrorCode::Version`].
pub const VERSION: u32 = 1;

/// The longest line either side of the control socket accepts, in bytes. A definition of 256 KiB fits,
/// escaped, and so does the status of several thousand slices a line.
pub const MAX_LINE: usize = 4 << 20;

/// The longest datagram on a session socket, in bytes.
pub const MAX_DATAGRAM: usize = 128 << 10;
