//! Whose each port is: the array that the programs look into, as memory.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use plab_config::PortRange;

use super::layout::{OWNER_NOBODY, port_index};
use super::words::Words;
use crate::error::KernelError;

/// Ports of four protocols.
const COUNT: usize = 4 << 16;

/// The array.
#[derive(Debug)]
pub(super) struct Owners(Words);

impl Owners {
    /// Maps the array.
    pub(super) fn of(map: BorrowedFd<'_>) -> Result<Self, KernelError> {
        Words::of(map, COUNT * size_of::<u64>(), "the owners of ports").map(Self)
    }

    /// Makes ports the property of `owner`.
    pub(super) fn set(&self, ports: &[PortRange], owner: u32) {
        for slot in ports.iter().flat_map(|range| self.slots(*range)) {
            slot.store(u64::from(owner), Ordering::Release);
        }
    }

    /// Whose the ports are: each owner once.
    pub(super) fn of_range(&self, range: PortRange) -> BTreeSet<u32> {
        // Wider values are never written.
        self.slots(range).iter().map(|slot| slot.load(Ordering::Acquire) as u32).collect()
    }

    fn slots(&self, range: PortRange) -> &[AtomicU64] {
        let index = |port| port_index(range.transport(), port) as usize;
        self.0.all().get(index(range.first())..=index(range.last())).unwrap_or_default()
    }

    /// Frees every port but those, and those of these owners.
    pub(super) fn keep_only(&self, ports: &[PortRange], owners: &BTreeSet<u32>) {
        let mut kept = vec![false; COUNT];
        for range in ports {
            let index = |port| port_index(range.transport(), port) as usize;
            kept[index(range.first())..=index(range.last())].fill(true);
        }
        for (slot, _) in self.0.all().iter().zip(kept).filter(|(_, kept)| !kept) {
            // Wider values are never written.
            if owners.contains(&(slot.load(Ordering::Acquire) as u32)) {
                continue;
            }
            slot.store(u64::from(OWNER_NOBODY), Ordering::Release);
        }
    }
}
