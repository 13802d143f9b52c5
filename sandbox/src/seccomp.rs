//! The last layer: which system calls a capsule may make.
//!
//! A [`SeccompProfile`] becomes two BPF programs:
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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;

use plab_config::seccomp::{Condition, SeccompProfile, Test};
use seccompiler::{SeccompAction, TargetArch, sock_filter};

/// The kernel takes no longer program (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;
/// The size of one instruction in [`CompiledProfile::to_bytes`], which is that of `struct sock_filter`.
const INSTRUCTION_BYTES: usize = 8;
/// The first bytes of [`CompiledProfile::to_bytes`]; the last of them is the version.
const MAGIC: [u8; 4] = *b"PSC\x01";
/// The longest profile name.
const MAX_NAME: usize = 32;
/// The most combinations that one rule of a profile may stand for.
const MAX_COMBINATIONS: usize = 256;

/// Without these no program starts and ends. A profile that lacks one is refused when it is compiled, and not
/// by capsules that die without a word.
const NEEDED: [&str; 3] = ["execve", "exit_group", "rt_sigreturn"];

/// How every program begins: the instructions that check the architecture.
const ARCHITECTURE_CHECK: usize = 3;
/// `BPF_LD | BPF_W | BPF_ABS`; from offset 0 of `struct seccomp_data`, the number of the call.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`, see `linux/bpf_common.h`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const JUMP_IF_NOT_BELOW: u16 = 0x35;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// What stands for a profile in the kernel: two BPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledProfile {
    name: String,
    conditions: Vec<sock_filter>,
    table: Vec<sock_filter>,
}

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

/// Bytes that are no compiled profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read compiled seccomp profile: {0}")]
pub struct DecodeError(&'static str);

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

/// Puts `program` in force for the calling thread and everything that it starts, for good. It also sets
/// `no_new_privs`, without which the kernel takes no filter from the unprivileged. Allocates nothing.
///
/// See `seccomp(2)`, `SECCOMP_SET_MODE_FILTER`.
///
/// # Errors
/// The kernel's, or `EINVAL` for an empty or too long program.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    // seccompiler hands the length on as 16 bits: a longer program would lose its end, and with it its rules.
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    seccompiler::apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(errno) | seccompiler::Error::Seccomp(errno) => errno,
        _ => io::Error::from_raw_os_error(libc::EINVAL),
    })
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
fn instruction_bytes(instruction: &sock_filter) -> [u8; INSTRUCTION_BYTES] {
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

// ------------------------------------------------------------------------------------------------------
// The way through seccompiler's JSON front end, which has the tables of names and numbers
// ------------------------------------------------------------------------------------------------------

/// One comparison, as `seccompiler` knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparison {
    arg: u8,
    operator: Operator,
    value: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    NotEqual,
    /// The argument, masked, is the value.
    MaskedEqual(u32),
}

/// Rules of one filter, as JSON.
#[derive(Default)]
struct Rules {
    json: String,
}

impl Rules {
    /// Adds a rule that matches `call` if all `comparisons` hold.
    fn add(&mut self, call: &str, comparisons: &[Comparison]) {
        // A profile's names are letters, digits and underscores: there is nothing to escape.
        let separator = if self.json.is_empty() { "" } else { "," };
        let _ = write!(self.json, "{separator}{{\"syscall\":\"{call}\"");
        if !comparisons.is_empty() {
            self.json.push_str(",\"args\":[");
            for (i, Comparison { arg, operator, value }) in comparisons.iter().enumerate() {
                let separator = if i == 0 { "" } else { "," };
                let operator = match operator {
                    Operator::NotEqual => "\"ne\"".to_owned(),
                    Operator::MaskedEqual(u32::MAX) => "\"eq\"".to_owned(),
                    Operator::MaskedEqual(mask) => format!("{{\"masked_eq\":{mask}}}"),
                };
                // dword: the low 32 bits and nothing else, as the kernel does for an int.
                let _ = write!(
                    self.json,
                    "{separator}{{\"index\":{arg},\"type\":\"dword\",\"op\":{operator},\"val\":{value}}}"
                );
            }
            self.json.push(']');
        }
        self.json.push('}');
    }
}

fn compile_rules(
    rules: &Rules,
    mismatch: &str,
    matched: &str,
    target: TargetArch,
) -> Result<Vec<sock_filter>, seccompiler::Error> {
    let json = format!(
        "{{\"filter\":{{\"mismatch_action\":{mismatch},\"match_action\":{matched},\"filter\":[{}]}}}}",
        rules.json
    );
    let mut programs = seccompiler::compile_from_json(json.as_bytes(), target)?;
    // One key in, one key out.
    Ok(programs.remove("filter").unwrap_or_default())
}

