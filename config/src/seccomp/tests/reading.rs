//! Profiles that are read: what they then say.

use super::{derived, head, parse};
use crate::seccomp::{Condition, Test};

#[test]
fn a_whole_profile_is_read() {
    let profile = parse(&head(
        "[[group]]\nname = \"g\"\nwhy = \"w\"\ncalls = [\"read\", \"socket\"]\n\
         [[deny]]\nwhy = \"d\"\ncalls = [\"bpf\"]\n\
         [[deny]]\nwhy = \"c\"\ncalls = [\"socket\"]\nwhen = [\n\
           { arg = 0, not_in = [1] },\n{ arg = 1, mask = 0xf, in = [3] },\n\
           { arg = 2, any_bits = [4, 8] } ]\n\
         [[absent]]\nwhy = \"a\"\ncalls = [\"clone3\"]\n",
    ))
    .expect("a profile");
    assert_eq!(profile.allowed().collect::<Vec<_>>(), ["read", "socket"]);
    assert_eq!(profile.denied().collect::<Vec<_>>(), ["bpf"]);
    let when = &profile.deny[1].when;
    assert_eq!(when[0], Condition { arg: 0, test: Test::NotIn(vec![1]) });
    assert_eq!(when[1], Condition { arg: 1, test: Test::In { mask: 0xf, values: vec![3] } });
    assert_eq!(when[2], Condition { arg: 2, test: Test::AnyBits(vec![4, 8]) });
    assert_eq!(profile.absent[0].calls, ["clone3"]);
}

#[test]
fn a_derived_profile_adds_denies_and_removes() {
    let profile = parse(&derived(
        "[[group]]\nname = \"aio\"\nwhy = \"w\"\ncalls = [\"io_setup\"]\n\
         [[deny]]\nwhy = \"w\"\ncalls = [\"clone\", \"kcmp\"]\n\
         [[deny]]\nwhy = \"w\"\ncalls = [\"io_setup\"]\nwhen = [{ arg = 0, not_in = [1] }]\n\
         [[remove]]\nwhy = \"w\"\ncalls = [\"personality\"]\n",
    ))
    .expect("a profile");
    let absent =
        |name: &str| profile.absent.iter().any(|absent| absent.calls.iter().any(|call| call == name));
    assert!(profile.allowed().any(|call| call == "io_setup") && !absent("io_setup"));
    assert!(profile.denied().any(|call| call == "clone") && !profile.allowed().any(|call| call == "clone"));
    assert!(profile.denied().any(|call| call == "kcmp") && !absent("kcmp"));
    assert!(absent("personality") && !profile.allowed().any(|call| call == "personality"));
    // The base's conditions on calls that no longer run are gone with them.
    for call in ["clone", "personality"] {
        assert!(
            !profile.deny.iter().any(|rule| !rule.is_unconditional() && rule.calls.iter().any(|c| c == call))
        );
    }
}
