//! The segmented append-only log: Raft log, commit log and only copy of message bodies.
//!
//! ```text
//! append, save_vote, …  →  queue  →  writer: one write, one fdatasync for all that is queued  →  callbacks in order
//!                     ↘  tail (recent entries in memory)  →  read;  older entries: segment files  →  read
//! ```
//! Entries, votes, truncations, purges and commit hints are frames of one stream and nothing is overwritten, so
//! what survives a crash is a prefix of what was asked for, and it includes everything whose callback was called.
//! The first failed write or sync closes the log for ever: the operating system may have dropped the dirty pages,
//! and a second attempt would report success for data that is gone.
//!
//! [`frame`] and [`segment`] draw the bytes, [`recovery`] opens a log after any end of the process.

#[cfg(feature = "test-faults")]
pub mod faults;
mod figures;
pub mod frame;
mod pin;
mod read;
mod recovery;
mod reserve;
mod segment;
mod tail;
mod writer;

pub use figures::FsyncFigures;
pub use pin::LogPin;
pub use recovery::{OpenError, Recovery};

use crate::disk::Disk;
use crate::types::{LogId, Vote};
use bytes::Bytes;
use figures::FsyncRecorder;
use parking_lot::{Condvar, Mutex, RwLock};
use reserve::Reserve;
use segment::{Catalog, Known, OpenFiles};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tail::Tail;
use tokio::sync::watch;
use writer::Writer;

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A command of the state machine.
    Command,
    /// Nothing; a new leader's first entry.
    Blank,
    /// A membership.
    Membership,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who proposed it, and its place.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
    /// Content; at most [`frame::PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Bytes,
    /// CRC32C of the payload, computed once by the proposer and checked by every replica.
    pub crc: u32,
}

impl Entry {
    /// An entry, with the checksum computed here.
    #[must_use]
    pub fn new(id: LogId, kind: EntryKind, payload: Bytes) -> Self {
        let crc = crc32c::crc32c(&payload);
        Entry { id, kind, payload, crc }
    }

    /// The payload is what its proposer sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(&self.payload) == self.crc
    }
}

/// Called once the operation is durable, or with the error that closed the log. Called on the writer's thread, in
/// the order of the calls: it must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// To whom a log belongs. Frames of another disk or group are never read as our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOwner {
    /// Raft group; at most 255 bytes.
    pub group: String,
    /// Random id of the disk, fresh for every replica.
    pub disk_id: u128,
}

/// When operations are durable before their callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// Always.
    #[default]
    Every,
    /// Votes, memberships and [`Log::sync`]; other callbacks come once the operating system has the bytes.
    Votes,
}

/// Who carries out what is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriterMode {
    /// A thread of the log.
    #[default]
    Thread,
    /// Whoever calls [`Log::run_pending`]; for simulation.
    Inline,
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Bytes of a segment file, from 16 KiB to below 4 GiB; an entry that does not fit gets a larger file.
    pub segment_bytes: u64,
    /// When callbacks are called.
    pub sync: SyncMode,
    /// Bytes of recent entries kept in memory. What is not written yet is kept beyond it.
    pub tail_cache_bytes: usize,
    /// Bytes written before an fdatasync, so that a burst does not delay its first waiter; one entry may exceed it.
    pub group_bytes: usize,
    /// Segments that stay preallocated beside the one being written.
    pub reserve_segments: usize,
    /// Bytes of the file system that segments leave free for others; the disk counts as full before that.
    pub keep_free_bytes: u64,
    /// Segments that are begun have a higher number than this, whatever is there.
    pub number_after: u64,
    /// Who writes.
    pub writer: WriterMode,
    /// After this long without work the commit point and the durable mark are written down, unsynced.
    pub idle_hint: Duration,
    /// Milliseconds since 1970, for the store time of frames.
    pub clock: fn() -> u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 512 << 20,
            sync: SyncMode::Every,
            tail_cache_bytes: 64 << 20,
            group_bytes: 8 << 20,
            reserve_segments: 2,
            keep_free_bytes: 0,
            number_after: 0,
            writer: WriterMode::Thread,
            idle_hint: Duration::from_millis(100),
            clock: system_time_ms,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "frames say when they were written, for people; nothing decides by it")]
