//! Segments: the files of the log. A header block, frames, and once it is sealed a footer.
//!
//! ```text
//!    0  magic "RMQSEG\0\1"                  80  vote: term, node
//!    8  format version u32 | zero           96  purged upto: term, node, index
//!   16  disk id u128                       120  last entry: term, node, index
//!   32  segment number u64                 144  committed upto: term, node, index
//!   40  index of its first entry u64       168  created, milliseconds since 1970
//!   48  previous segment: number u64       176  allocated: the file is at least that long
//!   56    its valid length u64             184  group name: length u16, text, then zeros
//!   64    offset of its footer, or 0       508  checksum u32 of bytes 0..508, never 0
//!   72    its closing checksum u32         512  zeros up to 4096
//!   76  flags u32: 1 vote, 2 vote granted by a majority, 4 purged, 8 last, 16 committed are present
//! ```
//! A file is named by its number. Its header carries on what the log knew when it was begun, so that older files
//! can go, and states where the previous file ends: what follows there is no part of the log. The header fits one
//! sector and is written with the first frames; a preallocated file without one waits to be used.
//!
//! Footer payload: first index u64 | entries u32 | leaders u32 | closing checksum u32 | checksum u32 of all this
//! and the leaders | leaders × (term, node, index) | entries × offset u32. The closing checksum runs over the
//! header checksums of all frames, footers excluded. A segment that was not sealed has its footer, with a flag, as
//! the first frame of the next segment.

use super::frame::{read_u32, read_u64, stored_crc};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::types::{LogId, Vote};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes before the first frame.
pub const HEADER_BLOCK_BYTES: u64 = 4096;
/// Bytes of the header block that carry something; one sector, which disks write as a whole.
pub const HEADER_USED_BYTES: usize = 512;
/// Longest name of a group.
pub const GROUP_BYTES_MAX: usize = 255;

const MAGIC: [u8; 8] = *b"RMQSEG\0\x01";
const VERSION: u32 = 1;
const FOOTER_FIXED_BYTES: usize = 24;
const LEADER_BYTES: usize = 24;
/// Segment files that are kept open for reading.
const OPEN_FILES_MAX: usize = 64;

/// Where a segment's predecessor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    pub number: u64,
    /// Bytes that belong to the log.
    pub valid_bytes: u64,
    /// Offset of its footer frame, when it has one.
    pub footer_at: Option<u64>,
    /// Checksum over the header checksums of its frames, footer excluded.
    pub closing_crc: u32,
}

/// What the log knew at some point of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
}

impl Known {
    /// Notes a commit point, if it is a higher one.
    pub fn raise_committed(&mut self, id: LogId) {
        if self.committed.is_none_or(|committed| committed.index < id.index) {
            self.committed = Some(id);
        }
    }

    /// A commit point beyond the last entry says that this one is committed, if anything.
    pub fn lower_committed(&mut self) {
        if self.committed.is_some_and(|committed| self.last.is_none_or(|last| last.index < committed.index)) {
            self.committed = self.last;
        }
    }
}

/// The header block of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub group: String,
    pub disk_id: u128,
    pub number: u64,
    pub first: u64,
    pub previous: Option<Previous>,
    pub known: Known,
    pub created_ms: u64,
    /// Bytes that were reserved, durably, before the header was written. A shorter file was cut by somebody.
    pub allocated: u64,
}

/// Why a block is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHeader {
    /// Nothing was written, or not as a whole.
    Blank,
    /// Its checksum or content is wrong.
    Bad,
    /// A version that this program does not know.
    Version(u32),
}

fn put_id(bytes: &mut [u8], at: usize, id: Option<LogId>) {
    let id = id.unwrap_or_default();
    bytes[at..at + 8].copy_from_slice(&id.term.to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&id.node.to_le_bytes());
    bytes[at + 16..at + 24].copy_from_slice(&id.index.to_le_bytes());
}

fn get_id(bytes: &[u8], at: usize) -> LogId {
    LogId { term: read_u64(bytes, at), node: read_u64(bytes, at + 8), index: read_u64(bytes, at + 16) }
}

