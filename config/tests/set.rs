//! How definitions of one directory get along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plab_config::{Bytes, ConfigError, Definition, DefinitionSet, NodeFile, SliceName};
use proptest::prelude::*;

fn node() -> NodeFile {
    NodeFile::with_name("n.org".parse().expect("a host name"))
}

fn read(file: &str, name: &str, megabytes: u32) -> Result<Definition, Vec<ConfigError>> {
    let text = format!(
        "# A definition.\nname = \"{name}\"\ncontact = \"a@b\"\nnodes = [\"n.org\"]\nmemory.max = \"{megabytes}M\"\n"
    );
    Definition::parse(&text, Path::new(file), &node())
}

fn bad(file: &str) -> Result<Definition, Vec<ConfigError>> {
    read(file, "Bad", 64)
}

/// A set with shorthands for tests.
#[derive(Default)]
struct Files(DefinitionSet);

impl Files {
    fn put(&mut self, file: &str, definition: Result<Definition, Vec<ConfigError>>) -> Vec<String> {
        self.0.upsert(Path::new(file), definition).changed.iter().map(ToString::to_string).collect()
    }

    fn remove(&mut self, file: &str) -> Vec<String> {
        self.0.remove(Path::new(file)).changed.iter().map(ToString::to_string).collect()
    }

    fn source(&self, name: &str) -> Option<String> {
        let name: SliceName = name.parse().expect("a slice name");
        self.0.source(&name).map(|path| path.display().to_string())
    }

    fn megabytes(&self, name: &str) -> Option<u64> {
        let name: SliceName = name.parse().expect("a slice name");
        self.0.get(&name).map(|definition| definition.memory.max.get() >> 20)
    }

    fn errors(&self) -> Vec<String> {
        self.0.errors().into_values().flatten().map(|error| error.to_string()).collect()
    }
}

#[test]
fn a_changed_definition_changes_its_slice_only() {
    let mut files = Files::default();
    assert_eq!(files.put("a", read("a", "s1", 64)), ["s1"]);
    assert_eq!(files.put("b", read("b", "s10", 64)), ["s10"]);
    assert_eq!(files.put("a", read("a", "s1", 65)), ["s1"]);
    assert_eq!(files.put("a", read("a", "s1", 65)), [""; 0]);
    assert_eq!(files.remove("a"), ["s1"]);
    assert_eq!(files.remove("a"), [""; 0]);
    assert_eq!(files.megabytes("s10"), Some(64));
    assert_eq!(files.0.len(), 1);
}

#[test]
fn a_bad_file_keeps_its_last_good_definition() {
    let mut files = Files::default();
    files.put("a", read("a", "s1", 64));
    assert_eq!(files.put("a", bad("a")), [""; 0]);
    assert_eq!(files.megabytes("s1"), Some(64));
    assert_eq!(files.errors().len(), 1);
    assert_eq!(files.put("a", read("a", "s1", 70)), ["s1"]);
    assert_eq!(files.errors(), [""; 0]);
    files.put("a", bad("a"));
    assert_eq!(files.remove("a"), ["s1"]);
    assert_eq!(files.errors(), [""; 0]);
    // A file that never was good defines nothing.
    assert_eq!(files.put("b", bad("b")), [""; 0]);
    assert_eq!(files.remove("b"), [""; 0]);
    assert!(files.0.is_empty());
}

#[test]
fn the_first_holder_keeps_a_name_and_conflicts_name_both() {
    let mut files = Files::default();
    files.put("z.toml", read("z.toml", "s1", 64));
    assert_eq!(files.put("a.toml", read("a.toml", "s1", 65)), [""; 0]);
    assert_eq!(files.put("b.toml", read("b.toml", "s1", 66)), [""; 0]);
    let conflict = |file: &str| {
        format!(
            "{file}:2: name: conflict; read \"s1\", expected a name that no other file defines; \
             z.toml:2 defined it first"
        )
    };
    assert_eq!(files.errors(), [conflict("a.toml"), conflict("b.toml")]);
    // Rewriting does not lose the place in the queue, for the holder nor for those who wait.
    assert_eq!(files.put("z.toml", read("z.toml", "s1", 67)), ["s1"]);
    assert_eq!(files.put("a.toml", read("a.toml", "s1", 68)), [""; 0]);
    assert_eq!(files.remove("z.toml"), ["s1"]);
    assert_eq!((files.source("s1"), files.megabytes("s1")), (Some("a.toml".to_owned()), Some(68)));
    assert_eq!(files.errors().len(), 1);
    assert_eq!(files.remove("a.toml"), ["s1"]);
    assert_eq!(files.megabytes("s1"), Some(66));
    assert_eq!(files.errors(), [""; 0]);
}

