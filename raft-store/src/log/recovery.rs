//! Opening a log after any end of the process: go on, cut a torn tail, or refuse what is damaged.
//!
//! 1. Headers form a chain: each states where its predecessor ends, so only the newest segment can have a torn tail.
//! 2. A sealed segment is trusted by its footer. One that was cut by an earlier recovery has its footer in the
//!    segment begun then; should that be missing, it is read through.
//! 3. The newest segment is read frame by frame. At the first place P that is no frame, a later frame that was
//!    built when P was durable already proves damage. So does a frame that is there as a whole and fails its
//!    checksum: power loss leaves sectors unwritten, it does not change bits. Anything else is a torn tail, which
//!    was promised to nobody.
//! 4. A new segment is begun, always. Its header says where the old one ends, so the old tail is never written to.
//!
//! Files without a header are reserves of an earlier start. They are emptied before they are used under a new
//! number, so that nothing an interrupted write left in them can be read again.

use super::frame::{FLAG, Frame, HEADER_BYTES, Kind, NoFrame, seed};
use super::reserve::{self, NoReserve, Reserve};
use super::segment::{
    Catalog, Change, Footer, HEADER_BLOCK_BYTES, HEADER_USED_BYTES, Header, Known, NoHeader, Offsets, Previous,
    segment_number, segment_path,
};
use super::writer::Active;
use super::{LogOptions, LogOwner};
use crate::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use crate::types::{LogId, Vote};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// Bytes that disks write as a whole.
const SECTOR_BYTES: u64 = 512;
/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// A stretch of zeros this long, several times the largest usual write, ends the search for later frames.
const ZEROS_MAX: u64 = 32 << 20;
/// Bytes at the end of a payload that are checked for a single flipped bit; half a second of work.
const ONE_BIT_BYTES_MAX: usize = 32 << 20;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something promised is damaged or missing. The replica must neither vote nor lead; it comes back as a new one.
    #[error("segment {segment} of the log is corrupt at offset {offset}: {what}")]
    Corrupt {
        /// Number of the segment.
        segment: u64,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The log belongs to another group or disk.
    #[error("the log belongs to group {group} and disk {disk_id:032x}")]
    Foreign {
        /// Its group.
        group: String,
        /// Its disk id.
        disk_id: u128,
    },
    /// The operating system failed, or the options make no sense.
    #[error("log files cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// What an opened log knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The node's vote.
    pub vote: Option<Vote>,
    /// The Raft-visible log starts after this.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when none follows it.
    pub last: Option<LogId>,
    /// A commit point that was noted; the real one may be higher.
    pub committed: Option<LogId>,
    /// Bytes of a torn tail that were cut. They were promised to nobody.
    pub cut_bytes: u64,
    /// Number of the segment begun at this start. Strictly higher at every start of this log.
    pub first_segment_number: u64,
}

/// A log that is ready to be written to.
#[derive(Debug)]
pub struct Opened {
    pub recovery: Recovery,
    pub known: Known,
    pub leaders: Vec<LogId>,
    pub catalog: Catalog,
    pub active: Active,
    pub reserves: VecDeque<Reserve>,
    pub next_number: u64,
    pub full: bool,
    pub last_ms: u64,
}

fn corrupt(segment: u64, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Corrupt { segment, offset, what: what.into() }
}

