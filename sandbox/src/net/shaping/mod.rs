//! How much the node's interfaces send and receive: a cap for all, a ceiling a slice, and equal shares of what is wanted
//! by more than can have it.
//!
//! What is sent goes through HTB at the root of each interface. Below one class for the whole node there is one a slice,
//! and one for what is no capsule's. `plab_egress` writes a slice's class into each of its packets, over whatever the
//! slice has asked for (`SO_PRIORITY`). What is received is sent through an interface of its own (ifb), and waits there.
//! All of it is the kernel's, and goes on without plabd.
//!
//! HTB counts the packets with the headers of the link, and a large packet that is split later as what it will be then.

mod interface;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plab_config::BitRate;

use self::interface::Interface;
use super::tc::{ClassCounts, Index, Link, Tc};
use crate::error::KernelError;

/// What the node's classes are below, and the class of what is no capsule's. Slices' minor numbers are multiples of 16.
const NODE: u16 = 1;
const OTHERS: u16 = 2;

/// A traffic class, as in tc(8): `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u32);

impl ClassId {
    /// The number, the major half high.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// What is to be in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// On which interfaces, by name.
    pub interfaces: BTreeSet<String>,
    /// Other interfaces keep what they have of ours, instead of losing it.
    pub keep_others: bool,
    /// The most that all together send; no limit if none.
    pub out: Option<BitRate>,
    /// The most that all together receive; no limit if none.
    pub incoming: Option<BitRate>,
    /// Each slice's class, and its own ceiling.
    pub classes: BTreeMap<ClassId, Option<BitRate>>,
    /// Classes that stay as they are.
    pub untouched: BTreeSet<ClassId>,
}

impl Plan {
    /// Whether anything that is sent is limited.
    pub fn shapes_out(&self) -> bool {
        self.out.is_some() || self.classes.values().any(Option::is_some)
    }
}

/// What the classes have done, on all interfaces together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    /// By class; what is no capsule's under [`Shaper::others`].
    pub out: BTreeMap<ClassId, ClassCounts>,
    /// All that was received; none if nothing limits it.
    pub incoming: Option<ClassCounts>,
    /// The interfaces, by name.
    pub interfaces: BTreeSet<String>,
}

/// One node's part of the kernel's traffic control.
#[derive(Debug, Clone, Copy)]
pub struct Shaper {
    major: u16,
}

impl Shaper {
    /// How many slices there can be classes for.
    pub const SLOTS: u16 = 0xfff;

    /// That of the node with this name; nodes on one machine tell theirs apart by it.
    pub fn of(name: &str) -> Self {
        // FNV-1a, folded into 0x5000 to 0x5fff: people choose small numbers, the kernel takes those from 0x8000.
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { major: 0x5000 | ((hash ^ hash >> 12 ^ hash >> 24) & 0xfff) as u16 }
    }

    /// The class number `slot` of 1 to [`Self::SLOTS`]. Its last four bits are 0, which is `TC_PRIO_BESTEFFORT` to every
    /// other queueing discipline: where nothing of ours is, no slice has precedence.
    pub fn class(self, slot: u16) -> ClassId {
        self.id(slot << 4)
    }

    /// The class of what is no capsule's.
    pub fn others(self) -> ClassId {
        self.id(OTHERS)
    }

    fn id(self, minor: u16) -> ClassId {
        ClassId(self.handle() | u32::from(minor))
    }

    fn handle(self) -> u32 {
        u32::from(self.major) << 16
    }