fn system_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Room that is left for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Preallocated segments that wait to be used.
    pub reserve_segments: usize,
    /// Preallocated segments that there should be.
    pub reserve_wanted: usize,
    /// A segment could not be preallocated for want of room, and the reserve is not complete again. What can wait
    /// must be refused until this is false: the reserve is for votes, acknowledgements and trims.
    pub full: bool,
}

/// What the log holds and how its disk does.
#[derive(Debug, Clone)]
pub struct LogState {
    /// The node's vote.
    pub vote: Option<Vote>,
    /// The Raft-visible log starts after this.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none after it.
    pub last: Option<LogId>,
    /// The highest commit point noted.
    pub committed: Option<LogId>,
    /// Index of the last entry that is durable.
    pub durable: Option<u64>,
    /// Index of the oldest entry whose payload can be read; may be below `purged`.
    pub first_readable: Option<u64>,
    /// Segment files, without the reserve.
    pub segments: usize,
    /// Bytes of the log on disk, without the reserve.
    pub bytes: u64,
    /// Bytes of entries in memory.
    pub tail_bytes: usize,
    /// Bytes queued and not taken by the writer yet.
    pub queued_bytes: usize,
    /// How long the oldest operation has been waiting for the disk.
    pub oldest_waiting: Option<Duration>,
    /// How long fdatasync takes.
    pub fsync: FsyncFigures,
    /// Room that is left.
    pub space: Space,
}

/// A segment file, for choosing what to trim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number.
    pub number: u64,
    /// Indexes of its entries.
    pub entries: Range<u64>,
    /// Bytes written.
    pub bytes: u64,
    /// When it was begun, milliseconds since 1970.
    pub created_ms: u64,
    /// When its last frame was written, milliseconds since 1970.
    pub last_ms: u64,
    /// Nothing is added to it any more.
    pub sealed: bool,
}

/// The log of one replica. Clones share it; dropping the last one waits until what is queued is written, and syncs
/// no more than that asked for. [`Log::close`] ends it cleanly.
///
/// [`Log::replace`] puts another log behind every clone at once; a call under way ends on the old one.
#[derive(Clone)]
pub struct Log {
    current: Arc<RwLock<Arc<Handle>>>,
}

struct Handle {
    shared: Arc<Shared>,
    inline: Option<Mutex<Writer>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Another log has taken its place: the folder goes with the last user.
    retired: AtomicBool,
}

/// Index after the last written and the last durable entry, as waiters see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Marks {
    written_end: u64,
    durable_end: u64,
    failed: bool,
}

/// What handles, writer and reserve share.
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    owner: LogOwner,
    options: LogOptions,
    files: OpenFiles,
    core: Mutex<Core>,
    /// Something was queued, or the log is closing. The writer waits for it.
    work: Condvar,
    /// The reserve shrank or grew, or the log is closing. The reserve's keeper and a stalled writer wait for it.
    reserve: Condvar,
    marks: watch::Sender<Marks>,
}

/// State behind the lock: what callers see at once, and what the writer has yet to do.
struct Core {
    /// After everything queued.
    known: Known,
    /// First entry of each leader, in order of index.
    leaders: Vec<LogId>,
    tail: Tail,
    catalog: Catalog,
    queue: VecDeque<Record>,
    queued_bytes: usize,
    /// When the oldest record of the queue came.
    queued_since: Option<Instant>,
    /// When the oldest record that the writer has taken came.
    writing_since: Option<Instant>,
    /// Counts truncations, so that an earlier append cannot raise the marks of the log that replaced it.
    epoch: u64,
    written_end: u64,
    durable_end: u64,
    /// The durable purge point: segments below may go.
    durable_purged_end: u64,
    /// The newest segment whose header is durable.
    durable_segment: u64,
    /// Number and first index of what somebody reads and must not be trimmed.
    pins: Vec<(u64, u64)>,
    next_pin: u64,
    reserves: VecDeque<Reserve>,
    next_number: u64,
    full: bool,
    failure: Option<Failure>,
    closing: Option<Closing>,
    fsync: FsyncRecorder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Carry out what is queued, seal the segment, sync.
    Clean,
    /// Carry out what is queued.
    Dropped,
}

