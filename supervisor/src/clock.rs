//! How far the machine's clock is believed, and what time it is for leases.
//!
//! A machine boots with a clock that is wrong by years when its battery is empty. Leases are not ended by such a clock:
//! the ledger keeps the latest time that was believed, no time before that can be now, and one that is far ahead of it
//! is only believed if the kernel says that somebody (NTP) keeps the clock in step. A node without NTP works all
//! the same, as long as its clock makes no such jump.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use plab_protocol::control::Severity;
use plab_protocol::machine::ClockState;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;

use crate::node::Node;
use crate::watched::watched;

/// The ledger's name for the latest time that was believed.
pub const LAST_SEEN: &str = "last_seen";

/// A clock may be this far behind what it showed before: those in machines drift while these are off. Seconds.
const SLACK: i64 = 120;

/// A clock that nobody keeps in step is not believed if it is further ahead than this of the last time that was: so
/// long a node is seldom off. Seconds.
const AHEAD: i64 = 30 * 86_400;

/// A clock that was set by this much is worth an event. Seconds.
const JUMP: i64 = 60;

/// Between two notes of the time in the ledger.
const NOTE: Duration = Duration::from_secs(3600);

/// While the clock is not believed: the kernel has no event for "somebody keeps it in step now".
const LOOK: Duration = Duration::from_secs(60);

/// What the kernel says about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Seconds since 1970.
    pub now: i64,
    /// Whether the clock is kept in step, by adjtimex(2).
    pub synchronised: bool,
}

/// Whether a reading is believed, after `known` was the latest time that was.
pub fn judge(reading: Reading, known: Option<i64>) -> ClockState {
    match known {
        _ if reading.synchronised => ClockState::Synchronised,
        Some(known) if reading.now < known - SLACK => ClockState::Behind,
        Some(known) if reading.now > known + AHEAD => ClockState::Suspicious,
        _ => ClockState::Unsynchronised,
    }
}

/// The clock of the node.
pub struct Clock {
    /// The latest time believed, in seconds since 1970, and what [`boottime`] was then.
    known: Cell<Option<(i64, i64)>>,
    state: Cell<ClockState>,
}

impl Clock {
    /// A clock after `last_seen`, RFC 3339, was the latest time believed by a former plabd.
    pub fn new(last_seen: Option<&str>) -> Self {
        let known = last_seen.and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_second);
        let clock = Self {
            known: Cell::new(known.map(|known| (known, boottime()))),
            state: Cell::new(ClockState::Unsynchronised),
        };
        clock.look(read());
        clock
    }

    /// How far it is believed.
    pub fn state(&self) -> ClockState {
        self.state.get()
    }

    /// The time that leases and plans are judged by: the machine's, if that is believed; else the latest that was,
    /// and what has passed since.
    pub fn now(&self) -> Timestamp {
        match self.expected() {
            Some(known) if !self.state.get().is_believed() => {
                Timestamp::from_second(known).unwrap_or(Timestamp::MAX)
            }
            _ => Timestamp::now(),
        }
    }

    /// Believes the clock as it is, from the next [`judge_anew`] on.
    pub fn trust(&self) {
        self.known.set(None);
    }

    /// What a clock that nobody touched would show, in seconds since 1970.
    fn expected(&self) -> Option<i64> {
        self.known.get().map(|(known, then)| known + boottime() - then)
    }

    /// Takes in what the kernel says; returns by how many seconds the clock has jumped.
    fn look(&self, reading: Reading) -> i64 {
        let expected = self.expected();
        let state = judge(reading, expected);
        self.state.set(state);
        if state.is_believed() {
            self.known.set(Some((reading.now, boottime())));
        }
        expected.map_or(0, |expected| reading.now - expected)
    }

    /// Why it is not believed, for people.
    pub fn doubt(&self) -> Option<String> {
        let known = Timestamp::from_second(self.expected()?).ok()?;
        let wrong = match self.state.get() {
            ClockState::Behind => "is behind",
            ClockState::Suspicious => "is far ahead of",
            ClockState::Synchronised | ClockState::Unsynchronised => return None,
        };
        Some(format!(
            "the clock says {:.0} and {wrong} {known:.0}, the latest time known and what has passed since; leases are \
             judged by that. Set the clock, or `plab node trust-clock`",
            Timestamp::now()
        ))
    }
}

