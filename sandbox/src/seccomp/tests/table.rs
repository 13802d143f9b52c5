//! The table: the right answer for every number, whatever its size.

use std::collections::BTreeMap;

use seccompiler::TargetArch;

use super::interpreter::{call, interpret};
use super::{ALLOW, ENOSYS, EPERM, compiled, profile};
use crate::seccomp::instructions::{LOAD, step};
use crate::seccomp::rules::{Rules, compile_rules};
use crate::seccomp::table::{NumberRange, ranges, search};

#[test]
fn the_table_answers_as_seccompilers_own_chain_does() {
    for name in ["default", "strict"] {
        let (profile, compiled) = (profile(name), compiled(name));
        let mut rules = Rules::default();
        profile.allowed().for_each(|call| rules.add(call, &[]));
        let chain = compile_rules(&rules, "\"trap\"", "\"allow\"", TargetArch::x86_64).expect("a program");
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
