//! Programs run as the kernel runs them: an interpreter of its classic BPF, and the answer of all filters.

use seccompiler::sock_filter;

use super::{ALLOW, KILL_PROCESS, X86_64};
use crate::seccomp::CompiledProfile;

/// What the kernel shows a filter, see `seccomp(2)`.
#[derive(Clone, Copy)]
pub(super) struct Data {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..=60 if offset & 3 == 0 => {
                let (arg, upper) = ((offset - 16) / 8, (offset - 16) % 8 == 4);
                (self.args[arg as usize] >> if upper { 32 } else { 0 }) as u32
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

pub(super) fn call(nr: libc::c_long, args: [u64; 6]) -> Data {
    Data { nr: nr as u32, arch: X86_64, args }
}

/// Runs one program as the kernel would; also returns whether it looked at an argument.
pub(super) fn interpret(program: &[sock_filter], data: &Data) -> (u32, bool) {
    let (mut at, mut accumulator, mut looked) = (0, 0_u32, false);
    loop {
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            0x20 => {
                looked |= k >= 16;
                accumulator = data.word(k);
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x06 => return (k, looked),
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// Both programs together: the strictest answer, of equals the newest program's.
pub(super) fn decide(profile: &CompiledProfile, data: &Data) -> u32 {
    let answers = profile.programs().map(|program| interpret(program, data).0);
    // As signed numbers the actions are in the order of their strictness; min_by_key keeps the first.
    answers.into_iter().rev().min_by_key(|answer| (answer & 0xffff_0000) as i32).unwrap_or(KILL_PROCESS)
}

/// Whether the kernel's bitmap has the call: allowed without a look at an argument.
pub(super) fn costs_nothing(profile: &CompiledProfile, nr: libc::c_long) -> bool {
    profile.programs().iter().all(|program| interpret(program, &call(nr, [0; 6])) == (ALLOW, false))
}
