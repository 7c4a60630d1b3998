//! The writer: takes all that is queued, writes it in one go, syncs once, calls back in order.
//!
//! While it syncs, the next group gathers by itself; no timer delays a lone operation.

use super::frame::{self, FLAG, Frame, Kind, frame_bytes};
use super::segment::{Change, Footer, HEADER_BLOCK_BYTES, Header, Known, Offsets, Previous};
use super::{CLOSED, Closing, Core, Entry, EntryKind, Failure, Record, Shared, SyncMode, WriterMode, reserve};
use crate::disk::DiskFile;
use crate::types::{LogId, Vote};
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

/// Payloads up to this size are copied beside their header: cheaper than a part of their own.
const COPY_BYTES_MAX: usize = 2048;

/// A group of fewer bytes is a small one: its sync costs more than its bytes.
const SMALL_BYTES: u64 = 32 << 10;

/// Zeros that are written at once ahead of small groups.
const ZEROS_BYTES: u64 = 64 << 10;

/// With fewer zeros ahead than this, more are written.
const ZEROS_LEFT: u64 = 8 << 10;

/// Bytes of a page of memory, or fewer.
const PAGE: u64 = 4 << 10;

/// The segment that is written.
#[derive(Debug)]
pub struct Active {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    /// Bytes reserved.
    pub allocated: u64,
    /// Where the next frame goes.
    pub at: u64,
    /// Bytes known to be durable.
    pub synced: u64,
    /// Every byte up to here was written, if only as a zero.
    zeroed: u64,
    /// Seed of the header checksums.
    pub seed: u32,
    /// Checksum over the header checksums so far.
    pub closing_crc: u32,
    /// Entries with their offsets in the footer to come, at most.
    pub entries: u32,
    /// First entry of each leader in this segment.
    pub leaders: Vec<LogId>,
}

impl Active {
    /// A segment whose header block is the next thing written, or was.
    pub fn new(reserve: reserve::Reserve, disk_id: u128, at: u64) -> Self {
        Active {
            number: reserve.number,
            file: reserve.file,
            allocated: reserve.bytes,
            at,
            synced: at,
            zeroed: at,
            seed: frame::seed(disk_id, reserve.number),
            closing_crc: 0,
            entries: 0,
            leaders: Vec::new(),
        }
    }

    /// Bytes needed to hold another frame and then the footer.
    fn end_with(&self, frame: u64) -> u64 {
        self.at + frame + frame_bytes(Footer::payload_bytes(self.entries + 1, self.leaders.len() + 1))
    }
}

/// A piece of the next write.
enum Part {
    /// Bytes of the arena up to here, from where the part before ended.
    Arena(usize),
    Shared(Bytes),
}

/// What is encoded and not written yet; it goes to the end of the active segment.
#[derive(Default)]
struct Run {
    arena: Vec<u8>,
    parts: Vec<Part>,
    start: u64,
}

impl Run {
    fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    fn close_part(&mut self) {
        let end = self.arena.len();
        match self.parts.last_mut() {
            Some(Part::Arena(last)) => *last = end,
            _ => self.parts.push(Part::Arena(end)),
        }
    }
}

/// The one that writes.
pub struct Writer {
    shared: Arc<Shared>,
    active: Active,
    /// After everything encoded.
    known: Known,
    /// The commit point that was written last.
    committed: Option<LogId>,
    /// The durable mark that was written last.
    marked: u64,
    /// The segment took a log reset: entries that follow belong into the next.
    ends_here: bool,
    time_ms: u64,
    run: Run,
    /// Bytes of the group that was written last.
    group_bytes: u64,
    changes: Vec<Change>,
}

/// Closes the log should the writer's thread, or a callback on it, panic: nobody would write any more.
struct TellOfPanic(Arc<Shared>);

impl Drop for TellOfPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&io::Error::other("the log's writer panicked"), Vec::new());
        }
    }
}

enum Next {
    Group(Vec<Record>),
    Idle,
    Closed(Closing),
    Failed,
}