/// Seconds since the kernel began, suspension included.
pub fn boottime() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// When the kernel began, by the clock as it is now.
pub fn boot_began() -> Timestamp {
    let began = Timestamp::now().as_second() - boottime();
    Timestamp::from_second(began).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn read() -> Reading {
    // SAFETY: all zeroes is a valid timex: it asks for nothing to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: timex is ours; with modes 0 the call only reads.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let synchronised = state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    Reading { now: Timestamp::now().as_second(), synchronised }
}

/// Follows the clock for as long as plabd runs: notes the time, and judges anew when the clock is set.
pub async fn follow(node: Rc<Node>) {
    if let Err(error) = watch(&node).await {
        node.events.report(None, "clock-not-followed", Severity::Error, error.to_string());
    }
}

/// Reports what is thought of the clock at the start.
pub fn begin(node: &Node) {
    if let Some(doubt) = node.clock.doubt() {
        report_doubt(node, doubt);
    }
}

fn report_doubt(node: &Node, doubt: String) {
    let kind = if node.clock.state() == ClockState::Behind { "clock-behind" } else { "clock-suspicious" };
    node.events.report(None, kind, Severity::Error, doubt);
}

async fn watch(node: &Rc<Node>) -> std::io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let timer = watched(timer, Interest::READABLE)?;
    loop {
        let pause = if node.clock.state().is_believed() { NOTE } else { LOOK };
        let at = clock_gettime(ClockId::Realtime).tv_sec + pause.as_secs().cast_signed();
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: at, tv_nsec: 0 },
        };
        // The kernel ends the wait when somebody sets the clock. Armed before the look: nothing in between is missed.
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(&timer, flags, &once) {
            // It was set since the timer was armed last; it is armed all the same (timerfd_create(2)).
            Ok(_) | Err(rustix::io::Errno::CANCELED) => {}
            Err(error) => return Err(error.into()),
        }
        judge_anew(node).await;
        timer.readable().await?.clear_ready();
        // The time passed, or ECANCELED: both are a reason to look.
        rustix::io::read(&timer, &mut [0; 8]).ok();
    }
}

/// Looks at the clock, tells what changed, notes the time.
pub async fn judge_anew(node: &Rc<Node>) {
    let before = node.clock.state();
    let jump = node.clock.look(read());
    let now = node.clock.state();
    if jump.abs() >= JUMP && now.is_believed() {
        let message = format!("by {jump} s, to {:.0}; every lease is judged anew", Timestamp::now());
        node.events.report(None, "clock-set", Severity::Notice, message);
    }
    if now != before {
        match node.clock.doubt() {
            Some(doubt) => report_doubt(node, doubt),
            None if !before.is_believed() => {
                let message = format!("it is {:.0}, {}", Timestamp::now(), now.name());
                node.events.report(None, "clock-believed", Severity::Notice, message);
            }
            None => {}
        }
    }
    if jump.abs() >= JUMP || now != before {
        node.world_changed();
        // By the corrected clock the boot began at another time.
        // A failure is the ledger's trouble, and told as such.
        node.boot.correct(&node.ledger, now).await.ok();
    }
    node.flows.tell_clock(&node.clock);
    // A failure is the ledger's trouble, and told as such.
    node.ledger.set_meta(LAST_SEEN, node.clock.now().to_string()).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 365 * 86_400;
    const THEN: i64 = 1_800_000_000;

    fn judged(now: i64, synchronised: bool, known: Option<i64>) -> ClockState {
        judge(Reading { now, synchronised }, known)
    }

    #[test]
    fn without_a_jump_no_clock_is_doubted() {
        assert_eq!(judged(THEN, false, None), ClockState::Unsynchronised);
        for passed in [-SLACK, 0, 1, 48 * 3600, AHEAD] {
            assert_eq!(judged(THEN + passed, false, Some(THEN)), ClockState::Unsynchronised, "{passed}");
        }
    }

    #[test]
    fn wrong_by_years_is_doubted_until_somebody_keeps_it_in_step() {
        assert_eq!(judged(THEN - 10 * YEAR, false, Some(THEN)), ClockState::Behind);
        assert_eq!(judged(THEN + 10 * YEAR, false, Some(THEN)), ClockState::Suspicious);
        for now in [THEN - 10 * YEAR, THEN, THEN + 10 * YEAR] {
            assert_eq!(judged(now, true, Some(THEN)), ClockState::Synchronised);
        }
    }

    fn clock(known: i64) -> Clock {
        Clock { known: Cell::new(Some((known, boottime()))), state: Cell::new(ClockState::Unsynchronised) }
    }

    #[test]
    fn a_doubted_clock_neither_ends_leases_nor_becomes_known() {
        let clock = clock(THEN);
        for (now, state) in
            [(THEN + 10 * YEAR, ClockState::Suspicious), (THEN - 10 * YEAR, ClockState::Behind)]
        {
            let jump = clock.look(Reading { now, synchronised: false });
            assert!((jump - (now - THEN)).abs() <= 2, "{jump}");
            assert_eq!(clock.state(), state);
            assert!((0..=2).contains(&(clock.now().as_second() - THEN)), "{}", clock.now());
            assert!(clock.doubt().expect("doubt").contains("trust-clock"));
        }
        // Set right, it is believed again.
        clock.look(Reading { now: THEN + 3600, synchronised: false });
        assert_eq!((clock.state(), clock.doubt()), (ClockState::Unsynchronised, None));
        assert!(clock.expected().is_some_and(|known| known >= THEN + 3600));
    }

    #[test]
    fn root_may_believe_it() {
        let clock = clock(THEN + 50 * YEAR);
        clock.look(read());
        if clock.state() == ClockState::Behind {
            clock.trust();
            clock.look(read());
        }
        assert!(clock.state().is_believed());
        assert!((clock.now().as_second() - Timestamp::now().as_second()).abs() <= 2);
    }
}
