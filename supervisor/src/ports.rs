//! Ports as property: which slice has which, in plabd's books and in the kernel's.
//!
//! A slice *claims* ports with its definition, before that is on record; what another has claimed is refused, so the
//! first keeps what it has. They are *given* to it when the definition is accepted. Between the two a port may still be
//! given to a slice that has let go of it: then it is taken from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use plab_config::PortRange;
use plab_sandbox::KernelError;
use plab_sandbox::net::{NetworkGuard, ReservedPorts};

use crate::paths::Paths;

/// The books.
#[derive(Debug)]
pub struct Ports {
    /// No slice can have them.
    own: Vec<PortRange>,
    reserved: ReservedPorts,
    slices: Mutex<BTreeMap<String, Holding>>,
    kernel: Mutex<()>,
}

#[derive(Debug, Default)]
struct Holding {
    uid: u32,
    claimed: Vec<PortRange>,
    given: Vec<PortRange>,
    /// What it no longer has, until nothing of the kernel's says otherwise.
    leaving: Vec<PortRange>,
    /// The kernel's books are these. Not so after a refusal, and of what was read from the ledger: the plabd before may have
    /// died between the two.
    settled: bool,
}

/// What came of giving a slice its ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// How many sockets were closed, on ports that are not their slice's any more.
    pub closed: usize,
    /// The names of slices with a socket on one of the ports that cannot be closed from outside: the ports are not given
    /// before their capsules are gone.
    pub held_by: Vec<String>,
    /// What the kernel refused to close.
    pub problem: Option<String>,
}

/// What a change of the books asks of the kernel.
struct Entered {
    /// What is to be taken from the slice.
    gone: Vec<PortRange>,
    /// The UIDs of all slices.
    uids: BTreeSet<u32>,
}

/// Why a slice cannot have a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What it asked for.
    pub wanted: PortRange,
    /// What of that it cannot have.
    pub both: PortRange,
    /// The slice that has it; none if the node itself has.
    pub holder: Option<String>,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.holder {
            Some(holder) => write!(f, "{} is {holder}'s", self.both),
            None => write!(f, "{} is the node's own (own_ports in the node file's [network])", self.both),
        }
    }
}

impl std::error::Error for Taken {}

impl Ports {
    /// Books without slices. `own` are the node's own ports, with those that capsules may reach on loopback.
    pub fn new(own: Vec<PortRange>, paths: &Paths) -> Self {
        let reserved = ReservedPorts::new(paths.run.join("reserved-ports"));
        Self { own, reserved, slices: Mutex::default(), kernel: Mutex::default() }
    }

    fn slices(&self) -> MutexGuard<'_, BTreeMap<String, Holding>> {
        // Each entry is written whole.
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the slice could have these ports, in place of what it has and what `former` has.
    ///
    /// # Errors
    /// The first that it cannot have, and who has it.
    pub fn check(&self, slice: &str, former: Option<&str>, ports: &[PortRange]) -> Result<(), Taken> {
        free_for(&self.slices(), &self.own, &[slice, former.unwrap_or(slice)], ports)
    }

    /// Claims ports for a slice, in place of what it had claimed, and of what `former` had, whose place it takes. True if
    /// that lets go of any.
    ///
    /// # Errors
    /// As [`Self::check`]; then all claims are as they were.
    pub fn claim(&self, slice: &str, former: Option<&str>, ports: &[PortRange]) -> Result<bool, Taken> {
        let mut slices = self.slices();
        free_for(&slices, &self.own, &[slice, former.unwrap_or(slice)], ports)?;
        let left = former.filter(|former| *former != slice).and_then(|former| slices.get_mut(former));
        let let_go = left.is_some_and(|left| !std::mem::take(&mut left.claimed).is_empty());
        let holding = slices.entry(slice.to_owned()).or_default();
        let before = std::mem::replace(&mut holding.claimed, ports.to_vec());
        Ok(let_go || !missing_from(&before, ports).is_empty())
    }

