//! How much the node and its slices send and receive: what the node file, an administrator and the definitions ask for,
//! and its enforcement.
//!
//! A limit is in the kernel's books before a capsule is started that it concerns. The kernel keeps it without plabd; the
//! next plabd finds it as it is and changes only what differs. What an administrator sets live is in the ledger.

mod cap;
mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plab_config::{BitRate, NodeBandwidth};
use plab_sandbox::KernelError;
use plab_sandbox::net::{ClassId, Plan, Shaper, TrafficCounts};
use plab_sandbox::readback::Row;

use crate::ledger::{Ledger, LedgerError};
use crate::routes;

pub use cap::{Cap, Live};
pub use follow::{follow, set, tell};

/// In the ledger: what was set live.
const LIVE: &str = "bandwidth";

/// The books.
#[derive(Debug)]
pub struct Bandwidth {
    shaper: Shaper,
    file: NodeBandwidth,
    /// Capsules' packets can be told apart.
    classifies: bool,
    books: Mutex<Books>,
    /// Whoever changes the kernel's part, in turn; and whether that is over.
    kernel: Mutex<Turn>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Next,
    /// Everything was taken away, and stays so.
    Over,
}

#[derive(Debug, Clone, Default)]
struct Books {
    live: Live,
    /// By UID.
    slices: BTreeMap<u32, Entry>,
    /// What the kernel was last brought to; none if it is not known to be as it should.
    in_force: Option<Plan>,
    /// Interfaces of the plan that are not there.
    absent: BTreeSet<String>,
    /// Why it is not as it should be.
    problem: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u16,
    rate: Option<BitRate>,
    /// Its definition can be read.
    known: bool,
}

impl Books {
    /// What is known of the slice with this UID, which gets a class now if it has none; none if none is left.
    fn entry(&mut self, uid: u32) -> Option<&mut Entry> {
        if !self.slices.contains_key(&uid) {
            let slot = free_slot(&self.slices, uid)?;
            self.slices.insert(uid, Entry { slot, rate: None, known: true });
        }
        self.slices.get_mut(&uid)
    }
}