    /// Makes the kernel's part what the plan says, reads it back, and takes away whatever of ours is not in it. Returns the
    /// interfaces that are not there. An interface that fails keeps none of the others from being held to the plan.
    ///
    /// # Errors
    /// The first interface that could not be brought to it: the kernel lacks something, or somebody else's queue is there.
    pub fn apply(self, plan: &Plan) -> Result<BTreeSet<String>, KernelError> {
        let tc = Tc::open()?;
        let (links, qdiscs) = (tc.links()?, tc.qdiscs()?);
        let mut failed = None;
        for link in &links {
            let there = Interface { shaper: self, tc: &tc, link, links: &links, qdiscs: &qdiscs };
            let wanted = plan.interfaces.contains(&link.name)
                || (plan.keep_others && (there.has_htb() || there.ifb().is_some()));
            // The interfaces that others' packets pass through on their way in are seen to with those.
            if self.is_own_ifb(link) {
                continue;
            }
            let out = if wanted && plan.shapes_out() { there.shape_out(plan) } else { there.clear_out() };
            let incoming = match plan.incoming.filter(|_| wanted) {
                Some(rate) => there.shape_in(rate),
                None => there.clear_in(),
            };
            for result in [out, incoming] {
                if let Err(error) = result {
                    failed.get_or_insert(error);
                }
            }
        }
        // Those of an interface that is gone.
        let orphan = |link: &&Link| {
            self.is_own_ifb(link) && !links.iter().any(|other| self.ifb_name(other.index) == link.name)
        };
        for link in links.iter().filter(orphan) {
            if let Err(error) = tc.delete_link(link.index) {
                failed.get_or_insert(KernelError::new("take away", &link.name, error));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => {
                let there: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
                Ok(plan.interfaces.iter().filter(|name| !there.contains(name.as_str())).cloned().collect())
            }
        }
    }

    /// What the classes have done.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn counts(self) -> Result<TrafficCounts, KernelError> {
        let tc = Tc::open()?;
        let (links, qdiscs) = (tc.links()?, tc.qdiscs()?);
        let mut counts = TrafficCounts::default();
        for link in &links {
            let there = Interface { shaper: self, tc: &tc, link, links: &links, qdiscs: &qdiscs };
            if self.is_own_ifb(link) || !(there.has_htb() || there.ifb().is_some()) {
                continue;
            }
            counts.interfaces.insert(link.name.clone());
            if there.has_htb() {
                for (handle, _, done) in tc.classes(link.index)? {
                    *counts.out.entry(ClassId(handle)).or_default() += done;
                }
            }
            if let Some(ifb) = there.ifb() {
                for (_, _, done) in tc.classes(ifb.index)? {
                    *counts.incoming.get_or_insert_default() += done;
                }
            }
        }
        // The sum of all the others.
        counts.out.remove(&self.id(NODE));
        Ok(counts)
    }

    /// What a class can send at most, on each interface that is limited; none where the class is not there.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn ceilings(self, class: ClassId) -> Result<BTreeMap<String, Option<BitRate>>, KernelError> {
        let tc = Tc::open()?;
        let (links, qdiscs) = (tc.links()?, tc.qdiscs()?);
        let mut ceilings = BTreeMap::new();
        for link in links.iter().filter(|link| !self.is_own_ifb(link)) {
            let there = Interface { shaper: self, tc: &tc, link, links: &links, qdiscs: &qdiscs };
            if there.has_htb() {
                let classes = tc.classes(link.index)?;
                let found = classes.iter().find(|(handle, _, _)| *handle == class.get());
                let bits = found.map(|(_, class, _)| class.ceil.saturating_mul(8));
                let rate = bits.and_then(|bits| BitRate::from_bits_per_second(bits).ok());
                ceilings.insert(link.name.clone(), rate);
            }
        }
        Ok(ceilings)
    }

    fn ifb_name(self, index: Index) -> String {
        format!("plab{:x}-{index}", self.major)
    }

    fn is_own_ifb(self, link: &Link) -> bool {
        link.name
            .strip_prefix(&format!("plab{:x}-", self.major))
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_no_precedence_elsewhere_and_do_not_meet() {
        let shaper = Shaper::of("planetlab");
        let mut seen = BTreeSet::from([shaper.id(NODE), shaper.others()]);
        for slot in 1..=Shaper::SLOTS {
            let class = shaper.class(slot);
            assert_eq!(class.get() & 0xf, 0);
            assert_eq!(class.get() >> 16, u32::from(shaper.major));
            assert!(seen.insert(class), "{class}");
        }
        assert!((0x5000..0x6000).contains(&shaper.major));
        assert_ne!(Shaper::of("a").major, Shaper::of("b").major);
    }

    #[test]
    fn names_of_interfaces_fit_the_kernels() {
        let shaper = Shaper::of("planetlab");
        assert!(shaper.ifb_name(999_999).len() <= 15);
        let link = |name: &str| Link { index: 1, name: name.into(), up: true };
        assert!(shaper.is_own_ifb(&link(&shaper.ifb_name(7))));
        for name in ["eth0", "plab", "plab5000-x", &format!("plab{:x}-", shaper.major)] {
            assert!(!shaper.is_own_ifb(&link(name)), "{name}");
        }
    }

    #[test]
    fn nothing_is_shaped_without_a_wish() {
        let rate = BitRate::from_bits_per_second(1_000_000).ok();
        let class = Shaper::of("x").class(1);
        let mut plan = Plan { incoming: rate, classes: [(class, None)].into(), ..Plan::default() };
        assert!(!plan.shapes_out());
        plan.classes.insert(class, rate);
        assert!(plan.shapes_out());
        assert!(Plan { out: rate, ..Plan::default() }.shapes_out());
    }
}