/// Opens a log and begins a new segment.
pub fn open(disk: &dyn Disk, dir: &Path, owner: &LogOwner, options: &LogOptions) -> Result<Opened, OpenError> {
    check_options(owner, options)?;
    disk.create_dir_all(dir)?;
    let files = survey(disk, dir, owner)?;
    let mut log = Replay::default();
    let mut previous = None;
    let mut cut_bytes = files.discarded_bytes;
    let mut oversized = None;
    for (position, header) in files.chain.iter().enumerate() {
        let successor = files.chain.get(position + 1);
        let file = disk.open(&segment_path(dir, header.number), OpenMode::Write)?;
        log.begin(header);
        let end = match successor.and_then(|next| next.previous) {
            Some(stated) => {
                if let Some(next) = successor {
                    let next_file = disk.open(&segment_path(dir, next.number), OpenMode::Read)?;
                    let sealed =
                        Sealed { file: file.as_ref(), number: header.number, stated, next, next_file: &*next_file };
                    sealed.load(owner, &mut log)?;
                }
                stated
            }
            None => {
                let (end, cut) = load_newest(file.as_ref(), header, owner, &mut log)?;
                // After a kill the end may only be in memory of the operating system; the new header vouches for it.
                file.sync_data()?;
                cut_bytes += cut;
                oversized = Some(Arc::clone(&file));
                end
            }
        };
        previous = Some(end);
    }
    log.check_complete()?;

    let mut known = log.known;
    // The hint for an entry may be written before the entry is.
    known.lower_committed();
    let footer = previous.filter(|end| end.footer_at.is_none()).and_then(|end| log.footer_of_last(end.closing_crc));
    let past = Past { previous, footer, known, last_ms: log.last_ms };
    let begun = begin(disk, dir, owner, options, &files, past)?;
    log.catalog.apply(Change::Begin {
        number: begun.active.number,
        first: known.last.map_or(0, |last| last.index + 1),
        allocated: begun.active.allocated,
        created_ms: begun.created_ms,
    });
    if let (Some(file), Some(end)) = (oversized, previous) {
        // The new header says where the old segment ends. What was reserved beyond it is given back.
        file.set_len(end.valid_bytes)?;
        file.sync_data()?;
    }
    if cut_bytes > 0 {
        tracing::warn!(dir = %dir.display(), cut_bytes, "cut the torn tail of the log");
    }
    let recovery = Recovery {
        vote: known.vote,
        purged: known.purged,
        last: known.last,
        committed: known.committed,
        cut_bytes,
        first_segment_number: begun.active.number,
    };
    Ok(Opened {
        recovery,
        known,
        leaders: log.leaders,
        catalog: log.catalog,
        active: begun.active,
        reserves: begun.reserves,
        next_number: begun.next_number,
        full: begun.full,
        last_ms: begun.created_ms,
    })
}

fn check_options(owner: &LogOwner, options: &LogOptions) -> Result<(), OpenError> {
    let fault = if owner.group.len() > super::segment::GROUP_BYTES_MAX {
        Some("the group's name is longer than 255 bytes")
    } else if !(16 << 10..=u64::from(u32::MAX)).contains(&options.segment_bytes) {
        Some("segments must have 16 KiB to 4 GiB")
    } else {
        None
    };
    match fault {
        Some(fault) => Err(io::Error::new(io::ErrorKind::InvalidInput, fault).into()),
        None => Ok(()),
    }
}

/// The files of a log directory.
struct Survey {
    /// Headers of the log's segments, oldest first.
    chain: Vec<Header>,
    /// Files without a header, in order of their number.
    blank: Vec<u64>,
    /// Highest number of any file.
    highest: u64,
    /// Bytes of a segment that was begun but never synced.
    discarded_bytes: u64,
}

fn survey(disk: &dyn Disk, dir: &Path, owner: &LogOwner) -> Result<Survey, OpenError> {
    let numbers: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| segment_number(name)).collect();
    let mut headers = BTreeMap::new();
    let mut others = Vec::new();
    for &number in &numbers {
        let file = disk.open(&segment_path(dir, number), OpenMode::Read)?;
        let mut bytes = [0; HEADER_USED_BYTES];
        let read = file.read_at(0, &mut bytes)?;
        if (1..HEADER_USED_BYTES).contains(&read) {
            return Err(corrupt(number, read as u64, "the file was cut inside its header"));
        }
        bytes[read..].fill(0);
        match Header::decode(&bytes) {
            Ok(header) if header.group != owner.group || header.disk_id != owner.disk_id => {
                return Err(OpenError::Foreign { group: header.group, disk_id: header.disk_id });
            }
            Ok(header) if header.number != number => {
                return Err(corrupt(number, 0, format!("the header is that of segment {}", header.number)));
            }
            Ok(header) => {
                headers.insert(number, header);
            }
            Err(NoHeader::Version(version)) => {
                return Err(OpenError::Io(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("segment {number} has format version {version}, which this program does not know"),
                )));
            }
            Err(NoHeader::Blank) => others.push((number, file)),
            Err(NoHeader::Bad) => return Err(corrupt(number, 0, "the header fails its checksum")),
        }
    }
    let newest = headers.keys().next_back().copied().unwrap_or(0);
    let mut discarded_bytes = 0;
    for (number, file) in &others {
        let found = later_frames(file.as_ref(), seed(owner.disk_id, *number), 0)?;
        if let Some(offset) = found.proof {
            return Err(corrupt(
                *number,
                0,
                format!("the header is gone; the frame at {offset} proves that it was synced"),
            ));
        }
        if *number > newest {
            discarded_bytes += found.bytes;
        }
    }
    let mut chain = Vec::new();
    let mut at = headers.remove(&newest);
    while let Some(header) = at {
        at = header.previous.and_then(|previous| headers.remove(&previous.number));
        chain.push(header);
    }
    chain.reverse();
    if let (Some(stray), Some(oldest)) = (headers.keys().next(), chain.first()) {
        // Trims remove the oldest segment first, each durably before the next.
        return Err(corrupt(*stray, 0, format!("segments between it and segment {} are missing", oldest.number)));
    }
    Ok(Survey {
        chain,
        blank: others.into_iter().map(|(number, _)| number).collect(),
        highest: numbers.iter().copied().max().unwrap_or(0),
        discarded_bytes,
    })
}