impl Bandwidth {
    /// Books without slices, of the node whose control groups have this name.
    pub fn new(tree: &str, file: NodeBandwidth, classifies: bool) -> Self {
        Self { shaper: Shaper::of(tree), file, classifies, books: Mutex::default(), kernel: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each entry is written whole.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The class of a slice's packets; the same for as long as the slice has its UID. None if it was neither remembered nor
    /// placed, or if there are more slices than the kernel has classes.
    pub fn class(&self, uid: u32) -> Option<ClassId> {
        self.books().slices.get(&uid).map(|entry| self.shaper.class(entry.slot))
    }

    /// Notes what a slice has by the ledger, when plabd starts; none if that cannot be read any more.
    pub fn remember(&self, uid: u32, rate: Option<Option<BitRate>>) {
        if let Some(entry) = self.books().entry(uid) {
            (entry.rate, entry.known) = (rate.flatten(), rate.is_some());
        }
    }

    /// Notes what was set live, as the ledger has it.
    ///
    /// # Errors
    /// The ledger cannot be read, or what it has of limits: none is lifted silently.
    pub async fn load(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        if let Some(value) = ledger.meta(LIVE).await? {
            self.books().live = value.parse().map_err(|_| LedgerError::Unread { key: LIVE, value })?;
        }
        Ok(())
    }

    /// Puts into force what is known, and takes away what a former plabd left and nobody wants any more. Blocking, as is all
    /// that follows.
    ///
    /// # Errors
    /// The kernel lacks something or refuses; then [`Self::problem`] says so, too, and no capsule is made.
    pub fn begin(&self) -> Result<(), KernelError> {
        self.enforce(true)
    }

    /// Gives a slice its class and its own limit, before its capsule is made or when its definition has changed.
    ///
    /// # Errors
    /// It cannot be held to it, or the node not to its own: then nothing of it is kept.
    pub fn place(&self, uid: u32, rate: Option<BitRate>) -> Result<(), KernelError> {
        let refuse = |reason: &str| {
            KernelError::new(
                "limit what is sent by",
                format!("UID {uid}"),
                io::Error::other(reason.to_owned()),
            )
        };
        if rate.is_some() && !self.classifies {
            return Err(refuse("its packets cannot be told apart without network.bpf"));
        }
        let before = {
            let mut books = self.books();
            let shaped = rate.is_some() || self.plan(&books, BTreeSet::new()).shapes_out();
            match books.entry(uid) {
                Some(entry) => std::mem::replace(entry, Entry { rate, known: true, ..*entry }),
                None if shaped => return Err(refuse("there are more slices than traffic classes")),
                None => return Ok(()),
            }
        };
        let placed = self.enforce(false);
        if placed.is_err() && before.rate != rate {
            // What one slice cannot have must not be in the way of others.
            self.books().slices.insert(uid, before);
            self.enforce(true).ok();
        }
        placed
    }

    /// Takes a slice's class away; it is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&self, uid: u32) -> Result<(), KernelError> {
        self.books().slices.remove(&uid);
        self.enforce(false)
    }

    /// Sets live what is not `None`. Returns what was set before.
    ///
    /// # Errors
    /// The node cannot be held to it; then all is as before.
    pub fn set(&self, out: Option<Cap>, incoming: Option<Cap>) -> Result<Live, KernelError> {
        let before = {
            let mut books = self.books();
            let before = books.live;
            books.live =
                Live { out: out.unwrap_or(before.out), incoming: incoming.unwrap_or(before.incoming) };
            before
        };
        match self.enforce(true) {
            Ok(()) => Ok(before),
            Err(error) => {
                self.books().live = before;
                self.enforce(true).ok();
                Err(error)
            }
        }
    }

    /// What is set live.
    pub fn live(&self) -> Live {
        self.books().live
    }

    /// What counts for what is sent, and for what is received.
    pub fn caps(&self) -> (Option<BitRate>, Option<BitRate>) {
        let live = self.books().live;
        (live.out.over(self.file.out), live.incoming.over(self.file.incoming))
    }

    /// Interfaces that are to be limited and are not there.
    pub fn absent(&self) -> BTreeSet<String> {
        self.books().absent.clone()
    }

    /// Why not everything is in force that should be.
    pub fn problem(&self) -> Option<String> {
        self.books().problem.clone()
    }

    /// Reads back what a slice's class is held to, on each interface; nothing if nothing is limited.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn verify(&self, uid: u32) -> Result<Vec<Row>, KernelError> {
        let plan = self.plan(&self.books(), self.interfaces()?);
        let Some(class) = self.class(uid).filter(|_| plan.shapes_out()) else { return Ok(Vec::new()) };
        let own = plan.classes.get(&class).copied().flatten();
        let asked = own.into_iter().chain(plan.out).min();
        let rows = self.shaper.ceilings(class)?.into_iter().map(|(interface, ceiling)| Row {
            layer: "network",
            what: format!("rate on {interface}"),
            asked: asked.map_or_else(|| "a class".to_owned(), |rate| rate.to_string()),
            in_force: ceiling.map_or_else(|| "no class".to_owned(), |rate| rate.to_string()),
            ok: ceiling.is_some() && asked.is_none_or(|asked| ceiling == Some(asked)),
            source: "RTM_GETTCLASS".into(),
        });
        Ok(rows.collect())
    }

    /// The class of what is no capsule's.
    pub fn others(&self) -> ClassId {
        self.shaper.others()
    }

