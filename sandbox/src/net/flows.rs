//! Flow records out of the kernel: the two sets of slots that the programs fill in turns (`bpf/flow.h`), as memory.
//!
//! A set is first turned away from the programs, then read, and emptied when what was read is safe. A plabd that dies in
//! between has emptied nothing: the next one reads the set again, so a record may be told twice and none is lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use aya_obj::generated::bpf_map_type;
use rustix::time::{ClockId, clock_gettime};

use super::call::{self, MapShape, possible_cpus};
use super::layout::{SLOT_SIZE, SLOTS, numbers};
use super::words::Words;
use crate::error::{KernelError, Tried};

/// Bytes of a record: what a slot begins with. `plab_flows::record` has its layout.
pub const RECORD_SIZE: usize = 120;

/// Bytes of `struct turns`.
pub(super) const TURNS_SIZE: usize = 192;

/// `struct turns` in 64-bit words: the turn (its lower half), the time slept, what was told, and a cursor for each set.
const TURN: usize = 0;
const SUSPENDED: usize = 1;
const TOLD: usize = 2;
const NEXT: [usize; 2] = [8, 16];

/// A slot in 64-bit words: how many are the record, and which of these are counts.
const SLOT_WORDS: usize = SLOT_SIZE / 8;
const RECORD_WORDS: usize = RECORD_SIZE / 8;
const _: () = assert!(RECORD_SIZE == RECORD_WORDS * 8 && RECORD_SIZE < SLOT_SIZE);
const COUNTS: std::ops::Range<usize> = 6..11;

/// Reads flow records. There is to be one a node; who else looks at the machine leaves them alone.
#[derive(Debug)]
pub struct FlowTap {
    turns: Words,
    slots: Words,
    lost: OwnedFd,
    cpus: usize,
    grace: Grace,
}

impl FlowTap {
    /// Maps what the programs fill.
    pub(super) fn open(
        turns: BorrowedFd<'_>,
        slots: BorrowedFd<'_>,
        lost: BorrowedFd<'_>,
    ) -> Result<Self, KernelError> {
        let tap = Self {
            turns: Words::of(turns, TURNS_SIZE, "the turns of flows")?,
            slots: Words::of(slots, 2 * SLOTS * SLOT_SIZE, "the slots of flows")?,
            lost: lost.try_clone_to_owned().tried("keep open", "the BPF map lost")?,
            cpus: possible_cpus()?,
            grace: Grace::new()?,
        };
        tap.follow_clock();
        Ok(tap)
    }

    fn turn(&self) -> u32 {
        // Its upper half is not used.
        self.turns.all()[TURN].load(Ordering::Acquire) as u32
    }

    fn used(&self, set: usize) -> usize {
        let next = self.turns.all()[NEXT[set]].load(Ordering::Acquire);
        usize::try_from(next).unwrap_or(SLOTS).min(SLOTS)
    }

    /// The programs take times from a clock that costs nothing, and does not count while the machine sleeps.
    fn follow_clock(&self) {
        let nanoseconds = |id| {
            let now = clock_gettime(id);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let behind = nanoseconds(ClockId::Boottime) - nanoseconds(ClockId::Monotonic);
        // Two readings are never made at one instant.
        let slept = if behind < 1_000_000 { 0 } else { behind.unsigned_abs() };
        self.turns.all()[SUSPENDED].store(slept, Ordering::Release);
    }

    /// How many flows are in the programs' set, of [`Self::MOST`].
    pub fn waiting(&self) -> usize {
        self.used((self.turn() & 1) as usize)
    }

    /// Flows that a set holds.
    pub const MOST: usize = SLOTS;

    /// Turns the programs' set away from them, unless a former one has not been emptied, and waits until none of them
    /// writes to it any more.
    ///
    /// # Errors
    /// The kernel cannot be waited for; what is turned away is not to be read then.
    pub fn turn_away(&mut self) -> Result<(), KernelError> {
        self.follow_clock();
        let turn = self.turn();
        let emptied = self.used((turn.wrapping_sub(1) & 1) as usize) == 0;
        if emptied && self.waiting() == 0 {
            // Nothing to wait for: an idle node turns nothing.
            return Ok(());
        }
        if emptied {
            self.turns.all()[TURN].store(u64::from(turn.wrapping_add(1)), Ordering::Release);
        }
        self.grace.wait()
    }

    /// Hands each record of the set that is turned away to `each`, until it is false. False if it was.
    pub fn records(&self, mut each: impl FnMut(&[u8; RECORD_SIZE]) -> bool) -> bool {
        let set = (self.turn().wrapping_sub(1) & 1) as usize;
        let slots = &self.slots.all()[set * SLOTS * SLOT_WORDS..][..self.used(set) * SLOT_WORDS];
        slots.chunks_exact(SLOT_WORDS).all(|slot| {
            let mut words = [0; RECORD_WORDS];
            for (word, from) in words.iter_mut().zip(slot) {
                *word = from.load(Ordering::Relaxed);
            }
            // It was taken and not used: a program was too late for the turn.
            if words[COUNTS].iter().all(|count| *count == 0) {
                return true;
            }
            let mut record = [0; RECORD_SIZE];
            for (eight, word) in record.chunks_exact_mut(8).zip(words) {
                eight.copy_from_slice(&word.to_ne_bytes());
            }
            each(&record)
        })
    }

    /// How many packets could not be counted in any flow, since [`Self::told`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lost(&self) -> Result<u64, KernelError> {
        let mut copies = vec![0; self.cpus * size_of::<u64>()];
        call::lookup(self.lost.as_fd(), &0_u32.to_ne_bytes(), &mut copies)
            .tried("look up", "how many flow records were lost")?;
        let sum = copies.chunks_exact(8).map(|copy| numbers::<1>(copy)[0]).fold(0, u64::wrapping_add);
        Ok(sum.wrapping_sub(self.turns.all()[TOLD].load(Ordering::Acquire)))
    }

