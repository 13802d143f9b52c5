//! Profiles that are refused, with the line and what was expected there.

use super::{derived, head, refused};
use crate::seccomp::SeccompProfile;

#[test]
fn unknown_keys_are_errors_with_their_line() {
    for (text, line, key) in [
        (head("deni = 1\n"), 3, "deni"),
        (head("[[group]]\nname = \"g\"\nwhy = \"w\"\ncall = [\"read\"]\n"), 6, "call"),
        (head("[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{ arg = 0, eq = 1 }]\n"), 6, "eq"),
    ] {
        let message = refused(&text);
        assert!(message.contains(&format!("site.toml, line {line}:")), "{message}");
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
    let message = refused(&head("sumary = \"s\"\n"));
    assert!(message.ends_with("nearest known key is summary"), "{message}");
}

#[test]
fn what_a_profile_cannot_mean_is_refused() {
    let read = "[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\", \"ioctl\"]\n";
    let when = |when: &str| format!("{read}[[deny]]\nwhy = \"w\"\ncalls = [\"ioctl\"]\nwhen = {when}\n");
    for (rest, part) in [
        (format!("{read}[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6 has it in group.calls"),
        (format!("{read}[[absent]]\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6 has it in group.calls"),
        (format!("{read}[[group]]\nname = \"h\"\nwhy = \"w\"\ncalls = [\"read\"]\n"), "line 6"),
        (format!("{read}[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"write\"]\n"), "group.name"),
        ("[[deny]]\nwhy = \"w\"\ncalls = [\"bpf\", \"bpf\"]\n".into(), "each call once"),
        ("[[deny]]\nwhy = \"w\"\ncalls = []\n".into(), "at least one system call"),
        ("[[deny]]\nwhy = \" \"\ncalls = [\"bpf\"]\n".into(), "deny.why"),
        ("[[deny]]\nwhy = \"w\"\ncalls = [\"b\\\"pf\"]\n".into(), "the name of a system call"),
        (
            "[[deny]]\nwhy = \"w\"\ncalls = [\"read\"]\nwhen = [{ arg = 0, in = [1] }]\n".into(),
            "changes nothing",
        ),
        ("[[remove]]\nwhy = \"w\"\ncalls = [\"read\"]\n".into(), "a call that the base lets run"),
        (when("[]"), "a condition, or no `when` at all"),
        (when("[{ arg = 6, in = [1] }]"), "from 0 to 5"),
        (when("[{ arg = -1, in = [1] }]"), "from 0 to 5"),
        (when("[{ arg = 0 }]"), "exactly one of"),
        (when("[{ arg = 0, in = [1], not_in = [2] }]"), "exactly one of"),
        (when("[{ arg = 0, mask = 1, not_in = [2] }]"), "exactly one of"),
        (when("[{ arg = 0, in = [] }]"), "at least one number"),
        (when("[{ arg = 0, not_in = [] }]"), "at least one number"),
        (when("[{ arg = 0, in = [1, 1] }]"), "each number once"),
        (when("[{ arg = 0, in = [0x1_0000_5412] }]"), "a number from 0 to 0xffffffff"),
        (when("[{ arg = 0, in = [-1] }]"), "a number from 0 to 0xffffffff"),
        (when("[{ arg = 0, any_bits = [3] }]"), "a single bit"),
        (when("[{ arg = 0, any_bits = [0] }]"), "a single bit"),
        (when("[{ arg = 0, mask = 0xf, in = [0x10] }]"), "outside the mask"),
        (
            format!(
                "{0}{1}",
                when("[{ arg = 0, in = [1] }]"),
                &when("[{ arg = 0, in = [1] }]")[read.len()..]
            ),
            "each condition once",
        ),
    ] {
        let message = refused(&head(&rest));
        assert!(message.contains(part), "{rest}\n-> {message}\nwithout {part:?}");
        assert!(message.starts_with("site.toml, line "), "{message}");
    }
}

#[test]
fn what_a_derived_profile_cannot_mean_is_refused() {
    for (rest, part) in [
        ("[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\"]\n", "does not run already"),
        ("[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"bpf\"]\n", "without a base"),
        ("[[deny]]\nwhy = \"w\"\ncalls = [\"bpf\"]\n", "does not deny already"),
        ("[[absent]]\nwhy = \"w\"\ncalls = [\"read\"]\n", "taken away by remove"),
        ("[[absent]]\nwhy = \"w\"\ncalls = [\"clone3\"]\n", "does not name"),
        ("[[remove]]\nwhy = \"w\"\ncalls = [\"clone3\"]\n", "lets run"),
        (
            "[[deny]]\nwhy = \"w\"\ncalls = [\"ptrace\"]\n[[remove]]\nwhy = \"w\"\ncalls = [\"ptrace\"]\n",
            "line 6",
        ),
    ] {
        let message = refused(&derived(rest));
        assert!(message.contains(part), "{rest}\n-> {message}\nwithout {part:?}");
    }
}

#[test]
fn bases_that_do_not_end_are_refused() {
    let chain = |name: &str| {
        let next = name.strip_prefix('p')?.parse::<u32>().ok()? + 1;
        Some(format!("name = \"{name}\"\nsummary = \"s\"\nbase = \"p{next}\"\n"))
    };
    let first = chain("p1").expect("a profile");
    let error = SeccompProfile::parse(&first, "p1", &chain).expect_err("too many");
    assert!(error.to_string().contains("at most 4"), "{error}");

    let ring = |name: &str| {
        let next = if name == "a" { "b" } else { "a" };
        Some(format!("name = \"{name}\"\nsummary = \"s\"\nbase = \"{next}\"\n"))
    };
    let error = SeccompProfile::parse(&ring("a").expect("text"), "a", &ring).expect_err("a ring");
    assert!(error.to_string().contains("does not itself start from this one"), "{error}");

    let message = refused(&head("base = \"nowhere\"\n"));
    assert!(message.contains("line 3: base: read \"nowhere\""), "{message}");
}
