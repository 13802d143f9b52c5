//! Queues of the kernel's traffic control, as tc(8) makes them: what is there, and its change. Names and numbers are those
//! of `linux/pkt_sched.h`, `linux/pkt_cls.h` and `linux/rtnetlink.h`.

use rustix::io::Errno;

use super::rtnetlink::{Attributes, Rtnetlink, attribute, long, text, word};
use crate::error::{KernelError, Tried};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_GETTCLASS: u16 = 42;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// `TC_H_ROOT`: the parent of what an interface sends by.
pub(super) const ROOT: u32 = 0xffff_ffff;
/// `TC_H_INGRESS`: the parent of what an interface receives by.
pub(super) const INGRESS: u32 = 0xffff_fff1;
/// The handle that everything at `INGRESS` has.
const INGRESS_HANDLE: u32 = 0xffff_0000;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const ETH_P_ALL: u16 = 3;

/// Bytes of `struct tcmsg` and of `struct ifinfomsg`.
const TCMSG: usize = 20;
const IFINFOMSG: usize = 16;

/// The kernel's tick of traffic control, in nanoseconds (`PSCHED_SHIFT`).
const TICK: u64 = 64;

/// An interface's number.
pub(super) type Index = u32;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: Index,
    pub(super) name: String,
    pub(super) up: bool,
}

/// A queue of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Qdisc {
    pub(super) link: Index,
    /// 0 for one that the kernel gave the interface by itself.
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) kind: String,
}

/// What a class of HTB is to have; rates in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HtbClass {
    pub(super) parent: u32,
    /// It has that much whatever others want.
    pub(super) rate: u64,
    /// It never has more.
    pub(super) ceil: u64,
    /// What may be sent at once after a pause, in nanoseconds of either rate.
    pub(super) burst: u64,
    /// Bytes it may send in its turn, where it shares with others.
    pub(super) quantum: u32,
}

/// What a class has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Bytes that were sent, with the headers of the link.
    pub bytes: u64,
    /// Packets that were sent.
    pub packets: u64,
    /// Packets that were dropped, because too many waited.
    pub drops: u64,
    /// How often it had to wait for its limit.
    pub overlimits: u64,
    /// Bytes that wait.
    pub backlog: u64,
}

impl std::ops::AddAssign for ClassCounts {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.drops += other.drops;
        self.overlimits += other.overlimits;
        self.backlog += other.backlog;
    }
}

/// Traffic control of the network namespace that the calling thread is in.
#[derive(Debug)]
pub(super) struct Tc(Rtnetlink);

impl Tc {
    pub(super) fn open() -> Result<Self, KernelError> {
        Rtnetlink::open().map(Self)
    }

    /// Every interface.
    pub(super) fn links(&self) -> Result<Vec<Link>, KernelError> {
        self.0
            .dump(RTM_GETLINK, &[0; IFINFOMSG], |body| {
                Some(Link {
                    index: word(body, 4)?,
                    up: word(body, 8)? & libc::IFF_UP.cast_unsigned() != 0,
                    name: text(attribute(body.get(IFINFOMSG..)?, IFLA_IFNAME)?),
                })
            })
            .tried("list", "interfaces")
    }