    /// Empties the set that is turned away, and takes `lost` for told: all of that is safe now.
    pub fn told(&mut self, lost: u64) {
        let set = (self.turn().wrapping_sub(1) & 1) as usize;
        let used = self.used(set);
        for word in &self.slots.all()[set * SLOTS * SLOT_WORDS..][..used * SLOT_WORDS] {
            word.store(0, Ordering::Relaxed);
        }
        self.turns.all()[NEXT[set]].store(0, Ordering::Release);
        self.turns.all()[TOLD].fetch_add(lost, Ordering::AcqRel);
    }
}

/// What waits until every program that runs now has ended: the kernel does so on each change of a map of maps, so that
/// whoever changed it knows that nobody uses what was there (`maybe_wait_bpf_programs`).
#[derive(Debug)]
struct Grace {
    maps: OwnedFd,
    map: OwnedFd,
}

impl Grace {
    fn new() -> Result<Self, KernelError> {
        let shape =
            |kind: bpf_map_type| MapShape { kind: kind as u32, key: 4, value: 4, entries: 1, flags: 0 };
        let failed = |error| KernelError::new("make", "a BPF map of maps", error);
        let map = call::map_create("plab_wait", shape(bpf_map_type::BPF_MAP_TYPE_ARRAY)).map_err(failed)?;
        let maps = call::map_of_maps_create(
            "plab_waits",
            shape(bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS),
            map.as_fd(),
        )
        .map_err(failed)?;
        Ok(Self { maps, map })
    }

    fn wait(&self) -> Result<(), KernelError> {
        call::put_map(self.maps.as_fd(), 0, self.map.as_fd()).tried("wait for", "BPF programs that still run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maps alone, filled as the programs do.
    struct Maps {
        turns: OwnedFd,
        slots: OwnedFd,
        lost: OwnedFd,
    }

    impl Maps {
        fn new() -> Self {
            let shapes = crate::net::object::shapes().expect("the object");
            let make = |name: &str| {
                let (full, shape) =
                    shapes.iter().find(|(full, _)| full.ends_with(&format!("_{name}"))).expect("a map");
                call::map_create(full, *shape).expect("these tests make BPF maps: run them as root")
            };
            Self { turns: make("turns"), slots: make("flows"), lost: make("lost") }
        }

        fn tap(&self) -> FlowTap {
            FlowTap::open(self.turns.as_fd(), self.slots.as_fd(), self.lost.as_fd()).expect("open")
        }
    }

    fn count(tap: &FlowTap, packets: u64) {
        let set = (tap.turn() & 1) as usize;
        let slot = tap.turns.all()[NEXT[set]].fetch_add(1, Ordering::AcqRel);
        let at = (set * SLOTS + usize::try_from(slot).expect("small")) * SLOT_WORDS;
        tap.slots.all()[at + COUNTS.start].store(packets, Ordering::Release);
    }

    fn read(tap: &FlowTap) -> Vec<u64> {
        let mut packets = Vec::new();
        assert!(tap.records(|record| {
            packets.push(numbers::<RECORD_WORDS>(record)[COUNTS.start]);
            true
        }));
        packets
    }

    #[test]
    fn what_was_not_told_is_read_again_by_the_next_and_nothing_else() {
        let maps = Maps::new();
        let mut tap = maps.tap();
        count(&tap, 3);
        count(&tap, 0);
        count(&tap, 5);
        assert_eq!((tap.waiting(), read(&tap)), (3, vec![]), "the programs' own set is not read");
        tap.turn_away().expect("turn");
        assert_eq!((tap.waiting(), read(&tap)), (0, vec![3, 5]));
        count(&tap, 7);
        drop(tap);
        let mut tap = maps.tap();
        tap.turn_away().expect("not turned again");
        assert_eq!((tap.waiting(), read(&tap)), (1, vec![3, 5]));
        tap.told(0);
        assert!(read(&tap).is_empty());
        tap.turn_away().expect("turn");
        assert_eq!(read(&tap), vec![7]);
        assert!(!tap.records(|_| false), "whoever takes them may say stop");
    }

    #[test]
    fn what_was_lost_is_told_once() {
        let maps = Maps::new();
        let mut tap = maps.tap();
        let copies: Vec<u8> = (0..tap.cpus).flat_map(|_| 4_u64.to_ne_bytes()).collect();
        call::update(maps.lost.as_fd(), &0_u32.to_ne_bytes(), &copies, 0).expect("update");
        let all = 4 * u64::try_from(tap.cpus).expect("small");
        assert_eq!(tap.lost().expect("lost"), all);
        tap.told(all - 1);
        assert_eq!(maps.tap().lost().expect("lost"), 1);
    }

    #[test]
    fn more_than_there_are_slots_is_no_more_than_these() {
        let maps = Maps::new();
        let mut tap = maps.tap();
        tap.turns.all()[NEXT[0]].store(u64::MAX, Ordering::Release);
        assert_eq!(tap.waiting(), FlowTap::MOST);
        tap.turn_away().expect("turn");
        assert!(read(&tap).is_empty());
        tap.told(0);
        assert_eq!(tap.turns.all()[NEXT[0]].load(Ordering::Acquire), 0);
    }
}