/// The log as far as its segments have been read.
#[derive(Default)]
struct Replay {
    known: Known,
    catalog: Catalog,
    leaders: Vec<LogId>,
    /// The oldest segment's header says where the log began.
    begun: bool,
    last_ms: u64,
    /// A log reset must be the last of its segment's entries.
    reset: bool,
}

impl Replay {
    fn begin(&mut self, header: &Header) {
        if !self.begun {
            self.known = header.known;
            self.begun = true;
        }
        self.reset = false;
        self.last_ms = self.last_ms.max(header.created_ms);
        self.catalog.apply(Change::Begin {
            number: header.number,
            first: header.first,
            allocated: header.allocated,
            created_ms: header.created_ms,
        });
    }

    fn truncate(&mut self, from: u64) {
        while self.leaders.last().is_some_and(|leader| leader.index >= from) {
            self.leaders.pop();
        }
        self.catalog.apply(Change::Truncate { from });
    }

    fn note_leader(&mut self, id: LogId) {
        if self.leaders.last().is_none_or(|last| (last.term, last.node) != (id.term, id.node)) {
            self.leaders.push(id);
        }
    }

    /// Carries out a frame; `Err` says why it makes no sense.
    fn apply(&mut self, frame: &Frame, offset: u64) -> Result<(), String> {
        self.last_ms = self.last_ms.max(frame.time_ms);
        let known = &mut self.known;
        match frame.kind {
            Kind::Command | Kind::Blank | Kind::Membership => {
                if self.reset {
                    return Err("an entry follows a log reset in its segment".to_owned());
                }
                if let Some(last) = known.last
                    && last.index + 1 != frame.id.index
                {
                    return Err(format!("entry {} follows {last}", frame.id));
                }
                known.last = Some(frame.id);
                self.note_leader(frame.id);
                let offset = u32::try_from(offset).map_err(|_| "an entry beyond 4 GiB".to_owned())?;
                self.catalog.apply(Change::Entry { index: frame.id.index, offset });
            }
            Kind::Vote => {
                let committed = frame.flags & FLAG != 0;
                known.vote = Some(Vote { term: frame.id.term, node: frame.id.node, committed });
            }
            Kind::TruncateAfter => {
                let after = (frame.flags & FLAG == 0).then_some(frame.id);
                known.last = after;
                known.lower_committed();
                self.truncate(after.map_or(0, |id| id.index + 1));
            }
            Kind::PurgeUpto => {
                known.purged = Some(frame.id);
                known.raise_committed(frame.id);
            }
            Kind::CommitHint if frame.flags & FLAG == 0 => known.raise_committed(frame.id),
            Kind::CommitHint => {}
            Kind::LogReset => {
                known.purged = Some(frame.id);
                known.last = Some(frame.id);
                known.raise_committed(frame.id);
                self.leaders.clear();
                self.reset = true;
            }
            Kind::SegmentFooter => return Err("a footer inside a segment".to_owned()),
        }
        Ok(())
    }