#[test]
fn a_file_whose_name_changes_lets_go_of_the_old_one() {
    let mut files = Files::default();
    files.put("a", read("a", "s1", 64));
    files.put("b", read("b", "s2", 65));
    assert_eq!(files.put("a", read("a", "s3", 64)), ["s1", "s3"]);
    // Also where another file has the new one.
    assert_eq!(files.put("a", read("a", "s2", 64)), ["s3"]);
    assert_eq!((files.megabytes("s1"), files.megabytes("s2"), files.megabytes("s3")), (None, Some(65), None));
    assert_eq!(files.put("b", read("b", "s4", 65)), ["s2", "s4"]);
    assert_eq!(files.megabytes("s2"), Some(64));
}

#[test]
fn a_waiting_file_that_turns_bad_still_waits() {
    let mut files = Files::default();
    files.put("a", read("a", "s1", 64));
    files.put("b", read("b", "s1", 65));
    files.put("b", bad("b"));
    assert_eq!(files.errors().len(), 2);
    assert_eq!(files.remove("a"), ["s1"]);
    assert_eq!(files.megabytes("s1"), Some(65));
    assert_eq!(files.errors().len(), 1);
}

#[test]
fn promotion_to_an_equal_definition_is_no_change() {
    let mut files = Files::default();
    files.put("a", read("a", "s1", 64));
    files.put("b", read("b", "s1", 64));
    assert_eq!(files.remove("a"), [""; 0]);
    assert_eq!(files.source("s1").as_deref(), Some("b"));
}

/// The rules of the set, told the slow way.
#[derive(Default)]
struct Model {
    /// Each file's name for its slice, its megabytes, and since when it has had that name.
    good: BTreeMap<PathBuf, (String, u32, usize)>,
}

impl Model {
    fn in_effect(&self) -> BTreeMap<String, u32> {
        let mut all: Vec<_> = self.good.values().collect();
        all.sort_by_key(|(_, _, since)| *since);
        let mut effect = BTreeMap::new();
        for (name, megabytes, _) in all {
            effect.entry(name.clone()).or_insert(*megabytes);
        }
        effect
    }
}

proptest! {
    #[test]
    fn any_history_leads_where_the_rules_say(
        steps in prop::collection::vec((0..4_u8, 0..6_u8, 0..3_u8, 8..11_u32), 0..40)
    ) {
        let mut set = DefinitionSet::new();
        let mut model = Model::default();
        for (now, (file, action, name, megabytes)) in steps.into_iter().enumerate() {
            let path = PathBuf::from(format!("f{file}"));
            let name = format!("s{name}");
            let before = model.in_effect();
            let outcome = match action {
                0 => {
                    model.good.remove(&path);
                    set.remove(&path)
                }
                1 => set.upsert(&path, bad("f")),
                _ => {
                    let since = match model.good.get(&path) {
                        Some((old, _, since)) if *old == name => *since,
                        _ => now,
                    };
                    model.good.insert(path.clone(), (name.clone(), megabytes, since));
                    set.upsert(&path, read("f", &name, megabytes))
                }
            };
            let after = model.in_effect();
            let effect: BTreeMap<_, _> = set
                .iter()
                .map(|d| (d.name.to_string(), (d.memory.max.get() >> 20) as u32))
                .collect();
            prop_assert_eq!(&effect, &after);
            prop_assert_eq!(set.len(), after.len());
            let changed: Vec<_> = ["s0", "s1", "s2"]
                .into_iter()
                .filter(|name| before.get(*name) != after.get(*name))
                .collect();
            let told: Vec<_> = outcome.changed.iter().map(SliceName::as_str).collect();
            prop_assert_eq!(told, changed);
        }
        // What the set keeps for itself adds up: with every file gone nothing is left.
        for file in 0..4 {
            set.remove(&PathBuf::from(format!("f{file}")));
        }
        prop_assert!(set.is_empty() && set.errors().is_empty());
    }
}

#[test]
fn one_change_among_many_does_not_look_at_the_others() {
    let mut set = DefinitionSet::new();
    let mut definition = read("f", "s", 64).expect("good");
    for n in 0..10_000 {
        definition.name = format!("s{n}").parse().expect("a slice name");
        set.upsert(&PathBuf::from(format!("f{n}")), Ok(definition.clone()));
    }
    let start = std::time::Instant::now();
    for n in 0..1_000_u32 {
        definition.name = "s5000".parse().expect("a slice name");
        definition.memory.max = Bytes::mebi(100 + n);
        assert_eq!(set.upsert(Path::new("f5000"), Ok(definition.clone())).changed.len(), 1);
    }
    // A look at all 10,000 would take a hundred times this, even on a slow machine.
    assert!(start.elapsed().as_millis() < 500, "{:?}", start.elapsed());
}