impl Writer {
    /// A writer that goes on in `active`.
    pub fn new(shared: Arc<Shared>, active: Active, known: Known, time_ms: u64) -> Self {
        let marked = active.synced;
        Writer {
            shared,
            active,
            committed: known.committed,
            known,
            marked,
            ends_here: false,
            time_ms,
            run: Run::default(),
            group_bytes: 0,
            changes: Vec::new(),
        }
    }

    /// Writes until the log closes; the body of the writer's thread.
    pub fn run(mut self) {
        let _told = TellOfPanic(Arc::clone(&self.shared));
        loop {
            match self.next() {
                Next::Group(group) => {
                    self.write_group(group);
                    self.write_ahead();
                }
                Next::Idle => self.run_idle(),
                Next::Closed(Closing::Clean) => return self.finish(),
                Next::Closed(Closing::Dropped) | Next::Failed => return,
            }
        }
    }

    /// Writes what is queued.
    pub fn run_pending(&mut self) {
        loop {
            let mut core = self.shared.core.lock();
            if core.failure.is_some() || core.queue.is_empty() {
                while core.failure.is_none()
                    && core.reserves.len() < self.shared.options.reserve_segments
                    && reserve::add(&self.shared, &mut core)
                {}
                return;
            }
            let group = take_group(&mut core, self.shared.options.group_bytes);
            drop(core);
            self.write_group(group);
            self.write_ahead();
        }
    }

    /// Writes zeros ahead of small groups. A sync after bytes that no block was written for yet also changes the
    /// file's map of blocks, in the journal of the file system and for every file one after the other: half as long
    /// again. Large groups are not worth writing twice.
    fn write_ahead(&mut self) {
        let active = &mut self.active;
        let from = active.zeroed.max(active.at);
        if self.shared.options.sync != SyncMode::Every
            || self.group_bytes > SMALL_BYTES
            || from >= active.at + ZEROS_LEFT
        {
            return;
        }
        {
            let core = self.shared.core.lock();
            if core.failure.is_some() || !core.queue.is_empty() {
                return;
            }
        }
        let upto = (active.at + ZEROS_BYTES).min(active.allocated);
        active.zeroed = from;
        while active.zeroed < upto {
            // A page at a time: of what was written together, the system may write all again when a part changes.
            let end = upto.min(active.zeroed / PAGE * PAGE + PAGE);
            let zeros = &[0; PAGE as usize][..(end - active.zeroed) as usize];
            if let Err(error) = active.file.write_at(active.zeroed, &mut [IoSlice::new(zeros)]) {
                return self.shared.fail(&error, Vec::new());
            }
            active.zeroed = end;
        }
    }

    /// Writes the commit point and the durable mark where the next start finds them. Not synced: it only helps.
    pub fn run_idle(&mut self) {
        let committed = {
            let core = self.shared.core.lock();
            if core.failure.is_some() {
                return;
            }
            core.known.committed
        };
        if !self.wants_hint(committed) || self.ends_here || self.active.end_with(frame_bytes(0)) > self.active.allocated
        {
            return;
        }
        self.put_hint(committed);
        if let Err(error) = self.flush() {
            return self.shared.fail(&error, Vec::new());
        }
        let mut core = self.shared.core.lock();
        for change in self.changes.drain(..) {
            core.catalog.apply(change);
        }
    }

    /// Seals the segment and closes the log.
    pub fn finish(&mut self) {
        if self.shared.core.lock().failure.is_none()
            && let Err(error) = self.seal()
        {
            self.shared.fail(&error, Vec::new());
        }
        let mut core = self.shared.core.lock();
        if core.failure.is_none() {
            core.failure = Some(Failure { kind: io::ErrorKind::BrokenPipe, message: CLOSED.to_owned() });
            core.durable_end = core.durable_end.max(core.written_end);
            core.publish(&self.shared.marks);
        }
        drop(core);
        self.shared.marks.send_modify(|marks| marks.failed = true);
    }