    /// Takes over what a segment's footer, in segment `file` at `at`, says of its entries.
    fn apply_footer(&mut self, footer: &Footer, file: u64, at: u64, bytes: u64, time_ms: u64) {
        if footer.entries > 0 {
            self.truncate(footer.first);
            if let Some(segment) = self.catalog.segments.back_mut() {
                segment.first = footer.first;
                segment.highest_end = footer.first + u64::from(footer.entries);
            }
            for &leader in &footer.leaders {
                self.note_leader(leader);
            }
        }
        self.catalog.apply(Change::Written { bytes, last_ms: time_ms });
        if let Some(segment) = self.catalog.segments.back_mut() {
            segment.sealed = true;
            let table_at = at + (HEADER_BYTES + footer.table_at()) as u64;
            segment.offsets = Offsets::Table { file, at: table_at, entries: footer.entries };
        }
        self.last_ms = self.last_ms.max(time_ms);
    }

    /// What was replayed must be what the next header says.
    fn check_handover(&self, next: &Header) -> Result<(), OpenError> {
        let (mine, stated) = (&self.known, &next.known);
        // Hints are not exact: one beyond the log is lowered when the log is opened.
        if (mine.vote, mine.purged, mine.last) == (stated.vote, stated.purged, stated.last) {
            Ok(())
        } else {
            Err(corrupt(next.number, 0, format!("its header says {stated:?}, the segments before it say {mine:?}")))
        }
    }

    /// Payload of a footer for the newest segment, which was read through.
    fn footer_of_last(&self, closing_crc: u32) -> Option<Vec<u8>> {
        let segment = self.catalog.segments.back()?;
        let Offsets::Memory(offsets) = &segment.offsets else { return None };
        let first = segment.first;
        let mut leaders = Vec::new();
        if !offsets.is_empty() {
            let known = self.leaders.partition_point(|leader| leader.index <= first);
            // A log reset forgets who led before it; those entries are below the purge point.
            leaders.extend(self.leaders[..known].last().map(|leader| LogId { index: first, ..*leader }));
            leaders.extend(&self.leaders[known..]);
        }
        Some(Footer { first, entries: offsets.len() as u32, leaders, closing_crc }.encode(offsets))
    }

    /// Every entry after the purge point must be there.
    fn check_complete(&self) -> Result<(), OpenError> {
        let Some(last) = self.known.last else { return Ok(()) };
        let mut next = match self.known.purged {
            Some(purged) => purged.index + 1,
            None => self.catalog.first().unwrap_or(last.index + 1),
        };
        for segment in self.catalog.segments.iter().filter(|segment| segment.entries() > 0) {
            if segment.first <= next {
                next = next.max(segment.end());
            } else if segment.end() > next {
                return Err(corrupt(
                    segment.number,
                    0,
                    format!("entries from {next} to {} are missing", segment.first),
                ));
            }
        }
        if next > last.index {
            Ok(())
        } else {
            let number = self.catalog.segments.back().map_or(0, |segment| segment.number);
            Err(corrupt(number, 0, format!("entries from {next} to {last} are missing")))
        }
    }
}

/// A segment whose end its successor states.
struct Sealed<'s> {
    file: &'s dyn DiskFile,
    number: u64,
    stated: Previous,
    next: &'s Header,
    next_file: &'s dyn DiskFile,
}

