//! The store's thread: takes records from the queue in batches, begins and seals segments, removes the oldest.
//!
//! A record can be found [`GATHER`] after it was delivered, and survives a crash of the process from then on. A power cut
//! takes what was written in the last [`TO_DISK`] and not more. Sealing has a thread of its own, so that no record waits for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::catalog::Catalog;
use crate::error::FlowError;
use crate::owner::Owners;
use crate::record::Flow;
use crate::seal;
use crate::segment::{Lost, OpenSegment};
use crate::store::StoreLimits;

/// How long the first record of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Records of one batch.
const BATCH: usize = 16_384;
/// Between two waits for the disk, while records come.
const TO_DISK: Duration = Duration::from_secs(10);
/// Between two attempts to write to a disk that takes no more.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at what is too old, and at what was lost.
const KEEP_HOUSE: Duration = Duration::from_secs(60);
/// Records of one segment: what a question may have to look at one by one, and what sealing sorts in memory.
const MOST_ROWS: u64 = 131_072;
/// A segment with fewer records is sealed after so long: the store forgets whole segments.
const MOST_AGE: Duration = Duration::from_secs(24 * 3600);
/// Segments that wait to be sealed.
const TO_SEAL: usize = 4;
/// A generous guess at the bytes of a record in an open segment.
const OPEN_ROW: u64 = 128;

/// What time it is, as a distance: the wall clock and CLOCK_BOOTTIME go at the same pace, but for the former being set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock's time when CLOCK_BOOTTIME was 0, in milliseconds since 1970.
    pub zero: i64,
    /// Whether the wall clock is believed. While it is not, nothing is removed for its age.
    pub believed: bool,
}

/// What is sent to the thread.
pub(crate) enum Job {
    /// A record.
    Flow(Flow),
    /// Write what was sent before, then answer.
    Flush(SyncSender<()>),
    /// Wake up: the store is closed.
    Close,
}

/// What the thread, the sinks and the readers share. No lock is held while the disk is waited for, but for a deletion.
pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    catalog: Mutex<Catalog>,
    owners: Mutex<Owners>,
    clock: Mutex<ClockReading>,
    trouble: Mutex<Option<String>>,
    not_sealed: Mutex<Option<String>>,
    /// Counted, and not yet in a segment.
    pub(crate) lost_kernel: AtomicU64,
    pub(crate) lost_store: AtomicU64,
    pub(crate) unread: AtomicU64,
    pub(crate) closing: AtomicBool,
}

