//! What the kernel holds a capsule to: control groups, namespaces, view, privileges, Landlock, seccomp; and
//! `capsule-init`, which puts all of it on itself, gives up root, and is PID 1 of the capsule from then on.
//!
//! The supervisor makes a capsule with [`spawn`] and speaks to its capsule-init with [`message`]; everything
//! else here is one layer each. `docs/threat-model.md` says what each layer stops.

pub mod cgroup;
pub mod error;
pub mod init;
pub mod landlock_rules;
pub mod message;
pub mod net;
pub mod oom;
pub mod privileges;
pub mod probe;
pub mod readback;
pub mod seccomp;
pub mod spawn;
pub mod view;

pub use error::KernelError;