impl Sealed<'_> {
    fn load(&self, owner: &LogOwner, log: &mut Replay) -> Result<(), OpenError> {
        let (number, stated) = (self.number, self.stated);
        let size = self.file.size()?;
        if size < stated.valid_bytes {
            return Err(corrupt(number, size, format!("the file ends before {}", stated.valid_bytes)));
        }
        if let Some(at) = stated.footer_at {
            let Some(found) = read_footer(self.file, seed(owner.disk_id, number), at, 0)? else {
                return Err(corrupt(number, at, "the footer fails its checksum"));
            };
            if found.footer.closing_crc != stated.closing_crc || at + found.bytes != stated.valid_bytes {
                return Err(corrupt(number, at, "the footer does not match the next segment's header"));
            }
            self.trust(number, at, &found, log);
            return Ok(());
        }
        let next = self.next.number;
        match read_footer(self.next_file, seed(owner.disk_id, next), HEADER_BLOCK_BYTES, FLAG)? {
            Some(found) if found.footer.closing_crc == stated.closing_crc => {
                self.trust(next, HEADER_BLOCK_BYTES, &found, log);
                Ok(())
            }
            _ => self.read_through(owner, log),
        }
    }

    /// Takes the footer's and the next header's word for what the frames amount to.
    fn trust(&self, file: u64, at: u64, found: &FoundFooter, log: &mut Replay) {
        log.apply_footer(&found.footer, file, at, self.stated.valid_bytes, found.time_ms);
        log.known = self.next.known;
        log.truncate(self.next.known.last.map_or(0, |last| last.index + 1));
    }

    fn read_through(&self, owner: &LogOwner, log: &mut Replay) -> Result<(), OpenError> {
        let (number, stated) = (self.number, self.stated);
        let end = scan(self.file, number, seed(owner.disk_id, number), stated.valid_bytes, log)?;
        if end.at != stated.valid_bytes || end.closing_crc != stated.closing_crc {
            return Err(corrupt(number, end.at, format!("frames end here, {} are stated", stated.valid_bytes)));
        }
        log.catalog.apply(Change::Written { bytes: end.at, last_ms: log.last_ms });
        if let Some(segment) = log.catalog.segments.back_mut() {
            segment.sealed = true;
        }
        log.check_handover(self.next)
    }
}

struct FoundFooter {
    footer: Footer,
    /// Bytes of its frame.
    bytes: u64,
    time_ms: u64,
}

/// Reads a footer frame without its table; `None` when there is no valid one with these flags.
fn read_footer(file: &dyn DiskFile, seed: u32, at: u64, flags: u8) -> Result<Option<FoundFooter>, OpenError> {
    let mut header = [0; HEADER_BYTES];
    if file.read_at(at, &mut header)? < HEADER_BYTES {
        return Ok(None);
    }
    let frame = match Frame::decode(&header, seed) {
        Ok((frame, _)) if frame.kind == Kind::SegmentFooter && frame.flags == flags => frame,
        _ => return Ok(None),
    };
    let payload_bytes = frame.payload_bytes as usize;
    if payload_bytes < Footer::FIXED_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; Footer::FIXED_BYTES];
    read_exact_at(file, at + HEADER_BYTES as u64, &mut payload)?;
    let listed = Footer::leaders_listed(&payload).unwrap_or(0);
    if listed > payload_bytes / 24 {
        return Ok(None);
    }
    payload.resize(Footer::payload_bytes(0, listed), 0);
    read_exact_at(file, at + HEADER_BYTES as u64, &mut payload)?;
    let footer = Footer::decode(&payload)
        .filter(|footer| Footer::payload_bytes(footer.entries, footer.leaders.len()) == payload_bytes);
    Ok(footer.map(|footer| FoundFooter { footer, bytes: frame.bytes(), time_ms: frame.time_ms }))
}

/// Loads the newest segment; gives where it ends and the bytes of a torn tail.
fn load_newest(
    file: &dyn DiskFile,
    header: &Header,
    owner: &LogOwner,
    log: &mut Replay,
) -> Result<(Previous, u64), OpenError> {
    let number = header.number;
    let size = file.size()?;
    if size < header.allocated {
        // The length was synced before the header was written: no power loss shortens the file.
        return Err(corrupt(number, size, format!("the file was cut; {} bytes were reserved", header.allocated)));
    }
    let seed = seed(owner.disk_id, number);
    let end = scan(file, number, seed, size, log)?;
    let later = later_frames(file, seed, end.at)?;
    if let Some(proof) = later.proof {
        return Err(corrupt(number, end.at, format!("no valid frame; the one at {proof} proves that it was durable")));
    }
    if end.stop == Stop::Damaged {
        return Err(corrupt(number, end.at, "a frame fails its checksum and no sector of it is missing"));
    }
    if let Some((footer, at, time_ms)) = end.footer {
        // Closed in good order. Later bytes would be no part of the log, and there is no proof of any.
        log.apply_footer(&footer, number, at, end.at, time_ms);
        let previous = Previous { number, valid_bytes: end.at, footer_at: Some(at), closing_crc: footer.closing_crc };
        return Ok((previous, 0));
    }
    log.catalog.apply(Change::Written { bytes: end.at, last_ms: log.last_ms });
    if let Some(segment) = log.catalog.segments.back_mut() {
        segment.sealed = true;
    }
    let previous = Previous { number, valid_bytes: end.at, footer_at: None, closing_crc: end.closing_crc };
    Ok((previous, later.end.saturating_sub(end.at)))
}

