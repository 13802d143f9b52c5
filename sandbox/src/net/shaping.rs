//! How much the node's interfaces send and receive: a cap for all, a ceiling a slice, and equal shares of what is wanted
//! by more than can have it.
//!
//! What is sent goes through HTB at the root of each interface. Below one class for the whole node there is one a slice,
//! and one for what is no capsule's. `plab_egress` writes a slice's class into each of its packets, over whatever the
//! slice has asked for (`SO_PRIORITY`). What is received is sent through an interface of its own (ifb), and waits there.
//! All of it is the kernel's, and goes on without plabd.
//!
//! HTB counts the packets with the headers of the link, and a large packet that is split later as what it will be then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plab_config::BitRate;
use rustix::io::Errno;

use super::tc::{ClassCounts, HtbClass, INGRESS, Index, Link, Qdisc, ROOT, Tc};
use crate::error::KernelError;

/// What the node's classes are below, and the class of what is no capsule's. Slices' minor numbers are multiples of 16.
const NODE: u16 = 1;
const OTHERS: u16 = 2;

/// Bytes a second of a node without a cap: more than an interface has.
const UNCAPPED: u64 = 125_000_000_000;

/// How long a class may send at once after a pause, in nanoseconds of its rate: late timers must cost nothing.
const BURST: u64 = 10_000_000;

/// Bytes that each class sends in its turn: the largest packet, so that who sends large ones gets no more.
const QUANTUM: u32 = 65_536;

/// The priority of the filter on what is received: after those of others, should there ever be any.
const FILTER: u16 = 0xc000;

/// The interface's name in a message, and where to look.
const FOREIGN: &str = "what is there is somebody else's and stays: take it away (tc qdisc del), or name other interfaces \
                       in the node file's [bandwidth]";
const NO_HTB: &str = "the kernel needs CONFIG_NET_SCH_HTB (module sch_htb)";
const NO_INGRESS: &str = "incoming traffic needs CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and \
                          CONFIG_NET_ACT_MIRRED (modules ifb, sch_ingress, cls_u32, act_mirred)";

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

/// One interface, as it was found.
struct Interface<'a> {
    shaper: Shaper,
    tc: &'a Tc,
    link: &'a Link,
    links: &'a [Link],
    qdiscs: &'a [Qdisc],
}