    /// What the classes have done.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn counts(&self) -> Result<TrafficCounts, KernelError> {
        self.shaper.counts()
    }

    /// Takes everything away: no slice runs any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(&self) -> Result<(), KernelError> {
        *self.turn() = Turn::Over;
        self.shaper.apply(&Plan::default()).map(drop)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the kernel to what the books say; looks at it even if it was brought to that before, if `anew`.
    fn enforce(&self, anew: bool) -> Result<(), KernelError> {
        let turn = self.turn();
        if *turn == Turn::Over {
            return Ok(());
        }
        let interfaces = self.interfaces()?;
        let (plan, in_force) = {
            let books = self.books();
            (self.plan(&books, interfaces), books.in_force.clone())
        };
        if !anew && in_force.as_ref() == Some(&plan) {
            return Ok(());
        }
        // Between two plans without any limit there is nothing to change.
        let idle = |plan: &Plan| !plan.shapes_out() && plan.incoming.is_none();
        let applied = match in_force {
            Some(in_force) if !anew && idle(&plan) && idle(&in_force) => Ok(BTreeSet::new()),
            _ => self.shaper.apply(&plan),
        };
        let mut books = self.books();
        match applied {
            Ok(absent) => {
                (books.in_force, books.absent, books.problem) = (Some(plan), absent, None);
                Ok(())
            }
            Err(error) => {
                (books.in_force, books.problem) = (None, Some(error.to_string()));
                Err(error)
            }
        }
    }

    /// Where limits hold. The kernel's routes may be many: they are not read while the books are held.
    fn interfaces(&self) -> Result<BTreeSet<String>, KernelError> {
        if self.file.interfaces.is_empty() {
            return routes::default_interfaces()
                .map_err(|error| KernelError::new("read", "the kernel's routes", error));
        }
        Ok(self.file.interfaces.iter().map(|name| name.as_str().to_owned()).collect())
    }

    fn plan(&self, books: &Books, interfaces: BTreeSet<String>) -> Plan {
        let of = |known: bool| books.slices.values().filter(move |entry| entry.known == known);
        Plan {
            interfaces,
            // A route that goes for a moment takes no limit with it.
            keep_others: self.file.interfaces.is_empty(),
            out: books.live.out.over(self.file.out),
            incoming: books.live.incoming.over(self.file.incoming),
            classes: of(true).map(|entry| (self.shaper.class(entry.slot), entry.rate)).collect(),
            untouched: of(false).map(|entry| self.shaper.class(entry.slot)).collect(),
        }
    }
}

/// A slot that follows from the UID, so that the next plabd finds the same; the next one that is free if two UIDs want it.
fn free_slot(slices: &BTreeMap<u32, Entry>, uid: u32) -> Option<u16> {
    let taken: BTreeSet<u16> = slices.values().map(|entry| entry.slot).collect();
    let slots = u32::from(Shaper::SLOTS);
    (0..slots)
        .filter_map(|step| u16::try_from((uid % slots + step) % slots + 1).ok())
        .find(|slot| !taken.contains(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Bandwidth {
        Bandwidth::new("test", NodeBandwidth::default(), true)
    }

    #[test]
    fn a_slice_has_its_class_to_itself_whoever_comes_first() {
        let (one, other) = (books(), books());
        let slots = u32::from(Shaper::SLOTS);
        let uids: Vec<u32> = (70_000..70_100).chain([70_000 + slots, 70_000 + 2 * slots]).collect();
        uids.iter().for_each(|uid| one.remember(*uid, Some(None)));
        let classes: BTreeSet<_> = uids.iter().map(|uid| one.class(*uid).expect("a class")).collect();
        assert_eq!(classes.len(), uids.len());
        for uid in (70_000..70_100).rev() {
            other.remember(uid, Some(None));
            assert_eq!(other.class(uid), one.class(uid), "the next plabd's is the same");
        }
    }

    #[test]
    fn there_is_an_end_to_classes() {
        let books = books();
        for uid in 1..=u32::from(Shaper::SLOTS) {
            books.remember(uid, Some(None));
            assert!(books.class(uid).is_some());
        }
        books.remember(99_999, Some(None));
        assert!(books.class(99_999).is_none());
    }
}
