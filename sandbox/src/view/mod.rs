//! What a capsule sees of the file system: a read-only part built once, and a few mounts of its own.
//!
//! The read-only part (the *template*) is a mount namespace of its own that plabd keeps by a descriptor: the
//! node's system directories, a minimal `/dev`, chosen files of `/etc`. A new capsule-init enters it and unshares,
//! which copies those dozen mounts and nothing else: the cost does not grow with the number of mounts on the
//! host, no mount of ours is ever in the host's namespace, and all are gone when the last descriptor is, also after
//! `kill -9`. The template's old root was pivoted away and detached once, so no capsule has it to begin with.

mod attach;
mod etc;
mod storage;
mod template;

pub use attach::{OwnMounts, attach};
pub use etc::EtcFiles;
pub use storage::{Storage, StorageMounts, detached_tree};
pub use template::{Template, TemplateSpec};

/// Where a capsule finds the directory with its `passwd` and `group`.
pub const IDENTITY_AT: &str = "/run/planetlab";
