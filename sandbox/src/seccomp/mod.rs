//! The last layer: which system calls a capsule may make.
//!
//! A [`SeccompProfile`](plab_config::seccomp::SeccompProfile) becomes two BPF programs:
//!
//! 1. *conditions*: refuses with `EPERM` what the profile refuses for some arguments, allows all else.
//! 2. *table*: looks at the number of the call only. What the profile lets run is allowed, what it denies is
//!    `EPERM`, everything else is `ENOSYS`, as on a kernel that does not have it, so that libc and programs
//!    take their older way.
//!
//! In both, a call of another ABI (`int 0x80`) kills the process: its numbers mean other calls. A call of the
//! x32 ABI is `ENOSYS`: its numbers have bit 30 set, so that no profile has them. The kernel runs both
//! programs and takes the stricter answer; where one refuses by the arguments the other allows, so the two
//! never disagree on the reason. The table comes last because installing it may be the last thing that is
//! allowed.
//!
//! `clone3` is not to be allowed beside a condition on `clone`: its flags lie in memory, where a filter cannot
//! look and another thread can change them. Answered with `ENOSYS`, libc uses `clone`, whose flags are in a
//! register.
//!
//! A tracer inside the capsule gains nothing: the kernel runs the filters after the tracer changed a call.
//! Filters that a slice adds can only make answers stricter.
//!
//! What it costs: for a call that both programs allow without a look at its arguments the kernel runs
//! neither; it knows the answer from a bitmap that it makes when they are installed. The conditions are on
//! `clone`, `ioctl`, `socket` and other calls that are not frequent. Making the bitmap means that the kernel
//! goes through each program once for every number, and every capsule pays for that when it starts. So the
//! table is a binary search here, and not the chain of comparisons that `seccompiler` makes: 145 instructions
//! in place of 1,700, and 0.2 ms in place of 1.1 ms to install. `seccompiler` does everything else: names,
//! numbers, conditions.
//!
//! See `seccomp(2)`, `syscalls(2)`, `clone(2)`, `ioctl_tty(2)`.

mod compile;
mod conditions;
mod encoding;
mod fence;
mod install;
mod instructions;
mod numbers;
mod program;
mod rules;
mod table;
// The profiles name calls of x86-64, and so do the tests.
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

pub use compile::{CompileError, compile};
pub use encoding::DecodeError;
pub use fence::fence_families;
pub use install::install;
pub use program::CompiledProfile;
