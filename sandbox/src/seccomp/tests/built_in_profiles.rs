//! The built-in profiles as a whole: every call that they name, every rule, and every call that they do not
//! name.

use std::collections::BTreeSet;

use super::interpreter::{Data, call, costs_nothing, decide, interpret};
use super::{ALLOW, ENOSYS, EPERM, I386, KILL_PROCESS, LAST_KNOWN, X32_BIT, X86_64};
use super::{compiled, number, profile};
use crate::seccomp::compile;
use crate::seccomp::conditions::{Comparison, Operator, expand};

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
        for nr in
            (336..424).chain(LAST_KNOWN + 1..5000).chain([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX])
        {
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
