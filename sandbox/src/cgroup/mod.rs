//! Control groups: a capsule's v2 directory (identity, kill, freeze) and its controllers wherever they are.
//!
//! On a node with cgroup v2 everything is one directory a capsule. On a hybrid machine cpu, memory and pids
//! sit in v1 hierarchies of their own, while the v2 tree has no controllers but still kills, freezes and takes
//! births (`CLONE_INTO_CGROUP`); then a capsule is one directory in each. See cgroups(7).

mod capsule;
mod holder;
mod knobs;
mod limits;
mod mounts;
mod place;
mod shrink;
mod tree;

pub use capsule::{CapsuleCgroup, Usage};
pub use holder::Held;
pub use limits::{InForce, Limits};
pub use tree::{CgroupTree, ControllerVersion, tree_name};
