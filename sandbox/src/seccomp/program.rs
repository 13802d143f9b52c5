//! The two programs of a profile: what they are, and putting them in force.

use std::io;

use seccompiler::sock_filter;

use super::encoding::instruction_bytes;
use super::install::install;

/// What stands for a profile in the kernel: two BPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledProfile {
    pub(super) name: String,
    pub(super) conditions: Vec<sock_filter>,
    pub(super) table: Vec<sock_filter>,
}

impl CompiledProfile {
    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The programs, in the order in which they must be installed.
    pub fn programs(&self) -> [&[sock_filter]; 2] {
        [&self.conditions, &self.table]
    }

    /// How many instructions both programs have. The kernel takes at most 32,768 for all filters of a
    /// process, with 4 more counted for each filter; what these leave is the slice's for its own.
    pub fn instructions(&self) -> usize {
        self.conditions.len() + self.table.len()
    }

    /// Tells programs apart in records and messages, whatever the profile is called. It is FNV-1a: it
    /// notices a change, and proves nothing against somebody who looks for a second program with the same.
    pub fn digest(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for program in self.programs() {
            let length = (program.len() as u64).to_le_bytes();
            for byte in length.into_iter().chain(program.iter().flat_map(instruction_bytes)) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }

    /// Puts both programs in force for the calling thread, in their order. To be called last, when nothing
    /// else is left to do that the profile might refuse. Allocates nothing.
    ///
    /// # Errors
    /// The kernel's. The first program may then be in force without the second: the caller must not go on.
    pub fn install(&self) -> io::Result<()> {
        self.programs().into_iter().try_for_each(install)
    }
}
