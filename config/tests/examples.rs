//! The examples are what they say they are.

use std::path::{Path, PathBuf};

use plab_config::{Bytes, Definition, DefinitionSet, Feature, NodeFile, RestartPolicy};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn node() -> NodeFile {
    NodeFile::load(&examples().join("node.toml")).expect("the example node file is good")
}

#[test]
fn the_node_file_says_the_defaults() {
    let node = node();
    let mut bare = NodeFile::with_name(node.name.clone());
    bare.address = node.address;
    bare.degrade = node.degrade.clone();
    assert_eq!(node, bare);
    assert!(node.may_lack(Feature::Audit) && !node.may_lack(Feature::LandlockScope));
}

#[test]
fn the_definitions_are_good_and_get_along() {
    let node = node();
    let mut set = DefinitionSet::new();
    for entry in std::fs::read_dir(examples().join("slices.d")).expect("the examples are there") {
        let path = entry.expect("the directory can be read").path();
        let outcome = set.upsert(&path, Definition::load(&path, &node));
        assert_eq!(outcome.changed.len(), 1, "{path:?}");
    }
    assert_eq!(set.errors(), Default::default());
    let names: Vec<_> = set.iter().map(|definition| definition.name.as_str()).collect();
    assert_eq!(names, ["irb_prober", "princeton_kv", "princeton_mirror"]);
    let memory: Vec<_> = set.iter().map(|definition| definition.memory.max).collect();
    assert_eq!(memory, [Bytes::mebi(96), Bytes::mebi(128), Bytes::mebi(64)]);
    let restart: Vec<_> = set.iter().map(|definition| definition.restart).collect();
    assert_eq!(restart, [RestartPolicy::OnFailure, RestartPolicy::No, RestartPolicy::OnFailure]);
    for definition in set.iter() {
        assert_eq!(definition.memory.high, None);
        assert_eq!(definition.nodes.len(), 2);
        assert_eq!(definition.expires.map(|time| time.to_string()).as_deref(), Some("2036-01-01T00:00:00Z"));
    }
}