/// The first error, told to everyone who comes later.
#[derive(Debug, Clone)]
struct Failure {
    kind: io::ErrorKind,
    message: String,
}

/// Something for the writer to do.
enum Record {
    Append { entries: Vec<Entry>, epoch: u64, done: Done },
    Vote { vote: Vote, done: Done },
    Truncate { after: Option<LogId>, epoch: u64 },
    Purge { upto: LogId },
    Reset { to: LogId, epoch: u64 },
    Sync { done: Done },
}

impl Record {
    fn bytes(&self) -> usize {
        match self {
            Record::Append { entries, .. } => {
                entries.iter().map(|entry| frame::HEADER_BYTES + entry.payload.len()).sum()
            }
            _ => frame::HEADER_BYTES,
        }
    }

    fn into_done(self) -> Option<Done> {
        match self {
            Record::Append { done, .. } | Record::Vote { done, .. } | Record::Sync { done } => Some(done),
            Record::Truncate { .. } | Record::Purge { .. } | Record::Reset { .. } => None,
        }
    }
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        Failure { kind: error.kind(), message: error.to_string() }
    }

    fn to_io(&self) -> io::Error {
        io::Error::new(self.kind, format!("the log is closed: {}", self.message))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.handle().shared.dir).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in `dir`, which is created when missing, and begins a new segment.
    ///
    /// Blocks while the newest segment is read through: below a second for 512 MiB on a common disk.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] when something that had been promised is damaged or missing: this replica must not vote
    /// any more. [`OpenError::Foreign`] for the log of another group or disk. [`OpenError::Io`] otherwise.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        owner: LogOwner,
        options: LogOptions,
    ) -> Result<(Log, Recovery), OpenError> {
        let opened = recovery::open(disk.as_ref(), dir, &owner, &options)?;
        let recovery = opened.recovery.clone();
        let end = opened.known.last.map_or(0, |last| last.index + 1);
        let core = Core {
            known: opened.known,
            leaders: opened.leaders,
            tail: Tail::starting_at(end),
            catalog: opened.catalog,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_since: None,
            writing_since: None,
            epoch: 0,
            written_end: end,
            durable_end: end,
            durable_purged_end: opened.known.purged.map_or(0, |purged| purged.index + 1),
            durable_segment: opened.active.number,
            pins: Vec::new(),
            next_pin: 0,
            reserves: opened.reserves,
            next_number: opened.next_number,
            full: opened.full,
            failure: None,
            closing: None,
            fsync: FsyncRecorder::default(),
        };
        let inline = options.writer == WriterMode::Inline;
        let shared = Arc::new(Shared {
            files: OpenFiles::new(Arc::clone(&disk), dir.to_path_buf()),
            disk,
            dir: dir.to_path_buf(),
            owner,
            options,
            core: Mutex::new(core),
            work: Condvar::new(),
            reserve: Condvar::new(),
            marks: watch::Sender::new(Marks { written_end: end, durable_end: end, failed: false }),
        });
        let writer = Writer::new(Arc::clone(&shared), opened.active, opened.known, opened.last_ms);
        let mut handle = Handle { shared, inline: None, threads: Mutex::default(), retired: AtomicBool::new(false) };
        if inline {
            handle.inline = Some(Mutex::new(writer));
        } else {
            let keeper = Arc::clone(&handle.shared);
            let threads = handle.threads.get_mut();
            threads.push(std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run())?);
            threads.push(std::thread::Builder::new().name("log-reserve".into()).spawn(move || reserve::keep(&keeper))?);
        }
        Ok((Log { current: Arc::new(RwLock::new(Arc::new(handle))) }, recovery))
    }

    /// Adds entries, which must follow the last one. Returns at once: they can be read, and `done` is called once
    /// they are durable (or, under [`SyncMode::Votes`], given to the operating system).
    ///
    /// Memory is the caller's to bound. Entries that do not follow one another are refused through `done`.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let handle = self.handle();
        let mut core = handle.shared.core.lock();
        if let Err(error) = core.check_open().and_then(|()| core.check_follows(&entries)) {
            drop(core);
            return done(Err(error));
        }
        for entry in &entries {
            core.note_leader(entry.id);
            core.tail.push(entry.clone());
            core.known.last = Some(entry.id);
        }
        let epoch = core.epoch;
        #[cfg(feature = "test-faults")]
        if faults::append_before_sync() {
            handle.shared.enqueue(core, Record::Append { entries, epoch, done: Box::new(|_| ()) });
            return done(Ok(()));
        }
        handle.shared.enqueue(core, Record::Append { entries, epoch, done });
    }

    /// Remembers the node's vote; `done` is called once it is durable, in every mode.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        let handle = self.handle();
        let mut core = handle.shared.core.lock();
        if let Err(error) = core.check_open() {
            drop(core);
            return done(Err(error));
        }
        core.known.vote = Some(vote);
        #[cfg(feature = "test-faults")]
        if faults::vote_before_sync() {
            handle.shared.enqueue(core, Record::Vote { vote, done: Box::new(|_| ()) });
            return done(Ok(()));
        }
        handle.shared.enqueue(core, Record::Vote { vote, done });
    }

    /// Removes the entries after `after`, all of them for `None`. Readers see it at once; it becomes durable before
    /// anything that is asked for later.
    ///
    /// # Errors
    /// The error that closed the log. `InvalidInput` for an id below the purge point or beyond the last entry.
    pub fn truncate_after(&self, after: Option<LogId>) -> io::Result<()> {
        let handle = self.handle();
        let mut core = handle.shared.core.lock();
        core.check_open()?;
        let end = after.map_or(0, |id| id.index + 1);
        let purged_end = core.known.purged.map_or(0, |purged| purged.index + 1);
        let last_end = core.known.last.map_or(0, |last| last.index + 1);
        if end < purged_end || end > last_end {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot truncate to {end}: the log is {purged_end}..{last_end}"),
            ));
        }
        core.known.last = after;
        core.known.lower_committed();
        core.truncate_view(end);
        core.epoch += 1;
        core.publish(&handle.shared.marks);
        let epoch = core.epoch;
        handle.shared.enqueue(core, Record::Truncate { after, epoch });
        Ok(())
    }

    /// Moves the start of the Raft-visible log to after `upto`. Payloads before it can be read until
    /// [`Log::trim`]. An id beyond the last entry means that a snapshot took the place of the log, which goes on
    /// after that id.
    ///
    /// # Errors
    /// The error that closed the log.
    pub fn purge_upto(&self, upto: LogId) -> io::Result<()> {
        let handle = self.handle();
        let mut core = handle.shared.core.lock();
        core.check_open()?;
        if core.known.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        core.known.purged = Some(upto);
        if core.known.committed.is_none_or(|committed| committed.index < upto.index) {
            core.known.committed = Some(upto);
        }
        if core.known.last.is_some_and(|last| last.index >= upto.index) {
            handle.shared.enqueue(core, Record::Purge { upto });
        } else {
            core.known.last = Some(upto);
            core.leaders.clear();
            core.tail.reset(upto.index + 1);
            core.epoch += 1;
            let epoch = core.epoch;
            handle.shared.enqueue(core, Record::Reset { to: upto, epoch });
        }
        Ok(())
    }

    /// Notes that entries up to `committed` are committed. It is written with the next frame, or when the log has
    /// been idle, and may be forgotten in a crash.
    pub fn note_committed(&self, committed: LogId) {
        let handle = self.handle();
        let mut core = handle.shared.core.lock();
        if core.known.committed.is_none_or(|known| known.index < committed.index) {
            core.known.committed = Some(committed);
        }
    }

    /// Makes everything asked for so far durable, in every mode.
    pub fn sync(&self, done: Done) {
        let handle = self.handle();
        let core = handle.shared.core.lock();
        if let Err(error) = core.check_open() {
            drop(core);
            return done(Err(error));
        }
        handle.shared.enqueue(core, Record::Sync { done });
    }

    /// Deletes segments all of whose entries are below `index`, durably purged, and under no pin. Gives the number
    /// deleted.
    ///
    /// Blocks for a directory sync per segment.
    ///
    /// # Errors
    /// The error that closed the log, which a failed removal or directory sync does.
    pub fn trim(&self, index: u64) -> io::Result<usize> {
        let handle = self.handle();
        let shared = &handle.shared;
        let mut trimmed = 0;
        loop {
            let number = {
                let mut core = shared.core.lock();
                core.check_open()?;
                let below = index.min(core.durable_purged_end).min(core.pinned().unwrap_or(u64::MAX));
                let durable = core.durable_segment;
                let segments = &mut core.catalog.segments;
                // The successor carries on what this segment's frames said, once its header is durable.
                let successor = segments.get(1).map(|segment| segment.number);
                match (segments.front(), successor) {
                    (Some(oldest), Some(next)) if next <= durable && oldest.sealed && oldest.highest_end <= below => {
                        let number = oldest.number;
                        segments.pop_front();
                        number
                    }
                    _ => return Ok(trimmed),
                }
            };
            shared.files.forget(number);
            // One by one, so that a missing segment between two others always is a loss and never a trim.
            let removed = shared
                .disk
                .remove(&segment::segment_path(&shared.dir, number))
                .and_then(|()| shared.disk.sync_dir(&shared.dir));
            if let Err(error) = removed {
                shared.fail(&error, Vec::new());
                return Err(error);
            }
            trimmed += 1;
        }
    }

    /// Index of the last durable entry.
    #[must_use]
    pub fn durable(&self) -> Option<u64> {
        let handle = self.handle();
        handle.shared.marks.borrow().durable_end.checked_sub(1)
    }

    /// Waits until the entry at `index` is durable.
    ///
    /// # Errors
    /// The error that closed the log.
    pub async fn wait_durable(&self, index: u64) -> io::Result<()> {
        self.wait_marks(|marks| marks.durable_end > index).await
    }

    /// Waits until the operating system has the entry at `index`.
    ///
    /// # Errors
    /// The error that closed the log.
    pub async fn wait_written(&self, index: u64) -> io::Result<()> {
        self.wait_marks(|marks| marks.written_end > index).await
    }

    async fn wait_marks(&self, reached: impl Fn(&Marks) -> bool) -> io::Result<()> {
        let handle = self.handle();
        let mut marks = handle.shared.marks.subscribe();
        let seen = marks.wait_for(|marks| marks.failed || reached(marks)).await.map(|marks| reached(&marks));
        if seen.unwrap_or(false) { Ok(()) } else { Err(self.failure().unwrap_or_else(closed)) }
    }

    /// Resolves once the log is closed for ever, with the reason.
    pub async fn failed(&self) -> io::Error {
        let handle = self.handle();
        // An error here would mean that the sender is gone, which this handle keeps.
        let _ = handle.shared.marks.subscribe().wait_for(|marks| marks.failed).await;
        self.failure().unwrap_or_else(closed)
    }

    /// The error that closed the log.
    #[must_use]
    pub fn failure(&self) -> Option<io::Error> {
        let handle = self.handle();
        handle.shared.core.lock().failure.as_ref().map(Failure::to_io)
    }

    /// Folder of the segments.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.handle().shared.dir.clone()
    }

    /// Room that is left.
    #[must_use]
    pub fn space(&self) -> Space {
        let handle = self.handle();
        handle.shared.core.lock().space(&handle.shared.options)
    }

    /// What the log holds and how its disk does.
    #[must_use]
    pub fn state(&self) -> LogState {
        let handle = self.handle();
        let core = handle.shared.core.lock();
        let oldest = [core.writing_since, core.queued_since].into_iter().flatten().min();
        LogState {
            vote: core.known.vote,
            purged: core.known.purged,
            last: core.known.last,
            committed: core.known.committed,
            durable: core.durable_end.checked_sub(1),
            first_readable: core
                .catalog
                .first()
                .or_else(|| core.tail.get(core.tail.first()).map(|first| first.id.index)),
            segments: core.catalog.segments.len(),
            bytes: core.catalog.segments.iter().map(|segment| segment.bytes).sum(),
            tail_bytes: core.tail.bytes(),
            queued_bytes: core.queued_bytes,
            oldest_waiting: oldest.map(|since| since.elapsed()),
            fsync: core.fsync.figures(),
            space: core.space(&handle.shared.options),
        }
    }

    /// The segment files, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSummary> {
        let handle = self.handle();
        let core = handle.shared.core.lock();
        let summary = |segment: &segment::Segment| SegmentSummary {
            number: segment.number,
            entries: segment.first..segment.end(),
            bytes: segment.bytes,
            created_ms: segment.created_ms,
            last_ms: segment.last_ms,
            sealed: segment.sealed,
        };
        core.catalog.segments.iter().map(summary).collect()
    }

    /// Indexes of the entries of the Raft-visible log.
    #[must_use]
    pub fn visible(&self) -> Range<u64> {
        let handle = self.handle();
        let core = handle.shared.core.lock();
        let first = match core.known.purged {
            Some(purged) => purged.index + 1,
            None => core.leaders.first().map_or(0, |first| first.index),
        };
        first..core.known.last.map_or(first, |last| last.index + 1).max(first)
    }

    /// The id of the entry at `index`, which the Raft-visible log must have, or of the purge point.
    #[must_use]
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        let handle = self.handle();
        handle.shared.core.lock().log_id(index)
    }

    /// The first id of each leader in `range`, and the last id, in order; what of the range exists.
    #[must_use]
    pub fn key_log_ids(&self, range: Range<u64>) -> Vec<LogId> {
        let handle = self.handle();
        let core = handle.shared.core.lock();
        let Some(last) = core.known.last else { return Vec::new() };
        let purged_end = core.known.purged.map_or(0, |purged| purged.index);
        let start = range.start.max(purged_end).max(core.leaders.first().map_or(last.index, |first| first.index));
        let Some(end) = range.end.min(last.index + 1).checked_sub(1).filter(|&end| end >= start) else {
            return Vec::new();
        };
        let inside = core.leaders.iter().copied().filter(|leader| leader.index > start && leader.index <= end);
        let mut ids: Vec<LogId> = core.log_id(start).into_iter().chain(inside).collect();
        if let Some(last) = core.log_id(end)
            && ids.last() != Some(&last)
        {
            ids.push(last);
        }
        ids
    }

    /// Carries out what is queued, on this thread. Does nothing for a log with a thread of its own.
    pub fn run_pending(&self) {
        let handle = self.handle();
        if let Some(writer) = &handle.inline {
            writer.lock().run_pending();
        }
    }

    /// Writes down the commit point and the durable mark, as a thread does when idle; see [`LogOptions::idle_hint`].
    pub fn run_idle(&self) {
        let handle = self.handle();
        if let Some(writer) = &handle.inline {
            writer.lock().run_idle();
        }
    }

    /// Carries out what is queued, seals the segment, syncs, and closes the log. Blocks.
    ///
    /// # Errors
    /// The error that closed the log before.
    pub fn close(&self) -> io::Result<()> {
        let handle = self.handle();
        {
            let mut core = handle.shared.core.lock();
            if let Some(failure) = &core.failure {
                return Err(failure.to_io());
            }
            core.closing = Some(Closing::Clean);
            handle.shared.work.notify_all();
            handle.shared.reserve.notify_all();
        }
        if let Some(writer) = &handle.inline {
            writer.lock().run_pending();
            writer.lock().finish();
        }
        for thread in std::mem::take(&mut *handle.threads.lock()) {
            // A panic of the thread was reported by the panic hook; the state tells whether all was written.
            let _ = thread.join();
        }
        match &handle.shared.core.lock().failure {
            Some(failure) if failure.message != CLOSED => Err(failure.to_io()),
            _ => Ok(()),
        }
    }

    fn handle(&self) -> Arc<Handle> {
        self.current.read().clone()
    }
}

