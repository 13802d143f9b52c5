//! Whose a flow is: capsules by the ID of their cgroup.

use std::collections::{HashMap, VecDeque};

/// Who answers for a capsule's flows. Stored beside them, so that an old answer names whom it was then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The slice's name.
    pub slice: String,
    /// Its UID.
    pub uid: u32,
    /// Its contact at that time.
    pub contact: String,
}

/// Capsules that are remembered; a record may come some time after its capsule has ended.
const REMEMBERED: usize = 65_536;

/// Capsules by cgroup ID, the living and those that have ended not long ago. The kernel gives no ID twice in a boot.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    by_cgroup: HashMap<u64, Owner>,
    age: VecDeque<u64>,
}

impl Owners {
    /// Whose the flows of `cgroup` are from now on.
    pub(crate) fn set(&mut self, cgroup: u64, owner: Owner) {
        if self.by_cgroup.insert(cgroup, owner).is_none() {
            self.age.push_back(cgroup);
        }
        if self.age.len() > REMEMBERED
            && let Some(oldest) = self.age.pop_front()
        {
            self.by_cgroup.remove(&oldest);
        }
    }

    /// Those of these cgroups, apart.
    pub(crate) fn of(&self, cgroups: impl Iterator<Item = u64>) -> Self {
        let known = cgroups.filter_map(|cgroup| Some((cgroup, self.get(cgroup)?.clone())));
        Self { by_cgroup: known.collect(), age: VecDeque::new() }
    }

    pub(crate) fn get(&self, cgroup: u64) -> Option<&Owner> {
        self.by_cgroup.get(&cgroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_in_bounded_memory() {
        let owner = |n: u64| Owner { slice: format!("s{n}"), uid: 70_000, contact: "a@b".into() };
        let mut owners = Owners::default();
        for cgroup in 0..REMEMBERED as u64 + 10 {
            owners.set(cgroup, owner(cgroup));
            owners.set(cgroup, owner(cgroup + 1));
        }
        assert_eq!((owners.get(9), owners.get(10)), (None, Some(&owner(11))));
        assert_eq!((owners.by_cgroup.len(), owners.age.len()), (REMEMBERED, REMEMBERED));
    }
}