impl Header {
    /// The header block.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BLOCK_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.disk_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first.to_le_bytes());
        if let Some(previous) = self.previous {
            bytes[48..56].copy_from_slice(&previous.number.to_le_bytes());
            bytes[56..64].copy_from_slice(&previous.valid_bytes.to_le_bytes());
            bytes[64..72].copy_from_slice(&previous.footer_at.unwrap_or(0).to_le_bytes());
            bytes[72..76].copy_from_slice(&previous.closing_crc.to_le_bytes());
        }
        let known = &self.known;
        let flags = u32::from(known.vote.is_some())
            | u32::from(known.vote.is_some_and(|vote| vote.committed)) << 1
            | u32::from(known.purged.is_some()) << 2
            | u32::from(known.last.is_some()) << 3
            | u32::from(known.committed.is_some()) << 4;
        bytes[76..80].copy_from_slice(&flags.to_le_bytes());
        let vote = known.vote.unwrap_or_default();
        bytes[80..88].copy_from_slice(&vote.term.to_le_bytes());
        bytes[88..96].copy_from_slice(&vote.node.to_le_bytes());
        put_id(&mut bytes, 96, known.purged);
        put_id(&mut bytes, 120, known.last);
        put_id(&mut bytes, 144, known.committed);
        bytes[168..176].copy_from_slice(&self.created_ms.to_le_bytes());
        let group = &self.group.as_bytes()[..self.group.len().min(GROUP_BYTES_MAX)];
        bytes[176..184].copy_from_slice(&self.allocated.to_le_bytes());
        bytes[184..186].copy_from_slice(&(group.len() as u16).to_le_bytes());
        bytes[186..186 + group.len()].copy_from_slice(group);
        let crc = stored_crc(crc32c::crc32c(&bytes[..508]));
        bytes[508..512].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the first [`HEADER_USED_BYTES`] of a segment.
    pub fn decode(bytes: &[u8; HEADER_USED_BYTES]) -> Result<Header, NoHeader> {
        let crc = read_u32(bytes, 508);
        if crc == 0 || bytes[..8] == [0; 8] {
            return Err(NoHeader::Blank);
        }
        if bytes[..8] != MAGIC || stored_crc(crc32c::crc32c(&bytes[..508])) != crc {
            return Err(NoHeader::Bad);
        }
        let version = read_u32(bytes, 8);
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let mut disk_id = [0; 16];
        disk_id.copy_from_slice(&bytes[16..32]);
        let flags = read_u32(bytes, 76);
        let has = |flag: u32| flags & flag != 0;
        let group_bytes = usize::from(u16::from_le_bytes([bytes[184], bytes[185]]));
        if group_bytes > GROUP_BYTES_MAX {
            return Err(NoHeader::Bad);
        }
        let group = std::str::from_utf8(&bytes[186..186 + group_bytes]).map_err(|_| NoHeader::Bad)?;
        let previous = (read_u64(bytes, 48) != 0).then(|| Previous {
            number: read_u64(bytes, 48),
            valid_bytes: read_u64(bytes, 56),
            footer_at: Some(read_u64(bytes, 64)).filter(|&at| at != 0),
            closing_crc: read_u32(bytes, 72),
        });
        Ok(Header {
            group: group.to_owned(),
            disk_id: u128::from_le_bytes(disk_id),
            number: read_u64(bytes, 32),
            first: read_u64(bytes, 40),
            previous,
            known: Known {
                vote: has(1).then(|| Vote { term: read_u64(bytes, 80), node: read_u64(bytes, 88), committed: has(2) }),
                purged: has(4).then(|| get_id(bytes, 96)),
                last: has(8).then(|| get_id(bytes, 120)),
                committed: has(16).then(|| get_id(bytes, 144)),
            },
            created_ms: read_u64(bytes, 168),
            allocated: read_u64(bytes, 176),
        })
    }
}

/// What a footer says about the entries of its segment that the segment itself did not truncate again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub first: u64,
    pub entries: u32,
    /// The first entry of each leader, in order.
    pub leaders: Vec<LogId>,
    pub closing_crc: u32,
}

impl Footer {
    /// Bytes of the payload of a footer.
    pub fn payload_bytes(entries: u32, leaders: usize) -> usize {
        FOOTER_FIXED_BYTES + leaders * LEADER_BYTES + entries as usize * 4
    }

    /// Bytes before the table of offsets.
    pub fn table_at(&self) -> usize {
        FOOTER_FIXED_BYTES + self.leaders.len() * LEADER_BYTES
    }