/// Message of the failure that stands for an orderly end.
const CLOSED: &str = "closed";

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, CLOSED)
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut core = self.shared.core.lock();
        if core.closing.is_none() {
            core.closing = Some(Closing::Dropped);
        }
        drop(core);
        self.shared.work.notify_all();
        self.shared.reserve.notify_all();
        for thread in std::mem::take(self.threads.get_mut()) {
            // The last handle may be dropped by a callback, on the writer's own thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        if self.retired.load(Ordering::Relaxed)
            && let Err(error) = self.shared.disk.remove_dir_all(&self.shared.dir)
        {
            tracing::warn!(dir = %self.shared.dir.display(), %error, "a replaced log stays until the next start");
        }
    }
}

impl Shared {
    fn enqueue(&self, mut core: parking_lot::MutexGuard<'_, Core>, record: Record) {
        core.queued_bytes += record.bytes();
        if core.queue.is_empty() {
            core.queued_since = Some(Instant::now());
        }
        core.queue.push_back(record);
        drop(core);
        self.work.notify_one();
    }

    /// Closes the log for ever and tells everyone, `taken` first.
    fn fail(&self, error: &io::Error, taken: Vec<Record>) {
        let (failure, queue) = {
            let mut core = self.core.lock();
            let failure = core.failure.get_or_insert_with(|| Failure::of(error)).clone();
            core.queued_bytes = 0;
            core.queued_since = None;
            (failure, std::mem::take(&mut core.queue))
        };
        self.marks.send_modify(|marks| marks.failed = true);
        self.work.notify_all();
        self.reserve.notify_all();
        for done in taken.into_iter().chain(queue).filter_map(Record::into_done) {
            done(Err(failure.to_io()));
        }
    }
}