/// What a panicked thread left is whole: nothing is changed in two steps under these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(directory: &Path, catalog: Catalog, clock: ClockReading) -> Self {
        Self {
            directory: directory.to_owned(),
            catalog: Mutex::new(catalog),
            owners: Mutex::default(),
            clock: Mutex::new(clock),
            trouble: Mutex::default(),
            not_sealed: Mutex::default(),
            lost_kernel: AtomicU64::new(0),
            lost_store: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        }
    }

    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        locked(&self.catalog)
    }

    pub(crate) fn owners(&self) -> MutexGuard<'_, Owners> {
        locked(&self.owners)
    }

    pub(crate) fn clock(&self) -> MutexGuard<'_, ClockReading> {
        locked(&self.clock)
    }

    /// Why nothing can be written at present, if so.
    pub(crate) fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        locked(&self.trouble)
    }

    /// Why a segment could not be sealed, if the last one could not. The writer's successes do not end that.
    pub(crate) fn not_sealed(&self) -> MutexGuard<'_, Option<String>> {
        locked(&self.not_sealed)
    }

    /// What was lost and is not in a segment yet.
    pub(crate) fn lost(&self) -> Lost {
        Lost {
            kernel: self.lost_kernel.load(Ordering::Relaxed),
            store: self.lost_store.load(Ordering::Relaxed),
            unread: self.unread.load(Ordering::Relaxed),
        }
    }

    /// Takes off what is in a segment now.
    fn accounted(&self, lost: Lost) {
        self.lost_kernel.fetch_sub(lost.kernel, Ordering::Relaxed);
        self.lost_store.fetch_sub(lost.store, Ordering::Relaxed);
        self.unread.fetch_sub(lost.unread, Ordering::Relaxed);
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// CLOCK_BOOTTIME in milliseconds.
pub(crate) fn boottime() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// The thread's own.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    boot: String,
    limits: StoreLimits,
    segment: Option<OpenSegment>,
    batch: Vec<Flow>,
    since: Option<Instant>,
    unsynced: Option<Instant>,
    house: Instant,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, boot: String, limits: StoreLimits) -> Self {
        let (batch, house) = (Vec::with_capacity(BATCH), Instant::now());
        Self { shared, boot, limits, segment: None, batch, since: None, unsynced: None, house }
    }

    /// Serves until the store is closed.
    pub(crate) fn serve(mut self, inbox: &Receiver<Job>) {
        let (to_seal, sealing) = mpsc::sync_channel(TO_SEAL);
        let shared = Arc::clone(&self.shared);
        let sealer =
            std::thread::Builder::new().name("flows-seal".into()).spawn(move || sealer(&shared, &sealing));
        let sealer = match sealer {
            Ok(sealer) => sealer,
            Err(error) => {
                *self.shared.trouble() = Some(format!("flow store: no thread for sealing: {error}"));
                return;
            }
        };
        self.begin(&to_seal);
        loop {
            let open = self.take(inbox);
            let due = self.since.is_some_and(|since| since.elapsed() >= GATHER);
            if self.batch.len() >= BATCH || due || !open {
                self.write();
            }
            self.roll(&to_seal);
            if self.unsynced.is_some_and(|since| since.elapsed() >= TO_DISK) {
                self.sync();
            }
            if self.house.elapsed() >= KEEP_HOUSE {
                self.keep_house();
            }
            if !open {
                break;
            }
        }
        self.end();
        drop(to_seal);
        // It panicked: told on standard error.
        sealer.join().ok();
    }

    /// Takes what has arrived, waiting for it; false when nothing more will come.
    fn take(&mut self, inbox: &Receiver<Job>) -> bool {
        if self.shared.closing() {
            return self.take_rest(inbox);
        }
        let until = [
            self.since.map(|since| since + GATHER),
            self.unsynced.map(|since| since + TO_DISK),
            Some(self.house + KEEP_HOUSE),
        ];
        let next = until.into_iter().flatten().min().unwrap_or(self.house);
        match inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(job) => self.accept(job),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.batch.len() < BATCH {
            match inbox.try_recv() {
                Ok(job) => self.accept(job),
                Err(_) => break,
            }
        }
        true
    }

    /// What is left when the store is closed, batch by batch; the queue bounds it.
    fn take_rest(&mut self, inbox: &Receiver<Job>) -> bool {
        while self.batch.len() < BATCH {
            match inbox.try_recv() {
                Ok(job) => self.accept(job),
                Err(_) => return false,
            }
        }
        true
    }

    fn accept(&mut self, job: Job) {
        match job {
            Job::Flow(flow) => {
                self.since.get_or_insert_with(Instant::now);
                self.batch.push(flow);
            }
            Job::Flush(answer) => {
                if self.commit().is_ok() {
                    // Whoever asked may have gone.
                    answer.send(()).ok();
                }
            }
            Job::Close => {}
        }
    }

    /// Goes on with the newest segment if it is of this boot; what else is not sealed, is sealed.
    fn begin(&mut self, to_seal: &SyncSender<u64>) {
        let unsealed = self.shared.catalog().unsealed();
        let newest = self.shared.catalog().newest();
        for seq in unsealed {
            let resumed = OpenSegment::resume(&self.shared.directory, seq);
            match resumed {
                Ok(segment) if seq == newest && segment.header.boot == self.boot => {
                    let mut owners = self.shared.owners();
                    for (cgroup, owner) in segment.known_owners() {
                        owners.set(cgroup, owner.clone());
                    }
                    self.shared.catalog().note(seq, &segment.header, segment.bytes());
                    self.segment = Some(segment);
                }
                // To have it resumed has counted that its end was not in order, if it was not.
                Ok(segment) => {
                    self.finish(segment);
                    // The queue is as long as the writer can leave segments behind.
                    to_seal.send(seq).ok();
                }
                Err(error) => *self.shared.not_sealed() = Some(error.to_string()),
            }
        }
        self.retain();
    }

    /// Writes the batch; waits if the disk takes no more, and lets the queue fill up meanwhile.
    fn write(&mut self) {
        while self.commit().is_err() {
            if self.shared.closing() {
                self.shared.lost_store.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
                self.batch.clear();
                return;
            }
            std::thread::park_timeout(RETRY);
        }
    }

    fn commit(&mut self) -> Result<(), ()> {
        let done = self.try_commit();
        self.troubled(done)
    }

    fn try_commit(&mut self) -> Result<(), FlowError> {
        let lost = self.shared.lost();
        let clock = *self.shared.clock();
        let changed = self.shared.catalog().clock_of(&self.boot).is_some_and(|known| known != clock);
        if self.batch.is_empty() && !lost.any() && !changed {
            self.since = None;
            return Ok(());
        }
        let segment = match &mut self.segment {
            Some(segment) => segment,
            none => {
                let seq = self.shared.catalog().newest() + 1;
                none.insert(OpenSegment::create(&self.shared.directory, seq, &self.boot, clock, boottime())?)
            }
        };
        // A copy: who tells of an owner does not wait for the disk.
        let owners = self.shared.owners().of(self.batch.iter().map(|flow| flow.cgroup));
        segment.append(&self.batch, &owners, lost, clock)?;
        self.shared.catalog().note(segment.seq, &segment.header, segment.bytes());
        self.shared.accounted(lost);
        self.batch.clear();
        self.since = None;
        self.unsynced.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Notes whether the store can be written.
    fn troubled(&self, done: Result<(), FlowError>) -> Result<(), ()> {
        let mut trouble = self.shared.trouble();
        match done {
            Ok(()) => {
                *trouble = None;
                Ok(())
            }
            Err(error) => {
                *trouble = Some(error.to_string());
                Err(())
            }
        }
    }

    fn most_rows(&self) -> u64 {
        MOST_ROWS.min(self.limits.max / 8 / OPEN_ROW).max(1024)
    }

    /// Leaves a segment that is full, or old, to be sealed.
    fn roll(&mut self, to_seal: &SyncSender<u64>) {
        let Some(segment) = &self.segment else { return };
        let age = boottime() - segment.header.base;
        let full = segment.header.rows >= self.most_rows();
        let old = segment.header.rows > 0 && age >= i64::try_from(MOST_AGE.as_millis()).unwrap_or(i64::MAX);
        if !full && !old {
            return;
        }
        let Some(segment) = self.segment.take() else { return };
        let seq = segment.seq;
        self.unsynced = None;
        self.finish(segment);
        // With sealing that far behind this waits: records are better counted as lost than gathered without end.
        to_seal.send(seq).ok();
        self.retain();
    }

    fn sync(&mut self) {
        self.unsynced = None;
        if let Some(segment) = &self.segment {
            let done = segment.to_disk();
            self.troubled(done).ok();
        }
    }

    fn keep_house(&mut self) {
        self.house = Instant::now();
        // What was lost is written, too; a failure is told as trouble.
        self.commit().ok();
        self.retain();
    }

    fn retain(&self) {
        let clock = *self.shared.clock();
        let keep = i64::try_from(self.limits.keep.as_millis()).unwrap_or(i64::MAX);
        let before = clock.believed.then(|| (clock.zero + boottime()).saturating_sub(keep));
        let done = self.shared.catalog().retain(self.limits.max, before);
        if let Err(error) = done {
            *self.shared.trouble() = Some(error.to_string());
        }
    }

    fn end(&mut self) {
        if self.commit().is_ok()
            && let Some(segment) = self.segment.take()
        {
            self.finish(segment);
        }
    }

    fn finish(&self, segment: OpenSegment) {
        let (seq, header) = (segment.seq, segment.header.clone());
        let finished = segment.finish().map(|bytes| self.shared.catalog().note(seq, &header, bytes));
        self.troubled(finished).ok();
    }
}

/// Seals what it is told to. A segment that cannot be sealed now (a full disk) can be asked as it is; the next start
/// tries again, unless it is the oldest and the store has no room for it any more.
fn sealer(shared: &Shared, sealing: &Receiver<u64>) {
    while let Ok(seq) = sealing.recv() {
        if !shared.catalog().begin_sealing(seq) {
            continue;
        }
        let done = seal::seal(&shared.directory, seq)
            .and_then(|()| shared.catalog().sealed(seq))
            .and_then(|()| seal::remove_open(&shared.directory, seq));
        shared.catalog().end_sealing();
        *shared.not_sealed() = done.err().map(|error| error.to_string());
    }
}