    fn next(&self) -> Next {
        let mut core = self.shared.core.lock();
        loop {
            if core.failure.is_some() {
                return Next::Failed;
            }
            if !core.queue.is_empty() {
                return Next::Group(take_group(&mut core, self.shared.options.group_bytes));
            }
            if let Some(closing) = core.closing {
                return Next::Closed(closing);
            }
            let timed_out = self.shared.work.wait_for(&mut core, self.shared.options.idle_hint).timed_out();
            if timed_out && core.queue.is_empty() && self.wants_hint(core.known.committed) {
                return Next::Idle;
            }
        }
    }

    fn wants_hint(&self, committed: Option<LogId>) -> bool {
        committed != self.committed || self.active.synced > self.marked
    }

    fn write_group(&mut self, group: Vec<Record>) {
        if let Err(error) = self.try_write_group(&group) {
            return self.shared.fail(&error, group);
        }
        for done in group.into_iter().filter_map(Record::into_done) {
            done(Ok(()));
        }
    }

    fn try_write_group(&mut self, group: &[Record]) -> io::Result<()> {
        self.group_bytes = 0;
        let committed = self.shared.core.lock().known.committed;
        if committed != self.committed {
            self.make_room(frame_bytes(0))?;
            self.put_hint(committed);
        }
        let mut must_sync = self.shared.options.sync == SyncMode::Every;
        for record in group {
            match record {
                Record::Append { entries, .. } => {
                    for entry in entries {
                        must_sync |= entry.kind == EntryKind::Membership;
                        self.put_entry(entry)?;
                    }
                }
                Record::Vote { vote, .. } => {
                    must_sync = true;
                    self.put_vote(*vote)?;
                }
                Record::Truncate { after, .. } => self.put_truncate(*after)?,
                Record::Purge { upto } => {
                    self.make_room(frame_bytes(0))?;
                    self.known.purged = Some(*upto);
                    self.put(Kind::PurgeUpto, 0, *upto, None);
                }
                Record::Reset { to, .. } => {
                    self.make_room(frame_bytes(0))?;
                    self.known.purged = Some(*to);
                    self.known.last = Some(*to);
                    self.put(Kind::LogReset, 0, *to, None);
                    self.ends_here = true;
                }
                Record::Sync { .. } => must_sync = true,
            }
        }
        self.flush()?;
        if must_sync {
            self.sync()?;
        }
        let mut core = self.shared.core.lock();
        for change in self.changes.drain(..) {
            core.catalog.apply(change);
        }
        // The marks follow the newest record of the log as it is now; what was truncated since does not count.
        let epoch = core.epoch;
        let reached = group.iter().rev().find_map(|record| match record {
            Record::Append { entries, epoch: of, .. } if *of == epoch => entries.last().map(|entry| entry.id.index + 1),
            Record::Truncate { after, epoch: of } if *of == epoch => Some(after.map_or(0, |id| id.index + 1)),
            Record::Reset { to, epoch: of } if *of == epoch => Some(to.index + 1),
            _ => None,
        });
        if let Some(reached) = reached {
            core.written_end = core.written_end.max(reached);
        }
        if must_sync {
            core.durable_end = core.durable_end.max(core.written_end);
            core.durable_segment = self.active.number;
            core.durable_purged_end = core.durable_purged_end.max(self.known.purged.map_or(0, |id| id.index + 1));
        } else if self.active.synced == self.active.at {
            core.durable_segment = self.active.number;
        }
        let written_end = core.written_end;
        core.tail.shrink(self.shared.options.tail_cache_bytes, written_end);
        core.writing_since = None;
        core.publish(&self.shared.marks);
        Ok(())
    }