    /// Notes what a slice has by the ledger, when plabd starts; [`Self::begin`] tells the kernel.
    pub fn remember(&self, slice: &str, uid: u32, ports: &[PortRange]) {
        let mut slices = self.slices();
        // The node file may have taken some, and of two slices the first in the ledger keeps what it had.
        let mut ports = missing_from(ports, &self.own);
        for holding in slices.values() {
            ports = missing_from(&ports, &holding.given);
        }
        let holding =
            Holding { uid, claimed: ports.clone(), given: ports, leaving: Vec::new(), settled: false };
        slices.insert(slice.to_owned(), holding);
    }

    /// Makes the kernel's books what these are: what a former plabd left there and nobody has is nobody's. The slices with
    /// the UIDs `unread` keep what they have.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn begin(
        &self,
        guard: Option<&NetworkGuard>,
        open: &[PortRange],
        unread: &BTreeSet<u32>,
    ) -> Result<(), KernelError> {
        let _turn = self.turn();
        self.reserve(&[])?;
        if let Some(guard) = guard {
            let slices = self.slices();
            for holding in slices.values() {
                guard.give(&holding.given, holding.uid);
            }
            guard.keep(&self.own, open);
            let given = slices.values().flat_map(|holding| &holding.given);
            let all: Vec<PortRange> = given.chain(&self.own).copied().collect();
            guard.keep_only_ports(&all, unread);
        }
        Ok(())
    }

    /// Gives the slice what its accepted definition says, and closes the sockets of capsules that are on ports which are
    /// no longer, or now somebody else's. Said again it finishes what it could not. Blocking.
    ///
    /// # Errors
    /// A port is somebody else's, or the kernel refuses.
    pub fn give(
        &self,
        guard: Option<&NetworkGuard>,
        slice: &str,
        uid: u32,
        ports: &[PortRange],
    ) -> Result<Given, KernelError> {
        let _turn = self.turn();
        let Some(Entered { gone, uids }) = self.enter(slice, uid, ports)? else {
            return Ok(Given::default());
        };
        // No socket may come on a port that is about to change hands: it stays reserved until all are closed.
        self.reserve(&gone)?;
        let mut given = Given::default();
        if let Some(guard) = guard {
            guard.withdraw(&gone);
            guard.give(ports, uid);
            let left = guard.close_strangers(&gone, None, &uids)?;
            let taken = guard.close_strangers(ports, Some(uid), &uids)?;
            let slices = self.slices();
            let holders = slices.iter().filter(|(_, holding)| taken.left.contains(&holding.uid));
            given = Given {
                closed: left.sockets + taken.sockets,
                held_by: holders.map(|(name, _)| name.clone()).collect(),
                problem: taken.problem.or(left.problem),
            };
        }
        if !given.held_by.is_empty() {
            return Ok(given);
        }
        if let Some(holding) = self.slices().get_mut(slice) {
            holding.leaving.clear();
            holding.settled = true;
        }
        if !gone.is_empty() {
            self.reserve(&[])?;
        }
        Ok(given)
    }

    /// Writes into the books what a slice is given. None if the kernel's books say all of it
    /// already.
    fn enter(&self, slice: &str, uid: u32, ports: &[PortRange]) -> Result<Option<Entered>, KernelError> {
        let mut slices = self.slices();
        free_for(&slices, &self.own, &[slice], ports).map_err(|taken| {
            KernelError::new("give ports to", slice, std::io::Error::other(taken.to_string()))
        })?;
        // Most changes of a definition are of something else.
        let same = |holding: &Holding| holding.settled && holding.uid == uid && holding.given == ports;
        if slices.get(slice).is_some_and(same) {
            return Ok(None);
        }
        let before = slices.remove(slice).unwrap_or_default();
        if ports.is_empty() && before.given.is_empty() && before.leaving.is_empty() {
            slices.insert(slice.to_owned(), Holding { uid, settled: true, ..Holding::default() });
            return Ok(None);
        }
        let mut gone = missing_from(&[before.given, before.leaving].concat(), ports);
        for holding in slices.values_mut() {
            holding.given = missing_from(&holding.given, ports);
            gone = missing_from(&gone, &holding.given);
        }
        let holding = Holding {
            uid,
            claimed: ports.to_vec(),
            given: ports.to_vec(),
            leaving: gone.clone(),
            settled: false,
        };
        slices.insert(slice.to_owned(), holding);
        Ok(Some(Entered { gone, uids: slices.values().map(|holding| holding.uid).collect() }))
    }

    /// Takes everything from a slice that is gone. Blocking.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&self, guard: Option<&NetworkGuard>, slice: &str) -> Result<(), KernelError> {
        let _turn = self.turn();
        let Some(holding) = self.slices().remove(slice) else { return Ok(()) };
        if let Some(guard) = guard {
            guard.withdraw(&holding.given);
        }
        self.reserve(&[])
    }

    /// Takes plabd's part out of the kernel's list of reserved ports: no slice runs any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(&self) -> Result<(), KernelError> {
        self.reserved.set(&[])
    }

    /// The node's own.
    pub fn own(&self) -> &[PortRange] {
        &self.own
    }

    /// Which slice has what, by name.
    pub fn given(&self) -> Vec<(String, Vec<PortRange>)> {
        let slices = self.slices();
        slices.iter().map(|(name, holding)| (name.clone(), holding.given.clone())).collect()
    }

    /// Whoever changes the kernel's books, in turn. Its dump of all sockets may take a while, for which nobody who looks into
    /// these books waits.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, more: &[PortRange]) -> Result<(), KernelError> {
        let all: Vec<PortRange> = self
            .slices()
            .values()
            .flat_map(|holding| &holding.given)
            .chain(&self.own)
            .chain(more)
            .copied()
            .collect();
        self.reserved.set(&all)
    }
}

