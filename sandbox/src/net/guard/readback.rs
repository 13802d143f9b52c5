//! Reading back what a capsule is under.

use std::os::fd::{AsFd, BorrowedFd};

use plab_config::PortRange;

use super::NetworkGuard;
use crate::error::{KernelError, Tried};
use crate::net::call;
use crate::net::layout::{CapsuleState, OWNER_NOBODY, OWNER_NODE, OWNER_NODE_OPEN};
use crate::readback::Row;

impl NetworkGuard {
    /// Reads back what a capsule is under: every program on its own cgroup, its state, and that its ports are its own.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn verify(
        &self,
        cgroup: BorrowedFd<'_>,
        id: u64,
        state: CapsuleState,
        ports: &[PortRange],
    ) -> Result<Vec<Row>, KernelError> {
        let mut rows = self.programs_on(cgroup)?;
        let row = |what: &str, asked: String, in_force: String, source: &str| Row {
            layer: "network",
            what: what.into(),
            ok: asked == in_force,
            asked,
            in_force,
            source: source.into(),
        };
        let show = |state: CapsuleState| {
            let CapsuleState { uid, classid, sctp, raw } = state;
            let sctp = if sctp { " sctp" } else { "" };
            let raw = if raw.is_empty() { String::new() } else { format!(" raw {raw}") };
            format!("uid {uid} class {:x}:{:x}{sctp}{raw}", classid >> 16, classid & 0xffff)
        };
        let found = self.capsule(id)?.map_or_else(|| "none: nothing may be sent".to_owned(), show);
        rows.push(row("state", show(state), found, "BPF map capsules"));
        for range in ports {
            let owners = self.owners.of_range(*range);
            let said = owners.iter().map(|owner| show_owner(*owner)).collect::<Vec<_>>().join(", ");
            rows.push(row(&range.to_string(), show_owner(state.uid), said, "BPF map owners"));
        }
        Ok(rows)
    }

    /// One row a program: whether the kernel runs it for what is in the cgroup.
    pub(super) fn programs_on(&self, cgroup: BorrowedFd<'_>) -> Result<Vec<Row>, KernelError> {
        let mut rows = Vec::new();
        for program in &self.programs {
            let own = call::program_info(program.fd.as_fd())
                .tried("ask about", format!("the BPF program {}", program.name))?
                .id;
            let there =
                call::query(cgroup, program.attach, true).tried("ask for the BPF programs of", &self.path)?;
            let ok = there.contains(&own);
            rows.push(Row {
                layer: "network",
                what: program.name.clone(),
                asked: format!("program {own}"),
                in_force: if ok { format!("program {own}") } else { "not attached".into() },
                ok,
                source: "BPF_PROG_QUERY".into(),
            });
        }
        Ok(rows)
    }
}

fn show_owner(owner: u32) -> String {
    match owner {
        OWNER_NOBODY => "nobody's".into(),
        OWNER_NODE | OWNER_NODE_OPEN => "the node's".into(),
        uid => format!("uid {uid}'s"),
    }
}