/// Why a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// At the given end, or after a footer.
    End,
    /// Where nothing was written, or not everything of a frame.
    Torn,
    /// At a frame that is there as a whole and wrong.
    Damaged,
}

struct ScanEnd {
    /// After the last valid frame.
    at: u64,
    closing_crc: u32,
    stop: Stop,
    /// The footer, its offset and its store time.
    footer: Option<(Footer, u64, u64)>,
}

/// Reads frames from the start of a segment up to `limit` and carries them out.
fn scan(file: &dyn DiskFile, number: u64, seed: u32, limit: u64, log: &mut Replay) -> Result<ScanEnd, OpenError> {
    let mut window = Window { file, limit, start: 0, bytes: Vec::new() };
    let mut end = ScanEnd { at: HEADER_BLOCK_BYTES, closing_crc: 0, stop: Stop::End, footer: None };
    while end.at < limit && end.footer.is_none() {
        let at = end.at;
        let Some(header) = window.get(at, HEADER_BYTES)?.and_then(|bytes| bytes.first_chunk::<HEADER_BYTES>()) else {
            end.stop = Stop::Torn;
            break;
        };
        let (frame, crc) = match Frame::decode(header, seed) {
            Ok(decoded) => decoded,
            Err(NoFrame::Blank) => {
                end.stop = Stop::Torn;
                break;
            }
            Err(NoFrame::Bad) => {
                let torn = !is_one_bit_off_header(header, seed) && is_torn_header(header, at);
                end.stop = if torn { Stop::Torn } else { Stop::Damaged };
                break;
            }
        };
        let Some(body) = window.get(at, frame.bytes() as usize)? else {
            end.stop = Stop::Torn;
            break;
        };
        let payload = &body[HEADER_BYTES..HEADER_BYTES + frame.payload_bytes as usize];
        let actual = crc32c::crc32c(payload);
        if actual != frame.payload_crc {
            let torn = !is_one_bit_off(frame.payload_crc ^ actual, payload.len()) && is_torn_body(body, payload, at);
            end.stop = if torn { Stop::Torn } else { Stop::Damaged };
            break;
        }
        if frame.kind == Kind::SegmentFooter && frame.flags & FLAG != 0 && at == HEADER_BLOCK_BYTES {
            // The footer of the segment before.
        } else if frame.kind == Kind::SegmentFooter {
            match Footer::decode(payload) {
                Some(footer) if footer.closing_crc == end.closing_crc => {
                    end.footer = Some((footer, at, frame.time_ms));
                }
                _ => return Err(corrupt(number, at, "the footer does not match the segment")),
            }
        } else {
            log.apply(&frame, at).map_err(|what| corrupt(number, at, what))?;
            end.closing_crc = crc32c::crc32c_append(end.closing_crc, &crc.to_le_bytes());
        }
        end.at += frame.bytes();
    }
    Ok(end)
}

/// A file read forward through a buffer.
struct Window<'f> {
    file: &'f dyn DiskFile,
    /// Bytes at and after this offset do not exist.
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `length` bytes at `at`; `None` when the file ends before.
    fn get(&mut self, at: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if at + length as u64 > self.limit {
            return Ok(None);
        }
        if at < self.start || at + length as u64 > self.start + self.bytes.len() as u64 {
            let wanted = (length.max(WINDOW_BYTES) as u64).min(self.limit - at);
            self.bytes.resize(wanted as usize, 0);
            let read = self.file.read_at(at, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + length))
    }
}

