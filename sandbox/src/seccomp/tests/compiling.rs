//! Small profiles: those that compile, and those that are refused.

use super::interpreter::{call, decide};
use super::{ALLOW, ENOSYS, EPERM, parse, small};
use crate::seccomp::{CompileError, compile};

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
