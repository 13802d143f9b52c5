//! The built-in profiles: each is sound, and one is stricter than the other.

use std::collections::BTreeSet;
use std::path::Path;

use crate::seccomp::SeccompProfile;

#[test]
fn the_built_in_profiles_parse_and_have_their_own_names() {
    for name in SeccompProfile::builtin_names() {
        let profile = SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
        assert_eq!(profile.name, name);
        assert!(profile.allowed().count() > 200);
    }
}

#[test]
fn no_built_in_profile_says_anything_twice() {
    for name in SeccompProfile::builtin_names() {
        let profile = SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
        let absent = profile.absent.iter().flat_map(|absent| &absent.calls).map(String::as_str);
        let mut seen = BTreeSet::new();
        for call in profile.allowed().chain(profile.denied()).chain(absent) {
            assert!(seen.insert(call), "{name}: {call}");
        }
        for rule in profile.deny.iter().filter(|rule| !rule.is_unconditional()) {
            for call in &rule.calls {
                assert!(profile.allowed().any(|known| known == call), "{name}: condition on {call}");
            }
        }
    }
}

#[test]
fn strict_lets_nothing_run_that_default_does_not() {
    let load = |name| SeccompProfile::load(name, Path::new("/nonexistent")).expect(name);
    let (default, strict) = (load("default"), load("strict"));
    let allowed: BTreeSet<_> = default.allowed().collect();
    assert!(strict.allowed().all(|call| allowed.contains(call)));
    assert!(strict.allowed().count() < allowed.len());
    // A condition of default is kept wherever its call still runs.
    for rule in default.deny.iter().filter(|rule| !rule.is_unconditional()) {
        for call in rule.calls.iter().filter(|call| strict.allowed().any(|known| known == *call)) {
            assert!(strict.deny.iter().any(|kept| kept.when == rule.when && kept.calls.contains(call)));
        }
    }
    for call in default.denied() {
        assert!(strict.denied().any(|known| known == call), "{call}");
    }
}