impl Interface<'_> {
    fn failed(&self, tried: &str, error: impl Into<std::io::Error>) -> KernelError {
        KernelError::new(tried, format!("interface {}", self.link.name), error)
    }

    fn differs(&self, tried: &str) -> KernelError {
        self.failed(tried, std::io::Error::other("the kernel does not show what was set"))
    }

    fn qdisc(&self, link: Index, parent: u32) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| qdisc.link == link && qdisc.parent == parent)
    }

    fn htb_on(&self, link: Index) -> bool {
        self.qdisc(link, ROOT)
            .is_some_and(|qdisc| qdisc.handle == self.shaper.handle() && qdisc.kind == "htb")
    }

    fn has_htb(&self) -> bool {
        self.htb_on(self.link.index)
    }

    fn ifb(&self) -> Option<&Link> {
        let name = self.shaper.ifb_name(self.link.index);
        self.links.iter().find(|link| link.name == name)
    }

    fn shape_out(&self, plan: &Plan) -> Result<(), KernelError> {
        let shaper = self.shaper;
        if !self.has_htb() {
            if let Some(other) = self.qdisc(self.link.index, ROOT).filter(|qdisc| qdisc.handle != 0) {
                let found =
                    std::io::Error::other(format!("{} {:x}: is there", other.kind, other.handle >> 16));
                return Err(self.failed("limit what is sent", found).hint(FOREIGN));
            }
            self.tc
                .add_htb(self.link.index, shaper.handle(), OTHERS.into())
                .map_err(|error| self.failed("put HTB", error).hint(NO_HTB))?;
        }
        let total = plan.out.map_or(UNCAPPED, bytes);
        // What a class can count on, whatever others want: the sum of all is no more than there is. A power of two, so that
        // a slice more or less seldom changes everybody's.
        let parts = (plan.classes.len() + plan.untouched.len() + 1).next_power_of_two();
        let sure = (total / u64::try_from(parts).unwrap_or(u64::MAX)).max(1);
        let leaf = |own: Option<BitRate>| {
            let ceil = own.map_or(total, bytes).min(total);
            HtbClass {
                parent: shaper.id(NODE).get(),
                rate: sure.min(ceil),
                ceil,
                burst: BURST,
                quantum: QUANTUM,
            }
        };
        let top = HtbClass { parent: ROOT, rate: total, ceil: total, burst: BURST, quantum: QUANTUM };
        let mut wanted = vec![(shaper.id(NODE), top), (shaper.others(), leaf(None))];
        wanted.extend(plan.classes.iter().map(|(class, own)| (*class, leaf(*own))));
        self.bring(self.link.index, &wanted, &plan.untouched)
    }

    /// Makes the classes on `link` these, in this order, and reads them back.
    fn bring(
        &self,
        link: Index,
        wanted: &[(ClassId, HtbClass)],
        untouched: &BTreeSet<ClassId>,
    ) -> Result<(), KernelError> {
        let found = || -> Result<BTreeMap<ClassId, HtbClass>, KernelError> {
            let classes = self.tc.classes(link)?;
            Ok(classes.into_iter().map(|(handle, class, _)| (ClassId(handle), class)).collect())
        };
        let there = found()?;
        let mut changed = false;
        for (id, class) in wanted {
            if !there.get(id).is_some_and(|there| is(*there, *class)) {
                self.tc
                    .set_class(link, id.get(), *class)
                    .map_err(|error| self.failed(&format!("set the traffic class {id}"), error))?;
                changed = true;
            }
        }
        let known: BTreeSet<ClassId> =
            wanted.iter().map(|(id, _)| *id).chain(untouched.iter().copied()).collect();
        for id in there.keys().filter(|id| !known.contains(id)) {
            self.tc
                .delete_class(link, id.get())
                .map_err(|error| self.failed(&format!("take away the traffic class {id}"), error))?;
            changed = true;
        }
        if changed {
            let there = found()?;
            for (id, class) in wanted {
                if !there.get(id).is_some_and(|there| is(*there, *class)) {
                    return Err(self.differs(&format!("set the traffic class {id}")));
                }
            }
            if there.keys().any(|id| !known.contains(id)) {
                return Err(self.differs("take away a traffic class"));
            }
        }
        Ok(())
    }

    fn clear_out(&self) -> Result<(), KernelError> {
        if !self.has_htb() {
            return Ok(());
        }
        match self.tc.delete_qdisc(self.link.index, self.shaper.handle(), ROOT) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(error) => Err(self.failed("take away HTB", error)),
        }
    }

    fn shape_in(&self, rate: BitRate) -> Result<(), KernelError> {
        let tried = "limit what is received";
        let no = |error: Errno| self.failed(tried, error).hint(NO_INGRESS);
        let ingress = self.qdisc(self.link.index, INGRESS);
        // It is made first and goes last, so what is at the ingress beside it is ours.
        if self.ifb().is_none() {
            if let Some(other) = ingress {
                let found = std::io::Error::other(format!("{} is there", other.kind));
                return Err(self.failed(tried, found).hint(FOREIGN));
            }
            self.tc.add_ifb(&self.shaper.ifb_name(self.link.index)).map_err(no)?;
        }
        let name = self.shaper.ifb_name(self.link.index);
        let links = self.tc.links()?;
        let ifb = links.iter().find(|link| link.name == name).ok_or_else(|| self.differs(tried))?;
        if !ifb.up {
            self.tc.set_up(ifb.index).map_err(no)?;
        }
        if !self.htb_on(ifb.index) {
            self.tc
                .add_htb(ifb.index, self.shaper.handle(), NODE.into())
                .map_err(|error| self.failed(tried, error).hint(NO_HTB))?;
        }
        let class =
            HtbClass { parent: ROOT, rate: bytes(rate), ceil: bytes(rate), burst: BURST, quantum: QUANTUM };
        self.bring(ifb.index, &[(self.shaper.id(NODE), class)], &BTreeSet::new())?;
        // Only now does anything go there.
        if ingress.is_none() {
            self.tc.add_ingress(self.link.index).map_err(no)?;
        }
        if self.tc.redirected(self.link.index, FILTER)?.is_none() {
            self.tc.redirect(self.link.index, FILTER, ifb.index).map_err(no)?;
        }
        if self.tc.redirected(self.link.index, FILTER)? == Some(ifb.index) {
            Ok(())
        } else {
            Err(self.differs(tried))
        }
    }

    fn clear_in(&self) -> Result<(), KernelError> {
        let Some(ifb) = self.ifb() else { return Ok(()) };
        let failed = |error| self.failed("take away the limit on what is received", error);
        if self.qdisc(self.link.index, INGRESS).is_some() {
            match self.tc.delete_qdisc(self.link.index, 0xffff_0000, INGRESS) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.tc.delete_link(ifb.index).map_err(failed)
    }
}

/// In bytes a second; HTB takes none for an error.
fn bytes(rate: BitRate) -> u64 {
    (rate.bits_per_second() / 8).max(1)
}

/// Whether a class is as it is wanted. The kernel does not show the quantum of one that has others below it, and counts time
/// in ticks.
fn is(there: HtbClass, wanted: HtbClass) -> bool {
    let close = there.burst.abs_diff(wanted.burst) < 1000;
    let quantum = if there.quantum == 0 { wanted.quantum } else { there.quantum };
    close && HtbClass { burst: wanted.burst, quantum, ..there } == wanted
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
