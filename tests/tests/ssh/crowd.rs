//! A hundred people at once.

use std::process::{Command, Stdio};

use crate::node::{Slice, Stage, output, sessions};

/// Slices, and logins to each at once.
const SLICES: usize = 50;
const EACH: usize = 2;
/// Not the one that also withstands quantum computers, which every other test here has: on emulated CPUs a hundred of these
/// are most of the work, and none of it the node's.
const EXCHANGE: [&str; 2] = ["-o", "KexAlgorithms=curve25519-sha256"];

#[test]
fn a_hundred_logins_at_once_over_fifty_slices() {
    let stage = Stage::new("crowd");
    let keys = [stage.key("alice"), stage.key("bob")];
    let slices: Vec<Slice> = (0..SLICES)
        .map(|i| {
            Slice::define(
                &format!("sshcrowd_{i}"),
                &[&keys[0], &keys[1]],
                "[memory]\nmax = \"16M\"\n[tasks]\nmax = 16",
            )
        })
        .collect();
    // Each says where it is, and stays until its input ends: all hundred are in at the same time.
    let mut logins: Vec<_> = slices
        .iter()
        .flat_map(|slice| keys.iter().take(EACH).map(move |key| (slice, key)))
        .map(|(slice, key)| {
            let child = slice
                .ssh(key, &EXCHANGE)
                .arg("id -un; exec cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start ssh");
            (slice, child)
        })
        .collect();
    for (slice, child) in &mut logins {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::with_capacity(1, stdout).read_line(&mut line).expect("read");
        if line.trim() != slice.name {
            drop(child.stdin.take());
            let mut said = String::new();
            std::io::Read::read_to_string(child.stderr.as_mut().expect("piped"), &mut said).expect("read");
            let ended = child.wait().expect("wait");
            let journal = output(Command::new("journalctl").args(["-u", "ssh", "-n", "20", "--no-pager"]));
            panic!("{}: {line:?}: ended with {ended}: {said}\n{}", slice.name, journal.stdout);
        }
    }
    for slice in &slices {
        assert_eq!(sessions(&slice.name).len(), EACH, "{}", slice.name);
    }
    for (slice, mut child) in logins {
        drop(child.stdin.take());
        assert!(child.wait().expect("wait").success(), "{}", slice.name);
    }
    // And the node is as it was.
    assert_eq!(output(slices[0].ssh(&keys[0], &[]).arg("true")).code, 0);
}