    /// Makes an interface of the kind ifb, up.
    pub(super) fn add_ifb(&self, name: &str) -> Result<(), Errno> {
        // As long a queue as other interfaces have; ifb's own is 32 packets.
        let attributes = Attributes::default()
            .with_text(IFLA_IFNAME, name)
            .with_word(IFLA_TXQLEN, 1000)
            .with_nested(IFLA_LINKINFO, Attributes::default().with_text(IFLA_INFO_KIND, "ifb"));
        self.0.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, true), &attributes)
    }

    /// Switches an interface on.
    pub(super) fn set_up(&self, link: Index) -> Result<(), Errno> {
        self.0.change(RTM_NEWLINK, 0, &ifinfomsg(link, true), &Attributes::default())
    }

    /// Takes an interface away.
    pub(super) fn delete_link(&self, link: Index) -> Result<(), Errno> {
        self.0.change(RTM_DELLINK, 0, &ifinfomsg(link, false), &Attributes::default())
    }

    /// Every queue of every interface.
    pub(super) fn qdiscs(&self) -> Result<Vec<Qdisc>, KernelError> {
        self.0
            .dump(RTM_GETQDISC, &tcmsg(0, 0, 0, 0), |body| {
                Some(Qdisc {
                    link: word(body, 4)?,
                    handle: word(body, 8)?,
                    parent: word(body, 12)?,
                    kind: text(attribute(body.get(TCMSG..)?, TCA_KIND)?),
                })
            })
            .tried("list", "queueing disciplines")
    }

    /// Gives an interface HTB to send by. What is in no class goes to the one with this minor number.
    pub(super) fn add_htb(&self, link: Index, handle: u32, default: u32) -> Result<(), Errno> {
        // Version 3, and 10 as everywhere for how a quantum follows from a rate: each class says its own.
        let init: Vec<u8> = [3, 10, default, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = Attributes::default().with(TCA_HTB_INIT, &init);
        let attributes = Attributes::default().with_text(TCA_KIND, "htb").with_nested(TCA_OPTIONS, options);
        self.0.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &tcmsg(link, handle, ROOT, 0), &attributes)
    }

    /// Gives an interface a place for filters of what it receives.
    pub(super) fn add_ingress(&self, link: Index) -> Result<(), Errno> {
        let attributes = Attributes::default().with_text(TCA_KIND, "ingress");
        let message = tcmsg(link, INGRESS_HANDLE, INGRESS, 0);
        self.0.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &message, &attributes)
    }

    /// Takes away what an interface sends or receives by: `parent` is [`ROOT`] or [`INGRESS`]. The kernel puts its own there.
    pub(super) fn delete_qdisc(&self, link: Index, handle: u32, parent: u32) -> Result<(), Errno> {
        self.0.change(RTM_DELQDISC, 0, &tcmsg(link, handle, parent, 0), &Attributes::default())
    }

    /// HTB's classes on an interface, by number, with what each has and has done.
    pub(super) fn classes(&self, link: Index) -> Result<Vec<(u32, HtbClass, ClassCounts)>, KernelError> {
        self.0
            .dump(RTM_GETTCLASS, &tcmsg(link, 0, 0, 0), |body| {
                let attributes = body.get(TCMSG..)?;
                if text(attribute(attributes, TCA_KIND)?) != "htb" {
                    return None;
                }
                let class = htb_class(word(body, 12)?, attribute(attributes, TCA_OPTIONS)?)?;
                Some((word(body, 8)?, class, counts(attributes).unwrap_or_default()))
            })
            .tried("list the traffic classes of", format!("interface {link}"))
    }

    /// Makes a class, or makes it what it is to be.
    pub(super) fn set_class(&self, link: Index, handle: u32, class: HtbClass) -> Result<(), Errno> {
        let HtbClass { parent, rate, ceil, burst, quantum } = class;
        let ticks = u32::try_from(burst / TICK).unwrap_or(u32::MAX);
        let mut parameters = Vec::with_capacity(44);
        for rate in [rate, ceil] {
            // `struct tc_ratespec`, for Ethernet: without a table of times for lengths, which old kernels had.
            parameters.extend([0, 1, 0, 0, 0, 0, 0, 0]);
            parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        }
        parameters.extend([ticks, ticks, quantum, 0, 0].into_iter().flat_map(u32::to_ne_bytes));
        let options = Attributes::default()
            .with(TCA_HTB_PARMS, &parameters)
            .with(TCA_HTB_RATE64, &rate.to_ne_bytes())
            .with(TCA_HTB_CEIL64, &ceil.to_ne_bytes());
        let attributes = Attributes::default().with_text(TCA_KIND, "htb").with_nested(TCA_OPTIONS, options);
        self.0.change(RTM_NEWTCLASS, NLM_F_CREATE, &tcmsg(link, handle, parent, 0), &attributes)
    }

    /// Takes a class away, with what waits in it.
    pub(super) fn delete_class(&self, link: Index, handle: u32) -> Result<(), Errno> {
        self.0.change(RTM_DELTCLASS, 0, &tcmsg(link, handle, 0, 0), &Attributes::default())
    }

    /// Lets everything that an interface receives go through another one first, by a filter of this priority.
    pub(super) fn redirect(&self, link: Index, priority: u16, to: Index) -> Result<(), Errno> {
        // `struct tc_u32_sel` with one key that everything has: no bit is compared.
        let mut selector = vec![0; 32];
        // TC_U32_TERMINAL; one key.
        (selector[0], selector[2]) = (1, 1);
        // `struct tc_mirred`: index, capabilities, action, two counts, what is done, and with which interface.
        let mirred: Vec<u8> = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let action = Attributes::default()
            .with_text(TCA_ACT_KIND, "mirred")
            .with_nested(TCA_ACT_OPTIONS, Attributes::default().with(TCA_MIRRED_PARMS, &mirred));
        let options = Attributes::default()
            .with_nested(TCA_U32_ACT, Attributes::default().with_nested(1, action))
            .with(TCA_U32_SEL, &selector);
        let attributes = Attributes::default().with_text(TCA_KIND, "u32").with_nested(TCA_OPTIONS, options);
        let message = tcmsg(link, 0, INGRESS_HANDLE, filter_info(priority));
        self.0.change(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &message, &attributes)
    }

    /// Where the filter of this priority sends what the interface receives; none if there is no such filter.
    pub(super) fn redirected(&self, link: Index, priority: u16) -> Result<Option<Index>, KernelError> {
        let found = self
            .0
            .dump(RTM_GETTFILTER, &tcmsg(link, 0, INGRESS_HANDLE, 0), |body| {
                let ours = word(body, 16)? >> 16 == u32::from(priority);
                let options = attribute(body.get(TCMSG..)?, TCA_OPTIONS).filter(|_| ours)?;
                let action = attribute(attribute(options, TCA_U32_ACT)?, 1)?;
                let mirred = attribute(attribute(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
                word(mirred, 24)
            })
            .tried("list the filters of", format!("interface {link}"))?;
        Ok(found.first().copied())
    }
}

/// `struct ifinfomsg`.
fn ifinfomsg(link: Index, up: bool) -> Vec<u8> {
    let flags = if up { libc::IFF_UP.cast_unsigned() } else { 0 };
    [0, link, flags, flags].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// `struct tcmsg`.
fn tcmsg(link: Index, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, link, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A filter's priority, and that it is for every protocol.
fn filter_info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be())
}

/// `struct tc_htb_opt`, with the rates that it has no room for.
fn htb_class(parent: u32, options: &[u8]) -> Option<HtbClass> {
    let parameters = attribute(options, TCA_HTB_PARMS)?;
    let rate = |at: usize, wide: u16| {
        let wide = attribute(options, wide).and_then(|value| long(value, 0));
        wide.or_else(|| word(parameters, at).map(u64::from))
    };
    Some(HtbClass {
        parent,
        rate: rate(8, TCA_HTB_RATE64)?,
        ceil: rate(20, TCA_HTB_CEIL64)?,
        burst: u64::from(word(parameters, 24)?) * TICK,
        quantum: word(parameters, 32)?,
    })
}

/// `struct gnet_stats_basic` and `struct gnet_stats_queue`.
fn counts(attributes: &[u8]) -> Option<ClassCounts> {
    let stats = attribute(attributes, TCA_STATS2)?;
    let (basic, queue) = (attribute(stats, TCA_STATS_BASIC)?, attribute(stats, TCA_STATS_QUEUE)?);
    Some(ClassCounts {
        bytes: long(basic, 0)?,
        // Beyond 32 bits it stands by itself.
        packets: attribute(stats, TCA_STATS_PKT64)
            .and_then(|wide| long(wide, 0))
            .or_else(|| word(basic, 8).map(u64::from))?,
        backlog: word(queue, 4)?.into(),
        drops: word(queue, 8)?.into(),
        overlimits: word(queue, 16)?.into(),
    })
}
