//! An array of the kernel's as memory.
//!
//! The kernel maps an array's own memory (`BPF_F_MMAPABLE`), so that to change thousands of its words costs no system call.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::{KernelError, Tried};

/// The kernel rounds a map's memory up to pages.
const PAGE: usize = 4096;

/// An array of the kernel's, mapped.
#[derive(Debug)]
pub(super) struct Words {
    address: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is the kernel's array, mapped for as long as this lives; it is only read and written atomically.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps an array of at least so many bytes.
    pub(super) fn of(map: BorrowedFd<'_>, bytes: usize, what: &str) -> Result<Self, KernelError> {
        let bytes = bytes.next_multiple_of(PAGE);
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no other memory.
        let address = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }
        .tried("map", what)?;
        let address = NonNull::new(address.cast())
            .ok_or_else(|| KernelError::new("map", what, rustix::io::Errno::FAULT))?;
        Ok(Self { address, count: bytes / size_of::<u64>() })
    }

    /// All that is mapped, which may be more than the array.
    pub(super) fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many of them, aligned to a page, for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into the mapping: they borrow `self`.
        unsafe { munmap(self.address.as_ptr().cast(), self.count * size_of::<u64>()) }.ok();
    }
}