/// The part of a frame in some sector was not written: its last bytes there are still zeros.
fn has_missing_sector(bytes: &[u8], at: u64) -> bool {
    let mut from = 0;
    while from < bytes.len() {
        let left_in_sector = SECTOR_BYTES - (at + from as u64) % SECTOR_BYTES;
        let until = bytes.len().min(from + left_in_sector as usize);
        let end = &bytes[until.saturating_sub(8).max(from)..until];
        if end.iter().all(|&byte| byte == 0) {
            return true;
        }
        from = until;
    }
    false
}

/// A bad header was written in part. Of a store time between 2004 and 10889 these bytes are never all zeros.
fn is_torn_header(header: &[u8; HEADER_BYTES], at: u64) -> bool {
    header[53..].iter().all(|&byte| byte == 0) || has_missing_sector(header, at)
}

/// A frame with a good header has a payload that was written in part.
fn is_torn_body(frame: &[u8], payload: &[u8], at: u64) -> bool {
    payload.last() == Some(&0) || has_missing_sector(frame, at)
}

/// Flipping one bit makes the header valid: it was written as a whole, and damaged later.
fn is_one_bit_off_header(header: &[u8; HEADER_BYTES], seed: u32) -> bool {
    let mut tried = *header;
    for at in 0..HEADER_BYTES * 8 {
        tried[at / 8] ^= 1 << (at % 8);
        if Frame::decode(&tried, seed).is_ok() {
            return true;
        }
        tried[at / 8] ^= 1 << (at % 8);
    }
    false
}

/// Two checksums of `length` bytes differ by what one flipped bit makes.
///
/// CRC32C is linear: the difference that a bit makes depends only on how many bits follow it. Bits are taken from
/// the last one backwards; each step multiplies by x modulo the polynomial (in its reflected form).
fn is_one_bit_off(difference: u32, length: usize) -> bool {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut made = POLYNOMIAL;
    for _ in 0..length.min(ONE_BIT_BYTES_MAX) * 8 {
        if made == difference {
            return true;
        }
        made = (made >> 1) ^ (if made & 1 == 1 { POLYNOMIAL } else { 0 });
    }
    // The stored checksum itself may have been hit, but it is covered by the header's.
    false
}

/// What lies beyond some place of a segment.
#[derive(Default)]
struct Later {
    /// A frame that was built when that place was durable already.
    proof: Option<u64>,
    /// Bytes of frames found.
    bytes: u64,
    /// After the last byte that is not zero.
    end: u64,
}

/// Looks for frames after `at`, at every place where one may start.
fn later_frames(file: &dyn DiskFile, seed: u32, at: u64) -> Result<Later, OpenError> {
    let size = file.size()?;
    let mut window = Window { file, limit: size, start: 0, bytes: Vec::new() };
    let mut later = Later { end: at, ..Later::default() };
    let mut position = at.next_multiple_of(8).max(HEADER_BLOCK_BYTES);
    while position + HEADER_BYTES as u64 <= size && position < later.end.max(at) + ZEROS_MAX {
        let length = (WINDOW_BYTES as u64).min(size - position) as usize;
        let Some(bytes) = window.get(position, length)? else { break };
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            later.end = later.end.max(position + last as u64 + 1);
            for start in (0..=last.min(length.saturating_sub(HEADER_BYTES))).step_by(8) {
                // Kind and reserved bytes rule out most places before a checksum is computed.
                if bytes[start + 8] == 0 || bytes[start + 10] != 0 || bytes[start + 11] != 0 {
                    continue;
                }
                let Some(header) = bytes[start..].first_chunk::<HEADER_BYTES>() else { continue };
                if let Ok((frame, _)) = Frame::decode(header, seed) {
                    later.bytes += frame.bytes();
                    if frame.durable > at {
                        later.proof = Some(position + start as u64);
                        return Ok(later);
                    }
                }
            }
        }
        // Windows overlap by a header, so that none is missed at their borders.
        let step = length.saturating_sub(HEADER_BYTES - 8).max(8) as u64;
        if position + length as u64 >= size {
            break;
        }
        position += step / 8 * 8;
    }
    Ok(later)
}

/// What the new segment goes on from.
struct Past {
    previous: Option<Previous>,
    /// Payload of the footer that the previous segment does not have.
    footer: Option<Vec<u8>>,
    known: Known,
    last_ms: u64,
}

