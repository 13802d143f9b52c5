//! A compiled profile as bytes, the form in which it is sent to `capsule-init`.

use seccompiler::sock_filter;

use super::instructions::MAX_INSTRUCTIONS;
use super::program::CompiledProfile;

/// The size of one instruction in [`CompiledProfile::to_bytes`], which is that of `struct sock_filter`.
pub(super) const INSTRUCTION_BYTES: usize = 8;
/// The first bytes of [`CompiledProfile::to_bytes`]; the last of them is the version.
pub(super) const MAGIC: [u8; 4] = *b"PSC\x01";
/// The longest profile name.
const MAX_NAME: usize = 32;

/// Bytes that are no compiled profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read compiled seccomp profile: {0}")]
pub struct DecodeError(&'static str);

impl CompiledProfile {
    /// The form in which it is sent to `capsule-init`. Little-endian: magic and version (4 bytes), length of
    /// the name (1), the name, then for each program the number of instructions (2) and the instructions.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        // Profile names are at most MAX_NAME long, and the compiler checked the programs' length.
        bytes.push(self.name.len() as u8);
        bytes.extend_from_slice(self.name.as_bytes());
        for program in self.programs() {
            bytes.extend_from_slice(&(program.len() as u16).to_le_bytes());
            bytes.extend(program.iter().flat_map(instruction_bytes));
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// It checks the form only. Whether the programs are sound the kernel checks, and what they allow is for
    /// the sender to answer for: take them from plabd alone.
    ///
    /// # Errors
    /// [`DecodeError`], also for bytes left over at the end.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = || DecodeError("it ends too early");
        let rest = bytes.strip_prefix(&MAGIC).ok_or(DecodeError("it has another format or version"))?;
        let (length, rest) = rest.split_first().ok_or_else(short)?;
        let (name, mut rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(short)?;
        let name = std::str::from_utf8(name).map_err(|_| DecodeError("its name is not text"))?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(DecodeError("its name is empty or too long"));
        }
        let mut program = || {
            let (length, after) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            let length = usize::from(u16::from_le_bytes(*length));
            if length == 0 || length > MAX_INSTRUCTIONS {
                return Err(DecodeError("a program is empty or longer than the kernel takes"));
            }
            let (code, after) = after.split_at_checked(length * INSTRUCTION_BYTES).ok_or_else(short)?;
            rest = after;
            Ok(code.chunks_exact(INSTRUCTION_BYTES).map(instruction).collect::<Vec<_>>())
        };
        let (conditions, table) = (program()?, program()?);
        if !rest.is_empty() {
            return Err(DecodeError("it goes on after its end"));
        }
        Ok(Self { name: name.to_owned(), conditions, table })
    }
}

/// `struct sock_filter`: code, jt, jf, k.
pub(super) fn instruction_bytes(instruction: &sock_filter) -> [u8; INSTRUCTION_BYTES] {
    let [c0, c1] = instruction.code.to_le_bytes();
    let [k0, k1, k2, k3] = instruction.k.to_le_bytes();
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}

/// The reverse of [`instruction_bytes`], for exactly that many bytes.
fn instruction(bytes: &[u8]) -> sock_filter {
    sock_filter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}