    /// The payload.
    pub fn encode(&self, offsets: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::payload_bytes(self.entries, self.leaders.len()));
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&(self.leaders.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.closing_crc.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for &leader in &self.leaders {
            let mut id = [0; LEADER_BYTES];
            put_id(&mut id, 0, Some(leader));
            bytes.extend_from_slice(&id);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        for offset in offsets {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes
    }

    /// Leaders that a payload starting with `fixed` lists; `None` when it is too short.
    pub fn leaders_listed(fixed: &[u8]) -> Option<usize> {
        (fixed.len() >= FOOTER_FIXED_BYTES).then(|| read_u32(fixed, 12) as usize)
    }

    /// Reads a payload, of which the table of offsets may be missing.
    pub fn decode(bytes: &[u8]) -> Option<Footer> {
        let listed = Self::leaders_listed(bytes)?;
        let end = listed.checked_mul(LEADER_BYTES)?.checked_add(FOOTER_FIXED_BYTES)?;
        let head = bytes.get(..end)?;
        let mut crc = crc32c::crc32c(&head[..20]);
        crc = crc32c::crc32c_append(crc, &[0; 4]);
        crc = crc32c::crc32c_append(crc, &head[24..]);
        (crc == read_u32(head, 20)).then(|| Footer {
            first: read_u64(head, 0),
            entries: read_u32(head, 8),
            leaders: (0..listed).map(|n| get_id(head, FOOTER_FIXED_BYTES + n * LEADER_BYTES)).collect(),
            closing_crc: read_u32(head, 16),
        })
    }

    /// Bytes before the leaders.
    pub const FIXED_BYTES: usize = FOOTER_FIXED_BYTES;
}

/// Where the entries of a segment are.
#[derive(Debug)]
pub enum Offsets {
    /// Not sealed: kept in memory.
    Memory(Vec<u32>),
    /// Sealed: a table in a footer, in this segment's file or the next one's, at this offset.
    Table { file: u64, at: u64, entries: u32 },
}

/// A segment, as readers see it. Only entries that the log still has are counted.
#[derive(Debug)]
pub struct Segment {
    pub number: u64,
    /// Index of the first entry; where it would be when there is none.
    pub first: u64,
    pub offsets: Offsets,
    /// Index after the highest entry that was ever in it. A truncation that is not durable yet may be undone by a
    /// power loss, so trimming goes by this.
    pub highest_end: u64,
    /// Bytes written, or valid once it is sealed.
    pub bytes: u64,
    /// Bytes the file occupies.
    pub allocated: u64,
    pub sealed: bool,
    pub created_ms: u64,
    /// Store time of its last frame.
    pub last_ms: u64,
}

impl Segment {
    /// Entries that the log still has.
    pub fn entries(&self) -> u64 {
        match &self.offsets {
            Offsets::Memory(offsets) => offsets.len() as u64,
            Offsets::Table { entries, .. } => u64::from(*entries),
        }
    }

    /// Index after the last entry.
    pub fn end(&self) -> u64 {
        self.first + self.entries()
    }

    /// Forgets entries at and after `index`.
    fn truncate(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first);
        match &mut self.offsets {
            Offsets::Memory(offsets) => offsets.truncate(usize::try_from(keep).unwrap_or(usize::MAX)),
            Offsets::Table { entries, .. } => *entries = (*entries).min(u32::try_from(keep).unwrap_or(u32::MAX)),
        }
        self.first = self.first.min(index);
    }
}

/// The segments of a log in order, without holes between the entries except where a snapshot replaced the log.
#[derive(Debug, Default)]
pub struct Catalog {
    pub segments: VecDeque<Segment>,
}

/// A change of the catalog; the writer collects them and carries them out once the bytes are written.
#[derive(Debug)]
pub enum Change {
    /// A segment was begun.
    Begin { number: u64, first: u64, allocated: u64, created_ms: u64 },
    /// The next entry is at this offset; with the index when it is the segment's first.
    Entry { index: u64, offset: u32 },
    /// Entries at and after this index are gone.
    Truncate { from: u64 },
    /// The last segment has these bytes now.
    Written { bytes: u64, last_ms: u64 },
    /// The last segment is sealed; its table of offsets is here.
    Seal { table_at: u64 },
}

impl Catalog {
    /// Carries out a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Begin { number, first, allocated, created_ms } => self.segments.push_back(Segment {
                number,
                first,
                offsets: Offsets::Memory(Vec::new()),
                highest_end: 0,
                bytes: HEADER_BLOCK_BYTES,
                allocated,
                sealed: false,
                created_ms,
                last_ms: created_ms,
            }),
            Change::Entry { index, offset } => {
                if let Some(segment) = self.segments.back_mut()
                    && let Offsets::Memory(offsets) = &mut segment.offsets
                {
                    if offsets.is_empty() {
                        segment.first = index;
                    }
                    debug_assert_eq!(segment.first + offsets.len() as u64, index, "entries follow one another");
                    offsets.push(offset);
                    segment.highest_end = segment.highest_end.max(index + 1);
                }
            }
            Change::Truncate { from } => {
                for segment in self.segments.iter_mut().rev() {
                    if segment.end() <= from && segment.first <= from {
                        // Segments before hold lower indexes still.
                        break;
                    }
                    segment.truncate(from);
                }
            }
            Change::Written { bytes, last_ms } => {
                if let Some(segment) = self.segments.back_mut() {
                    segment.bytes = bytes;
                    segment.allocated = segment.allocated.max(bytes);
                    segment.last_ms = last_ms;
                }
            }
            Change::Seal { table_at } => {
                if let Some(segment) = self.segments.back_mut() {
                    segment.sealed = true;
                    let entries = segment.entries() as u32;
                    segment.offsets = Offsets::Table { file: segment.number, at: table_at, entries };
                }
            }
        }
    }

    /// The segment that holds an entry.
    pub fn find(&self, index: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.first <= index);
        // Segments without entries share their first index with a neighbour.
        self.segments.range(..after).rev().find(|segment| segment.entries() > 0).filter(|segment| index < segment.end())
    }

    /// Index of the oldest entry that can be read.
    pub fn first(&self) -> Option<u64> {
        self.segments.iter().find(|segment| segment.entries() > 0).map(|segment| segment.first)
    }
}

