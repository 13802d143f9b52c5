//! The instructions that programs are made of, see `linux/filter.h` and `linux/bpf_common.h`.

use seccompiler::sock_filter;

/// The kernel takes no longer program (`BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;
/// How every program begins: the instructions that check the architecture.
pub(super) const ARCHITECTURE_CHECK: usize = 3;
/// `BPF_LD | BPF_W | BPF_ABS`; from offset 0 of `struct seccomp_data`, the number of the call.
pub(super) const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`, see `linux/bpf_common.h`.
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
pub(super) const JUMP_IF_NOT_BELOW: u16 = 0x35;
/// `BPF_JMP | BPF_JA`.
pub(super) const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
pub(super) const RETURN: u16 = 0x06;

pub(super) fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}