impl Core {
    fn check_open(&self) -> io::Result<()> {
        match (&self.failure, self.closing) {
            (Some(failure), _) => Err(failure.to_io()),
            (None, Some(_)) => Err(closed()),
            (None, None) => Ok(()),
        }
    }

    fn check_follows(&self, entries: &[Entry]) -> io::Result<()> {
        let first = match (self.known.last, entries.first()) {
            (Some(last), _) => last.index + 1,
            // A log that holds nothing may begin anywhere.
            (None, Some(first)) => first.id.index,
            (None, None) => 0,
        };
        for (entry, next) in entries.iter().zip(first..) {
            if entry.id.index != next || entry.payload.len() > frame::PAYLOAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("entry {} of {} bytes cannot be at {next}", entry.id, entry.payload.len()),
                ));
            }
        }
        Ok(())
    }

    fn note_leader(&mut self, id: LogId) {
        if self.leaders.last().is_none_or(|last| (last.term, last.node) != (id.term, id.node)) {
            self.leaders.push(id);
        }
    }

    /// Removes entries from `end` on from what readers see in memory, and takes the marks back.
    fn truncate_view(&mut self, end: u64) {
        self.tail.truncate(end);
        while self.leaders.last().is_some_and(|leader| leader.index >= end) {
            self.leaders.pop();
        }
        self.written_end = self.written_end.min(end);
        self.durable_end = self.durable_end.min(end);
    }

    /// Tells waiters the marks. Under the lock, so that they never see an older state after a newer one.
    fn publish(&self, marks: &watch::Sender<Marks>) {
        marks.send_modify(|marks| {
            marks.written_end = self.written_end;
            marks.durable_end = self.durable_end;
        });
    }

    fn log_id(&self, index: u64) -> Option<LogId> {
        if self.known.last.is_none_or(|last| index > last.index) {
            return None;
        }
        match self.known.purged {
            Some(purged) if index < purged.index => return None,
            Some(purged) if index == purged.index => return Some(purged),
            _ => {}
        }
        let leader = self.leaders[..self.leaders.partition_point(|leader| leader.index <= index)].last()?;
        Some(LogId { index, ..*leader })
    }

    fn space(&self, options: &LogOptions) -> Space {
        Space { reserve_segments: self.reserves.len(), reserve_wanted: options.reserve_segments, full: self.full }
    }
}