fn free_for(
    slices: &BTreeMap<String, Holding>,
    own: &[PortRange],
    claimants: &[&str],
    ports: &[PortRange],
) -> Result<(), Taken> {
    let others = slices.iter().filter(|(name, _)| !claimants.contains(&name.as_str()));
    let held =
        others.flat_map(|(name, holding)| holding.claimed.iter().map(move |range| (Some(name), range)));
    for (holder, range) in own.iter().map(|range| (None, range)).chain(held) {
        if let Some((wanted, both)) = ports.iter().find_map(|wanted| Some((*wanted, wanted.overlap(*range)?)))
        {
            return Err(Taken { wanted, both, holder: holder.cloned() });
        }
    }
    Ok(())
}

/// What is in `ports` and not in `others`.
fn missing_from(ports: &[PortRange], others: &[PortRange]) -> Vec<PortRange> {
    others.iter().fold(ports.to_vec(), |left, other| {
        left.into_iter().flat_map(|range| range.without(*other)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<PortRange> {
        texts.iter().map(|text| text.parse().expect("a range")).collect()
    }

    fn books() -> Ports {
        Ports::new(ranges(&["tcp/22"]), &Paths::below(std::path::Path::new("/nowhere")))
    }

    #[test]
    fn the_first_keeps_what_it_has() {
        let books = books();
        assert_eq!(books.claim("a", None, &ranges(&["tcp/80-90"])), Ok(false));
        let taken = books.claim("b", None, &ranges(&["udp/80", "tcp/85"])).expect_err("a's");
        assert_eq!(taken.to_string(), "tcp/85 is a's");
        assert_eq!(books.claim("b", None, &ranges(&["udp/80-90"])), Ok(false), "another protocol");
        assert_eq!(books.claim("a", None, &ranges(&["tcp/80-84"])), Ok(true), "lets go of some");
        assert_eq!(books.claim("b", None, &ranges(&["tcp/85"])), Ok(true));
        assert_eq!(books.claim("c", Some("b"), &ranges(&["tcp/85-86"])), Ok(true), "in b's place");
        assert_eq!(
            books.claim("b", None, &ranges(&["tcp/85"])).expect_err("c's").holder.as_deref(),
            Some("c")
        );
        let taken = books.check("c", None, &ranges(&["tcp/1-1024"])).expect_err("ssh");
        assert!(taken.to_string().starts_with("tcp/22 is the node's own"), "{taken}");
    }

    #[test]
    fn differences() {
        let show = |a: &[&str], b: &[&str]| {
            let left = missing_from(&ranges(a), &ranges(b));
            left.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(show(&["tcp/1-9"], &["tcp/3", "tcp/7-9", "udp/1"]), "tcp/1-2 tcp/4-6");
        assert_eq!(show(&["tcp/1", "udp/1"], &["tcp/1-65535"]), "udp/1");
        assert_eq!(show(&["tcp/1-65535"], &[]), "tcp/1-65535");
    }
}
