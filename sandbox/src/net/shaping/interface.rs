//! One interface, and what it sends and receives by.

use std::collections::{BTreeMap, BTreeSet};

use plab_config::BitRate;
use rustix::io::Errno;

use super::super::tc::{HtbClass, INGRESS, Index, Link, Qdisc, ROOT, Tc};
use super::{ClassId, NODE, OTHERS, Plan, Shaper};
use crate::error::KernelError;

/// Bytes a second of a node without a cap: more than an interface has.
const UNCAPPED: u64 = 125_000_000_000;

/// How long a class may send at once after a pause, in nanoseconds of its rate: late timers must cost nothing.
const BURST: u64 = 10_000_000;

/// The most of that for a class with a rate of its own, which may have to wait for the turns of all others.
const LONGEST_BURST: u64 = 200_000_000;

/// Bytes that each class sends in its turn: the largest packet, so that who sends large ones gets no more.
const QUANTUM: u32 = 65_536;

/// The priority of the filter on what is received: after those of others, should there ever be any.
const FILTER: u16 = 0xc000;

/// What to do about each.
const FOREIGN: &str = "what is there is somebody else's and stays: take it away (tc qdisc del), or name other interfaces \
                       in the node file's [bandwidth]";
const NO_HTB: &str = "the kernel needs CONFIG_NET_SCH_HTB (module sch_htb)";
const NO_INGRESS: &str = "incoming traffic needs CONFIG_IFB, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and \
                          CONFIG_NET_ACT_MIRRED (modules ifb, sch_ingress, cls_u32, act_mirred)";

/// One interface, as it was found.
pub(super) struct Interface<'a> {
    pub(super) shaper: Shaper,
    pub(super) tc: &'a Tc,
    pub(super) link: &'a Link,
    pub(super) links: &'a [Link],
    pub(super) qdiscs: &'a [Qdisc],
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

    pub(super) fn has_htb(&self) -> bool {
        self.htb_on(self.link.index)
    }

    pub(super) fn ifb(&self) -> Option<&Link> {
        let name = self.shaper.ifb_name(self.link.index);
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn shape_out(&self, plan: &Plan) -> Result<(), KernelError> {
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
        // While others have their turns, what it may send gathers; were that forgotten, it would get less than its rate.
        let turns = u64::try_from(parts).unwrap_or(u64::MAX).saturating_mul(u64::from(QUANTUM));
        let around = turns.saturating_mul(1_000_000_000) / total;
        let patient = around.clamp(BURST, LONGEST_BURST);
        let leaf = |own: Option<BitRate>| {
            let ceil = own.map_or(total, bytes).min(total);
            let burst = if ceil < total { patient } else { BURST };
            HtbClass { parent: shaper.id(NODE).get(), rate: sure.min(ceil), ceil, burst, quantum: QUANTUM }
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

    pub(super) fn clear_out(&self) -> Result<(), KernelError> {
        if !self.has_htb() {
            return Ok(());
        }
        match self.tc.delete_qdisc(self.link.index, self.shaper.handle(), ROOT) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(error) => Err(self.failed("take away HTB", error)),
        }
    }

    pub(super) fn shape_in(&self, rate: BitRate) -> Result<(), KernelError> {
        let tried = "limit what is received";
        let no = |error: Errno| self.failed(tried, error).hint(NO_INGRESS);
        let mut ingress = self.qdisc(self.link.index, INGRESS);
        let ifb = self.ifb().map(|ifb| ifb.index);
        // Where our filter leads to an interface that somebody has taken away, the kernel drops all that comes.
        let leads = self.tc.redirected(self.link.index, FILTER)?;
        if leads.is_some() && leads != ifb {
            self.delete_ingress().map_err(no)?;
            ingress = None;
        }
        // It is made first and goes last, so what is at the ingress beside it is ours.
        if ifb.is_none() {
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

    pub(super) fn clear_in(&self) -> Result<(), KernelError> {
        let failed = |error| self.failed("take away the limit on what is received", error);
        let ifb = self.ifb();
        let is_ours = ifb.is_some() || self.tc.redirected(self.link.index, FILTER)?.is_some();
        if is_ours && self.qdisc(self.link.index, INGRESS).is_some() {
            self.delete_ingress().map_err(failed)?;
        }
        ifb.map_or(Ok(()), |ifb| self.tc.delete_link(ifb.index).map_err(failed))
    }

    fn delete_ingress(&self) -> Result<(), Errno> {
        match self.tc.delete_qdisc(self.link.index, 0xffff_0000, INGRESS) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(error) => Err(error),
        }
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