/// The new segment and its reserve.
struct Begun {
    active: Active,
    reserves: VecDeque<Reserve>,
    next_number: u64,
    full: bool,
    created_ms: u64,
}

/// Allocates the new segment and its reserve, from blank files where there are any, and writes its header.
fn begin(
    disk: &dyn Disk,
    dir: &Path,
    owner: &LogOwner,
    options: &LogOptions,
    files: &Survey,
    past: Past,
) -> Result<Begun, OpenError> {
    let mut blank: VecDeque<u64> = files.blank.iter().copied().collect();
    for &number in &blank {
        let file = disk.open(&segment_path(dir, number), OpenMode::Write)?;
        file.set_len(0)?;
        file.sync_data()?;
    }
    let mut ready = VecDeque::new();
    let mut next_number = files.highest.max(options.number_after) + 1;
    let mut full = false;
    while ready.len() < options.reserve_segments + 1 {
        let number = next_number;
        // A blank file is given a new number rather than removed: on a full disk its blocks are all there is.
        let allocated = match blank.pop_front() {
            Some(old) => reuse(disk, dir, old, number, options.segment_bytes),
            // The first one is needed to start at all, whatever others may need.
            None => {
                let keep_free = if ready.is_empty() { 0 } else { options.keep_free_bytes };
                reserve::create(disk, dir, number, options.segment_bytes, keep_free)
            }
        };
        next_number += 1;
        match allocated {
            Ok(reserve) => ready.push_back(reserve),
            Err(NoReserve::Broken(error)) => return Err(error.into()),
            Err(NoReserve::Refused(error)) if ready.is_empty() && blank.is_empty() => return Err(error.into()),
            Err(NoReserve::Refused(_)) if ready.is_empty() => {}
            Err(NoReserve::Refused(_)) => {
                full = true;
                break;
            }
        }
    }
    for number in blank {
        disk.remove(&segment_path(dir, number))?;
    }
    disk.sync_dir(dir)?;

    let Some(reserve) = ready.pop_front() else {
        return Err(io::Error::other("the loop above leaves at least one segment").into());
    };
    let created_ms = (options.clock)().max(past.last_ms).max(1);
    let header = Header {
        group: owner.group.clone(),
        disk_id: owner.disk_id,
        number: reserve.number,
        first: past.known.last.map_or(0, |last| last.index + 1),
        previous: past.previous,
        known: past.known,
        created_ms,
        allocated: reserve.bytes,
    };
    let mut bytes = header.encode();
    // Left out where it would take too much of a segment, after the options changed. It only saves time.
    if let Some(footer) = past.footer.filter(|footer| footer.len() as u64 <= reserve.bytes / 4) {
        let frame = Frame {
            kind: Kind::SegmentFooter,
            flags: FLAG,
            payload_bytes: footer.len() as u32,
            payload_crc: crc32c::crc32c(&footer),
            id: LogId::default(),
            durable: 0,
            time_ms: created_ms,
        };
        bytes.extend_from_slice(&frame.encode(seed(owner.disk_id, reserve.number)).0);
        bytes.extend_from_slice(&footer);
        bytes.resize(HEADER_BLOCK_BYTES as usize + frame.bytes() as usize, 0);
    }
    reserve.file.write_at(0, &mut [IoSlice::new(&bytes)])?;
    reserve.file.sync_data()?;
    let active = Active::new(reserve, owner.disk_id, bytes.len() as u64);
    Ok(Begun { active, reserves: ready, next_number, full, created_ms })
}

/// Gives an emptied file a new number and allocates it again.
fn reuse(disk: &dyn Disk, dir: &Path, old: u64, number: u64, bytes: u64) -> Result<Reserve, NoReserve> {
    let path = segment_path(dir, number);
    disk.rename(&segment_path(dir, old), &path).map_err(NoReserve::Refused)?;
    let file = disk.open(&path, OpenMode::Write).map_err(NoReserve::Refused)?;
    if let Err(error) = file.preallocate(bytes) {
        // Emptied, under either name: as good as gone.
        let _ = disk.remove(&path);
        return Err(NoReserve::Refused(error));
    }
    file.sync_data().map_err(NoReserve::Broken)?;
    Ok(Reserve { number, file, bytes })
}
