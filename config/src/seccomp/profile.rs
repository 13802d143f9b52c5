//! What a profile says, once it is read: its calls and the conditions on them.

/// What the slices that use it may ask of the kernel; the meaning of one profile file and its bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompProfile {
    /// The name by which a definition asks for it.
    pub name: String,
    /// One line for `plab check` and the like.
    pub summary: String,
    /// The calls that run, grouped by purpose. A conditional rule in `deny` may still refuse one.
    pub allow: Vec<CallGroup>,
    /// The calls that get `EPERM`, some of them only with certain arguments.
    pub deny: Vec<DenyRule>,
    /// Calls that get `ENOSYS` on purpose. So does every call that the profile does not name.
    pub absent: Vec<AbsentCalls>,
}

/// System calls that are allowed for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallGroup {
    /// What they have in common.
    pub name: String,
    /// Why a slice may have them.
    pub why: String,
    /// Their names.
    pub calls: Vec<String>,
}

/// System calls that are refused with `EPERM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenyRule {
    /// Their names.
    pub calls: Vec<String>,
    /// Against what.
    pub why: String,
    /// All of these must hold for the rule to apply. None at all: it always applies.
    pub when: Vec<Condition>,
}

impl DenyRule {
    /// Whether the arguments do not matter.
    pub fn is_unconditional(&self) -> bool {
        self.when.is_empty()
    }
}

/// System calls that are as if the kernel did not have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentCalls {
    /// Their names.
    pub calls: Vec<String>,
    /// Why, and what programs do instead.
    pub why: String,
}

/// A test of the low 32 bits of one argument.
///
/// Not of all 64: where the kernel takes an `int` it drops the upper half, so a test of the whole register
/// would be passed by the same value plus 2^32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub arg: u8,
    /// What must hold for it.
    pub test: Test,
}

/// What must hold for an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// After masking it is one of `values`.
    In {
        /// The bits that are looked at.
        mask: u32,
        /// The values, none with a bit outside `mask`.
        values: Vec<u32>,
    },
    /// It is none of these.
    NotIn(Vec<u32>),
    /// At least one of these single bits is set.
    AnyBits(Vec<u32>),
}

impl SeccompProfile {
    /// The names of all calls that run, at least with some arguments.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allow.iter().flat_map(|group| &group.calls).map(String::as_str)
    }

    /// The names of all calls that get `EPERM` whatever their arguments.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.deny
            .iter()
            .filter(|rule| rule.is_unconditional())
            .flat_map(|rule| &rule.calls)
            .map(String::as_str)
    }
}
