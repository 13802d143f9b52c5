//! Whose each port is: the array that the programs look into, as memory.
//!
//! The kernel maps an array's own memory (`BPF_F_MMAPABLE`), so a range of thousands of ports costs no system calls.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use plab_config::PortRange;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{OWNER_NOBODY, port_index};
use crate::error::{KernelError, Tried};

/// Ports of four protocols.
const COUNT: usize = 4 << 16;

const BYTES: usize = COUNT * size_of::<u64>();

/// The array.
#[derive(Debug)]
pub(super) struct Owners(NonNull<AtomicU64>);

// SAFETY: the memory is the kernel's array, mapped for as long as this lives; it is only read and written atomically.
unsafe impl Send for Owners {}
// SAFETY: as above.
unsafe impl Sync for Owners {}

impl Owners {
    /// Maps the array.
    pub(super) fn of(map: BorrowedFd<'_>) -> Result<Self, KernelError> {
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no other memory.
        let address = unsafe {
            mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }
        .tried("map", "the owners of ports")?;
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| KernelError::new("map", "the owners of ports", rustix::io::Errno::FAULT))
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many of them, aligned to a page, for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), COUNT) }
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
        self.all().get(index(range.first())..=index(range.last())).unwrap_or_default()
    }

    /// Frees every port but those, and those of these owners.
    pub(super) fn keep_only(&self, ports: &[PortRange], owners: &BTreeSet<u32>) {
        let mut kept = vec![false; COUNT];
        for range in ports {
            let index = |port| port_index(range.transport(), port) as usize;
            kept[index(range.first())..=index(range.last())].fill(true);
        }
        for (slot, _) in self.all().iter().zip(kept).filter(|(_, kept)| !kept) {
            // Wider values are never written.
            if owners.contains(&(slot.load(Ordering::Acquire) as u32)) {
                continue;
            }
            slot.store(u64::from(OWNER_NOBODY), Ordering::Release);
        }
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        // SAFETY: mapped above with this length, and nobody can have a reference any more.
        unsafe { munmap(self.0.as_ptr().cast(), BYTES) }.ok();
    }
}
