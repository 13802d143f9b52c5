//! What the built-in profiles and small ones come to, in an interpreter and in the kernel.

mod arguments;
mod built_in_profiles;
mod compiling;
mod cost;
mod encoding;
mod in_the_kernel;
mod interpreter;
mod table;

use std::path::Path;

use plab_config::seccomp::SeccompProfile;
use seccompiler::TargetArch;

use super::numbers::numbers;
use super::{CompiledProfile, compile};

// Values of the kernel's, written out: a test that took them from the code would agree with its mistakes.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
/// The last number of `linux/asm/unistd_64.h` that the profiles know.
const LAST_KNOWN: u32 = 462;

fn profile(name: &str) -> SeccompProfile {
    SeccompProfile::load(name, Path::new("/nonexistent")).expect(name)
}

fn compiled(name: &str) -> CompiledProfile {
    compile(&profile(name)).expect(name)
}

fn parse(text: &str) -> SeccompProfile {
    let base = |name: &str| SeccompProfile::builtin_text(name).map(str::to_owned);
    SeccompProfile::parse(text, "test", &base).expect("a profile")
}

fn number(name: &str) -> u32 {
    let found = numbers("test", &mut [name].into_iter(), TargetArch::x86_64).expect(name);
    *found.first().expect("a number")
}

/// A profile that allows `calls` and what every profile needs.
fn small(calls: &str, more: &str) -> SeccompProfile {
    parse(&format!(
        "name = \"small\"\nsummary = \"s\"\n[[group]]\nname = \"g\"\nwhy = \"w\"\n\
         calls = [\"execve\", \"exit_group\", \"rt_sigreturn\", {calls}]\n{more}"
    ))
}