    fn put_entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.make_room(frame_bytes(entry.payload.len()))?;
        let kind = match entry.kind {
            EntryKind::Command => Kind::Command,
            EntryKind::Blank => Kind::Blank,
            EntryKind::Membership => Kind::Membership,
        };
        let offset = self.put(kind, 0, entry.id, Some((&entry.payload, entry.crc)));
        // Segments are shorter than 4 GiB, and a frame that makes one longer is its first.
        let offset = u32::try_from(offset).map_err(|_| io::Error::other("segment grew beyond 4 GiB"))?;
        self.changes.push(Change::Entry { index: entry.id.index, offset });
        self.active.entries += 1;
        if self.active.leaders.last().is_none_or(|last| (last.term, last.node) != (entry.id.term, entry.id.node)) {
            self.active.leaders.push(entry.id);
        }
        self.known.last = Some(entry.id);
        Ok(())
    }

    fn put_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.make_room(frame_bytes(0))?;
        self.known.vote = Some(vote);
        let id = LogId { term: vote.term, node: vote.node, index: 0 };
        self.put(Kind::Vote, if vote.committed { FLAG } else { 0 }, id, None);
        Ok(())
    }

    fn put_truncate(&mut self, after: Option<LogId>) -> io::Result<()> {
        self.make_room(frame_bytes(0))?;
        self.known.last = after;
        self.known.lower_committed();
        let from = after.map_or(0, |id| id.index + 1);
        self.put(Kind::TruncateAfter, if after.is_none() { FLAG } else { 0 }, after.unwrap_or_default(), None);
        while self.active.leaders.last().is_some_and(|leader| leader.index >= from) {
            self.active.leaders.pop();
        }
        self.changes.push(Change::Truncate { from });
        Ok(())
    }

    fn put_hint(&mut self, committed: Option<LogId>) {
        self.known.committed = committed;
        self.committed = committed;
        let flags = if committed.is_none() { FLAG } else { 0 };
        self.put(Kind::CommitHint, flags, committed.unwrap_or_default(), None);
    }

    /// Encodes a frame; gives its offset.
    fn put(&mut self, kind: Kind, flags: u8, id: LogId, payload: Option<(&Bytes, u32)>) -> u64 {
        self.time_ms = self.time_ms.max((self.shared.options.clock)()).max(1);
        let (payload_bytes, payload_crc) = payload.map_or((0, 0), |(payload, crc)| (payload.len(), crc));
        let frame = Frame {
            kind,
            flags,
            payload_bytes: payload_bytes as u32,
            payload_crc,
            id,
            durable: self.active.synced,
            time_ms: self.time_ms,
        };
        let (header, crc) = frame.encode(self.active.seed);
        if kind != Kind::SegmentFooter {
            self.active.closing_crc = crc32c::crc32c_append(self.active.closing_crc, &crc.to_le_bytes());
        }
        self.marked = self.active.synced;
        let offset = self.active.at;
        if self.run.parts.is_empty() {
            self.run.start = offset;
        }
        self.run.arena().extend_from_slice(&header);
        if let Some((payload, _)) = payload {
            if payload_bytes <= COPY_BYTES_MAX {
                self.run.arena().extend_from_slice(payload);
            } else {
                self.run.close_part();
                self.run.parts.push(Part::Shared(payload.clone()));
            }
        }
        let padding = frame.bytes() as usize - frame::HEADER_BYTES - payload_bytes;
        self.run.arena().extend_from_slice(&[0; 8][..padding]);
        self.run.close_part();
        self.active.at += frame.bytes();
        offset
    }

    /// Makes sure that a frame fits with the footer after it, in the next segment if need be.
    fn make_room(&mut self, frame: u64) -> io::Result<()> {
        if !self.ends_here && self.active.end_with(frame) <= self.active.allocated {
            return Ok(());
        }
        if self.ends_here || self.active.at > HEADER_BLOCK_BYTES {
            self.rotate()?;
        }
        let needed = self.active.end_with(frame);
        if needed > self.active.allocated {
            // A frame larger than a segment: its file grows before anything depends on it.
            let inline = self.shared.options.writer == WriterMode::Inline;
            reserve::extend(&self.shared, self.active.file.as_ref(), needed, inline)?;
            self.active.allocated = needed;
        }
        Ok(())
    }

    /// Seals the segment and goes on in the next.
    fn rotate(&mut self) -> io::Result<()> {
        let previous = self.seal()?;
        let inline = self.shared.options.writer == WriterMode::Inline;
        let reserve = reserve::take(&self.shared, self.active.number, inline)?;
        let first = self.known.last.map_or(0, |last| last.index + 1);
        let allocated = reserve.bytes;
        let number = reserve.number;
        self.active = Active::new(reserve, self.shared.owner.disk_id, HEADER_BLOCK_BYTES);
        self.active.synced = 0;
        self.marked = 0;
        self.ends_here = false;
        let header = Header {
            group: self.shared.owner.group.clone(),
            disk_id: self.shared.owner.disk_id,
            number,
            first,
            previous: Some(previous),
            known: self.known,
            created_ms: self.time_ms,
            allocated,
        };
        // The header goes out with the first frames.
        self.run.start = 0;
        self.run.arena().extend_from_slice(&header.encode());
        self.run.close_part();
        self.changes.push(Change::Begin { number, first, allocated, created_ms: self.time_ms });
        Ok(())
    }

    /// Writes the footer and syncs.
    fn seal(&mut self) -> io::Result<Previous> {
        self.flush()?;
        let (first, offsets) = {
            let mut core = self.shared.core.lock();
            for change in self.changes.drain(..) {
                core.catalog.apply(change);
            }
            match core.catalog.segments.back().map(|segment| (segment.first, &segment.offsets)) {
                Some((first, Offsets::Memory(offsets))) => (first, offsets.clone()),
                _ => return Err(io::Error::other("the segment that is written has its offsets in memory")),
            }
        };
        let closing_crc = self.active.closing_crc;
        let footer = Footer { first, entries: offsets.len() as u32, leaders: self.active.leaders.clone(), closing_crc };
        let payload = Bytes::from(footer.encode(&offsets));
        let crc = crc32c::crc32c(&payload);
        let footer_at = self.put(Kind::SegmentFooter, 0, LogId::default(), Some((&payload, crc)));
        self.flush()?;
        self.sync()?;
        let table_at = footer_at + (frame::HEADER_BYTES + footer.table_at()) as u64;
        self.changes.push(Change::Seal { table_at });
        let mut core = self.shared.core.lock();
        for change in self.changes.drain(..) {
            core.catalog.apply(change);
        }
        Ok(Previous {
            number: self.active.number,
            valid_bytes: self.active.at,
            footer_at: Some(footer_at),
            closing_crc,
        })
    }

    /// Hands what is encoded to the operating system.
    fn flush(&mut self) -> io::Result<()> {
        if self.run.parts.is_empty() {
            return Ok(());
        }
        let mut slices = Vec::with_capacity(self.run.parts.len());
        let mut from = 0;
        for part in &self.run.parts {
            match part {
                Part::Arena(end) => {
                    slices.push(IoSlice::new(&self.run.arena[from..*end]));
                    from = *end;
                }
                Part::Shared(bytes) => slices.push(IoSlice::new(bytes)),
            }
        }
        self.active.file.write_at(self.run.start, &mut slices)?;
        self.group_bytes += self.active.at - self.run.start;
        self.run.parts.clear();
        self.run.arena.clear();
        self.changes.push(Change::Written { bytes: self.active.at, last_ms: self.time_ms });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let start = Instant::now();
        if !sync_is_broken() {
            self.active.file.sync_data()?;
        }
        let end = Instant::now();
        self.active.synced = self.active.at;
        self.shared.core.lock().fsync.record(end - start, end);
        Ok(())
    }
}

/// Whether a test wants to see what happens when a sync does nothing.
fn sync_is_broken() -> bool {
    #[cfg(feature = "test-faults")]
    let broken = super::faults::sync_does_nothing();
    #[cfg(not(feature = "test-faults"))]
    let broken = false;
    broken
}

/// Takes the records of the next write: all, up to the cap of bytes, but at least one.
fn take_group(core: &mut Core, bytes_max: usize) -> Vec<Record> {
    let mut bytes = 0;
    let mut records = 0;
    for record in &core.queue {
        bytes += record.bytes();
        if records > 0 && bytes > bytes_max {
            break;
        }
        records += 1;
    }
    let group: Vec<Record> = core.queue.drain(..records).collect();
    core.queued_bytes -= group.iter().map(Record::bytes).sum::<usize>();
    core.writing_since = core.queued_since.take();
    if !core.queue.is_empty() {
        core.queued_since = Some(Instant::now());
    }
    group
}