/// Path of a segment.
pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

/// Number of the segment with this file name.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Segment files that readers have open, the most recently used last.
#[derive(Debug)]
pub struct OpenFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files: Mutex<Vec<(u64, Arc<dyn DiskFile>)>>,
}

impl OpenFiles {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        OpenFiles { disk, dir, files: Mutex::default() }
    }

    /// The file of a segment.
    pub fn get(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock();
        if let Some(at) = files.iter().position(|(known, _)| *known == number) {
            let found = files.remove(at);
            let file = Arc::clone(&found.1);
            files.push(found);
            return Ok(file);
        }
        let file = self.disk.open(&segment_path(&self.dir, number), OpenMode::Read)?;
        if files.len() >= OPEN_FILES_MAX {
            files.remove(0);
        }
        files.push((number, Arc::clone(&file)));
        Ok(file)
    }

    /// Closes the file of a segment that is about to be removed.
    pub fn forget(&self, number: u64) {
        self.files.lock().retain(|(known, _)| *known != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn header() -> Header {
        let id = |index| LogId { term: 4, node: 9, index };
        Header {
            group: "broker-a".to_owned(),
            disk_id: 0x00FF_EEDD_CCBB_AA99_8877_6655_4433_2211,
            number: 12,
            first: 501,
            previous: Some(Previous { number: 10, valid_bytes: 8192, footer_at: Some(8000), closing_crc: 0xABCD }),
            known: Known {
                vote: Some(Vote { term: 5, node: 9, committed: true }),
                purged: Some(id(100)),
                last: Some(id(500)),
                committed: None,
            },
            created_ms: 1_790_000_000_123,
            allocated: 16384,
        }
    }

    #[test]
    fn golden_header_block() {
        let bytes = header().encode();
        assert_eq!(bytes.len() as u64, HEADER_BLOCK_BYTES);
        assert_eq!(crc32c::crc32c(&bytes), 0xBA9A_0B09, "{:02x?}", &bytes[..200]);
        let used = bytes.first_chunk().expect("a block is longer");
        assert_eq!(Header::decode(used), Ok(header()));
    }

    #[test]
    fn a_flipped_bit_makes_no_other_header() {
        let block = header().encode();
        for bit in 0..HEADER_USED_BYTES * 8 {
            let mut bytes = *block.first_chunk::<HEADER_USED_BYTES>().expect("a block is longer");
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), Err(NoHeader::Bad), "bit {bit}");
            let mut blank = [0; HEADER_USED_BYTES];
            blank[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&blank), Err(NoHeader::Blank), "bit {bit}");
        }
    }

    #[test]
    fn footers_come_back_without_their_table() {
        let leaders = vec![LogId { term: 1, node: 2, index: 7 }, LogId { term: 2, node: 1, index: 9 }];
        let footer = Footer { first: 7, entries: 3, leaders, closing_crc: 77 };
        let bytes = footer.encode(&[4096, 4200, 4300]);
        assert_eq!(bytes.len(), Footer::payload_bytes(3, 2));
        assert_eq!(Footer::decode(&bytes), Some(footer.clone()));
        assert_eq!(Footer::decode(&bytes[..footer.table_at()]), Some(footer));
        assert_eq!(Footer::decode(&bytes[..30]), None);
    }

    #[test]
    fn file_names() {
        let path = segment_path(Path::new("/l"), 42);
        assert_eq!(path, Path::new("/l/00000000000000000042.seg"));
        assert_eq!(segment_number("00000000000000000042.seg"), Some(42));
        for other in ["42.seg", "00000000000000000042.idx", "0000000000000000004x.seg", "LOCK"] {
            assert_eq!(segment_number(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), HEADER_USED_BYTES)) {
            let _ = Header::decode(bytes.first_chunk().expect("long enough"));
            let _ = Footer::decode(&bytes);
        }
    }
}
