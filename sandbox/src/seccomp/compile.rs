//! From a profile to its programs, and why a profile may have none.

use std::collections::BTreeMap;

use plab_config::seccomp::SeccompProfile;
use seccompiler::{SeccompAction, TargetArch, sock_filter};

use super::conditions::{MAX_COMBINATIONS, expand};
use super::instructions::{ARCHITECTURE_CHECK, LOAD, step};
use super::numbers::numbers;
use super::program::CompiledProfile;
use super::rules::{Rules, compile_rules};
use super::table::{ranges, search};

/// Without these no program starts and ends. A profile that lacks one is refused when it is compiled, and not
/// by capsules that die without a word.
const NEEDED: [&str; 3] = ["execve", "exit_group", "rt_sigreturn"];

/// Why a profile has no programs.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A name that this version of `seccompiler` does not know for this architecture: misspelt, of another
    /// architecture, or newer than its table.
    #[error(
        "seccomp profile {profile:?}: no system call {call:?} is known on {arch}; a call that is newer than \
         this program gets ENOSYS without being named"
    )]
    UnknownCall {
        /// The profile.
        profile: String,
        /// The name.
        call: String,
        /// The architecture.
        arch: &'static str,
    },
    /// A call is missing without which nothing would start.
    #[error("seccomp profile {profile:?}: {call} must be allowed, else no program can be started under it")]
    Unusable {
        /// The profile.
        profile: String,
        /// The call.
        call: &'static str,
    },
    /// `clone` is restricted by its flags, and `clone3` would be the way around that.
    #[error(
        "seccomp profile {profile:?}: clone3 cannot be allowed beside a condition on clone, because no filter \
         can see its flags; leave it absent and libc uses clone"
    )]
    UncheckedClone {
        /// The profile.
        profile: String,
    },
    /// One rule stands for more combinations of values than the kernel has room for.
    #[error(
        "seccomp profile {profile:?}: the rule for {call} has {combinations} combinations, at most \
         {MAX_COMBINATIONS} fit"
    )]
    TooManyCombinations {
        /// The profile.
        profile: String,
        /// The first call of the rule.
        call: String,
        /// How many.
        combinations: usize,
    },
    /// The compiler refused, for instance because the program became too long.
    #[error("compile seccomp profile {profile:?}: {source}")]
    Compiler {
        /// The profile.
        profile: String,
        /// Its reason.
        source: seccompiler::Error,
    },
    /// `seccompiler` has no tables for the machine's architecture.
    #[error("seccomp profiles are not supported on {arch}")]
    Architecture {
        /// The architecture.
        arch: &'static str,
    },
}

/// Makes the programs for `profile`.
///
/// # Errors
/// [`CompileError`], which names the call that is at fault where one is.
pub fn compile(profile: &SeccompProfile) -> Result<CompiledProfile, CompileError> {
    let arch = std::env::consts::ARCH;
    let target = TargetArch::try_from(arch).map_err(|_| CompileError::Architecture { arch })?;
    for call in NEEDED {
        if !profile.allowed().any(|allowed| allowed == call) {
            return Err(CompileError::Unusable { profile: profile.name.clone(), call });
        }
    }

    let conditional = || profile.deny.iter().filter(|rule| !rule.is_unconditional());
    let clone_is_checked = conditional().any(|rule| rule.calls.iter().any(|call| call == "clone"));
    if clone_is_checked && profile.allowed().any(|call| call == "clone3") {
        return Err(CompileError::UncheckedClone { profile: profile.name.clone() });
    }

    let numbers = |calls: &mut dyn Iterator<Item = &str>| numbers(&profile.name, calls, target);
    let allowed = numbers(&mut profile.allowed())?;
    let denied = numbers(&mut profile.denied())?;
    // The absent calls are in no program. Their names are looked up all the same, so that a misspelt one is
    // found out; otherwise the file would claim something about a call that does not exist.
    numbers(&mut profile.absent.iter().flat_map(|absent| &absent.calls).map(String::as_str))?;

    let mut refused = Rules::default();
    for rule in conditional() {
        let combinations = expand(&rule.when).map_err(|combinations| CompileError::TooManyCombinations {
            profile: profile.name.clone(),
            call: rule.calls.first().cloned().unwrap_or_default(),
            combinations,
        })?;
        for call in &rule.calls {
            combinations.iter().for_each(|comparisons| refused.add(call, comparisons));
        }
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let conditions = compile_rules(&refused, "\"allow\"", &format!("{{\"errno\":{}}}", libc::EPERM), target)
        .map_err(|source| CompileError::Compiler { profile: profile.name.clone(), source })?;

    let mut actions = BTreeMap::new();
    actions.extend(allowed.into_iter().map(|number| (number, SeccompAction::Allow.into())));
    actions.extend(denied.into_iter().map(|number| (number, refuse.clone().into())));
    let mut table: Vec<sock_filter> = conditions.iter().take(ARCHITECTURE_CHECK).cloned().collect();
    table.push(step(LOAD, 0, 0, 0));
    table.extend(search(&ranges(&actions, SeccompAction::Errno(libc::ENOSYS as u32).into())));

    Ok(CompiledProfile { name: profile.name.clone(), conditions, table })
}
