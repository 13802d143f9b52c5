//! Compiled profiles as bytes, and their digest.

use super::compiled;
use crate::seccomp::CompiledProfile;
use crate::seccomp::encoding::{INSTRUCTION_BYTES, MAGIC};

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
