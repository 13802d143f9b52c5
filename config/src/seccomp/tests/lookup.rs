//! Profiles by name.

use std::path::Path;

use crate::seccomp::lookup::MAX_FILE;
use crate::seccomp::{ProfileError, SeccompProfile};

#[test]
fn a_name_is_never_a_path() {
    for name in ["", "../default", "a/b", "/etc/passwd", "a.b", "A", "-a", "a\0", &"a".repeat(33)] {
        let error = SeccompProfile::load(name, Path::new("/nonexistent")).expect_err(name);
        assert!(matches!(error, ProfileError::Unknown { .. }), "{error}");
    }
}

#[test]
fn a_sites_own_profiles_are_found_by_name() {
    let dir = std::env::temp_dir().join(format!("plab-seccomp-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file");
    write("own.toml", "name = \"own\"\nsummary = \"s\"\nbase = \"strict\"\n");
    write("other.toml", "name = \"own\"\nsummary = \"s\"\nbase = \"strict\"\n");
    write("second.toml", "name = \"second\"\nsummary = \"s\"\nbase = \"own\"\n");
    write("long.toml", &" ".repeat(MAX_FILE as usize + 1));

    assert_eq!(SeccompProfile::load("own", &dir).expect("own").name, "own");
    assert_eq!(SeccompProfile::load("second", &dir).expect("second").name, "second");
    let message = |name: &str| SeccompProfile::load(name, &dir).expect_err(name).to_string();
    assert!(message("other").contains("\"other\", like the file"));
    assert!(message("long").contains("longer than"));
    assert!(message("none").contains("none.toml"));

    write("default.toml", "name = \"default\"\nsummary = \"s\"\n");
    assert!(message("default").contains("built in"));
    std::fs::remove_dir_all(&dir).expect("removed");
}