/// The numbers of `calls`. `seccompiler` has the table and does not show it; but a filter without conditions
/// compares the number of the call and nothing else, once for each.
fn numbers(
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

/// The conditions, all of which must hold, as lists of comparisons, one of which must hold completely.
/// `Err` has the number of lists if it is too large.
fn expand(when: &[Condition]) -> Result<Vec<Vec<Comparison>>, usize> {
    let alternatives = |condition: &Condition| -> Vec<Vec<Comparison>> {
        let arg = condition.arg;
        let one = |operator, value| Comparison { arg, operator, value };
        match &condition.test {
            Test::In { mask, values } => {
                values.iter().map(|value| vec![one(Operator::MaskedEqual(*mask), *value)]).collect()
            }
            Test::AnyBits(bits) => {
                bits.iter().map(|bit| vec![one(Operator::MaskedEqual(*bit), *bit)]).collect()
            }
            Test::NotIn(values) => vec![values.iter().map(|value| one(Operator::NotEqual, *value)).collect()],
        }
    };
    let mut lists = vec![Vec::new()];
    for condition in when {
        let alternatives = alternatives(condition);
        let combinations = lists.len().saturating_mul(alternatives.len());
        if combinations > MAX_COMBINATIONS {
            return Err(combinations);
        }
        let extend = |list: &Vec<Comparison>| {
            let list = list.clone();
            alternatives.iter().map(move |more| [list.as_slice(), more].concat()).collect::<Vec<_>>()
        };
        lists = lists.iter().flat_map(extend).collect();
    }
    Ok(lists)
}

// ------------------------------------------------------------------------------------------------------
// The table
// ------------------------------------------------------------------------------------------------------

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// All numbers from `first` to the next range's get the answer `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NumberRange {
    first: u32,
    action: u32,
}

/// The whole space of numbers, those that are not in `actions` with the answer `otherwise`.
fn ranges(actions: &BTreeMap<u32, u32>, otherwise: u32) -> Vec<NumberRange> {
    let mut ranges = vec![NumberRange { first: 0, action: otherwise }];
    let mut begin = |first, action| match ranges.last_mut() {
        Some(last) if last.first == first => last.action = action,
        Some(last) if last.action == action => {}
        _ => ranges.push(NumberRange { first, action }),
    };
    for (number, action) in actions {
        begin(*number, *action);
        // Taken back by the next number if that follows at once.
        if let Some(next) = number.checked_add(1) {
            begin(next, otherwise);
        }
    }
    // What was taken back may now have the answer of the range before it.
    ranges.dedup_by_key(|range| range.action);
    ranges
}

/// A binary search for the range of the number in the accumulator. `ranges` has at least one.
fn search(ranges: &[NumberRange]) -> Vec<sock_filter> {
    let [only] = ranges else {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let boundary = upper[0].first;
        let (lower, upper) = (search(lower), search(upper));
        let mut program = match u8::try_from(lower.len()) {
            Ok(over) => vec![step(JUMP_IF_NOT_BELOW, over, 0, boundary)],
            // A conditional jump reaches 255 instructions, an unconditional one all of them.
            Err(_) => vec![step(JUMP_IF_NOT_BELOW, 0, 1, boundary), step(JUMP, 0, 0, lower.len() as u32)],
        };
        program.extend(lower);
        program.extend(upper);
        return program;
    };
    vec![step(RETURN, 0, 0, only.action)]
}

