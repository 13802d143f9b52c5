//! Slices by ssh, on an installed node: stock OpenSSH on both sides, sshd, PAM and the name service as the package sets
//! them up. Run on the node itself, as root; each test has slices of its own and removes them.
//!
//! `PLAB_SSH_PORT` says on which port of 127.0.0.1 sshd listens, if it is not 22.

mod crowd;
mod doors;
mod keys;
mod node;
mod streams;
mod terminals;
