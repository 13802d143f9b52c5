//! The numbers of system calls, by name.

use std::collections::BTreeSet;

use seccompiler::TargetArch;

use super::compile::CompileError;
use super::instructions::{ARCHITECTURE_CHECK, JUMP_IF_EQUAL};
use super::rules::{Rules, compile_rules};

/// The numbers of `calls`. `seccompiler` has the table and does not show it; but a filter without conditions
/// compares the number of the call and nothing else, once for each.
pub(super) fn numbers(
    profile: &str,
    calls: &mut dyn Iterator<Item = &str>,
    target: TargetArch,
) -> Result<BTreeSet<u32>, CompileError> {
    let look_up = |calls: &[&str]| {
        let mut rules = Rules::default();
        calls.iter().for_each(|call| rules.add(call, &[]));
        let program = compile_rules(&rules, "\"trap\"", "\"allow\"", target)?;
        let compared = program.iter().skip(ARCHITECTURE_CHECK).filter(|step| step.code == JUMP_IF_EQUAL);
        Ok::<BTreeSet<u32>, seccompiler::Error>(compared.map(|step| step.k).collect())
    };
    let calls: Vec<&str> = calls.collect();
    look_up(&calls).map_err(|source| match calls.iter().find(|call| look_up(&[call]).is_err()) {
        Some(call) => CompileError::UnknownCall {
            profile: profile.to_owned(),
            call: (*call).to_owned(),
            arch: std::env::consts::ARCH,
        },
        None => CompileError::Compiler { profile: profile.to_owned(), source },
    })
}