// The profiles name calls of x86-64, and so do the tests.
#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::path::Path;

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

    /// What the kernel shows a filter, see `seccomp(2)`.
    #[derive(Clone, Copy)]
    struct Data {
        nr: u32,
        arch: u32,
        args: [u64; 6],
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

    fn call(nr: libc::c_long, args: [u64; 6]) -> Data {
        Data { nr: nr as u32, arch: X86_64, args }
    }

    /// Runs one program as the kernel would; also returns whether it looked at an argument.
    fn interpret(program: &[sock_filter], data: &Data) -> (u32, bool) {
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
    fn decide(profile: &CompiledProfile, data: &Data) -> u32 {
        let answers = profile.programs().map(|program| interpret(program, data).0);
        // As signed numbers the actions are in the order of their strictness; min_by_key keeps the first.
        answers.into_iter().rev().min_by_key(|answer| (answer & 0xffff_0000) as i32).unwrap_or(KILL_PROCESS)
    }

    /// Whether the kernel's bitmap has the call: allowed without a look at an argument.
    fn costs_nothing(profile: &CompiledProfile, nr: libc::c_long) -> bool {
        profile.programs().iter().all(|program| interpret(program, &call(nr, [0; 6])) == (ALLOW, false))
    }

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

    /// Arguments to which exactly these comparisons apply: each argument that is compared for equality gets
    /// that value, each other one that is compared a value that no rule names.
    fn witness(comparisons: &[Comparison]) -> [u64; 6] {
        let mut args = [0; 6];
        for comparison in comparisons {
            let value = match comparison.operator {
                Operator::MaskedEqual(_) => comparison.value,
                Operator::NotEqual => 0x7ff7,
            };
            args[usize::from(comparison.arg)] = u64::from(value);
        }
        args
    }

    #[test]
    fn every_deny_entry_is_refused_and_every_allowed_call_runs() {
        for name in ["default", "strict"] {
            let (profile, compiled) = (profile(name), compiled(name));
            for denied in profile.denied() {
                for args in [[0; 6], [u64::MAX; 6]] {
                    let data = call(number(denied).into(), args);
                    assert_eq!(decide(&compiled, &data), EPERM, "{name}: {denied}");
                }
            }
            let conditional: Vec<_> = profile.deny.iter().filter(|rule| !rule.is_unconditional()).collect();
            for allowed in profile.allowed() {
                if conditional.iter().any(|rule| rule.calls.iter().any(|call| call == allowed)) {
                    continue;
                }
                let nr = number(allowed);
                for args in [[0; 6], [u64::MAX; 6]] {
                    assert_eq!(decide(&compiled, &call(nr.into(), args)), ALLOW, "{name}: {allowed}");
                }
                assert!(costs_nothing(&compiled, nr.into()), "{name}: {allowed} runs the filter");
            }
        }
    }

    #[test]
    fn every_conditional_rule_refuses_on_its_own_and_none_is_redundant() {
        for name in ["default", "strict"] {
            let profile = profile(name);
            let rules: Vec<_> = profile.deny.iter().filter(|rule| !rule.is_unconditional()).collect();
            assert!(rules.len() >= 10);
            for (i, rule) in rules.iter().enumerate() {
                for combination in expand(&rule.when).expect("few") {
                    for refused in &rule.calls {
                        let args = witness(&combination);
                        // The same values in the upper halves too: the kernel drops those.
                        let high = args.map(|arg| arg | 0xdead_beef_0000_0000);
                        let with = compile(&profile).expect(name);
                        let mut without = profile.clone();
                        without.deny.retain(|other| other != *rule);
                        let without = compile(&without).expect(name);
                        for args in [args, high] {
                            let data = call(number(refused).into(), args);
                            assert_eq!(decide(&with, &data), EPERM, "{name}: {refused}, rule {i}, {args:x?}");
                            assert_eq!(
                                decide(&without, &data),
                                ALLOW,
                                "{name}: {refused}, rule {i} is redundant"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_call_up_to_the_last_known_one_is_undecided() {
        for name in ["default", "strict"] {
            let (profile, compiled) = (profile(name), compiled(name));
            let absent: Vec<_> = profile.absent.iter().flat_map(|absent| &absent.calls).collect();
            let absent: BTreeSet<u32> = absent.iter().map(|call| number(call)).collect();
            for nr in (0..=334).chain(424..=LAST_KNOWN) {
                let answer = decide(&compiled, &call(nr.into(), [0; 6]));
                let expected = if absent.contains(&nr) { answer == ENOSYS } else { answer != ENOSYS };
                assert!(expected, "{name}: call {nr} gets {answer:#x}");
            }
        }
    }

    #[test]
    fn unknown_calls_are_not_there() {
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            for nr in (336..424).chain(LAST_KNOWN + 1..5000).chain([
                0x3fff_ffff,
                0x7fff_ffff,
                0x8000_0000,
                u32::MAX,
            ]) {
                assert_eq!(decide(&compiled, &call(nr.into(), [0; 6])), ENOSYS, "{name}: {nr}");
            }
            assert_eq!(decide(&compiled, &call(libc::SYS_clone3, [0; 6])), ENOSYS);
        }
    }

    #[test]
    fn another_abi_is_no_way_around() {
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            for nr in 0..=LAST_KNOWN {
                let data = Data { nr, arch: I386, args: [0; 6] };
                assert_eq!(decide(&compiled, &data), KILL_PROCESS, "{name}: {nr}");
                for program in compiled.programs() {
                    assert_eq!(interpret(program, &data).0, KILL_PROCESS);
                }
                let x32 = Data { nr: nr | X32_BIT, arch: X86_64, args: [0; 6] };
                assert_eq!(decide(&compiled, &x32), ENOSYS, "{name}: {nr}");
            }
        }
    }

    #[test]
    fn namespaces_are_refused_bit_by_bit() {
        let (compiled, strict) = (compiled("default"), compiled("strict"));
        let namespaces = [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
        ];
        let forked = libc::SIGCHLD | libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID;
        let thread = 0x3d0f00; // as glibc's pthread_create has it
        let spawned = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        for flags in [forked, thread, spawned, libc::SIGCHLD] {
            let flags = flags as u64;
            assert_eq!(decide(&compiled, &call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])), ALLOW);
            for namespace in namespaces {
                for high in [0, 1 << 32, u64::MAX << 32] {
                    let args = [flags | namespace as u64 | high, 0, 0, 0, 0, 0];
                    assert_eq!(decide(&compiled, &call(libc::SYS_clone, args)), EPERM, "{args:x?}");
                }
            }
        }
        for flags in [0, libc::CLONE_FILES, libc::CLONE_FS | libc::CLONE_SYSVSEM] {
            assert_eq!(decide(&compiled, &call(libc::SYS_unshare, [flags as u64, 0, 0, 0, 0, 0])), ALLOW);
            for namespace in namespaces.into_iter().chain([0x80]) {
                let args = [(flags | namespace) as u64, 0, 0, 0, 0, 0];
                assert_eq!(decide(&compiled, &call(libc::SYS_unshare, args)), EPERM, "{args:x?}");
            }
        }
        for flags in [0, libc::CLONE_FILES as u64] {
            assert_eq!(decide(&strict, &call(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0])), EPERM);
        }
    }

    #[test]
    fn terminal_and_quota_ioctls_are_refused_and_their_neighbours_are_not() {
        let refused = [
            0x5412,      // TIOCSTI
            0x541c,      // TIOCLINUX
            0x5423,      // TIOCSETD
            0x4008_6602, // FS_IOC_SETFLAGS
            0x401c_5820, // FS_IOC_FSSETXATTR
            0x5000_9401, // BTRFS_IOC_SNAP_CREATE
            0x5000_940e, // BTRFS_IOC_SUBVOL_CREATE
            0x5000_9417, // BTRFS_IOC_SNAP_CREATE_V2
            0x5000_9418, // BTRFS_IOC_SUBVOL_CREATE_V2
        ];
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            let ioctl = |request: u64| decide(&compiled, &call(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]));
            for request in refused {
                for high in [0, 1 << 32, 1 << 63, u64::MAX << 32] {
                    assert_eq!(ioctl(request | high), EPERM, "{request:x}");
                }
                for neighbour in [request - 1, request + 1, request ^ (1 << 31)] {
                    let expected = if refused.contains(&neighbour) { EPERM } else { ALLOW };
                    assert_eq!(ioctl(neighbour), expected, "{neighbour:x}");
                }
            }
            // TCGETS, TIOCGWINSZ, TIOCSCTTY, TIOCGPTN, FIONBIO, FIONREAD, FICLONE
            for request in [0x5401, 0x5413, 0x540e, 0x8004_5430, 0x5421, 0x541b, 0x4004_9409] {
                assert_eq!(ioctl(request), ALLOW, "{request:x}");
            }
        }
    }

    #[test]
    fn only_the_slices_own_kinds_of_sockets_open() {
        const CLOEXEC_NONBLOCK: u64 = 0o2_004_000;
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            let socket = |family, kind, protocol| {
                // Set bits above the lower 32 must change nothing.
                let answers = [0, 1 << 32].map(|high: u64| {
                    let args = [family | high, kind | high, protocol | high, 0, 0, 0];
                    decide(&compiled, &call(libc::SYS_socket, args))
                });
                assert_eq!(answers[0], answers[1]);
                answers[0]
            };
            for family in 0..64 {
                let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { EPERM };
                let kind = if family == 16 { 3 } else { 1 };
                assert_eq!(socket(family, kind | CLOEXEC_NONBLOCK, 0), expected, "{name}: family {family}");
            }
            for protocol in 0..32 {
                let expected = if protocol == 0 { ALLOW } else { EPERM };
                assert_eq!(socket(16, 3, protocol), expected, "netlink {protocol}");
            }
            for family in [2, 10] {
                for protocol in 0..300 {
                    for flags in [0, CLOEXEC_NONBLOCK] {
                        let stream = if [0, 6].contains(&protocol) { ALLOW } else { EPERM };
                        assert_eq!(socket(family, 1 | flags, protocol), stream, "stream {protocol}");
                        let datagram = if [0, 1, 17, 58].contains(&protocol) { ALLOW } else { EPERM };
                        assert_eq!(socket(family, 2 | flags, protocol), datagram, "datagram {protocol}");
                        // Raw ones are for CAP_NET_RAW to say.
                        assert_eq!(socket(family, 3 | flags, protocol), ALLOW);
                        for kind in [4, 5, 6, 10] {
                            assert_eq!(socket(family, kind | flags, protocol), EPERM, "kind {kind}");
                        }
                    }
                }
            }
            for kind in [1, 2, 5] {
                assert_eq!(socket(1, kind, 0), ALLOW);
            }
            for family in 0..64 {
                let expected = if family == 1 { ALLOW } else { EPERM };
                let data = call(libc::SYS_socketpair, [family, 1, 0, 0, 0, 0]);
                assert_eq!(decide(&compiled, &data), expected, "pair of family {family}");
            }
        }
    }

    #[test]
    fn personality_turns_randomisation_off_and_nothing_else() {
        let compiled = compiled("default");
        let personality = |persona| decide(&compiled, &call(libc::SYS_personality, [persona, 0, 0, 0, 0, 0]));
        for persona in [0, 0x0004_0000, 0xffff_ffff, 0xffff_ffff_ffff_ffff] {
            assert_eq!(personality(persona), ALLOW, "{persona:x}");
        }
        // PER_LINUX32, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, ADDR_COMPAT_LAYOUT, and one with the allowed bit.
        for persona in [8, 0x0040_0000, 0x0010_0000, 0x0020_0000, 0x0044_0000, 0x1_0000_0008] {
            assert_eq!(personality(persona), EPERM, "{persona:x}");
        }
    }

    #[test]
    fn frequent_calls_cost_nothing() {
        let frequent = [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_openat,
            libc::SYS_close,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_getppid,
            libc::SYS_futex,
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_ctl,
            libc::SYS_poll,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_recvmsg,
            libc::SYS_sendmsg,
            libc::SYS_accept4,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_madvise,
            libc::SYS_clock_gettime,
            libc::SYS_rt_sigprocmask,
            libc::SYS_vfork,
            libc::SYS_execve,
            libc::SYS_wait4,
        ];
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            for nr in frequent {
                assert!(costs_nothing(&compiled, nr), "{name}: {nr}");
            }
            // A bound on what every capsule's start pays, with room for a few more rules.
            assert!(compiled.instructions() < 600, "{name}: {} instructions", compiled.instructions());
        }
    }

    #[test]
    fn the_table_answers_as_seccompilers_own_chain_does() {
        for name in ["default", "strict"] {
            let (profile, compiled) = (profile(name), compiled(name));
            let mut rules = Rules::default();
            profile.allowed().for_each(|call| rules.add(call, &[]));
            let chain =
                compile_rules(&rules, "\"trap\"", "\"allow\"", TargetArch::x86_64).expect("a program");
            for nr in (0..70_000).chain((0..32).map(|bit| 1 << bit)) {
                let data = call(nr.into(), [0; 6]);
                let (table, _) = interpret(compiled.programs()[1], &data);
                assert_eq!(table == ALLOW, interpret(&chain, &data).0 == ALLOW, "{name}: {nr}");
            }
        }
    }

    #[test]
    fn a_search_of_any_size_finds_every_number() {
        // Every second number, so that the search is wider than a conditional jump reaches.
        for count in [0, 1, 2, 3, 63, 64, 65, 200, 900] {
            let actions: BTreeMap<u32, u32> = (0..count).map(|i| (2 * i, ALLOW)).collect();
            let mut program = vec![step(LOAD, 0, 0, 0)];
            program.extend(search(&ranges(&actions, ENOSYS)));
            for nr in (0..2 * count + 3).chain([u32::MAX - 1, u32::MAX]) {
                let expected = if actions.contains_key(&nr) { ALLOW } else { ENOSYS };
                assert_eq!(interpret(&program, &call(nr.into(), [0; 6])).0, expected, "{nr} of {count}");
            }
        }
    }

    #[test]
    fn ranges_are_as_few_as_can_be() {
        let actions = BTreeMap::from([(0, ALLOW), (1, ALLOW), (2, EPERM), (5, ENOSYS), (u32::MAX, ALLOW)]);
        let expected = [(0, ALLOW), (2, EPERM), (3, ENOSYS), (u32::MAX, ALLOW)];
        assert_eq!(ranges(&actions, ENOSYS), expected.map(|(first, action)| NumberRange { first, action }));
    }

    #[test]
    fn a_profile_without_conditions_is_not_an_open_one() {
        let compiled = compile(&small("\"read\"", "")).expect("a profile");
        for nr in 0..1000 {
            let expected = if [0, 15, 59, 231].contains(&nr) { ALLOW } else { ENOSYS };
            assert_eq!(decide(&compiled, &call(nr, [0; 6])), expected, "{nr}");
        }
    }

    #[test]
    fn calls_that_nobody_knows_are_named() {
        for more in [
            "[[group]]\nname = \"h\"\nwhy = \"w\"\ncalls = [\"opne\"]\n",
            "[[deny]]\nwhy = \"w\"\ncalls = [\"opne\"]\n",
            "[[absent]]\nwhy = \"w\"\ncalls = [\"opne\"]\n",
        ] {
            let error = compile(&small("\"read\"", more)).expect_err("misspelt");
            assert!(matches!(&error, CompileError::UnknownCall { call, .. } if call == "opne"), "{error}");
        }
    }

    #[test]
    fn a_profile_under_which_nothing_starts_is_refused() {
        let text = "name = \"x\"\nsummary = \"s\"\nbase = \"default\"\n\
                    [[remove]]\nwhy = \"w\"\ncalls = [\"execve\"]\n";
        let error = compile(&parse(text)).expect_err("no execve");
        assert!(matches!(error, CompileError::Unusable { call: "execve", .. }), "{error}");
    }

    #[test]
    fn clone3_is_no_way_around_clone() {
        let group = "[[group]]\nname = \"x\"\nwhy = \"w\"\ncalls = [\"clone3\"]\n";
        let text = format!("name = \"x\"\nsummary = \"s\"\nbase = \"default\"\n{group}");
        let error = compile(&parse(&text)).expect_err("clone3");
        assert!(matches!(error, CompileError::UncheckedClone { .. }), "{error}");
    }

    #[test]
    fn a_rule_that_explodes_is_refused() {
        let values = (0..17).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let when = format!("{{ arg = 0, in = [{values}] }}, {{ arg = 1, in = [{values}] }}");
        let rule = format!("[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{when}]\n");
        let error = compile(&small("\"read\"", &rule)).expect_err("too many");
        assert!(matches!(error, CompileError::TooManyCombinations { combinations: 289, .. }), "{error}");
    }

    #[test]
    fn many_conditions_still_jump_to_the_right_place() {
        let values = (0..200).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        let rule = format!(
            "[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{{ arg = 0, not_in = [{values}] }}]\n\
             [[deny]]\nwhy = \"w\"\ncalls = [\"write\"]\nwhen = [{{ arg = 0, in = [{values}] }}]\n"
        );
        let compiled = compile(&small("\"read\", \"write\"", &rule)).expect("a profile");
        for arg in 0..300 {
            let (read, write) = if arg < 200 { (ALLOW, EPERM) } else { (EPERM, ALLOW) };
            assert_eq!(decide(&compiled, &call(libc::SYS_read, [arg, 0, 0, 0, 0, 0])), read, "{arg}");
            assert_eq!(decide(&compiled, &call(libc::SYS_write, [arg, 0, 0, 0, 0, 0])), write, "{arg}");
        }
    }

    #[test]
    fn bytes_are_read_back_as_written() {
        for name in ["default", "strict"] {
            let compiled = compiled(name);
            let bytes = compiled.to_bytes();
            assert_eq!(CompiledProfile::from_bytes(&bytes), Ok(compiled));
            for end in 0..bytes.len() {
                assert!(CompiledProfile::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
            }
            assert!(CompiledProfile::from_bytes(&[bytes.as_slice(), b"\0"].concat()).is_err());
            let mut other = bytes.clone();
            other[3] = 2;
            assert!(CompiledProfile::from_bytes(&other).is_err(), "another version");
        }
    }

    #[test]
    fn bytes_with_impossible_lengths_are_refused() {
        let header = [&MAGIC[..], &[1, b'x']].concat();
        for (length, instructions) in [(0_u16, 0), (4097, 4097), (u16::MAX, 10)] {
            let code = vec![0; instructions * INSTRUCTION_BYTES];
            let bytes = [header.as_slice(), &length.to_le_bytes(), &code].concat();
            assert!(CompiledProfile::from_bytes(&bytes).is_err(), "{length}");
        }
        assert!(CompiledProfile::from_bytes(&[&MAGIC[..], &[0]].concat()).is_err());
        assert!(CompiledProfile::from_bytes(&[&MAGIC[..], &[200], &[b'x'; 200]].concat()).is_err());
        assert!(CompiledProfile::from_bytes(&[&MAGIC[..], &[1, 0xff, 0, 0]].concat()).is_err());
    }

    #[test]
    fn the_digest_is_of_the_programs_and_not_of_the_name() {
        let (default, strict) = (compiled("default"), compiled("strict"));
        assert_ne!(default.digest(), strict.digest());
        let renamed = CompiledProfile { name: "other".into(), ..default.clone() };
        assert_eq!(renamed.digest(), default.digest());
        let swapped = CompiledProfile {
            conditions: default.table.clone(),
            table: default.conditions.clone(),
            ..default.clone()
        };
        assert_ne!(swapped.digest(), default.digest());
    }

    #[test]
    fn programs_that_the_kernel_would_misread_are_not_installed() {
        let endless = vec![step(RETURN, 0, 0, ALLOW); 0x1_0001];
        for program in [&[][..], &endless, &endless[..4097]] {
            let error = install(program).expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    mod in_the_kernel {
        use super::*;

        /// Calls with their answers, without a filter and under `default`. Their arguments are wrong in some
        /// other way too, so that without a filter the kernel refuses them for another, certain reason:
        /// without that, a machine that refuses everything would pass.
        const CALLS: [(&str, libc::c_long, [u64; 6], i32, i32); 17] = [
            // CLONE_NEWUSER with a flag that unshare does not have (CLONE_VFORK).
            ("unshare", libc::SYS_unshare, [0x1000_4000, 0, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
            // CLONE_NEWUSER | CLONE_SIGHAND without CLONE_VM.
            ("clone", libc::SYS_clone, [0x1000_0800, 0, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
            // The same without a namespace still reaches the kernel.
            ("clone, no namespace", libc::SYS_clone, [0x800, 0, 0, 0, 0, 0], libc::EINVAL, libc::EINVAL),
            ("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0, 0], libc::EINVAL, libc::ENOSYS),
            // AF_ALG and AF_VSOCK with a flag that no socket has.
            ("AF_ALG", libc::SYS_socket, [38, 0x10_0005, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
            ("AF_VSOCK", libc::SYS_socket, [40, 0x10_0001, 0, 0, 0, 0], libc::EINVAL, libc::EPERM),
            ("AF_INET", libc::SYS_socket, [2, 0x10_0001, 0, 0, 0, 0], libc::EINVAL, libc::EINVAL),
            ("MPTCP", libc::SYS_socket, [2, 0x10_0001, 262, 0, 0, 0], libc::EINVAL, libc::EPERM),
            ("SOCK_DIAG", libc::SYS_socket, [16, 0x10_0003, 4, 0, 0, 0], libc::EINVAL, libc::EPERM),
            ("keyctl", libc::SYS_keyctl, [0xffff, 0, 0, 0, 0, 0], libc::EOPNOTSUPP, libc::EPERM),
            ("TIOCSTI", libc::SYS_ioctl, [u64::MAX, 0x5412, 0, 0, 0, 0], libc::EBADF, libc::EPERM),
            (
                "TIOCSTI + 2^32",
                libc::SYS_ioctl,
                [u64::MAX, 0x1_0000_5412, 0, 0, 0, 0],
                libc::EBADF,
                libc::EPERM,
            ),
            ("TIOCGWINSZ", libc::SYS_ioctl, [u64::MAX, 0x5413, 0, 0, 0, 0], libc::EBADF, libc::EBADF),
            ("setns", libc::SYS_setns, [u64::MAX, 0, 0, 0, 0, 0], libc::EBADF, libc::EPERM),
            ("unknown call", 999, [0; 6], libc::ENOSYS, libc::ENOSYS),
            ("read", libc::SYS_read, [u64::MAX, 0, 0, 0, 0, 0], libc::EBADF, libc::EBADF),
            ("getppid through x32", 0x4000_0000 | libc::SYS_getppid, [0; 6], 0, libc::ENOSYS),
        ];

        /// Calls that the node may refuse for reasons of its own, so that only the filter's answer is certain.
        const ALSO_REFUSED: [(&str, libc::c_long, i32); 6] = [
            ("io_uring_setup", libc::SYS_io_uring_setup, libc::EPERM),
            ("bpf", libc::SYS_bpf, libc::EPERM),
            ("perf_event_open", libc::SYS_perf_event_open, libc::EPERM),
            ("userfaultfd", libc::SYS_userfaultfd, libc::EPERM),
            ("mount", libc::SYS_mount, libc::EPERM),
            ("io_setup", libc::SYS_io_setup, libc::ENOSYS),
        ];

        const COUNT: usize = CALLS.len() + ALSO_REFUSED.len();

        /// Makes a child that runs `body` and `_exit`s with its result; returns the wait status.
        ///
        /// Other threads of the test may hold locks at the fork, so `body` must not allocate, lock or panic.
        fn in_child(body: impl FnOnce() -> i32) -> i32 {
            // SAFETY: the child only runs `body`, which by contract is async-signal-safe, and _exits.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            if pid == 0 {
                let status = body();
                // SAFETY: always sound; nothing of the parent's runs in the child.
                unsafe { libc::_exit(status) };
            }
            let mut status = 0;
            // SAFETY: `pid` is a child of this process, `status` a valid pointer.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(waited, pid);
            status
        }

        fn errno_of(nr: libc::c_long, args: [u64; 6]) -> i32 {
            let [a, b, c, d, e, f] = args;
            // SAFETY: every call in the tables is refused or fails before it looks at memory.
            let result = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
            if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
        }

        /// The errno of every call, under the programs or without any.
        fn errnos(programs: Option<[&[sock_filter]; 2]>) -> [i32; COUNT] {
            let mut pipe = [0; 2];
            // SAFETY: `pipe` has room for two descriptors.
            assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
            let status = in_child(|| {
                for program in programs.iter().flatten() {
                    if install(program).is_err() {
                        return 1;
                    }
                }
                let mut results = [0_i32; COUNT];
                for (result, (_, nr, args, ..)) in results.iter_mut().zip(&CALLS) {
                    *result = errno_of(*nr, *args);
                }
                if programs.is_some() {
                    for (result, (_, nr, _)) in results[CALLS.len()..].iter_mut().zip(&ALSO_REFUSED) {
                        *result = errno_of(*nr, [0; 6]);
                    }
                }
                let size = size_of_val(&results);
                // SAFETY: `results` is `size` bytes long.
                let written = unsafe { libc::write(pipe[1], results.as_ptr().cast(), size) };
                i32::from(written != size as isize)
            });
            assert_eq!(status, 0, "the child could not install the filters");
            let mut results = [0_i32; COUNT];
            // SAFETY: `results` has room for that many bytes; the child wrote all of them.
            let read = unsafe { libc::read(pipe[0], results.as_mut_ptr().cast(), size_of_val(&results)) };
            assert_eq!(read, size_of_val(&results) as isize);
            for end in pipe {
                // SAFETY: both ends are this function's and not used again.
                unsafe { libc::close(end) };
            }
            results
        }

        #[test]
        fn calls_get_the_errno_that_the_profile_says() {
            let (default, strict) = (compiled("default"), compiled("strict"));
            let without = errnos(None);
            for ((name, _, _, expected, _), found) in CALLS.iter().zip(without) {
                // x32 may be compiled into the kernel or not.
                assert!(found == *expected || name.contains("x32"), "without a filter: {name}: {found}");
            }
            for (profile, errnos) in
                [("default", errnos(Some(default.programs()))), ("strict", errnos(Some(strict.programs())))]
            {
                let expected = CALLS.map(|(name, .., inside)| (name, inside)).into_iter();
                let expected = expected.chain(ALSO_REFUSED.map(|(name, _, inside)| (name, inside)));
                for ((name, expected), found) in expected.zip(errnos) {
                    // No call in the tables is one that the two profiles treat differently.
                    assert_eq!(found, expected, "{profile}: {name}");
                }
            }
        }

        #[test]
        fn the_other_abi_kills() {
            let compiled = compiled("default");
            let getpid_of_i386 = || {
                let result: u64;
                // SAFETY: getpid by way of int 0x80 touches no memory, and no registers but these.
                unsafe {
                    std::arch::asm!(
                        "int 0x80",
                        inout("rax") 20_u64 => result,
                        out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                    );
                }
                i32::from(result == 0)
            };
            let no_core = || {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                // SAFETY: `none` is a valid rlimit.
                unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) }
            };
            let status = in_child(|| {
                no_core();
                match compiled.install() {
                    Ok(()) => getpid_of_i386(),
                    Err(_) => 1,
                }
            });
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS,
                "status {status:#x}"
            );
        }

        #[test]
        fn the_status_file_shows_both_filters() {
            let compiled = compiled("default");
            let mut pipe = [0; 2];
            // SAFETY: `pipe` has room for two descriptors.
            assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
            let mut buffer = [0_u8; 8192];
            let status = in_child(|| {
                if compiled.install().is_err() {
                    return 1;
                }
                // SAFETY: a constant string; the descriptor ends with the child.
                let file = unsafe { libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY) };
                // SAFETY: `buffer` is 8192 bytes long.
                let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), 8192) };
                // SAFETY: `length` bytes were read into `buffer`; a pipe takes that many at once.
                let written = unsafe { libc::write(pipe[1], buffer.as_ptr().cast(), length.max(0) as usize) };
                i32::from(written <= 0)
            });
            assert_eq!(status, 0);
            // SAFETY: `buffer` is 8192 bytes long.
            let length = unsafe { libc::read(pipe[0], buffer.as_mut_ptr().cast(), 8192) };
            for end in pipe {
                // SAFETY: both ends are this function's and not used again.
                unsafe { libc::close(end) };
            }
            let text = String::from_utf8_lossy(&buffer[..length as usize]);
            let field = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned)
            };
            assert_eq!(field("NoNewPrivs:").as_deref(), Some("1"));
            assert_eq!(field("Seccomp:").as_deref(), Some("2"));
            let before = std::fs::read_to_string("/proc/self/status").expect("status");
            let before: u32 = before
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp_filters:"))
                .map_or(0, |count| count.trim().parse().expect("a number"));
            assert_eq!(field("Seccomp_filters:"), Some((before + 2).to_string()));
        }
    }
}
